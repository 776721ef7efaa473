"""What loads and is still not what its author means: pure, over an intent and what its tools declare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from agentguard.intent.check import compile_intent
from agentguard.intent.constraint import Constraint, Names
from agentguard.intent.document import Path, nearest
from agentguard.intent.intent import Intent
from agentguard.intent.limits import Example
from agentguard.intent.literal import thawed
from agentguard.intent.overlap import earlier_steps, hides, overlapping
from agentguard.intent.presence import AnyValue, Not
from agentguard.intent.provenance import From
from agentguard.intent.said_words import Said
from agentguard.intent.sets import ValueSet
from agentguard.intent.step import Step
from agentguard.intent.truth import CANNOT_TELL, MISSING, Facts, Test, value_of
from agentguard.intent.untrusted import feeds, outsiders_write
from agentguard.intent.verdict import Admitted
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.decision import Miss, Outcome


class Level(StrEnum):
    """How bad it is; a note fails nothing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Finding(Struct, frozen=True):
    """One thing that lint found.

    Args:
        level: error, warning or note.
        path: where, in the intent.
        text: what is wrong.
        instead: what to write.
    """

    level: Level
    path: Path
    text: str
    instead: str = ""


class _Subject(Struct, frozen=True):
    """An intent whose sets and defines are filled in, with what is known of its tools; None where nothing is."""

    intent: Intent
    specs: Mapping[str, ToolSpec] | None

    def spec(self, tool: str) -> ToolSpec:
        """What a tool declares; one that nobody declared is a write."""
        return (self.specs or {}).get(tool) or ToolSpec(name=tool)

    def steps(self) -> Iterator[tuple[Path, Step, ToolSpec]]:
        for index, step in enumerate(self.intent.steps):
            yield ("steps", index), step, self.spec(step.tool)


def lint(intent: Intent, specs: Mapping[str, ToolSpec] | None = None) -> tuple[Finding, ...]:
    """Return what is found in an intent and in what its sub-agents get, in the order of the rules.

    Args:
        intent: its sets hold their members.
        specs: what the tools declare, by name; None where nobody knows, so that every tool counts as a write.
    """
    members = {name: _members(source) for name, source in intent.sets.items()}
    subject = _Subject(intent.with_names(Names(members, intent.define)), specs)
    found = [finding for rule in RULES for finding in rule(subject)]
    for agent, sub in intent.agents.items():
        found += [replace(item, path=("agents", agent, *item.path)) for item in lint(sub, specs)]
    return tuple(found)


def _members(source: object) -> tuple[object, ...]:
    return tuple(map(thawed, source.values)) if isinstance(source, ValueSet) else ()


# --- the rules --------------------------------------------------------------------------------------------------------


def _unknown_names(subject: _Subject) -> Iterator[Finding]:
    if subject.specs is None:
        return
    for path, step, spec in subject.steps():
        if step.tool not in subject.specs:
            text = f"no tool is called {step.tool!r}{nearest(step.tool, subject.specs)}"
            yield Finding(
                Level.ERROR, (*path, "tool"), text, "a name that the tools file declares, or declare it there"
            )
            continue
        for name in step.args:
            if name in spec.hidden or name == spec.credential:
                text = (
                    f"{name} is filled by the framework or the guard, never by a caller, so nothing can be said of it"
                )
                yield Finding(Level.ERROR, (*path, "args", name), text, "nothing; leave it out")
            elif spec.parameters is not None and name not in spec.parameters:
                text = f"{step.tool} has no argument {name!r}{nearest(name, spec.parameters)}"
                takes = f"one of {', '.join(sorted(spec.parameters))}" if spec.parameters else "no arguments"
                yield Finding(Level.ERROR, (*path, "args", name), text, takes)


def _steps_in_each_others_way(subject: _Subject) -> Iterator[Finding]:
    places = {step.id: path for path, step, _ in subject.steps()}
    for tool, steps in earlier_steps(subject.intent.steps).items():
        spec = subject.spec(tool)
        for index, step in enumerate(steps):
            for first in steps[:index]:
                if hides(first, step, spec):
                    text = f"this step is never used: {first.id} takes every call of it, and is looked at first"
                    instead = (
                        "nothing, or the narrower of the two first; a step that permits stands before one that asks"
                    )
                    yield Finding(Level.WARNING, (*places[step.id], "tool"), text, instead)
                elif _adds_up(first, step) and overlapping(first, step, spec, subject.intent):
                    text = f"{first.id} takes some of the same calls, so the budgets of the two add up"
                    instead = "arguments that exclude each other, or one budget: NAME in both steps"
                    yield Finding(Level.WARNING, (*places[step.id], "tool"), text, instead)


