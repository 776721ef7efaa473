"""One authorization server as its client sees it: its metadata, its keys, and requests that prove who asks."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, TypeVar

from agentguard._dpop import DpopKey, origin_of
from agentguard._http import Http, HttpFailure, Request, Response
from agentguard._jwks import Jwks
from agentguard._jwt import BAD_SIGNATURE, Keys
from agentguard._nonces import DpopNonces
from agentguard.credentials.oauth.answer import Refused, error_code
from agentguard.credentials.oauth.client_auth import ClientAuthentication, Fields
from agentguard.credentials.oauth.metadata import LIFETIME, Discovery, ServerMetadata
from agentguard.errors import AgentguardError, ConfigurationError
from agentguard.keys import KeySet
from agentguard.model.lease import Secret

T = TypeVar("T")
SEND_SECONDS: Final = 15.0
_ACCEPT: Final = {"Accept": "application/json"}
_log: Final = logging.getLogger("agentguard")
# Makes the fields of one attempt; `now` is in seconds since the epoch.
MakeFields = Callable[[float], Awaitable[Fields]]


class AuthorizationServer:
    """An authorization server and this client's way to prove itself to it. Safe for threads and event loops.

    Args:
        issuer: its identifier, exactly as in its tokens (RFC 8414 section 2).
        client: proves this client; for this issuer only.
        http: the client for all requests; shared, and closed by `close`.
        metadata: its endpoints, where they are not to be discovered.
        nonces: the DPoP nonces of all servers.
        lifetime: seconds that discovered metadata is good for.
        clock: seconds since the epoch.
        monotonic: seconds for deadlines.

    Raises:
        ConfigurationError: a URL is refused, or the client or metadata is for another issuer.
    """

    def __init__(
        self,
        issuer: str,
        client: ClientAuthentication,
        http: Http,
        *,
        metadata: ServerMetadata | None = None,
        nonces: DpopNonces | None = None,
        lifetime: float = LIFETIME,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        for what, other in (("client", client.issuer), ("metadata", metadata.issuer if metadata else issuer)):
            # INVARIANT: an assertion is made for one server and sent to no other (RFC 9700 section 4.4, mix-up).
            if other != issuer:
                raise ConfigurationError(f"the {what} is for issuer {other!r}, not for {issuer!r}")
        self.issuer, self.client = issuer, client
        self.nonces = nonces or DpopNonces()
        self.clock, self.monotonic = clock, monotonic
        self._http = http
        self._discovery = Discovery(issuer, http, lifetime=lifetime, clock=monotonic)
        self._fixed = metadata.checked(http.networks) if metadata else None
        self._jwks: tuple[str, Jwks] | None = None

    async def metadata(self, until: float) -> ServerMetadata | Refused:
        """Return where it answers, or why that is not known.

        Args:
            until: monotonic seconds.
        """
        found = self._fixed or await self._discovery.metadata(max(0.0, until - self.monotonic()))
        return Refused(f"{self.issuer}: {found}", may_exist=False) if isinstance(found, str) else found

    async def post(
        self, url: str, fields: MakeFields, until: float, key: DpopKey | None = None, *,
        known: ServerMetadata | None = None,
    ) -> Response | Refused:  # fmt: skip
        """Send a form with proof of this client, and of a key where there is one; each attempt has fresh proofs.

        A server that wants a DPoP nonce is asked once more (RFC 9449 section 8).

        Args:
            url: the endpoint.
            fields: makes the rest of the form.
            until: monotonic seconds.
            key: the key to prove.
            known: its metadata, where the caller has just asked for it.
        """
        found = known or await self.metadata(until)
        if isinstance(found, Refused):
            return found
        answer = await self._sent(url, fields, until, key, found)
        if key is not None and isinstance(answer, Response) and _wants_nonce(answer):
            again = await self._sent(url, fields, until, key, found)
            # INVARIANT: what an attempt without an answer may have left is known of whatever the others are answered.
            answer = _after_a_lost_answer(again) if answer.unsure else again
        return answer

    async def _sent(
        self, url: str, fields: MakeFields, until: float, key: DpopKey | None, known: ServerMetadata
    ) -> Response | Refused:
        made = 0

        async def make() -> Request:
            nonlocal made
            now = self.clock()
            proof = {"DPoP": key.proof("POST", url, nonce=self.nonces.get(origin_of(url)))} if key else {}
            form = [*await fields(now), *await self.client.fields(known.token_endpoint, now)]
            made += 1
            return Request(method="POST", url=url, headers={**_ACCEPT, **proof}, form=form)

        try:
            answer = await self._http.send(make, deadline=max(0.001, until - self.monotonic()))
        except HttpFailure as failure:
            return Refused(f"the authorization server gave no answer: {failure}", failure.sent, outage=True)
        except AgentguardError as error:
            return Refused(f"this client cannot prove itself to {self.issuer}: {error}", made > 0)
        except Exception as error:  # an adapter that breaks proves nothing; its text may hold a token
            return Refused(f"this client cannot prove itself to {self.issuer}: {type(error).__name__}", made > 0)
        if nonce := answer.headers.get("dpop-nonce", ""):
            self.nonces.put(origin_of(url), nonce)
        return answer

    def fresh_keys(self) -> Keys | None:
        """Return the keys if they are at hand and within their lifetime."""
        return self._jwks[1].fresh() if self._jwks is not None else None

    async def keys_for(self, token: Secret, until: float) -> Keys | str:
        """Return the keys that a token of this server may be signed with, or why there are none."""
        known = await self.metadata(until)
        if isinstance(known, Refused):
            return known.why
        if not known.jwks_uri:
            return "the server publishes no keys (jwks_uri), so its tokens cannot be verified"
        try:
            if self._jwks is None or self._jwks[0] != known.jwks_uri:
                self._jwks = known.jwks_uri, Jwks(self._http, known.jwks_uri)
            return await self._jwks[1].keys_for(token.reveal())
        except AgentguardError as error:
            return str(error)
        except Exception as error:  # whatever breaks there held the token
            return f"the server's keys could not be had: {type(error).__name__}"

    async def verified(self, token: Secret, until: float, verify: Callable[[Keys], T | str]) -> T | str:
        """Return what verifying a token of this server comes to; a kid may have got a new key.

        Args:
            token: it.
            until: monotonic seconds.
            verify: takes the keys; a text says why it does not verify.
        """
        keys = await self.keys_for(token, until)
        if isinstance(keys, str):
            return keys
        outcome = verify(keys)
        if isinstance(outcome, str) and outcome.endswith(BAD_SIGNATURE):
            newer = await self._keys_after(keys)
            outcome = verify(newer) if newer is not None else outcome
        return outcome

    async def _keys_after(self, keys: Keys) -> Keys | None:
        jwks = self._jwks[1] if self._jwks is not None else None
        return await jwks.keys_after(keys) if jwks is not None and isinstance(keys, KeySet) else None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def after_fork(self) -> None:
        """Wait for nobody of the parent process; its connections are not touched."""
        self._discovery.after_fork()
        self.nonces.after_fork()
        self._jwks = None

    def __repr__(self) -> str:
        return f"<AuthorizationServer {self.issuer} as {self.client.client_id}>"


def _after_a_lost_answer(answer: Response | Refused) -> Response | Refused:
    return replace(answer, may_exist=True) if isinstance(answer, Refused) else replace(answer, unsure=True)


def _wants_nonce(answer: Response) -> bool:
    return answer.status in (400, 401) and error_code(answer) == "use_dpop_nonce"
