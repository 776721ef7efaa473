"""One call on its way through the pipeline: what it holds, set step by step by the functions of `pipeline`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, NoReturn

from msgspec import Struct

from agentguard.access import CurrentCall
from agentguard.credentials.held import Use
from agentguard.model.call import ToolCall, ToolSpec
from agentguard.model.decision import Decision, Outcome, Reason
from agentguard.ports import Charge, Reservation
from agentguard.refusal import NOT_RUN, Ended
from agentguard.tool import Tool
from agentguard.waiting import Waiting

if TYPE_CHECKING:
    from agentguard.deciding import Judged
    from agentguard.guard import Guard
    from agentguard.task import Task


UNBOUND: Final = ToolCall(id="", spec=ToolSpec(name="unbound"), arguments={}, given=frozenset(), digest="")
_NO_ARGUMENTS: Final[tuple[Any, Any]] = ((), {})
_NO_COPIES: Final[tuple[dict[str, Any], dict[str, Any]]] = ({}, {})


class Running(Struct, eq=False):
    """One call. INVARIANT: whatever was taken for it is given back by `release`, which cannot be cancelled.

    It is made by C, as it is made for every call, with `undecided` as its decision; what it holds is set step by step.
    """

    guard: Guard
    task: Task
    tool: Tool
    id: str
    decision: Decision
    arguments: tuple[Any, Any] = _NO_ARGUMENTS
    visible: CurrentCall | None = None
    ended: Ended = NOT_RUN
    hits: set[str] = set()  # msgspec makes a new one each time
    span: Any = None
    copies: tuple[dict[str, Any], dict[str, Any]] = _NO_COPIES
    mutable: bool = False
    reservation: Reservation | None = None
    ending: tuple[Task, ...] = ()
    marks: tuple[Charge, ...] = ()
    judged: Judged | None = None
    waits: Waiting | None = None
    approved: str = ""
    parts: list[Any] | None = None
    missed: bool = False  # a part went by that nothing looked at
    use: Use | None = None
    started: bool = False
    marked: bool = False
    refused: bool = False
    recorded: bool = False
    position: Any = None
    call: ToolCall = UNBOUND
    hash: str = ""

    def __repr__(self) -> str:
        return f"<Running {self.id}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # a struct's own shows all of it, and rich in tracebacks with it
        return [("id", self.id)]

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a call that runs cannot be copied or pickled")

    __copy__ = None


@functools.lru_cache(maxsize=1024)
def undecided(tool: str) -> Decision:
    """A call that was not looked at yet is denied."""
    return Decision(outcome=Outcome.DENY, reason=Reason.OUTSIDE_INTENT, tool=tool)
