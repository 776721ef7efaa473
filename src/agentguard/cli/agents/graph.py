"""The registry as a Mermaid flowchart: owners, agents, and what agents hand on to each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from agentguard.cli.agents.inventory import Entry, Inventory
from agentguard.cli.agents.rules import state_of

_SHOWN: Final = 6
_LONGEST: Final = 120
# INVARIANT: only these stand in a label as they are. Any other character is written as an entity code, so that no name
# can end a label, begin a statement, a comment, a directive or a link, or be taken for HTML or Markdown.
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:/@-")


def label(text: str) -> str:
    """Return text as a quoted Mermaid label."""
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return '"' + "".join(char if char in _PLAIN else f"#{ord(char)};" for char in cut) + '"'


def mermaid(inventory: Inventory, now: float) -> list[str]:
    """Return the lines of the flowchart; nodes have numbers as ids, so a name is never more than a label."""
    return ["flowchart LR", *_lines(inventory, now)]


def _lines(inventory: Inventory, now: float) -> Iterator[str]:
    entries = inventory.entries
    ids = {name: f"a{index}" for index, name in enumerate(entries)}
    owners = {owner: f"o{index}" for index, owner in enumerate(sorted(_owners(entries.values())))}
    for name, entry in entries.items():
        state = state_of(entry, now)
        notes = [state] if state != "active" else []
        notes += ["hand_on unknown"] if "hand_on" in entry.unread else []
        yield f"    {ids[name]}[{label(': '.join([name, *notes]))}]"
        if state != "active":
            yield f"    class {ids[name]} stopped"
    for owner, place in owners.items():
        yield f"    {place}([{label(owner)}])"
    for name, entry in entries.items():
        for role, owner in entry.agent.owners.items():
            if owner:
                yield f"    {owners[owner]} -.->|{label(role)}| {ids[name]}"
        for heir, patterns in entry.agent.hand_on.items():
            if heir in ids:
                yield f"    {ids[name]} -->|{label(_few(patterns))}| {ids[heir]}"
    yield "    classDef stopped stroke-dasharray: 5 5"


def _owners(entries: Iterable[Entry]) -> set[str]:
    return {owner for entry in entries for owner in entry.agent.owners.values() if owner}


def _few(patterns: Iterable[str]) -> str:
    listed = sorted(patterns)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def edges(inventory: Inventory, now: float) -> dict[str, Any]:
    """What a program reads instead."""
    agents = [
        {
            "name": name,
            "state": state_of(entry, now),
            "owners": "unknown" if "owners" in entry.unread else dict(entry.agent.owners),
            "hand_on": "unknown" if "hand_on" in entry.unread else sorted(entry.agent.hand_on),
        }
        for name, entry in inventory.entries.items()
    ]
    handed = [
        {"from": name, "to": heir, "tools": sorted(patterns)}
        for name, entry in inventory.entries.items()
        for heir, patterns in entry.agent.hand_on.items()
    ]
    return {"agents": agents, "edges": handed}
