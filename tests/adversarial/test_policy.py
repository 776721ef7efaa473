"""Numbered cases about people and decision points: each must end in a denial, or in exactly what was checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard import ApprovalRequired, Denied, Guard, Intent, any_, guarded, step
from agentguard._drive import drive
from agentguard._http import Http
from agentguard.model.decision import AccessRequest, Decision, Outcome, Reason
from agentguard.policy.authzen import AuthZenPoint
from agentguard.policy.cedar import CedarPoint
from agentguard.policy.combine import Versions, decide_all
from agentguard.policy.decided import Answering, Decided
from agentguard.ports import Answer as SaysYes
from agentguard.ports import Approval, DecisionPoint
from agentguard.registry import OpenRegistry
from agentguard.task_state import TaskState
from agentguard.testing import FakeClock, FakeIssuer, fake_guard
from tests.approval.openid_provider import FakeProvider, said
from tests.loopback import Answer, Received, reply, serving
from tests.policy.questions import INTENT, ask, combined

# 32: a person who is asked on their own device ------------------------------------------------------------------


ran: list[Any] = []
PENDING, SLOW = said("authorization_pending"), said("slow_down")


@guarded("policy.send", effect="write", audience="https://bank.test")
def send(amount: int) -> str:
    ran.append(amount)
    return "sent"


@guarded("policy.send", effect="write", audience="https://bank.test")
async def send_async(amount: int) -> str:
    ran.append(amount)
    return "sent"


class Device:
    """A guard that asks through a provider which answers as it is told; its clock is the provider's."""

    def __init__(self) -> None:
        ran.clear()
        self.provider, self.issuer = FakeProvider(), FakeIssuer()

    def guard(self, **options: Any) -> Guard:
        clock, approver = self.provider.clock, self.provider.approver(**options)
        return fake_guard(approver=approver, issuer=self.issuer, clock=clock, monotonic=clock)

    def task(self, guard: Guard) -> Any:
        asks = Intent("send", step("policy.send", amount=any_).times(2).then_ask())
        return guard.task("bot", on_behalf_of="alice", intent=asks)


@pytest.fixture
def device() -> Device:
    return Device()


def test_case_32_call_runs_once_approved_and_slow_down_makes_all_later_polls_slower(device: Device) -> None:
    device.provider.polls = [PENDING, SLOW, PENDING]
    with device.guard() as guard, device.task(guard):
        assert send(1) == "sent"
    assert [at - 1_800_000_000 for at in device.provider.times] == [5, 10, 20, 30]
    assert (ran, device.issuer.live) == ([1], {})


@pytest.mark.control("7 what a person did not approve does not run")
@pytest.mark.parametrize("answer", ["access_denied", "expired_token", "invalid_grant", "unknown_error"])
def test_case_32_denied_expired_or_of_another_client_is_a_denial(device: Device, answer: str) -> None:
    device.provider.polls = [PENDING, said(answer)]
    with device.guard() as guard, device.task(guard), pytest.raises(Denied) as denied:
        send(1)
    assert (ran, device.issuer.issued, denied.value.reason) == ([], [], Reason.APPROVAL_REJECTED)


@pytest.mark.control("7 an answer by somebody else is none")
@pytest.mark.parametrize("claims", [{"sub": "mallory"}, {"aud": "other"}, {"iss": "https://evil.test"}, {"exp": 1}])
def test_case_32_tokens_that_are_not_of_who_was_asked_are_a_denial(device: Device, claims: dict[str, Any]) -> None:
    device.provider.claims = claims
    with device.guard() as guard, device.task(guard), pytest.raises(Denied):
        send(1)
    assert (ran, device.issuer.issued) == ([], [])


