"""Attributes of a call that somebody else knows: risk, posture, who is on duty. Named callables, bounded and cached.

A source that raises, is late or says something that cannot be shown leaves its attribute missing: a deny where the
source is required, and else for every policy that reads it without asking whether it is there.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agentguard.errors import ConfigurationError
from agentguard.model.call import ToolSpec
from agentguard.model.principal import Chain, checked_name
from agentguard.policy.bounded_calls import BoundedCalls
from agentguard.policy.fork import renew_after_fork
from agentguard.policy.values import plain

_log: Final = logging.getLogger("agentguard")
_KEPT: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What an attribute source is told: what the guard itself knows, and nothing a model said.

    Args:
        subject, issuer, tenant: whom the task acts for.
        agents: the chain of agents, the one that acts now last.
        tool, effect: what is to be called.
        environment: as configured.
    """

    subject: str
    issuer: str = ""
    tenant: str = ""
    agents: tuple[str, ...] = ()
    tool: str = ""
    effect: str = ""
    environment: str = ""


def about(chain: Chain, spec: ToolSpec, environment: str) -> About:
    """What the sources are told of a call."""
    subject = chain.subject
    return About(
        subject=subject.sub, issuer=subject.issuer, tenant=subject.tenant,
        agents=tuple(agent.name for agent in chain.agents), tool=spec.name, effect=spec.effect.value,
        environment=environment,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attributes:
    """What the sources said.

    Args:
        values: by source; plain values.
        missing: sources that could not tell.
        denied: a required source that could not tell, with why, or empty.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    denied: str = ""


class AttributeSource:
    """One attribute, asked of a callable. Safe for concurrent use by threads and event loops.

    Each question runs in a thread of its own, so one that hangs holds nobody up beyond the deadline; at most 16 hang
    at once, and then the attribute is missing.

    Args:
        name: of the attribute: `context.attributes.NAME`.
        call: returns text, a number, a bool, a list or a mapping; a plain function.
        deadline: seconds it may take.
        ttl: seconds for which an answer is used again for the same `About`; 0 asks every time.
        required: whether a call is denied where it cannot tell; else the name stands in `context.missing`.
        clock: monotonic seconds.

    Raises:
        ConfigurationError: the name or a number is wrong.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[About], object],
        *,
        deadline: float = 1.0,
        ttl: float = 0.0,
        required: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < deadline <= 30:
            raise ConfigurationError(f"attribute {name!r}: deadline {deadline!r} is not above 0 and at most 30 seconds")
        if not 0 <= ttl < math.inf:
            raise ConfigurationError(f"attribute {name!r}: ttl {ttl!r} is no number of seconds from 0")
        self.name, self.required = checked_name(name, "the attribute"), required
        self._calls, self._ttl, self._clock = BoundedCalls(name, call, deadline), ttl, clock
        self._forgotten = 0
        self.renew()
        renew_after_fork(self)

    async def value(self, facts: About) -> Any:
        """Return the attribute for a call.

        Raises:
            Exception: it cannot be had; whatever the callable raised, TimeoutError, or NotCarried.
        """
        with self._lock:
            held, forgotten = self._kept.get(facts), self._forgotten
        now = self._clock()
        if held is not None and 0 <= now - held[0] < self._ttl:
            return _copied(held[1])
        found = plain(await self._calls.result(facts), self.name)
        if self._ttl:
            self._keep(facts, now, _copied(found), forgotten)
        return found

    def forget(self) -> None:
        """Drop every answer; one that is on its way is not kept either."""
        with self._lock:
            self._forgotten += 1
            self._kept.clear()

    def renew(self) -> None:
        """In a forked child: the threads that ask are the parent's."""
        self._lock = threading.Lock()
        self._calls.renew()
        self._kept: OrderedDict[About, tuple[float, Any]] = OrderedDict()

    def _keep(self, facts: About, asked_at: float, found: Any, forgotten: int) -> None:
        with self._lock:
            if forgotten == self._forgotten:
                self._kept[facts] = (asked_at, found)
                self._kept.move_to_end(facts)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)


def _copied(value: Any) -> Any:
    """What a decision point does to its question is not what the next call is told."""
    if type(value) is dict:
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if type(value) is list else value


async def gather(sources: Sequence[AttributeSource], facts: About) -> Attributes:
    """Ask every source, one after the other; what cannot be had is missing.

    The text of an error is not passed on: it may hold what the source knows.
    """
    values: dict[str, Any] = {}
    missing: list[str] = []
    for source in sources:
        problem = ""
        try:
            values[source.name] = await source.value(facts)
        except Exception as error:
            problem = type(error).__name__
        if problem:
            missing.append(source.name)
            _log.warning("attribute %s is missing (%s)", source.name, problem)
            if source.required:
                denied = f"the attribute {source.name} cannot be had ({problem})"
                return Attributes(values, tuple(missing), denied)
    return Attributes(values, tuple(missing))
