"""Verifies access tokens by asking their issuer (token introspection, RFC 7662): opaque ones, and what it revoked."""

from __future__ import annotations

import base64
import copy
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote_plus

from agentguard._drive import drive
from agentguard._http import Http, HttpFailure, Request, Response, checked_url
from agentguard._jwt import ACCESS_TOKEN, Profile, Rejection, examine_claims
from agentguard.errors import AgentguardError, ConfigurationError
from agentguard.model.lease import Secret
from agentguard.resource_server.answers import Answers, Busy
from agentguard.resource_server.endpoint import IntrospectionEndpoint
from agentguard.resource_server.rejection import UNAVAILABLE, rejected
from agentguard.resource_server.tracing import note_token
from agentguard.resource_server.verifier import (
    ASK_SECONDS,
    REQUIRED,
    VerifiedToken,
    bound_to,
    refuse_to_block_a_loop,
    told_by,
)

MOST_KEPT: Final = 10_000
MOST_SECONDS: Final = 60.0
_log: Final = logging.getLogger("agentguard")
_ACCEPT: Final = {"accept": "application/json"}


class ClientProof(Protocol):
    """Proves this API to the issuer, anew for every attempt; `PrivateKeyJwt` of `credentials.oauth` is one."""

    async def fields(self, token_endpoint: str, now: float) -> Sequence[tuple[str, str]]: ...


class ClientSecret:
    """Proves this API by a shared secret (`client_secret_basic`, RFC 6749 section 2.3.1).

    Args:
        client_id: as registered at the issuer.
        secret: shared with it; it is in no repr, and a text is wrapped.

    Raises:
        ConfigurationError: one of them is empty.
    """

    __slots__ = ("_secret", "client_id")

    def __init__(self, client_id: str, secret: str | Secret) -> None:
        self.client_id, self._secret = client_id, secret if isinstance(secret, Secret) else Secret(secret)
        if not client_id or not self._secret.reveal():
            raise ConfigurationError("a client that introspects has an id and a secret; both are registered")

    def header(self) -> dict[str, str]:
        """Return the Authorization header of one request."""
        pair = f"{quote_plus(self.client_id)}:{quote_plus(self._secret.reveal())}"
        return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"}

    def __repr__(self) -> str:
        return f"<ClientSecret {self.client_id}>"


@dataclass(frozen=True, slots=True, repr=False)
class _Said:
    """What the issuer said: the claims of an active token, or None for one that is not; its repr shows neither.

    `why` says why it said nothing that can be used; whoever asked at the same time is told the same.
    """

    claims: Mapping[str, Any] | None = None
    why: str = ""


