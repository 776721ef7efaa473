"""Makes an intent: every part read from its Python form, every name looked up, all mistakes in one error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from agentguard.intent.binds import misplaced_binds
from agentguard.intent.limits import examples_of, limits_of, otherwise_of
from agentguard.intent.literal import FrozenMapping, is_text
from agentguard.intent.mistakes import Notes
from agentguard.intent.naming import reference_mistakes
from agentguard.intent.parts import forbids_of, only_steps, patterns_of, sets_of, slug, sub_intents, with_ids
from agentguard.intent.sources import unknown_sources
from agentguard.intent.step import arguments, pattern_problem
from agentguard.model.duration import seconds

if TYPE_CHECKING:
    from datetime import timedelta

    from agentguard.intent.constraint import Constraint
    from agentguard.intent.document import Path
    from agentguard.intent.forbid import Forbid
    from agentguard.intent.intent import Intent
    from agentguard.intent.sets import SetSource
    from agentguard.intent.step import Step

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def parts_of(
    notes: Notes, purpose: str, steps: Iterable[Step], *, name: str | None, reads: Iterable[str],
    everywhere: Mapping[str, object] | None, forbid: Iterable[object], agents: Mapping[str, object] | None,
    ttl: str | float | timedelta | None, sets: Mapping[str, object] | None, define: Mapping[str, object] | None,
    otherwise: object, limits: object, examples: object,
) -> dict[str, Any]:  # fmt: skip
    """Return the fields of an intent by name; what is wrong with one is noted, and something empty stands for it."""
    no_patterns: tuple[str, ...] = ()
    no_forbids: tuple[Forbid, ...] = ()
    no_constraints: FrozenMapping[Constraint] = FrozenMapping()
    no_agents: FrozenMapping[Intent] = FrozenMapping()
    no_sets: FrozenMapping[SetSource] = FrozenMapping()
    name = slug(purpose) if name is None else name
    named = notes.take(("sets",), partial(sets_of, sets or {}), no_sets)
    defined = notes.take(("define",), partial(arguments, define or {}), no_constraints)
    inherited = partial(sub_intents, name, purpose, agents or {}, named, defined)
    return {
        "name": name,
        "purpose": purpose,
        "steps": with_ids(only_steps(steps, notes)),
        "reads": notes.take(("reads",), partial(patterns_of, reads), no_patterns),
        "everywhere": notes.take(("everywhere",), partial(arguments, everywhere or {}), no_constraints),
        "forbid": notes.take(("forbid",), partial(forbids_of, forbid), no_forbids),
        "agents": notes.take(("agents",), inherited, no_agents),
        "ttl": None if ttl is None else notes.take(("ttl",), partial(seconds, ttl), None),
        "sets": named,
        "define": defined,
        "otherwise": notes.take(("otherwise",), partial(otherwise_of, otherwise), None),
        "limits": notes.take(("limits",), partial(limits_of, limits), None),
        "examples": notes.take(("examples",), partial(examples_of, examples), None),
    }


def mistakes_of(intent: Intent) -> Iterator[tuple[Path, str]]:
    """Yield what is wrong with an intent as a whole: names that stand for nothing, and what stands where it may not."""
    yield from _own_mistakes(intent)
    yield from reference_mistakes(intent)
    yield from misplaced_binds(intent)
    yield from unknown_sources(intent)


def _own_mistakes(intent: Intent) -> Iterator[tuple[Path, str]]:
    if not is_text(intent.name) or not NAME.fullmatch(intent.name):
        yield ("intent",), f"{intent.name!r} is no name; write a-z 0-9 . _ - (at most 64): refund-ticket"
    if not is_text(intent.purpose) or not intent.purpose.strip():
        yield ("purpose",), "say in a sentence what the task is for"
    for index, pattern in enumerate(intent.reads):
        if problem := pattern_problem(pattern):
            yield ("reads", index), problem
    for agent, sub in intent.agents.items():
        if not sub.steps and not sub.reads:
            yield ("agents", agent), "it gets neither reads nor steps, so it could do nothing; name some"
    ids: set[str] = set()
    for index, step in enumerate(intent.steps):
        if step.id in ids:
            yield ("steps", index, "id"), f"the id {step.id!r} is there twice; give each step an id of its own"
        ids.add(step.id)
        yield from ((("steps", index, *path), text) for path, text in step.unmentioned())
