"""How a client proves itself to an authorization server: by a signed assertion, never by a shared secret (RFC 9700)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol

from agentguard._dpop import compact_header, compact_jwt
from agentguard.errors import ConfigurationError
from agentguard.keys import SigningKey
from agentguard.ports import IdentityTokens

ASSERTION_SECONDS: Final = 60
_JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_JWT_SPIFFE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
Fields = Sequence[tuple[str, str]]


class ClientAuthentication(Protocol):
    """Proves a client to one authorization server.

    `fields` is called for every attempt, so that no assertion is sent twice; a raise means that it cannot be proved.
    """

    client_id: str
    issuer: str

    async def fields(self, token_endpoint: str, now: float) -> Fields: ...


class PrivateKeyJwt:
    """Signs a client assertion (`private_key_jwt`, RFC 7523 section 2.2 as amended by rfc7523bis).

    Its audience is the server's issuer identifier as the only value, so that no other server can use it.

    Args:
        client_id: as registered at the server.
        key: signs; its public half is registered at the server.
        issuer: the server's issuer identifier, exactly.
        kid: the id under which the server knows the key; its thumbprint (RFC 7638) by default.
        legacy_aud: `token_endpoint` for a server that only takes its token endpoint's URL as audience; empty for the
            issuer. Never both.

    Raises:
        ConfigurationError: the client id or issuer is empty, or `legacy_aud` is something else.
    """

    def __init__(
        self,
        client_id: str,
        key: SigningKey,
        issuer: str,
        *,
        kid: str = "",
        legacy_aud: Literal["", "token_endpoint"] = "",
    ) -> None:
        self.client_id, self.issuer = _named(client_id, issuer)
        if legacy_aud not in ("", "token_endpoint"):
            raise ConfigurationError(f"legacy_aud {legacy_aud!r}: leave it out, or write 'token_endpoint'")
        self._key, self._kid, self._legacy = key, kid or key.kid, bool(legacy_aud)
        self._headers: dict[str, bytes] = {}

    async def fields(self, token_endpoint: str, now: float) -> Fields:
        """Return the form fields of one attempt, with an assertion that lives 60 seconds."""
        audience = token_endpoint if self._legacy else self.issuer
        claims = {"iss": self.client_id, "sub": self.client_id, "aud": audience, **fresh(now)}
        return _assertion(self.client_id, _JWT_BEARER, self.sign("client-authentication+jwt", claims))

    def sign(self, typ: str, claims: Mapping[str, Any]) -> str:
        """Return claims that this client vouches for, as a JWT."""
        header = self._headers.get(typ)
        if header is None:
            header = self._headers[typ] = compact_header(self._key, {"typ": typ, "kid": self._kid})
        return compact_jwt(self._key, header, claims)

    def __repr__(self) -> str:
        return f"<PrivateKeyJwt {self.client_id} at {self.issuer}>"


class WorkloadAssertion:
    """Proves the client by the workload's own token: a JWT-SVID, or what the platform signs (RFC 7523 section 2.2).

    Args:
        client_id: as registered at the server; for `spiffe` the SPIFFE ID.
        tokens: gives the workload's tokens, for the issuer as audience.
        issuer: the server's issuer identifier, exactly.
        kind: `spiffe` (draft-ietf-oauth-spiffe-client-auth) or `jwt`.

    Raises:
        ConfigurationError: the client id or issuer is empty, or the kind is another.
    """

    def __init__(
        self, client_id: str, tokens: IdentityTokens, issuer: str, *, kind: Literal["spiffe", "jwt"] = "spiffe"
    ) -> None:
        self.client_id, self.issuer = _named(client_id, issuer)
        if kind not in ("spiffe", "jwt"):
            raise ConfigurationError(f"kind {kind!r}: write 'spiffe' for a JWT-SVID, or 'jwt'")
        self._tokens, self._type = tokens, _JWT_SPIFFE if kind == "spiffe" else _JWT_BEARER

    async def fields(self, token_endpoint: str, now: float) -> Fields:
        """Return the form fields of one attempt.

        Raises:
            IdentityUnavailable: the workload has no token for this audience.
        """
        token = await self._tokens.token(self.issuer, now)
        return _assertion(self.client_id, self._type, token.reveal())

    def __repr__(self) -> str:
        return f"<WorkloadAssertion {self.client_id} at {self.issuer}>"


def fresh(now: float) -> dict[str, int | str]:
    """The claims that make an assertion short-lived and of one use: `iat`, `exp` and a `jti` of 128 bits."""
    issued = int(now)
    return {"iat": issued, "exp": issued + ASSERTION_SECONDS, "jti": os.urandom(16).hex()}


def _named(client_id: str, issuer: str) -> tuple[str, str]:
    if not client_id or not client_id.isprintable():
        raise ConfigurationError(f"client_id {client_id!r}: write the id that the server registered")
    if not issuer:
        raise ConfigurationError(f"issuer {issuer!r}: write the server's issuer identifier, one text")
    return client_id, issuer


def _assertion(client_id: str, kind: str, assertion: str) -> Fields:
    return [("client_id", client_id), ("client_assertion_type", kind), ("client_assertion", assertion)]
