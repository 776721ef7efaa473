"""The kinds that are about an argument being there at all (any, absent, optional), and `not`."""

from __future__ import annotations

from typing import Any, Final, Self

from agentguard.intent.constraint import Constraint, Inner
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, MISSING, Facts, Test, Truth, unset
from agentguard.model.call import ToolCall


class AnyValue(Constraint, frozen=True):
    """`any`: always holds, also when the argument is absent."""

    word = "any"
    alone = True

    @property
    def scalar(self) -> bool:
        return False

    def test(self, argument: str) -> Test:
        return lambda value, call, facts: HOLD

    def form(self) -> Any:
        return "any"

    def must(self) -> str:
        return "be anything"


ANY: Final = AnyValue()


class Absent(Constraint, frozen=True):
    """`absent`: the argument is left out, or equals its default."""

    word = "absent"
    alone = True

    @property
    def scalar(self) -> bool:
        return False

    def test(self, argument: str) -> Test:
        return lambda value, call, facts: HOLD if unset(argument, value, call) else FAIL

    def form(self) -> Any:
        return "absent"

    def must(self) -> str:
        return "be left out"


class OptionalValue(Constraint, frozen=True):
    """`optional: c`: the argument is left out or equals its default, or c holds."""

    constraint: Constraint
    word = "optional"

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        return cls(inner(node))

    @property
    def scalar(self) -> bool:
        return False

    def test(self, argument: str) -> Test:
        inner = self.constraint.test(argument)
        return lambda value, call, facts: HOLD if unset(argument, value, call) else inner(value, call, facts)

    def form(self) -> Any:
        return {"optional": self.constraint.form()}

    def must(self) -> str:
        return f"be left out, or {self.constraint.must()}"


class Not(Constraint, frozen=True):
    """`not: c`: c fails; where c cannot tell, neither can this. An argument that is missing fails both."""

    constraint: Constraint
    word = "not"

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        return cls(inner(node))

    @property
    def scalar(self) -> bool:
        return self.constraint.scalar

    def test(self, argument: str) -> Test:
        inner = self.constraint.test(argument)
        opposite = {HOLD: FAIL, FAIL: HOLD, CANNOT_TELL: CANNOT_TELL}

        def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
            return FAIL if value is MISSING else opposite[inner(value, call, facts)]

        return judge

    def form(self) -> Any:
        return {"not": self.constraint.form()}

    def must(self) -> str:
        return f"not {self.constraint.must()}"
