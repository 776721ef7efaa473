"""Stopping an agent, a task, a subject, a chain or everything: the mark first, then every credential under it."""

from __future__ import annotations

import time
from collections.abc import Set
from typing import TYPE_CHECKING, Final

import anyio

from agentguard._drive import driven
from agentguard.errors import ConfigurationError, Unavailable
from agentguard.model.decision import Reason
from agentguard.model.principal import checked_name
from agentguard.model.record import Event, Record
from agentguard.refusal import cause
from agentguard.task import Task

if TYPE_CHECKING:
    from agentguard.guard import Guard

# Longer than any store trusts what it heard, so that after this time nothing starts on older news.
_HEARD: Final = 1.5
_LOOKS: Final = 0.01


class Stopping:
    """Suspends and lifts for one guard."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._standing: Set[str] = frozenset()  # the stops that stood when they were last looked at

    async def suspend(self, key: str, why: str) -> None:
        """Mark a key, record it, and revoke what tasks under it hold.

        INVARIANT: the mark is committed before anything else, so a call that starts later sees it, and a call that
        started earlier loses its credential. When this returns, this process has heard of it too.
        """
        await self._guard.suspensions.suspend(key, why)
        self._guard.forget_decisions()
        self._guard.records.try_append(Record(Event.SUSPENDED, {"key": self.public(key), "why": why}))
        await self._end_under({key})
        await self._hear(key)

    async def _hear(self, key: str) -> None:
        """Wait until the stop is known where reads of this process look: a store may tell them by notifications."""
        until = time.monotonic() + _HEARD
        try:
            while not await self._guard.suspensions.suspended([key]) and time.monotonic() < until:
                if driven():
                    time.sleep(_LOOKS)  # noqa: ASYNC251  # driven by hand: no event loop waits here
                else:
                    await anyio.sleep(_LOOKS)
        except Unavailable:  # then nothing starts either
            return

    async def listen(self) -> None:
        """Follow the stops that stand, whoever set them: their calls do not start, and leases under them are revoked.

        All of them, each time: a call that is refused at the gate has obtained its credential before, and a task may
        have opened after the stop.
        """
        _, stops = await self._guard.suspensions.news(-1)
        standing = {stop.key for stop in stops}
        for task in self._guard.keeper.open_tasks():
            if f"task:{task.id}" in self._standing - standing:  # somebody else let it go on
                task.why_stopped = ""
        if standing != self._standing:
            self._guard.forget_decisions()
        self._standing = standing
        await self._end_under(standing)

    async def _end_under(self, keys: Set[str]) -> None:
        guard = self._guard
        if guard.leases is None or not keys:
            return
        stopped = [task.id for task in guard.keeper.open_tasks() if not keys.isdisjoint(suspension_keys(task))]
        if stopped:
            await guard.leases.end_task(stopped[0], "suspended", reopen=True, others=stopped[1:])

    async def lift(self, key: str) -> None:
        """Let a key go on, and record it."""
        await self._guard.suspensions.lift(key)
        for task in self._guard.keeper.open_tasks():
            if key == f"task:{task.id}":
                task.why_stopped = ""
        self._guard.records.try_append(Record(Event.RESUMED, {"key": self.public(key)}))

    def public(self, key: str) -> str:
        """A key as records name it: a subject by its pseudonym, alone or at the head of a chain."""
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


async def stop_of(guard: Guard, task: Task) -> tuple[Reason, str] | None:
    """Return which stop keeps a task from being handed on or taken, or None; one that cannot be read does."""
    try:
        stopped = await guard.suspensions.suspended(suspension_keys(task))
    except Exception as error:
        return Reason.SUSPENDED, f"the suspensions cannot be read ({cause(error)})"
    return (Reason.SUSPENDED, f"{stopped} is suspended") if stopped else None


def key_of(agent: str, task: str, subject: str, chain: str = "") -> str:
    """The key of exactly one of them; a chain is written as in records, `user:alice > support-bot`.

    Raises:
        ConfigurationError: none is named, or more than one, or it is written so that it would stop nobody.
    """
    from agentguard._jwt import is_name  # here, as no call needs it

    path = ">".join(part.strip() for part in chain.split(">"))
    said = (("agent", agent), ("task", task), ("subject", subject), ("chain", path))
    named = [f"{kind}:{name}" for kind, name in said if name]
    if len(named) != 1:
        raise ConfigurationError("suspend() takes exactly one of agent=, task=, subject= and chain=")
    if agent or task:
        checked_name(agent or task, "agent" if agent else "task")
    if subject and not _is_subject(subject):
        raise ConfigurationError(f"subject {subject!r}: write it as chains do, user:{subject} or agent:{subject}")
    first, *agents = path.split(">")
    if chain and not (_is_subject(first) and agents and all(map(is_name, agents))):
        raise ConfigurationError(f"chain {chain!r}: write it as records do, user:alice > support-bot")
    return named[0]


def _is_subject(text: str) -> bool:
    """Whether it is a `sub` of a chain: a stop of any other text would be known to all, and hit nobody."""
    from agentguard._jwt import is_name

    kind, _, name = text.partition(":")
    return kind in ("user", "agent") and is_name(name)
