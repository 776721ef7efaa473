"""The table says NOT MET only of what was missed twice, and never calls a void run good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bench.harness import Bar, number
from bench.table import Verdict, counting, exit_code, rows

BAR = Bar(1.75, 1.5)


def report(value: float, *, valid: bool = True, bar: Bar | None = BAR) -> Mapping[str, Any]:
    return {"valid": valid, "figures": {"full": number(value, bar, 3)}}


def verdicts(*reports: Mapping[str, Any]) -> list[Verdict]:
    left = list(reports)
    return [row.verdict for row in rows("call", counting(lambda: left.pop(0)), also=("full",))]


@pytest.mark.parametrize(("value", "said"), [(1.4, Verdict.GOAL), (1.7, Verdict.MET)])
def test_bar_that_is_met_needs_one_run(value: float, said: Verdict) -> None:
    assert verdicts(report(value)) == [said]


def test_bar_that_is_missed_twice_is_not_met() -> None:
    assert verdicts(report(1.9), report(1.8)) == [Verdict.MISSED]


def test_bar_that_is_missed_once_is_unsteady_and_both_values_are_shown() -> None:
    found = list(rows("call", [report(1.9), report(1.6)]))

    assert [row.verdict for row in found] == [Verdict.UNSTEADY]
    assert "1.90, then 1.60" in found[0].text()


def test_void_run_does_not_count() -> None:
    assert verdicts(report(1.4, valid=False), report(1.9), report(1.8)) == [Verdict.MISSED]


def test_three_void_runs_are_void() -> None:
    assert verdicts(*[report(1.4, valid=False)] * 3) == [Verdict.VOID]


def test_bar_that_is_missed_in_the_only_run_that_counts_is_unclear() -> None:
    void = report(1.4, valid=False)

    assert verdicts(void, void, report(1.9)) == [Verdict.UNCLEAR]


def test_figure_without_a_bar_is_shown_where_it_is_named() -> None:
    assert verdicts(report(9.0, bar=None)) == [Verdict.REPORTED]


def test_bars_that_stand_apart_are_read() -> None:
    stopped = {"valid": False, "figures": {"left": 1, "held": 50}, "bars": {"left": 0}}

    assert verdicts(stopped, stopped) == [Verdict.MISSED]


def test_bar_whose_figure_is_missing_is_missed() -> None:
    stopped = {"valid": False, "figures": {"left": None}, "bars": {"left": 0}}

    assert verdicts(stopped, stopped) == [Verdict.MISSED]


def test_report_without_figures_counts_as_a_whole() -> None:
    assert verdicts({"valid": True}) == [Verdict.MET]


def test_at_least_is_read_the_other_way() -> None:
    least = Bar(0.85, 0.95, least=True)

    assert verdicts(report(0.99, bar=least)) == [Verdict.GOAL]
    assert verdicts(report(0.7, bar=least), report(0.7, bar=least)) == [Verdict.MISSED]


@pytest.mark.parametrize(
    ("values", "valid", "failed", "code"),
    [([1.4], True, False, 0), ([1.9, 1.9], True, False, 1), ([1.9, 1.4], True, False, 0), ([1.4] * 3, False, False, 2),
     ([1.4], True, True, 2)],
)  # fmt: skip
def test_exit_code_tells_a_missed_bar_from_a_run_that_says_nothing(
    values: list[float], valid: bool, failed: bool, code: int
) -> None:
    left = [report(value, valid=valid) for value in values]

    assert exit_code(rows("call", counting(lambda: left.pop(0))), failed=failed) == code
