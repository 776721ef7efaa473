"""The rounds, interleaved between the processes, and the figures: medians of ratios within a round.

Times differ two- or threefold from minute to minute on a shared machine; a ratio of two that were taken in one round,
in alternating order and on one processor, does not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from bench.peers.environments import Unavailable

LEAST: Final = 5  # rounds; below that nothing is said
OURS: Final = "agentguard"
OURS_WITHOUT: Final = "agentguard without SDK"
REFERENCE: Final = "own credential"  # our variant that peers are held against: it does most
_PROCESS, _THREAD, _WALL = range(3)


class Asked(Protocol):
    """What answers: a `Worker`, or a test's."""

    name: str

    def ask(self, seconds: float = ..., **command: Any) -> Mapping[str, Any]: ...


@dataclass(slots=True)
class Measured:
    """What one peer's process said.

    Args:
        name: the peer's name.
        versions: of what was measured.
        variants: the ways in which it is used.
        facts: of each variant, what a call does.
        times: of each case, a round each: processor, thread and wall seconds a call.
        why: why there is nothing.
    """

    name: str
    versions: Mapping[str, str] = field(default_factory=dict)
    variants: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    times: dict[str, list[list[float]]] = field(default_factory=dict)
    why: str = ""

    def cpu(self, case: str, clock: int = _PROCESS) -> list[float]:
        return [sample[clock] for sample in self.times[case]]


def interleave(workers: Mapping[str, Asked], found: Mapping[str, Measured], rounds: int, seconds: float) -> int:
    """Ask every process for a round in turn, forwards and backwards, and return how many rounds were whole.

    A process that fails is left out from then on, with the reason; what it said before is dropped.

    Args:
        workers: the processes, by name.
        found: where their answers are kept, by name.
        rounds: how many.
        seconds: after this no other round begins.
    """
    until, alive, done = time.monotonic() + seconds, dict(workers), 0
    while done < rounds and time.monotonic() < until:
        for name in list(alive) if done % 2 else list(alive)[::-1]:
            try:
                for case, sample in alive[name].ask(do="round", turn=done).items():
                    found[name].times.setdefault(case, []).append(sample)
            except Unavailable as error:
                del alive[name]
                found[name].why, found[name].times = str(error), {}
        done += 1
    return done


def report(found: Sequence[Measured], rounds: int) -> Mapping[str, Any]:
    """The figures of a run; `valid` is whether ours ran, the control is one, and there were rounds enough.

    Args:
        found: what the processes said, ours among them.
        rounds: how many rounds were whole.
    """
    by_name = {one.name: one for one in found}
    ours, without = by_name[OURS], by_name[OURS_WITHOUT]
    peers = [one for one in found if one.name not in (OURS, OURS_WITHOUT)]
    ran = sum(not one.why for one in peers)
    ok = rounds >= LEAST and not ours.why and not without.why
    return {
        "valid": ok and all(_is_one(one) for one in (ours, without)),
        "rounds": rounds, "peers_that_ran": ran, "reference": f"{OURS}: {REFERENCE}",
        "clock": "processor time of the whole process; the token server's own is not in it",
        "peers": [_peer(one, ours, without, rounds) for one in found],
    }  # fmt: skip


def _peer(one: Measured, ours: Measured, without: Measured, rounds: int) -> Mapping[str, Any]:
    if one.why or ours.why or without.why or rounds < LEAST:
        why = one.why or ours.why or without.why or f"{rounds} rounds are too few: at least {LEAST}"
        return {"peer": one.name, "ran": False, "why": why, "versions": dict(one.versions)}
    return {
        "peer": one.name, "ran": True, "versions": dict(one.versions), "noisy": not _is_one(one),
        "control_over_plain": spread(one.cpu("control"), one.cpu("plain")),
        "plain_over_our_plain": spread(one.cpu("plain"), ours.cpu("plain")),
        "variants": [_variant(one, name, ours, without) for name in one.variants],
    }  # fmt: skip


def _variant(one: Measured, name: str, ours: Measured, without: Measured) -> Mapping[str, Any]:
    figures = {"variant": name, "facts": one.facts[name]}
    for kind in ("allowed", "denied"):
        case, reference = one.cpu(f"{name}/{kind}"), f"{REFERENCE}/{kind}"
        figures[kind] = {
            "over_plain": spread(case, one.cpu("plain")),
            "over_ours": spread(case, ours.cpu(reference)),
            "over_ours_without_sdk": spread(case, without.cpu(reference)),
            "added_over_ours": _added(one, case, ours, reference),
            "added_over_ours_without_sdk": _added(one, case, without, reference),
            "cpu_microseconds": _least(case),
            "thread_microseconds": _least(one.cpu(f"{name}/{kind}", _THREAD)),
            "wall_microseconds": _least(one.cpu(f"{name}/{kind}", _WALL)),
        }
    return figures


def spread(times: Sequence[float], floor: Sequence[float]) -> Mapping[str, float]:
    """The median of the paired ratios, and the 10th and 90th percentile."""
    paired = sorted(one / other for one, other in zip(times, floor, strict=True))
    tenth = len(paired) // 10
    return {
        "value": round(statistics.median(paired), 3),
        "p10": round(paired[tenth], 3),
        "p90": round(paired[-1 - tenth], 3),
    }


def _added(one: Measured, case: Sequence[float], ours: Measured, reference: str) -> float:
    """What the guard adds to the bare tool, over what ours adds: LangChain's own share would hide the difference."""
    theirs = [guarded - plain for guarded, plain in zip(case, one.cpu("plain"), strict=True)]
    own = [guarded - plain for guarded, plain in zip(ours.cpu(reference), ours.cpu("plain"), strict=True)]
    return round(statistics.median(theirs) / max(statistics.median(own), 1e-9), 2)


def _least(times: Sequence[float]) -> float:
    return round(min(times) * 1e6, 1)


def _is_one(one: Measured) -> bool:
    return 0.95 <= spread(one.cpu("control"), one.cpu("plain"))["value"] <= 1.05


__all__ = ["LEAST", "OURS", "OURS_WITHOUT", "REFERENCE", "Asked", "Measured", "interleave", "report", "spread"]
