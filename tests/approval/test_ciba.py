"""Poll mode by the letter of CIBA Core 1.0, and whatever a provider may answer instead."""

from __future__ import annotations

import gc
import logging
import time
from typing import Any

import anyio
import pytest

from agentguard._drive import drive
from agentguard.approval.ciba import CibaApprover, Person
from agentguard.approval.ciba_people import whom
from agentguard.approval.provider import ProviderMetadata
from agentguard.errors import ConfigurationError
from agentguard.keys import SigningKey
from agentguard.ports import Answer, Approval, Approver
from tests.approval.asked import question
from tests.approval.openid_provider import ABSENT, AWAY, CANARY, ISSUER, LOST, FakeProvider, Proof, said
from tests.credentials.oauth_server import answered

PENDING, SLOW = said("authorization_pending"), said("slow_down")


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


def asked(provider: FakeProvider, seconds: float = 300, *, options: Any = None, **fields: Any) -> Approval:
    request = question(expires_at=provider.now + seconds, **fields)
    return drive(provider.approver(**(options or {})).ask(request))


def test_an_approval_names_the_person_at_the_provider(provider: FakeProvider) -> None:
    provider.polls = [PENDING, PENDING]

    assert Approval(Answer.APPROVED, f"{ISSUER}#ann", "question-1") == asked(provider)
    assert [5.0, 10.0, 15.0] == [at - 1_800_000_000 for at in provider.times]


def test_the_question_names_one_person_a_message_and_its_end(provider: FakeProvider) -> None:
    asked(provider, 90.7)

    (form,) = provider.sent("/backchannel")
    assert {
        "scope": "openid", "login_hint": "ann", "binding_message": "refund.create-1a2b3c4d", "requested_expiry": "90",
    } == {name: value for name, value in form.items() if not name.startswith("client_")}  # fmt: skip
    assert "client_assertion" in form
    assert provider.sent("/token")[0]["grant_type"] == "urn:openid:params:grant-type:ciba"
    assert provider.sent("/token")[0]["auth_req_id"] == "question-1"


@pytest.mark.control("approval by CIBA")
def test_slow_down_adds_five_seconds_to_all_later_polls(provider: FakeProvider) -> None:
    provider.polls = [PENDING, SLOW, PENDING, SLOW, PENDING]
    provider.started = {"interval": 2}

    assert Answer.APPROVED is asked(provider).answer
    assert [2, 4, 11, 18, 30, 42] == [at - 1_800_000_000 for at in provider.times]


def test_without_an_interval_it_is_five_seconds(provider: FakeProvider) -> None:
    provider.started, provider.polls = {"interval": ABSENT}, [PENDING]
    asked(provider)

    assert [5, 10] == [at - 1_800_000_000 for at in provider.times]


@pytest.mark.parametrize("lost", [LOST, AWAY, said("server_error", 500), said("x", 503), said("slow", 429)])
def test_what_cannot_be_reached_is_polled_again(provider: FakeProvider, lost: Any) -> None:
    provider.polls = [lost, PENDING, lost]

    assert Answer.APPROVED is asked(provider).answer


@pytest.mark.control("approval by CIBA")
def test_a_provider_that_stays_away_ends_with_the_question(provider: FakeProvider) -> None:
    provider.polls = [LOST] * 1000

    approval = asked(provider, 60)

    assert (Answer.REJECTED, "nobody: no answer in time") == (approval.answer, approval.by)
    assert 11 == len(provider.times)


