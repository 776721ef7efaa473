"""The levels of a task as a handover holds them: literal intents, with what is left of their budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from agentguard.handover.details import LevelDetails, Spent
from agentguard.handover.shares import Counter, Share, counters_of, share_of, with_calls
from agentguard.intent import Facts, Intent
from agentguard.intent.binds import bind_key
from agentguard.intent.literal import FrozenMapping
from agentguard.intent.literal_intent import literal_intent, opened_intent, reach_of
from agentguard.intent.sources import sources_of
from agentguard.levels import Level, agent_scope, levels_of
from agentguard.ports import Budgets, Candidate, Charge, Exhausted, Reservation, Settlement
from agentguard.results import View

if TYPE_CHECKING:
    from agentguard.task import Task

_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Literal:
    """One level, ready to be handed on but for its shares."""

    link: Task
    ceiling: bool
    intent: Intent
    counters: tuple[Counter, ...]
    bound: tuple[tuple[str, str], ...]  # digests by the key of the name


async def literals(task: Task, to: str, narrowed: Intent | None, budgets: Budgets) -> list[Literal]:
    """Return every level of a task as it stands now, without what the far side cannot reach.

    Raises:
        ConfigurationError: a level has no literal form now.
    """
    narrows = (narrowed or task.intent.intent, *(link.intent.intent for link in task.path))
    tests = tuple(reach_of(intent) for intent in narrows)
    reaches: Callable[[str], bool] = lambda tool: all(test(tool) for test in tests)  # noqa: E731  # one line
    return [await _literal(task, level, budgets, reaches) for level in levels_of(task).levels]


async def _literal(task: Task, level: Level, budgets: Budgets, reaches: Callable[[str], bool]) -> Literal:
    link = level.task
    ceiling = link.is_ceiling or level.intent is link.agent.ceiling
    facts, bound = await _facts(task, level, budgets)
    intent = literal_intent(level.intent.intent, facts, reaches)
    counters = list(counters_of(intent, level.scope, ceiling=ceiling))
    if link.agent.calls is not None and level.intent is link.intent:
        intent, counters = with_calls(intent, counters, f"agent:{agent_scope(link)}/calls", link.agent.calls)
    return Literal(link, ceiling, intent, tuple(counters), bound)


async def _facts(task: Task, level: Level, budgets: Budgets) -> tuple[Facts, tuple[tuple[str, str], ...]]:
    facts = {"seen": task.tree.seen, "heard": task.tree.heard, "results": level.results}
    standing = level.standing
    if standing is None:
        return Facts(**facts), ()  # type: ignore[arg-type]  # by keyword, each of its own type
    found = list(await budgets.standing(standing.keys))
    happened = frozenset(step for step, total in zip(standing.awaited, found, strict=False) if total)
    bound = dict(zip(standing.binds.names, found[len(standing.awaited) :], strict=True))
    keys = tuple((bind_key(name), value) for name, value in bound.items() if value)
    return Facts(**facts, happened=happened, bound=FrozenMapping(bound)), keys  # type: ignore[arg-type]  # as above


def narrowing(task: Task, intent: Intent) -> Intent:
    """Return what the far side gets below the levels; its `from` holds for what was read here too."""
    above = tuple(link.id for link in task.path)
    view = View(task.tree.results, (*above, "handover"), "handover") if sources_of(intent) else None
    return opened_intent(intent, Facts(results=view))


async def reserve(
    found: Sequence[Literal], budgets: Budgets, fraction: Decimal | None, now: float, lasts: float
) -> tuple[list[tuple[Share, ...]], Reservation | None] | Exhausted:
    """Take the shares of all levels at once, as they are left now; None where nothing is counted.

    Args:
        found: the levels.
        budgets: the counters.
        fraction: see `share_of`.
        now: monotonic seconds.
        lasts: seconds in which the far side may use them.
    """
    refused = Exhausted(0, "", Charge("", "0"))
    for _ in range(_TRIES):  # a call may use up what was just seen; then it is looked at again
        shares = await _shares(found, budgets, fraction, now)
        charges = [charge for level in shares for share in level for charge in share.charges(lasts)]
        taken = await _taken(budgets, charges, now)
        if not isinstance(taken, Exhausted):
            return shares, taken
        refused = taken
    return refused


async def _shares(
    found: Sequence[Literal], budgets: Budgets, fraction: Decimal | None, now: float
) -> list[tuple[Share, ...]]:
    holds = [hold for level in found for counter in level.counters for hold in counter.holds]
    keys = [hold.key for hold in holds]
    # A sum holds what has left its window until something is taken there.
    await _taken(budgets, [Charge(hold.key, "Infinity", "0", per=hold.per) for hold in holds if hold.per], now)
    totals = await budgets.standing(keys) if keys else ()
    used = {key: Decimal(total or "0") for key, total in zip(keys, totals, strict=True)}
    return [tuple(share_of(counter, used, fraction) for counter in level.counters) for level in found]


async def _taken(budgets: Budgets, charges: list[Charge], now: float) -> Reservation | Exhausted | None:
    return await budgets.reserve([[Candidate("handover", tuple(charges))]], now) if charges else None


async def give_back(held: Reservation | None, budgets: Budgets) -> None:
    """Give back what was reserved."""
    if held is not None:
        await budgets.settle(held, Settlement.NOT_RUN)


def level_details(literal: Literal, shares: Sequence[Share], heir: str, position: int) -> LevelDetails:
    """Return a level as the token holds it.

    Args:
        literal: the level.
        shares: what is handed on of its counters.
        heir: the agent that acts next, for tools that are only handed on to it.
        position: the agent's place in the chain.
    """
    agent = literal.link.agent
    tools = None if agent.tools is None else sorted(agent.tools | agent.hand_on.get(heir, frozenset()))
    bound = [Spent(key=key, limit="0", value=value) for key, value in literal.bound]
    return LevelDetails(
        task=literal.link.id.partition("@")[0],
        agent=position,
        intent=literal.intent.to_yaml(),
        max_depth=agent.max_depth,
        tools=None if literal.ceiling else tools,
        spent=[*(share.spent() for share in shares), *bound],
        ceiling=literal.ceiling,
        source=literal.link.intent.source_s256 or literal.link.source_s256,
    )
