from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from agentguard.errors import ConfigurationError, TokenRejected
from agentguard.keys import KeySet, SigningKey
from agentguard.resource_server import Http, InsufficientScope, Jwks, TokenVerifier, VerifiedToken
from tests.resource_server.forging import ABSENT, AUDIENCE, ISSUER, KEY, KEYS, NOW, actors, claims, header, sign, token
from tests.resource_server.forging import verifier as of


def test_a_verified_token_says_who_acts_for_whom_with_what() -> None:
    text = token(
        act=actors("agent:researcher", "agent:support-bot"),
        scope="refunds:write accounts:read",
        agentguard_resource="account/7",
        authorization_details=[{"type": "agentguard_call", "amount": "49.90"}],
        intent_s256="ab" * 32,
        txn="task-1",
        tenant="acme",
    )

    assert of().verify(text, NOW) == VerifiedToken(
        subject="user:alice",
        actor="agent:researcher",
        chain=("user:alice", "agent:support-bot", "agent:researcher"),
        scopes=frozenset({"refunds:write", "accounts:read"}),
        resource="account/7",
        details=({"type": "agentguard_call", "amount": "49.90"},),
        client_id="agent:support-bot",
        jti="j-1",
        issuer=ISSUER,
        expires_at=NOW + 30,
        intent_s256="ab" * 32,
        txn="task-1",
        tenant="acme",
    )


def test_the_text_of_the_chain_is_the_one_of_the_records() -> None:
    verified = of().verify(token(act=actors("agent:researcher", "agent:support-bot")), NOW)

    assert verified.chain_text == "user:alice > support-bot > researcher"


def test_without_actor_the_subject_acts_itself() -> None:
    verified = of().verify(token(sub="agent:nightly", act=ABSENT), NOW)

    assert (verified.subject, verified.actor, verified.chain) == ("agent:nightly", "agent:nightly", ("agent:nightly",))


def test_a_token_without_scope_resource_and_details_carries_none() -> None:
    verified = of().verify(token(scope=ABSENT), NOW)

    assert (verified.scopes, verified.resource, verified.details) == (frozenset(), "", ())


def test_the_wall_clock_is_the_default() -> None:
    now = int(time.time())

    assert of().verify(token(iat=now, exp=now + 30)).subject == "user:alice"
    with pytest.raises(TokenRejected, match="expired"):
        of().verify(token(iat=now - 90, exp=now - 60))


def test_keys_rotate_with_an_overlap() -> None:
    old, new = SigningKey.generate(), SigningKey.generate("EdDSA")
    both, later = KeySet.of(new, old), KeySet.of(new)

    for key in (old, new):
        assert of(keys=both).verify(sign(claims(), header(key), key), NOW).subject == "user:alice"
    with pytest.raises(TokenRejected, match="no known key"):
        of(keys=later).verify(sign(claims(), header(old), old), NOW)


@pytest.mark.parametrize("name", ["agentguard_resource", "intent_s256", "txn", "tenant"])
@pytest.mark.parametrize("value", [1, None, ["a"], {"a": 1}, True])
def test_our_own_claims_are_text(name: str, value: object) -> None:
    with pytest.raises(TokenRejected, match="must be text"):
        of().verify(token(**{name: value}), NOW)


# what a token is good for


def test_a_token_with_the_scopes_and_the_resource_is_good_for_them() -> None:
    verified = of().verify(token(scope="a b c", agentguard_resource="account/7"), NOW)

    verified.require(scope="a")
    verified.require(scope="c a")
    verified.require(resource="account/7")
    verified.require(scope="b", resource="account/7")


@pytest.mark.parametrize(
    "need",
    [
        {"scope": "d"},
        {"scope": "a d"},
        {"scope": "A"},
        {"scope": "aa"},
        {"resource": "account/8"},
        {"resource": "account"},
        {"resource": "account/7/x"},
        {"scope": "a", "resource": "account/8"},
        {"scope": "d", "resource": "account/7"},
    ],
)
def test_a_token_is_good_for_nothing_else(need: dict[str, str]) -> None:
    verified = of().verify(token(scope="a b c", agentguard_resource="account/7"), NOW)

    with pytest.raises(InsufficientScope) as caught:
        verified.require(**need)
    assert caught.value.status == 403
    assert caught.value.scope == need.get("scope", "")


def test_a_token_without_a_resource_is_for_none() -> None:
    with pytest.raises(InsufficientScope, match="another resource"):
        of().verify(token(), NOW).require(resource="account/7")


@pytest.mark.parametrize("need", [{}, {"scope": ""}, {"scope": " "}, {"scope": "", "resource": ""}])
def test_requiring_nothing_is_a_mistake(need: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="say what is required"):
        of().verify(token(), NOW).require(**need)


# revocation


def test_revocation_is_asked_by_issuer_and_id() -> None:
    asked: list[tuple[str, str]] = []

    def revoked(iss: str, jti: str) -> bool:
        asked.append((iss, jti))
        return False

    assert of(revoked=revoked).verify(token(), NOW).jti == "j-1"
    assert asked == [(ISSUER, "j-1")]


def test_revocation_is_asked_only_about_tokens_that_pass() -> None:
    def revoked(iss: str, jti: str) -> bool:
        raise AssertionError("asked about a token that nobody signed")

    with pytest.raises(TokenRejected, match="expired"):
        of(revoked=revoked).verify(token(), NOW + 99)


def broken(iss: str, jti: str) -> bool:
    raise ConnectionError(jti)


def answering(answer: Any) -> Callable[[str, str], Any]:
    return lambda iss, jti: answer


@pytest.mark.parametrize("revoked", [broken, *map(answering, (None, 0, 1, "", "no", [], 0.0))])
def test_a_revocation_check_without_a_clear_answer_refuses(revoked: Callable[[str, str], Any]) -> None:
    with pytest.raises(TokenRejected, match="could not be checked"):
        of(revoked=revoked).verify(token(), NOW)


def test_a_revoked_token_is_refused() -> None:
    with pytest.raises(TokenRejected, match="revoked") as caught:
        of(revoked=lambda iss, jti: True).verify(token(), NOW)
    assert (caught.value.error, caught.value.status) == ("invalid_token", 401)


def test_keys_that_find_no_key_are_a_mistake_and_not_a_refusal_of_every_token() -> None:
    keys: Any = Jwks(Http(), "https://as.bank.test/jwks")

    with pytest.raises(ConfigurationError, match=r"await jwks\.keys\(\)"):
        TokenVerifier(keys, ISSUER, AUDIENCE)


def test_a_coroutine_function_cannot_check_revocation() -> None:
    async def revoked(iss: str, jti: str) -> bool:
        return False

    with pytest.raises(ConfigurationError, match="plain function"):
        TokenVerifier(KEYS, ISSUER, AUDIENCE, revoked=revoked)  # type: ignore[arg-type]  # the mistake in question


@pytest.mark.parametrize(("issuer", "audience"), [("", AUDIENCE), (ISSUER, "")])
def test_issuer_and_audience_are_needed(issuer: str, audience: str) -> None:
    with pytest.raises(ConfigurationError, match="give both"):
        TokenVerifier(KeySet.of(KEY), issuer, audience)
