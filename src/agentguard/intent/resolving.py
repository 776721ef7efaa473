"""Puts values in the place of names: the members of an intent's sets, and then what its constraints name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from agentguard.intent.literal import FrozenMapping
from agentguard.intent.mistakes import Notes
from agentguard.intent.parts import filled_with
from agentguard.intent.sets import Resolver, SetSource, ValueSet

if TYPE_CHECKING:
    from agentguard.intent.constraint import Names
    from agentguard.intent.intent import Intent

_EMPTY_SET: Final = ValueSet((), may_be_empty=True)


def resolved(intent: Intent, resolvers: Mapping[str, Resolver], base: Path, known: dict[SetSource, ValueSet]) -> Intent:
    """Return the intent with the members of its sets, and of its sub-agents'; one source is resolved once."""
    notes, found = Notes(), dict[str, SetSource]()
    for name, source in intent.sets.items():
        if source not in known:
            known[source] = notes.take(("sets", name), partial(source.resolved, resolvers, base), _EMPTY_SET)
        found[name] = known[source]
    notes.raise_if_any(f"the sets of intent {intent.name!r} cannot be resolved:")
    agents = {name: resolved(sub, resolvers, base, known) for name, sub in intent.agents.items()}
    if found == dict(intent.sets) and all(agents[name] is sub for name, sub in intent.agents.items()):
        return intent
    return intent.changed(sets=FrozenMapping(found), agents=FrozenMapping(agents))


def with_names(intent: Intent, names: Names) -> Intent:
    """Return the intent with what sets and defines stand for inside its constraints."""
    notes = Notes()
    filled = partial(filled_with, names, notes)
    made = intent.changed(
        everywhere=filled(("everywhere",), intent.everywhere),
        steps=tuple(replace(step, args=filled(("steps", i, "args"), step.args)) for i, step in enumerate(intent.steps)),
        forbid=tuple(
            replace(entry, args=filled(("forbid", i, "args"), entry.args)) for i, entry in enumerate(intent.forbid)
        ),
    )
    notes.raise_if_any("the intent is wrong:")
    return made
