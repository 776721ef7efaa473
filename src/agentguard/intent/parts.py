"""The parts of an intent: its steps with their ids, its patterns, sets and forbids, and what its sub-agents get."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, Names
from agentguard.intent.document import Path
from agentguard.intent.forbid import Forbid, forbid_of
from agentguard.intent.literal import FrozenMapping, is_text
from agentguard.intent.mistakes import Notes
from agentguard.intent.sets import NAME as SET_NAME
from agentguard.intent.sets import SetSource, set_of
from agentguard.intent.step import Step
from agentguard.model.principal import checked_name

if TYPE_CHECKING:
    from agentguard.intent.intent import Intent

T = TypeVar("T")
_NO_STEP: Final = 'no step; write step("refund.create", account="acme")'
_AGENT_KEYS: Final = frozenset({
    "reads", "steps", "everywhere", "forbid", "agents", "ttl", "name", "purpose", "sets", "define", "otherwise",
    "limits", "examples",
})  # fmt: skip


def sub_intent_name(parent: str, agent: str) -> str:
    """Return the name of what a sub-agent gets, unless it has one of its own."""
    return f"{parent}.{slug(agent)}"[:64]


def slug(text: object) -> str:
    """Return a name made from a text, at most 64 characters of a-z 0-9 -."""
    plain = unicodedata.normalize("NFKD", str(text)[:200]).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64].strip("-") or "task"


def only_steps(steps: Iterable[object], notes: Notes) -> Iterator[Step]:
    for index, item in enumerate(steps):
        if isinstance(item, Step):
            yield item
        else:
            notes.add(("steps", index), f"a value of type {type(item).__name__} is {_NO_STEP}")


def with_ids(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Give steps without an id the tool's name, and `-2`, `-3` where that is taken."""
    steps = tuple(steps)
    taken = {step.id for step in steps if step.id}
    result = []
    for step in steps:
        if not step.id:
            names = (f"{step.tool}-{n}" if n > 1 else step.tool for n in range(1, len(steps) + len(taken) + 2))
            step = step.named(next(name for name in names if name not in taken))
            taken.add(step.id)
        result.append(step)
    return tuple(result)


def patterns_of(patterns: object) -> tuple[str, ...]:
    if isinstance(patterns, str) or not isinstance(patterns, Iterable):
        raise ConfigurationError('reads is a list: ["account.read", "ticket.*"]')
    return tuple(sorted(patterns, key=str) if isinstance(patterns, set | frozenset) else patterns)


def forbids_of(entries: Iterable[object]) -> tuple[Forbid, ...]:
    if isinstance(entries, Mapping | str):
        raise ConfigurationError('forbid is a list: [{"tags": ["egress"], "seen": ["pii"]}]')
    notes = Notes()
    found = [notes.take((index,), partial(forbid_of, entry), None) for index, entry in enumerate(entries)]
    notes.raise_if_any("forbid is wrong:")
    return tuple(entry for entry in found if entry is not None)


def sets_of(entries: Mapping[str, object]) -> FrozenMapping[SetSource]:
    return FrozenMapping(_by_name(entries, set_of, "a set"))


def _by_name(entries: Mapping[str, object], make: Callable[[object], T], what: str) -> dict[str, T]:
    notes, found = Notes(), dict[str, T]()
    for name, entry in entries.items():
        if not is_text(name) or not SET_NAME.fullmatch(name):
            notes.add((str(name),), f"{name!r} is no name of {what}; write letters, digits and _")
        elif (made := notes.take((name,), partial(make, entry), None)) is not None:
            found[name] = made
    notes.raise_if_any("names are wrong:")
    return found


def filled_with(names: Names, notes: Notes, path: Path, entries: Mapping[str, Constraint]) -> FrozenMapping[Constraint]:
    return FrozenMapping(
        {name: notes.take((*path, name), partial(said.filled, names), said) for name, said in entries.items()}
    )


def sub_intents(
    parent: str, purpose: str, agents: Mapping[str, object], sets: Mapping[str, SetSource],
    define: Mapping[str, Constraint],
) -> FrozenMapping[Intent]:  # fmt: skip
    notes = Notes()
    result: dict[str, Intent] = {}
    for agent, entry in agents.items():
        made = notes.take((str(agent),), partial(_sub_intent, parent, purpose, agent, entry, sets, define), None)
        if made is not None:
            result[agent] = made
    notes.raise_if_any("agents are wrong:")
    return FrozenMapping(result)


def _sub_intent(
    parent: str, purpose: str, agent: str, entry: object, sets: Mapping[str, SetSource],
    define: Mapping[str, Constraint],
) -> Intent:  # fmt: skip
    from agentguard.intent.intent import Intent

    checked_name(agent, "agent")
    if isinstance(entry, Intent):
        return _inheriting(entry, sets, define)
    if not isinstance(entry, Mapping) or not entry or set(entry) - _AGENT_KEYS:
        raise ConfigurationError(f"write an Intent, or a mapping with some of {', '.join(sorted(_AGENT_KEYS))}")
    words = {"name": sub_intent_name(parent, agent), "purpose": purpose} | dict(entry)
    words |= {"sets": {**sets, **words.get("sets", {})}, "define": {**define, **words.get("define", {})}}
    return Intent(words.pop("purpose"), *words.pop("steps", ()), **words)


def _inheriting(entry: Intent, sets: Mapping[str, SetSource], define: Mapping[str, Constraint]) -> Intent:
    """Return what a sub-agent gets with the names of its parent; its own sub-agents have them too, as in a file."""
    sets, define = {**sets, **entry.sets}, {**define, **entry.define}
    agents = {name: _inheriting(sub, sets, define) for name, sub in entry.agents.items()}
    same = all(agents[name] is sub for name, sub in entry.agents.items())
    if same and len(sets) == len(entry.sets) and len(define) == len(entry.define):
        return entry
    return entry.changed(sets=FrozenMapping(sets), define=FrozenMapping(define), agents=FrozenMapping(agents))
