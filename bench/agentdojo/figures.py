"""What a run of the benchmark found, added up over suites, as an object for machines and a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from platform import python_version
from typing import Any

from bench.agentdojo.dojo import BENCHMARK, SIZES
from bench.agentdojo.replay import Load, Moment


@dataclass(slots=True)
class Attacks:
    """Attacks at one moment: completed without a person's yes, completed with it, and tried."""

    completed: int = 0
    completed_if_approved: int = 0
    total: int = 0

    def add(self, other: Attacks) -> None:
        """Add another suite's."""
        self.completed += other.completed
        self.completed_if_approved += other.completed_if_approved
        self.total += other.total

    def shown(self) -> dict[str, int]:
        """As in the output."""
        return {
            "completed": self.completed, "completed_if_approved": self.completed_if_approved, "total": self.total,
        }  # fmt: skip


@dataclass(slots=True)
class Figures:
    """What was found, for one suite or for all.

    Args:
        attacks: by moment.
        solved, user_tasks: user tasks that still work, and how many there are.
        approvals: what a person was asked in legitimate runs.
        unsolved: user tasks that no longer work, with the guard's denials.
        survivors: pairs whose attack was completed although there was a guard.
        faults: why the run is not valid.
    """

    attacks: dict[Moment, Attacks]
    solved: int = 0
    user_tasks: int = 0
    approvals: list[dict[str, str]] = field(default_factory=list)
    unsolved: list[dict[str, Any]] = field(default_factory=list)
    survivors: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        """Add another suite's."""
        self.solved += other.solved
        self.user_tasks += other.user_tasks
        for moment, attacks in other.attacks.items():
            self.attacks[moment].add(attacks)
        for name in ("approvals", "unsolved", "survivors", "faults"):
            getattr(self, name).extend(getattr(other, name))

    def shown(self) -> dict[str, Any]:
        """As in the output."""
        return {
            "user_tasks": {"solved": self.solved, "total": self.user_tasks},
            "attacks": {moment.value: attacks.shown() for moment, attacks in self.attacks.items()},
            "approvals": {"legitimate": len(self.approvals), "list": self.approvals},
        }

    def summary(self) -> str:
        """The figures in a line."""
        attacks = "".join(f", {a.completed}/{a.total} attacks {moment}" for moment, a in self.attacks.items())
        return f"{self.solved}/{self.user_tasks} user tasks{attacks}, {len(self.faults)} faults"

    def uncovered(self, name: str) -> Iterable[str]:
        """Say what of a suite was not covered as a full run must."""
        size = SIZES[name]
        if self.user_tasks != size.user_tasks:
            yield f"{name}: {self.user_tasks} user tasks instead of {size.user_tasks}"
        for moment, attacks in self.attacks.items():
            if attacks.total != size.pairs:
                yield f"{name}: {attacks.total} pairs {moment} instead of {size.pairs}"


def load_shown(load: Load, plain_call_s: float, wall_s: float) -> dict[str, Any]:
    """What the runs cost, and the guard's share: opening and ending tasks, and all that a call took beyond its body
    and LangChain's plain call.

    Args:
        load: of all guarded runs.
        plain_call_s: seconds that LangChain takes for a plain tool beyond its body.
        wall_s: seconds the runs took, with environments and checks.
    """
    beyond_s = load.calls_s - load.bodies_s - load.calls * plain_call_s
    calls_s = max(beyond_s, 0.0) if load.tasks else 0.0
    return {
        "tasks": load.tasks,
        "calls": load.calls,
        "denied": load.denied,
        "seconds": round(wall_s, 1),
        "calls_per_second": round(load.calls / wall_s) if wall_s else 0,
        "guard_share": round((calls_s + load.tasks_s) / wall_s, 3) if wall_s else 0.0,
        "guard_us_per_call": round(calls_s / load.calls * 1e6) if load.calls else 0,
        "guard_us_per_task": round(load.tasks_s / load.tasks * 1e6) if load.tasks else 0,
        "langchain_us_per_call": round(plain_call_s * 1e6),
    }


def output(
    suites: Mapping[str, Figures], moments: Sequence[Moment], load: Mapping[str, Any], faults: Sequence[str]
) -> dict[str, Any]:
    """The whole object; `faults` are those of no suite."""
    total = Figures({moment: Attacks() for moment in moments}, faults=list(faults))
    for figures in suites.values():
        total.add(figures)
    return {
        "valid": not total.faults,
        **total.shown(),
        "suites": {name: figures.shown() for name, figures in suites.items()},
        "versions": versions(),
        "load": dict(load),
        "unsolved": total.unsolved,
        "survivors": total.survivors,
        "faults": total.faults,
    }


def versions() -> dict[str, str]:
    """What was run."""
    packages = {name: version(name.replace("_", "-")) for name in ("agentdojo", "agentguard", "langchain_core")}
    return {**packages, "benchmark": BENCHMARK, "python": python_version()}


def table(result: Mapping[str, Any], guard: str) -> str:
    """The object's figures as text."""
    moments = list(result["attacks"])
    counts = [f"{moment}, {what}" for moment in moments for what in ("completed", "if approved")]
    head = ["", "solved", *counts, "asked"]
    rows = [_row(name, figures, moments) for name, figures in {**result["suites"], "all": result}.items()]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    load = ", ".join(f"{name} {value}" for name, value in result["load"].items())
    faults = [f"not valid: {fault}" for fault in result["faults"]]
    return "\n".join([f"AgentDojo {BENCHMARK}, guard {guard}", *lines, load, *faults])


def _row(name: str, figures: Mapping[str, Any], moments: Sequence[str]) -> list[str]:
    tasks, cells = figures["user_tasks"], []
    for moment in moments:
        attacks = figures["attacks"][moment]
        cells += [f"{attacks[what]}/{attacks['total']}" for what in ("completed", "completed_if_approved")]
    return [name, f"{tasks['solved']}/{tasks['total']}", *cells, str(figures["approvals"]["legitimate"])]
