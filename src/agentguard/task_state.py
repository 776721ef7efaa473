"""What a task is made of: its state, what happened in it, and what all tasks under one root share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from agentguard.errors import ApprovalRequired
from agentguard.results import Key, Store
from agentguard.waiting import WaitingCalls

# Control flow that frameworks raise to pause a run; a task that is left with one is parked, not ended.
_PAUSES: Final = frozenset({"GraphBubbleUp", "GraphInterrupt"})


class TaskState(StrEnum):
    """A task's life; parked waits for a person and holds no lease."""

    NEW = "new"
    OPEN = "open"
    PARKED = "parked"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(slots=True)
class Counts:
    """What happened in a task, for its closing record and its span; its leases are counted where they begin and end."""

    permitted: int = 0
    denied: int = 0
    asked: int = 0
    issued: int = 0
    revoked: int = 0

    def add(self, other: Counts) -> None:
        """Take over what a sub-agent's task counted; its denials were counted at every level already."""
        self.permitted += other.permitted
        self.asked += other.asked
        self.issued += other.issued
        self.revoked += other.revoked


@dataclass(slots=True, eq=False)
class Tree:
    """What all tasks under one root share."""

    root: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    seen: frozenset[str] = frozenset()
    heard: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()  # ids that tasks above have where they were handed on
    hosts: tuple[str, ...] = ()  # whom the task has passed
    results: Store = field(default_factory=Store)
    pending: dict[str, tuple[Key, ...]] = field(default_factory=dict)  # what calls that run are going to leave there
    waiting: WaitingCalls = field(default_factory=WaitingCalls)


def pauses(error: BaseException | None) -> bool:
    """Whether an exception pauses the task instead of ending it; a group does if all of it does."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(pauses, error.exceptions))
    return isinstance(error, ApprovalRequired) or (
        error is not None and any(kind.__name__ in _PAUSES for kind in type(error).__mro__)
    )


def hands_off(error: BaseException) -> bool:
    """Whether a framework's agent leaves with it what it has done, and another one goes on; LangGraph's own name."""
    return type(error).__name__ == "ParentCommand"
