"""Compiles an intent once, to closures indexed by tool name: steps of other tools cost a call nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from msgspec import Struct

from agentguard.errors import ConfigurationError
from agentguard.intent.charges import Admits, admits_of, counter_of, limit_charges, spellings
from agentguard.intent.constraint import Constraint, Names
from agentguard.intent.document import Path
from agentguard.intent.forbid import Forbid
from agentguard.intent.intent import Intent
from agentguard.intent.limits import Limits, Otherwise
from agentguard.intent.literal import thawed
from agentguard.intent.mistakes import Mistakes
from agentguard.intent.presence import ANY
from agentguard.intent.sets import ValueSet
from agentguard.intent.step import Step
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, MISSING, Facts, Test, Truth, unset, value_of
from agentguard.intent.verdict import Admitted, Option
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.decision import Outcome
from agentguard.ports import Charge

Judge: TypeAlias = Callable[[ToolCall, Facts], Truth]
Matcher: TypeAlias = Callable[[str], bool]


class Part(Struct, frozen=True):
    """One constraint of an argument, with its test: what an explanation names."""

    constraint: Constraint
    test: Test


class CompiledStep(Struct, frozen=True):
    """A step with what judges a call, and what it answers if it holds."""

    step: Step
    judge: Judge
    admits: Admits
    parts: tuple[tuple[str, tuple[Part, ...]], ...]


class CompiledForbid(Struct, frozen=True):
    """A forbid with its place in the intent."""

    name: str
    forbid: Forbid
    judge: Judge


class Rules(Struct, frozen=True):
    """What `check` looks at, in its order; `only` is looked at first, and says nothing that the others do not."""

    forbids: tuple[CompiledForbid, ...]
    forbids_of: Mapping[str, tuple[CompiledForbid, ...]]
    everywhere: tuple[tuple[str, tuple[Part, ...], Test], ...]
    steps: Mapping[str, tuple[CompiledStep, ...]]
    reads: Callable[[ToolSpec], bool]
    reads_by_name: Matcher
    read: Admitted
    otherwise: Callable[[ToolSpec], Admitted | None]
    only: Mapping[str, CompiledStep]


def rules_of(intent: Intent, *, ceiling: bool) -> Rules:
    """Build the rules of an intent.

    Raises:
        ConfigurationError: a set is not resolved; or a ceiling has parameters, an order, or a budget without a window.
    """
    if ceiling and (found := list(_ceiling_mistakes(intent))):
        raise Mistakes(f"{intent.name!r} cannot be a ceiling:", found)
    intent = _literal(intent)
    charged = limit_charges(intent.limits or Limits())
    forbids = [CompiledForbid(f"forbid[{i}]", entry, _forbid(entry)) for i, entry in enumerate(intent.forbid)]
    exact = {entry.forbid.tool for entry in forbids if entry.forbid.tool and "*" not in entry.forbid.tool}
    admits, matches = _reads(intent.reads)
    steps = _steps(intent, ceiling, charged)
    return Rules(
        forbids=tuple(entry for entry in forbids if entry.forbid.tool not in exact),
        forbids_of={tool: tuple(entry for entry in forbids if _covers(entry, exact - {tool})) for tool in exact},
        everywhere=tuple((name, _parts(name, said), said.test(name)) for name, said in intent.everywhere.items()),
        steps=steps,
        only={} if forbids or intent.everywhere else _only(steps),
        reads=admits,
        reads_by_name=matches,
        read=Admitted((Option("reads", Outcome.PERMIT, charged),), fixed=True),
        otherwise=_otherwise(intent.otherwise, charged),
    )


def _literal(intent: Intent) -> Intent:
    """Return the intent with what its sets and its defines stand for, inside every constraint."""
    sets: dict[str, tuple[Any, ...]] = {}
    for name, source in intent.sets.items():
        if not isinstance(source, ValueSet):
            raise ConfigurationError(f"the set {name!r} is not resolved yet; call intent.resolve(resolvers) first")
        sets[name] = tuple(map(thawed, source.values))
    return intent.with_names(Names(sets, intent.define))


def _otherwise(said: Otherwise | None, limits: tuple[Charge, ...]) -> Callable[[ToolSpec], Admitted | None]:
    if said is None:
        return lambda spec: None
    own = (Charge("otherwise#calls", str(said.calls.n), per=said.calls.window),) if said.calls else ()
    asks = Admitted((Option("otherwise", Outcome.ASK, (*own, *limits)),), fixed=True)
    matchers = tuple(map(_matcher, said.tools))

    # INVARIANT: what no step names is never destroyed, whoever says yes.
    def covers(spec: ToolSpec) -> Admitted | None:
        if spec.effect is Effect.DESTRUCTIVE or not any(matches(spec.name) for matches in matchers):
            return None
        return asks

    return covers


def _covers(entry: CompiledForbid, other_tools: set[str]) -> bool:
    return entry.forbid.tool not in other_tools


def _ceiling_mistakes(intent: Intent) -> Iterator[tuple[Path, str]]:
    why = "its counter runs over all tasks of the agent, so it needs a window"
    for name in intent.params:
        yield ("params", name), "a ceiling holds for every task, so it has no parameters; write the value"
    for index, step in enumerate(intent.steps):
        if step.uses and not step.uses.window:
            yield ("steps", index, "times"), f"{why}: {{n: {step.uses.n}, per: 1h}}"
        if step.unrepeated:
            yield ("steps", index, "distinct"), "a ceiling would remember every value for ever; leave it to the intents"
        if step.earlier:
            yield (
                ("steps", index, "after"),
                "a ceiling holds for every task, so it has no order; leave it to the intents",
            )
        for name, total in step.totals.items():
            if not total.window:
                yield ("steps", index, "total", name), f"{why}: {{max: {total.limit}, per: 1h}}"
    for name in (intent.limits or Limits()).unbounded():
        yield ("limits", name), f"{why}: {{n: 1000, per: 1h}}"
    if intent.otherwise and intent.otherwise.calls and not intent.otherwise.calls.window:
        yield ("otherwise", "calls"), f"{why}: {{n: {intent.otherwise.calls.n}, per: 1h}}"


def _steps(intent: Intent, ceiling: bool, limits: tuple[Charge, ...]) -> dict[str, tuple[CompiledStep, ...]]:
    by_tool: dict[str, list[CompiledStep]] = {}
    spelled = spellings(intent.steps, intent.everywhere)
    for step in intent.steps:
        parts = tuple((name, _parts(name, said)) for name, said in step.args.items())
        admits = admits_of(step, ceiling=ceiling, limits=limits, spelled=spelled[counter_of(step)])
        compiled = CompiledStep(step, _judge(step), admits, parts)
        by_tool.setdefault(step.tool, []).append(compiled)
    # INVARIANT: those that permit come before those that ask, each in the order written.
    return {
        tool: tuple(sorted(steps, key=lambda item: item.step.outcome is Outcome.ASK)) for tool, steps in by_tool.items()
    }


def _only(steps: Mapping[str, tuple[CompiledStep, ...]]) -> dict[str, CompiledStep]:
    """The tools about which nothing but one step, that waits for no other, says anything."""
    return {tool: found[0] for tool, found in steps.items() if len(found) == 1 and not found[0].step.earlier}


def _parts(argument: str, said: Constraint) -> tuple[Part, ...]:
    return tuple(Part(part, part.test(argument)) for part in said.parts)


def _judge(step: Step) -> Judge:
    names = frozenset(step.args)
    # What always holds is left out, and what says several things is looked at thing by thing.
    said = [(name, part) for name, all_of in step.args.items() for part in all_of.parts if part is not ANY]
    tests = tuple((name, part.test(name)) for name, part in said)

    def judge(call: ToolCall, facts: Facts) -> Truth:
        arguments = call.arguments
        # INVARIANT: arguments are closed: one that the step does not mention is absent or equals its default.
        if not arguments.keys() <= names:
            for name, value in arguments.items():
                if name not in names and not unset(name, value, call):
                    return FAIL
        truth = HOLD
        for name, test in tests:
            given: Any = arguments.get(name, MISSING)
            if given is MISSING:
                given = call.spec.defaults.get(name, MISSING)
            verdict = test(given, call, facts)
            if verdict is FAIL:
                return FAIL
            if verdict is CANNOT_TELL:
                truth = CANNOT_TELL
        return truth

    return judge


def _forbid(entry: Forbid) -> Judge:
    tool, tags, seen = _matcher(entry.tool or "*"), frozenset(entry.tags), frozenset(entry.seen)
    tests = tuple((name, said.lifted(name)) for name, said in entry.args.items())

    def judge(call: ToolCall, facts: Facts) -> Truth:
        spec = call.spec
        if not tool(spec.name) or (tags and tags.isdisjoint(spec.tags)) or (seen and seen.isdisjoint(facts.seen)):
            return FAIL
        truth = HOLD
        for name, test in tests:
            value = value_of(name, call)
            verdict = FAIL if value is MISSING else test(value, call, facts)
            if verdict is FAIL:
                return FAIL
            if verdict is CANNOT_TELL:
                truth = CANNOT_TELL
        return truth

    return judge


def _matcher(pattern: str) -> Matcher:
    if pattern == "*":
        return lambda name: True
    if pattern.endswith(".*"):
        start = pattern[:-1]
        return lambda name: name.startswith(start)
    return lambda name: name == pattern


def _reads(patterns: tuple[str, ...]) -> tuple[Callable[[ToolSpec], bool], Matcher]:
    exact = frozenset(pattern for pattern in patterns if "*" not in pattern)
    starts = tuple(pattern[:-1] for pattern in patterns if pattern.endswith(".*"))
    everything = "*" in patterns

    def matches(name: str) -> bool:
        return name in exact or everything or (bool(starts) and name.startswith(starts))

    def admits(spec: ToolSpec) -> bool:
        if spec.effect is not Effect.READ or "egress" in spec.tags:
            return False
        return spec.name in exact if spec.data else matches(spec.name)

    return admits, matches
