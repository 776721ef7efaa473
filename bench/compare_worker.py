"""One process of `bench.compare`: measures a batch of the case that each line of standard input names."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from opentelemetry import trace

import agentguard
from bench.floor import floor, provider
from bench.harness import Case, batch, batch_size, spinning
from bench.workload import chain, denied, full, reused

BATCH = 0.005  # seconds


@contextmanager
def cases(suite: str) -> Iterator[Mapping[str, Case]]:
    """What is measured: the floor first."""
    trace.set_tracer_provider(provider())
    bare = floor(provider().get_tracer("bench"))
    with tempfile.TemporaryDirectory() as name, agentguard.local(audit=Path(name)) as guard, chain(guard):
        if suite == "call":
            found: dict[str, Case] = {"full_call": full, "reused_lease": reused, "denied_call": denied}
        else:
            from bench.hosts import invoking, tools

            found = {f"langchain_{case}": invoking(tool) for case, tool in tools().items() if case != "floor"}
        yield {"floor": bare, **found, "spun": spinning(bare)}


def main() -> None:
    suite, tree, cpu = sys.argv[1:4]
    if not Path(agentguard.__file__).is_relative_to(tree):
        raise SystemExit("another agentguard than that of the worktree was imported")
    if cpu:
        os.sched_setaffinity(0, {int(cpu)})
    with cases(suite) as known:
        sizes = {name: batch_size(case, BATCH, time.thread_time_ns) for name, case in known.items()}
        gc.disable()
        print(*(name for name in known if name != "spun"), flush=True)
        for line in sys.stdin:
            name = line.strip()
            print(batch(known[name], sizes[name], time.thread_time_ns)[0], flush=True)
            gc.collect()


if __name__ == "__main__":
    main()
