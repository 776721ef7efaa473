"""The literal intent: what a level of a task admits now, in words that need nothing of this process to be checked.

INVARIANT: for every call the literal intent says what the intent says at this moment, or that it cannot tell. A step,
`everywhere` and `forbid` deny where nothing can be told, and Kleene's logic keeps this through every combination of
constraints, also below `not`; so what a literal intent admits, the intent admits now. No constraints are compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeAlias

from msgspec.structs import replace

from agentguard.errors import ConfigurationError
from agentguard.intent.binds import Bind
from agentguard.intent.constraint import AllOf, AnyOf, Constraint, Names, all_of, any_of
from agentguard.intent.intent import Intent
from agentguard.intent.literal import FrozenMapping, thawed
from agentguard.intent.mistakes import Notes
from agentguard.intent.presence import Not
from agentguard.intent.provenance import From
from agentguard.intent.references import InSet, Is, SameAs
from agentguard.intent.said_words import Said, stands_in
from agentguard.intent.sets import ValueSet
from agentguard.intent.step import Step
from agentguard.intent.structures import Keys
from agentguard.intent.texts import Text
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, Facts
from agentguard.intent.values import In, Max, Prefix
from agentguard.model.call import ToolCall, ToolSpec

Change: TypeAlias = Callable[[Constraint], Constraint]

MAX_VALUES: Final = 500
_MAX_WORDS: Final = 6  # of a phrase that `said` admits
_MAX_PHRASES: Final = 120
# `prefix` cannot tell of what is no text, `max` of what is no number: together they say where nothing can be told.
# INVARIANT: none of them ever holds, not even for the text and the numbers that they name.
_TEXT: Final = Prefix("agentguard:nothing-begins-like-this:")
_NUMBER: Final = Max(Decimal(-(10**18)))
_ANYTHING_ELSE_FAILS: Final[tuple[Constraint, ...]] = (all_of((_TEXT, _NUMBER)),)  # of lists, mappings, null: cannot
_NOTHING_ELSE_IS_TOLD: Final[tuple[Constraint, ...]] = tuple(all_of((one, Not(one))) for one in (_NUMBER, _TEXT))
_NO_CALL: Final = ToolCall(
    id="", spec=ToolSpec(name="handover"), arguments=FrozenMapping(), given=frozenset(), digest=""
)
_EMPTY: Final[FrozenMapping[Any]] = FrozenMapping()


def literal_intent(intent: Intent, facts: Facts, reaches: Callable[[str], bool]) -> Intent:
    """Return what an intent admits now, without looking at anything beside the call and its budgets.

    `from` and `said` become `in`, an `after` that has happened is left out, sets hold their values. Steps of tools that
    are out of reach are left out. Budgets are not looked at.

    Args:
        intent: one level of a task, its sets resolved.
        facts: what is known at this level now.
        reaches: whether a tool can be called at all where the literal intent is used.

    Raises:
        ConfigurationError: with everything that cannot be said literally: an `after` that has not happened, a `bind`
            that is not set, a budget for each value of an argument, a `from` that looks at the call itself.
    """
    notes = Notes()
    change = partial(_literal, intent, facts, notes)
    steps = [step for step in intent.steps if reaches(step.tool)]
    for step in steps:
        for text in _unsaid(step, facts):
            notes.add(("steps", step.id), text)
    for name in sorted(_unset_names(intent.everywhere, steps, facts)):
        notes.add(("bind",), f"{name!r} is not set yet, so both sides could set it differently; call its step first")
    made = _changed(intent, [replace(step, earlier=()) for step in steps], change, notes)
    notes.raise_if_any(f"intent {intent.name!r} cannot be handed on now:")
    return made


def opened_intent(intent: Intent, facts: Facts) -> Intent:
    """Return an intent that only narrows others, for another process: its `from` holds for what was read here too.

    Its own order, names and budgets begin there.

    Raises:
        ConfigurationError: a `from` that was looked at here stands in a forbid which could not be said with it.
    """
    notes = Notes()
    made = _changed(intent, list(intent.steps), partial(_with_values, intent, facts, notes), notes)
    notes.raise_if_any(f"intent {intent.name!r} cannot narrow what is handed on:")
    return made.changed(ttl=intent.ttl, agents=intent.agents, sets=intent.sets, define=intent.define)


def reach_of(intent: Intent) -> Callable[[str], bool]:
    """Return what tells whether an intent could admit a call of a tool, whatever its arguments."""
    exact = {step.tool for step in intent.steps}
    patterns = [*intent.reads, *(intent.otherwise.tools if intent.otherwise else ())]
    starts = tuple(pattern[:-1] for pattern in patterns if pattern.endswith(".*"))

    def reaches(tool: str) -> bool:
        return tool in exact or tool in patterns or "*" in patterns or tool.startswith(starts)

    return reaches


def scope_of(intent: Intent) -> tuple[str, ...]:
    """Return the tools and patterns that an intent names, as scope values."""
    named = {step.tool for step in intent.steps} | set(intent.reads)
    return tuple(sorted(named | set(intent.otherwise.tools if intent.otherwise else ())))


def _unsaid(step: Step, facts: Facts) -> Iterator[str]:
    if missing := sorted(set(step.earlier) - facts.happened):
        yield f"it waits for {', '.join(missing)}, which has not happened; hand it on after that, or without this tool"
    if (step.uses is not None and step.uses.per) or step.unrepeated:
        yield "it counts each value of an argument by itself, which cannot be divided; hand on without this tool"


def _unset_names(everywhere: Mapping[str, Constraint], steps: Iterable[Step], facts: Facts) -> set[str]:
    said = [*everywhere.values(), *(item for step in steps for item in step.args.values())]
    names = {item.name for one in said for item in one.walk() if isinstance(item, Bind)}
    return {name for name in names if not facts.bound.get(name)}


# --- the parts of an intent -------------------------------------------------------------------------------------------


def _changed(intent: Intent, steps: list[Step], change: Change, notes: Notes) -> Intent:
    forbid = tuple(replace(entry, args=_each(entry.args, change)) for entry in intent.forbid)
    for before, after in zip(intent.forbid, forbid, strict=True):
        for name, said in before.args.items():
            if said != after.args[name] and any(map(_looks_otherwise_in_forbid, said.walk())):
                text = "a from or said beside keys, or a kind about whole lists, has no literal form"
                notes.add(("forbid", name), text)
    everywhere = _each(intent.everywhere, change)
    steps = [replace(step, args=_each(step.args, change)) for step in steps]
    used = [*everywhere.values(), *(item for step in steps for item in step.args.values())]
    used += [item for entry in forbid for item in entry.args.values()]
    defines = {name: mapped(intent.define[name], change) for name in _defines(used, intent.define)}
    sets = _names(InSet, [*used, *defines.values()])
    return intent.changed(
        steps=tuple(steps), everywhere=everywhere, forbid=forbid, define=FrozenMapping(defines),
        sets=FrozenMapping({name: intent.sets[name] for name in sorted(sets)}),
        agents=_EMPTY, examples=None, ttl=None, params=(),
    )  # fmt: skip


def _looks_otherwise_in_forbid(said: Constraint) -> bool:
    """Whether `_both`, which says it with `not`, looks at more: a forbid is open, and what is below a `not` closed."""
    return isinstance(said, AllOf) and (not said.scalar or any(isinstance(item, Keys) for item in said.walk()))


def _each(args: Mapping[str, Constraint], change: Change) -> FrozenMapping[Constraint]:
    return FrozenMapping({name: mapped(said, change) for name, said in args.items()})


def _names(kind: type[InSet | Is], said: Iterable[Constraint]) -> set[str]:
    return {item.name for one in said for item in one.walk() if isinstance(item, kind)}


def _defines(said: Iterable[Constraint], define: Mapping[str, Constraint]) -> list[str]:
    found: set[str] = set()
    new = _names(Is, said)
    while new:
        found |= new
        new = _names(Is, [define[name] for name in new]) - found
    return sorted(found)


def mapped(said: Constraint, change: Change) -> Constraint:
    """Return a constraint with `change` applied to all that stands in it; unchanged parts stay as they are."""
    made = change(said)
    if made is not said or isinstance(said, Text):  # a text names a `from` for its links, or nothing
        return made
    if isinstance(said, AllOf):
        parts = tuple(mapped(part, change) for part in said.constraints)
        return said if all(map(_is, parts, said.constraints)) else _both(parts)
    if isinstance(said, AnyOf):
        alternatives = [mapped(part, change) for part in said.alternatives]
        return said if all(map(_is, alternatives, said.alternatives)) else any_of(alternatives)
    values = {name: getattr(said, name) for name in said.__struct_fields__}
    changes = {name: after for name, value in values.items() if (after := _inside(value, change)) is not value}
    return replace(said, **changes) if changes else said


def _inside(value: Any, change: Change) -> Any:
    if isinstance(value, Constraint):
        return mapped(value, change)
    if isinstance(value, tuple):
        made = tuple(_inside(item, change) for item in value)
        return value if all(map(_is, made, value)) else made
    if isinstance(value, Mapping):
        entries = {key: _inside(item, change) for key, item in value.items()}
        return value if all(entries[key] is value[key] for key in value) else FrozenMapping(entries)
    return value


def _is(one: object, other: object) -> bool:
    return one is other


def _both(parts: tuple[Constraint, ...]) -> Constraint:
    """All of them hold: a list cannot stand beside other kinds, so it is said by De Morgan's rule.

    A `bind` stays where it is, as it must be certain that its value is consumed.
    """
    binds = [part for part in parts if any(isinstance(item, Bind) for item in part.walk())]
    rest = tuple(Not(part) for part in parts if part not in binds)
    return all_of([*binds, Not(AnyOf(rest) if len(rest) > 1 else rest[0])])


# --- what earlier results and words stand for -------------------------------------------------------------------------


def _literal(intent: Intent, facts: Facts, notes: Notes, said: Constraint) -> Constraint:
    if isinstance(said, Said):
        return _phrases(facts)
    if isinstance(said, Text) and said.source is not None:
        notes.add(
            ("text",), "its links come from an earlier call, which has no literal form; hand on without this tool"
        )
    if not isinstance(said, From):
        return said
    values, sure = _held(intent, facts, notes, said)
    return _listed(values, _ANYTHING_ELSE_FAILS if sure else _NOTHING_ELSE_IS_TOLD)


def _with_values(intent: Intent, facts: Facts, notes: Notes, said: Constraint) -> Constraint:
    if not isinstance(said, From) or said.step or said.unique:
        return said
    values, _ = _held(intent, facts, Notes(), said)
    return any_of((In(tuple(values)), said)) if values else said


def _listed(values: Iterable[Any], others: Iterable[Constraint]) -> Constraint:
    listed = tuple(values)
    return any_of([*([In(listed)] if listed else []), *others])


def _held(intent: Intent, facts: Facts, notes: Notes, said: From) -> tuple[list[Any], bool]:
    """The values for which a `from` holds now, and whether it fails for every other one."""
    if any(isinstance(item, SameAs) for item in said.walk()):
        notes.add(("from",), "it looks at another argument of the call (same_as), so it stands for no fixed values")
        return [], False
    if facts.results is None:
        return [], False
    found, _ = facts.results.of(said.source)
    values = {value for one in found for value in one.values}
    if len(values) > MAX_VALUES:
        notes.add(("from",), f"earlier results offer more than {MAX_VALUES} values; hand on without this tool")
        return [], False
    test = said.filled(_names_of(intent)).test("")
    told = {value: test(value, _NO_CALL, facts) for value in values}
    other = "x" * (1 + max((len(value) for value in values if isinstance(value, str)), default=0))
    # What cannot be written is not told there: a file holds no control characters.
    held = [value for value, truth in told.items() if truth is HOLD and (isinstance(value, Decimal) or _plain(value))]
    all_written = len(held) == sum(truth is HOLD for truth in told.values())
    sure = all_written and CANNOT_TELL not in told.values() and test(other, _NO_CALL, facts) is FAIL
    return sorted(held, key=lambda value: (type(value).__name__, value)), sure


def _plain(value: str) -> bool:
    return value.isprintable()


def _names_of(intent: Intent) -> Names:
    sets = {
        name: tuple(map(thawed, source.values)) for name, source in intent.sets.items() if isinstance(source, ValueSet)
    }
    if len(sets) != len(intent.sets):
        raise ConfigurationError("the sets of the intent are not resolved; hand on a task that is open")
    return Names(sets, intent.define)


def _phrases(facts: Facts) -> Constraint:
    """Phrases of up to six words that the subject said; of any other text it cannot be told whether it was said."""
    found: dict[str, None] = {}
    for length in range(1, _MAX_WORDS + 1):
        for words in facts.heard:
            spans = [match.span() for match in re.finditer(r"\S+", words)]
            for first, last in zip(spans, spans[length - 1 :], strict=False):
                phrase = words[first[0] : last[1]].strip("\"'()[]{}<>.,;:!? ")
                if _plain(phrase) and stands_in(phrase, words):
                    found.setdefault(phrase)
    return _listed(list(found)[:_MAX_PHRASES], _NOTHING_ELSE_IS_TOLD)
