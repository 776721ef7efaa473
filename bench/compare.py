"""Is this commit slower than that one? Two worktrees, a process each, measured in turn on one processor.

`python -m bench.compare REV [--head REV] [--suite call] [--json]`. Stored times of another day say nothing here, so
both commits run at the same time: each batch of the one stands beside a batch of the other. The cases are those of the
bench that runs, so both commits are asked the same. Exit code 1 where the 95 % interval of a ratio is above 1.05.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

from bench.harness import Ratio, controlled, summary, valid
from bench.machine import ROOT, git, versions

SLOWER: Final = 1.05
FASTER: Final = 0.95
SUITES: Final = ("call", "hosts")


class Worker:
    """A process that has imported one of the two commits, and measures one batch at a time when it is told to."""

    def __init__(self, tree: Path, suite: str, cpu: int | None) -> None:
        path = os.pathsep.join([str(tree / "src"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-m", "bench.compare_worker", suite, str(tree), "" if cpu is None else str(cpu)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )

    def cases(self) -> Sequence[str]:
        """Wait until it is ready; the names of what it measures."""
        return self._heard().split()

    def seconds(self, case: str) -> float:
        """Measure one batch: processor time of a call."""
        assert self._process.stdin is not None
        self._process.stdin.write(case + "\n")
        self._process.stdin.flush()
        return float(self._heard())

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        finally:
            self._process.stdout.close()

    def _heard(self) -> str:
        assert self._process.stdout is not None
        said = self._process.stdout.readline().strip()
        if not said:
            raise SystemExit("a commit could not be measured; what it said is above")
        return said


@contextmanager
def worktrees(revisions: Mapping[str, str], repository: Path = ROOT) -> Iterator[Mapping[str, Path]]:
    """A worktree of each revision in a temporary folder; all are removed again, whatever happens.

    Raises:
        SystemExit: a revision names no commit.
    """
    commits = {name: git("rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}", folder=repository)
               for name, rev in revisions.items()}  # fmt: skip
    if unknown := [revisions[name] for name, commit in commits.items() if not commit]:
        raise SystemExit(f"no commit is named {', '.join(unknown)}; name one that `git log` knows")
    folder = Path(tempfile.mkdtemp(prefix="bench-compare-"))
    places = {name: folder / name for name in commits}
    try:
        for name, place in places.items():
            command = ["git", "-C", str(repository), "worktree", "add", "--detach", "--quiet", str(place)]
            subprocess.run([*command, commits[name]], check=True)
        yield places
    finally:
        for place in places.values():
            git("worktree", "remove", "--force", str(place), folder=repository)
        shutil.rmtree(folder, ignore_errors=True)


def measure(trees: Mapping[str, Path], suite: str, rounds: int, pairs: int) -> Mapping[str, Ratio]:
    """The ratio of head to base, of every case, over several pairs of processes.

    One pair would not do: where a process has its code and data in memory alone makes a tenth.
    """
    found = [_pair(trees, suite, rounds) for _ in range(pairs)]
    ratios = {name: summary(*(paired[name] for paired in found)) for name in found[0]}
    ratios["control"] = ratios.pop("floor")
    return controlled(ratios)


def _pair(trees: Mapping[str, Path], suite: str, rounds: int) -> Mapping[str, list[float]]:
    """The ratios of head to base, of every case, in one pair of processes; `spun` is the positive control's."""
    paired: dict[str, list[float]] = {}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(closing(Worker(tree, suite, _processor()))) for name, tree in trees.items()
        }
        names = {name: worker.cases() for name, worker in workers.items()}["head"]
        for turn in range(rounds):
            for case in names:
                order = ("base", "head") if turn % 2 else ("head", "base")
                took = {name: workers[name].seconds(case) for name in order}
                paired.setdefault(case, []).append(took["head"] / took["base"])
                if case == "floor":  # both spin: who had just run would have an advantage in the next case
                    spun = {name: workers[name].seconds("spun") for name in order}
                    paired.setdefault("spun", []).append(spun["head"] / took["base"])
    return paired


def _processor() -> int | None:
    if not hasattr(os, "sched_getaffinity"):
        return None
    return max(os.sched_getaffinity(0))


def verdict(ratio: Ratio) -> str:
    """What the interval of a ratio says."""
    if ratio.low > SLOWER:
        return "SLOWER"
    if ratio.high < FASTER:
        return "faster"
    return "the same, within 5 %" if ratio.low >= FASTER and ratio.high <= SLOWER else "cannot tell; more rounds"


def report(base: str, head: str, suite: str, rounds: int, pairs: int) -> Mapping[str, Any]:
    """Every case: head over base, with the interval."""
    with worktrees({"base": base, "head": head}) as trees:
        ratios = measure(trees, suite, rounds, pairs)
    figures = {
        name: {"value": round(ratio.median, 3), "ci95": [round(ratio.low, 3), round(ratio.high, 3)],
               "verdict": verdict(ratio)}
        for name, ratio in ratios.items()
    }  # fmt: skip
    commits = {name: git("rev-parse", "--short=12", rev) for name, rev in (("base", base), ("head", head))}
    return {"valid": valid(ratios["control"]), **commits, "figures": figures, "versions": versions()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.compare", description=__doc__)
    parser.add_argument("base", metavar="REV", help="the commit that is compared with")
    parser.add_argument("--head", default="HEAD", metavar="REV", help="the commit that is judged")
    parser.add_argument("--suite", "--bench", choices=SUITES, default="call", dest="suite")
    parser.add_argument("--rounds", type=int, default=16, help="of each pair of processes")
    parser.add_argument("--pairs", type=int, default=8, help="pairs of processes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = report(options.base, options.head, options.suite, options.rounds, options.pairs)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"{result['head']} over {result['base']}")
        for name, row in result["figures"].items():
            print(f"{name:24} {row['value']:6.3f}  [{row['ci95'][0]:.3f} .. {row['ci95'][1]:.3f}]  {row['verdict']}")
        if result["versions"]["changed"]:
            print("what is not committed was not measured")
        print("valid" if result["valid"] else "VOID: the floors of the two processes differ; run it again")
    slower = any(row["verdict"] == "SLOWER" for name, row in result["figures"].items() if name != "control")
    return 2 if not result["valid"] else int(slower)


if __name__ == "__main__":
    sys.exit(main())
