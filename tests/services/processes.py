"""Processes that outlive the command that started them, and that exactly are stopped later. Linux: /proc is read."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from tests.services.endpoints import STATE, Process, write_private

LOGS = STATE / "logs"
PIDS = STATE / "pids"
START_DEADLINE = 60.0
STOP_DEADLINE = 10.0


given_up = threading.Event()  # another server failed, or Ctrl-C: no further attempt


class DidNotStart(Exception):
    """A server that ended, or that did not answer in time; the message ends with its last lines."""


def start(
    name: str, command: Sequence[object], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Process:
    """Start a server in a session of its own, so that neither Ctrl-C nor the end of make reaches it.

    Raises:
        DidNotStart: Starting was given up meanwhile.
    """
    if given_up.is_set():
        raise DidNotStart(f"{name} was not started")
    with (LOGS / f"{name}.log").open("wb") as log:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
    # It goes on when this process ends, so nobody waits for it here; without this line Popen warns of that.
    child.returncode = 0
    process = Process(child.pid, _started(child.pid) or 0)
    write_private(PIDS / f"{name}.json", msgspec.json.encode(process))
    return process


def wait_until(name: str, process: Process, answers: Callable[[], bool], deadline: float = START_DEADLINE) -> None:
    """Wait until `answers` says so while the process is alive.

    Raises:
        DidNotStart: It ended first, or the time is up.
    """
    end = time.monotonic() + deadline
    while not (answers() and alive(process)):
        if not alive(process):
            raise DidNotStart(f"{name} ended while it was starting\n{last_lines(name)}")
        if time.monotonic() > end:
            raise DidNotStart(f"{name} did not answer within {deadline:.0f} s\n{last_lines(name)}")
        time.sleep(0.05)


def last_lines(name: str, count: int = 25) -> str:
    """The end of a server's log, to be printed where it failed."""
    log = LOGS / f"{name}.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join(f"  {name}: {line}" for line in lines[-count:])


def alive(process: Process) -> bool:
    """Whether this very process runs: same pid, same start time, not a zombie."""
    return process.started != 0 and _started(process.pid) == process.started


def recorded() -> dict[str, Process]:
    """The processes that were started from this working tree and not yet stopped."""
    found = {}
    for path in sorted(PIDS.glob("*.json")):
        try:
            found[path.stem] = msgspec.json.decode(path.read_bytes(), type=Process)
        except (msgspec.DecodeError, FileNotFoundError):
            path.unlink(missing_ok=True)
    return found


def stop(processes: Mapping[str, Process]) -> None:
    """End the processes: asked to first, killed after the deadline; what is gone already is left alone."""
    for name, process in processes.items():
        # PostgreSQL waits for its clients on SIGTERM; SIGINT is its word for "now, and in good order".
        _send(process, signal.SIGINT if name == "postgres" else signal.SIGTERM)
    end = time.monotonic() + STOP_DEADLINE
    while any(map(alive, processes.values())) and time.monotonic() < end:
        time.sleep(0.02)
    for name, process in processes.items():
        _send(process, signal.SIGKILL)
        (PIDS / f"{name}.json").unlink(missing_ok=True)


def _send(process: Process, number: signal.Signals) -> None:
    if alive(process):
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            pass  # it ended between the two lines


def _started(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; the name in field 2 may hold spaces and parentheses, so count from its end."""
    try:
        state, *fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else int(fields[18])