@pytest.mark.control("7 the id of another call's question is none")
def test_case_32_answer_to_another_call_is_not_used_for_this_one(device: Device) -> None:
    device.provider.polls = [PENDING]
    with device.guard(block=False) as guard:
        task = device.task(guard)
        with pytest.raises(ApprovalRequired), task:
            send(1)
        device.provider.now += 10
        device.provider.polls, device.provider.started = [PENDING], {"auth_req_id": "question-2"}
        with pytest.raises(ApprovalRequired) as waits, task:
            send(2)
        device.provider.now += 10
        with pytest.raises(Denied), task:  # the first one was approved: by its own id, for its own call, once
            send(1)
            device.provider.polls = [said("access_denied")]
            send(2)
    assert (ran, waits.value.question) == ([1], "question-2")


@pytest.mark.anyio
@pytest.mark.control("7 an approval after the cancellation is not used")
async def test_case_32_approval_that_arrives_after_the_call_was_cancelled_is_not_used(device: Device) -> None:
    async def pause(seconds: float) -> None:
        if device.provider.times:
            await anyio.sleep_forever()
        device.provider.now += seconds

    device.provider.polls = [PENDING]
    async with device.guard(pause=pause) as guard, device.task(guard):
        with anyio.move_on_after(0.05) as scope:
            await send_async(1)
        device.provider.now += 10  # approved now, and nobody looks any more
        await anyio.sleep(0.01)
    assert (scope.cancelled_caught, ran, device.issuer.issued) == (True, [], [])
    assert len(device.provider.times) == 1


# 33: a remote decision point that says something else than its decision ---------------------------------------


@contextmanager
def asking(answer: Any) -> Iterator[AuthZenPoint]:
    def answers(received: Received) -> Answer:
        return answer(received) if callable(answer) else reply(answer)

    http = Http(attempts=1, timeout=0.3, deadline=0.5)
    try:
        with serving(answers) as server:
            yield AuthZenPoint(http, server.url, discover=False, deadline=0.5)
    finally:
        http.close()


def no_decision(decision: Decided) -> bool:
    return (decision.outcome, decision.reason) == (Outcome.DENY, Reason.POLICY_ERROR)


@pytest.mark.control("2 only JSON true permits")
@pytest.mark.parametrize(
    "value", ["true", "True", 1, 1.0, None, [], [True], {}, {"decision": True}, "permit"], ids=repr
)
def test_case_33_decision_that_is_not_json_true_is_a_denial(value: Any) -> None:
    with asking({"decision": value}) as point:
        assert no_decision(drive(point.decide(ask())))
    with asking({"Decision": True}) as point:
        assert no_decision(drive(point.decide(ask())))


@pytest.mark.parametrize("status", [500, 302, 100])
def test_case_33_status_that_is_no_answer_is_a_denial(status: int) -> None:
    with asking(lambda _: reply({"decision": True}, status)) as point:
        assert no_decision(drive(point.decide(ask())))


def test_case_33_answer_that_comes_too_late_or_not_at_all_is_a_denial() -> None:
    def drip(_: Received) -> Any:
        for part in reply({"decision": True}):
            anyio.run(anyio.sleep, 0.02)
            yield bytes([part])

    for answer in (drip, lambda _: None):
        with asking(answer) as point:
            assert no_decision(drive(point.decide(ask())))


@pytest.mark.control("2 an answer to another question is none")
def test_case_33_answer_with_the_request_id_of_another_question_is_a_denial() -> None:
    for other in ("other", "", "x, x"):
        with asking(lambda _, other=other: reply({"decision": True}, X_Request_ID=other)) as point:
            assert no_decision(drive(point.decide(ask())))


@pytest.mark.control("2 batch of another length is a deny")
@pytest.mark.parametrize("count", [0, 1, 3])
def test_case_33_batch_of_another_length_denies_all(count: int) -> None:
    with asking({"evaluations": [{"decision": True}] * count}) as point:
        assert all(map(no_decision, drive(point.decide_many([ask(), ask()]))))
    with asking({"decision": True}) as point:
        assert all(map(no_decision, drive(point.decide_many([ask(), ask()]))))


@pytest.mark.control("2 unknown obligation is a deny")
@pytest.mark.parametrize(
    "context", [{"obligations": {"step_up": True}}, {"obligations": None}, {"step_up": 1}, None, [], "x"], ids=repr
)
def test_case_33_permit_that_obliges_to_what_nobody_knows_is_a_denial(context: Any) -> None:
    with asking({"decision": True, "context": context}) as point:
        assert no_decision(drive(point.decide(ask())))


