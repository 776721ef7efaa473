"""The table of separation, as people (Markdown) and as programs read it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from agentguard.cli.agents.inventory import Inventory
from agentguard.cli.agents.separation import Cell, cell
from agentguard.cli.output import say

_HEAD: Final = ("agent", "tool", "effect", "who", "when")
# What Markdown or HTML would read as more than text.
_MARKUP: Final = re.compile(r"[\\`*\[\]<>!|~&]")


def table(inventory: Inventory) -> list[Cell]:
    """Every agent with every declared tool."""
    return [cell(entry, spec) for entry in inventory.entries.values() for spec in inventory.specs]


def cell_members(found: Cell) -> dict[str, Any]:
    """What a program reads about one cell."""
    ways = [{"who": way.who, "step": way.step, "by": way.by, "text": way.text} for way in found.ways]
    return {
        "agent": found.agent, "tool": found.spec.name, "effect": found.spec.effect, "tags": sorted(found.spec.tags),
        "outcomes": list(found.outcomes), "conditional": found.conditional, "ways": ways,
        "always": list(found.always), "why": found.why,
    }  # fmt: skip


def say_table(cells: Iterable[Cell]) -> None:
    """Print the table as Markdown."""
    say(f"| {' | '.join(_HEAD)} |")
    say("|" + "---|" * len(_HEAD))
    for found in cells:
        effect = ", ".join((found.spec.effect, *sorted(found.spec.tags)))
        row = (found.agent, found.spec.name, effect, found.shown, _when(found))
        say(f"| {' | '.join(map(markdown, row))} |")


def _when(found: Cell) -> str:
    parts = []
    for way in found.ways:
        who = f"{way.who} ({way.step})" if way.step else str(way.who)
        asked = f", the {way.by} is asked" if way.by else ""
        parts.append(f"{who}{asked}: {way.text or 'any arguments'}")
    parts += [f"always: {text}" for text in found.always]
    return ". ".join(parts) if parts else found.why


def markdown(text: str) -> str:
    """Text in a cell of a Markdown table: what would be markup is written as a character reference."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", " ".join(text.split("\n")))
