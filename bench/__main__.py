"""Runs the benches one after the other and prints one table: figure, value, bar, verdict. `make bench`.

A bench whose bar is missed runs again, and only what is missed twice is NOT MET: exit code 1. A bench whose controls
fail runs again too; where they keep failing the exit code is 2. What needs servers or many minutes is named and not
run, unless `--all` asks for it; `--json` prints everything that was measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.machine import versions
from bench.table import Row, Verdict, counting, exit_code, rows


@dataclass(frozen=True, slots=True)
class Bench:
    """One bench: its command, what it needs that is not always there, and figures without a bar that are shown."""

    command: str
    needs: str = ""
    also: tuple[str, ...] = ()

    def run(self) -> Mapping[str, Any]:
        """Its report.

        Raises:
            NotRun: it printed none.
        """
        module, *options = self.command.split()
        command = [sys.executable, "-m", f"bench.{module}", *options, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            return dict(json.loads(done.stdout))
        except ValueError:
            words = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
            raise NotRun(words[0]) from None


class NotRun(Exception):
    """A bench printed no report."""


BENCHES: Final = (
    Bench("call", also=("durable_call_over_floor", "durable_call_over_synced_floor_wall", "ours_over_naive",
                        "python_calls_reused")),
    Bench("hosts", also=("langgraph_step_guarded_over_plain", "langchain_guarded_added_over_floor_added")),
    Bench("scale --leases 0"),
    Bench("concurrency --only tasks"),
    Bench("concurrency --only threads"),
    Bench("imports", also=("tool_over_otel_api", "intent_over_otel_api",
                           "first_call_over_crypto_and_sdk", "modules_of_ours")),
    Bench("audit --records 100000"),
    Bench("remote"),
    Bench("policy"),
    Bench("intent"),
    Bench("scale", needs="five minutes: a million leases"),
    Bench("audit", needs="two minutes: a million records"),
    Bench("agentdojo --guard none", needs="half a minute each: attacks, not times"),
    Bench("agentdojo --guard tools", needs="half a minute each: attacks, not times"),
    Bench("agentdojo --suites workspace,banking --guard intents --synthetic",
          needs="half a minute each: attacks, not times"),
    Bench("peers", needs="other SDKs, installed in an environment of their own"),
    Bench("crash", needs="the servers of `make services-up`, and minutes"),
    Bench("stop", needs="the servers of `make services-up`"),
    Bench("soak", needs="two minutes"),
)  # fmt: skip


def measured(benches: Sequence[Bench], reports: dict[str, Any], failed: dict[str, str]) -> Iterator[Row]:
    """The lines of every bench, as it ends."""
    for bench in benches:
        _progress(f"... {bench.command}")
        try:
            reports[bench.command] = counting(bench.run)
        except NotRun as error:
            failed[bench.command] = str(error)
            continue
        finally:
            _progress("")
        yield from rows(bench.command, reports[bench.command], bench.also)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--all", action="store_true", help="also what needs servers or minutes")
    parser.add_argument("--only", default="", metavar="NAME", help="only the benches whose command holds this")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    wanted = [bench for bench in BENCHES if options.only in bench.command]
    chosen = [bench for bench in wanted if options.all or not bench.needs]
    reports: dict[str, Any] = {}
    failed: dict[str, str] = {}
    found: list[Row] = []
    for row in measured(chosen, reports, failed):
        if not options.json and (not found or found[-1].bench != row.bench):
            print(row.bench)
        found.append(row)
        if not options.json:
            print(f"  {row.text()}", flush=True)
    left = {bench.command: bench.needs for bench in wanted if bench not in chosen}
    if options.json:
        print(json.dumps({
            "rows": [{"bench": row.bench, "figure": row.name, "verdict": row.verdict} for row in found],
            "reports": reports, "failed": failed, "not_run": left, "versions": versions(),
        }, indent=1))  # fmt: skip
    else:
        _said(found, failed, left)
    return exit_code(found, failed=bool(failed))


def _progress(words: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{words}", end="", file=sys.stderr, flush=True)


def _said(found: Sequence[Row], failed: Mapping[str, str], left: Mapping[str, str]) -> None:
    for command, why in failed.items():
        print(f"failed: {command}: {why}")
    for command, needs in left.items():
        print(f"not run here: {command} ({needs})")
    counts = {verdict: sum(row.verdict is verdict for row in found) for verdict in Verdict}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count and verdict != "-")
    machine = versions()
    where = f"{machine['cores']} cores, Python {machine['python']}, commit {machine['commit'] or 'unknown'}"
    print(f"{told or 'nothing was measured'}; {where}{', changed' if machine['changed'] else ''}")


if __name__ == "__main__":
    sys.exit(main())
