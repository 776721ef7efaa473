"""The harness finds what is there: ratios by a clock that the test moves, and controls that fail when they should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import harness
from bench.harness import Bar, compare, controlled, figure, interval, number, summary, valid
from bench.machine import versions

SAMPLES = st.lists(st.floats(0.5, 2.0), min_size=3, max_size=40)


class Clock:
    """Processor time that passes only while a case works."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def work(self, nanoseconds: int) -> Callable[[], None]:
        def run() -> None:
            self.now += nanoseconds

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock; a turn of the loop that spins takes one nanosecond of it."""
    made = Clock()
    monkeypatch.setattr(harness, "_spin", lambda turns: made.work(turns)())
    return made


def test_ratio_of_a_case_is_its_time_over_the_baseline(clock: Clock) -> None:
    found = compare(clock.work(100_000), {"twice": clock.work(200_000)}, rounds=4, clock=clock)

    assert found["twice"].median == pytest.approx(2.0)
    assert found["twice"].fastest == pytest.approx(2.0)
    assert sorted(found) == ["control", "twice"]


def test_run_whose_baseline_is_itself_is_valid(clock: Clock) -> None:
    found = compare(clock.work(100_000), {}, rounds=4, clock=clock)

    assert valid(found["control"])


@pytest.mark.parametrize("median", [0.94, 1.06])
def test_run_whose_baseline_differs_from_itself_is_void(median: float) -> None:
    assert not valid(summary([median] * 5))


def test_run_that_does_not_see_added_work_is_void() -> None:
    found = controlled({"control": summary([1.0] * 5), "spun": summary([1.01] * 5)})

    assert not valid(found["control"])


def test_run_that_sees_added_work_is_valid() -> None:
    found = controlled({"control": summary([1.0] * 5), "spun": summary([1.09] * 5)})

    assert valid(found["control"])
    assert list(found) == ["control"]


@given(paired=SAMPLES)
def test_interval_holds_the_median_and_is_within_the_samples(paired: list[float]) -> None:
    low, high = interval(paired)

    assert min(paired) <= low <= high <= max(paired)
    assert interval(paired) == (low, high)


@given(paired=SAMPLES, factor=st.floats(0.5, 3.0))
def test_summary_scales_with_its_ratios(paired: list[float], factor: float) -> None:
    one, other = summary(paired), summary([ratio * factor for ratio in paired])

    assert other.median == pytest.approx(one.median * factor)
    assert other.high == pytest.approx(one.high * factor)


@pytest.mark.parametrize(
    ("value", "bar", "ok"),
    [(1.75, 1.75, True), (1.76, 1.75, False), (0.9, Bar(0.85, least=True), True), (0.8, Bar(0.85, least=True), False)],
)
def test_figure_is_held_against_its_bar(value: float, bar: Any, ok: bool) -> None:
    assert number(value, bar, 3)["ok"] is ok


def test_figure_without_a_bar_is_only_reported() -> None:
    assert number(99.0) == {"value": 99.0, "bar": None, "ok": True}


def test_figure_whose_estimators_disagree_says_so() -> None:
    steady = summary([1.0] * 5)

    assert not figure(steady, None)["noisy"]
    assert figure(replace(steady, fastest=1.2), None)["noisy"]


def test_report_names_commit_and_machine() -> None:
    found = versions("pytest")

    assert {"python", "cores", "commit", "changed", "load", "stolen_ticks", "pytest"} <= set(found)
