"""Agents as workloads: who they are, who answers for them, how long they are valid and what they may ever do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from math import isnan
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from agentguard.errors import ConfigurationError
from agentguard.intent.step import pattern_problem
from agentguard.model.decision import Reason
from agentguard.model.principal import MAX_HOPS, Agent, Proof, checked_name

if TYPE_CHECKING:
    from agentguard.intent import CompiledIntent

Status = Literal["active", "suspended", "retired"]
STATUSES: Final[tuple[Status, ...]] = ("active", "suspended", "retired")
DEFAULT_TTL: Final = 600.0
MAX_TTL: Final = 86_400.0
DEFAULT_DEPTH: Final = 3

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def admits(patterns: Collection[str], tool: str) -> bool:
    """Tell whether a tool is named by one of the patterns: its exact name, `prefix.*` (any depth below) or `*`."""
    if tool in patterns or "*" in patterns:
        return True
    return any(pattern.endswith(".*") and tool.startswith(pattern[:-1]) for pattern in patterns)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredAgent:
    """What the registry says about one agent.

    Args:
        agent: its name and the identity that was proved for it.
        owners: who answers for it: `business`, `identity` and `control`.
        purpose: what it is for.
        environments: where it may work; empty means anywhere.
        not_before, expires: seconds since the epoch (UTC); it is valid from the first and until the second.
        status: an agent that is suspended or retired may do nothing.
        purposes: intents it may open a task with, each with the `source_s256` it is pinned to or None; empty means any.
        tools: patterns of the tools it may call; None means any.
        hand_on: for each sub-agent, patterns of tools that it may call for this agent although this agent may not.
        ceiling: what holds for every call under this agent, whatever the task's intent says.
        task_ttl: the longest life of its tasks, in seconds.
        max_depth: hops between agents under a task that it opened.
        calls: at most so many calls in so many seconds.

    Raises:
        ConfigurationError: a limit, pattern or name is not valid.
    """

    agent: Agent
    owners: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    purpose: str = ""
    environments: frozenset[str] = frozenset()
    not_before: float | None = None
    expires: float | None = None
    status: Status = "active"
    purposes: Mapping[str, str | None] = field(default_factory=lambda: _NOTHING)
    tools: frozenset[str] | None = None
    hand_on: Mapping[str, frozenset[str]] = field(default_factory=lambda: _NOTHING)
    ceiling: CompiledIntent | None = None
    task_ttl: float = DEFAULT_TTL
    max_depth: int = DEFAULT_DEPTH
    calls: tuple[int, float] | None = None
    bounded: bool = field(default=False, init=False, repr=False, compare=False)  # some time or place is refused

    def __post_init__(self) -> None:
        checked_name(self.agent.name, "agent")
        if problems := tuple(problem for problem in self._problems() if problem):
            raise ConfigurationError(f"agent {self.agent.name!r} is registered wrongly:", problems)
        for name in ("owners", "purposes"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        if self.tools is not None:
            object.__setattr__(self, "tools", frozenset(self.tools))
        handed = {heir: frozenset(patterns) for heir, patterns in self.hand_on.items()}
        object.__setattr__(self, "hand_on", MappingProxyType(handed))
        dated = self.not_before is not None or self.expires is not None
        object.__setattr__(self, "bounded", dated or self.status != "active" or bool(self.environments))

    def _problems(self) -> Iterable[str]:
        yield "" if self.status in STATUSES else f"status {self.status!r}: write {', '.join(STATUSES)}"
        yield limits_problem(self.task_ttl, self.max_depth, self.calls)
        yield dates_problem(self.not_before, self.expires)
        for patterns in (self.tools or (), *self.hand_on.values()):
            if isinstance(patterns, str):  # of which every piece would be a pattern
                yield f"{patterns!r} is one text: write the patterns as a set"
            else:
                yield from map(pattern_problem, sorted(patterns))

    def refusal(self, now: float, environment: str) -> tuple[Reason, str] | None:
        """Return why the agent may not act now and here, or None.

        Args:
            now: seconds since the epoch.
            environment: where the guard works, such as `prod`.
        """
        who = f"agent {self.agent.name!r}"
        if self.status != "active":
            return Reason.SUSPENDED, f"{who} is {self.status} in the registry"
        if self.not_before is not None and now < self.not_before:
            return Reason.EXPIRED, f"{who} is not valid before {_date(self.not_before)}"
        if self.expires is not None and now >= self.expires:
            return Reason.EXPIRED, f"{who} expired at {_date(self.expires)}; its owner can renew its registration"
        if self.environments and environment not in self.environments:
            allowed = ", ".join(sorted(self.environments))
            return Reason.NOT_ALLOWED, f"{who} may not work in environment {environment!r}, only in {allowed}"
        return None

    def allows(self, tool: str, heir: str | None) -> bool:
        """Tell whether the agent may call a tool, or let the next agent of the chain call it.

        Args:
            tool: the tool's name.
            heir: the next agent of the chain, or None for the agent that acts itself.
        """
        if self.tools is None or admits(self.tools, tool):
            return True
        return heir is not None and admits(self.hand_on.get(heir, ()), tool)

    def may_open(self, intent_name: str, source_s256: str | None) -> bool:
        """Tell whether the agent may open a task with this intent; a pin admits exactly the file it was made from.

        Args:
            intent_name: the name of the intent.
            source_s256: hash of the file it was read from, or None for one that was written in Python.
        """
        if not self.purposes:
            return True
        return intent_name in self.purposes and self.purposes[intent_name] in (None, source_s256)


def limits_problem(task_ttl: float, max_depth: int, calls: tuple[int, float] | None) -> str:
    """Return what is wrong with an agent's limits, or nothing."""
    if not 0 < task_ttl <= MAX_TTL:
        return f"task_ttl must be more than 0 and at most {MAX_TTL:.0f} seconds (24h)"
    if isinstance(max_depth, bool) or not 0 <= max_depth <= MAX_HOPS:
        return f"max_depth must be 0 to {MAX_HOPS}"
    if calls is not None and not (calls[0] >= 1 and 0 < calls[1] < float("inf")):
        return "calls needs a max of at least 1 and a window longer than 0 seconds"
    return ""