def _adds_up(first: Step, second: Step) -> bool:
    return first.outcome is second.outcome and not (first.shared and first.shared == second.shared)


def _sums_apart(subject: _Subject) -> Iterator[Finding]:
    """Yield the steps of a budget whose sums no earlier step of it shares, as their arguments have other names."""
    first: dict[str, Step] = {}
    for path, step, _ in subject.steps():
        if not step.shared or not step.totals:
            continue
        other = first.setdefault(step.shared, step)
        if other.totals.keys().isdisjoint(step.totals):
            text = f"{', '.join(step.totals)} is summed apart from {', '.join(other.totals)} of {other.id}"
            text += f": in budget {step.shared} only arguments of one name share a sum"
            yield Finding(
                Level.WARNING, (*path, "total"), text, "limits that together are what is meant, and no budget"
            )


def _max_without_min(subject: _Subject) -> Iterator[Finding]:
    for path, step, spec in subject.steps():
        for name, said in step.args.items() if spec.effect is not Effect.READ else ():
            if name in step.totals:
                continue  # nothing below 0 is summed
            for bound in _open_below(said):
                text = f"{name} has a max and no min, so a negative number passes, to a tool that writes"
                yield Finding(Level.ERROR, (*path, "args", name), text, f"{name}: {{min: 0, max: {bound}}}")


def _open_below(said: Constraint) -> Iterator[object]:
    """Yield the bound of every `max` without a `min` beside it."""
    if isinstance(said, Not | From):
        return
    words = {part.word: part for part in said.parts}
    if "max" in words and "min" not in words:
        yield getattr(words["max"], "bound", "")
    for part in said.parts:
        for inner in part.inside():
            yield from _open_below(inner)


def _reads(subject: _Subject) -> Iterator[Finding]:
    """Yield what is wrong with each pattern of reads, where the tools are known."""
    named = {step.tool for step in subject.intent.steps}
    for index, pattern in enumerate(subject.intent.reads if subject.specs is not None else ()):
        path = ("reads", index)
        tools = [spec for spec in (subject.specs or {}).values() if _matches(pattern, spec.name)]
        admitted = [spec for spec in tools if spec.effect is Effect.READ and "egress" not in spec.tags]
        if not admitted:
            why = f"{pattern} never admits anything: reads is for tools with effect read that let no data out"
            none = f"{pattern} matches no declared tool{nearest(pattern, subject.specs or ())}"
            yield Finding(Level.WARNING, path, why if tools else none, "a step for it" if tools else "a declared tool")
        if closed := [spec.name for spec in admitted if spec.name in named]:
            text = f"a step names {', '.join(closed)}, which closes reads for it"
            yield Finding(Level.NOTE, path, text, "nothing here, or no step")
        yield from _open_reads(subject, path, pattern, [spec for spec in admitted if spec.name not in named])


def _open_reads(subject: _Subject, path: Path, pattern: str, specs: list[ToolSpec]) -> Iterator[Finding]:
    by_name = [spec for spec in specs if spec.data and "*" in pattern]
    if kept := [spec for spec in by_name if spec.name not in subject.intent.reads]:
        data = f"which returns {', '.join(sorted(kept[0].data))}" if len(kept) == 1 else "which return classes of data"
        names = ", ".join(sorted(spec.name for spec in kept))
        text = f"{pattern} does not admit {names}, {data}"
        yield Finding(Level.WARNING, path, text, f"{kept[0].name}, by its exact name, or narrower patterns")
    for spec in specs:
        free = [hole for hole in spec.holes if hole not in subject.intent.everywhere]
        if free and spec not in by_name:
            text = f"{spec.name} reads {spec.resource}, and nothing says which {' and '.join(free)}"
            yield Finding(Level.WARNING, path, text, f"everywhere: {{{free[0]}: {{eq: VALUE}}}}, or a step for it")


