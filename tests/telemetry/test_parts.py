"""The parts of a call as spans below it, with `spans="full"`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from agentguard import ApprovalRequired, ConfigurationError, Denied, Guard, Intent, any_, guarded, step
from agentguard.model.credential import Issued
from agentguard.model.decision import AccessRequest, Decision
from agentguard.model.lease import Grant, Lease
from agentguard.policy.decided import Answering as Says
from agentguard.ports import Answer, Approval, ApprovalRequest
from agentguard.telemetry import semconv as name
from agentguard.telemetry.settings import Telemetry
from agentguard.testing import Answering, FakeIssuer, fake_guard
from tests.telemetry.backend import Backend
from tests.tools import apay, everything, pay, refund, wipe

FULL = Telemetry(spans="full")
ASKS = Intent("x", step("refund", account=any_, amount=any_).then_ask())


@pytest.fixture
def guard(backend: Backend) -> Iterator[Guard]:
    with fake_guard(telemetry=FULL) as made:
        yield made


def below(backend: Backend, parent: ReadableSpan) -> list[ReadableSpan]:
    """The spans below one, in the order in which they began."""
    assert parent.context is not None
    inside = [one for one in backend.spans() if one.parent is not None and one.parent.span_id == parent.context.span_id]
    return sorted(inside, key=lambda one: one.start_time or 0)


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_call_shows_its_decision_its_credential_and_the_end_of_it(backend: Backend, guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()):
        wipe("acme")
    call = backend.span("execute_tool wipe")
    parts = below(backend, call)

    assert [name.AUTHORIZE, name.CREDENTIAL_ISSUE, name.CREDENTIAL_REVOKE] == [one.name for one in parts]
    assert "GUARDRAIL" == said(parts[0])[name.OPENINFERENCE_SPAN_KIND]
    assert said(parts[1])[name.AGENTGUARD_CREDENTIAL_CACHED] is False
    assert "revoked" == said(parts[2])[name.AGENTGUARD_CREDENTIAL_REVOCATION_STATUS]
    for one in parts:
        assert (call.start_time or 0) <= (one.start_time or 0) <= (one.end_time or 0) <= (call.end_time or 0)


def test_a_credential_that_was_kept_says_so_and_is_not_ended_with_the_call(backend: Backend, guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")
        pay("acme")
    issues = backend.spans(name.CREDENTIAL_ISSUE)

    assert [False, True] == [said(one)[name.AGENTGUARD_CREDENTIAL_CACHED] for one in issues]
    assert [] == backend.spans(name.CREDENTIAL_REVOKE)


def test_a_denial_is_a_correct_answer_and_nothing_comes_after_it(backend: Backend, guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=everything()), pytest.raises(Denied):
        pay("evil")
    (authorize,) = below(backend, backend.span("execute_tool pay"))

    assert StatusCode.UNSET is authorize.status.status_code
    assert ("deny", "argument_violation") == (
        said(authorize)[name.AGENTGUARD_DECISION_OUTCOME], said(authorize)[name.AGENTGUARD_DECISION_REASON],
    )  # fmt: skip
    assert StatusCode.ERROR is backend.span("execute_tool pay").status.status_code


class Point:
    """A decision point that leaves a span, as a client of a remote one does."""

    suspends, name, version = False, "point", "v7"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def decide(self, request: AccessRequest) -> Decision:
        with trace.get_tracer_provider().get_tracer("client").start_as_current_span("POST"):
            if self.error is not None:
                raise self.error
        return Says(self.name, str(request.action["name"]), version=self.version).permit(["rule"])


def test_what_a_decision_point_does_nests_below_the_decision(backend: Backend) -> None:
    with fake_guard(telemetry=FULL, decision_points=[Point()]) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            pay("acme")
            assert "invoke_agent bot" == getattr(trace.get_current_span(), "name", "")
    (authorize, *_) = below(backend, backend.span("execute_tool pay"))

    assert ["POST"] == [one.name for one in below(backend, authorize)]
    assert "point=v7" == said(authorize)[name.AGENTGUARD_POLICY_VERSION]


def test_a_decision_point_that_fails_is_an_error_of_the_decision(backend: Backend) -> None:
    with fake_guard(telemetry=FULL, decision_points=[Point(RuntimeError("secret-word"))]) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()), pytest.raises(Denied):
            pay("acme")
    authorize = backend.span(name.AUTHORIZE)

    assert StatusCode.ERROR is authorize.status.status_code
    assert (name.ERROR_POLICY, "deny") == (
        said(authorize)[name.ERROR_TYPE], said(authorize)[name.AGENTGUARD_DECISION_OUTCOME],
    )  # fmt: skip
    assert "secret-word" not in authorize.to_json()


@pytest.mark.anyio
async def test_parts_nest_under_an_event_loop_too(backend: Backend) -> None:
    with fake_guard(telemetry=FULL, issuer=FakeIssuer(suspends=True), decision_points=[Point()]) as guard:
        async with guard.task("bot", on_behalf_of="alice", intent=everything()):
            await apay("acme")

    parts = below(backend, backend.span("execute_tool apay"))
    assert [name.AUTHORIZE, name.CREDENTIAL_ISSUE] == [one.name for one in parts]


@pytest.mark.parametrize(
    ("answer", "expected"), [(Answer.APPROVED, "approved"), (Answer.REJECTED, "rejected"), (Answer.PENDING, "pending")]
)
def test_asking_a_person_is_a_part_that_ends_when_the_call_waits(
    backend: Backend, answer: Answer, expected: str
) -> None:
    with fake_guard(telemetry=FULL, approver=Answering(answer)) as guard:
        task = guard.task("bot", on_behalf_of="alice", intent=ASKS)
        if answer is Answer.APPROVED:
            with task:
                refund("acme", Decimal(5))
        else:
            with pytest.raises((Denied, ApprovalRequired)), task:
                refund("acme", Decimal(5))
    approval = backend.span(name.APPROVAL)

    assert expected == said(approval)[name.AGENTGUARD_APPROVAL_ANSWER]
    assert StatusCode.UNSET is approval.status.status_code
    assert approval in below(backend, backend.span("execute_tool refund"))


class Away(Answering):
    """A person who does not answer while the caller waits."""

    suspends = True

    async def ask(self, request: ApprovalRequest) -> Approval:
        await asyncio.sleep(30)
        return await super().ask(request)


def test_question_that_the_caller_did_not_wait_for_was_not_rejected(backend: Backend) -> None:
    @guarded("refund.later")
    async def refund_later() -> None:
        """Never run."""

    async def work() -> None:
        async with fake_guard(telemetry=FULL, approver=Away(Answer.APPROVED)) as guard:
            async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("refund.later").then_ask())):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(refund_later(), 0.02)

    asyncio.run(work())

    assert "pending" == said(backend.span(name.APPROVAL))[name.AGENTGUARD_APPROVAL_ANSWER]


class Undecided:
    """A decision point that takes its time."""

    suspends, name, version = True, "undecided", ""

    async def decide(self, request: AccessRequest) -> Says:
        del request
        await asyncio.sleep(30)
        raise AssertionError


class Unheard(FakeIssuer):
    """An authorization server that takes its time."""

    def __init__(self) -> None:
        super().__init__(suspends=True)

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        del grant, lease, now
        await asyncio.sleep(30)
        raise AssertionError


@pytest.mark.parametrize(
    ("ports", "part"),
    [({"decision_points": [Undecided()]}, name.AUTHORIZE), ({"issuer": Unheard()}, name.CREDENTIAL_ISSUE)],
)
def test_part_that_the_caller_did_not_wait_for_neither_failed_nor_was_denied(
    backend: Backend, ports: dict[str, Any], part: str
) -> None:
    @guarded("wait.for", effect="read", audience="https://api.test")
    async def wait_for() -> None:
        raise AssertionError

    async def work() -> None:
        async with fake_guard(telemetry=FULL, **ports) as guard:
            async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("wait.for"))):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(wait_for(), 0.02)

    asyncio.run(work())
    span = backend.span(part)

    assert StatusCode.UNSET is span.status.status_code
    assert {name.ERROR_TYPE, name.AGENTGUARD_DECISION_OUTCOME}.isdisjoint(said(span))
    assert name.METRIC_AGENTGUARD_CREDENTIAL_ISSUE_DURATION not in backend.metrics()


def test_an_issuer_that_is_out_of_reach_is_an_error_of_the_credential(backend: Backend) -> None:
    issuer = FakeIssuer()
    issuer.issue_error = ConnectionError("secret-word")
    with fake_guard(telemetry=FULL, issuer=issuer) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()), pytest.raises(Denied):
            pay("acme")
    issue = backend.span(name.CREDENTIAL_ISSUE)

    assert (StatusCode.ERROR, name.ERROR_CREDENTIAL) == (issue.status.status_code, said(issue)[name.ERROR_TYPE])
    assert "secret-word" not in issue.to_json()


def test_a_compact_call_is_one_span(backend: Backend) -> None:
    with fake_guard(telemetry=Telemetry()) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            wipe("acme")

    assert {"execute_tool wipe", "invoke_agent bot"} == {one.name for one in backend.spans()}


def test_a_frameworks_span_of_the_same_tool_carries_the_parts(backend: Backend, guard: Guard) -> None:
    known = {name.GEN_AI_OPERATION_NAME: name.EXECUTE_TOOL, name.GEN_AI_TOOL_NAME: "wipe"}
    with guard.task("bot", on_behalf_of="alice", intent=everything()):
        with backend.traces.get_tracer("framework").start_as_current_span("execute_tool wipe", attributes=known):
            wipe("acme")

    parts = [one.name for one in below(backend, backend.span("execute_tool wipe"))]
    assert [name.AUTHORIZE, name.CREDENTIAL_ISSUE, name.CREDENTIAL_REVOKE] == parts
    assert name.METRIC_GEN_AI_EXECUTE_TOOL_DURATION not in backend.metrics()  # the framework measures its own span


def test_a_word_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='write "compact" or "full"'):
        Telemetry(spans="all")  # type: ignore[arg-type]  # on purpose


class Fails:
    """A tracer whose second span cannot be opened."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def start_span(self, title: str, *given: Any, **named: Any) -> Any:
        if title.startswith("agentguard."):
            raise RuntimeError("telemetry")
        return self.inner.start_span(title, *given, **named)


