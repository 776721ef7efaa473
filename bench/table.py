"""What `python -m bench` makes of many reports: one table, and a verdict that no single bad run can give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from bench.report import amount, bar_text

Report = Mapping[str, Any]
TRIES: Final = 3


class Verdict(StrEnum):
    """What is said of one figure."""

    GOAL = "goal met"
    MET = "met"
    UNSTEADY = "unsteady"  # missed in one of two runs
    MISSED = "NOT MET"  # in both
    UNCLEAR = "missed in the only run that counts"
    VOID = "VOID"  # the controls failed, so nothing was measured
    REPORTED = "-"  # no bar


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Args:
        bench: which one it is from.
        name: of the figure.
        values: of each run that counts.
        row: the figure of the first of them, with its bar.
        verdict: what is said of it.
    """

    bench: str
    name: str
    values: tuple[float, ...]
    row: Mapping[str, Any]
    verdict: Verdict

    def text(self) -> str:
        """The line as a person reads it."""
        values = ", then ".join(map(amount, self.values)) or "?"
        held = bar_text({**self.row, "ok": True}).strip()
        return f"{self.name:42} {values:>18}   {held:26} {self.verdict}".rstrip()


def figures_of(report: Report) -> Mapping[str, Mapping[str, Any]]:
    """The figures of a report; those of older benches are plain numbers, with their bars apart."""
    bars = report.get("bars", {})
    found: dict[str, Mapping[str, Any]] = {}
    for name, row in report.get("figures", {}).items():
        if isinstance(row, Mapping) and "value" in row:
            found[name] = row
        elif name in bars:
            known = isinstance(row, int | float)
            found[name] = {"value": row if known else -1, "bar": bars[name], "ok": known and row <= bars[name]}
    return found or {"as_expected": {"value": int(report["valid"]), "bar": 1, "at_least": True, "ok": report["valid"]}}


def void(report: Report) -> bool:
    """Tell whether nothing was measured; where the bars stand apart, `valid` says that they are met."""
    return not report["valid"] and "figures" in report and "bars" not in report


def missed(report: Report) -> bool:
    """Tell whether a bar is missed."""
    return not all(row["ok"] for row in figures_of(report).values())


def counting(run: Callable[[], Report]) -> Sequence[Report]:
    """Run a bench until it counts, and once more where a bar was missed; at most three times."""
    found: list[Report] = []
    for _ in range(TRIES):
        report = run()
        if void(report):
            continue
        found.append(report)
        if len(found) == 2 or not missed(report):
            break
    return found


def rows(bench: str, reports: Sequence[Report], also: Iterable[str] = ()) -> Iterator[Row]:
    """The lines of one bench: every figure with a bar, and those that are named."""
    if not reports:
        yield Row(bench, bench, (), {"bar": None}, Verdict.VOID)
        return
    runs = [figures_of(report) for report in reports]
    for name, row in runs[0].items():
        if row.get("bar") is not None or name in also:
            every = [run[name] for run in runs if name in run]
            bad = [one for one in every if not one["ok"]]
            shown = every if 0 < len(bad) < len(every) else every[:1]
            yield Row(bench, name, tuple(one["value"] for one in shown), row, _verdict(row, every, bad))


def _verdict(row: Mapping[str, Any], every: Sequence[Any], bad: Sequence[Any]) -> Verdict:
    if row.get("bar") is None:
        return Verdict.REPORTED
    if bad:
        if len(every) == 1:
            return Verdict.UNCLEAR
        return Verdict.MISSED if len(bad) == len(every) else Verdict.UNSTEADY
    goal = row.get("goal")
    if goal is None:
        return Verdict.MET
    reached = row["value"] >= goal if row.get("at_least") else row["value"] <= goal
    return Verdict.GOAL if reached else Verdict.MET


def exit_code(found: Iterable[Row], *, failed: bool = False) -> int:
    """1 where a bar was missed twice, 2 where it cannot be told, else 0."""
    verdicts = {row.verdict for row in found}
    if Verdict.MISSED in verdicts:
        return 1
    return 2 if failed or verdicts & {Verdict.VOID, Verdict.UNCLEAR} else 0
