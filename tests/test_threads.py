"""A thread that cannot begin, or who begins it is stopped: nobody waits for it for ever, and the next one begins."""

from __future__ import annotations

import json
import linecache
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import pytest

from agentguard import Intent, step
from agentguard._drive import drive
from agentguard._http import Response
from agentguard._jwks import Jwks
from agentguard.approval.asked import answered_in_thread
from agentguard.audit.checkpoints import Checkpoints
from agentguard.audit.log import FileLog
from agentguard.errors import AuditUnavailable
from agentguard.keys import KeySet, SigningKey
from agentguard.policy.bounded_calls import BoundedCalls
from agentguard.testing import FakeClock, fake_guard
from tests.audit.samples import record

KEY = SigningKey.generate()


class Stopped(BaseException):
    """Stops whatever runs, as Ctrl-C does."""


class StopsAt:
    """Stops what runs in one file, or in `threading`, at its nth line; not within the words of `with` and `try`."""

    def __init__(self, line: int, file: str) -> None:
        self.left, self.file = line, file

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        path = frame.f_code.co_filename
        starts = path == threading.__file__ and frame.f_code.co_name in ("start", "__init__")
        if event == "line" and (starts or path.endswith(self.file)):
            words = linecache.getline(path, frame.f_lineno).strip()
            self.left -= not words.startswith(("with ", "try:", "finally:"))
            if not self.left:
                sys.settrace(None)
                raise Stopped
        return self


def at_every_line(file: str, make: Callable[[], Any], begin: Callable[[Any], object]) -> Any:
    """Yield what was made, after each stop."""
    line, before = 0, sys.gettrace()
    while True:
        line += 1
        made, stop = make(), StopsAt(line, file)
        try:
            sys.settrace(stop)
            begin(made)
        except Stopped:
            pass
        finally:
            sys.settrace(before)
        yield made
        if stop.left > 0:  # it came to its end
            return


class Published:
    """Stands in for `Http`, before a server with one key."""

    networks: tuple[str, ...] = ()

    async def send(self, make: Any, *, deadline: float | None = None, retry: bool = True) -> Response:
        said = json.dumps(KeySet.of(KEY).jwks()).encode()
        return Response(200, {"content-type": "application/json"}, said, "https://as.test")


def test_whatever_line_stops_one_who_has_keys_fetched_nobody_waits_for_ever() -> None:
    http: Any = Published()
    clocks = dict[int, FakeClock]()

    def make() -> Jwks:
        clock = FakeClock()
        jwks = Jwks(http, "https://as.test/jwks", clock=clock)
        clocks[id(jwks)] = clock
        return jwks

    for jwks in at_every_line("agentguard/_jwks.py", make, lambda made: drive(made.keys())):
        flight = jwks._flight
        if flight is not None:
            flight.result(5.0)  # or everybody would wait for it
        clocks.pop(id(jwks)).advance(60.0)
        assert drive(jwks.keys()).find(KEY.kid) is not None


@pytest.mark.anyio
@pytest.mark.parametrize("error", [RuntimeError, MemoryError, Stopped])
async def test_records_for_which_no_thread_began_are_not_durable_and_the_next_ones_are(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _raising(error))
        position = log.append(record(1))
        if error is Stopped:
            with pytest.raises(Stopped):
                log._loops._wake()
        else:
            with anyio.fail_after(5), pytest.raises(AuditUnavailable, match="no thread"):
                await log.flush(position)
    with anyio.fail_after(5):
        await log.flush(log.append(record(2)))
    log.close()


def _raising(error: type[BaseException]) -> Callable[[threading.Thread], None]:
    def start(thread: threading.Thread) -> None:
        raise error

    return start


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, Stopped])
def test_checkpoints_for_which_no_thread_began_are_signed_by_the_next(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(tmp_path / "log", checkpoints=Checkpoints(key=SigningKey.generate("EdDSA"), every=1, seconds=3600))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _raising(error))
        with suppress(Stopped):
            log.append(record(1))
    log.append(record(2))
    until = time.monotonic() + 10
    while not (written := list(tmp_path.glob("log.checkpoints/*"))) and time.monotonic() < until:
        time.sleep(0.01)
    log.close()
    assert written


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, Stopped])
def test_guard_whose_keeper_could_not_begin_has_one_from_its_next_task(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    intent = Intent("x", step("call"))
    with fake_guard() as guard:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", _raising(error))
            with pytest.raises(error), guard.task("bot", on_behalf_of="ann", intent=intent):
                pass
        with guard.task("bot", on_behalf_of="ann", intent=intent):
            thread = guard.keeper._thread
            assert thread is not None
            assert thread.is_alive()


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, Stopped])
def test_question_for_which_no_thread_began_gives_its_place_back(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back = list[str]()
    monkeypatch.setattr(threading.Thread, "start", _raising(error))
    with pytest.raises(error):
        drive(answered_in_thread(lambda: None, 1.0, lambda: given_back.append("one")))
    assert given_back == ["one"]


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_bounded_calls_for_which_no_thread_begins_fail_and_take_no_place(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = BoundedCalls("risk", lambda given: given, 5.0)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _raising(error))
        for _ in range(100):
            with pytest.raises(error):
                drive(calls.result(1))
    assert drive(calls.result(1)) == 1
