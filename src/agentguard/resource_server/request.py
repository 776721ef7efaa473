"""Verifies one request: what is in its headers, the token, and the proof that goes with it; one core for all servers.

INVARIANT: nothing of the token is in what leaves this module: no refusal, no challenge, no error's frame.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from agentguard._drive import drive
from agentguard._jwt import MAX_TOKEN, Rejection
from agentguard.errors import ConfigurationError, TokenRejected
from agentguard.resource_server.dpop import DpopProofs, Proof, normal_target
from agentguard.resource_server.rejection import (
    BAD_PROOF,
    WANTS_NONCE,
    Challenges,
    Refusal,
    RequestRejected,
    refusal_of,
)
from agentguard.resource_server.verifier import ASK_SECONDS, AccessTokens, VerifiedToken, refuse_to_block_a_loop

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
_B64TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_TARGET: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)?([^#]*)(?:#.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class VerifiedRequest:
    """A request whose token passed.

    Args:
        token: what it says.
        scheme: `Bearer`, or `DPoP` where possession of its key was proved.
        headers: what the response has to carry: the next nonce (RFC 9449 section 8.2), or nothing.
    """

    token: VerifiedToken
    scheme: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a request brought; its repr shows no token."""

    scheme: str
    token: str
    proofs: Sequence[str] = ()

    def __repr__(self) -> str:
        return f"<_Sent {self.scheme}>"