@pytest.mark.control("1 telemetry changes nothing")
def test_parts_that_cannot_be_shown_change_nothing(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    class Provider:
        def get_tracer(self, *given: Any) -> Any:
            return Fails(backend.traces.get_tracer("agentguard"))

    provider = Provider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    issuer = FakeIssuer()
    with fake_guard(telemetry=FULL, issuer=issuer, decision_points=[]) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            wipe("acme")
            with pytest.raises(Denied):
                pay("evil")

    assert ({}, ["lease-1"]) == (issuer.live, issuer.revoked)
    assert {"execute_tool wipe", "execute_tool pay", "invoke_agent bot"} == {one.name for one in backend.spans()}


def test_compact_spans_leave_to_the_agents_span_what_full_ones_repeat(backend: Backend) -> None:
    for spans in ("compact", "full"):
        with fake_guard(telemetry=Telemetry(spans=spans)) as guard:
            with guard.task("bot", on_behalf_of="alice", intent=everything()):
                pay("acme")
    compact, full = map(said, backend.spans("execute_tool pay"))
    agent = said(backend.spans("invoke_agent bot")[0])
    left = set(full) - set(compact)

    assert set() == set(compact) - set(full)
    assert {name.AGENTGUARD_CREDENTIAL_TTL, name.AGENTGUARD_CREDENTIAL_EXPIRES_AT} == left - set(agent)
    assert {name.AGENTGUARD_INTENT_S256} == left & set(agent)
    assert compact[name.AGENTGUARD_DELEGATION_CHAIN_TEXT] == " > ".join(agent[name.AGENTGUARD_DELEGATION_CHAIN])


def test_calls_of_two_tools_with_one_name_are_told_apart(backend: Backend) -> None:
    tools = [guarded("same", effect=effect)(lambda: None) for effect in ("read", "write")]
    with fake_guard(telemetry=FULL) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("same").times(9))):
            for tool in (*tools, *tools):
                tool()

    assert ["read", "write"] * 2 == [
        said(one)[name.AGENTGUARD_TOOL_EFFECT] for one in backend.spans("execute_tool same")
    ]


def test_a_call_where_a_framework_made_a_span_of_the_tool_is_found_below_the_agents_span(backend: Backend) -> None:
    theirs = {name.GEN_AI_OPERATION_NAME: "execute_tool", name.GEN_AI_TOOL_NAME: "pay"}
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")  # right below the agent's span: nobody looks for a framework's
        with backend.traces.get_tracer("framework").start_as_current_span("theirs", attributes=theirs):
            pay("acme")

    assert 1 == len(backend.spans("execute_tool pay"))
    assert "permit" == said(backend.span("theirs"))[name.AGENTGUARD_DECISION_OUTCOME]
