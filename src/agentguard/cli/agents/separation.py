"""Separation: which tools an agent may call alone, which need a person, and which it may never call. Pure.

What is told is what the registry and the agent's ceiling say. The intent of a task, and every agent above this one in a
delegation chain, can only narrow it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from agentguard.cli.agents.inventory import Entry
from agentguard.intent.constraint import Constraint
from agentguard.intent.effective import concerns, level_ways
from agentguard.intent.intent import Intent
from agentguard.intent.limits import Limits
from agentguard.intent.literal import duration_text
from agentguard.intent.step import ASKED, Step
from agentguard.model.call import ToolSpec
from agentguard.model.decision import Outcome


class Who(StrEnum):
    """Who decides about a call, as far as registry and ceiling say."""

    ALONE = "alone"
    PERSON = "person"
    NEVER = "never"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a call is admitted.

    Args:
        who: alone, or a person.
        step: of the ceiling: its id, `reads` or `otherwise`; empty where there is no ceiling.
        by: who is asked: `operator` or `subject`; empty where nobody is.
        text: what the arguments must be, and how often; empty for any arguments.
    """

    who: Who
    step: str = ""
    by: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """What one agent may do with one tool.

    Args:
        agent: its name.
        spec: the tool.
        ways: one of them is enough; none where the answer is never or unknown.
        always: what holds whichever way it is.
        why: why never, or why nobody knows.
        known: whether it could be told.
    """

    agent: str
    spec: ToolSpec
    ways: tuple[Way, ...] = ()
    always: tuple[str, ...] = ()
    why: str = ""
    known: bool = True

    @property
    def outcomes(self) -> tuple[Who, ...]:
        """Alone, a person or both; never; or unknown."""
        if not self.known:
            return (Who.UNKNOWN,)
        found = {way.who for way in self.ways}
        return tuple(who for who in (Who.ALONE, Who.PERSON) if who in found) or (Who.NEVER,)

    @property
    def conditional(self) -> bool:
        """Whether the arguments, or what happened before, decide."""
        return bool(self.ways) and (bool(self.always) or all(way.text for way in self.ways) or len(self.outcomes) > 1)

    @property
    def shown(self) -> str:
        """`alone`, `alone, if`, `alone or person, if`, `never`."""
        return " or ".join(self.outcomes) + (", if" if self.conditional else "")


def cell(entry: Entry, spec: ToolSpec) -> Cell:
    """Tell who decides when an agent calls a tool itself."""
    name = entry.name
    if "tools" in entry.unread:
        return Cell(name, spec, why="its tools cannot be read", known=False)
    if not entry.agent.allows(spec.name, None):
        return Cell(name, spec, why="it is not among the agent's tools")
    return under_ceiling(entry, spec)


def under_ceiling(entry: Entry, spec: ToolSpec) -> Cell:
    """Tell what an agent's ceiling says about a tool, whoever calls it under this agent."""
    name = entry.name
    if "ceiling" in entry.unread:
        return Cell(name, spec, why="its ceiling cannot be read", known=False)
    if entry.ceiling is None:
        return Cell(name, spec, (Way(Who.ALONE),))
    if entry.ceiling.intent is None:
        return Cell(name, spec, why=entry.ceiling.why_unknown, known=False)
    ways = tuple(_ways(entry.ceiling.intent, spec))
    if not ways:
        return Cell(name, spec, why=_why_never(entry.ceiling.intent, spec))
    return Cell(name, spec, ways, tuple(_always(entry.ceiling.intent, spec)))


def _ways(ceiling: Intent, spec: ToolSpec) -> Iterator[Way]:
    steps = {step.id: step for step in ceiling.steps}
    for way in level_ways(ceiling, spec).ways:
        alone, step = way.outcome is Outcome.PERMIT, steps.get(way.step)
        by = "" if alone else step.by if step else ASKED[0]
        yield Way(Who.ALONE if alone else Who.PERSON, way.step, by, "; ".join(_bounds(step, spec) if step else ()))


def _bounds(step: Step, spec: ToolSpec) -> Iterator[str]:
    """What a step of a ceiling asks for: its arguments, and how often in which time."""
    yield from (f"{name} must {_said(name, said, spec)}" for name, said in step.args.items())
    if not step.args:
        yield "no arguments"
    if step.uses:
        each = f" for each {', '.join(step.uses.per)}" if step.uses.per else ""
        yield f"at most {step.uses.n} times{each}{_window(step.uses.window)}"
    for name, total in step.totals.items():
        yield f"{name} at most {total.limit} in all{_window(total.window)}"


def _always(ceiling: Intent, spec: ToolSpec) -> Iterator[str]:
    """What holds for every call of a tool, whichever way admits it."""
    for name, said in ceiling.everywhere.items():
        if spec.parameters is None or name in spec.parameters:
            yield f"{name} must {_said(name, said, spec)}"
    for entry in ceiling.forbid:
        if concerns(entry, spec):
            parts = [f"{name} does {_said(name, said, spec)}" for name, said in entry.args.items()]
            parts += [f"{' or '.join(entry.seen)} was read"] if entry.seen else []
            yield f"never once {' and '.join(parts)}" if entry.seen else f"never where {' and '.join(parts)}"
    limits = ceiling.limits or Limits()
    for limit in (limits.calls, limits.rate):
        if limit is not None:
            yield f"at most {limit.n} calls of any tool{_window(limit.window)}"


def _said(name: str, said: Constraint, spec: ToolSpec) -> str:
    return "hold what is not shown here, as it is secret" if name in spec.secret else said.must()


def _window(seconds: float) -> str:
    return f" in {duration_text(seconds)}" if seconds else ""


def _why_never(ceiling: Intent, spec: ToolSpec) -> str:
    forbids = any(concerns(entry, spec) and not entry.args and not entry.seen for entry in ceiling.forbid)
    return f"the ceiling {ceiling.name} {'forbids it' if forbids else 'does not admit it'}"
