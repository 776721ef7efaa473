"""Step 3 of the pipeline: at every level of the chain a step is found and reserved, or nothing is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct, structs

from agentguard.intent import Admitted, CompiledIntent, Facts, Option
from agentguard.intent.binds import Binds, bind_key, binds_of
from agentguard.intent.charges import Admits
from agentguard.intent.literal import FrozenMapping
from agentguard.intent.provenance import Source, sources_of
from agentguard.intent.step import Step
from agentguard.intent.sure import Sure, sure_of
from agentguard.model.call import ToolCall, ToolSpec
from agentguard.model.decision import STRICTNESS, Decision, Miss, Outcome, Reason
from agentguard.ports import Budgets, Candidate, Charge, Exhausted, Reservation
from agentguard.refusal import Refusal
from agentguard.results import View

if TYPE_CHECKING:
    from agentguard.task import Task

_NO_LIMIT: Final = "Infinity"


class Standing(NamedTuple):
    """What a level has to know of what was consumed before: the order of its steps, and what its names stand for.

    Args:
        home: where that is counted: for the tasks of one root, also at a ceiling.
        waits: for each step that waits, the steps that must have been consumed.
        awaited: the steps that another one waits for.
        binds: which arguments set a name.
    """

    home: str
    waits: dict[str, tuple[str, ...]]
    awaited: tuple[str, ...]
    binds: Binds

    @property
    def keys(self) -> list[str]:
        """What is asked of the budgets before a check."""
        return [f"{self.home}/{key}" for key in (*map(_done, self.awaited), *map(bind_key, self.binds.names))]

    def charges(self, step: str, call: ToolCall) -> Iterator[Charge]:
        """Yield what consuming a step needs, and what it leaves; in the same atomic step as its budget."""
        for earlier in self.waits.get(step, ()):
            yield Charge(f"{self.home}/{_done(earlier)}", _NO_LIMIT, "0", least="1")
        if step in self.awaited:
            yield Charge(f"{self.home}/{_done(step)}", _NO_LIMIT)
        for charge in self.binds.charges(step, call) if self.binds else ():
            yield structs.replace(charge, key=f"{self.home}/{charge.key}")


class Level(NamedTuple):
    """One level of the chain: a task's intent or an agent's ceiling, and the scope of its counters.

    Args:
        label: for people.
        scope: names its counters, and in the results the steps that were consumed at it.
        intent: what a call must match here.
        task: the task that ends or is suspended by it.
        standing: None where nothing that was consumed before matters, beside the budgets.
        sources: which earlier results its `from` look at.
        results: what is visible of them; None where there is no `from`.
        made: the candidates of what answers every call alike, by its id and with it, so that no id is used twice.
    """

    label: str
    scope: str
    intent: CompiledIntent
    task: Task
    standing: Standing | None
    sources: frozenset[Source]
    results: View | None
    made: dict[int, tuple[Admitted, Sequence[Candidate]]]


class Matched(Struct, frozen=True):
    """A call that is admitted at every level.

    Args:
        decision: the strictest outcome of all levels, with the step of each.
        reservation: None where nothing is counted.
        ending: tasks that end once the call's outcome is recorded.
    """

    decision: Decision
    reservation: Reservation | None
    ending: tuple[Task, ...]


class Levels(NamedTuple):
    """All levels of a task, and the call limits of the agents in its chain; made once per task.

    Args:
        levels: from the root to the task.
        limits: one more candidate each, behind those of the levels.
        known: what was made of it for a tool, by the id of its declaration and with it, so that no id is used twice.
    """

    levels: tuple[Level, ...]
    limits: tuple[tuple[Candidate, ...], ...]
    known: dict[int, _Known]
    counts: dict[tuple[str, int], list[tuple[Level, Candidate]]]  # what `counted` says, made once


class _Known(Struct, frozen=True):
    """What all levels of a task say about a tool that each of them names in one step, or reads by a pattern.

    It answers a call that every level admits; for any other call they are asked one by one.

    Args:
        spec: the tool.
        sure: tells that every level admits a call; None where that takes more than the call and the tree.
        matched: the answer where nothing is counted; with another reservation it is that of every call.
        admits: what admits a call at each level.
        candidates: what is asked of the budgets; None where it is the call's own.
        counted: whether anything is.
    """

    spec: ToolSpec
    sure: Sure | None
    matched: Matched
    admits: tuple[Admits, ...] = ()
    candidates: Sequence[Sequence[Candidate]] | None = None
    counted: bool = True


_MOST_KNOWN: Final = 1_000  # tools of a task; an application may make others for every call


def levels_of(task: Task) -> Levels:
    """Every intent that a call under a task must match, made once: each task of the chain, and its agent's ceiling."""
    levels: Levels = task.cache.get("levels") or task.cache.setdefault("levels", _levels(task))
    return levels


