"""The parts of a call that can be looked at one by one: deciding, asking a person, obtaining the credential."""

from __future__ import annotations

from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from agentguard.model.decision import Decision
from agentguard.model.lease import Lease

if TYPE_CHECKING:
    from agentguard.telemetry.call_span import CallSpan


class Phase:
    """One part of a call, while it lasts; this one is not looked at. Nothing of it raises."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def decided(self, decision: Decision, version: str = "") -> None:
        """Note what was decided, and the versions of the policies that did."""

    def obtained(self, lease: Lease, cached: bool) -> None:
        """Note the credential, by its lease."""


NO_PHASE: Final = Phase()


class Apart(Phase):
    """A part whose time is not the guard's own: a person thinks."""

    __slots__ = ("_began", "_call")

    def __init__(self, call: CallSpan) -> None:
        self._call, self._began = call, time_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.apart += time_ns() - self._began