def _matches(pattern: str, name: str) -> bool:
    return pattern in ("*", name) or (pattern.endswith(".*") and name.startswith(pattern[:-1]))


def _untrusted_into_writes(subject: _Subject) -> Iterator[Finding]:
    tools = {step.id: step.tool for step in subject.intent.steps}
    for path, step, spec in subject.steps():
        if spec.effect is Effect.READ or step.outcome is Outcome.ASK or step.accepted:
            continue
        for name, said in step.args.items():
            for source in feeds(said):
                tool = source.tool or tools.get(source.step, "")
                if outsiders_write(subject.spec(tool), source.field):
                    text = f"outsiders can write {source.field} of {tool}, which feeds {name} of a tool that writes"
                    yield Finding(
                        Level.ERROR,
                        (*path, "args", name),
                        text,
                        'then: ask, or why it is safe: accept_untrusted: "..."',
                    )


def _any_on_a_write(subject: _Subject) -> Iterator[Finding]:
    for path, step, spec in subject.steps():
        for name, said in step.args.items() if spec.effect is not Effect.READ else ():
            if any(isinstance(item, AnyValue) for item in said.walk()):
                text = f"whoever steers the model chooses {name} of a tool that writes"
                yield Finding(Level.NOTE, (*path, "args", name), text, "what it may be, if it can be said")


def _examples(subject: _Subject) -> Iterator[Finding]:
    examples = subject.intent.examples
    for word, calls in (("permit", examples.permit), ("deny", examples.deny)) if examples else ():
        for index, example in enumerate(calls):
            path: Path = ("examples", word, index)
            if subject.specs is not None and example.tool not in subject.specs:
                text = f"no tool is called {example.tool!r}{nearest(example.tool, subject.specs)}"
                yield Finding(Level.ERROR, path, text, "a name that the tools file declares")
            else:
                yield from _example(subject, path, example, permit=word == "permit")


def _example(subject: _Subject, path: Path, example: Example, *, permit: bool) -> Iterator[Finding]:
    spec = subject.spec(example.tool)
    given = {name: thawed(value) for name, value in example.args.items()}
    call = ToolCall(id="", spec=spec, arguments={**spec.defaults, **given}, given=frozenset(given), digest="")
    verdict = compile_intent(subject.intent).check(call, Facts())
    if isinstance(verdict, Admitted):
        if not permit:
            option = verdict.options[0]
            text = f"the intent does not deny this: {option.step} says {option.outcome}"
            yield Finding(Level.ERROR, path, text, f"a narrower {option.step}, or the example under permit")
    elif permit and _depends(subject.intent, call, verdict.miss):
        text = f"not run, as it depends on earlier calls: {verdict.miss.text}"
        yield Finding(Level.NOTE, path, text, "agentguard explain with --results")
    elif permit:
        yield Finding(Level.ERROR, path, f"the intent denies this: {verdict.miss.text}", "what it lacks into the step")


def _depends(intent: Intent, call: ToolCall, miss: Miss) -> bool:
    """Whether nobody can tell without what earlier calls returned, or what the subject said."""
    if miss.kind == "after":
        return True
    if miss.kind == "forbid":
        entry = intent.forbid[int(miss.step.removeprefix("forbid[").removesuffix("]"))]
        return any(_waits(said, said.lifted(name), name, call) for name, said in entry.args.items())
    places = {"everywhere": intent.everywhere} | {step.id: step.args for step in intent.steps}
    said = places[miss.step].get(miss.argument) if miss.step in places else None
    parts = [part for part in said.parts if part.word == miss.kind] if said is not None else []
    return any(_waits(part, part.test(miss.argument), miss.argument, call) for part in parts)


def _waits(said: Constraint, test: Test, name: str, call: ToolCall) -> bool:
    if not any(isinstance(item, From | Said) for item in said.walk()):
        return False
    value = value_of(name, call)
    return value is not MISSING and test(value, call, Facts()) is CANNOT_TELL


Rule = Callable[[_Subject], Iterator[Finding]]
RULES: Final[tuple[Rule, ...]] = (
    _unknown_names,
    _steps_in_each_others_way,
    _sums_apart,
    _max_without_min,
    _reads,
    _untrusted_into_writes,
    _any_on_a_write,
    _examples,
)
