"""Decisions of a real AuthZEN decision point (Cerbos), asked by our own code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from agentguard import Denied, Intent, any_, guarded, step
from agentguard._drive import drive
from agentguard._http import Http
from agentguard.model.decision import AccessRequest, Decision, Outcome, Reason
from agentguard.model.principal import Agent, Chain, Subject
from agentguard.policy.authzen import AuthZenPoint
from agentguard.policy.cache import CachedPoint
from agentguard.policy.request import TaskFacts
from agentguard.testing import fake_guard
from tests.policy.questions import ask, combined
from tests.services.chaos import ChaosProxy, Mode
from tests.services.endpoints import Services

ran: list[str] = []


@guarded("refund.create", effect="write", resource="account/{account}", data={"pii"}, record=["account", "amount"])
def refund(account: str, amount: Decimal) -> str:
    ran.append(account)
    return "paid"


@pytest.fixture
def http() -> Iterator[Http]:
    client = Http()
    yield client
    client.close()


@pytest.fixture
def point(services: Services, http: Http) -> AuthZenPoint:
    return AuthZenPoint(http, services.cerbos.url, name="cerbos")


def of(subject: str, tenant: str = "") -> Chain:
    return Chain(Subject(subject, tenant=tenant), (Agent("support-bot"),))


QUESTIONS = [
    (ask(amount=Decimal("49.99")), True),
    (ask(account="evil"), False),
    (ask("refund.delete"), False),
    (ask(chain=of("bob")), False),
    (ask(chain=of("alice", tenant="blocked")), False),
    (ask(facts=TaskFacts(environment="prod")), False),
]


def test_server_decides_by_subject_action_resource_and_context(point: AuthZenPoint) -> None:
    for request, permitted in QUESTIONS:
        found = drive(point.decide(request))
        assert found.outcome is (Outcome.PERMIT if permitted else Outcome.DENY)
        assert found.reason is (Reason.DECLARED if permitted else Reason.POLICY_DENIED)
        assert len(found.evidence[0].id) == 32


def test_batch_is_decided_as_each_question_alone(point: AuthZenPoint) -> None:
    found = drive(point.decide_many([request for request, _ in QUESTIONS]))
    assert [decision.outcome is Outcome.PERMIT for decision in found] == [permitted for _, permitted in QUESTIONS]


@pytest.mark.anyio
async def test_server_decides_under_an_event_loop(point: AuthZenPoint, http: Http) -> None:
    kept = CachedPoint(point, ttl=10)
    with anyio.fail_after(10):
        assert (await kept.decide(QUESTIONS[0][0])).outcome is Outcome.PERMIT
        assert (await kept.decide(QUESTIONS[0][0])).outcome is Outcome.PERMIT
    await http.aclose()


def test_question_that_the_server_does_not_take_is_a_denial(point: AuthZenPoint) -> None:
    request = AccessRequest(subject={"type": "user", "id": ""}, action={"name": "x"}, resource={}, context={})
    found = combined(point, request=request)
    assert (found.outcome, found.reason) == (Outcome.DENY, Reason.POLICY_ERROR)


def test_identifier_of_another_host_is_refused_by_its_metadata(services: Services, http: Http) -> None:
    other = AuthZenPoint(http, services.cerbos.url + "/")
    assert drive(other.decide(QUESTIONS[0][0])).reason is Reason.POLICY_ERROR


@pytest.mark.parametrize("mode", ["drop_reply", "truncate", "reset", "refuse", "blackhole"])
def test_server_that_cannot_be_reached_is_a_denial(services: Services, mode: Mode) -> None:
    port = urlsplit(services.cerbos.url).port
    assert port is not None
    http = Http(attempts=2, timeout=0.5)
    with ChaosProxy("127.0.0.1", port) as proxy:
        proxy.set(mode)
        point = AuthZenPoint(http, f"http://127.0.0.1:{proxy.port}", deadline=1)
        assert drive(point.decide(QUESTIONS[0][0])).reason is Reason.POLICY_ERROR
        assert proxy.counts[mode] >= 1
    http.close()


ARCHIVED: dict[str, Any] = {"status": "archived"}
# The decision rules of the AuthZEN certification scenario: number, subject, its role, action, resource, its properties.
RULES = [
    (1, "alice", "", "read", "record-1", {}, True),
    (2, "alice", "", "write", "record-1", {}, True),
    (3, "bob", "", "read", "record-1", {}, True),
    (4, "bob", "", "write", "record-1", {}, False),
    (5, "alice", "", "write", "record-2", ARCHIVED, False),
    (6, "bob", "admin", "write", "record-2", ARCHIVED, True),
]


def by_rule(subject: str, role: str, action: str, resource: str, properties: dict[str, Any]) -> AccessRequest:
    return AccessRequest(
        subject={"type": "user", "id": subject, **({"properties": {"role": role}} if role else {})},
        action={"name": action},
        resource={"type": "record", "id": resource, **({"properties": properties} if properties else {})},
        context={},
    )


@pytest.mark.parametrize(
    ("subject", "role", "action", "resource", "properties", "permitted"),
    [pytest.param(*rule[1:], id=f"rule-{rule[0]}") for rule in RULES],
)
@pytest.mark.parametrize(
    "context", [{}, {"time": "2026-06-27T18:03-07:00", "ip": "192.0.2.1"}], ids=["bare", "context"]
)
def test_certification_rule_is_decided_as_it_says(
    point: AuthZenPoint, subject: str, role: str, action: str, resource: str, properties: dict[str, Any],
    permitted: bool, context: dict[str, Any],
) -> None:  # fmt: skip
    request = replace(by_rule(subject, role, action, resource, properties), context=context)

    found = drive(point.decide(request))

    assert (Outcome.PERMIT if permitted else Outcome.DENY) is found.outcome
    assert (Reason.DECLARED if permitted else Reason.POLICY_DENIED) is found.reason


def test_all_certification_rules_are_decided_in_one_batch_as_each_alone(point: AuthZenPoint) -> None:
    found = drive(point.decide_many([by_rule(*rule[1:6]) for rule in RULES]))

    assert [rule[6] for rule in RULES] == [decision.outcome is Outcome.PERMIT for decision in found]


class Translating:
    """Asks with the request of these tests' own form, whatever form the guard's has."""

    suspends = False

    def __init__(self, point: AuthZenPoint) -> None:
        self.point = point

    async def decide(self, request: AccessRequest) -> Decision:
        arguments: Any = request.context["arguments"]
        return await self.point.decide(ask(request.action["name"], **arguments))


def test_guarded_tool_runs_only_where_the_server_permits_it(point: AuthZenPoint) -> None:
    ran.clear()
    intent = Intent("Refunds", step("refund.create", account=any_, amount=any_).times(9))
    with (
        fake_guard(decision_points=[Translating(point)]) as guard,
        guard.task("support-bot", on_behalf_of="alice", intent=intent),
    ):
        refund("acme", Decimal("49.99"))
        with pytest.raises(Denied) as denied:
            refund("evil", Decimal("49.99"))
    assert (ran, denied.value.reason) == (["acme"], "policy_denied")