def dates_problem(not_before: float | None, expires: float | None) -> str:
    """Return what is wrong with the time an agent is valid, or nothing."""
    # A date that is no number is never reached, so its agent would be valid for ever.
    if any(date is not None and isnan(date) for date in (not_before, expires)):
        return "not_before and expires must be numbers, or left out"
    if not_before is not None and expires is not None and not not_before < expires:
        return "not_before must be earlier than expires"
    return ""


class Registry:
    """The agents of `agentguard.yaml`; nobody else may act.

    Raises:
        ConfigurationError: a name is there twice, or `hand_on` names an agent that is not registered.
    """

    registration: Final = "registered"

    def __init__(self, agents: Iterable[RegisteredAgent]) -> None:
        listed = tuple(agents)
        self._agents = {entry.agent.name: entry for entry in listed}
        twice = (name for name, times in Counter(entry.agent.name for entry in listed).items() if times > 1)
        problems = [f"agent {name!r} is there twice" for name in twice]
        for entry in self._agents.values():
            unknown = sorted(set(entry.hand_on) - set(self._agents))
            problems += [
                f"agent {entry.agent.name!r} hands on to {name!r}, which is not registered" for name in unknown
            ]
        if problems:
            raise ConfigurationError("the registry is wrong:", tuple(problems))

    def get(self, name: str) -> RegisteredAgent | None:
        """Return the agent of this name, or None."""
        return self._agents.get(name)

    def names(self) -> tuple[str, ...]:
        """All names, in the order of the file."""
        return tuple(self._agents)


class OpenRegistry:
    """Admits every agent with a well-formed name, and says so: every record carries `registration: none`."""

    registration: Final = "none"

    def get(self, name: str) -> RegisteredAgent | None:
        """Return an agent of this name with the default limits, or None if it is no name."""
        return _unregistered(name)

    def names(self) -> tuple[str, ...]:
        """No agent is registered here."""
        return ()


@lru_cache(maxsize=1024)
def _unregistered(name: str) -> RegisteredAgent | None:
    try:
        return RegisteredAgent(agent=Agent(name, proof=Proof.IN_PROCESS, registered=False))
    except ConfigurationError:
        return None


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
