"""Deciding about a call."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from agentguard.model.decision import AccessRequest, Decision


@runtime_checkable
class DecisionPoint(Protocol):
    """Decides about a call that the intent already admits (a PDP). Safe for concurrent use.

    A raise, a timeout or anything but a permit is a deny; a deny of one decision point cannot be outvoted.
    """

    suspends: bool

    async def decide(self, request: AccessRequest) -> Decision: ...
