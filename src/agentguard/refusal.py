"""How a call ends: refused by a step, run by its tool, or abandoned."""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct

from agentguard.errors import Unavailable
from agentguard.model.decision import Miss, Reason
from agentguard.model.record import Event
from agentguard.ports import Settlement
from agentguard.task_state import pauses


class Ended(Struct, frozen=True):
    """How a tool's run ended: with a value, or with an error; neither, when it was never run or was abandoned."""

    value: Any = None
    error: BaseException | None = None


NOT_RUN: Final = Ended()
ABANDONED: Final = Ended(error=GeneratorExit())


class Refusal(Exception):
    """A step of the pipeline says no; becomes a recorded `Denied`."""

    def __init__(self, reason: Reason, text: str = "", *, level: str = "", miss: Miss | None = None) -> None:
        super().__init__(text)
        self.reason, self.level, self.miss = reason, level, miss or Miss(text=text)


def settlement_of(ended: Ended, started: bool) -> Settlement:
    """What becomes of the call's reservation."""
    if not started:
        return Settlement.NOT_RUN
    return Settlement.RAISED if ended.error is not None else Settlement.RAN


def event_of(ended: Ended, started: bool) -> tuple[Event, str]:
    """The record's event code for an outcome, and the type of the error if there is one."""
    error = ended.error
    if not started:
        return Event.CALL_CANCELLED, "not_run"
    if error is None:
        return Event.CALL_COMPLETED, ""
    if pauses(error) or not isinstance(error, Exception):
        return Event.CALL_CANCELLED, type(error).__name__
    return Event.CALL_FAILED, type(error).__name__


def cause(error: Exception) -> str:
    """What a record may say of an error of somebody else's: its text only where it is ours."""
    return str(error) if isinstance(error, Unavailable) else type(error).__name__
