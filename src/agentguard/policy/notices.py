"""Telling somebody before a tool runs, where a policy obliges to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from agentguard.errors import ConfigurationError
from agentguard.model.principal import checked_name
from agentguard.policy.bounded_calls import BoundedCalls
from agentguard.policy.fork import renew_after_fork

_DEADLINE: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What somebody is told of a call that is about to run; no value of an argument beside those in `resource`.

    Args:
        tool, effect, resource: what runs, and on what.
        agent, chain: who acts, and for whom.
        purpose: of the root task.
        task, call: ids, as in the audit records.
        record: the id of the record of the decision.
        environment: where.
    """

    tool: str
    effect: str
    resource: str
    agent: str
    chain: str
    purpose: str
    task: str
    call: str
    record: str
    environment: str


class Notified:
    """Somebody who can be told, by the name that policies know. Safe for concurrent use.

    Args:
        name: as in the obligation `notify`.
        call: told with a `Notice`; a plain function. A raise means that nobody was told, and the tool does not run.
        deadline: seconds it may take, above 0 and at most 30.

    Raises:
        ConfigurationError: the name or the deadline is wrong.
    """

    def __init__(self, name: str, call: Callable[[Notice], object], *, deadline: float = _DEADLINE) -> None:
        if not 0 < deadline <= 30:
            raise ConfigurationError(f"notify {name!r}: deadline {deadline!r} is not above 0 and at most 30 seconds")
        self.name = checked_name(name, "whoever is notified")
        self._calls = BoundedCalls(self.name, call, deadline)
        renew_after_fork(self._calls)

    async def tell(self, notice: Notice) -> None:
        """Tell them; a raise means that it cannot be known whether they were told."""
        await self._calls.result(notice)


def by_name(notified: Mapping[str, Callable[[Notice], object]]) -> Mapping[str, Notified]:
    """Return those who can be told, by name."""
    return MappingProxyType({name: Notified(name, call) for name, call in notified.items()})
