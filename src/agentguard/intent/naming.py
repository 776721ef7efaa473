"""What an intent names must be there: sets, defines, steps of `after`, and one limit for one shared budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from agentguard.intent.constraint import Constraint
from agentguard.intent.document import Path, nearest
from agentguard.intent.references import InSet, Is

if TYPE_CHECKING:
    from agentguard.intent.intent import Intent


def reference_mistakes(intent: Intent) -> Iterator[tuple[Path, str]]:
    """Yield every name that stands for nothing, and everything that stands for itself."""
    for path, said in _constraints(intent):
        yield from ((path, text) for text in _unknown(intent, said))
    if circle := _circle({name: _defines_in(said) for name, said in intent.define.items()}):
        yield ("define",), f"{', '.join(circle)} stand for each other in a circle; break it"
    ids = {step.id for step in intent.steps}
    for index, step in enumerate(intent.steps):
        for name in step.earlier:
            if name not in ids:
                yield ("steps", index, "after"), f"no step has the id {name!r}{nearest(name, ids)}"
    if waiting := _circle({step.id: step.earlier for step in intent.steps}):
        index = next(index for index, step in enumerate(intent.steps) if step.id in waiting)
        yield ("steps", index, "after"), f"{', '.join(waiting)} wait in a circle, so they would never happen; break it"
    yield from _two_limits(intent)


def _constraints(intent: Intent) -> Iterator[tuple[Path, Constraint]]:
    places: list[tuple[Path, Mapping[str, Constraint]]] = [
        (("everywhere",), intent.everywhere),
        (("define",), intent.define),
        *((("steps", index, "args"), step.args) for index, step in enumerate(intent.steps)),
        *((("forbid", index, "args"), entry.args) for index, entry in enumerate(intent.forbid)),
    ]
    for path, entries in places:
        for name, said in entries.items():
            yield (*path, name), said


def _unknown(intent: Intent, said: Constraint) -> Iterator[str]:
    for item in said.walk():
        if isinstance(item, InSet) and item.name not in intent.sets:
            yield f"no set is called {item.name!r}{nearest(item.name, intent.sets)}; name it under sets"
        if isinstance(item, Is) and item.name not in intent.define:
            yield f"nothing is defined as {item.name!r}{nearest(item.name, intent.define)}; write it under define"


def _defines_in(said: Constraint) -> tuple[str, ...]:
    return tuple(item.name for item in said.walk() if isinstance(item, Is))


def _circle(edges: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Remove what leads nowhere until nothing is left but circles and what leads into one."""
    left = {name: {other for other in others if other in edges} for name, others in edges.items()}
    while done := {name for name, others in left.items() if not others}:
        left = {name: others - done for name, others in left.items() if name not in done}
    return sorted(left)


def _two_limits(intent: Intent) -> Iterator[tuple[Path, str]]:
    known: dict[tuple[str, str], Any] = {}
    for index, step in enumerate(intent.steps):
        stated: list[tuple[str, Any]] = [(f"total.{name}", total) for name, total in step.totals.items()]
        stated += [("times", step.uses)] if step.uses is not None else []
        for word, limit in stated if step.shared else ():
            if known.setdefault((step.shared, word), limit) != limit:
                place = word.partition(".")[0]
                yield ("steps", index, place), f"the budget {step.shared!r} has another limit before; write the same"
