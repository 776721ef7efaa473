"""The kinds that look into lists and mappings: `each`, `items` and `keys`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, Inner
from agentguard.intent.literal import FrozenMapping, is_text
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, MISSING, Facts, Test, Truth, odd
from agentguard.model.call import ToolCall
from agentguard.model.canonical import is_nfc


class Each(Constraint, frozen=True):
    """`each: c`: every element of a list holds, so an empty list does; one that cannot be told makes it cannot tell."""

    constraint: Constraint
    word = "each"

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        return cls(inner(node))

    @property
    def scalar(self) -> bool:
        return False

    def test(self, argument: str) -> Test:
        return self._test(self.constraint.test(""))

    def open_test(self, argument: str) -> Test:
        return self._test(self.constraint.open_test(""))

    def _test(self, inner: Test) -> Test:
        def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
            if type(value) is not tuple:
                return odd(value)
            found = {inner(item, call, facts) for item in value}
            return CANNOT_TELL if CANNOT_TELL in found else FAIL if FAIL in found else HOLD

        return judge

    def form(self) -> Any:
        return {"each": self.constraint.form()}

    def must(self) -> str:
        return f"be a list of which each element must {self.constraint.must()}"


class Items(Constraint, frozen=True):
    """`items: {min, max}`: a list with so many elements."""

    min: int | None = None
    max: int | None = None
    word = "items"

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise ConfigurationError("'items' takes how many: items: {min: 1, max: 5}")
        for name in ("min", "max"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise ConfigurationError(f"{name!r} of items is a whole number of at least 0")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ConfigurationError("min is over max, so nothing would ever hold; swap them")

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        if not isinstance(node, dict) or not node or set(node) - {"min", "max"} or None in node.values():
            raise ConfigurationError("'items' takes how many: items: {min: 1, max: 5}")
        return cls(**node)

    @property
    def scalar(self) -> bool:
        return False

    def test(self, argument: str) -> Test:
        least, most = self.min or 0, self.max

        def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
            if type(value) is not tuple:
                return odd(value)
            return HOLD if least <= len(value) and (most is None or len(value) <= most) else FAIL

        return judge

    def form(self) -> Any:
        return {"items": {name: bound for name, bound in (("min", self.min), ("max", self.max)) if bound is not None}}

    def must(self) -> str:
        bounds = ((" at least", self.min), (" at most", self.max))
        return "be a list with" + " and".join(f"{word} {n}" for word, n in bounds if n is not None) + " elements"


class Keys(Constraint, frozen=True):
    """`keys: {name: c}`: a mapping, closed as arguments are: a key that is not mentioned must be absent."""

    entries: FrozenMapping[Constraint]
    word = "keys"

    def __post_init__(self) -> None:
        for name in self.entries:
            if not is_text(name) or not is_nfc(name):
                raise ConfigurationError(f"{name!r} is no key; write the key as it stands in the value")
        if not self.entries:
            raise ConfigurationError("'keys' takes the keys with their constraints: keys: {street: any}")

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        if not isinstance(node, dict):
            raise ConfigurationError("'keys' takes the keys with their constraints: keys: {street: any}")
        return cls(FrozenMapping({name: inner(said) for name, said in node.items()}))

    def test(self, argument: str) -> Test:
        return self._test({name: said.test("") for name, said in self.entries.items()}, closed=True)

    def open_test(self, argument: str) -> Test:
        return self._test({name: said.lifted("") for name, said in self.entries.items()}, closed=False)

    def _test(self, tests: Mapping[str, Test], *, closed: bool) -> Test:
        def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
            if type(value) is not dict:
                return odd(value)
            if not all(map(is_nfc, value)):
                return CANNOT_TELL
            if closed and not value.keys() <= tests.keys():
                return FAIL
            found = {test(value.get(name, MISSING), call, facts) for name, test in tests.items()}
            return FAIL if FAIL in found else CANNOT_TELL if CANNOT_TELL in found else HOLD

        return judge

    def form(self) -> Any:
        return {"keys": {name: said.form() for name, said in self.entries.items()}}

    def must(self) -> str:
        return "be a mapping in which " + ", ".join(f"{name} must {said.must()}" for name, said in self.entries.items())