@pytest.mark.control("approval by CIBA")
@pytest.mark.parametrize(
    ("answer", "by"),
    [
        (said("access_denied"), f"{ISSUER}#ann"),
        (said("expired_token"), "nobody: the provider says that the question has expired"),
        (said("invalid_grant"), "nobody: invalid_grant: the provider knows no such question of this client"),
        (said("transaction_failed"), "nobody: transaction_failed: the provider says that the transaction failed"),
        (said("approved", 400), "nobody: the provider answered with status 400 and no known error code"),
        (said("authorization_pending", 401), "nobody: the provider answered with status 401 and no known error code"),
        (answered(400, b"<html>"), "nobody: the provider answered with status 400 and no known error code"),
        (answered(400, {"error": ["authorization_pending"]}),
         "nobody: the provider answered with status 400 and no known error code"),
        (answered(200, b"no json"), "nobody: the provider's answer holds no ID token"),
        (answered(200, {"error": "authorization_pending"}), "nobody: the provider's answer holds no ID token"),
        (answered(201, {}), "nobody: the provider answered with status 201 and no known error code"),
    ],
)  # fmt: skip
def test_an_end_without_an_approval_is_a_rejection(provider: FakeProvider, answer: Any, by: str) -> None:
    provider.polls = [PENDING, answer]

    approval = asked(provider)

    assert (Answer.REJECTED, by) == (approval.answer, approval.by)
    assert 2 == len(provider.times)


@pytest.mark.control("approval by CIBA")
@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"sub": "eve"}, "of somebody else"),
        ({"sub": "ANN"}, "of somebody else"),
        ({"sub": ABSENT}, "sub is missing"),
        ({"aud": "reporting"}, "another audience"),
        ({"aud": ["support-bot", "reporting"]}, "more than one audience"),
        ({"azp": "reporting"}, "another client"),
        ({"iss": "https://other.test"}, "issuer"),
        ({"exp": 1_799_999_000, "iat": 1_799_998_000}, "expired"),
        ({"iat": 1_799_999_900}, "older than the question"),
        ({"iat": ABSENT}, "iat is missing"),
        ({"urn:openid:params:jwt:claim:auth_req_id": "question-2"}, "another question"),
    ],
)
def test_an_id_token_of_anybody_or_anything_else_approves_nothing(
    provider: FakeProvider, claims: dict[str, Any], why: str
) -> None:
    provider.claims = claims

    approval = asked(provider)

    assert Answer.REJECTED is approval.answer
    assert why in approval.by
    assert [CANARY] == [form["token"] for form in provider.sent("/revoke")]


def test_an_id_token_that_names_this_question_and_client_approves(provider: FakeProvider) -> None:
    provider.claims = {"azp": "support-bot", "urn:openid:params:jwt:claim:auth_req_id": "question-1"}

    assert Answer.APPROVED is asked(provider).answer


@pytest.mark.control("approval by CIBA")
@pytest.mark.parametrize("tokens", [{"id_token": ABSENT}, {"id_token": ""}, {"id_token": 5}, {"id_token": "a.b.c"},
                                    {"id_token": "x" * 20_000}])  # fmt: skip
def test_an_access_token_alone_approves_nothing(provider: FakeProvider, tokens: dict[str, Any]) -> None:
    provider.tokens = tokens

    assert Answer.REJECTED is asked(provider).answer


@pytest.mark.control("approval by CIBA")
@pytest.mark.parametrize(("hours", "answer"), [(10, Answer.APPROVED), (24, Answer.APPROVED), (25, Answer.REJECTED)])
def test_an_id_token_may_live_for_as_long_as_a_login(provider: FakeProvider, hours: int, answer: Answer) -> None:
    provider.started = {"interval": 5}
    provider.claims = {"iat": int(provider.now), "exp": int(provider.now) + hours * 3600}

    assert answer is asked(provider).answer


@pytest.mark.control("approval by CIBA")
def test_a_signature_of_another_key_approves_nothing(provider: FakeProvider) -> None:
    provider.key = SigningKey.generate()

    assert "does not verify" in asked(provider).by


@pytest.mark.control("approval by CIBA")
def test_an_approval_that_arrives_after_the_end_is_not_used(provider: FakeProvider) -> None:
    provider.poll_takes = 30.0

    approval = asked(provider, 20)

    assert (Answer.REJECTED, "nobody: the answer came too late") == (approval.answer, approval.by)
    assert [CANARY] == [form["token"] for form in provider.sent("/revoke")]


