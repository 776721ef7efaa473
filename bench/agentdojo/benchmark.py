"""The benchmark: every user task alone, then every attack on it at each moment."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import agentguard
from agentguard import Guard, Intent
from bench.agentdojo.dojo import Attack, Suite, suite
from bench.agentdojo.figures import Attacks, Figures, load_shown, output
from bench.agentdojo.guards import GUARDS, declared
from bench.agentdojo.replay import Load, Moment, Person, Replay, Run
from bench.agentdojo.tools import specs_of, toolbox


def to_stderr(line: str) -> None:
    """Show progress where it does not mix with the result."""
    print(line, file=sys.stderr, flush=True)


@dataclass(slots=True)
class Benchmark:
    """One run over some suites, under one guard.

    Args:
        guard_name: one of `GUARDS`.
        moments: when agents are hijacked.
        first: replay only so many user tasks of each suite; the result is not valid then.
        progress: is told what is done.
        synthetic: try the attacks with our calls too, and report them apart.
    """

    guard_name: str
    moments: Sequence[Moment]
    first: int | None = None
    progress: Callable[[str], None] = to_stderr
    synthetic: bool = False
    load: Load = field(default_factory=Load)
    plain: Load = field(default_factory=Load)

    def run(self, names: Sequence[str]) -> dict[str, Any]:
        """Replay the suites of these names and return the output object."""
        found: dict[str, Figures] = {}
        apart = Figures({moment: Attacks() for moment in self.moments})
        person, wall_s = Person(), 0.0
        with contextlib.redirect_stdout(sys.stderr), agentguard.local(approver=person) as guard:
            for name in names:
                loaded = suite(name)
                self._calibrate(loaded, guard, person)
                started = perf_counter()
                found[name] = self._suite(loaded, guard, person, apart)
                wall_s += perf_counter() - started
                self.progress(f"{name}: {found[name].summary()}, {perf_counter() - started:.1f} s")
            left = guard.outstanding()
        plain_call_s = (self.plain.calls_s - self.plain.bodies_s) / max(self.plain.calls, 1)
        faults = [f"{left} credentials are outstanding after the last task"] if left else []
        faults += apart.faults
        result = output(found, self.moments, load_shown(self.load, plain_call_s, wall_s), faults)
        return {**result, **_shown_apart(apart)} if self.synthetic else result

    def _calibrate(self, loaded: Suite, guard: Guard, person: Person) -> None:
        """Measure what LangChain takes for plain tools: the user tasks without any check, once warm."""
        box = toolbox(loaded, specs_of(loaded), guarded=False)
        for load in (Load(), self.plain):
            replay = Replay(loaded, box, guard, person, load)
            for user in loaded.user_tasks:
                replay.run(user, None)

    def _suite(self, loaded: Suite, guard: Guard, person: Person, apart: Figures) -> Figures:
        folder = declared(self.guard_name, loaded.name)
        specs = specs_of(loaded, folder) if folder else specs_of(loaded)
        box = toolbox(loaded, specs, guarded=self.guard_name != "none")
        replay = Replay(loaded, box, guard, person, self.load)
        figures = Figures({moment: Attacks() for moment in self.moments})
        for user in itertools.islice(loaded.user_tasks, self.first):
            intent = GUARDS[self.guard_name](loaded, user, box)
            if intent is None and self.guard_name != "none":
                figures.faults.append(f"{loaded.name} {user.ID}: guard {self.guard_name} has no intent for it")
                continue
            _alone(replay, user, intent, figures)
            for moment, attack in itertools.product(self.moments, loaded.attacks):
                _hijacked(replay, user, intent, attack, moment, figures)
            for moment, attack in itertools.product(self.moments, loaded.synthetic if self.synthetic else ()):
                _hijacked(replay, user, intent, attack, moment, apart)
        figures.faults.extend(figures.uncovered(loaded.name))
        return figures


def _alone(replay: Replay, user: Any, intent: Intent | None, figures: Figures) -> None:
    run, where = replay.run(user, intent), {"suite": replay.suite.name, "user_task": user.ID}
    figures.user_tasks += 1
    figures.approvals += [
        {**where, "tool": asked.tool, "step": asked.step, "arguments": asked.arguments} for asked in run.asked
    ]
    if replay.suite.solved(user, run.finished):
        figures.solved += 1
    else:
        figures.unsolved.append({**where, "refused": list(run.refused)})
    _note_faults(run, where, figures)


def _hijacked(
    replay: Replay, user: Any, intent: Intent | None, attack: Attack, moment: Moment, figures: Figures
) -> None:
    where = {"suite": replay.suite.name, "user_task": user.ID, "injection_task": attack.id, "moment": moment.value}
    run = replay.run(user, intent, attack, moment)
    completed = approved = replay.suite.completed(attack, run.finished)
    _note_faults(run, where, figures)
    if run.asked:  # else a person's yes changes nothing
        run = replay.run(user, intent, attack, moment, approve_attack=True)
        approved = replay.suite.completed(attack, run.finished)
        _note_faults(run, where, figures)
    figures.attacks[moment].add(Attacks(int(completed), int(approved), 1))
    if (completed or approved) and intent is not None:
        figures.survivors.append({**where, "approved": not completed})


def _shown_apart(apart: Figures) -> dict[str, Any]:
    return {"attacks_synthetic": apart.shown()["attacks"], "survivors_synthetic": apart.survivors}


def _note_faults(run: Run, where: dict[str, str], figures: Figures) -> None:
    figures.faults += [f"{' '.join(where.values())}: {fault}" for fault in run.faults]
