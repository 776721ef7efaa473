"""The levels of a task: every intent and ceiling that a call under it must match, and what they count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct, structs

from agentguard.intent import Admitted, CompiledIntent
from agentguard.intent.binds import Binds, bind_key, binds_of
from agentguard.intent.charges import Admits
from agentguard.intent.earlier import Source
from agentguard.intent.sources import sources_of
from agentguard.intent.sure import Sure
from agentguard.model.call import ToolCall, ToolSpec
from agentguard.model.decision import Decision
from agentguard.ports import Candidate, Charge, Reservation
from agentguard.results import View

if TYPE_CHECKING:
    from agentguard.task import Task

_NO_LIMIT: Final = "Infinity"


class Standing(NamedTuple):
    """What a level has to know of what was consumed before: the order of its steps, and what its names stand for.

    Args:
        home: where that is counted: for the tasks of one root, also at a ceiling.
        waits: for each step that waits, the steps that must have been consumed.
        awaited: the steps that another one waits for.
        binds: which arguments set a name.
    """

    home: str
    waits: dict[str, tuple[str, ...]]
    awaited: tuple[str, ...]
    binds: Binds

    @property
    def keys(self) -> list[str]:
        """What is asked of the budgets before a check."""
        return [f"{self.home}/{key}" for key in (*map(done, self.awaited), *map(bind_key, self.binds.names))]

    def charges(self, step: str, call: ToolCall) -> Iterator[Charge]:
        """Yield what consuming a step needs, and what it binds; in the same atomic step as its budget."""
        for earlier in self.waits.get(step, ()):
            yield Charge(f"{self.home}/{done(earlier)}", _NO_LIMIT, "0", least="1")
        for charge in self.binds.charges(step, call) if self.binds else ():
            yield structs.replace(charge, key=f"{self.home}/{charge.key}")

    def mark(self, step: str) -> tuple[Charge, ...]:
        """Return what says that a step has happened. It is taken at the gate: a step that waits has not."""
        return (Charge(f"{self.home}/{done(step)}", _NO_LIMIT),) if step in self.awaited else ()


class Level(NamedTuple):
    """One level of the chain: a task's intent or an agent's ceiling, and the scope of its counters.

    Args:
        label: for people.
        scope: names its counters, and in the results the steps that were consumed at it.
        intent: what a call must match here.
        task: the task that ends or is suspended by it.
        standing: None where nothing that was consumed before matters, beside the budgets.
        sources: which earlier results its `from` look at.
        results: what is visible of them; None where there is no `from`.
        made: the candidates of what answers every call alike, by its id and with it, so that no id is used twice.
        home: names what only the tasks of one root share, also at a ceiling, whose counters are all tasks'.
    """

    label: str
    scope: str
    intent: CompiledIntent
    task: Task
    standing: Standing | None
    sources: frozenset[Source]
    results: View | None
    made: dict[int, tuple[Admitted, Sequence[Candidate]]]
    home: str


class Matched(Struct, frozen=True):
    """A call that is admitted at every level.

    Args:
        decision: the strictest outcome of all levels, with the step of each.
        reservation: None where nothing is counted.
        ending: tasks that end once the call's outcome is recorded.
        marks: what says, once the call runs, that its steps have happened.
    """

    decision: Decision
    reservation: Reservation | None
    ending: tuple[Task, ...]
    marks: tuple[Charge, ...] = ()


class Levels(NamedTuple):
    """All levels of a task, and the call limits of the agents in its chain; made once per task.

    Args:
        levels: from the root to the task.
        limits: one more candidate each, behind those of the levels.
        known: what was made of it for a tool, by the id of its declaration and with it, so that no id is used twice.
    """

    levels: tuple[Level, ...]
    limits: tuple[tuple[Candidate, ...], ...]
    known: dict[int, Known]
    counts: dict[tuple[str, int], list[tuple[Level, Candidate]]]  # what `counted` says, made once


class Known(Struct, frozen=True):
    """What all levels of a task say about a tool that each of them names in one step, or reads by a pattern.

    It answers a call that every level admits; for any other call they are asked one by one.

    Args:
        spec: the tool.
        sure: tells that every level admits a call; None where that takes more than the call and the tree.
        matched: the answer where nothing is counted; with another reservation it is that of every call.
        admits: what admits a call at each level.
        candidates: what is asked of the budgets; None where it is the call's own.
        counted: whether anything is.
    """

    spec: ToolSpec
    sure: Sure | None
    matched: Matched
    admits: tuple[Admits, ...] = ()
    candidates: Sequence[Sequence[Candidate]] | None = None
    counted: bool = True


def levels_of(task: Task) -> Levels:
    """Every intent that a call under a task must match, made once: each task of the chain, and its agent's ceiling."""
    levels: Levels = task.cache.get("levels") or task.cache.setdefault("levels", _levels(task))
    return levels


