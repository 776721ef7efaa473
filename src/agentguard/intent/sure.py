"""A quick way to a yes: what several intents say about one tool, as one test without a function for each constraint.

INVARIANT: it says yes only where every step's judge holds and no forbid does. All else, the judges say, and why. A test
compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeAlias

from agentguard.intent.compile import CompiledStep, Judge, Part, Rules
from agentguard.intent.constraint import AllOf, AnyOf, Constraint
from agentguard.intent.literal import thawed
from agentguard.intent.presence import Absent, AnyValue
from agentguard.intent.references import InSet, Is
from agentguard.intent.truth import FAIL, HOLD, MISSING, Facts, Test
from agentguard.intent.values import Eq, In, Max, Min
from agentguard.model.call import ToolCall, ToolSpec

# Whether every intent admits the call.
Sure: TypeAlias = Callable[[ToolCall, Facts], bool]

_BOUNDLESS: Final = Decimal("Infinity")
_ONE_VALUE: Final = frozenset({str, Decimal, bool, type(None)})
_ABSENT: Final = Absent()


class _Range(NamedTuple):
    """A number between two bounds, both of them in it."""

    least: Decimal = -_BOUNDLESS
    most: Decimal = _BOUNDLESS

    def also(self, other: _Range) -> _Range:
        return _Range(max(self.least, other.least), min(self.most, other.most))


class _Members(NamedTuple):
    """One of some values of one type; across types Python's `==` is not used, as True == 1 there."""

    kind: type
    values: frozenset[Any]

    def also(self, other: _Members) -> _Members:
        return _Members(self.kind, self.values & other.values if self.kind is other.kind else frozenset())


class _Said:
    """What all levels say of the arguments of a tool: in plain comparisons where it can be, else by the tests."""

    def __init__(self, spec: ToolSpec) -> None:
        self.spec = spec
        self.names: frozenset[str] | None = None  # those that may be there; None for any
        self.ranges: dict[str, _Range] = {}
        self.members: dict[str, _Members] = {}
        self.tests: list[tuple[str, Test]] = []
        self.forbids: list[Judge] = []

    def add_step(self, compiled: CompiledStep) -> None:
        mentioned = frozenset(compiled.step.args)
        names = mentioned.union(self.spec.defaults)
        self.names = names if self.names is None else self.names & names
        for name, parts in compiled.parts:
            for part in parts:
                self._add(name, part)
        # What a step does not mention equals its default.
        for name in self.spec.defaults.keys() - mentioned:
            default = self.spec.defaults[name]
            if type(default) in _ONE_VALUE and name not in self.spec.null_is_empty:
                self._add_plain(name, _Members(type(default), frozenset({default})))
            else:
                self.tests.append((name, _ABSENT.test(name)))

    def add_rules(self, rules: Rules) -> None:
        """Add what stands beside the steps."""
        self.forbids += [forbid.judge for forbid in rules.forbids_of.get(self.spec.name, rules.forbids)]
        self.tests += [(name, _if_there(test)) for name, _, test in rules.everywhere]

    def _add(self, name: str, part: Part) -> None:
        plain = _plain(part.constraint)
        if plain is None:
            self.tests.append((name, part.test))
        for one in plain or ():
            self._add_plain(name, one)

    def _add_plain(self, name: str, one: _Range | _Members) -> None:
        if isinstance(one, _Range):
            self.ranges[name] = self.ranges.get(name, one).also(one)
        else:
            self.members[name] = self.members.get(name, one).also(one)


def _plain(said: Constraint) -> list[_Range | _Members] | None:
    """What has to hold, in plain comparisons; None where it takes more than that."""
    kind = type(said)
    if kind is AnyValue:
        return []
    if kind is Min or kind is Max:
        bound: Decimal = said.bound  # type: ignore[attr-defined]  # a Min
        return [_Range(least=bound) if kind is Min else _Range(most=bound)]
    if isinstance(said, Is):
        return None if said.defined is None else _plain(said.defined)
    if isinstance(said, AllOf):
        each = [_plain(one) for one in said.constraints]
        return None if None in each else [one for found in each for one in found or ()]
    values = _values(said)
    kinds = {type(value) for value in values or ()}
    if values is None or len(kinds) != 1 or not kinds <= _ONE_VALUE:
        return None
    return [_Members(kinds.pop(), frozenset(values))]


def _values(said: Constraint) -> tuple[Any, ...] | None:
    """Those of which it has to be one, exactly; None where the constraint says anything else."""
    if type(said) in (Eq, In) and not said.fold:  # type: ignore[attr-defined]  # an In
        return tuple(map(thawed, said.values))  # type: ignore[attr-defined]  # an In
    if isinstance(said, InSet) and not said.fold:
        return said.members
    if isinstance(said, AnyOf):
        each = [_values(one) for one in said.alternatives]
        return None if None in each else tuple(value for found in each for value in found or ())
    return None


def _if_there(test: Test) -> Test:
    return lambda value, call, facts: HOLD if value is MISSING else test(value, call, facts)


def sure_of(levels: Sequence[tuple[Rules, CompiledStep | None]], spec: ToolSpec) -> Sure:
    """Return one test for all levels of a chain.

    Args:
        levels: at each, all that its intent says, and the only step that names the tool; None where it is read by a
            pattern. One that was handed on as it is says the same again, once.
        spec: the tool.
    """
    said = _Said(spec)
    for rules, compiled in {id(rules): (rules, compiled) for rules, compiled in levels}.values():
        said.add_rules(rules)
        if compiled is not None:
            said.add_step(compiled)
    return _test(said)


def _test(said: _Said) -> Sure:
    names, defaults = said.names, said.spec.defaults
    ranges = tuple((name, one.least, one.most) for name, one in said.ranges.items())
    members = tuple((name, one.kind, one.values) for name, one in said.members.items())
    tests, forbids = tuple(said.tests), tuple(said.forbids)

    def sure(call: ToolCall, facts: Facts) -> bool:
        arguments: Any = call.arguments
        # INVARIANT: arguments are closed: one that a step does not mention is absent or equals its default.
        if names is not None and not names.issuperset(arguments):
            return False
        for name, least, most in ranges:
            number = arguments.get(name)
            if type(number) is not Decimal or number < least or number > most:
                return False
        for name, kind, values in members:
            value = arguments.get(name, MISSING)
            if type(value) is not kind or value not in values:
                return False
        for forbid in forbids:
            if forbid(call, facts) is not FAIL:
                return False
        for name, test in tests:
            value = arguments.get(name, MISSING)
            if value is MISSING:
                value = defaults.get(name, MISSING)
            if test(value, call, facts) is not HOLD:
                return False
        return True

    return sure
