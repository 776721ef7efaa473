"""Open Policy Agent by contract (its Data API): undefined is a deny, and only `true` permits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentguard._drive import drive
from agentguard._http import Http
from agentguard.errors import ConfigurationError
from agentguard.model.decision import Outcome, Reason
from agentguard.model.lease import Secret
from agentguard.policy.decided import Decided
from agentguard.policy.obligations import Obligations
from agentguard.policy.opa import OpaPoint
from tests.loopback import Received, reply, serving
from tests.policy.questions import ask


def said(body: object, status: int = 200) -> tuple[Decided, Received]:
    http = Http(attempts=1, timeout=1)
    with serving(lambda _: reply(body, status)) as server:
        found = drive(OpaPoint(http, server.url, "agents/allow", token=Secret("t0ken")).decide(ask()))
    http.close()
    return found, server.seen[0]


def test_true_permits_and_the_record_holds_decision_id_and_revisions() -> None:
    bundles = {"b": {"revision": "r2"}, "a": {"revision": "r1"}, "c": {}}
    found, asked = said({"result": True, "decision_id": "d-1", "provenance": {"bundles": bundles}})
    assert found.outcome is Outcome.PERMIT
    assert (found.evidence[0].version, found.evidence[0].id) == ("a=r1,b=r2", "d-1")
    assert (asked.method, asked.target) == ("POST", "/v1/data/agents/allow?provenance=true")
    assert asked.headers["authorization"] == "Bearer t0ken"
    assert json.loads(asked.body)["input"]["action"]["name"] == "refund.create"


def test_without_a_decision_id_the_record_holds_the_questions_own() -> None:
    found, asked = said({"result": True})
    assert found.evidence[0].id == asked.headers["x-request-id"]


@pytest.mark.control("2 undefined is a deny")
@pytest.mark.parametrize("body", [{}, {"decision_id": "d"}, {"result": False}, {"result": {"allow": False}}], ids=str)
def test_undefined_and_false_are_denies_by_policy(body: Any) -> None:
    found, _ = said(body)
    assert (found.outcome, found.reason) == (Outcome.DENY, Reason.POLICY_DENIED)


@pytest.mark.control("2 only a boolean true of OPA permits")
@pytest.mark.parametrize(
    "result",
    [None, 1, "true", [], [True], {}, {"allow": 1}, {"allow": "true"}, {"allow": True, "other": 1},
     {"allow": True, "obligations": {"step_up": 1}}, {"allow": True, "obligations": []},
     {"allow": True, "rules": "x"}, {"allow": True, "rules": [1]}],
    ids=str,
)  # fmt: skip
def test_result_that_is_no_boolean_or_obliges_to_what_nobody_knows_is_an_error(result: Any) -> None:
    found, _ = said({"result": result})
    assert (found.outcome, found.reason) == (Outcome.DENY, Reason.POLICY_ERROR)


@pytest.mark.parametrize("status", [400, 404, 500, 201])
def test_other_status_is_an_error(status: int) -> None:
    found, _ = said({"result": True}, status)
    assert found.reason is Reason.POLICY_ERROR


def test_object_may_name_rules_and_oblige() -> None:
    found, _ = said({"result": {"allow": True, "rules": ["small"], "obligations": {"per_call_lease": True}}})
    assert (found.outcome, found.obligations) == (Outcome.PERMIT, Obligations(per_call_lease=True))
    assert found.evidence[0].rules == ("small",)


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "../x", "a?b", "a/..", "a%2fb"])
def test_path_is_package_and_rule(path: str) -> None:
    http = Http()
    with pytest.raises(ConfigurationError):
        OpaPoint(http, "https://opa.test", path)
    http.close()
