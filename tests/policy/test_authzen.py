"""AuthZEN 1.0 by contract: only JSON's `true` permits, and what is no decision of this very server is a deny."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard._drive import drive
from agentguard._http import Http
from agentguard.errors import ConfigurationError
from agentguard.model.decision import AccessRequest, Outcome, Reason
from agentguard.model.lease import Secret
from agentguard.policy.authzen import AuthZenPoint, apart
from agentguard.policy.authzen_metadata import metadata_url
from agentguard.policy.obligations import Obligations
from agentguard.policy.request import TaskFacts
from tests.loopback import Answer, Loopback, Received, reply, serving
from tests.policy.questions import ask

WELL_KNOWN = "/.well-known/authzen-configuration"
PERMIT = {"decision": True}


def metadata(received: Received, **other: Any) -> dict[str, Any]:
    base = f"http://{received.headers['host']}"
    return {
        "policy_decision_point": base,
        "access_evaluation_endpoint": f"{base}/access/v1/evaluation",
        "access_evaluations_endpoint": f"{base}/access/v1/evaluations",
        **other,
    }


@contextmanager
def pdp(answer: Callable[[Received], Answer], **other: Any) -> Iterator[tuple[Loopback, Http]]:
    """A decision point whose metadata is right but for `other`, and a client that tries twice."""

    def answers(received: Received) -> Answer:
        return reply(metadata(received, **other)) if received.target == WELL_KNOWN else answer(received)

    http = Http(attempts=2, timeout=1)
    try:
        with serving(answers) as server:
            yield server, http
    finally:
        http.close()


def said(body: object, status: int = 200, **headers: str) -> Any:
    """What the point decides when the server says this."""
    with pdp(lambda _: reply(body, status, **headers)) as (server, http):
        return drive(AuthZenPoint(http, server.url).decide(ask()))


def test_true_permits_and_the_question_has_four_parts_and_an_id() -> None:
    with pdp(lambda received: reply(PERMIT, X_Request_ID=received.headers["x-request-id"])) as (server, http):
        point = AuthZenPoint(http, server.url, name="pdp", token=Secret("t0ken"))
        found = drive(point.decide(ask(amount=Decimal("49.99"))))
        drive(point.decide(ask()))
    first, second, third = server.seen
    assert (first.method, first.target) == ("GET", WELL_KNOWN)
    assert (second.method, second.target, third.target) == ("POST", "/access/v1/evaluation", "/access/v1/evaluation")
    body = json.loads(second.body)
    assert body.keys() == {"subject", "action", "resource", "context"}
    assert body["context"]["arguments"]["amount"] == 49.99
    assert second.headers["authorization"] == "Bearer t0ken"
    assert second.headers["x-request-id"] != third.headers["x-request-id"]
    assert (found.outcome, found.evidence[0].point) == (Outcome.PERMIT, "pdp")
    assert found.evidence[0].id == second.headers["x-request-id"]


def test_false_is_a_deny_by_policy() -> None:
    found = said({"decision": False, "context": {"anything": 1}})
    assert (found.outcome, found.reason) == (Outcome.DENY, Reason.POLICY_DENIED)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 201, 204])
def test_any_other_status_is_no_decision(status: int) -> None:
    found = said(PERMIT, status)
    assert (found.outcome, found.reason) == (Outcome.DENY, Reason.POLICY_ERROR)
    assert str(status) in found.miss.text


@pytest.mark.parametrize(
    "answer",
    [b'{"decision": true, "decision": true}', b"[true]", b"true", b"", b"{", b'\xff{"decision": true}', b"null"],
)
def test_body_that_is_no_strict_json_object_is_no_decision(answer: bytes) -> None:
    assert said(answer).reason is Reason.POLICY_ERROR


def test_other_media_type_is_no_decision() -> None:
    with pdp(lambda _: reply(PERMIT, media="text/html")) as (server, http):
        assert drive(AuthZenPoint(http, server.url).decide(ask())).reason is Reason.POLICY_ERROR


def test_obligations_are_read_from_the_context_of_a_permit() -> None:
    found = said({**PERMIT, "context": {"reason_user": "ok", "obligations": {"max_ttl": 60, "approve": True}}})
    assert (found.outcome, found.obligations) == (Outcome.ASK, Obligations(max_ttl=60, approve="operator"))


def test_unknown_members_of_the_answer_are_passed_over_and_known_advice_too() -> None:
    assert said({**PERMIT, "took_ms": 3}).outcome is Outcome.PERMIT
    with pdp(lambda _: reply({**PERMIT, "context": {"trace": 1}})) as (server, http):
        point = AuthZenPoint(http, server.url, advice=["trace"])
        assert drive(point.decide(ask())).outcome is Outcome.PERMIT


@pytest.mark.control("2 metadata of another decision point is refused")
@pytest.mark.parametrize(
    "other",
    [{"policy_decision_point": "https://other.test"}, {"policy_decision_point": None},
     {"access_evaluation_endpoint": "https://other.test/access/v1/evaluation"}, {"access_evaluation_endpoint": ""},
     {"access_evaluation_endpoint": "http://127.0.0.1:1/access"}, {"access_evaluation_endpoint": 3},
     {"access_evaluations_endpoint": "https://other.test/x"}, {"access_evaluations_endpoint": None}],
    ids=str,
)  # fmt: skip
def test_metadata_that_is_not_this_decision_points_own_is_refused(other: dict[str, Any]) -> None:
    with pdp(lambda _: reply(PERMIT), **other) as (server, http):
        found = drive(AuthZenPoint(http, server.url, token=Secret("t0ken")).decide(ask()))
    assert (found.outcome, found.reason) == (Outcome.DENY, Reason.POLICY_ERROR)
    assert len(server.seen) == 1


def test_metadata_of_a_tenant_is_looked_for_behind_the_well_known_part() -> None:
    assert metadata_url("https://pdp.test") == f"https://pdp.test{WELL_KNOWN}"
    assert metadata_url("https://pdp.test/tenant1/") == f"https://pdp.test{WELL_KNOWN}/tenant1"


def test_failed_discovery_is_tried_again_at_the_next_decision() -> None:
    broken = [True]

    def answers(received: Received) -> Answer:
        if received.target == WELL_KNOWN:
            return reply(b"", 500) if broken else reply(metadata(received))
        return reply(PERMIT)

    with serving(answers) as server:
        http = Http(attempts=1)
        point = AuthZenPoint(http, server.url)
        assert drive(point.decide(ask())).reason is Reason.POLICY_ERROR
        broken.clear()
        assert drive(point.decide(ask())).outcome is Outcome.PERMIT
        http.close()


def test_without_discovery_the_default_paths_are_asked() -> None:
    with pdp(lambda _: reply(PERMIT)) as (server, http):
        assert drive(AuthZenPoint(http, server.url, discover=False).decide(ask())).outcome is Outcome.PERMIT
    assert [received.target for received in server.seen] == ["/access/v1/evaluation"]


def test_attempt_that_failed_is_made_again_with_another_id() -> None:
    answers = [reply(b"{}", 503), reply(PERMIT)]
    with pdp(lambda _: answers.pop(0)) as (server, http):
        found = drive(AuthZenPoint(http, server.url).decide(ask()))
    ids = [received.headers["x-request-id"] for received in server.seen[1:]]
    assert found.outcome is Outcome.PERMIT
    assert len(set(ids)) == 2
    assert found.evidence[0].id == ids[-1]


def test_batch_asks_for_several_decisions_at_once_and_keeps_their_order() -> None:
    answer = {"evaluations": [PERMIT, {"decision": False}, {"decision": 1}]}
    with pdp(lambda _: reply(answer)) as (server, http):
        point = AuthZenPoint(http, server.url)
        found = drive(point.decide_many([ask(account=name) for name in "abc"]))
        assert drive(point.decide_many([])) == []
        too_many = drive(point.decide_many([ask()] * 101))
    body = json.loads(server.seen[1].body)
    assert [decision.outcome for decision in found] == [Outcome.PERMIT, Outcome.DENY, Outcome.DENY]
    assert found[2].reason is Reason.POLICY_ERROR
    assert [each["resource"]["id"] for each in body["evaluations"]] == ["account/a", "account/b", "account/c"]
    assert body["options"] == {"evaluations_semantic": "execute_all"}
    assert {decision.reason for decision in too_many} == {Reason.POLICY_ERROR}
    assert len(server.seen) == 2


@pytest.mark.control("2 a batch says one thing of one id")
def test_questions_that_differ_in_what_they_say_of_one_id_are_asked_apart() -> None:
    def answers(received: Received) -> Answer:
        """Decide as a server that was measured: by the first of all questions that share their ids."""
        first: dict[str, bool] = {}
        asked = json.loads(received.body)["evaluations"]
        for each in asked:
            first.setdefault(each["resource"]["id"], each["resource"]["properties"]["environment"] == "test")
        return reply({"evaluations": [{"decision": first[each["resource"]["id"]]} for each in asked]})

    def at(environment: str, account: str = "acme") -> AccessRequest:
        return ask(account=account, facts=TaskFacts(environment=environment))

    with pdp(answers) as (server, http):
        asked = [at("test"), at("prod"), at("test", "b"), at("prod"), at("test")]
        found = drive(AuthZenPoint(http, server.url).decide_many(asked))
    assert [decision.permitted for decision in found] == [True, False, True, False, True]
    assert len(server.seen) == 3


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from("ab")] * 5), max_size=12))
def test_every_question_is_in_one_batch_and_no_batch_tells_two_things_of_one_id(rows: Any) -> None:
    bodies = [
        {
            "subject": {"type": "user", "id": who, "p": p},
            "resource": {"type": "x", "id": what, "p": q},
            "context": {"c": c},
        }
        for who, p, what, q, c in rows
    ]
    batches = apart(bodies)
    assert sorted(index for batch in batches for index in batch) == list(range(len(bodies)))
    for batch in batches:
        for part in ("subject", "resource"):
            told = {(bodies[index][part]["id"], bodies[index][part]["p"]) for index in batch}
            assert len(told) == len({name for name, _ in told})


def test_decision_point_without_batches_denies_them() -> None:
    with pdp(lambda _: reply({"evaluations": [PERMIT]}), access_evaluations_endpoint="") as (server, http):
        (found,) = drive(AuthZenPoint(http, server.url).decide_many([ask()]))
    assert found.reason is Reason.POLICY_ERROR


def test_number_that_json_would_round_is_never_sent() -> None:
    with pdp(lambda _: reply(PERMIT)) as (server, http):
        found = drive(AuthZenPoint(http, server.url).decide(ask(amount=Decimal("0.1000000000000000000001"))))
    assert found.reason is Reason.POLICY_ERROR
    assert [received.target for received in server.seen if received.method == "POST"] == []


@pytest.mark.anyio
async def test_under_an_event_loop_it_suspends() -> None:
    with pdp(lambda _: reply(PERMIT)) as (server, http):
        with anyio.fail_after(5):
            assert (await AuthZenPoint(http, server.url).decide(ask())).outcome is Outcome.PERMIT
        await http.aclose()


@pytest.mark.control("6 a token of a decision point is never shown")
def test_token_stands_in_no_text_of_a_failure() -> None:
    with pdp(lambda _: reply(b"t0ken-of-the-pdp", 401)) as (server, http):
        point = AuthZenPoint(http, server.url, token=Secret("t0ken-of-the-pdp"))
        found = drive(point.decide(ask()))
    assert "t0ken" not in repr(found) + str(vars(point))


@pytest.mark.parametrize(
    "url", ["http://pdp.test", "https://10.0.0.1", "https://u:p@pdp.test", "https://pdp.test/?a=b"]
)
def test_url_that_a_question_must_not_go_to_is_refused(url: str) -> None:
    http = Http()
    with pytest.raises(ConfigurationError):
        AuthZenPoint(http, url)
    with pytest.raises(ConfigurationError):
        AuthZenPoint(http, "https://pdp.test", deadline=0)
    http.close()