# 34: algebra of Cedar policies against a small oracle ---------------------------------------------------------

ACTIONS = ("pay", "read")
Effect = Literal["permit", "forbid"]
rules = st.tuples(
    st.sampled_from(["permit", "forbid"]), st.sampled_from([None, *ACTIONS]), st.sampled_from([None, "acme", "evil"]),
    st.sampled_from([None, "test", "prod", "error"]),
)  # fmt: skip


def written(rule: Any) -> str:
    effect, action, account, environment = rule
    scope = f'action == Action::"{action}"' if action else "action"
    where = f'resource == Resource::"account/{account}"' if account else "resource"
    condition = {None: "", "error": "when { context.nothing }"}.get(
        environment, f'when {{ context.environment == "{environment}" }}'
    )
    return f"{effect}(principal, {scope}, {where}) {condition};"


def oracle(found: list[Any], action: str, account: str) -> bool:
    """What must be decided, written down once more in the plainest way."""
    hit = [
        (effect, environment)
        for effect, at, on, environment in found
        if at in (None, action) and on in (None, account) and environment in (None, "test", "error")
    ]
    if any(environment == "error" for _, environment in hit):
        return False
    effects = [effect for effect, _ in hit]
    return "permit" in effects and "forbid" not in effects


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cedar")


def decides(folder: Path, found: list[Any], action: str, account: str) -> bool:
    (folder / "p.cedar").write_text("\n".join(map(written, found)))
    point = CedarPoint(folder)
    return combined(point, request=ask(action, account=account)).outcome is Outcome.PERMIT


asked = (st.sampled_from(ACTIONS), st.sampled_from(["acme", "evil"]))


@pytest.mark.control("2 default deny, forbid wins, an error is a deny")
@settings(max_examples=200, deadline=None)
@given(st.lists(rules, min_size=1, max_size=5), *asked, st.randoms())
def test_case_34_cedar_decides_as_the_oracle_in_any_order_and_with_duplicates(
    folder: Path, found: list[Any], action: str, account: str, order: Any
) -> None:
    expected = oracle(found, action, account)
    assert decides(folder, found, action, account) is expected
    shuffled = found + found[:1]
    order.shuffle(shuffled)
    assert decides(folder, shuffled, action, account) is expected


@pytest.mark.control("2 a forbid never turns a deny into a permit")
@settings(max_examples=200, deadline=None)
@given(st.lists(rules, min_size=1, max_size=5), rules, *asked)
def test_case_34_forbid_that_is_added_never_turns_a_deny_into_a_permit(
    folder: Path, found: list[Any], extra: Any, action: str, account: str
) -> None:
    before = decides(folder, found, action, account)
    forbid, permit = ("forbid", *extra[1:]), ("permit", *extra[1:])
    assert before or not decides(folder, [*found, forbid], action, account)
    # A permit takes a permit away only where it errs, which is a deny.
    assert not before or extra[3] == "error" or decides(folder, [*found, permit], action, account)


class Says:
    suspends = False

    def __init__(self, outcome: Any, name: str = "says") -> None:
        self.outcome, self.name = outcome, name

    async def decide(self, request: AccessRequest) -> Decision:
        answer = Answering(self.name, "t")
        match self.outcome:
            case "raise":
                raise ValueError
            case "error":
                return answer.error("x")
            case Outcome.DENY:
                return answer.deny("x")
        return answer.permit()


@pytest.mark.control("2 several decision points must all permit")
@settings(deadline=None)
@given(
    st.lists(st.sampled_from([Outcome.PERMIT, Outcome.DENY, "raise", "error"]), min_size=1, max_size=5), st.randoms()
)
def test_case_34_all_decision_points_must_permit_in_any_order(outcomes: list[Any], order: Any) -> None:
    expected = all(outcome is Outcome.PERMIT for outcome in outcomes)
    for _ in range(2):
        assert (combined(*map(Says, outcomes)).outcome is Outcome.PERMIT) is expected
        order.shuffle(outcomes)


