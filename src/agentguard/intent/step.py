"""Steps: which tool, with which arguments, how often."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import force_setattr, replace

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint
from agentguard.intent.literal import FrozenMapping, count, decimal, is_list, is_text
from agentguard.intent.mistakes import Mistakes, Notes
from agentguard.model.call import TOOL_NAME
from agentguard.model.canonical import is_nfc
from agentguard.model.duration import seconds
from agentguard.model.outcome import Outcome

if TYPE_CHECKING:
    from agentguard.intent.document import Path

STEP_ID: Final = re.compile(r"[a-z0-9_][a-z0-9._-]{0,63}")
RESERVED_IDS: Final = frozenset({"reads", "everywhere", "forbid", "otherwise", "limits"})
ASKED: Final = ("operator", "subject")
_NAME: Final = re.compile(r"[a-z0-9_][a-z0-9._-]{0,63}")
_NOTHING: Final[FrozenMapping[Any]] = FrozenMapping()


def tool_problem(name: object) -> str:
    """Return what is wrong with a tool's name, or nothing."""
    if isinstance(name, str) and TOOL_NAME.fullmatch(name):
        return ""
    if isinstance(name, str) and "*" in name:
        return f"a step names one tool, {name!r} is a pattern; patterns stand in reads and forbid"
    return f"{name!r} is no tool name; write words of a-z 0-9 _ joined by dots: refund.create"


def pattern_problem(pattern: object) -> str:
    """Return what is wrong with a pattern over tool names, or nothing."""
    if isinstance(pattern, str) and (pattern == "*" or TOOL_NAME.fullmatch(pattern.removesuffix(".*"))):
        return ""
    return f"{pattern!r} is no pattern; write an exact name (ticket.read), everything below one (ticket.*) or *"


def arguments(entries: Mapping[str, object]) -> FrozenMapping[Constraint]:
    """Return constraints by argument; a bare value means that the argument equals it.

    Raises:
        ConfigurationError: with every name and value that cannot be compared.
    """
    from agentguard.intent.presence import ANY
    from agentguard.intent.values import constraint

    notes = Notes()
    result: dict[str, Constraint] = {}
    otherwise: Constraint = ANY
    for name, value in entries.items():
        if not is_text(name) or not is_nfc(name):
            notes.add((), f"{name!r} is no argument name; write the tool's own name for it")
        else:
            result[name] = notes.take((name,), partial(constraint, value), otherwise)
    notes.raise_if_any("arguments that cannot be compared:")
    return FrozenMapping(result)


class Times(Struct, frozen=True):
    """How often a step may be used.

    Args:
        n: the most uses.
        per: arguments; each combination of their values has a count of its own.
        window: seconds of a sliding window, or 0 for the whole task.
    """

    n: int
    per: tuple[str, ...] = ()
    window: float = 0.0

    def __post_init__(self) -> None:
        count(self.n, "'times'")
        if not all(map(is_text, self.per)) or len(set(self.per)) != len(self.per):
            raise ConfigurationError("'per' of times is a list of argument names, each once: per: [order_id]")


class Total(Struct, frozen=True):
    """How much of an argument a step may use up in all: an exact sum, in a window of seconds or the whole task."""

    limit: Decimal
    window: float = 0.0

    def __post_init__(self) -> None:
        force_setattr(self, "limit", decimal(self.limit))
        if self.limit < 0:
            raise ConfigurationError("a total below 0 would never hold; write 0 or more")


