"""What an authorization server says about itself (RFC 8414, OpenID Connect Discovery 1.0), found once and kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from agentguard._drive import driven, loop_running, wait_for
from agentguard._http import Http, HttpFailure, Request, checked_url
from agentguard.credentials.flight import Flight
from agentguard.errors import ConfigurationError

LIFETIME: Final = 3600.0
MAX_STALE: Final = 86_400.0
COOLDOWN: Final = 5.0
_HURRIED: Final = 1.0  # seconds; with less, as at the end of a task, a server that works may not answer in time
_LOOK_SECONDS: Final = 1.0  # after which one who waits for another caller looks whether there still is one
_ENDPOINTS: Final = ("token_endpoint", "revocation_endpoint", "introspection_endpoint", "jwks_uri")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMetadata:
    """Where an authorization server answers (RFC 8414 section 2); what it does not offer is empty.

    Args:
        issuer: its identifier, exactly as in the tokens.
        token_endpoint, revocation_endpoint, introspection_endpoint, jwks_uri: absolute URLs.
        grant_profiles: `authorization_grant_profiles_supported`.
    """

    issuer: str
    token_endpoint: str
    revocation_endpoint: str = ""
    introspection_endpoint: str = ""
    jwks_uri: str = ""
    grant_profiles: tuple[str, ...] = ()

    def checked(self, networks: Sequence[str] = ()) -> ServerMetadata:
        """Return it if a credential may be sent to each of its URLs.

        Raises:
            ConfigurationError: one is no https URL, or an address that is refused.
        """
        for name in _ENDPOINTS:
            url: str = getattr(self, name)
            if url or name == "token_endpoint":
                checked_url(url, what=name, networks=networks)
        return self


def well_known(issuer: str) -> Iterator[str]:
    """Yield where the metadata of an issuer may stand (RFC 8414 sections 3.1 and 5, OpenID Discovery section 4)."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    yield f"{origin}/.well-known/oauth-authorization-server{path}"
    yield f"{origin}/.well-known/openid-configuration{path}"
    if path:
        yield f"{origin}{path}/.well-known/openid-configuration"


def read_metadata(document: Mapping[str, Any], issuer: str, networks: Sequence[str] = ()) -> ServerMetadata | str:
    """Return what a metadata document says, or why it must not be used (RFC 8414 section 3.3)."""
    # INVARIANT: compared as text, with no normalization, or another server's data could be taken for this one's.
    if document.get("issuer") != issuer:
        return "its metadata names another issuer; write the issuer exactly as the server does, and trust no other"
    urls = {name: document.get(name, "") for name in _ENDPOINTS}
    profiles = document.get("authorization_grant_profiles_supported", [])
    if not all(isinstance(url, str) for url in urls.values()) or not isinstance(profiles, list):
        return "its metadata is malformed"
    known = tuple(profile for profile in profiles if isinstance(profile, str))
    try:
        return ServerMetadata(issuer=issuer, grant_profiles=known, **urls).checked(networks)
    except ConfigurationError as error:
        return f"its metadata names a URL that is refused: {error}"


class Discovery:
    """The metadata of one issuer: asked for by one caller at a time, and kept. Safe for threads and event loops.

    Args:
        issuer: exactly as the server names itself.
        http: the client.
        lifetime: seconds that the metadata is good for; when a refresh fails it serves for a day.
        cooldown: seconds after a failure in which the server is not asked again.
        clock: monotonic seconds.

    Raises:
        ConfigurationError: the issuer is no https URL, or has a query.
    """

    def __init__(
        self,
        issuer: str,
        http: Http,
        *,
        lifetime: float = LIFETIME,
        cooldown: float = COOLDOWN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        checked_url(issuer, what="issuer", networks=http.networks)
        if "?" in issuer:
            raise ConfigurationError(f"issuer {issuer.partition('?')[0]!r}: it has no query (RFC 8414 section 2)")
        self._issuer, self._http = issuer, http
        self._lifetime, self._cooldown, self._clock = lifetime, cooldown, clock
        self._good: tuple[ServerMetadata, float] | None = None
        self._kept: ServerMetadata | str = ""
        self._until = -1.0
        self.after_fork()

    def after_fork(self) -> None:
        """Wait for nobody of the parent process."""
        self._lock = threading.Lock()
        # INVARIANT: who asks alone holds its flight; where it is stopped, at whatever line, nobody waits for it.
        self._flights: WeakValueDictionary[str, Flight] = WeakValueDictionary()

    async def metadata(self, seconds: float) -> ServerMetadata | str:
        """Return the metadata, or why there is none.

        Args:
            seconds: how long it may take.
        """
        until, mine = self._clock() + seconds, Flight()
        while True:
            kept, other = self._look(mine)
            if kept is not None:
                return kept
            if other is None:
                return await self._lead(mine, until, hurried=seconds < _HURRIED)
            if driven() and loop_running():  # whoever asks may need this very loop: it is not waited for
                return await self._found(until)
            left = until - self._clock()
            try:
                await wait_for(other, max(0.0, min(left, _LOOK_SECONDS)))
            except TimeoutError:
                if left <= _LOOK_SECONDS:
                    return "its metadata did not come in time"

    def _look(self, mine: Flight) -> tuple[ServerMetadata | str | None, Future[None] | None]:
        """Return what is kept, or whom to wait for; neither where it is this caller who asks now."""
        with self._lock:
            if self._clock() < self._until:
                return self._kept, None
            flight = self._flights.get(self._issuer)
            if flight is None:
                self._flights[self._issuer] = mine
            return None, flight.future if flight is not None else None

    async def _lead(self, mine: Flight, until: float, *, hurried: bool) -> ServerMetadata | str:
        """Ask on behalf of all who wait; one that is cancelled, or had hardly any time, sends them round again."""
        try:
            found = await self._found(until)
            if hurried and isinstance(found, str) and self._good is None and self._clock() >= until:
                return found  # that says nothing about the server
            return self._keep(found)
        finally:
            with self._lock:
                self._flights.clear()
            mine.land()

    def _keep(self, found: ServerMetadata | str) -> ServerMetadata | str:
        now = self._clock()
        with self._lock:
            if isinstance(found, ServerMetadata):
                self._good = (found, now + MAX_STALE)
            elif self._good is not None and now < self._good[1]:
                found, now = self._good[0], now - self._lifetime + self._cooldown
            self._kept = found
            self._until = now + (self._lifetime if isinstance(found, ServerMetadata) else self._cooldown)
        return found

    async def _found(self, until: float) -> ServerMetadata | str:
        for url in well_known(self._issuer):
            found = await self._read(url, until)
            if found is not None:
                return found
        return "it publishes no metadata; write its endpoints into the configuration"

    async def _read(self, url: str, until: float) -> ServerMetadata | str | None:
        """Return what stands at one place, or None if nothing does."""
        try:
            answer = await self._http.send(lambda: Request(method="GET", url=url), deadline=until - self._clock())
            if answer.status in (404, 405, 410):
                return None
            if answer.status != 200:
                return f"its metadata could not be read: status {answer.status}"
            return read_metadata(answer.json(), self._issuer, self._http.networks)
        except HttpFailure as failure:
            return f"its metadata could not be read: {failure}"
