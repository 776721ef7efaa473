"""Step 3 of the pipeline: at every level of the chain a step is found and reserved, or nothing is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import structs

from agentguard.intent import Admitted, Facts, Option
from agentguard.intent.charges import Admits
from agentguard.intent.literal import FrozenMapping
from agentguard.intent.step import Step
from agentguard.intent.sure import sure_of
from agentguard.levels import Known, Level, Levels, Matched
from agentguard.model.call import ToolCall
from agentguard.model.decision import STRICTNESS, Decision, Miss, Outcome, Reason
from agentguard.ports import Budgets, Candidate, Charge, Exhausted, Reservation
from agentguard.refusal import Refusal

_MOST_KNOWN: Final = 1_000  # tools of a task; an application may make others for every call
_UNKNOWN: Final = Matched(Decision(outcome=Outcome.DENY, reason=Reason.OUTSIDE_INTENT, tool=""), None, ())


async def match(call: ToolCall, levels: Levels, facts: Facts, budgets: Budgets, now: float) -> Matched:
    """Match a call at every level and reserve all its steps at once.

    Args:
        call: the call.
        levels: what it must match.
        facts: what the task tree has seen.
        budgets: the counters.
        now: monotonic seconds, for sliding windows.

    Raises:
        Refusal: a level does not admit the call, or has no budget left; then nothing was taken anywhere.
    """
    known = levels.known.get(id(call.spec)) or _know(call, levels)
    candidates = None
    if known.sure is not None:
        try:
            if known.sure(call, facts):
                candidates = known.candidates or _asked(call, levels, known)
        except Exception:  # noqa: S110  # where it goes wrong, the levels say so below
            pass
    if candidates is None:
        return await _match(call, levels, facts, budgets, now)
    if not known.counted:
        return known.matched
    reserved = await budgets.reserve(candidates, now)
    if isinstance(reserved, Exhausted):
        raise _exhausted(reserved, levels)
    return Matched(known.matched.decision, reserved, known.matched.ending)


async def _match(call: ToolCall, levels: Levels, facts: Facts, budgets: Budgets, now: float) -> Matched:
    """Ask the levels one by one, up to the first that refuses."""
    admitted: list[tuple[Option, ...]] = []
    candidates: list[Sequence[Candidate]] = []
    checked, verdict = None, None
    for level in levels.levels:
        # A check is pure, so an intent that was handed on as it is says the same again, unless a level knows more.
        if level.results is not None or level.standing is not None:
            checked, verdict = None, level.intent.check(call, await _facts(level, facts, budgets))
        elif level.intent is not checked:
            checked, verdict = level.intent, level.intent.check(call, facts)
        assert verdict is not None  # noqa: S101  # no intent is None, so the first level has one
        if not isinstance(verdict, Admitted):
            raise Refusal(verdict.reason, level=level.label, miss=verdict.miss)
        admitted.append(verdict.options)
        known = level.made.get(id(verdict))
        candidates.append(known[1] if known is not None else _candidates(call, level, verdict))
    candidates += levels.limits
    reservation = None
    if _are_counted(candidates):
        reserved = await budgets.reserve(candidates, now)
        if isinstance(reserved, Exhausted):
            raise _exhausted(reserved, levels)
        reservation = reserved
    chosen = reservation.chosen if reservation is not None else (0,) * len(admitted)
    used = [options[index] for options, index in zip(admitted, chosen, strict=False)]
    return _matched(call.spec.name, levels, used, reservation)


def _matched(tool: str, levels: Levels, used: Sequence[Option], reservation: Reservation | None) -> Matched:
    outcome, ending, marks = Outcome.PERMIT, [], list[Charge]()
    for level, option in zip(levels.levels, used, strict=True):
        if level.standing is not None:
            marks += level.standing.mark(option.step)
        if option.outcome is not outcome and STRICTNESS[option.outcome] > STRICTNESS[outcome]:
            outcome = option.outcome
        if option.ends_task:
            ending.append(level.task)
    steps = tuple([option.step for option in used])
    decision = Decision(outcome=outcome, reason=Reason.DECLARED, tool=tool, steps=steps)
    return Matched(decision, reservation, tuple(ending), tuple(marks))


def _know(call: ToolCall, levels: Levels) -> Known:
    """Make what can be said once for every call of a tool in a task."""
    try:
        made = _known(call, levels)
    except Exception:  # whatever is wrong, the levels say so, one by one
        made = None
    made = made or Known(call.spec, None, _UNKNOWN)
    if len(levels.known) >= _MOST_KNOWN:
        levels.known.clear()
    levels.known[id(call.spec)] = made
    return made


def _known(call: ToolCall, levels: Levels) -> Known | None:
    spec, said, used, admits = call.spec, [], [], []
    for level in levels.levels:
        rules = level.intent.rules
        steps = rules.steps.get(spec.name, ())
        if level.standing is not None or level.results is not None or len(steps) > 1:
            return None  # it looks at what was before, or at several steps
        if not steps and not rules.reads(spec):
            return None
        step = steps[0] if steps else None
        said.append((rules, step))
        used.append(rules.read.options[0] if step is None else _option(step.step))
        admits.append(_always(rules.read) if step is None else step.admits)
    found = Known(spec, sure_of(said, spec), _matched(spec.name, levels, used, None), tuple(admits))
    candidates = _asked(call, levels, found)
    if candidates is None or not all(
        id(admit(call)) in level.made for level, admit in zip(levels.levels, admits, strict=True)
    ):
        return found
    always = tuple([tuple(level) for level in candidates])
    return structs.replace(found, candidates=always, counted=_are_counted(always))


def _option(step: Step) -> Option:
    """What a decision says of a step; what it charges is the call's."""
    return Option(step.id, step.outcome, ends_task=step.ends_task)