class Step(Struct, frozen=True):
    """One thing a task may do; every method returns a changed copy. Made by `step`.

    Args:
        tool: the tool's exact name.
        args: what its arguments must be; one that is not mentioned is absent or equals its default.
        id: how decisions and budgets call it; empty for the tool's name.
        uses: how often, or None for the default (1 for writes and egress, unlimited for reads).
        totals: how much of an argument, by argument.
        tries: how often the very same call may run, after its tool raised.
        outcome: permit, or ask a person.
        shared: the name of the budget whose counters it shares with other steps; empty for its own.
        unrepeated: arguments whose combination of values is used at most once.
        earlier: ids of the steps that must have happened before.
        ends_task: whether the task ends with this call.
        by: who is asked, `operator` or `subject`.
        accepted: why a value out of a field that an outsider can write may feed this write; empty where none may.
    """

    tool: str
    args: FrozenMapping[Constraint] = _NOTHING
    id: str = ""
    uses: Times | None = None
    totals: FrozenMapping[Total] = _NOTHING
    tries: int = 1
    outcome: Outcome = Outcome.PERMIT
    shared: str = ""
    unrepeated: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    ends_task: bool = False
    by: str = "operator"
    accepted: str = ""

    def __post_init__(self) -> None:
        if found := list(self._mistakes()):
            raise Mistakes(f"the step for {self.tool!r} is wrong:", found)

    def _mistakes(self) -> Iterator[tuple[Path, str]]:
        if problem := tool_problem(self.tool):
            yield ("tool",), problem
        if self.id and (not is_text(self.id) or not STEP_ID.fullmatch(self.id) or self.id in RESERVED_IDS):
            yield ("id",), f"{self.id!r} is no step id; write a-z 0-9 . _ - (at most 64), and no word of the language"
        try:
            count(self.tries, "'attempts'")
        except ConfigurationError as error:
            yield ("attempts",), str(error)
        yield from self._odd_order()

    def _odd_order(self) -> Iterator[tuple[Path, str]]:
        for key, words in (("distinct", self.unrepeated), ("after", self.earlier)):
            if not is_list(words) or not all(map(is_text, words)) or len(set(words)) != len(words):
                example = "[recipient]" if key == "distinct" else "[refund]"
                yield (key,), f"write a list of names, each once: {key}: {example}"
        if self.shared and (not is_text(self.shared) or not _NAME.fullmatch(self.shared)):
            yield ("budget",), f"{self.shared!r} is no name of a budget; write a-z 0-9 . _ - (at most 64)"
        if self.shared and self.uses is None and not self.totals and not self.unrepeated:
            yield ("budget",), "it counts nothing; write times, total or distinct beside it, the same in all its steps"
        if self.by not in ASKED:
            yield ("then", "by"), f"a person is asked as {' or '.join(ASKED)}"
        elif self.by != ASKED[0] and self.outcome is not Outcome.ASK:
            yield ("then", "by"), "nobody is asked here; write then: {ask: true, by: subject}"
        accepted: object = self.accepted
        if not isinstance(accepted, str) or len(accepted) > 200:
            yield ("accept_untrusted",), "say in a sentence of at most 200 characters why that is safe here"
        if self.ends_task and self.outcome is not Outcome.PERMIT:
            yield ("then",), "a step ends the task or asks; for both, ask in one step and end in the next"

    def unmentioned(self) -> Iterator[tuple[Path, str]]:
        """Yield budgets over arguments that the step does not mention: they would always count the same value."""
        from agentguard.intent.references import SameAs

        for name in self.uses.per if self.uses else ():
            if name not in self.args:
                yield ("times", "per"), f"{name!r} is not among args; mention it there, if need be as any"
        for name in self.totals:
            if name not in self.args:
                yield ("total", name), f"{name!r} is not among args; mention it there with its bounds"
        for name in self.unrepeated:
            if name not in self.args:
                yield ("distinct",), f"{name!r} is not among args; mention it there"
        for name, said in self.args.items():
            for item in said.walk():
                if isinstance(item, SameAs) and item.other not in self.args:
                    yield ("args", name), f"same_as names {item.other!r}, which is not among args; mention it there"

    def named(self, id: str) -> Step:
        """Give it an id."""
        return replace(self, id=id)

    def times(self, n: int, per: str | Iterable[str] = ()) -> Step:
        """Let it be used n times: in all, for each combination of arguments `per=["order_id"]`, or in a window "1h"."""
        if isinstance(per, str):
            return replace(self, uses=Times(n, (), seconds(per)))
        return replace(self, uses=Times(n, tuple(per)))

    def total(self, **limits: object) -> Step:
        """Bound the exact sum of an argument over all uses: `total(amount="100.00")`."""
        totals = {name: total_of(limit) for name, limit in limits.items()}
        return replace(self, totals=FrozenMapping({**self.totals, **totals}))

    def attempts(self, n: int) -> Step:
        """Let the very same call run n times in all, where its tool raised."""
        return replace(self, tries=n)

    def then_ask(self, by: str = "operator") -> Step:
        """Ask a person, who approves these exact arguments, once: an `operator`, or the `subject` itself."""
        return replace(self, outcome=Outcome.ASK, by=by)

    def then_end_task(self) -> Step:
        """Permit the call, and end the task once its outcome is recorded."""
        return replace(self, ends_task=True)

    def accept_untrusted(self, why: str) -> Step:
        """Let values out of fields that an outsider can write feed this write; lint asks for the reason."""
        return replace(self, accepted=why)

    def after(self, *ids: str) -> Step:
        """Admit nothing before these steps have happened."""
        return replace(self, earlier=(*self.earlier, *ids))

    def budget(self, name: str) -> Step:
        """Share the counters of `times`, `total` and `distinct` with every step that names this budget."""
        return replace(self, shared=name)

    def distinct(self, *arguments: str) -> Step:
        """Let each combination of these arguments' values be used once."""
        return replace(self, unrepeated=(*self.unrepeated, *arguments))


def total_of(limit: object) -> Total:
    """Return a total from a number, or from `{"max": number, "per": "1h"}`."""
    if isinstance(limit, Total):
        return limit
    if isinstance(limit, Mapping):
        if set(limit) - {"max", "per"} or "max" not in limit:
            raise ConfigurationError('a total is a number or {max: number, per: "1h"}')
        return Total(limit["max"], seconds(limit["per"]) if "per" in limit else 0.0)
    return Total(limit)  # type: ignore[arg-type]  # checked by Total itself


def step(tool: str, /, **args: object) -> Step:
    """Declare that a task may call a tool with these arguments.

    Args:
        tool: the tool's exact name.
        args: the tool's arguments, each a constraint or a bare value that it must equal.

    Raises:
        ConfigurationError: the name or a value is wrong.
    """
    return Step(tool, arguments(args))
