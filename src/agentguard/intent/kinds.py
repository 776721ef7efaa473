"""The kinds of constraint, and the registry that reads them: a new kind is one class and one entry."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, Self

from agentguard.errors import ConfigurationError
from agentguard.intent.address import Email, Url
from agentguard.intent.bind import Bind
from agentguard.intent.constraint import Constraint, Inner
from agentguard.intent.dates import Date
from agentguard.intent.glob import Glob, Regex
from agentguard.intent.literal import decimal, is_list, is_text, literal, scalar, shown, thawed
from agentguard.intent.membership import folded_membership, membership
from agentguard.intent.path import PathUnder
from agentguard.intent.presence import Absent, AnyValue, Not, OptionalValue
from agentguard.intent.provenance import From
from agentguard.intent.references import InSet, Is, SameAs
from agentguard.intent.said import Said
from agentguard.intent.structures import Each, Items, Keys
from agentguard.intent.template import Template
from agentguard.intent.text import Text
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, Facts, Test, Truth, odd, of_any_element, some
from agentguard.model.call import ToolCall
from agentguard.model.canonical import canonical_bytes, is_nfc, number_text

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MAX_LISTED: Final = 5


@dataclass(frozen=True, slots=True)
class In(Constraint):
    """`in: [v, ...]`: the value is one of these; `fold: case` ignores case."""

    values: tuple[Any, ...] = field(compare=False)
    fold: bool = False
    form_bytes: tuple[bytes, ...] = field(init=False, repr=False)  # compared: 50 and 50.00 are one, 1 and True are two
    word = "in"
    folds = True

    def __post_init__(self) -> None:
        if not is_list(self.values) or not self.values:
            raise ConfigurationError(f"{self.word!r} takes a list with at least one value: in: [a, b]")
        values = tuple(map(literal, self.values))
        if self.fold and not all(isinstance(value, str) for value in values):
            raise ConfigurationError("fold: case is for text only")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "form_bytes", tuple(canonical_bytes(thawed(value)) for value in values))

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        return cls(node)

    @property
    def scalar(self) -> bool:
        return all(map(scalar, self.values))

    def test(self, argument: str) -> Test:
        values = tuple(map(thawed, self.values))
        if self.fold:
            return folded_membership(value for value in values if isinstance(value, str))
        return membership(values)

    def lifted(self, argument: str) -> Test:
        if self.fold:
            return of_any_element(self.test(argument))
        single = membership(thawed(value) for value in self.values if scalar(value))
        whole = membership(thawed(value) for value in self.values if not scalar(value))
        return some([of_any_element(single), *([] if self.scalar else [whole])])

    def form(self) -> Any:
        return {self.word: [_tree(value) for value in self.values], **({"fold": "case"} if self.fold else {})}

    def must(self) -> str:
        listed = ", ".join(map(shown, self.values[:_MAX_LISTED]))
        more = len(self.values) - _MAX_LISTED
        return f"be one of {listed}" + (f" or {more} more" if more > 0 else "") + (" in any case" if self.fold else "")


@dataclass(frozen=True, slots=True)
class Eq(In):
    """`eq: v`: the value equals v; text is never equal to a number; `fold: case` ignores case."""

    word = "eq"

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        return cls((node,))

    def form(self) -> Any:
        return {"eq": _tree(self.values[0]), **({"fold": "case"} if self.fold else {})}

    def must(self) -> str:
        return f"be {shown(self.values[0])}" + (" in any case" if self.fold else "")


def _tree(value: Any) -> Any:
    """A literal as it stands in a file."""
    if isinstance(value, Mapping):
        return {key: _tree(item) for key, item in value.items()}
    return [_tree(item) for item in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class Min(Constraint):
    """`min: n`: a number of at least n."""

    bound: Decimal
    word = "min"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", decimal(self.bound))

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        return cls(node)

    def test(self, argument: str) -> Test:
        bound = self.bound
        return lambda value, call, facts: (HOLD if value >= bound else FAIL) if type(value) is Decimal else odd(value)

    def form(self) -> Any:
        return {self.word: self.bound}

    def must(self) -> str:
        return f"be at least {number_text(self.bound)}"


@dataclass(frozen=True, slots=True)
class Max(Min):
    """`max: n`: a number of at most n."""

    word = "max"

    def test(self, argument: str) -> Test:
        bound = self.bound
        return lambda value, call, facts: (HOLD if value <= bound else FAIL) if type(value) is Decimal else odd(value)

    def must(self) -> str:
        return f"be at most {number_text(self.bound)}"


@dataclass(frozen=True, slots=True)
class Prefix(Constraint):
    """`prefix: s`: text that starts with s; a control character in the rest cannot be told."""

    start: str
    word = "prefix"

    def __post_init__(self) -> None:
        if not is_text(self.start):
            raise ConfigurationError("'prefix' takes text that is not empty; where anything may stand, write any")
        literal(self.start)

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        return cls(node)

    def test(self, argument: str) -> Test:
        start, length, control = self.start, len(self.start), _CONTROL.search

        def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
            if type(value) is not str:
                return odd(value)
            if not is_nfc(value):
                return CANNOT_TELL
            if not value.startswith(start):
                return FAIL
            return CANNOT_TELL if control(value, length) else HOLD

        return judge

    def form(self) -> Any:
        return {"prefix": self.start}

    def must(self) -> str:
        return f"start with {shown(self.start)}"


KINDS: Final[Mapping[str, type[Constraint]]] = MappingProxyType(
    {
        kind.word: kind
        for kind in (
            *(Eq, In, InSet, Min, Max, Date, Prefix, Glob, Regex, PathUnder, Url, Email, Text, Template),
            *(Each, Items, Keys, SameAs, Is),
            *(From, Said, Bind),
            *(AnyValue, Absent, OptionalValue, Not),
        )
    }
)
# Stand alone, as one word: `city: any`.
WORDS: Final[Mapping[str, Callable[[], Constraint]]] = MappingProxyType({"any": AnyValue, "absent": Absent})


def constraint(value: object) -> Constraint:
    """Return a constraint as it is, and any other value as `eq` of it."""
    return value if isinstance(value, Constraint) else Eq((value,))
