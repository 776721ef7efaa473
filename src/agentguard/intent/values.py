"""The kinds that compare with a value: `eq`, `in`, `min`, `max` and `prefix`; a bare value means `eq`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Self

from msgspec.structs import force_setattr

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, Inner
from agentguard.intent.literal import decimal, is_list, is_text, literal, scalar, shown, thawed
from agentguard.intent.membership import folded, folded_membership, membership
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, Facts, Test, Truth, odd, of_any_element, some
from agentguard.model.call import ToolCall
from agentguard.model.canonical import canonical_bytes, is_nfc, number_text

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MAX_LISTED: Final = 5


class In(Constraint, frozen=True):
    """`in: [v, ...]`: the value is one of these; `fold: case` ignores case."""

    values: tuple[Any, ...]
    fold: bool = False
    form_bytes: tuple[bytes, ...] = ()  # compared instead of the values: 50 and 50.00 are one, 1 and True are two
    word = "in"
    folds = True

    def __post_init__(self) -> None:
        if not is_list(self.values) or not self.values:
            raise ConfigurationError(f"{self.word!r} takes a list with at least one value: in: [a, b]")
        values = tuple(map(literal, self.values))
        if self.fold and not all(isinstance(value, str) for value in values):
            raise ConfigurationError("fold: case is for text only")
        force_setattr(self, "values", values)
        force_setattr(self, "form_bytes", tuple(canonical_bytes(thawed(value)) for value in values))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, In) or type(other) is not type(self):
            return NotImplemented
        return (self.fold, self.form_bytes) == (other.fold, other.form_bytes)

    def __hash__(self) -> int:
        return hash((self.fold, self.form_bytes))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(values={self.values!r}, fold={self.fold!r})"

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

    def counted_as(self, text: str) -> str:
        return folded(text) if self.fold else text

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


class Eq(In, frozen=True):
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


class Min(Constraint, frozen=True):
    """`min: n`: a number of at least n."""

    bound: Decimal
    word = "min"

    def __post_init__(self) -> None:
        force_setattr(self, "bound", decimal(self.bound))

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


class Max(Min, frozen=True):
    """`max: n`: a number of at most n."""

    word = "max"

    def test(self, argument: str) -> Test:
        bound = self.bound
        return lambda value, call, facts: (HOLD if value <= bound else FAIL) if type(value) is Decimal else odd(value)

    def must(self) -> str:
        return f"be at most {number_text(self.bound)}"


class Prefix(Constraint, frozen=True):
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


def constraint(value: object) -> Constraint:
    """Return a constraint as it is, and any other value as `eq` of it."""
    return value if isinstance(value, Constraint) else Eq((value,))
