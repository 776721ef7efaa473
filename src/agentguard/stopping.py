"""Stopping an agent, a task, a subject or everything: the mark first, then every credential under it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentguard.errors import ConfigurationError
from agentguard.model.record import Event, Record
from agentguard.task import Task

if TYPE_CHECKING:
    from agentguard.guard import Guard


class Stopping:
    """Suspends and lifts for one guard."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def suspend(self, key: str, why: str) -> None:
        """Mark a key, record it, and revoke what tasks under it hold.

        INVARIANT: the mark is committed before anything else, so a call that starts later sees it, and a call that
        started earlier loses its credential.
        """
        guard = self._guard
        await guard.suspensions.suspend(key, why)
        guard.try_append(Record(Event.SUSPENDED, {"key": self._public(key), "why": why}))
        for task in guard.keeper.open_tasks():
            if key in suspension_keys(task) and guard.leases is not None:
                task.counts.revoked += await guard.leases.end_task(task.id, "suspended", reopen=True)

    async def lift(self, key: str) -> None:
        """Let a key go on, and record it."""
        await self._guard.suspensions.lift(key)
        for task in self._guard.keeper.open_tasks():
            if key == f"task:{task.id}":
                task.why_stopped = ""
        self._guard.try_append(Record(Event.RESUMED, {"key": self._public(key)}))

    def _public(self, key: str) -> str:
        kind, _, name = key.partition(":")
        return f"subject:{self._guard.pseudonym(name)}" if kind == "subject" else key


def suspension_keys(task: Task) -> tuple[str, ...]:
    """Every key whose suspension stops a call under this task; made once."""
    keys: tuple[str, ...] | None = task.cache.get("keys")
    if keys is None:
        agents = [f"agent:{agent.name}" for agent in task.chain.agents]
        tasks = [f"task:{link.id}" for link in task.path]
        keys = task.cache["keys"] = ("all", *agents, *tasks, f"subject:{task.chain.subject.sub}")
    return keys


def key_of(agent: str, task: str, subject: str) -> str:
    """The key of exactly one of the three.

    Raises:
        ConfigurationError: none is named, or more than one.
    """
    named = [f"{kind}:{name}" for kind, name in (("agent", agent), ("task", task), ("subject", subject)) if name]
    if len(named) != 1:
        raise ConfigurationError("suspend() takes exactly one of agent=, task= and subject=")
    return named[0]
