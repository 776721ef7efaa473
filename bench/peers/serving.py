"""The process of one peer: it times batches of its calls, and answers the commands of the process that started it.

Processor time is that of the whole process, the same for everybody: work that is moved to a thread costs its user too.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from bench.peers.work import ALLOWED, Case, Peer, expect, lookup

LEAST: Final = 3  # calls of a batch
WARM: Final = 5
PROBE: Final = 12


class Batches:
    """The cases of one peer: the bare tool, the bare tool again as a control, and each variant allowed and denied."""

    def __init__(self, peer: Peer, seconds: float) -> None:
        from langchain_core.tools import StructuredTool

        bare = StructuredTool.from_function(lookup)
        self.peer, self.sizes = peer, dict[str, int]()
        self.cases: dict[str, Case] = {name: lambda: bare.invoke(ALLOWED) for name in ("plain", "control")}
        for name, variant in peer.variants().items():
            self.cases[f"{name}/allowed"] = variant.allowed
            self.cases[f"{name}/denied"] = partial(expect, variant.denied, variant.refusal)
        for name, case in self.cases.items():
            self.sizes[name] = self._size(case, seconds)
        gc.collect()
        gc.freeze()  # what was imported is not looked through between two batches

    def round(self, turn: int) -> Mapping[str, list[float]]:
        """Time a batch of each case, in alternating order; of each: processor, thread and wall seconds a call."""
        names = list(self.cases)
        return {name: self._batch(self.cases[name], self.sizes[name]) for name in (names if turn % 2 else names[::-1])}

    def _size(self, case: Case, seconds: float) -> int:
        for _ in range(PROBE):  # clients connect, caches fill
            case()
        return max(LEAST, int(seconds / max(self._batch(case, PROBE)[0], 1e-7)))

    def _batch(self, case: Case, size: int) -> list[float]:
        self.peer.fresh()
        gc.collect()
        gc.disable()
        try:
            for _ in range(min(size, WARM)):
                case()
            wall, process, thread = time.perf_counter_ns(), time.process_time_ns(), time.thread_time_ns()
            for _ in range(size):
                case()
            thread, process = time.thread_time_ns() - thread, time.process_time_ns() - process
            return [took / size / 1e9 for took in (process, thread, time.perf_counter_ns() - wall)]
        finally:
            gc.enable()


def serve(make: Callable[[Path, str], Peer]) -> None:
    """Answer the commands on standard input, a line of JSON each, until it ends.

    What a peer prints goes to standard error: the pipe belongs to the answers.
    """
    folder, server, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        stay_on_this_machine()
        try:
            peer = make(folder, server)
            try:
                _answer(peer, Batches(peer, seconds), answers)
            finally:
                peer.close()
        except Exception as error:
            _say(answers, {"failed": f"{type(error).__name__}: {error}"})
            raise


def _answer(peer: Peer, batches: Batches, answers: Any) -> None:
    names = ("langchain-core", *peer.distributions)
    _say(answers, {"versions": {name: version(name) for name in names}, "variants": list(peer.variants())})
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "facts":
            _say(answers, {name: asdict(peer.facts(name)) for name in peer.variants()})
        else:
            _say(answers, batches.round(command["turn"]))


def _say(answers: Any, value: Mapping[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def stay_on_this_machine() -> None:
    """Refuse connections to other machines: a peer that calls home fails, and says where to."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"no connection to {address[0]!r}: peers are measured offline")
        real(self, address)

    socket.socket.connect = connect  # type: ignore[assignment, method-assign]  # connections are made here
