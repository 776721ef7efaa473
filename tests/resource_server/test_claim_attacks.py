"""Cases 10, 11 and 14 of the adversarial list, and the rules for actors, proofs and details: signed, but wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentguard.errors import ConfigurationError
from tests.resource_server.forging import (
    ABSENT,
    AUDIENCE,
    ISSUER,
    NOW,
    accepted,
    actors,
    claims,
    refused,
    sign,
    token,
    verifier,
)

# case 10


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", [True, "1800000000", 1_800_000_010.5, 1.8e9, -1, 10**30, 10**15, None, [], {}, [NOW]])
def test_times_that_are_no_whole_seconds_are_refused(name: str, value: object) -> None:
    refused(token(**{name: value}))


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_times_that_are_no_json_numbers_are_refused(name: str, value: str) -> None:
    body = json.dumps(claims(**{name: "@"})).replace('"@"', value)

    refused(sign(body.encode()), "strict JSON")


def test_a_token_from_the_future_is_refused() -> None:
    refused(token(iat=NOW + 31, exp=NOW + 60), "not valid yet")
    refused(token(nbf=NOW + 31), "not valid yet")
    accepted(token(iat=NOW + 30, nbf=NOW + 30, exp=NOW + 60))


def test_a_lifetime_over_the_bound_or_without_length_is_refused() -> None:
    refused(token(exp=NOW + 3601), "lifetime")
    refused(token(exp=NOW), "lifetime")
    refused(token(exp=NOW - 1), "lifetime")
    refused(token(exp=NOW + 61), "lifetime", max_lifetime=60)
    accepted(token(exp=NOW + 3600))


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "client_id", "jti", "iat", "exp"])
@pytest.mark.parametrize("value", [ABSENT, None, ""])
def test_every_required_claim_is_needed(name: str, value: object) -> None:
    refused(token(**{name: value}), f"the claim {name} is missing")


@pytest.mark.parametrize("name", ["sub", "client_id", "jti", "scope"])
@pytest.mark.parametrize("value", [7, True, ["a"], {"a": 1}, "a\nb", "a\x00", "a\u202eb"])
def test_claims_that_are_no_plain_text_are_refused(name: str, value: object) -> None:
    refused(token(**{name: value}), "no plain text")


# case 11


@pytest.mark.parametrize(
    "issuer",
    [ISSUER + "/", ISSUER[:-1], ISSUER.upper(), [ISSUER], {"a": ISSUER}, "https://", ISSUER + "\u200b", 1, True],
)
def test_the_issuer_is_compared_exactly(issuer: object) -> None:
    refused(token(iss=issuer), "issuer")


@pytest.mark.parametrize(
    "audience",
    [AUDIENCE + "/", AUDIENCE.upper(), [], [AUDIENCE, "x"], [AUDIENCE, AUDIENCE], [AUDIENCE, 1], {AUDIENCE: 1}, "x", 1],
)
def test_the_audience_is_one_and_exact(audience: object) -> None:
    refused(token(aud=audience), "aud")


def test_a_list_with_the_one_audience_passes() -> None:
    accepted(token(aud=[AUDIENCE]))


# case 14


@pytest.mark.parametrize(("age", "passes"), [(0, True), (29, True), (29.99, True), (30, False), (31, False)])
def test_expiry_counts_with_the_leeway(age: float, passes: bool) -> None:
    text, now = token(exp=NOW + 30), NOW + 30 + age

    if passes:
        accepted(text, now=now)
    else:
        refused(text, "expired", now=now)


def test_without_leeway_the_second_of_expiry_is_too_late() -> None:
    accepted(token(), now=NOW + 29.9, leeway=0)
    refused(token(), "expired", now=NOW + 30, leeway=0)


@pytest.mark.parametrize("leeway", [-1, 61, 10**9, float("nan"), float("inf")])
def test_a_leeway_out_of_bounds_is_a_configuration_error(leeway: Any) -> None:
    with pytest.raises(ConfigurationError, match="leeway"):
        verifier(leeway=leeway)


def test_a_clock_that_is_no_number_refuses() -> None:
    refused(token(), now=float("nan"))


# actors, proofs and details


def test_actors_up_to_sixteen_pass_and_one_more_does_not() -> None:
    sixteen = [f"agent:{n}" for n in range(16)]

    assert 17 == len(accepted(token(act=actors(*sixteen))).chain)
    refused(token(act=actors(*sixteen, "agent:more")), "too long")


@pytest.mark.parametrize(
    "names", [("agent:a", "agent:b", "agent:a"), ("agent:a", "agent:a"), ("user:alice",), ("agent:a", "user:alice")]
)
def test_a_cycle_of_actors_is_refused_and_the_subject_counts(names: tuple[str, ...]) -> None:
    refused(token(act=actors(*names)), "cycle")


@pytest.mark.parametrize("claim", ["exp", "nbf", "aud"])
def test_claims_of_the_token_inside_an_actor_are_refused(claim: str) -> None:
    refused(token(act={"sub": "agent:a", claim: NOW + 30}), "claims of the token")
    refused(token(act={"sub": "agent:a", "act": {"sub": "agent:b", claim: NOW + 30}}), "claims of the token")


@pytest.mark.parametrize(
    "name", ["a b", "a>b", "a > b", "a\tb", "a\nb", "a\u00a0b", "a\u202e", "", "x" * 257, None, 1, ["a"]]
)
def test_a_name_that_could_forge_a_chain_is_refused(name: object) -> None:
    refused(token(act={"sub": name}), "an actor is no name")
    refused(token(sub=name))


@pytest.mark.parametrize("act", [None, "agent:a", [], [{"sub": "a"}], {}, {"sub": "agent:a", "act": None}])
def test_a_malformed_actor_is_refused(act: object) -> None:
    refused(token(act=act))


@pytest.mark.parametrize("cnf", [{"jkt": "x"}, {"x5t#S256": "x"}, {}, None])
def test_a_token_bound_to_a_key_is_refused_without_its_proof(cnf: object) -> None:
    refused(token(cnf=cnf), "proof")


@pytest.mark.parametrize("details", [ABSENT, [], None, "x", {}])
def test_details_are_needed_where_they_are_required(details: object) -> None:
    refused(token(authorization_details=details), "authorization_details", require_details=True)


@pytest.mark.parametrize(
    "details", [None, {}, "x", ["x"], [{}], [{"type": 1}], [{"type": ""}], [{"type": "a"}, {"x": 1}]]
)
def test_malformed_details_are_refused(details: object) -> None:
    refused(token(authorization_details=details), "authorization_details")