def test_the_providers_own_end_counts_where_it_is_earlier(provider: FakeProvider) -> None:
    provider.started, provider.polls = {"expires_in": 12}, [PENDING] * 100

    assert "nobody: no answer in time" == asked(provider, 300).by
    assert 2 == len(provider.times)


@pytest.mark.parametrize("seconds", [0, -5, float("nan")])
def test_a_question_that_has_expired_asks_nobody(provider: FakeProvider, seconds: float) -> None:
    assert "nobody: the question has expired" == asked(provider, seconds).by
    assert [] == provider.forms


@pytest.mark.control("approval by CIBA")
def test_all_that_came_along_is_revoked_and_shown_nowhere(
    provider: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    provider.tokens = {"refresh_token": CANARY + "-refresh"}
    caplog.set_level(logging.DEBUG)
    approver = provider.approver()

    approval = drive(approver.ask(question(expires_at=provider.now + 60)))

    assert Answer.APPROVED is approval.answer
    revoked = [(form["token"], form["token_type_hint"]) for form in provider.sent("/revoke")]
    assert [(CANARY + "-refresh", "refresh_token"), (CANARY, "access_token")] == revoked
    provider.forms.clear()
    gc.collect()
    assert CANARY not in caplog.text + repr(approval) + repr(vars(approver)) + repr(vars(approver._provider))


@pytest.mark.parametrize("revocation", [LOST, said("server_error", 500)])
def test_a_revocation_that_fails_does_not_undo_the_approval(provider: FakeProvider, revocation: Any) -> None:
    provider.revocation = revocation

    assert Answer.APPROVED is asked(provider).answer


def test_a_provider_without_revocation_is_not_asked_to(provider: FakeProvider) -> None:
    provider.document = {"revocation_endpoint": ABSENT}

    assert Answer.APPROVED is asked(provider).answer
    assert [] == provider.sent("/revoke")


@pytest.mark.parametrize(
    ("start", "why"),
    [
        (said("unknown_user_id"), "does not know whom to ask"),
        (said("invalid_binding_message"), "binding_length"),
        (said("unauthorized_client"), "allow the CIBA grant"),
        (said("invalid_client", 401), "check client_id"),
        (said("token=secret"), "no known error code"),
        (LOST, "gave no answer"),
        (answered(200, b"{}"), "names no question"),
        (answered(200, {"auth_req_id": "a b", "expires_in": 5}), "names no question"),
        (answered(200, {"auth_req_id": "a", "expires_in": True}), "names no question"),
        (answered(200, {"auth_req_id": "a", "expires_in": -1}), "names no question"),
        (answered(200, {"auth_req_id": "a", "expires_in": 60, "interval": 0}), "interval"),
        (answered(200, {"auth_req_id": "a", "expires_in": 60, "interval": "5"}), "interval"),
    ],
)
def test_a_question_that_is_not_asked_is_a_rejection(provider: FakeProvider, start: Any, why: str) -> None:
    provider.starts = [start]

    approval = asked(provider)

    assert Answer.REJECTED is approval.answer
    assert why in approval.by
    assert "secret" not in approval.by
    assert 1 == len(provider.sent("/backchannel"))


def test_a_question_is_sent_again_only_where_nothing_was_sent(provider: FakeProvider) -> None:
    provider.starts = [AWAY, AWAY, None]
    assert Answer.APPROVED is asked(provider).answer

    provider.starts = [AWAY] * 10
    assert Answer.REJECTED is asked(provider).answer
    assert 6 == len(provider.sent("/backchannel"))


@pytest.mark.control("approval by CIBA")
@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({"issuer": "https://op.test/"}, "of another issuer"),
        ({"issuer": ABSENT}, "names no issuer"),
        ({"backchannel_authentication_endpoint": ABSENT}, "no backchannel authentication"),
        ({"backchannel_token_delivery_modes_supported": ["ping"]}, "no backchannel authentication"),
        ({"token_endpoint": "http://op.test/token"}, "refused"),
        ({"jwks_uri": 5}, "malformed"),
    ],
)
def test_metadata_that_is_wrong_asks_nobody(provider: FakeProvider, document: dict[str, Any], why: str) -> None:
    provider.document = document

    approval = asked(provider)

    assert Answer.REJECTED is approval.answer
    assert why in approval.by
    assert [] == provider.forms


