"""What is emitted and what the convention says is one: every name, both ways; and nothing that may not be seen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from agentguard.telemetry import semconv as name
from agentguard.telemetry.metrics import Metrics
from tests.telemetry.backend import Backend
from tests.telemetry.conftest import fits
from tests.telemetry.everything import happen


@pytest.fixture
def all_of_it(backend: Backend) -> Backend:
    happen()
    return backend


def refs(carrier: dict[str, Any], level: str = "") -> set[str]:
    return {one["ref"] for one in carrier["attributes"] if not level or one["requirement_level"] == level}


def by_name(source: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The spans of the convention by what their names begin with."""
    return {one["name"]["note"].strip("`").split(" ")[0]: one for one in source["spans"]}


def check(carrier: dict[str, Any], attributes: dict[str, Any], source: dict[str, Any]) -> None:
    defined = {one["key"]: one for one in source["attributes"]}
    assert set() == set(attributes) - refs(carrier), "not in the convention"
    assert set() == refs(carrier, "required") - set(attributes), "missing"
    for key in set(attributes) & set(defined):
        fits(defined[key], attributes[key])


def test_every_span_that_is_emitted_is_of_the_convention(all_of_it: Backend, source: dict[str, Any]) -> None:
    known = by_name(source)
    for span in all_of_it.spans():
        carrier = known[span.name.split(" ")[0]]
        check(carrier, dict(span.attributes or {}), source)
        assert span.kind is SpanKind[carrier["kind"].upper()]


def test_every_metric_that_is_emitted_is_of_the_convention(all_of_it: Backend, source: dict[str, Any]) -> None:
    known = {one["name"]: one for one in source["metrics"]}
    for metric, points in all_of_it.metrics().items():
        for point in points:
            check(known[metric], point.attributes, source)
            assert point.bounds == tuple(known[metric].get("annotations", {}).get("buckets", ()))


def test_every_event_that_is_emitted_is_of_the_convention(all_of_it: Backend, source: dict[str, Any]) -> None:
    known = {one["name"]: one for one in source["events"]}
    for event in all_of_it.events():
        check(known[event.event_name], dict(event.attributes), source)
        assert event.body is None


@pytest.mark.parametrize("signal", ["spans", "metrics", "events"])
def test_every_signal_of_the_convention_is_emitted_with_every_attribute(
    all_of_it: Backend, source: dict[str, Any], signal: str
) -> None:
    emitted: dict[str, set[str]] = {}
    if signal == "spans":
        for span in all_of_it.spans():
            emitted.setdefault(span.name.split(" ")[0], set()).update(span.attributes or {})
        expected = {first: refs(one) for first, one in by_name(source).items()}
    elif signal == "metrics":
        for metric, points in all_of_it.metrics().items():
            emitted[metric] = {key for point in points for key in point.attributes}
        expected = {one["name"]: refs(one) for one in source["metrics"]}
    else:
        for event in all_of_it.events():
            emitted.setdefault(event.event_name, set()).update(event.attributes)
        expected = {one["name"]: refs(one) for one in source["events"]}

    assert expected == emitted


def test_a_link_says_why(all_of_it: Backend) -> None:
    links = {
        span.name: [dict(link.attributes or {}) for link in span.links] for span in all_of_it.spans() if span.links
    }

    assert {"invoke_agent bot": [{name.AGENTGUARD_LINK_KIND: "resume"}],
            "resume researcher": [{name.AGENTGUARD_LINK_KIND: "handover"}]} == links  # fmt: skip


@pytest.mark.control("6 a credential is never seen")
def test_no_signal_holds_a_credential_a_subject_or_who_approved(all_of_it: Backend) -> None:
    told = json.dumps([
        *(span.to_json() for span in all_of_it.spans()),
        *(str((event.event_name, dict(event.attributes))) for event in all_of_it.events()),
        *(str(point) for points in all_of_it.metrics().values() for point in points),
    ])  # fmt: skip

    for hidden in ("canary-", "alice", '"ann', "account 4711"):
        assert hidden not in told


@pytest.mark.control("8 metrics are bounded")
def test_no_metric_carries_what_is_not_bounded(source: dict[str, Any]) -> None:
    unbounded = {
        name.AGENTGUARD_TASK_ID, name.AGENTGUARD_DELEGATION_CHAIN, name.AGENTGUARD_DELEGATION_CHAIN_TEXT,
        name.AGENTGUARD_CREDENTIAL_ID, name.AGENTGUARD_DECISION_ID, name.USER_HASH, name.AGENTGUARD_DECISION_LEVEL,
    }  # fmt: skip

    assert all(not unbounded & instrument.attributes for instrument in name.INSTRUMENTS.values())
    assert {one["name"] for one in source["metrics"]} == set(name.INSTRUMENTS)


@pytest.mark.control("8 metrics are bounded")
def test_values_beyond_the_two_hundredth_are_all_one_and_other_attributes_are_left_out(backend: Backend) -> None:
    metrics = Metrics()
    assert metrics.on()

    for number in range(300):
        known = {name.GEN_AI_TOOL_NAME: f"tool {number}", name.AGENTGUARD_TASK_ID: f"task {number}"}
        metrics.note(name.METRIC_AGENTGUARD_DECISIONS, 1, known)
    points = backend.metrics()[name.METRIC_AGENTGUARD_DECISIONS]

    assert 201 == len(points)
    assert [100] == [point.value for point in points if point.attributes == {name.GEN_AI_TOOL_NAME: "_OTHER"}]
