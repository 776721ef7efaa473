"""People asked through a real OpenID provider (CIBA Core 1.0, poll mode), by our own code."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest

from agentguard._drive import drive
from agentguard._http import Http
from agentguard.approval.ciba import CibaApprover, Person
from agentguard.credentials.oauth import PrivateKeyJwt
from agentguard.keys import SigningKey
from agentguard.ports import Answer, Approval, ApprovalRequest
from tests.approval.asked import question
from tests.services.endpoints import Services
from tests.services.raw_client import RawClient

GRANT = "urn:openid:params:grant-type:ciba"


class Phone:
    """The person's device: what the provider shows there, and the buttons."""

    def __init__(self, raw: RawClient, person: str) -> None:
        self.raw, self.person = raw, person

    def shows(self) -> dict[str, Any]:
        end = time.monotonic() + 10
        while not (found := self.raw.get(f"/test/ciba?login_hint={self.person}")["questions"]):
            assert time.monotonic() < end, "nobody was asked"
            time.sleep(0.02)
        return dict(found[-1])

    def polled(self, said: str, times: int = 1) -> list[int]:
        """When polls were answered like this, in milliseconds."""
        end = time.monotonic() + 10
        while len(found := [poll["at"] for poll in self.shows()["polls"] if poll["said"] == said]) < times:
            assert time.monotonic() < end, self.shows()
            time.sleep(0.05)
        return found

    def press(self, action: str) -> None:
        body = {"auth_req_id": self.shows()["auth_req_id"], "action": action}
        httpx.post(f"{self.raw.issuer}/test/ciba", json=body, trust_env=False).raise_for_status()

    def live(self) -> int:
        return int(self.raw.get(f"/test/live?sub={self.person}")["count"])


@pytest.fixture
def raw(services: Services) -> Iterator[RawClient]:
    with RawClient(services.authorization_server) as client:
        yield client


@pytest.fixture
def phone(raw: RawClient, request: pytest.FixtureRequest) -> Phone:
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:10]
    return Phone(raw, f"ann-{name}-{time.time_ns():x}")


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def approver(services: Services, client_id: str = "support-bot", **options: Any) -> CibaApprover:
    at = services.authorization_server
    registered = at.clients[client_id]
    proof = PrivateKeyJwt(client_id, SigningKey.from_pem_file(registered.pem), at.issuer, kid=registered.kid)
    return CibaApprover(at.issuer, proof, Http(), **options)


@pytest.fixture
def asking(services: Services, phone: Phone) -> Iterator[CibaApprover]:
    one = approver(services, login_hints={"operator": phone.person})
    yield one
    one.close()


@pytest.fixture
def started(services: Services, phone: Phone) -> Iterator[CibaApprover]:
    one = approver(services, login_hints={"operator": phone.person}, block=False)
    yield one
    one.close()


def answered(
    threads: ThreadPoolExecutor, asking: CibaApprover, phone: Phone, action: str, request: ApprovalRequest
) -> Approval:
    answer = threads.submit(lambda: drive(asking.ask(request)))
    phone.press(action)
    return answer.result(30)


@pytest.mark.control("approval by CIBA")
def test_a_person_approves_on_a_device_of_their_own(
    threads: ThreadPoolExecutor, asking: CibaApprover, phone: Phone
) -> None:
    approval = answered(threads, asking, phone, "approve", question())

    ident = phone.shows()["auth_req_id"]
    assert Approval(Answer.APPROVED, f"{phone.raw.issuer}#{phone.person}", ident) == approval


def test_the_provider_shows_tool_and_code_and_knows_when_the_question_ends(
    threads: ThreadPoolExecutor, asking: CibaApprover, phone: Phone
) -> None:
    answered(threads, asking, phone, "approve", question(expires_at=time.time() + 120))

    shown = phone.shows()
    assert "refund.create-1a2b3c4d" == shown["binding_message"]
    assert ("openid", "support-bot", phone.person) == (shown["scope"], shown["client_id"], shown["login_hint"])
    assert 110 <= int(shown["requested_expiry"]) == shown["expires_in"] <= 120


@pytest.mark.control("approval by CIBA")
def test_the_tokens_of_an_approval_are_revoked(threads: ThreadPoolExecutor, asking: CibaApprover, phone: Phone) -> None:
    approval = answered(threads, asking, phone, "approve", question())

    assert Answer.APPROVED is approval.answer
    assert 0 == phone.live()


@pytest.mark.control("approval by CIBA")
def test_a_person_denies(threads: ThreadPoolExecutor, asking: CibaApprover, phone: Phone) -> None:
    approval = answered(threads, asking, phone, "deny", question())

    assert (Answer.REJECTED, f"{phone.raw.issuer}#{phone.person}") == (approval.answer, approval.by)
    assert "access_denied" == phone.shows()["polls"][-1]["said"]


def test_a_question_to_the_subject_goes_to_the_subject(
    services: Services, threads: ThreadPoolExecutor, phone: Phone
) -> None:
    asking = approver(services)

    request = question(by="subject", subject=f"user:{phone.person}", chain=f"user:{phone.person} > support-bot")
    approval = answered(threads, asking, phone, "approve", request)

    assert Answer.APPROVED is approval.answer
    asking.close()


@pytest.mark.control("approval by CIBA")
def test_nobody_answers_and_the_question_expires(asking: CibaApprover, phone: Phone) -> None:
    began = time.monotonic()

    approval = drive(asking.ask(question(expires_at=time.time() + 2.5)))

    assert (Answer.REJECTED, "nobody: no answer in time") == (approval.answer, approval.by)
    assert time.monotonic() - began < 5
    assert {"authorization_pending"} == {poll["said"] for poll in phone.shows()["polls"]}


