"""What is wrong with the agents of a registry, each by a stable code: owners, dates, identity, tools, hand_on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Final

from agentguard.cli.agents.coded import Code, Coded, coded
from agentguard.cli.agents.inventory import Entry, Inventory
from agentguard.cli.agents.reach import handed_reach
from agentguard.intent.document import nearest
from agentguard.registry import admits

_PRODUCTION: Final = ("prod", "production")
DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What the rules judge by.

    Args:
        now: seconds since the epoch.
        within: an agent that expires in so many seconds is found.
        intents: the folder of the intents that `purposes` names, or None.
    """

    now: float
    within: float
    intents: FilePath | None = None


Rule = Callable[[Inventory, Entry, Terms], Iterator[Coded]]


def agent_findings(inventory: Inventory, terms: Terms) -> Iterator[Coded]:
    """Yield what the rules find, agent by agent; a part that could not be read is not judged."""
    for entry in inventory.entries.values():
        for rule in RULES:
            yield from rule(inventory, entry, terms)


def approval_findings(inventory: Inventory) -> Iterator[Coded]:
    """Yield that questions which wait for a person end with the process that asked them."""
    settings = inventory.settings
    waits = settings.approval.kind == "later" or settings.approval.said.get("block") is False
    if waits and settings.state is None and not {"approval", "state"} & inventory.unread:
        text = "without a state questions end with the process that asked, and `agentguard approvals` sees none of them"
        state = "state: {sqlite: state.db, key: {env: AG_STATE_KEY}}"
        yield coded(inventory.document, Code.APPROVAL_UNSHARED, ("approval",), text, state)


def _found(inventory: Inventory, entry: Entry, code: Code, text: str, instead: str = "", *path: str) -> Coded:
    return coded(inventory.document, code, ("agents", entry.name, *path), text, instead)


def state_of(entry: Entry, now: float) -> str:
    """Return in a word or two whether an agent may act: `active`, `suspended`, `expired`, `not yet valid`, ..."""
    agent = entry.agent
    if entry.unread & {"status", "expires", "not_before"}:
        return "unknown"
    if agent.status != "active":
        return agent.status
    if agent.expires is not None and now >= agent.expires:
        return "expired"
    return "not yet valid" if agent.not_before is not None and now < agent.not_before else "active"


