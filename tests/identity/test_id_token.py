from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentguard.errors import ConfigurationError, TokenRejected, Unavailable
from agentguard.identity.id_token import IdTokenVerifier
from agentguard.keys import KeySet, SigningKey
from agentguard.model.principal import Proof, Subject
from agentguard.ports import SubjectVerifier
from tests.identity.shown import shown_by
from tests.resource_server.forging import ABSENT, KEY, NOW, claims, header, sign

ISSUER = "https://login.bank.test"
CLIENT = "support-app"
KEYS = KeySet.of(KEY)

pytestmark = pytest.mark.anyio


def id_token(typ: object = "JWT", **changes: Any) -> str:
    gone = {"client_id": ABSENT, "jti": ABSENT, "scope": ABSENT, "act": ABSENT}
    return sign(claims(**{**gone, "iss": ISSUER, "aud": CLIENT, "sub": "alice", **changes}), header(typ=typ))


async def test_the_subject_is_verified_and_carries_its_issuer() -> None:
    verifier = IdTokenVerifier(KEYS, ISSUER, CLIENT)

    assert isinstance(verifier, SubjectVerifier)
    assert await verifier.verify(id_token(), NOW) == Subject("alice", issuer=ISSUER, proof=Proof.VERIFIED)


async def test_the_tenant_comes_from_its_claim_and_is_needed_where_configured() -> None:
    verifier = IdTokenVerifier(KEYS, ISSUER, CLIENT, "org_id")

    assert (await verifier.verify(id_token(org_id="acme"), NOW)).tenant == "acme"
    for org in (ABSENT, "", None, 0, False, 0.0, 7, ["acme"], "a b", "a > b"):
        with pytest.raises(TokenRejected):
            await verifier.verify(id_token(org_id=org), NOW)


@pytest.mark.parametrize("typ", ["JWT", "jwt", ABSENT])
async def test_an_id_token_has_typ_jwt_or_none(typ: object) -> None:
    assert (await IdTokenVerifier(KEYS, ISSUER, CLIENT).verify(id_token(typ), NOW)).name == "alice"


@pytest.mark.parametrize("typ", ["at+jwt", "application/at+jwt", "application/jwt", "dpop+jwt", "logout+jwt", "", None])
async def test_another_kind_of_token_proves_no_user(typ: object) -> None:
    with pytest.raises(TokenRejected, match="typ"):
        await IdTokenVerifier(KEYS, ISSUER, CLIENT).verify(id_token(typ), NOW)


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "iat", "exp"])
async def test_every_required_claim_is_needed(name: str) -> None:
    with pytest.raises(TokenRejected, match=f"claim {name} is missing"):
        await IdTokenVerifier(KEYS, ISSUER, CLIENT).verify(id_token(**{name: ABSENT}), NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.test"},
        {"aud": "other-app"},
        {"aud": [CLIENT, "other-app"]},
        {"sub": "alice > support-bot"},
        {"exp": NOW + 7200},
        {"iat": NOW - 600, "exp": NOW - 500},
        {"cnf": {"jkt": "x"}},
    ],
)
async def test_a_wrong_id_token_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TokenRejected):
        await IdTokenVerifier(KEYS, ISSUER, CLIENT).verify(id_token(**changes), NOW)


class OutOfReach:
    """Remote keys that cannot be fetched."""

    async def keys_for(self, token: str) -> KeySet:
        del token
        raise Unavailable("the keys cannot be had")


async def test_an_error_holds_no_token_also_where_its_keys_cannot_be_fetched() -> None:
    token = id_token()
    with pytest.raises(Unavailable) as caught:
        await IdTokenVerifier(OutOfReach(), ISSUER, CLIENT).verify(token, NOW)
    assert token not in shown_by(caught.value)


class Rotated:
    """A cache of remote keys whose issuer has put another key under the kid of the one it held."""

    def __init__(self) -> None:
        stale = SigningKey.generate().public
        self.held = KeySet([replace(stale, kid=KEY.kid)])

    async def keys_for(self, token: str) -> KeySet:
        return self.held

    async def keys_after(self, keys: KeySet) -> KeySet | None:
        assert keys is self.held
        return KEYS


async def test_user_is_verified_although_the_issuer_gave_a_kid_another_key() -> None:
    assert (await IdTokenVerifier(Rotated(), ISSUER, CLIENT).verify(id_token(), NOW)).name == "alice"
    forged = id_token()[:-8] + "AAAAAAAA"
    with pytest.raises(TokenRejected, match="signature"):
        await IdTokenVerifier(Rotated(), ISSUER, CLIENT).verify(forged, NOW)


async def test_a_longer_lifetime_can_be_configured_within_a_day() -> None:
    text = id_token(exp=NOW + 36_000)

    assert (await IdTokenVerifier(KEYS, ISSUER, CLIENT, max_lifetime=36_000).verify(text, NOW)).name == "alice"
    with pytest.raises(ConfigurationError):
        IdTokenVerifier(KEYS, ISSUER, CLIENT, max_lifetime=10**9)