def _levels(task: Task) -> Levels:
    found: list[Level] = []
    limits: list[tuple[Candidate, ...]] = []
    for link in task.path:
        name = link.agent.agent.name
        scope = name.replace("/", "%2F")
        own = f"task:{link.id}"
        found.append(_level(name, own, own, link.intent, link, task))
        if link.agent.ceiling is not None:
            home = f"task:{task.root.id}/ceiling:{scope}"
            found.append(_level(f"ceiling:{name}", f"ceiling:{scope}", home, link.agent.ceiling, link, task))
        if link.agent.calls is not None:
            most, per = link.agent.calls
            limits.append((Candidate("limits", (Charge(f"agent:{scope}/calls", str(most), per=per),)),))
    return Levels(tuple(found), tuple(limits), {}, {})


def _level(label: str, scope: str, home: str, intent: CompiledIntent, link: Task, task: Task) -> Level:
    waits = {step.id: step.earlier for step in intent.intent.steps if step.earlier}
    awaited = tuple(dict.fromkeys(name for earlier in waits.values() for name in earlier))
    binds = intent.intent.derived("binds", lambda: binds_of(intent.intent))
    standing = Standing(home, waits, awaited, binds) if awaited or binds else None
    sources = intent.intent.derived("sources", lambda: sources_of(intent.intent))
    view = View(task.tree.results, tuple([above.id for above in task.path]), scope) if sources else None
    return Level(label, scope, intent, link, standing, sources, view, {})


def need_results(task: Task) -> None:
    """From now on the tree records what a `from` of this task, or of its agent's ceiling, looks at."""
    for level in levels_of(task).levels:
        if level.task is task and level.sources:
            task.tree.results.need(level.sources, level.scope)


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
    outcome, ending = Outcome.PERMIT, []
    for level, option in zip(levels.levels, used, strict=True):
        if option.outcome is not outcome and STRICTNESS[option.outcome] > STRICTNESS[outcome]:
            outcome = option.outcome
        if option.ends_task:
            ending.append(level.task)
    steps = tuple([option.step for option in used])
    decision = Decision(outcome=outcome, reason=Reason.DECLARED, tool=tool, steps=steps)
    return Matched(decision, reservation, tuple(ending))


def _know(call: ToolCall, levels: Levels) -> _Known:
    """Make what can be said once for every call of a tool in a task."""
    try:
        made = _known(call, levels)
    except Exception:  # whatever is wrong, the levels say so, one by one
        made = None
    made = made or _Known(call.spec, None, _UNKNOWN)
    if len(levels.known) >= _MOST_KNOWN:
        levels.known.clear()
    levels.known[id(call.spec)] = made
    return made


def _known(call: ToolCall, levels: Levels) -> _Known | None:
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
    found = _Known(spec, sure_of(said, spec), _matched(spec.name, levels, used, None), tuple(admits))
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


def _asked(call: ToolCall, levels: Levels, known: _Known) -> Sequence[Sequence[Candidate]] | None:
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


_UNKNOWN: Final = Matched(Decision(outcome=Outcome.DENY, reason=Reason.OUTSIDE_INTENT, tool=""), None, ())


def _done(step: str) -> str:
    return f"done.{step}"


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
    retry = f"{level.scope}/{option.step}:{call.digest}" if option.attempts > 1 else ""
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
    what = charge.key.partition("/")[2]
    text = f"step {reserved.step} is used up ({what}, limit {charge.limit})"
    return Refusal(Reason.BUDGET_EXHAUSTED, level=label, miss=Miss(step=reserved.step, kind="budget", text=text))


def counted(levels: Levels, word: str, *, spare: int = 0) -> list[tuple[Level, Candidate]]:
    """What one denial, or one question to a person, charges at every level that limits them.

    Args:
        levels: those of the task.
        word: `denials` or `asks`.
        spare: how many fewer than the limit still fit.
    """
    known = levels.counts.get((word, spare))
    if known is not None:
        return known
    found = levels.counts[word, spare] = _counted(levels, word, spare)
    return found


def _counted(levels: Levels, word: str, spare: int) -> list[tuple[Level, Candidate]]:
    found = []
    for level in levels.levels:
        limit = getattr(level.intent.limits, word)
        if limit is not None:
            charge = Charge(f"{level.scope}/limits#{word}", str(limit.n - spare), per=limit.window)
            found.append((level, Candidate("limits", (charge,))))
    return found