def test_metadata_that_was_found_serves_while_the_provider_is_away(provider: FakeProvider) -> None:
    approver = provider.approver()
    assert Answer.APPROVED is drive(approver.ask(question(expires_at=provider.now + 60))).answer
    provider.now += 4000
    provider.metadata = AWAY

    assert Answer.APPROVED is drive(approver.ask(question(expires_at=provider.now + 60))).answer


def test_endpoints_may_be_configured(provider: FakeProvider) -> None:
    provider.metadata = AssertionError("nobody looks there")
    metadata = ProviderMetadata(
        issuer=ISSUER, token_endpoint=f"{ISSUER}/token", backchannel_authentication_endpoint=f"{ISSUER}/backchannel",
        jwks_uri=f"{ISSUER}/jwks",
    )  # fmt: skip

    assert Answer.APPROVED is asked(provider, options={"metadata": metadata}).answer


def test_whom_is_asked() -> None:
    alice = Person("alice@bank.test", "a-1")
    hints: dict[str, str | Person] = {"operator": "ann", "user:alice": alice}

    assert Person("ann") == whom(hints, question())
    assert alice == whom(hints, question(by="subject"))
    assert Person("bob") == whom(hints, question(by="subject", subject="user:bob"))
    assert Person("carl", "carl") == whom(lambda request: "carl", question())
    assert alice == whom(lambda request: alice, question())


def test_an_approval_by_the_subject_says_so_also_where_its_name_at_the_provider_is_another_one(
    provider: FakeProvider,
) -> None:
    hints = {"login_hints": {"operator": "ann", "user:alice": "ann"}}

    assert asked(provider, options=hints, by="subject").is_subject
    assert not asked(provider, options=hints).is_subject


@pytest.mark.parametrize(
    ("hints", "fields"),
    [
        ({}, {}),
        ({"operator": "ann"}, {"by": "subject", "subject": "agent:nightly"}),
        ({"operator": "ann"}, {"by": "subject", "subject": ""}),
        ({"operator": "ann"}, {"by": "subject", "subject": "user:"}),
        (lambda request: None, {}),
        (lambda request: True, {}),
        (lambda request: "two words", {}),
        (lambda request: 1 / 0, {}),
    ],
)
def test_where_nobody_is_to_be_asked_nothing_is_approved(provider: FakeProvider, hints: Any, fields: Any) -> None:
    approval = asked(provider, options={"login_hints": hints}, **fields)

    assert "nobody: nobody is configured to be asked; name an operator in login_hints" == approval.by
    assert [] == provider.forms


def test_without_waiting_it_asks_once_and_is_looked_at_later(provider: FakeProvider) -> None:
    provider.polls = [PENDING, SLOW, PENDING]
    approver, request = provider.approver(block=False), question(expires_at=provider.now + 60)

    assert Approval(Answer.PENDING, "", "question-1") == drive(approver.ask(request))
    found = []
    for _ in range(40):
        provider.now += 1
        found.append(drive(approver.check("question-1", request)).answer)
        if found[-1] is not Answer.PENDING:
            break

    assert [0, 5, 15, 25] == [at - 1_800_000_000 for at in provider.times]
    assert ([Answer.PENDING] * 24, Answer.APPROVED) == (found[:-1], found[-1])