# 35: a decision point that raises, says nonsense, or is late --------------------------------------------------


class Wrong:
    suspends = True

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def decide(self, request: AccessRequest) -> Decision:
        if self.answer == "late":
            await anyio.sleep(30)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]  # on purpose: what is no Decision


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer", [ValueError("x"), TimeoutError(), True, None, "permit", {"decision": True}, "late"], ids=repr
)
async def test_case_35_rule_that_raises_says_no_decision_or_is_late_is_a_policy_error(answer: Any) -> None:
    with anyio.fail_after(5):
        orders: list[list[DecisionPoint]] = [
            [Wrong(answer), Says(Outcome.PERMIT)],
            [Says(Outcome.PERMIT), Wrong(answer)],
        ]
        for points in orders:
            found = await decide_all(points, ask(), INTENT, deadline=0.05)
            assert no_decision(found)


# 36 and 37: what is checked is what runs ------------------------------------------------------------------------


@guarded("policy.pay", effect="write", record=["items"])
def pay(items: Any) -> str:
    ran.append(items)
    return "paid"


class Changing:
    """Changes the caller's own objects while it decides, and notes what it was shown."""

    suspends = False

    def __init__(self, items: list[Any]) -> None:
        self.items, self.shown = items, list[Any]()

    async def decide(self, request: AccessRequest) -> Decision:
        self.shown.append(request.context["arguments"]["items"])
        self.items[0]["to"] = "evil"
        self.items.append({"to": "evil"})
        return Answering("changing", "policy.pay").permit()


def opened(guard: Guard) -> Any:
    return guard.task("bot", on_behalf_of="alice", intent=Intent("pay", step("policy.pay", items=any_).times(9)))


@pytest.mark.control("4 what was checked is what runs")
def test_case_36_arguments_that_change_while_the_policy_decides_do_not_reach_the_tool() -> None:
    ran.clear()
    items: list[Any] = [{"to": "acme"}]
    point = Changing(items)
    with fake_guard(decision_points=[point]) as guard, opened(guard):
        pay(items)
    assert point.shown == [[{"to": "acme"}]]
    assert ran == [[{"to": "acme"}]]


class Lies:
    def __str__(self) -> str:
        return "acme"

    def __repr__(self) -> str:
        raise RuntimeError("no")

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("no")

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]  # as such classes have it