@pytest.mark.control("approval by CIBA")
def test_the_provider_says_that_a_question_has_expired(started: CibaApprover, phone: Phone) -> None:
    end = time.time() + 3
    pending = drive(started.ask(question(expires_at=end)))
    assert Answer.PENDING is pending.answer
    time.sleep(max(0.0, end - time.time()) + 0.3)

    later = question()  # the same call, asked about by a process whose clock is behind
    other = drive(started.check(pending.id, later))

    assert Answer.REJECTED is other.answer


def test_it_polls_no_faster_than_the_provider_says(asking: CibaApprover, phone: Phone) -> None:
    drive(asking.ask(question(expires_at=time.time() + 3.5)))

    polls = [poll["at"] for poll in phone.shows()["polls"]]
    assert len(polls) >= 2
    assert all(later - earlier >= 1000 for earlier, later in itertools.pairwise(polls))


@pytest.mark.control("approval by CIBA")
def test_slow_down_makes_polls_five_seconds_slower(
    threads: ThreadPoolExecutor, asking: CibaApprover, phone: Phone
) -> None:
    answer = threads.submit(lambda: drive(asking.ask(question(expires_at=time.time() + 20))))
    ident = phone.shows()["auth_req_id"]
    phone.polled("authorization_pending")
    time.sleep(0.6)
    phone.raw.token(GRANT, auth_req_id=ident)  # somebody else of this client polls as well
    slow = phone.polled("slow_down", 2)
    phone.press("approve")

    assert Answer.APPROVED is answer.result(30).answer
    tokens = phone.polled("tokens")
    assert tokens[0] - slow[1] >= 5900


@pytest.mark.control("approval by CIBA")
def test_the_id_of_another_clients_question_approves_nothing(
    services: Services, started: CibaApprover, phone: Phone
) -> None:
    pending = drive(started.ask(question()))
    phone.press("approve")
    other = approver(services, "reporting", login_hints={"operator": phone.person}, block=False)

    stolen = drive(other.check(pending.id, question()))

    assert (Answer.REJECTED, True) == (stolen.answer, stolen.by.startswith("nobody: invalid_grant"))
    other.close()


@pytest.mark.parametrize("ident", ["no-such-question", "", "x" * 2000, "a b", "\u0430"])
def test_an_id_that_nobody_asked_under_approves_nothing(started: CibaApprover, ident: str) -> None:
    assert Answer.REJECTED is drive(started.check(ident, question())).answer


def test_an_approval_is_good_once(services: Services, started: CibaApprover, phone: Phone) -> None:
    pending = drive(started.ask(question()))
    phone.press("approve")
    time.sleep(1.1)

    first, second = drive(started.check(pending.id, question())), drive(started.check(pending.id, question()))

    assert (Answer.APPROVED, Answer.REJECTED) == (first.answer, second.answer)
    assert 0 == phone.live()


@pytest.mark.control("approval by CIBA")
def test_the_id_of_one_question_does_not_answer_another(started: CibaApprover, phone: Phone) -> None:
    pending = drive(started.ask(question()))
    phone.press("approve")
    time.sleep(1.1)

    approval = drive(started.check(pending.id, question(digest="f" * 64)))

    assert "nobody: the id is of a question about another call" == approval.by


def test_who_asks_too_often_is_told_to_wait_without_asking_the_provider(started: CibaApprover, phone: Phone) -> None:
    pending = drive(started.ask(question()))

    answers = [drive(started.check(pending.id, question())).answer for _ in range(20)]

    assert {Answer.PENDING} == set(answers)
    assert len(phone.shows()["polls"]) <= 2


def test_another_process_takes_the_answer_of_a_question(
    services: Services, started: CibaApprover, phone: Phone
) -> None:
    pending = drive(started.ask(question()))
    phone.press("approve")
    other = approver(services, login_hints={"operator": phone.person}, block=False)

    assert Answer.APPROVED is drive(other.check(pending.id, question())).answer
    other.close()


def test_an_unknown_person_is_a_rejection(services: Services) -> None:
    asking = approver(services, login_hints={"operator": "nobody-there"})

    assert drive(asking.ask(question())).by.startswith("nobody: unknown_user_id")
    asking.close()


def test_an_answer_of_another_person_approves_nothing(
    services: Services, threads: ThreadPoolExecutor, phone: Phone
) -> None:
    asking = approver(services, login_hints={"operator": Person(phone.person, sub="the-boss")})

    approval = answered(threads, asking, phone, "approve", question())

    assert "nobody: the ID token is of somebody else than who was asked" == approval.by
    assert 0 == phone.live()
    asking.close()


def test_a_provider_that_fails_for_a_moment_is_asked_again(
    threads: ThreadPoolExecutor, asking: CibaApprover, phone: Phone
) -> None:
    answer = threads.submit(lambda: drive(asking.ask(question())))
    phone.shows()
    phone.raw.fault(path="/token", status=503)
    phone.press("approve")

    assert Answer.APPROVED is answer.result(30).answer


@pytest.mark.anyio
@pytest.mark.control("approval by CIBA")
async def test_an_approval_after_the_question_was_cancelled_is_not_used(asking: CibaApprover, phone: Phone) -> None:
    answers: list[Approval] = []

    with anyio.move_on_after(1.5) as scope:
        answers.append(await asking.ask(question()))
    polls = len(phone.shows()["polls"])
    await anyio.to_thread.run_sync(phone.press, "approve")
    await anyio.sleep(1.5)

    assert scope.cancelled_caught
    assert (answers, polls, 0) == ([], len(phone.shows()["polls"]), phone.live())
    await asking._provider._http.aclose()
