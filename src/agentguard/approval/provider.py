"""An OpenID provider as a client of its backchannel sees it: where it answers, requests that prove who asks, its keys.

The client's proof is what `credentials.oauth` makes (`PrivateKeyJwt`); the rooms do not know each other, so it is taken
by its shape.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from agentguard._http import Http, HttpFailure, Request, Response, checked_url
from agentguard._jwks import Jwks, same_issuer
from agentguard._jwt import Profile
from agentguard.errors import AgentguardError, ConfigurationError
from agentguard.model.lease import Secret

LIFETIME: Final = 3600.0
COOLDOWN: Final = 5.0
_ACCEPT: Final = {"Accept": "application/json"}
_NEEDED: Final = ("token_endpoint", "backchannel_authentication_endpoint", "jwks_uri")
Fields = Sequence[tuple[str, str]]


class ClientProof(Protocol):
    """Proves a client to one provider; `fields` is asked for every attempt, so that no assertion is sent twice."""

    client_id: str
    issuer: str

    async def fields(self, token_endpoint: str, now: float) -> Fields: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderMetadata:
    """Where a provider answers (OpenID Connect Discovery 1.0 section 3, CIBA Core 1.0 section 4).

    Args:
        issuer: its identifier, exactly as in its tokens.
        token_endpoint, backchannel_authentication_endpoint, jwks_uri: absolute URLs.
        revocation_endpoint: absolute URL, or empty where tokens cannot be revoked.
    """

    issuer: str
    token_endpoint: str
    backchannel_authentication_endpoint: str
    jwks_uri: str
    revocation_endpoint: str = ""

    def checked(self, networks: Sequence[str] = ()) -> ProviderMetadata:
        """Return it if a credential may be sent to each of its URLs.

        Raises:
            ConfigurationError: one is no https URL, or an address that is refused.
        """
        for name in (*_NEEDED, "revocation_endpoint"):
            url: str = getattr(self, name)
            if url or name in _NEEDED:
                checked_url(url, what=name, networks=networks)
        return self


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Nothing that can be used came back.

    Args:
        why: for people; holds nothing secret.
        sent: the provider may have acted.
    """

    why: str
    sent: bool


