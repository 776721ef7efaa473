"""What is fetched from the vault once for many: whatever stops who fetches it, nobody waits for ever."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from agentguard._drive import drive
from agentguard.credentials.openbao.kept import Kept
from agentguard.credentials.openbao.vault import Refused
from tests.credentials.test_revocation import Stopped, StopsAt


async def fetched() -> tuple[str, float]:
    return "a value", 60.0


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_a_fetch_that_no_thread_could_begin_ends_and_the_next_one_is_made(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    kept = Kept(fetched, lambda: now[0])

    def start(thread: threading.Thread) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        assert drive(kept.get()) == Refused("no thread is left to ask the vault", outage=True)
    now[0] += 1.0
    assert "a value" == drive(kept.get())


def test_whatever_line_stops_one_who_asks_the_next_one_is_answered() -> None:
    line, before = 0, sys.gettrace()
    while True:
        line += 1
        kept, stop = Kept(fetched, time.monotonic), StopsAt(line)
        try:
            sys.settrace(stop)
            drive(kept.get())
        except Stopped:
            pass
        finally:
            sys.settrace(before)
        if (flight := kept.renew()) is not None:
            flight.result(1.0)  # or everybody would wait for it
        if stop.left > 0:  # it came to its end
            return
