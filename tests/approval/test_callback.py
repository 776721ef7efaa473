"""An application's own way to ask: only an approval that says who gave it, and in time, counts."""

from __future__ import annotations

import contextvars
import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from agentguard._drive import drive
from agentguard.approval.asked import seconds_left
from agentguard.approval.callback import Callback
from agentguard.errors import ConfigurationError
from agentguard.ports import Answer, Approval, ApprovalRequest, Approver
from tests.approval.asked import question

ANN = Approval(Answer.APPROVED, "ann", "T-1")


def said(result: object, **options: Any) -> Approval:
    return drive(Callback(lambda request: result, **options).ask(question()))  # type: ignore[arg-type]  # wrong ones too


def test_an_approval_counts_as_it_was_given() -> None:
    seen: list[ApprovalRequest] = []

    def ask(request: ApprovalRequest) -> Approval:
        seen.append(request)
        return ANN

    request = question()
    assert ANN == drive(Callback(ask).ask(request))
    assert [request] == seen


def test_a_bare_answer_is_given_by_whom_the_configuration_names() -> None:
    assert Approval(Answer.APPROVED, "on-call", "call-1") == said(Answer.APPROVED, by="on-call")
    assert Answer.REJECTED is said(Answer.REJECTED).answer
    assert Answer.PENDING is said(Answer.PENDING).answer
    assert Approval(Answer.PENDING, "", "T-1") == said(Approval(Answer.PENDING, id="T-1"))


@pytest.mark.control("only an approval approves")
@pytest.mark.parametrize(
    "result", [None, True, 1, "approved", "yes", {"answer": "approved"}, object(), ("approved", "ann"),
               Approval("approved", "ann"), Approval(True, "ann")],  # type: ignore[arg-type]  # wrong on purpose
)  # fmt: skip
def test_what_is_no_approval_is_a_rejection(result: object) -> None:
    assert (Answer.REJECTED, "nobody: the callback gave no answer") == (said(result).answer, said(result).by)


@pytest.mark.control("only an approval approves")
@pytest.mark.parametrize("result", [Answer.APPROVED, Approval(Answer.APPROVED), Approval(Answer.APPROVED, " \t")])
def test_an_approval_by_nobody_is_a_rejection(result: object) -> None:
    assert (Answer.REJECTED, "nobody: the callback does not say who approved") == (said(result).answer, said(result).by)


@pytest.mark.control("only an approval approves")
def test_an_error_is_a_rejection_that_does_not_repeat_its_text(caplog: pytest.LogCaptureFixture) -> None:
    def ask(request: ApprovalRequest) -> Approval:
        raise ValueError("token=canary-4711")

    with caplog.at_level(logging.WARNING, "agentguard"):
        approval = drive(Callback(ask).ask(question()))

    assert (Answer.REJECTED, "nobody: the callback raised ValueError") == (approval.answer, approval.by)
    assert "canary" not in caplog.text


@pytest.mark.control("only an approval approves")
def test_an_answer_after_the_end_is_a_rejection_and_is_not_waited_for() -> None:
    done = threading.Event()

    def ask(request: ApprovalRequest) -> Approval:
        done.wait(10)
        return ANN

    began = time.monotonic()
    approval = drive(Callback(ask).ask(question(expires_at=time.time() + 0.2)))
    done.set()

    assert (Answer.REJECTED, "nobody: no answer in time") == (approval.answer, approval.by)
    assert time.monotonic() - began < 5


@pytest.mark.control("only an approval approves")
def test_an_answer_that_came_while_the_clock_passed_the_end_is_a_rejection() -> None:
    now = [100.0]

    def ask(request: ApprovalRequest) -> Approval:
        now[0] = 200.0
        return ANN

    approval = drive(Callback(ask, clock=lambda: now[0]).ask(question(expires_at=150.0)))

    assert "nobody: the answer came too late" == approval.by


def test_a_question_that_has_expired_is_not_asked() -> None:
    asked: list[object] = []

    for expires_at in (0.0, time.time() - 1, float("nan")):
        approval = drive(Callback(asked.append).ask(question(expires_at=expires_at)))
        assert Answer.REJECTED is approval.answer
    assert [] == asked