@pytest.mark.control("approval by CIBA")
def test_a_later_look_is_bound_to_the_question_its_end_and_its_person(provider: FakeProvider) -> None:
    provider.polls = [PENDING]
    approver, request = provider.approver(block=False), question(expires_at=provider.now + 60)
    drive(approver.ask(request))
    provider.now += 6

    assert "about another call" in drive(approver.check("question-1", question(digest="f" * 64))).by
    assert Answer.REJECTED is drive(provider.approver(login_hints={}).check("question-1", request)).answer
    provider.claims = {"sub": "eve"}
    assert "somebody else" in drive(approver.check("question-1", request)).by
    provider.now += 60
    assert Answer.REJECTED is drive(approver.check("question-1", request)).answer
    assert 2 == len(provider.times)


def test_a_provider_that_is_away_leaves_a_question_open(provider: FakeProvider) -> None:
    request = question(expires_at=provider.now + 60)
    provider.metadata = AWAY

    assert Answer.PENDING is drive(provider.approver(block=False).check("question-1", request)).answer


@pytest.mark.anyio
@pytest.mark.control("approval by CIBA")
async def test_a_cancelled_question_is_not_polled_any_more(provider: FakeProvider) -> None:
    provider.polls, provider.started = [PENDING] * 1000, {"interval": 1}
    provider.now = time.time()
    approver = provider.approver(clock=time.time, monotonic=time.monotonic, pause=None)

    with anyio.move_on_after(1.3) as scope:
        await approver.ask(question())
    polls = len(provider.times)
    await anyio.sleep(1.2)

    assert (scope.cancelled_caught, 1, 1) == (True, polls, len(provider.times))


def test_a_closed_approver_stops_waiting(provider: FakeProvider) -> None:
    approver = provider.approver()

    async def pause(seconds: float) -> None:
        approver.close()

    approver._pause = pause
    assert Answer.REJECTED is drive(approver.ask(question(expires_at=provider.now + 60))).answer
    assert ([], True) == (provider.times, provider.closed)


def test_a_driven_caller_waits_in_short_steps(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        provider.now += seconds

    monkeypatch.setattr("agentguard.approval.ciba.time.sleep", sleep)

    assert Answer.APPROVED is asked(provider, options={"pause": None}).answer
    assert [1.0] * 5 == slept


class Failing(Proof):
    async def fields(self, token_endpoint: str, now: float) -> list[tuple[str, str]]:
        raise ValueError(CANARY)


def test_a_client_that_cannot_prove_itself_asks_nobody(provider: FakeProvider) -> None:
    approver = provider.approver(client=Failing())

    approval = drive(approver.ask(question(expires_at=provider.now + 60)))

    assert "nobody: this client cannot prove itself to the provider: ValueError" == approval.by


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"login_hints": {"operator": "two words"}}, "login hint"),
        ({"login_hints": {"operator": ""}}, "login hint"),
        ({"login_hints": {"operator": None}}, "login_hints"),
        ({"binding_length": 8}, "from 12 to 64"),
        ({"binding_length": 200}, "from 12 to 64"),
    ],
)
def test_what_is_configured_wrongly_is_told_at_once(provider: FakeProvider, options: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        provider.approver(**options)


@pytest.mark.parametrize("issuer", ["http://op.test", "https://other.test"])
def test_a_provider_is_reached_by_https_and_by_its_own_client_only(provider: FakeProvider, issuer: str) -> None:
    with pytest.raises(ConfigurationError):
        CibaApprover(issuer, Proof(), provider)  # type: ignore[arg-type]  # a stand-in


def test_it_is_an_approver_that_shows_no_key(provider: FakeProvider) -> None:
    approver = provider.approver()

    assert isinstance(approver, Approver)
    assert (False, True, True) == (approver.suspends, approver.waits, approver.remote)
    assert f"<CibaApprover {ISSUER} as support-bot>" == repr(approver)
    approver.after_fork()
    assert Answer.APPROVED is drive(approver.ask(question(expires_at=provider.now + 60))).answer
