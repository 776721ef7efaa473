"""What grows with the chain, the live leases, the open tasks and the rules, and what memory a live lease takes.

Each figure is the large case over the small one, measured in turn in one process; the small one is measured against
itself too. Run as `python -m bench.scale [--leases 1000000] [--json]`; without
leases (`--leases 0`) it takes seconds and not minutes.
"""

from __future__ import annotations

import argparse
import contextvars
import gc
import itertools
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from agentguard import Guard, Intent, any_, guarded, step
from agentguard.audit.log import FileLog
from agentguard.credentials.local import LocalIssuer
from agentguard.keys import SigningKey
from agentguard.registry import OpenRegistry, RegisteredAgent
from bench.harness import Bar, Case, Ratio, compare, figure, number, valid, versions
from bench.live_leases import API, SCOPES, Live, allocated, resident
from bench.report import printed

DEEP: Final = 16  # agents in a chain: the most that a token carries
TASKS: Final = 1000
RULES: Final = 1000
HOT: Final = 10  # leases that are used again and again
BATCH: Final = 0.03  # seconds: whole calls are long, and the first of them finds cold caches
TRACED: Final = 20_000  # leases whose allocations are traced one by one
BARS: Final[Mapping[str, Bar | float]] = {
    "depth_16_over_1": 1.3, "unrelated_rules_1000_over_1": 1.15, "leases_1m_over_10": 1.2, "issued_1m_over_10": 1.2,
    "bytes_per_live_lease": Bar(400, 200), "memory_back_after_expiry": 16,
}  # fmt: skip


class DeepRegistry(OpenRegistry):
    """Admits every agent, and chains as long as a token carries."""

    def __init__(self) -> None:
        self._agents: dict[str, RegisteredAgent] = {}

    def get(self, name: str) -> RegisteredAgent | None:
        """Return an agent of this name."""
        if name not in self._agents and (found := super().get(name)) is not None:
            self._agents[name] = replace(found, max_depth=DEEP - 1)
        return self._agents.get(name)


@guarded("crm.read", effect="read", audience=API, scopes=SCOPES, lease="call")
def read(customer: str) -> str:
    """Read with a credential of its own."""
    return customer


def intent(rules: int = 1) -> Intent:
    """One step that is used, and rules for other tools."""
    others = [step(f"other.tool_{number}", customer="x") for number in range(rules - 1)]
    return Intent("Measure what grows", *others, step("crm.read", customer=any_).times(10**9))


@contextmanager
def calling(guard: Guard, depth: int = 1, rules: int = 1) -> Iterator[Case]:
    """A full guarded call at the end of a chain of so many agents, whose intents have so many rules."""
    context, stack = contextvars.Context(), ExitStack()

    def open_chain() -> None:
        task = stack.enter_context(guard.task("agent-1", on_behalf_of="alice", intent=intent(rules), ttl=3600))
        for agent in range(2, depth + 1):  # an intent of its own at each level, so that each is checked by itself
            task = stack.enter_context(task.delegate(f"agent-{agent}", intent=intent(rules)))

    context.run(open_chain)
    try:
        yield lambda: context.run(read, "c-1")
    finally:
        context.run(stack.close)


def a_guard(folder: Path) -> Guard:
    return Guard(
        audit=FileLog(folder), registry=DeepRegistry(), issuer=LocalIssuer(SigningKey.generate()),
        pseudonym_key=secrets.token_bytes(32),
    )  # fmt: skip


def calls(rounds: int, folder: Path) -> Mapping[str, Ratio]:
    """Full calls: deep over shallow, many rules over one, and beside many open tasks over beside none."""
    lone, crowded = a_guard(folder / "lone"), a_guard(folder / "crowded")
    with lone, crowded, ExitStack() as stack:
        bare, busy = stack.enter_context(calling(lone)), stack.enter_context(calling(crowded))
        deep, ruled = stack.enter_context(calling(lone, DEEP)), stack.enter_context(calling(lone, rules=RULES))
        for _ in range(TASKS - 1):
            stack.enter_context(calling(crowded))
        cases = {"depth_16_over_1": deep, "unrelated_rules_1000_over_1": ruled, "tasks_1000_over_1": busy}
        gc.collect()
        gc.freeze()  # the tasks that are open for the figure are not looked through between two batches
        try:
            return compare(bare, cases, rounds=rounds, batch_seconds=BATCH)
        finally:
            gc.unfreeze()


def cycled(live: Live, numbers: list[int]) -> Case:
    turn = itertools.cycle(numbers)
    return lambda: live.reuse(next(turn))


def leases(count: int, rounds: int) -> tuple[Mapping[str, Ratio], Mapping[str, float]]:
    """Reusing, issuing and searching with very many live leases over a few; and what memory they take."""
    few, thousand = Live(HOT), Live(1000)
    before = resident()
    many = Live(count)
    used = (resident() - before - many.token_bytes) / count
    gc.freeze()  # what lives long is not looked through again and again
    hot, spread = [number * (count // HOT) for number in range(HOT)], range(0, count, 7919)
    text = "An ordinary answer, with no run of letters that is long enough. " * 20 + "x" * 200
    # No bar: the work is the same, but the table of a million hashes does not fit the processor's cache.
    searches = {"search_1m_over_1000": lambda: many.leases.secrets.found_in(text)}
    try:
        reuses = {"leases_1m_over_10": cycled(many, hot), "leases_1m_any_over_10": cycled(many, list(spread))}
        reused = compare(cycled(few, list(range(HOT))), reuses, rounds=rounds)
        issued = compare(few.issue, {"issued_1m_over_10": many.issue}, rounds=rounds)
        searched = compare(lambda: thousand.leases.secrets.found_in(text), searches, rounds=rounds)
        after = (resident() - before - many.token_bytes) / count
    finally:
        gc.unfreeze()
    found = {"reused": reused, "issued": issued, "searched": searched}
    controls = {f"control_{name}": ratios["control"] for name, ratios in found.items()}
    ratios = {name: ratio for name, ratio in {**reused, **issued, **searched}.items() if name != "control"}
    return {**ratios, **controls}, {"rss_per_lease": used, "rss_per_lease_searched": after}


def report(count: int, rounds: int) -> Mapping[str, Any]:
    """All figures, with the bars they are held against; it is void when the small cases differ from themselves."""
    traced = allocated(TRACED)
    with tempfile.TemporaryDirectory() as folder:
        of_calls = calls(rounds, Path(folder))
    of_leases, memory = leases(count, rounds) if count else ({}, {})
    ratios = {**of_calls, **of_leases}
    figures = {name: figure(ratio, BARS.get(name)) for name, ratio in ratios.items()}
    sizes = {
        "bytes_per_live_lease": number(traced["alive"], BARS["bytes_per_live_lease"]),
        "bytes_per_live_lease_searched": number(traced["searched"]),
        "memory_back_after_expiry": number(traced["after"], BARS["memory_back_after_expiry"]),
        **{name: number(value) for name, value in memory.items()},
    }
    ok = all(valid(ratio) for name, ratio in ratios.items() if name.startswith("control"))
    return {"valid": ok, "leases": count, "figures": {**figures, **sizes}, "versions": versions()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.scale", description=__doc__)
    parser.add_argument("--leases", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    return printed(report(options.leases, options.rounds), json_wanted=options.json)


if __name__ == "__main__":
    sys.exit(main())