def test_a_function_that_returns_a_coroutine_gave_no_answer() -> None:
    async def answer() -> Approval:
        return ANN

    assert "nobody: the callback gave no answer" == drive(Callback(lambda request: answer()).ask(question())).by


def test_a_plain_function_sees_the_context_of_whoever_asks() -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")
    tenant.set("bank")
    seen: list[str] = []

    drive(Callback(lambda request: seen.append(tenant.get())).ask(question()))

    assert ["bank"] == seen


def test_functions_that_never_return_take_a_bounded_number_of_threads() -> None:
    done = threading.Event()

    def ask(request: ApprovalRequest) -> Approval:
        done.wait(30)
        return ANN

    callback, left = Callback(ask), 64
    while left:  # one whose time was up before it was asked takes no thread
        left -= "nobody: no answer in time" == drive(callback.ask(question(expires_at=time.time() + 0.005))).by
    try:
        assert "nobody: too many questions wait for the callback" == drive(callback.ask(question())).by
    finally:
        done.set()
    end = time.monotonic() + 5
    while drive(callback.ask(question())) != ANN:
        assert time.monotonic() < end


def test_questions_for_which_there_was_no_thread_take_none_of_the_bounded_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    callback = Callback(lambda request: ANN)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", no_more)
        for _ in range(64):
            assert "nobody: the callback raised RuntimeError" == drive(callback.ask(question())).by

    assert ANN == drive(callback.ask(question()))


async def ask_ann(request: ApprovalRequest) -> Approval:
    await anyio.sleep(0.01)
    return ANN


class Chat:
    async def __call__(self, request: ApprovalRequest) -> Approval:
        return await ask_ann(request)


@pytest.mark.parametrize("ask", [ask_ann, functools.partial(ask_ann), Chat(), Chat().__call__])
@pytest.mark.anyio
async def test_a_coroutine_function_is_awaited_and_says_that_it_suspends(ask: Callable[..., Any]) -> None:
    callback = Callback(ask)

    assert ANN == await callback.ask(question())
    assert callback.suspends


@pytest.mark.anyio
async def test_a_coroutine_function_that_takes_too_long_is_cancelled() -> None:
    ended: list[str] = []

    async def ask(request: ApprovalRequest) -> Approval:
        try:
            await anyio.sleep(30)
        finally:
            ended.append("cancelled")
        return ANN

    approval = await Callback(ask).ask(question(expires_at=time.time() + 0.1))

    assert ("nobody: no answer in time", ["cancelled"]) == (approval.by, ended)


@pytest.mark.anyio
async def test_a_plain_function_does_not_hold_up_the_event_loop() -> None:
    go = threading.Event()

    async def later() -> None:
        await anyio.sleep(0.05)
        go.set()

    async with anyio.create_task_group() as group:
        group.start_soon(later)
        approval = await Callback(lambda request: ANN if go.wait(5) else None).ask(question())

    assert ANN == approval


@pytest.mark.anyio
async def test_a_cancelled_question_leaves_its_thread_alone() -> None:
    go = threading.Event()

    with anyio.move_on_after(0.1) as scope:
        await Callback(lambda request: ANN if go.wait(5) else None).ask(question())
    go.set()

    assert scope.cancelled_caught


def test_a_callback_is_an_approver() -> None:
    callback = Callback(lambda request: None)

    assert isinstance(callback, Approver)
    assert (callback.suspends, callback.waits) == (False, True)
    assert not hasattr(callback, "remote")
    with pytest.raises(ConfigurationError, match="takes an ApprovalRequest"):
        Callback("bank.approvals:ask")  # type: ignore[arg-type]  # wrong on purpose


def test_a_question_without_an_end_does_not_stand() -> None:
    assert 0.0 == seconds_left(question(expires_at=0.0), 100.0)
    assert 0.0 == seconds_left(question(expires_at=100.0), 100.0)
    assert 5.0 == seconds_left(question(expires_at=105.0), 100.0)
    assert 86_400.0 == seconds_left(question(expires_at=float("inf")), 100.0)