class RequestVerifier:
    """Verifies requests by method, URL and headers, for any framework. Safe for threads and event loops.

    Args:
        tokens: a `TokenVerifier` or an `IntrospectionVerifier`.
        dpop: verifies proofs; without it tokens that are bound to a key are refused.
        require_dpop: take only tokens that are bound to a key.
        base_url: scheme, host and leading path under which clients reach this API, for `htu` of proofs; the audience
            by default, without its path. What the request says about its own host is not looked at.
        realm: for the challenge.
        resource_metadata: URL of the protected resource metadata, for the challenge (RFC 9728 section 5.1).
        clock: seconds since the epoch.

    Raises:
        ConfigurationError: a value that cannot stand in a header, or no base URL to hold proofs against.
    """

    def __init__(
        self,
        tokens: AccessTokens,
        *,
        dpop: DpopProofs | None = None,
        require_dpop: bool = False,
        base_url: str = "",
        realm: str = "",
        resource_metadata: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._tokens, self._dpop, self._clock = tokens, dpop, clock
        self._base = _base_of(base_url, tokens.audience) if dpop is not None else ""
        self._challenges = Challenges(
            realm=realm,
            resource_metadata=resource_metadata or "",
            bearer=not require_dpop,
            algorithms=dpop.algorithms if dpop is not None else (),
        )

    def verify_request(self, method: str, url: str, headers: Headers) -> VerifiedRequest:
        """Return what a request's token says; for Django, Flask and other WSGI applications.

        Args:
            method: such as `GET`.
            url: absolute, or path and query, as they were sent; percent-encoding included.
            headers: names and values; a header that was sent twice is there twice, or joined by a comma.

        Raises:
            TokenRejected: it does not pass (`RequestRejected`); `status`, `headers` and `body` are the answer to send.
            ConfigurationError: a server has to be asked and an event loop runs here: `await verified_request(...)`.
        """
        if self._tokens.remote:
            refuse_to_block_a_loop()
        outcome = drive(self.examined(method, url, headers))
        del url, headers  # the traceback keeps this frame
        if isinstance(outcome, Refusal):
            raise self.rejected(outcome)
        return outcome

    async def verified_request(self, method: str, url: str, headers: Headers) -> VerifiedRequest:
        """Return what `verify_request` returns, for callers in an event loop.

        Raises:
            TokenRejected: as `verify_request`.
        """
        try:
            outcome = await self.examined(method, url, headers)
        finally:
            del url, headers  # the traceback keeps this frame
        if isinstance(outcome, Refusal):
            raise self.rejected(outcome)
        return outcome

    async def examined(
        self, method: str, url: str, headers: Headers, *, seconds: float = ASK_SECONDS
    ) -> VerifiedRequest | Refusal:
        """Return what a request's token says, or why it is refused; it never raises because of a request.

        Args:
            method, url, headers: as in `verify_request`.
            seconds: how long asking others may take.
        """
        sent = self._sent(url, headers)
        if isinstance(sent, Refusal):
            return sent
        now = self._clock()
        proof: Proof | Rejection | None = None
        if sent.scheme == "DPoP" and self._dpop is not None:
            proof = self._dpop.examine(sent.proofs, method, self._target(url), sent.token, now)
        if isinstance(proof, Rejection):
            return self._refusal(proof, sent, now)
        thumbprint = proof.thumbprint if proof is not None else ""
        token = await self._tokens.examined(sent.token, thumbprint=thumbprint, now=now, seconds=seconds)
        if isinstance(token, Rejection):
            return self._refusal(token, sent, now)
        if proof is None or self._dpop is None:
            return VerifiedRequest(token, sent.scheme)
        # INVARIANT: only proofs of good tokens are remembered, or anybody could fill the memory.
        replay = await self._dpop.replayed(proof, self._clock())
        if replay is not None:
            return self._refusal(replay, sent, now)
        return VerifiedRequest(token, sent.scheme, (("DPoP-Nonce", proof.nonce),) if proof.nonce else ())

    def rejected(self, why: Refusal | TokenRejected, request: VerifiedRequest | None = None) -> RequestRejected:
        """Return the error whose `status`, `headers` and `body` answer a refusal.

        Args:
            why: also what an application raised, such as `InsufficientScope`.
            request: the request that it was raised for, if it was verified.
        """
        if isinstance(why, RequestRejected):
            return why
        refusal = why if isinstance(why, Refusal) else refusal_of(why, request.scheme if request else "")
        headers = [*self._challenges.headers(refusal), *(request.headers if request else ())]
        return RequestRejected(refusal, ", ".join(self._challenges.of(refusal)), headers)

    def _refusal(self, rejection: Rejection, sent: _Sent, now: float) -> Refusal:
        wants = self._dpop is not None and rejection.error in (WANTS_NONCE, BAD_PROOF)
        nonce = self._dpop.nonce(now) if self._dpop is not None and wants else ""
        return Refusal(rejection.error, rejection.why, scheme=sent.scheme, nonce=nonce)

    def _sent(self, url: str, headers: Headers) -> _Sent | Refusal:
        values: dict[str, list[str]] = {"authorization": [], "dpop": []}
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            values.get(name.lower(), []).append(value)
        if _in_query(url):
            return Refusal("invalid_request", "a token belongs into the Authorization header, never into the query")
        if len(values["authorization"]) > 1:
            return Refusal("invalid_request", "there is more than one Authorization header")
        return self._credentials("".join(values["authorization"]), values["dpop"])

    def _credentials(self, header: str, proofs: Sequence[str]) -> _Sent | Refusal:
        scheme, _, text = header.partition(" ")
        known = {"bearer": "Bearer", **({"dpop": "DPoP"} if self._dpop is not None else {})}.get(scheme.lower())
        if known is None:
            return Refusal()  # RFC 6750 section 3.1: no error code where no usable authentication was attempted
        token = text.strip(" ")
        if not _B64TOKEN.fullmatch(token):
            return Refusal(
                "invalid_request", f"the Authorization header is no {known} followed by one token", "", known
            )
        if len(token) > MAX_TOKEN:
            return Refusal("invalid_token", f"a token is text of at most {MAX_TOKEN} characters", "", known)
        if known == "Bearer" and not self._challenges.bearer:
            return Refusal(
                "invalid_token", "this API takes only tokens that are bound to a key, sent with a DPoP proof"
            )
        return _Sent(known, token, proofs)

    def _target(self, url: str) -> str:
        found = _TARGET.fullmatch(url)
        rest = found[1] if found else ""
        return self._base + (rest if rest.startswith("/") else f"/{rest}")


def _base_of(base_url: str, audience: str) -> str:
    if base_url:
        base = normal_target(base_url)
        if not base or base_url.partition("#")[0].partition("?")[0] != base_url:
            raise ConfigurationError(
                f"base_url {base_url!r}: write scheme, host and leading path: https://api.bank.test"
            )
        return base.rstrip("/")
    target = normal_target(audience)
    if not target:
        raise ConfigurationError("the audience is no URL, so proofs need base_url=: where clients reach this API")
    parts = urlsplit(target)
    return f"{parts.scheme}://{parts.netloc}"


def _in_query(url: str) -> bool:
    query = url.partition("#")[0].partition("?")[2]
    return any(pair.partition("=")[0] == "access_token" for pair in query.split("&"))
