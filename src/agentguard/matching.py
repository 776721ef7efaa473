"""Step 3 of the pipeline: at every level of the chain a step is found and reserved, or nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from agentguard.intent import Admitted, CompiledIntent, Facts, Option
from agentguard.model.call import ToolCall
from agentguard.model.decision import STRICTNESS, Decision, Miss, Reason
from agentguard.ports import Budgets, Candidate, Charge, Exhausted, Reservation
from agentguard.refusal import Refusal

if TYPE_CHECKING:
    from agentguard.task import Task


class Level(NamedTuple):
    """One level of the chain: a task's intent or an agent's ceiling, and the scope of its counters."""

    label: str
    scope: str
    intent: CompiledIntent


class Levels(NamedTuple):
    """All levels of a task, and the call limits of the agents in its chain; made once per task."""

    levels: tuple[Level, ...]
    limits: tuple[tuple[Candidate, ...], ...]


def levels_of(task: Task) -> Levels:
    """Every intent that a call under a task must match: each task of the chain, and the ceiling of its agent."""
    found: list[Level] = []
    limits: list[tuple[Candidate, ...]] = []
    for link in task.path:
        name = link.agent.agent.name
        scope = name.replace("/", "%2F")
        found.append(Level(name, f"task:{link.id}", link.intent))
        if link.agent.ceiling is not None:
            found.append(Level(f"ceiling:{name}", f"ceiling:{scope}", link.agent.ceiling))
        if link.agent.calls is not None:
            most, per = link.agent.calls
            limits.append((Candidate("limits", (Charge(f"agent:{scope}/calls", str(most), per=per),)),))
    return Levels(tuple(found), tuple(limits))


async def match(
    call: ToolCall, levels: Levels, facts: Facts, budgets: Budgets, now: float
) -> tuple[Decision, Reservation | None]:
    """Match a call at every level and reserve all its steps at once.

    Args:
        call: the call.
        levels: what it must match.
        facts: what the task tree has seen.
        budgets: the counters.
        now: monotonic seconds, for sliding windows.

    Returns:
        The strictest outcome of all levels with the step of each, and the reservation if anything is counted.

    Raises:
        Refusal: a level does not admit the call, or has no budget left; then nothing was taken anywhere.
    """
    options = [_admitted(call, level, facts) for level in levels.levels]
    candidates: list[Sequence[Candidate]] = [
        [_candidate(call, level, option) for option in admitted]
        for level, admitted in zip(levels.levels, options, strict=True)
    ]
    candidates += levels.limits
    reservation = None
    if any(candidate.charges or candidate.retry_key for level in candidates for candidate in level):
        reservation = await _reserve(candidates, levels, budgets, now)
    chosen = reservation.chosen if reservation is not None else (0,) * len(options)
    steps = [admitted[index] for admitted, index in zip(options, chosen, strict=False)]
    outcome = max((option.outcome for option in steps), key=STRICTNESS.__getitem__)
    names = tuple(option.step for option in steps)
    return Decision(outcome=outcome, reason=Reason.DECLARED, tool=call.spec.name, steps=names), reservation


def _admitted(call: ToolCall, level: Level, facts: Facts) -> tuple[Option, ...]:
    verdict = level.intent.check(call, facts)
    if isinstance(verdict, Admitted):
        return verdict.options
    raise Refusal(verdict.reason, level=level.label, miss=verdict.miss)


def _candidate(call: ToolCall, level: Level, option: Option) -> Candidate:
    if not option.charges and option.attempts <= 1:
        return Candidate(option.step)
    charges = tuple([Charge(f"{level.scope}/{c.key}", c.limit, c.amount, c.per) for c in option.charges])
    retry = f"{level.scope}/{option.step}:{call.digest}" if option.attempts > 1 else ""
    return Candidate(option.step, charges, retry, option.attempts)


async def _reserve(
    candidates: Sequence[Sequence[Candidate]], levels: Levels, budgets: Budgets, now: float
) -> Reservation:
    reserved = await budgets.reserve(candidates, now)
    if not isinstance(reserved, Exhausted):
        return reserved
    counted = len(levels.levels)
    label = levels.levels[reserved.level].label if reserved.level < counted else "limits"
    what = reserved.charge.key.partition("/")[2]
    text = f"step {reserved.step} is used up ({what}, limit {reserved.charge.limit})"
    raise Refusal(Reason.BUDGET_EXHAUSTED, level=label, miss=Miss(step=reserved.step, kind="budget", text=text))
