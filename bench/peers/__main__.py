"""Ours and its peers in one run: `python -m bench.peers [--json] [--env DIR] [--rounds N]`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.harness import versions
from bench.peers.environments import ROOT, Unavailable, python_of
from bench.peers.process import ANSWERS, STARTS, Worker, one_cpu
from bench.peers.rounds import OURS, OURS_WITHOUT, Asked, Measured, interleave, report
from bench.peers.table import table

ROUNDS: Final = 40
SECONDS: Final = 480.0  # after this no other round begins
BATCH: Final = 0.005  # seconds of one batch
ENOUGH: Final = 3  # peers


@dataclass(frozen=True, slots=True)
class Entry:
    """A process of the run.

    Args:
        name: as it is shown.
        module: what runs in it, `bench.peers.of_NAME`; its lock has the same name.
        environment: what it finds in its environment; ours has its code there.
        own: it runs in an environment of its own.
    """

    name: str
    module: str
    environment: Mapping[str, str] = field(default_factory=dict)
    own: bool = True


def _ours() -> Mapping[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src"), str(ROOT / "integrations/langchain/src")])}


ENTRIES: Final = (
    Entry(OURS, "us", _ours(), own=False),
    Entry(OURS_WITHOUT, "us", {**_ours(), "WITHOUT_SDK": "1"}, own=False),
    Entry("agent-governance-toolkit", "agt"),
    Entry("keycard", "keycard"),
    Entry("delcred", "delcred"),
    Entry("hallmark", "hallmark"),
)


def run(entries: Sequence[Entry], environments: Path, rounds: int) -> Mapping[str, Any]:
    """Make the environments, start the processes, measure, and end them.

    Args:
        entries: what is measured, ours among it.
        environments: the folder of the peers' environments.
        rounds: how many rounds.
    """
    found = {entry.name: Measured(entry.name) for entry in entries}
    pythons = {entry.name: _python(entry, environments, found[entry.name]) for entry in entries}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        server = _token_server(folder, stack)
        alive: dict[str, Asked] = {}
        for entry in entries:
            if (python := pythons[entry.name]) is not None:
                _start(entry, python, folder, server, stack, found[entry.name], alive)
        done = interleave(alive, found, rounds, SECONDS)
    return {**report(list(found.values()), done), "versions": versions(), "load": list(os.getloadavg())}


def _python(entry: Entry, environments: Path, found: Measured) -> str | None:
    if not entry.own:
        return sys.executable
    try:
        return str(python_of(entry.module, environments))
    except Unavailable as error:
        found.why = str(error)
        return None


def _token_server(folder: Path, stack: ExitStack) -> str:
    home = folder / "token-server"
    home.mkdir()
    server = Worker("the token server", [sys.executable, "-P", "-m", "bench.peers.token_server"], home, {})
    stack.callback(server.close)
    return str(server.hear(STARTS)["address"])


def _start(
    entry: Entry, python: str, folder: Path, server: str, stack: ExitStack, found: Measured, alive: dict[str, Asked]
) -> None:
    home = folder / f"worker-{len(alive)}-{entry.module}"
    home.mkdir()
    try:
        command = [python, "-P", "-m", f"bench.peers.of_{entry.module}", str(home), server, str(BATCH)]
        worker = Worker(entry.name, command, home, entry.environment, one_cpu())
        stack.callback(worker.close)
        hello = worker.hear(STARTS)
        found.versions, found.variants = hello["versions"], hello["variants"]
        found.facts = worker.ask(ANSWERS, do="facts")
    except Unavailable as error:
        found.why = str(error)
    else:
        alive[entry.name] = worker


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.peers", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--env", type=Path, default=ROOT / ".peers", metavar="DIR", help="the peers' environments")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    result = run(ENTRIES, options.env, options.rounds)
    print(json.dumps(result, indent=1) if options.json else table(result))
    return 0 if result["valid"] and result["peers_that_ran"] >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
