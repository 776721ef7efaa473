"""Whoever a call is for, or who runs it, does not approve it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard._drive import drive
from agentguard.approval.callback import Callback
from agentguard.approval.refuse import RefuseAll
from agentguard.approval.separation import Separated
from agentguard.errors import ConfigurationError
from agentguard.ports import Answer, Approval, ApprovalRequest, Approver
from agentguard.testing.fakes import Answering
from tests.approval.asked import question


def answered(by: str, not_by: Any = ("subject", "agent"), answer: Answer = Answer.APPROVED, **fields: Any) -> Approval:
    return drive(Separated(Answering(answer, by), not_by).ask(question(**fields)))


def test_somebody_else_approves() -> None:
    for by in ("ann", "os:ann", "https://as.bank.test#ann", "alice2", "user:alice2", "alice@bank.test"):
        assert Approval(Answer.APPROVED, by, "call-1") == answered(by)


@pytest.mark.control("separation of duties")
@pytest.mark.parametrize(
    "by",
    ["alice", "user:alice", "ALICE", " alice ", "os:alice", "https://as.bank.test#alice", "https://as.bank.test#user:alice",
     "\uff41lice", "ali\u200bce", "User:Alice"],
)  # fmt: skip
def test_the_subject_does_not_approve_under_any_form_of_its_name(by: str) -> None:
    approval = answered(by)

    assert (Answer.REJECTED, "nobody: the subject must not approve") == (approval.answer, approval.by)


@pytest.mark.control("separation of duties")
@pytest.mark.parametrize("unseen", "\u034f\u115f\u17b4\u2028\u2029\u2800\u3164\ufe0f\uffa0\U000e0101")
def test_the_subject_does_not_approve_under_a_name_that_looks_like_its_own(unseen: str) -> None:
    for by in (f"alice{unseen}", f"ali{unseen}ce", f"{unseen}user:alice", f"https://as.bank.test#{unseen}alice"):
        assert "nobody: the subject must not approve" == answered(by).by
    assert "nobody: it is not said who approved" == answered(unseen).by


@pytest.mark.control("separation of duties")
@pytest.mark.parametrize(
    "by", ["researcher", "agent:researcher", "support-bot", "SUPPORT-BOT", "https://as.test#researcher"]
)
def test_no_agent_of_the_chain_approves(by: str) -> None:
    assert "nobody: the agent must not approve" == answered(by).by


@pytest.mark.control("separation of duties")
def test_the_owner_approves_unless_that_is_excluded() -> None:
    owner = "Ann@bank.test"

    assert Answer.APPROVED is answered(owner).answer
    assert "nobody: the owner must not approve" == answered(owner, ("subject", "owner", "agent")).by
    assert Answer.APPROVED is answered("alice", ("owner",)).answer


@pytest.mark.control("separation of duties")
def test_only_where_the_subject_is_asked_may_it_answer() -> None:
    request = question(by="subject")
    separated = Separated(Answering(Answer.APPROVED, "https://as.bank.test#alice"))

    assert Answer.APPROVED is drive(separated.ask(request)).answer


@pytest.mark.control("the subject's own question")
@pytest.mark.parametrize("not_by", [("subject", "agent"), ("agent",), ("owner",)])
def test_where_the_subject_is_asked_nobody_else_approves(not_by: Any) -> None:
    why = "nobody: it is the subject who was asked"
    for by in ("ann", "os:root", "researcher", "alice2", "https://as.bank.test#ann"):
        assert why == drive(Separated(Answering(by=by), not_by).ask(question(by="subject"))).by
    unknown = question(by="subject", chain="", subject="")
    assert why == drive(Separated(Answering(by="alice"), not_by).ask(unknown)).by


def test_an_approver_that_knows_the_subject_by_another_name_says_so() -> None:
    known = Callback(lambda request: Approval(Answer.APPROVED, "https://as.bank.test#8c1f", is_subject=True))
    unknown = Callback(lambda request: Approval(Answer.APPROVED, "https://as.bank.test#8c1f"))

    assert Answer.APPROVED is drive(Separated(known).ask(question(by="subject"))).answer
    assert Answer.REJECTED is drive(Separated(unknown).ask(question(by="subject"))).answer


@pytest.mark.control("separation of duties")
@pytest.mark.parametrize(
    ("fields", "not_by", "why"),
    [
        ({"subject": "", "chain": ""}, ("subject",), "it cannot be told who the subject is, who must not approve"),
        ({"agent": "", "chain": "user:alice"}, ("agent",), "it cannot be told who the agent is, who must not approve"),
        ({"owner": ""}, ("owner",), "it cannot be told who the owner is, who must not approve"),
    ],
)
def test_what_cannot_be_told_is_a_rejection(fields: dict[str, Any], not_by: Any, why: str) -> None:
    assert f"nobody: {why}" == answered("ann", not_by, **fields).by


def test_the_chain_tells_the_subject_where_the_request_does_not() -> None:
    assert "nobody: the subject must not approve" == answered("alice", subject="").by


@pytest.mark.parametrize("by", ["", "  ", "\u200b", "user:", "https://as.bank.test#"])
def test_an_approval_by_nobody_does_not_count(by: str) -> None:
    assert "nobody: it is not said who approved" == answered(by).by


@pytest.mark.parametrize("answer", [Answer.REJECTED, Answer.PENDING])
def test_everybody_may_reject_and_wait(answer: Answer) -> None:
    assert Approval(answer, "alice", "call-1") == answered("alice", answer=answer)


def test_the_reason_is_in_the_log_and_the_name_is_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "agentguard"):
        answered("alice")

    assert "call call-1 of refund.create is not approved: the subject must not approve" in caplog.text
    assert "alice" not in caplog.text


@given(st.text(min_size=1, max_size=8), st.sampled_from(["", "user:", "os:", "https://as.test#"]))
def test_a_name_never_approves_its_own_call(name: str, form: str) -> None:
    assert Answer.REJECTED is answered(
        form + name.swapcase(), subject=f"user:{name}"
    ).answer or name.swapcase().casefold() != (name.casefold())


class Checking(RefuseAll):
    remote = True
    waits = True

    async def check(self, id: str, request: ApprovalRequest) -> Approval:
        return Approval(Answer.APPROVED, "alice" if id == "own" else "ann", id)


def test_an_earlier_question_is_judged_as_well() -> None:
    separated = Separated(Checking())

    assert Answer.REJECTED is drive(separated.check("own", question())).answer
    assert Approval(Answer.APPROVED, "ann", "other") == drive(separated.check("other", question()))
    assert not hasattr(Separated(RefuseAll()), "check")


def test_it_waits_as_the_approver_it_stands_before() -> None:
    async def ask(request: ApprovalRequest) -> Approval:
        return Approval(Answer.APPROVED, "ann")

    plain, remote, suspending = Separated(RefuseAll()), Separated(Checking()), Separated(Callback(ask))

    assert isinstance(plain, Approver)
    assert (False, False, False) == (plain.suspends, plain.waits, plain.remote)
    assert (False, True, True) == (remote.suspends, remote.waits, remote.remote)
    assert suspending.suspends


@pytest.mark.parametrize("not_by", [(), "subject", ("subjects",), ["subject", "bank"]])
def test_a_list_that_excludes_nobody_or_nobody_known_is_refused(not_by: Any) -> None:
    with pytest.raises(ConfigurationError, match="list who must not approve"):
        Separated(RefuseAll(), not_by)