def _valid(inventory: Inventory, entry: Entry, terms: Terms) -> Iterator[Coded]:
    state, name = state_of(entry, terms.now), entry.name
    if state in ("suspended", "retired"):
        yield _found(inventory, entry, Code(state), f"{name} is {state}, so it may do nothing", "", "status")
    elif state == "expired":
        text = f"{name} expired at {inventory.said(name, 'expires')}, so it may do nothing"
        yield _found(inventory, entry, Code.EXPIRED, text, "a later date, or status: retired", "expires")
    expires = entry.agent.expires
    if state == "active" and expires is not None and expires - terms.now <= terms.within:
        days = int((expires - terms.now) // DAY)
        text = f"{name} expires in {days} days" if days != 1 else f"{name} expires in 1 day"
        yield _found(
            inventory, entry, Code.EXPIRING, text, "a later date, once its owners have looked at it", "expires"
        )


def _identity(inventory: Inventory, entry: Entry, terms: Terms) -> Iterator[Coded]:
    if entry.unread & {"identity"}:
        return
    name, proved = entry.name, inventory.settings.identity.kind != "static"
    if not entry.agent.agent.identity:
        follows = "every task of it is denied" if proved else "any process with this file may work under its name"
        text = f"{name} has no identity, so {follows}"
        yield _found(inventory, entry, Code.NO_IDENTITY, text, "identity: spiffe://bank.test/NAME")
    elif not proved and "identity" not in inventory.unread:
        text = f"{name} has an identity that nothing here proves, so every task of it is denied"
        yield _found(inventory, entry, Code.IDENTITY_UNPROVABLE, text, "identity: {spiffe: {}} at the top", "identity")


def _tools(inventory: Inventory, entry: Entry, terms: Terms) -> Iterator[Coded]:
    agent, name = entry.agent, entry.name
    if agent.tools is None and "tools" not in entry.unread and inventory.settings.environment in _PRODUCTION:
        text = f"{name} may call any tool in {inventory.settings.environment}: its registration names none"
        yield _found(inventory, entry, Code.NO_TOOLS_LIMIT, text, "tools: [...]")
    if inventory.tools is None:
        return
    said: dict[tuple[str, ...], frozenset[str]] = {("tools",): agent.tools or frozenset()}
    said |= {("hand_on", heir): patterns for heir, patterns in agent.hand_on.items()}
    for path, patterns in said.items():
        for pattern in sorted(patterns):
            if not any(admits({pattern}, tool) for tool in inventory.tools.specs):
                text = f"{pattern} names no declared tool{nearest(pattern, inventory.tools.specs)}"
                yield coded(inventory.document, Code.UNKNOWN_TOOL, inventory.place(name, *path, pattern), text)


def _hand_on(inventory: Inventory, entry: Entry, terms: Terms) -> Iterator[Coded]:
    entries, name = inventory.entries, entry.name
    for heir, patterns in entry.agent.hand_on.items():
        other = entries.get(heir)
        if other is None:
            continue
        if (state := state_of(other, terms.now)) in ("suspended", "retired", "expired"):
            text = f"{name} hands on to {heir}, which is {state}"
            yield _found(inventory, entry, Code.HAND_ON_STOPPED, text, "nothing, or another agent", "hand_on", heir)
        if name in _heirs_of(inventory, heir):
            text = f"{name} hands on to {heir}, which hands on to {name}: no chain holds an agent twice"
            yield _found(inventory, entry, Code.HAND_ON_CYCLE, text, "one direction", "hand_on", heir)
        if entry.agent.max_depth == 0:
            text = f"{name} has max_depth: 0, so it can never delegate, to {heir} neither"
            yield _found(inventory, entry, Code.HAND_ON_USELESS, text, "max_depth: 1", "hand_on", heir)
            continue
        for pattern in sorted(patterns):
            if not _usable(inventory, entry, other, pattern):
                text = f"{name} hands {pattern} on in vain: neither {heir} nor an agent behind it can ever call it"
                where = inventory.place(name, "hand_on", heir, pattern)
                yield coded(
                    inventory.document, Code.HAND_ON_USELESS, where, text, f"{pattern} among the tools of {heir}"
                )


def _heirs_of(inventory: Inventory, name: str) -> set[str]:
    """All agents that one hands on to, over any number of hops."""
    found, edge = set[str](), [name]
    while edge:
        entry = inventory.entries.get(edge.pop())
        new = set(entry.agent.hand_on) - found if entry else set()
        found |= new
        edge += new
    return found


def _usable(inventory: Inventory, entry: Entry, heir: Entry, pattern: str) -> bool:
    """Whether a handed-on pattern can ever be used; where that cannot be told, it may be."""
    agent = heir.agent
    if "tools" in heir.unread or "hand_on" in heir.unread:
        return True
    known = ["*"] if agent.tools is None else [*agent.tools, *(p for ps in agent.hand_on.values() for p in ps)]
    if not any(_meet(pattern, other) for other in known):
        return False
    specs = [spec for spec in inventory.specs if admits({pattern}, spec.name)]
    if not specs or any(entry.agent.allows(spec.name, None) for spec in specs):
        return True
    reach = handed_reach(entry, inventory.entries, specs)
    return bool(reach.tools or reach.unknown)


def _meet(one: str, other: str) -> bool:
    """Whether two patterns have a tool in common."""
    start, begin = one.removesuffix("*"), other.removesuffix("*")
    return one == other or (start != one and begin.startswith(start)) or (begin != other and start.startswith(begin))


RULES: Final[tuple[Rule, ...]] = (_valid, _identity, _tools, _hand_on)
