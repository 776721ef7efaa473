"""What an agent can reach: through its own tools, and through the agents that it hands tools on to. Pure.

It is told as registered: an agent that is suspended or out of date reaches nothing until its registration says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agentguard.cli.agents.inventory import Entry
from agentguard.cli.agents.separation import Who, cell, under_ceiling
from agentguard.model.call import ToolSpec
from agentguard.model.principal import MAX_HOPS
from agentguard.registry import admits


@dataclass(frozen=True, slots=True)
class Reach:
    """Tools that can be called, each with who calls it; and what nobody can tell.

    Args:
        tools: each tool, with the agents that call it.
        unknown: why more than this may be reached.
    """

    tools: tuple[tuple[ToolSpec, tuple[str, ...]], ...]
    unknown: tuple[str, ...] = ()

    @property
    def audiences(self) -> Mapping[str, tuple[str, ...]]:
        """The scopes of the credentials that can be had, by audience."""
        found: dict[str, set[str]] = {}
        for spec, _ in self.tools:
            if spec.audience:
                found.setdefault(spec.audience, set()).update(spec.scopes)
        return {audience: tuple(sorted(scopes)) for audience, scopes in sorted(found.items())}

    @property
    def data(self) -> tuple[str, ...]:
        """The classes of data that the tools return or take."""
        return tuple(sorted({word for spec, _ in self.tools for word in spec.data}))


def own_reach(entry: Entry, specs: Iterable[ToolSpec]) -> Reach:
    """What an agent can reach by calls of its own."""
    cells = [cell(entry, spec) for spec in specs]
    tools = tuple((found.spec, (found.agent,)) for found in cells if found.ways)
    return Reach(tools, tuple(dict.fromkeys(f"{entry.name}: {found.why}" for found in cells if not found.known)))


def handed_reach(entry: Entry, entries: Mapping[str, Entry], specs: Iterable[ToolSpec]) -> Reach:
    """What other agents can reach for an agent that may not call it itself: `hand_on`, over all hops."""
    unknown: dict[str, None] = {}
    tools = []
    for spec in specs:
        if not entry.agent.allows(spec.name, None) and _bounded(entry, spec, unknown):
            callers = tuple(sorted(_callers(entry, entries, spec, unknown)))
            tools += [(spec, callers)] if callers else []
    unread = f"{entry.name}: its hand_on cannot be read" if "hand_on" in entry.unread else ""
    return Reach(tuple(tools), (*((unread,) if unread else ()), *unknown))


def _callers(root: Entry, entries: Mapping[str, Entry], spec: ToolSpec, unknown: dict[str, None]) -> set[str]:
    """Return the agents that can call a tool under the root, hop by hop.

    The ceiling and the `max_depth` of every agent of the chain hold. An agent is looked at again only where it is
    reached with more hops left, so the work is bounded however many circles `hand_on` has.
    """
    best = {root.name: min(root.agent.max_depth, MAX_HOPS - 1)}
    callers, edge, depth = set[str](), dict(best), 0
    while edge:
        depth += 1
        reached: dict[str, int] = {}
        for heir, hops in _next(edge, entries, spec.name).items():
            if heir != root.name and _bounded(entries[heir], spec, unknown):
                reached[heir] = min(hops - 1, entries[heir].agent.max_depth - depth)
        callers |= {heir for heir in reached if entries[heir].agent.allows(spec.name, None)}
        edge = {heir: left for heir, left in reached.items() if left > best.get(heir, 0)}
        best |= edge
    return callers


def _next(edge: Mapping[str, int], entries: Mapping[str, Entry], tool: str) -> dict[str, int]:
    """Return whom the agents of one hop can delegate to, each with the most hops that are left to its delegator.

    Whoever may call a tool itself may delegate it to any registered agent, and `hand_on` is for all others.
    """
    found: dict[str, int] = {}
    left = {name: hops for name, hops in edge.items() if hops > 0}
    own = [hops for name, hops in left.items() if entries[name].agent.allows(tool, None)]
    for name, hops in left.items():
        for heir in _heirs(entries[name], tool):
            found[heir] = max(found.get(heir, 0), hops)
    for name in entries if own else ():
        found[name] = max(found.get(name, 0), *own)
    return {name: hops for name, hops in found.items() if name in entries}


def _heirs(entry: Entry, tool: str) -> list[str]:
    return [heir for heir, patterns in entry.agent.hand_on.items() if admits(patterns, tool)]


def _bounded(entry: Entry, spec: ToolSpec, unknown: dict[str, None]) -> bool:
    """Whether the ceiling of an agent admits the tool; where nobody can tell, that is noted."""
    found = under_ceiling(entry, spec)
    if Who.UNKNOWN in found.outcomes:
        unknown.setdefault(f"{entry.name}: {found.why}")
    return bool(found.ways)
