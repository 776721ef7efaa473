"""The half of `bench.peers` that talks to the processes: a line of JSON each way, and a deadline for every answer."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.peers.environments import ROOT, Unavailable

STARTS: Final = 120.0  # seconds: heavy imports on a busy machine, and the first calls
ANSWERS: Final = 60.0
ENDS: Final = 5.0
MOST: Final = 1 << 20  # bytes of one answer
_SHOWN: Final = 300


class Worker:
    """A process that answers commands; to be closed, which ends it.

    Args:
        name: the peer's name, for messages.
        command: what is started.
        folder: an empty folder of its own: its working directory, its home, and where its errors are kept.
        environment: what it finds in its environment besides the least.
        cpu: the one processor that it may use, or None.
    """

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str], cpu: int | None = None
    ) -> None:
        self.name, self._folder, self._left = name, folder, b""
        with (folder / "stderr").open("wb") as errors:
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=folder,
                    env={**_least(folder), **environment},
                )  # fmt: skip
            except OSError as error:
                raise Unavailable(f"{name} does not start: {error.strerror}") from None
        if cpu is not None:
            self._pin(cpu)

    def hear(self, seconds: float) -> Mapping[str, Any]:
        """Return its next answer.

        Raises:
            Unavailable: it ended, failed, or did not answer in time.
        """
        line = self._line(time.monotonic() + seconds)
        try:
            answer = json.loads(line)
        except ValueError:
            raise Unavailable(f"{self.name} answered what is no JSON") from None
        if not isinstance(answer, dict) or "failed" in answer:
            raise Unavailable(f"{self.name} failed: {answer}"[:_SHOWN])
        return answer

    def ask(self, seconds: float = ANSWERS, **command: Any) -> Mapping[str, Any]:
        """Give a command and return its answer.

        Raises:
            Unavailable: it ended, failed, or did not answer in time.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise Unavailable(self._why("has ended")) from None
        return self.hear(seconds)

    def close(self) -> None:
        """End it: by the end of its input, else by force."""
        process = self._process
        try:
            _end_input(process)
            process.wait(ENDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            if process.stdout is not None:
                process.stdout.close()

    def _pin(self, cpu: int) -> None:
        try:
            os.sched_setaffinity(self._process.pid, {cpu})
        except OSError as error:
            self.close()
            raise Unavailable(f"{self.name} cannot be kept on one processor: {error.strerror}") from None

    def _line(self, until: float) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._left:
            if len(self._left) > MOST:
                raise Unavailable(f"{self.name} answered more than {MOST} bytes")
            if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                raise Unavailable(self._why("did not answer in time"))
            if not (read := os.read(pipe, 65_536)):
                raise Unavailable(self._why("has ended"))
            self._left += read
        line, _, self._left = self._left.partition(b"\n")
        return line

    def _why(self, what: str) -> str:
        said = (self._folder / "stderr").read_bytes()[-4096:].decode("utf-8", "replace").strip().splitlines()
        return f"{self.name} {what}{': ' + said[-1] if said else ''}"[:_SHOWN]


def _end_input(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.close()
    except OSError:  # it has ended already
        pass


def _least(folder: Path) -> Mapping[str, str]:
    """No proxy, no key and no setting of the caller's reaches a peer; hashes are the same in every process."""
    return {
        "PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
        "LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false",
    }  # fmt: skip


def one_cpu() -> int | None:
    """The processor that all workers share, so that none has a quieter one; None where it cannot be chosen."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


__all__ = ["ANSWERS", "STARTS", "Worker", "one_cpu"]
