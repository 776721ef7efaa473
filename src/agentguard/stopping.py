"""Stopping an agent, a task, a subject, a chain or everything: the mark first, then every credential under it."""

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
        self._heard = 0  # the epoch up to which the stops of others were followed

    async def suspend(self, key: str, why: str) -> None:
        """Mark a key, record it, and revoke what tasks under it hold.

        INVARIANT: the mark is committed before anything else, so a call that starts later sees it, and a call that
        started earlier loses its credential.
        """
        await self._guard.suspensions.suspend(key, why)
        self._guard.try_append(Record(Event.SUSPENDED, {"key": self._public(key), "why": why}))
        await self._end_under(key)

    async def listen(self) -> None:
        """Follow what others who share the store have stopped: their calls do not start, and ours lose their leases."""
        epoch, stops = await self._guard.suspensions.news(self._heard)
        for stop in stops:
            await self._end_under(stop.key)
        self._heard = epoch

    async def _end_under(self, key: str) -> None:
        guard = self._guard
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
        if kind == "chain":
            subject, _, agents = name.partition(">")
            return (
                f"chain:{self._guard.pseudonym(subject)}>{agents}" if agents else f"chain:{self._guard.pseudonym(name)}"
            )
        return f"subject:{self._guard.pseudonym(name)}" if kind == "subject" else key


def suspension_keys(task: Task) -> tuple[str, ...]:
    """Every key whose suspension stops a call under this task; made once."""
    keys: tuple[str, ...] | None = task.cache.get("keys")
    if keys is None:
        names = task.chain.names()
        agents = [f"agent:{agent.name}" for agent in task.chain.agents]
        tasks = [f"task:{link.id}" for link in task.path]
        chains = ["chain:" + ">".join(names[: depth + 1]) for depth in range(1, len(names))]
        keys = task.cache["keys"] = ("all", *agents, *tasks, f"subject:{task.chain.subject.sub}", *chains)
    return keys


def key_of(agent: str, task: str, subject: str, chain: str = "") -> str:
    """The key of exactly one of them; a chain is written as in records, `user:alice > support-bot`.

    Raises:
        ConfigurationError: none is named, or more than one.
    """
    path = ">".join(part.strip() for part in chain.split(">"))
    said = (("agent", agent), ("task", task), ("subject", subject), ("chain", path))
    named = [f"{kind}:{name}" for kind, name in said if name]
    if len(named) != 1:
        raise ConfigurationError("suspend() takes exactly one of agent=, task=, subject= and chain=")
    if chain and not all(path.split(">")):
        raise ConfigurationError(f"chain {chain!r}: write it as records do, user:alice > support-bot")
    return named[0]