def _levels(task: Task) -> Levels:
    found: list[Level] = []
    limits: list[tuple[Candidate, ...]] = []
    for link in task.path:
        name = link.agent.agent.name
        scope = agent_scope(link)
        own = f"task:{link.id}"
        found.append(_level(name, own, own, link.intent, link, task))
        if link.agent.ceiling is not None:
            home = f"task:{task.root.id}/ceiling:{scope}"
            found.append(_level(f"ceiling:{name}", f"ceiling:{scope}", home, link.agent.ceiling, link, task))
        if link.agent.calls is not None:
            most, per = link.agent.calls
            limits.append((Candidate("limits", (Charge(f"agent:{scope}/calls", str(most), per=per),)),))
    return Levels(tuple(found), tuple(limits), {}, {})


def agent_scope(link: Task) -> str:
    """Name the agent of a task in the keys of what all its tasks count together: its ceiling, and its call limit.

    INVARIANT: what was handed on was counted where it came from, perhaps in this very store; so a limit of this side
    counts it apart from that one, and from each other hop's. No name of an agent holds a space.
    """
    name = link.agent.agent.name.replace("/", "%2F")
    return f"{name} {len(link.tree.hosts)}" if "@" in link.id else name


def _level(label: str, scope: str, home: str, intent: CompiledIntent, link: Task, task: Task) -> Level:
    waits = {step.id: step.earlier for step in intent.intent.steps if step.earlier}
    awaited = tuple(dict.fromkeys(name for earlier in waits.values() for name in earlier))
    binds = intent.intent.derived("binds", lambda: binds_of(intent.intent))
    standing = Standing(home, waits, awaited, binds) if awaited or binds else None
    sources = intent.intent.derived("sources", lambda: sources_of(intent.intent))
    view = View(task.tree.results, tuple([above.id for above in task.path]), scope) if sources else None
    return Level(label, scope, intent, link, standing, sources, view, {}, home)


def need_results(task: Task) -> None:
    """From now on the tree records what a `from` of this task, or of its agent's ceiling, looks at."""
    for level in levels_of(task).levels:
        if level.task is task and level.sources:
            task.tree.results.need(level.sources, level.scope)


def counted(levels: Levels, word: str, *, spare: int = 0) -> list[tuple[Level, Candidate]]:
    """What one denial, or one question to a person, charges at every level that limits them.

    Args:
        levels: those of the task.
        word: `denials` or `asks`.
        spare: how many fewer than the limit still fit.
    """
    known = levels.counts.get((word, spare))
    if known is not None:
        return known
    found = levels.counts[word, spare] = _counted(levels, word, spare)
    return found


def _counted(levels: Levels, word: str, spare: int) -> list[tuple[Level, Candidate]]:
    found = []
    for level in levels.levels:
        limit = getattr(level.intent.limits, word)
        if limit is not None:
            charge = Charge(f"{level.scope}/limits#{word}", str(limit.n - spare), per=limit.window)
            found.append((level, Candidate("limits", (charge,))))
    return found


def done(step: str) -> str:
    return f"done.{step}"