def _always(admitted: Admitted) -> Admits:
    return lambda call: admitted


def _asked(call: ToolCall, levels: Levels, known: Known) -> Sequence[Sequence[Candidate]] | None:
    """What a call asks of the budgets at every level; None where that cannot be counted."""
    candidates: list[Sequence[Candidate]] = []
    for level, admits in zip(levels.levels, known.admits, strict=True):
        admitted = admits(call)
        if not isinstance(admitted, Admitted):
            return None
        made = level.made.get(id(admitted))
        candidates.append(made[1] if made is not None else _candidates(call, level, admitted))
    return [*candidates, *levels.limits]


def _are_counted(candidates: Sequence[Sequence[Candidate]]) -> bool:
    for level in candidates:
        for candidate in level:
            if candidate.charges or candidate.retry_key:
                return True
    return False


async def _facts(level: Level, facts: Facts, budgets: Budgets) -> Facts:
    """Add what this level alone knows: its results, its order and its names."""
    if level.results is not None:
        facts = structs.replace(facts, results=level.results)
    if level.standing is None:
        return facts
    found = list(await budgets.standing(level.standing.keys))
    awaited, names = level.standing.awaited, level.standing.binds.names
    happened = frozenset(step for step, total in zip(awaited, found, strict=False) if total)
    bound = FrozenMapping(dict(zip(names, found[len(awaited) :], strict=True)))
    return structs.replace(facts, happened=happened, bound=bound)


def _candidates(call: ToolCall, level: Level, admitted: Admitted) -> Sequence[Candidate]:
    """What is asked of the budgets at a level; kept where no part of it is the call's."""
    made = [_candidate(call, level, option) for option in admitted.options]
    if admitted.fixed and level.standing is None and not any(candidate.retry_key for candidate in made):
        level.made[id(admitted)] = admitted, made
    return made


def _candidate(call: ToolCall, level: Level, option: Option) -> Candidate:
    if not option.charges and option.attempts <= 1 and level.standing is None:
        return Candidate(option.step)
    charges = tuple([Charge(f"{level.scope}/{c.key}", c.limit, c.amount, c.per) for c in option.charges])
    if level.standing is not None:
        charges += tuple(level.standing.charges(option.step, call))
    # INVARIANT: another task's call is never taken for another attempt of this one.
    retry = f"{level.home}/{option.step}:{call.digest}" if option.attempts > 1 else ""
    return Candidate(option.step, charges, retry, option.attempts)


def _exhausted(reserved: Exhausted, levels: Levels) -> Refusal:
    label = levels.levels[reserved.level].label if reserved.level < len(levels.levels) else "limits"
    charge, what = reserved.charge, reserved.charge.key.rpartition("/")[2]
    if charge.least != "0":
        miss = Miss(reserved.step, kind="after", text=f"step {reserved.step} waits for {what.removeprefix('done.')}")
        return Refusal(Reason.ARGUMENT_VIOLATION, level=label, miss=miss)
    if charge.value:
        name = what.removeprefix("bind.")
        miss = Miss(reserved.step, kind="bind", text=f"the value must be the same {name} as before")
        return Refusal(Reason.ARGUMENT_VIOLATION, level=label, miss=miss)
    what = charge.key.partition("/")[2].partition("[")[0]  # INVARIANT: without the values that are counted by
    text = f"step {reserved.step} is used up ({what}, limit {charge.limit})"
    return Refusal(Reason.BUDGET_EXHAUSTED, level=label, miss=Miss(step=reserved.step, kind="budget", text=text))
