"""What a permit obliges to is carried out by the guard: before the tool runs, in its credential, record and result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jwt
import pytest
from msgspec.structs import replace

from agentguard import Denied, Intent, any_, current_credential, guarded, step
from agentguard.audit.memory import MemoryLog
from agentguard.credentials.local import LocalIssuer
from agentguard.errors import ConfigurationError
from agentguard.keys import SigningKey
from agentguard.model.decision import AccessRequest, Decision, Outcome, Reason
from agentguard.model.record import Event
from agentguard.policy.attributes import About, AttributeSource
from agentguard.policy.cache import CachedPoint
from agentguard.policy.cedar import CedarPoint
from agentguard.policy.decided import Answering as Says
from agentguard.policy.notices import Notice
from agentguard.policy.obligations import NOTHING, Obligations
from agentguard.ports import Answer, Approval, ApprovalRequest
from agentguard.testing import fake_guard

ran: list[str] = []
tokens: list[str] = []


@guarded("carried.account", effect="read", audience="https://bank.test", data={"payments"})
def account(number: str) -> dict[str, Any]:
    ran.append(number)
    tokens.append(current_credential().token)
    return {"number": number, "iban": "DE02", "rows": [{"iban": "DE03", "city": "Bonn"}]}


@guarded("carried.rows", effect="read")
def rows(number: str) -> Iterator[dict[str, str]]:
    ran.append(number)
    yield {"iban": "DE02", "city": "Bonn"}
    yield {"iban": "DE03", "city": "Köln"}


@guarded("carried.pay", effect="write", secret=["pin"])
def pay(amount: Decimal, pin: str) -> str:
    ran.append(str(amount))
    return "paid"


class Point:
    """Permits, with these obligations, and keeps the questions."""

    suspends = False
    name = "point"

    def __init__(self, obligations: Obligations = NOTHING) -> None:
        self.obligations, self.asked, self.version = obligations, list[AccessRequest](), "v1"

    async def decide(self, request: AccessRequest) -> Decision:
        self.asked.append(request)
        said = Says(self.name, str(request.action["name"]), version=self.version)
        return said.permit(["r1"], self.obligations)


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()
    tokens.clear()


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


def guard_of(log: MemoryLog, *points: Any, **rooms: Any) -> Any:
    return fake_guard(audit=log, decision_points=points, issuer=LocalIssuer(SigningKey.generate()), **rooms)


def opened(guard: Any) -> Any:
    steps = (
        step("carried.account", number=any_).times(9),
        step("carried.rows", number=any_).times(9),
        step("carried.pay", amount=any_, pin=any_).times(9),
    )
    return guard.task("bot", on_behalf_of="alice", intent=Intent("Look after accounts", *steps))


def records(log: MemoryLog, event: Event) -> list[dict[str, Any]]:
    return [record for record in log.records if record["event"] == event.value]


def test_question_is_the_documented_one_and_the_record_says_who_decided_by_what(log: MemoryLog) -> None:
    point = Point()
    with guard_of(log, point) as guard, opened(guard):
        account("a1")
    (request,) = point.asked
    assert (request.subject["id"], request.resource["type"], request.context["depth"]) == ("alice", "tool", 0)
    (permitted,) = records(log, Event.CALL_PERMITTED)
    assert permitted["policy"] == [
        {"point": "point", "outcome": "permit", "reason": "declared", "version": "v1", "rules": ["r1"]}
    ]


@pytest.mark.control("redact")
def test_members_that_a_policy_redacts_reach_nobody(log: MemoryLog) -> None:
    with guard_of(log, Point(Obligations(redact=frozenset({"iban"})))) as guard, opened(guard):
        found = account("a1")
    assert found["iban"] == found["rows"][0]["iban"] == "[redacted by policy]"
    assert (found["number"], found["rows"][0]["city"]) == ("a1", "Bonn")


@pytest.mark.control("redact in a stream")
def test_members_of_streamed_parts_are_redacted_too(log: MemoryLog) -> None:
    with guard_of(log, Point(Obligations(redact=frozenset({"iban"})))) as guard, opened(guard):
        found = list(rows("a1"))
    assert [part["iban"] for part in found] == ["[redacted by policy]"] * 2
    assert [part["city"] for part in found] == ["Bonn", "Köln"]


@pytest.mark.control("max_ttl")
def test_credential_lives_no_longer_than_a_policy_says(log: MemoryLog) -> None:
    with guard_of(log, Point(Obligations(max_ttl=5))) as guard, opened(guard):
        account("a1")
    claims = jwt.decode(tokens[0], options={"verify_signature": False})
    assert 0 < claims["exp"] - claims["iat"] <= 6


@pytest.mark.control("max_ttl of a reused lease")
def test_credential_of_a_call_without_the_bound_does_not_serve_one_under_it(log: MemoryLog) -> None:
    point = Point()
    with guard_of(log, point) as guard, opened(guard):
        account("a1")
        point.obligations = Obligations(max_ttl=5)
        account("a1")
        account("a1")
    assert tokens[0] != tokens[1] == tokens[2]


@pytest.mark.control("max_ttl of another issuer")
def test_credential_that_would_live_longer_is_revoked_and_the_call_denied(log: MemoryLog) -> None:
    class Lasting(LocalIssuer):
        async def issue(self, grant: Any, lease: Any, now: float) -> Any:

            issued = await super().issue(grant, lease, now)
            return replace(issued, lease=replace(issued.lease, expires_at=now + 3600))

    issuer = Lasting(SigningKey.generate())
    with fake_guard(audit=log, decision_points=[Point(Obligations(max_ttl=5))], issuer=issuer) as guard, opened(guard):
        with pytest.raises(Denied) as denied:
            account("a1")
        assert guard.outstanding() == 0
    assert (ran, denied.value.reason) == ([], Reason.CREDENTIAL_UNAVAILABLE)


@pytest.mark.control("per_call_lease")
def test_credential_serves_one_call_where_a_policy_says_so(log: MemoryLog) -> None:
    with guard_of(log, Point(Obligations(per_call_lease=True))) as guard, opened(guard):
        account("a1")
        account("a1")
        assert guard.outstanding() == 0
    claims = jwt.decode(tokens[0], options={"verify_signature": False})
    assert tokens[0] != tokens[1]
    assert claims["authorization_details"][0]["arguments"] == {"number": "a1"}


def test_arguments_stand_in_clear_where_a_policy_says_so(log: MemoryLog) -> None:
    with guard_of(log, Point(Obligations(log_arguments=frozenset({"amount"})))) as guard, opened(guard):
        pay(Decimal("49.90"), "1234")
    (permitted,) = records(log, Event.CALL_PERMITTED)
    assert permitted["arguments"] == {"amount": "49.9"}
    assert "1234" not in json.dumps(log.records)


@pytest.mark.control("log_arguments of a secret")
def test_argument_that_the_tool_keeps_secret_is_never_logged(log: MemoryLog) -> None:
    with guard_of(log, Point(Obligations(log_arguments=frozenset({"pin"})))) as guard, opened(guard):
        with pytest.raises(Denied):
            pay(Decimal(1), "1234")
    assert (ran, "1234" in json.dumps(log.records)) == ([], False)


@pytest.mark.control("notify")
def test_whoever_a_policy_names_is_told_before_the_tool_runs(log: MemoryLog) -> None:
    told: list[tuple[Notice, int]] = []
    notify = {"duty": lambda notice: told.append((notice, len(ran)))}
    with guard_of(log, Point(Obligations(notify=frozenset({"duty"}))), notify=notify) as guard, opened(guard):
        account("a1")
    ((notice, before),) = told
    assert (notice.tool, notice.chain, before, ran) == ("carried.account", "user:alice > bot", 0, ["a1"])
    (permitted,) = records(log, Event.CALL_PERMITTED)
    assert notice.record == f"{permitted['chain']}:{permitted['seq']}"
    assert records(log, Event.NOTIFIED)[0]["notified"] == ["duty"]


@pytest.mark.control("notify that fails")
def test_nothing_runs_where_somebody_cannot_be_told(log: MemoryLog) -> None:
    def broken(notice: Notice) -> None:
        raise OSError("no line")

    point = Point(Obligations(notify=frozenset({"duty"})))
    with guard_of(log, point, notify={"duty": broken}) as guard, opened(guard):
        with pytest.raises(Denied) as denied:
            account("a1")
    assert (ran, tokens, denied.value.reason) == ([], [], Reason.POLICY_ERROR)


async def page(notice: Notice) -> None:
    raise AssertionError


def test_coroutine_function_tells_nobody_and_is_a_mistake_at_once(log: MemoryLog) -> None:
    with pytest.raises(ConfigurationError, match="'duty' names a coroutine function"):
        guard_of(log, notify={"duty": page})


@pytest.mark.control("notify that fails")
def test_nothing_runs_where_a_function_returned_a_coroutine_that_would_have_told_somebody(log: MemoryLog) -> None:
    point = Point(Obligations(notify=frozenset({"duty"})))
    with guard_of(log, point, notify={"duty": lambda notice: page(notice)}) as guard, opened(guard):
        with pytest.raises(Denied) as denied:
            account("a1")
    assert (ran, tokens, denied.value.reason) == ([], [], Reason.POLICY_ERROR)


def test_decision_points_see_what_attribute_sources_say(log: MemoryLog) -> None:
    point = Point()
    heard: list[About] = []

    def risk(about: About) -> int:
        heard.append(about)
        return 3

    sources = [
        AttributeSource("risk", risk),
        AttributeSource("mood", lambda about: 1 / 0, required=False),
    ]
    with guard_of(log, point, attributes=sources) as guard, opened(guard):
        account("a1")
    context = point.asked[0].context
    assert (context["attributes"], context["missing"]) == ({"risk": 3}, ["mood"])
    assert (heard[0].tool, heard[0].agents, heard[0].environment) == ("carried.account", ("bot",), "test")


@pytest.mark.control("required attribute")
def test_call_is_denied_where_a_required_attribute_is_missing(log: MemoryLog) -> None:
    point = Point()
    source = AttributeSource("risk", lambda about: 1 / 0)
    with guard_of(log, point, attributes=[source]) as guard, opened(guard):
        with pytest.raises(Denied) as denied:
            account("a1")
    assert (ran, point.asked, denied.value.reason) == ([], [], Reason.POLICY_ERROR)


@pytest.mark.control("suspension drops kept decisions")
def test_suspension_drops_every_kept_decision(log: MemoryLog) -> None:
    inner = Point()
    with guard_of(log, CachedPoint(inner, ttl=60)) as guard, opened(guard):
        pay(Decimal(1), "1234")
        pay(Decimal(1), "1234")
        assert len(inner.asked) == 1
        guard.suspend(agent="somebody-else", why="lost")
        pay(Decimal(1), "1234")
    assert len(inner.asked) == 2


class Changing:
    """An approver during whose answer the policy changes."""

    suspends = False

    def __init__(self, folder: Path, policy: str) -> None:
        self.folder, self.policy = folder, policy

    async def ask(self, request: ApprovalRequest) -> Approval:
        (self.folder / "p.cedar").write_text(self.policy)
        return Approval(Answer.APPROVED, by="ann")


@pytest.mark.control("decided again at the gate")
def test_call_that_waited_is_decided_again_by_the_policy_that_stands_at_its_gate(
    log: MemoryLog, tmp_path: Path
) -> None:
    (tmp_path / "p.cedar").write_text('@approve("") permit(principal, action, resource);')
    approver = Changing(tmp_path, '@id("closed") forbid(principal, action, resource);')
    with guard_of(log, CedarPoint(tmp_path, interval=0), approver=approver) as guard, opened(guard):
        with pytest.raises(Denied) as denied:
            account("a1")
    assert (ran, denied.value.decision.level) == ([], "cedar:closed")
    assert records(log, Event.CALL_DENIED)[0]["policy"][0]["rules"] == ["closed"]


def test_call_that_the_new_policy_permits_too_runs_and_says_by_which_it_was_decided(
    log: MemoryLog, tmp_path: Path
) -> None:
    (tmp_path / "p.cedar").write_text('@approve("") permit(principal, action, resource);')
    approver = Changing(tmp_path, '@id("open") permit(principal, action, resource);')
    point = CedarPoint(tmp_path, interval=0)
    with guard_of(log, point, approver=approver) as guard, opened(guard):
        account("a1")
    (again,) = records(log, Event.CALL_DECIDED_AGAIN)
    assert (ran, again["policy"][0]["version"], again["policy"][0]["rules"]) == (["a1"], point.version, ["open"])


@pytest.mark.control("decided again at the gate")
def test_call_whose_policies_change_whenever_it_is_decided_does_not_run(log: MemoryLog) -> None:
    class Restless(Point):
        async def decide(self, request: AccessRequest) -> Decision:
            said = await super().decide(request)
            self.version += "'"
            return said

    with guard_of(log, Restless()) as guard, opened(guard):
        with pytest.raises(Denied) as denied:
            account("a1")
    assert (ran, denied.value.reason) == ([], Reason.POLICY_ERROR)


@pytest.mark.control("more is obliged to at the gate")
def test_call_is_denied_where_the_new_policy_obliges_to_what_comes_too_late(log: MemoryLog, tmp_path: Path) -> None:
    (tmp_path / "p.cedar").write_text('@approve("") permit(principal, action, resource);')
    approver = Changing(tmp_path, '@max_ttl("1") permit(principal, action, resource);')
    with guard_of(log, CedarPoint(tmp_path, interval=0), approver=approver) as guard, opened(guard):
        with pytest.raises(Denied) as denied:
            account("a1")
    assert (ran, denied.value.reason) == ([], Reason.POLICY_ERROR)


def test_denied_decision_has_the_strictest_outcome(log: MemoryLog) -> None:
    class Denies(Point):
        async def decide(self, request: AccessRequest) -> Decision:
            return Decision(outcome=Outcome.DENY, reason=Reason.POLICY_DENIED, tool="carried.account")

    with guard_of(log, Point(), Denies()) as guard, opened(guard):
        with pytest.raises(Denied):
            account("a1")
    assert [entry["outcome"] for entry in records(log, Event.CALL_DENIED)[0]["policy"]] == ["permit", "deny"]