def well_known(issuer: str) -> Iterator[str]:
    """Yield where the metadata may stand (OpenID Discovery section 4, RFC 8414 sections 3.1 and 5)."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    yield f"{origin}{path}/.well-known/openid-configuration"
    yield f"{origin}/.well-known/oauth-authorization-server{path}"


def read_metadata(document: Mapping[str, Any], issuer: str, networks: Sequence[str] = ()) -> ProviderMetadata | str:
    """Return what a metadata document says, or why it must not be used (RFC 8414 section 3.3)."""
    if why := same_issuer(document, issuer):
        return why
    urls = {name: document.get(name, "") for name in (*_NEEDED, "revocation_endpoint")}
    modes = document.get("backchannel_token_delivery_modes_supported", ["poll"])
    if not all(isinstance(url, str) for url in urls.values()):
        return "its metadata is malformed"
    if not urls["backchannel_authentication_endpoint"] or not isinstance(modes, list) or "poll" not in modes:
        return "its metadata offers no backchannel authentication with poll (CIBA); enable it at the provider"
    try:
        return ProviderMetadata(issuer=issuer, **urls).checked(networks)
    except ConfigurationError as error:
        return f"its metadata names a URL that is refused: {error}"


class OpenIdProvider:
    """One provider and this client's way to prove itself to it. Safe for threads and event loops.

    Args:
        issuer: its identifier, exactly as in its tokens.
        client: proves this client; for this issuer only.
        http: sends; shared, and closed by `close`.
        metadata: its endpoints, where they are not to be discovered.
        clock: seconds since the epoch.
        monotonic: seconds for deadlines.

    Raises:
        ConfigurationError: a URL is refused, or the client or metadata is for another issuer.
    """

    def __init__(
        self,
        issuer: str,
        client: ClientProof,
        http: Http,
        *,
        metadata: ProviderMetadata | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        checked_url(issuer, what="issuer", networks=http.networks)
        for what, other in (("client", client.issuer), ("metadata", metadata.issuer if metadata else issuer)):
            # INVARIANT: an assertion is made for one server and sent to no other (RFC 9700 section 4.4, mix-up).
            if other != issuer:
                raise ConfigurationError(f"the {what} is for issuer {other!r}, not for {issuer!r}")
        self.issuer, self.client = issuer, client
        self.clock, self.monotonic = clock, monotonic
        self._http = http
        self._fixed = metadata.checked(http.networks) if metadata else None
        self._found: ProviderMetadata | str = ""
        self._until = -1.0
        self._jwks: Jwks | None = None
        self._jwks_uri = ""
        self._lock = threading.Lock()

    async def metadata(self, seconds: float) -> ProviderMetadata | str:
        """Return where it answers, or why that is not known; found once an hour.

        Args:
            seconds: how long it may take.
        """
        if self._fixed is not None:
            return self._fixed
        with self._lock:
            if self.monotonic() < self._until:
                return self._found
        found = await self._discovered(self.monotonic() + seconds)
        with self._lock:
            good = isinstance(found, ProviderMetadata)
            if good or isinstance(self._found, str):  # what was found before serves while the provider is away
                self._found = found
            self._until = self.monotonic() + (LIFETIME if good else COOLDOWN)
            return self._found

    async def _discovered(self, until: float) -> ProviderMetadata | str:
        for url in well_known(self.issuer):
            try:
                answer = await self._http.send(
                    lambda url=url: Request(method="GET", url=url),
                    deadline=max(0.001, until - self.monotonic()),
                )
                if answer.status in (404, 405, 410):
                    continue
                if answer.status != 200:
                    return f"its metadata could not be read: status {answer.status}"
                return read_metadata(answer.json(), self.issuer, self._http.networks)
            except HttpFailure as failure:
                return f"its metadata could not be read: {failure}"
        return "it publishes no metadata; write its endpoints into the configuration"

    async def post(self, url: str, fields: Fields, seconds: float) -> Response | NoAnswer:
        """Send a form once, with proof of this client.

        Args:
            url: the endpoint.
            fields: the rest of the form.
            seconds: how long it may take.
        """
        known = await self.metadata(seconds)
        if isinstance(known, str):
            return NoAnswer(known, sent=False)

        async def make() -> Request:
            proof = await self.client.fields(known.token_endpoint, self.clock())
            return Request(method="POST", url=url, headers=_ACCEPT, form=[*fields, *proof])

        try:
            return await self._http.send(make, deadline=max(0.001, seconds), retry=False)
        except HttpFailure as failure:
            return NoAnswer(f"the provider gave no answer: {failure}", failure.sent)
        except Exception as error:  # an adapter that breaks proves nothing; its text may hold a token
            return NoAnswer(f"this client cannot prove itself to the provider: {type(error).__name__}", sent=False)

    async def claims(self, token: Secret, profile: Profile, uri: str) -> Mapping[str, Any] | str:
        """Return the claims of a token that passes the profile, or why it does not; the text holds nothing of it."""
        with self._lock:
            if self._jwks is None or self._jwks_uri != uri:
                self._jwks, self._jwks_uri = Jwks(self._http, uri), uri
            jwks = self._jwks
        try:
            return await jwks.verify(token.reveal(), profile, self.clock())
        except AgentguardError as error:
            return str(error)
        except Exception as error:  # whatever breaks there held the token
            return f"the token could not be verified: {type(error).__name__}"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def after_fork(self) -> None:
        """In a child process: wait for nobody of the parent."""
        self._lock, self._jwks = threading.Lock(), None

    def __repr__(self) -> str:
        return f"<OpenIdProvider {self.issuer} as {self.client.client_id}>"