class IntrospectionVerifier:
    """Verifies tokens of one issuer for one audience by asking it. Safe for threads and event loops.

    Args:
        http: sends the questions, within its bounds of time and size.
        issuer: its identifier, exactly; an `iss` that it says must equal it.
        audience: this API, exact `aud`.
        client: proves this API to the issuer.
        endpoint: the introspection endpoint; found by the issuer's metadata (RFC 8414) where it is empty.
        cache_seconds: how long an answer about an active token is reused, at most 60: as long a revoked token is still
            accepted. Never beyond its `exp`. 0 asks for every request.
        negative_seconds: how long a token that is not active is refused without asking, at most 60.
        leeway: seconds that clocks may differ, at most 60.
        max_lifetime: most seconds a token may live, at most 86,400.
        require_details: refuse a token without `authorization_details`.
        clock: seconds since the epoch.
        monotonic: seconds, for what is kept.

    Raises:
        ConfigurationError: a URL is refused, or a bound is out of range.
    """

    def __init__(
        self,
        http: Http,
        issuer: str,
        audience: str,
        client: ClientSecret | ClientProof,
        *,
        endpoint: str = "",
        cache_seconds: float = 0.0,
        negative_seconds: float = 5.0,
        leeway: int = 30,
        max_lifetime: int = 3600,
        require_details: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (("cache_seconds", cache_seconds), ("negative_seconds", negative_seconds)):
            if not 0 <= value <= MOST_SECONDS:
                raise ConfigurationError(f"{name} {value!r}: write seconds from 0 to {MOST_SECONDS:.0f}")
        if endpoint:
            checked_url(endpoint, what="endpoint", networks=http.networks)
        self._profile = Profile(
            typ=ACCESS_TOKEN,
            issuer=issuer,
            audience=audience,
            required=REQUIRED | ({"authorization_details"} if require_details else set()),
            leeway=leeway,
            max_lifetime=max_lifetime,
        )
        self._http, self._client, self._clock, self._monotonic = http, client, clock, monotonic
        self._endpoint = IntrospectionEndpoint(http, issuer, endpoint, monotonic)
        self._positive, self._negative = float(cache_seconds), float(negative_seconds)
        self._answers: Answers[_Said] = Answers(MOST_KEPT, monotonic)
        self._warned = ""

    @property
    def audience(self) -> str:
        """The `aud` of its tokens: this API."""
        return self._profile.audience

    @property
    def remote(self) -> bool:
        """A server is asked."""
        return True

    def verify(self, token: str, now: float | None = None) -> VerifiedToken:
        """Return what the token says; one that is bound to a key is refused, see `RequestVerifier`.

        Args:
            token: as it was sent, without `Bearer`.
            now: seconds since the epoch; the wall clock by default.

        Raises:
            TokenRejected: it does not pass; `VerificationUnavailable` where the issuer gave no usable answer.
            ConfigurationError: an event loop runs here: `await verified(...)`.
        """
        refuse_to_block_a_loop()
        outcome = drive(self.examined(token, now=now))
        del token  # the traceback keeps this frame
        if isinstance(outcome, Rejection):
            raise rejected(outcome)
        return outcome

    async def verified(self, token: str, now: float | None = None) -> VerifiedToken:
        """Return what `verify` returns, for callers in an event loop.

        Raises:
            TokenRejected: as `verify`.
        """
        try:
            outcome = await self.examined(token, now=now)
        finally:
            del token  # the traceback keeps this frame
        if isinstance(outcome, Rejection):
            raise rejected(outcome)
        return outcome

    async def examined(
        self, token: str, *, thumbprint: str = "", now: float | None = None, seconds: float = ASK_SECONDS
    ) -> VerifiedToken | Rejection:
        """Return what the token says, or why it is refused; it never raises.

        Args:
            token: as it was sent.
            thumbprint: of the key whose possession was proved; the token has to be bound to it.
            now: seconds since the epoch; the wall clock by default.
            seconds: how long the issuer may take.
        """
        key, secret = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest(), Secret(token)
        del token
        said = await self._said(key, secret, seconds)
        if isinstance(said, Rejection):
            return said
        if said.claims is None:
            return Rejection("the token is not active")
        # INVARIANT: judged anew for every request, so nothing that is kept outlives its own `exp`.
        now = self._clock() if now is None else now
        claims = _completed(said.claims, self._profile.issuer, key, now)
        refused = examine_claims(claims, bound_to(self._profile, thumbprint), now) or _contradiction(claims, thumbprint)
        told = refused or told_by(claims, self.audience, thumbprint)
        if isinstance(told, VerifiedToken):
            note_token(told.jti)
        return told

    async def _said(self, key: str, token: Secret, seconds: float) -> _Said | Rejection:
        try:
            said = await self._answers.get(key, lambda: self._ask(token, seconds), seconds)
        except TimeoutError:
            said = _Said(why="it did not answer in time")
        except Busy:
            said = _Said(why="too many questions are open")
        except Exception as error:  # deny by default; its text may hold a credential
            said = _Said(why=f"it could not be asked ({type(error).__name__})")
        self._warn(said.why)
        if said.why:
            return Rejection("whether the token is good cannot be found out at the moment", UNAVAILABLE)
        return said

    async def _ask(self, token: Secret, seconds: float) -> tuple[_Said, float]:
        until = self._monotonic() + seconds
        endpoint = await self._endpoint.url(seconds)
        answer = endpoint.why or await self._sent(endpoint.url, token, until - self._monotonic())
        said = _Said(why=answer) if isinstance(answer, str) else _read(answer)
        if said.why:
            return said, 0.0
        return said, self._negative if said.claims is None else self._reused(said.claims.get("exp"))

    def _reused(self, expires: object) -> float:
        """How long an answer is good. INVARIANT: never beyond `exp`, where the issuer itself refuses the token."""
        return min(self._positive, expires - self._clock()) if type(expires) is int else 0.0

    async def _sent(self, url: str, token: Secret, seconds: float) -> Response | str:
        async def make() -> Request:
            form = [("token", token.reveal()), ("token_type_hint", "access_token")]
            if isinstance(self._client, ClientSecret):
                return Request(method="POST", url=url, headers={**_ACCEPT, **self._client.header()}, form=form)
            proof = await self._client.fields(url, self._clock())
            return Request(method="POST", url=url, headers=_ACCEPT, form=[*form, *proof])

        try:
            return await self._http.send(make, deadline=seconds)
        except HttpFailure as failure:
            return failure.why
        except AgentguardError as error:
            return f"this API cannot prove itself to the issuer ({error.reason})"

    def _warn(self, why: str) -> None:
        """Log what keeps the issuer from answering, once until it answers or something else does."""
        changed, self._warned = why != self._warned, why
        if why and changed:
            _log.warning("tokens of %s cannot be introspected: %s", self._profile.issuer, why)

    def __repr__(self) -> str:
        return f"<IntrospectionVerifier {self._profile.issuer} for {self.audience}>"


def _read(answer: Response) -> _Said:
    if answer.status in (401, 403):
        return _Said(why="it does not accept this API's client; check its id, its secret or key, and what it may do")
    if answer.status != 200:
        return _Said(why=f"the answer is {answer.status}")
    try:
        document = answer.json()
    except HttpFailure as failure:
        return _Said(why=failure.why)
    active = document.get("active")
    # INVARIANT: the value itself; "true" and 1 come from a server that does something else than introspection.
    if active is True:
        return _Said(document)
    return _Said() if active is False else _Said(why="its answer does not say whether the token is active")


def _completed(said: Mapping[str, Any], issuer: str, key: str, now: float) -> dict[str, Any]:
    """Return the claims with what RFC 7662 section 2.2 leaves out, so that one profile judges every token.

    A client's own token names no `sub`; where no `iat` is said, the whole rest of its life counts as its lifetime.
    """
    expires = said.get("exp")
    issued = min(int(now), expires - 1) if type(expires) is int else 0
    own = {"sub": said.get("client_id"), "iss": issuer, "iat": max(issued, 0), "jti": f"sha256:{key[:32]}"}
    claims = {**own, **{name: value for name, value in said.items() if value is not None}}
    if "authorization_details" in claims:  # they go to the application, and what is kept is for other requests too
        claims["authorization_details"] = copy.deepcopy(claims["authorization_details"])
    return claims


def _contradiction(claims: Mapping[str, Any], thumbprint: str) -> Rejection | None:
    """Return a rejection where the issuer calls a token another kind than it was used as."""
    kind = claims.get("token_type", "")
    expected = ("", "dpop") if thumbprint else ("", "bearer", "access_token")
    if isinstance(kind, str) and kind.lower() in expected:
        return None
    return Rejection("the token was used as another type than it is")