class TextThatLies(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "acme"

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


@pytest.mark.control("4 an object that lies is no argument")
def test_case_37_object_that_lies_or_raises_is_a_denial_before_anybody_decides() -> None:
    ran.clear()
    point = Changing([{}])
    with fake_guard(decision_points=[point]) as guard, opened(guard):
        for value in (Lies(), [Lies()], {"to": Lies()}):
            with pytest.raises(Denied):
                pay(value)
    assert (ran, point.shown) == ([], [])


def test_case_37_text_that_lies_is_shown_to_the_policy_as_what_it_is() -> None:
    point = Changing([{}])
    with fake_guard(decision_points=[point]) as guard, opened(guard):
        pay([TextThatLies("evil")])
    assert point.shown == [["evil"]]


# 38: policies that change between the decision and the run ------------------------------------------------------


@pytest.mark.control("2 a changed policy decides again")
def test_case_38_decision_of_policies_that_changed_is_told_apart_before_the_tool_runs(tmp_path: Path) -> None:
    file = tmp_path / "p.cedar"
    file.write_text("permit(principal, action, resource);")
    point = CedarPoint(tmp_path, interval=0)
    noted = Versions.of([point])
    first = combined(point, request=ask(amount=Decimal(1)))
    assert first.outcome is Outcome.PERMIT
    assert first.evidence[0].version == point.version
    assert drive(noted.current())

    file.write_text("forbid(principal, action, resource);")

    assert not drive(noted.current())
    again = combined(point, request=ask(amount=Decimal(1)))
    assert again.outcome is Outcome.DENY
    assert again.evidence[0].version not in ("", first.evidence[0].version)


# 39: what is stopped between the check and the run, with the credential already there ----------------------------


class Meanwhile(FakeIssuer):
    """Issues, and then something happens."""

    def __init__(self) -> None:
        super().__init__()
        self.happens: Callable[[], None] = lambda: None

    async def issue(self, grant: Any, lease: Any, now: float) -> Any:
        issued = await super().issue(grant, lease, now)
        self.happens()
        return issued


class Until(OpenRegistry):
    """Agents that may work until a time."""

    def __init__(self, expires: float) -> None:
        self._expires = expires

    def get(self, name: str) -> Any:
        found: Any = super().get(name)
        return replace(found, expires=self._expires)


class Stopped:
    """A task whose call has its credential, and is stopped before it runs."""

    def __init__(self) -> None:
        ran.clear()
        self.clock, self.issuer = FakeClock(), Meanwhile()
        self.guard = fake_guard(
            issuer=self.issuer, clock=self.clock, monotonic=self.clock, registry=Until(self.clock() + 30)
        )
        intent = Intent("send", step("policy.send", amount=any_).times(2))
        self.task = self.guard.task("bot", on_behalf_of="alice", intent=intent, ttl=60)

    def expired(self) -> None:
        self.clock.advance(61)

    def agent_expired(self) -> None:
        self.clock.advance(31)

    def suspended(self) -> None:
        drive(self.guard.suspensions.suspend(f"task:{self.task.id}", "lost"))

    def agent_suspended(self) -> None:
        drive(self.guard.suspensions.suspend("agent:bot", "lost"))

    def everything(self) -> None:
        drive(self.guard.suspensions.suspend("all", "lost"))

    def killed(self) -> None:
        self.task.move(TaskState.ENDED, only_from=(TaskState.OPEN,))

    def unreadable(self) -> None:
        async def start(call: str, keys: Any, *, reads: bool = False) -> str:
            raise OSError("down")

        self.guard.suspensions.start = start  # type: ignore[method-assign]  # the store is down from here on


@pytest.mark.control("8 looked at once more, with the credential there")
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("expired", Reason.EXPIRED), ("agent_expired", Reason.EXPIRED),
        ("suspended", Reason.SUSPENDED), ("agent_suspended", Reason.SUSPENDED),
        ("everything", Reason.SUSPENDED), ("killed", Reason.TASK_ENDED), ("unreadable", Reason.SUSPENDED),
    ],
)  # fmt: skip
def test_case_39_task_that_is_stopped_after_its_credential_was_issued_does_not_run(what: str, reason: Reason) -> None:
    stopped = Stopped()
    with stopped.guard as guard:
        with pytest.raises(Denied) as denied, stopped.task:
            stopped.issuer.happens = getattr(stopped, what)
            send(1)
        if what == "killed":
            stopped.task.move(TaskState.OPEN, only_from=(TaskState.ENDED,))
            drive(guard.close_task(stopped.task, TaskState.ENDED, "killed"))
    assert (ran, denied.value.reason) == ([], reason)
    assert (len(stopped.issuer.issued), stopped.issuer.live) == (1, {})


@pytest.mark.control("8 an approved call is looked at once more")
@pytest.mark.parametrize("what", ["expired", "suspended", "killed"])
def test_case_39_approved_call_does_not_run_either(what: str) -> None:
    class Approves:
        suspends = False

        async def ask(self, request: Any) -> Approval:
            getattr(stopped, what)()
            return Approval(SaysYes.APPROVED, by="ann")

    stopped = Stopped()
    stopped.guard.approver = Approves()
    asks = Intent("send", step("policy.send", amount=any_).times(2).then_ask())
    stopped.task = stopped.guard.task("bot", on_behalf_of="alice", intent=asks, ttl=60)
    with stopped.guard as guard:
        with pytest.raises(Denied), stopped.task:
            send(1)
        if what == "killed":
            stopped.task.move(TaskState.OPEN, only_from=(TaskState.ENDED,))
            drive(guard.close_task(stopped.task, TaskState.ENDED, "killed"))
    assert (ran, stopped.issuer.live) == ([], {})
