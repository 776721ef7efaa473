"""`agents list`, `agents show` and `agents table`, as people and as programs read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from agentguard.cli.agents.inventory import Entry, Inventory
from agentguard.cli.agents.reach import Reach, handed_reach, own_reach
from agentguard.cli.agents.rules import state_of
from agentguard.cli.agents.usage import Usage
from agentguard.cli.output import count, say
from agentguard.intent.literal import duration_text

_COLUMNS: Final = ("name", "status", "owner", "expires", "tools", "hands on to", "last used")
_UNKNOWN: Final = "unknown"


# --- what is said about one agent -------------------------------------------------------------------------------------


def members(inventory: Inventory, entry: Entry, usage: Usage, now: float) -> dict[str, Any]:
    """What the registry says about an agent; `unknown` where that cannot be read."""
    agent = entry.agent
    said: dict[str, Any] = {
        "name": entry.name,
        "status": state_of(entry, now),
        "owners": dict(agent.owners),
        "purpose": agent.purpose,
        "identity": agent.agent.identity or None,
        "environments": sorted(agent.environments) or None,
        "not_before": inventory.said(entry.name, "not_before"),
        "expires": inventory.said(entry.name, "expires"),
        "purposes": {name: f"s256:{pin}" if pin else None for name, pin in agent.purposes.items()} or None,
        "tools": None if agent.tools is None else sorted(agent.tools),
        "hand_on": {heir: sorted(patterns) for heir, patterns in agent.hand_on.items()},
        "ceiling": str(entry.ceiling.file) if entry.ceiling else None,
        "limits": {
            "task_ttl": agent.task_ttl,
            "max_depth": agent.max_depth,
            "calls": None if agent.calls is None else {"max": agent.calls[0], "per": agent.calls[1]},
        },
    }
    said |= dict.fromkeys((key for key in entry.unread if key in said), _UNKNOWN)
    return {**said, "last_used": _last_used(usage, entry.name)}


def _last_used(usage: Usage, name: str) -> str | None:
    shown = usage.shown(name)
    return None if shown == "never" else shown


def log_members(usage: Usage) -> dict[str, Any]:
    """What was read of the audit log."""
    return {
        "since": usage.since or None, "records": usage.records, "damage": list(usage.damage),
        "unknown": usage.unknown or None,
    }  # fmt: skip


# --- list -------------------------------------------------------------------------------------------------------------


def say_list(inventory: Inventory, usage: Usage, now: float) -> None:
    """Print one line an agent."""
    rows = [_cells(inventory, entry, usage, now) for entry in inventory.entries.values()]
    rows += [(name, _UNKNOWN, *["?"] * (len(_COLUMNS) - 2)) for name in inventory.lost]
    widths = [max(len(row[column]) for row in (_COLUMNS, *rows)) for column in range(len(_COLUMNS))]
    for row in (_COLUMNS, *rows):
        say("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _cells(inventory: Inventory, entry: Entry, usage: Usage, now: float) -> Sequence[str]:
    said = members(inventory, entry, usage, now)
    owners = said["owners"]
    owner = _UNKNOWN if owners == _UNKNOWN else owners.get("business") or "none"
    return (
        entry.name, str(said["status"]), owner, str(said["expires"] or "never"), _tools(said["tools"]),
        _heirs(said["hand_on"]), usage.shown(entry.name),
    )  # fmt: skip


def _tools(tools: Any) -> str:
    if tools == _UNKNOWN:
        return _UNKNOWN
    return "any" if tools is None else ", ".join(tools) or "none"


def _heirs(handed: Any) -> str:
    return _UNKNOWN if handed == _UNKNOWN else ", ".join(handed) or "-"


# --- show -------------------------------------------------------------------------------------------------------------


def reaches(inventory: Inventory, entry: Entry) -> tuple[tuple[str, Reach | None], ...]:
    """What an agent reaches itself, and what others reach for it; None where nobody knows the tools."""
    if inventory.tools is None:
        return (("reaches", None), ("reaches_through_others", None))
    handed = handed_reach(entry, inventory.entries, inventory.specs)
    return (("reaches", own_reach(entry, inventory.specs)), ("reaches_through_others", handed))


def reach_members(reach: Reach | None, why: str) -> dict[str, Any]:
    """What a program reads about a reach."""
    if reach is None:
        return {"unknown": [why]}
    tools = [
        {"tool": spec.name, "effect": spec.effect, "tags": sorted(spec.tags), "by": list(callers)}
        for spec, callers in reach.tools
    ]
    audiences = {audience: list(scopes) for audience, scopes in reach.audiences.items()}
    return {"tools": tools, "audiences": audiences, "data": list(reach.data), "unknown": list(reach.unknown)}


def say_agent(inventory: Inventory, entry: Entry, usage: Usage, now: float) -> None:
    """Print everything about one agent."""
    for key, text in _facts(members(inventory, entry, usage, now)).items():
        say(f"{key + ':':<14}{text}")
    say(f"{'delegates to:':<14}{_delegates(entry)}")
    say(f"{'last used:':<14}{usage.shown(entry.name)}")
    for title, reach in reaches(inventory, entry):
        say("")
        say(f"{title.replace('_', ' ')}:")
        for line in _reach_lines(reach, inventory.why_no_tools):
            say(f"  {line}")


def _facts(said: dict[str, Any]) -> dict[str, str]:
    """What is said about an agent in words; what is left out says what that means."""
    left_out = {
        "environments": "any", "not_before": "any time", "expires": "never", "purposes": "any intent", "tools": "any",
        "hand_on": "nothing",
    }  # fmt: skip
    shown = {key: said[key] for key in said if key not in ("limits", "last_used")}
    found = {key.replace("_", " "): _text(value) or left_out.get(key, "none") for key, value in shown.items()}
    return {**found, "tools": _tools(said["tools"]), "limits": _limits(said["limits"])}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_text(entry)}" if entry else key for key, entry in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value or "")


def _limits(said: Any) -> str:
    if said == _UNKNOWN:
        return _UNKNOWN
    calls = said["calls"]
    often = f", {calls['max']} calls per {duration_text(calls['per'])}" if calls else ""
    return f"tasks of at most {duration_text(said['task_ttl'])}, {count(said['max_depth'], 'hop')}{often}"


def _delegates(entry: Entry) -> str:
    """Whom a task of the agent may be delegated to, as the guard decides it."""
    if "limits" in entry.unread:
        return _UNKNOWN
    if entry.agent.max_depth == 0:
        return "nobody (max_depth: 0)"
    return "any registered agent, for tools that both may call; beyond those only what it hands on"


def _reach_lines(reach: Reach | None, why: str) -> Iterator[str]:
    if reach is None:
        yield f"unknown: {why}"
        return
    for spec, callers in reach.tools:
        tags = ", ".join((spec.effect, *sorted(spec.tags)))
        yield f"{spec.name} ({tags}) by {', '.join(callers)}"
    if not reach.tools and not reach.unknown:
        yield "nothing"
    for audience, scopes in reach.audiences.items():
        yield f"credentials for {audience}: {' '.join(scopes) or 'no scopes'}"
    if reach.data:
        yield f"data: {', '.join(reach.data)}"
    yield from (f"unknown: {text}" for text in reach.unknown)
