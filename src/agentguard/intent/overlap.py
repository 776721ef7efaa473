"""Whether two steps take the same calls: certainly both (a witness), or one all that the other takes. Never a guess."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from agentguard.intent.address import Email
from agentguard.intent.binds import Bind
from agentguard.intent.charges import acts
from agentguard.intent.constraint import AllOf, AnyOf, Constraint
from agentguard.intent.effective import concerns
from agentguard.intent.forbid import Forbid
from agentguard.intent.intent import Intent
from agentguard.intent.literal import FrozenMapping, thawed
from agentguard.intent.presence import Absent, AnyValue, OptionalValue
from agentguard.intent.provenance import From
from agentguard.intent.references import Is, SameAs
from agentguard.intent.said_words import Said
from agentguard.intent.step import Step
from agentguard.intent.structures import Each, Items, Keys
from agentguard.intent.texts import Text
from agentguard.intent.truth import FAIL, HOLD, MISSING, Facts, Truth, is_empty
from agentguard.model.call import ToolCall, ToolSpec
from agentguard.model.decision import Outcome

_NOTHING_KNOWN: Final = Facts()
_ABSENT: Final = Absent()
_ALIKE: Final = object()  # some value that nobody here can name, for which two equal constraints hold
# Values that many kinds hold for, tried beside the literals of the two constraints.
_TRIED: Final[tuple[Any, ...]] = ("x", "Thank you", Decimal(1), Decimal(0), True, None, (), {}, "2027-03-31")


def overlapping(first: Step, second: Step, spec: ToolSpec, intent: Intent) -> bool:
    """Tell whether some call is certainly taken by both steps of an intent; its constraints hold what they name.

    A call that `everywhere` or a forbid denies is taken by neither.
    """
    unnamed = {name: (_ABSENT, _ABSENT) for name in intent.everywhere if name in spec.defaults}
    taken = {
        name: _values_of_both(*said, name, spec, intent.everywhere.get(name))
        for name, said in {**unnamed, **dict(_arguments(first, second))}.items()
    }
    for entry in intent.forbid:
        if concerns(entry, spec) and not entry.seen:
            if not (spared := _spared(entry, taken, spec)):
                return False
            taken |= spared
    return all(taken.values())


def hides(first: Step, second: Step, spec: ToolSpec) -> bool:
    """Tell whether a step that is looked at first takes every call of another, so that the other is never used."""
    if not set(first.earlier) <= set(second.earlier) or _ends(first, spec):
        return False
    return all(covers(*said, name, spec) for name, said in _arguments(first, second))


def _ends(step: Step, spec: ToolSpec) -> bool:
    """Whether a budget of the step can be used up, so that the next step gets its turn."""
    return bool(step.uses or step.totals or step.unrepeated or acts(spec))


def _arguments(first: Step, second: Step) -> Iterator[tuple[str, tuple[Constraint, Constraint]]]:
    for name in dict.fromkeys((*first.args, *second.args)):
        yield name, (first.args.get(name, _ABSENT), second.args.get(name, _ABSENT))


def judged(said: Constraint, value: Any, name: str, spec: ToolSpec) -> Truth:
    """Judge one value of an argument, with nothing else known."""
    return said.test(name)(value, _call(value, name, spec), _NOTHING_KNOWN)


def _call(value: Any, name: str, spec: ToolSpec) -> ToolCall:
    arguments = dict(spec.defaults) | ({} if value is MISSING else {name: value})
    return ToolCall(id="", spec=spec, arguments=arguments, given=frozenset(arguments), digest="")


def _values_of_both(
    first: Constraint, second: Constraint, name: str, spec: ToolSpec, always: Constraint | None
) -> list[Any]:
    """The values for which both constraints hold, and what holds for every call; some, or none that is certain."""
    if first != second and any(isinstance(item, SameAs) for said in (first, second) for item in said.walk()):
        return []  # whether it holds is up to another argument
    rules = [first, second] if always is None else [first, second, always]
    tried = (*(value for said in rules for value in _values(said)), *_TRIED, spec.defaults.get(name, MISSING))
    found = [value for value in tried if all(judged(said, value, name, spec) is HOLD for said in rules[:2])]
    if always is not None:
        found = [value for value in found if value is MISSING or judged(always, value, name, spec) is HOLD]
    return found or ([_ALIKE] if first == second and always in (None, first) else [])


def _spared(entry: Forbid, taken: Mapping[str, list[Any]], spec: ToolSpec) -> Mapping[str, list[Any]]:
    """The values of one argument that a forbid certainly does not match; none where it may match every call."""
    for name, said in entry.args.items():
        values = taken.get(name, [spec.defaults.get(name, MISSING)])
        if spared := [value for value in values if _unmatched(said, value, name, spec)]:
            return {name: spared}
    return {}


def _unmatched(said: Constraint, value: Any, name: str, spec: ToolSpec) -> bool:
    if value is MISSING or value is _ALIKE:
        return value is MISSING
    return said.lifted(name)(value, _call(value, name, spec), _NOTHING_KNOWN) is FAIL


def _values(said: Constraint) -> Iterator[Any]:
    """The literals of a constraint, and lists and mappings made of them."""
    for item in said.walk():
        literals = getattr(item, "values", None) or getattr(item, "members", None) or ()
        for value in literals if isinstance(literals, tuple) else ():
            yield from (thawed(value), (thawed(value),))
        for word in ("bound", "start", "on", "min", "max"):
            if isinstance(value := getattr(item, word, None), Decimal) or (isinstance(value, str) and value):
                yield value
        if isinstance(item, Email):
            yield from (address := f"x@{item.domains[0]}", (address,))


def covers(wide: Constraint, narrow: Constraint, name: str, spec: ToolSpec) -> bool:
    """Tell whether one constraint certainly holds for every value that another holds for."""
    wide, narrow = _named(wide), _named(narrow)
    if wide == narrow or isinstance(wide, AnyValue):
        return True
    if isinstance(narrow, AnyOf):
        return all(covers(wide, item, name, spec) for item in narrow.alternatives)
    if isinstance(wide, AllOf):
        return all(covers(item, narrow, name, spec) for item in wide.constraints)
    if isinstance(wide, AnyOf) and any(covers(item, narrow, name, spec) for item in wide.alternatives):
        return True
    if isinstance(narrow, AllOf):
        return any(covers(wide, item, name, spec) for item in narrow.constraints)
    return _one_covers(wide, narrow, name, spec)


def _named(said: Constraint) -> Constraint:
    return _named(said.defined) if isinstance(said, Is) and said.defined is not None else said


def _one_covers(wide: Constraint, narrow: Constraint, name: str, spec: ToolSpec) -> bool:
    if isinstance(narrow, Absent):
        default = spec.defaults.get(name, MISSING)
        alike: tuple[Any, ...] = (None, (), {}) if name in spec.null_is_empty and is_empty(default) else ()
        return all(judged(wide, value, name, spec) is HOLD for value in (default, *alike))
    if isinstance(narrow, OptionalValue):
        return covers(wide, _ABSENT, name, spec) and covers(wide, narrow.constraint, name, spec)
    if isinstance(wide, OptionalValue):
        return covers(wide.constraint, narrow, name, spec)
    literals = getattr(narrow, "values", None) or getattr(narrow, "members", None)
    if literals and not getattr(narrow, "fold", False) and not _needs_facts(wide):
        return all(judged(wide, thawed(value), name, spec) is HOLD for value in literals)
    if type(wide) is not type(narrow):
        return False
    return _same_kind_covers(wide, narrow, name, spec)


def _same_kind_covers(wide: Any, narrow: Any, name: str, spec: ToolSpec) -> bool:
    match wide.word:
        case "min":
            return bool(wide.bound <= narrow.bound)
        case "max":
            return bool(wide.bound >= narrow.bound)
        case "prefix":
            return bool(narrow.start.startswith(wide.start))
    match wide:
        case Text():
            fits = wide.max is None or (narrow.max is not None and narrow.max <= wide.max)
            return fits and set(narrow.hosts) <= set(wide.hosts) and narrow.source in (None, wide.source)
        case Email():
            return set(narrow.domains) <= set(wide.domains)
        case Items():
            most = wide.max is None or (narrow.max is not None and narrow.max <= wide.max)
            return most and (wide.min or 0) <= (narrow.min or 0)
        case Each():
            return covers(wide.constraint, narrow.constraint, "", spec)
        case Keys():
            return _keys_cover(wide.entries, narrow.entries, spec)
    return False


def _keys_cover(wide: Mapping[str, Constraint], narrow: Mapping[str, Constraint], spec: ToolSpec) -> bool:
    return wide.keys() == narrow.keys() and all(covers(said, narrow[key], "", spec) for key, said in wide.items())


def _needs_facts(said: Constraint) -> bool:
    """Whether it depends on more than the one value."""
    return any(isinstance(item, From | Said | SameAs | Bind) for item in said.walk())


def earlier_steps(steps: Iterable[Step]) -> Mapping[str, tuple[Step, ...]]:
    """Return the steps of each tool, in the order in which they are looked at: those that permit, then those that ask.

    The order is that of the compiler.
    """
    found: dict[str, tuple[Step, ...]] = {}
    for step in steps:
        found[step.tool] = (*found.get(step.tool, ()), step)
    return FrozenMapping(
        {tool: tuple(sorted(group, key=lambda step: step.outcome is Outcome.ASK)) for tool, group in found.items()}
    )
