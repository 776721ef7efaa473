"""Processes that call at the same time, and when each of them has begun."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

from agentguard._drive import drive
from agentguard.state.suspensions_postgres import PostgresSuspensions
from agentguard.state.suspensions_sqlite import SqliteSuspensions


def all_have_started(
    suspensions: SqliteSuspensions | PostgresSuspensions, processes: Sequence[subprocess.Popen[str]]
) -> None:
    """Return once each of them has started something: a busy machine lets one of them wait for long."""
    until, wanted = time.monotonic() + 30, {str(process.pid) for process in processes}
    while not wanted <= {call.partition("-")[0] for call in drive(suspensions.running())}:
        assert time.monotonic() < until
        time.sleep(0.05)
