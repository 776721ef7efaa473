"""The earlier calls that an intent's constraints look back at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from agentguard.intent.constraint import Constraint
from agentguard.intent.earlier import Source
from agentguard.intent.provenance import From

if TYPE_CHECKING:
    from agentguard.intent.document import Path
    from agentguard.intent.intent import Intent


def constraints_of(intent: Intent) -> Iterator[Constraint]:
    """Yield every constraint of an intent, at any depth; not those of what its sub-agents get."""
    said = [*intent.everywhere.values(), *getattr(intent, "define", {}).values()]
    said += [item for step in intent.steps for item in step.args.values()]
    said += [item for entry in intent.forbid for item in entry.args.values()]
    for item in said:
        yield from item.walk()


def sources_of(intent: Intent) -> frozenset[Source]:
    """Return what the results of a task's calls must be kept for: its own `from`, and those of its sub-agents.

    A sub-agent that is named in the intent may use what was read before it was called.
    """
    own = {item.source for item in constraints_of(intent) if isinstance(item, From)}
    return frozenset(own.union(*(_by_tool(sources_of(sub)) for sub in intent.agents.values())))


def _by_tool(sources: Iterable[Source]) -> set[Source]:
    return {source for source in sources if source.tool}


def unknown_sources(intent: Intent) -> Iterator[tuple[Path, str]]:
    """Yield every `from` that names a step which the intent does not have."""
    known = {step.id for step in intent.steps}
    places: list[tuple[Path, Mapping[str, Constraint]]] = [(("everywhere",), intent.everywhere)]
    places += [(("steps", index, "args"), step.args) for index, step in enumerate(intent.steps)]
    places += [(("forbid", index, "args"), entry.args) for index, entry in enumerate(intent.forbid)]
    places += [(("define",), getattr(intent, "define", {}))]
    for path, entries in places:
        for name, said in entries.items():
            for item in said.walk():
                if isinstance(item, From) and item.step and item.step not in known:
                    yield (*path, name), f"'from' names the step {item.step!r}, which is not there; give a step this id"
