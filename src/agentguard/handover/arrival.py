"""A handover that arrived: checked against this guard's registry and stops, redeemed once, its budgets set."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agentguard.errors import ConfigurationError
from agentguard.handover.details import Details, LevelDetails
from agentguard.handover.exporting import redemption_key, remembered_until
from agentguard.handover.patterns import both
from agentguard.intent import CompiledIntent, Intent, ValueSet, compile_intent
from agentguard.model.decision import Reason
from agentguard.model.principal import Agent, Chain
from agentguard.ports import Candidate, Charge, Reservation
from agentguard.registry import RegisteredAgent
from agentguard.stopping import stop_of
from agentguard.task import Task
from agentguard.task_state import TaskState
from agentguard.user import User

if TYPE_CHECKING:
    from agentguard.guard import Guard


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A verified handover, for the task that it opens.

    Args:
        issuer, jti: who made it, and its id.
        redeem_by: seconds since the epoch.
        details: what it hands on.
        links: the tasks above, as they stand here; none of them can be entered.
    """

    issuer: str
    jti: str
    redeem_by: float
    details: Details
    links: tuple[Task, ...]

    @property
    def source(self) -> dict[str, str]:
        """Where it comes from, for records."""
        return {"issuer": self.issuer, "jti": self.jti}

    async def refusal(self, guard: Guard, task: Task) -> tuple[Reason, str] | None:
        """Return why it may not be opened here and now, or None; all of this is looked at before it is redeemed."""
        for link in self.links:
            if refusal := link.agent.refusal(guard.now(), guard.environment):
                return refusal
        return await stop_of(guard, task)

    async def redeem(self, guard: Guard) -> str:
        """Use it up, once, and set what is left of its budgets; return why it cannot be, or nothing."""
        parties = guard.handovers
        if parties is None or not guard.now() < self.redeem_by:
            return "the handover has expired"
        key, until = redemption_key(self.issuer, self.jti), remembered_until(self.details.until)
        try:
            first = await parties.redemptions.redeem(key, until, guard.now())
        except Exception as error:
            return f"it cannot be told whether the handover was redeemed ({type(error).__name__})"
        if not first:
            return "the handover was redeemed before; each is good once"
        charges = tuple(self._spent())
        try:
            fits = not charges or isinstance(
                await guard.budgets.reserve([[Candidate("handover", charges)]], guard.monotonic()), Reservation
            )
        except Exception:  # it is used up, so it is recorded as refused, whatever the store says
            fits = False
        return "" if fits else "what is left of the budgets of the handover cannot be counted here"

    def _spent(self) -> Iterator[Charge]:
        for link, level in zip(self.links, self.details.levels, strict=True):
            for one in level.spent:
                yield Charge(f"task:{link.id}/{one.key}", one.limit, one.amount, value=one.value)

    async def forget(self, guard: Guard) -> None:
        """Drop the counters of the levels above; the task that it opened has ended."""
        for link in self.links:
            link.state = TaskState.ENDED
            await guard.budgets.forget(f"task:{link.id}")


def links_of(guard: Guard, details: Details, scope: str, chain: Chain, seconds: float) -> tuple[Task, ...]:
    """Return the tasks above, the root first: each level of the handover is one.

    Raises:
        ConfigurationError: an intent cannot be read, or cannot be a ceiling.
    """
    links: list[Task] = []
    for position in range(len(details.levels)):
        links.append(_link(guard, details, position, scope, chain, links[-1] if links else None, seconds))
    for above, below in itertools.pairwise(links):
        above.children.append(below)
    return tuple(links)


def _link(
    guard: Guard, details: Details, position: int, scope: str, chain: Chain, parent: Task | None, seconds: float
) -> Task:
    level = details.levels[position]
    compiled = compiled_from(level.intent, ceiling=level.ceiling)
    own = Chain(chain.subject, chain.agents[: level.agent + 1])
    heir = [*(agent.name for agent in chain.agents), details.to][level.agent + 1]
    # Another process counts under the same id, perhaps in the same store: the id of a level here is its own.
    link = Task(
        guard, id=f"{level.task}@{scope}.{position}", agent=_agent(guard, level, own.actor, heir),
        intent=compiled, user=User(subject=chain.subject), chain=own, parent=parent, ttl=seconds,
    )  # fmt: skip
    link.is_ceiling, link.source_s256 = level.ceiling, level.source
    link.state, link.deadline = TaskState.OPEN, guard.monotonic() + seconds
    return link


def compiled_from(text: str, *, ceiling: bool = False) -> CompiledIntent:
    """Compile an intent from its file form.

    INVARIANT: what another process wrote makes this one read no file, no environment and no resolver.

    Raises:
        ConfigurationError: it is none, or one of its sets does not hold its values.
    """
    intent = Intent.from_yaml(text, file="<handover>")
    if not _literal(intent):
        raise ConfigurationError("a set of it does not hold its values")
    return compile_intent(intent, ceiling=ceiling)


def _literal(intent: Intent) -> bool:
    own = all(isinstance(source, ValueSet) for source in intent.sets.values())
    return own and all(map(_literal, intent.agents.values()))


def _agent(guard: Guard, level: LevelDetails, attested: Agent, heir: str) -> RegisteredAgent:
    """What both registries say about an agent of the chain; its own tools and those it hands on are one thing here."""
    tools = None if level.tools is None else frozenset(level.tools)
    here = guard.registry.get(attested.name)
    if level.ceiling or here is None:
        return RegisteredAgent(agent=attested, tools=tools, max_depth=level.max_depth)
    allowed = None if here.tools is None else here.tools | here.hand_on.get(heir, frozenset())
    depth = min(here.max_depth, level.max_depth)
    return replace(here, agent=attested, tools=both(tools, allowed), hand_on={}, max_depth=depth)


def seconds_left(details: Details, now: float) -> float:
    """Seconds until the task has to end, by its exporter's clock; never negative or endless."""
    left = details.until - now
    return max(0.0, left) if math.isfinite(left) else 0.0
