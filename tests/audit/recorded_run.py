"""Runs a module of the repository and keeps every record that it chains: `python -m ... FILE MODULE`."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterable

from agentguard.audit import chain
from agentguard.audit.form import Body
from agentguard.model.record import Position

FILE, MODULE = sys.argv[1:3]
_link_all = chain.link_all


def link_all(head: Position, now_ns: int, bodies: Iterable[Body]) -> tuple[list[bytes], list[Position]]:
    lines, positions = _link_all(head, now_ns, bodies)
    fd = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"".join(lines))
    os.close(fd)
    return lines, positions


if __name__ == "__main__":
    chain.link_all = link_all  # before the logs import it
    del sys.argv[1:]
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
