"""The command line: `python -m bench.agentdojo [--suites slack] [--guard tools] [--moments mid] [--synthetic]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from bench.agentdojo.benchmark import Benchmark
from bench.agentdojo.dojo import SIZES
from bench.agentdojo.figures import table
from bench.agentdojo.guards import GUARDS
from bench.agentdojo.replay import Moment


def main() -> int:
    """Run what the command line says; 0 if the result is valid."""
    asked = _parser().parse_args()
    result = Benchmark(asked.guard, asked.moments, synthetic=asked.synthetic).run(asked.suites)
    print(json.dumps(result) if asked.json else "\n".join([table(result, asked.guard), *_synthetic(result)]))
    return 0 if result["valid"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.agentdojo", description="Replay AgentDojo without a model.")
    parser.add_argument("--suites", type=_some_of(SIZES), default=list(SIZES), metavar=",".join(SIZES))
    parser.add_argument("--guard", choices=list(GUARDS), default="tools")
    parser.add_argument("--moments", type=_moments, default=list(Moment), metavar=",".join(Moment))
    parser.add_argument("--synthetic", action="store_true", help="try our calls for injection tasks without any, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


def _synthetic(result: Mapping[str, Any]) -> Iterator[str]:
    for moment, found in result.get("attacks_synthetic", {}).items():
        yield f"synthetic, {moment}: " + ", ".join(f"{name} {count}" for name, count in found.items())


def _some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        names = list(dict.fromkeys(text.split(",")))
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; there are {', '.join(known)}")
        return names

    return read


def _moments(text: str) -> list[Moment]:
    return [Moment(name) for name in _some_of(list(Moment))(text)]


if __name__ == "__main__":
    sys.exit(main())
