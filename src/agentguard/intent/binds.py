"""The kind `bind`: the first value that is consumed sets a name, and every later use must equal it, in any step.

Setting the name is a charge like any other, so it is taken in the same atomic step as the rest, and given back with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from msgspec import Struct

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import AllOf, Constraint, Inner
from agentguard.intent.literal import comparable, is_text
from agentguard.intent.presence import OptionalValue
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, MISSING, Facts, Test, Truth, unset, value_of
from agentguard.model.call import ToolCall
from agentguard.model.canonical import digest

if TYPE_CHECKING:
    from agentguard.intent.document import Path
    from agentguard.intent.intent import Intent
    from agentguard.ports import Charge

_NAME: Final = re.compile(r"[a-z0-9_][a-z0-9_-]{0,63}")


class Bind(Constraint, frozen=True):
    """`bind: name`: the value that the name stands for, or the first one."""

    name: str
    word = "bind"

    def __post_init__(self) -> None:
        if not is_text(self.name) or not _NAME.fullmatch(self.name):
            raise ConfigurationError(f"'bind' takes a name of a-z 0-9 _ -: bind: customer; not {self.name!r}")

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        return cls(node)

    @property
    def scalar(self) -> bool:
        return False

    def test(self, argument: str) -> Test:
        name = self.name

        def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
            if value is MISSING:
                return FAIL
            if not comparable(value):
                return CANNOT_TELL
            bound = facts.bound.get(name)
            return HOLD if not bound or bound == digest(value) else FAIL

        return judge

    def form(self) -> Any:
        return {"bind": self.name}

    def must(self) -> str:
        return f"be the same {self.name} as before"


class Bound(NamedTuple):
    """An argument that a name is bound to; optional where it may be left out."""

    argument: str
    name: str
    optional: bool


class Binds(Struct, frozen=True):
    """What an intent binds: in every call, and by step."""

    everywhere: tuple[Bound, ...]
    steps: Mapping[str, tuple[Bound, ...]]

    def __bool__(self) -> bool:
        return bool(self.everywhere or self.steps)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, once."""
        every = (*self.everywhere, *(bound for step in self.steps.values() for bound in step))
        return tuple(dict.fromkeys(bound.name for bound in every))

    def charges(self, step: str, call: ToolCall) -> tuple[Charge, ...]:
        """Return what a call binds when it consumes a step."""
        return tuple(_charges((*self.everywhere, *self.steps.get(step, ())), call))


def _charges(binds: Iterable[Bound], call: ToolCall) -> Iterator[Charge]:
    from agentguard.ports import Charge

    for argument, name, optional in binds:
        value = value_of(argument, call)
        if value is not MISSING and not (optional and unset(argument, value, call)):
            yield Charge(bind_key(name), "0", "0", value=digest(value))


def bind_key(name: str) -> str:
    """The key of what a name stands for, below its scope."""
    return f"bind.{name}"


def binds_of(intent: Intent) -> Binds:
    """Return what an intent binds."""
    everywhere = tuple(bound for name, said in intent.everywhere.items() for bound in _bounds(name, said))
    steps = {
        step.id: tuple(bound for name, said in step.args.items() for bound in _bounds(name, said))
        for step in intent.steps
    }
    return Binds(everywhere, MappingProxyType({step: found for step, found in steps.items() if found}))


def _bounds(argument: str, said: Constraint, *, optional: bool = False) -> Iterator[Bound]:
    if isinstance(said, Bind):
        yield Bound(argument, said.name, optional)
    elif isinstance(said, AllOf):
        for item in said.constraints:
            yield from _bounds(argument, item, optional=optional)
    elif isinstance(said, OptionalValue):
        yield from _bounds(argument, said.constraint, optional=True)


def misplaced_binds(intent: Intent) -> Iterator[tuple[Path, str]]:
    """Yield every `bind` that stands where it is not certain that its value is consumed."""
    places: list[tuple[Path, str, Constraint]] = [
        (("everywhere", name), name, said) for name, said in intent.everywhere.items()
    ]
    for index, step in enumerate(intent.steps):
        places += [(("steps", index, "args", name), name, said) for name, said in step.args.items()]
    for path, name, said in places:
        if sum(isinstance(item, Bind) for item in said.walk()) != len(list(_bounds(name, said))):
            yield (
                path,
                "'bind' is about a whole argument: {bind: name}, beside other kinds or in optional, not in a list",
            )
    elsewhere: list[tuple[Path, Constraint]] = [(("define", name), said) for name, said in intent.define.items()]
    for index, entry in enumerate(intent.forbid):
        elsewhere += [(("forbid", index, "args", name), said) for name, said in entry.args.items()]
    for path, said in elsewhere:
        if any(isinstance(item, Bind) for item in said.walk()):
            yield path, "'bind' is used up with a step; write it into the args of a step, or into everywhere"
