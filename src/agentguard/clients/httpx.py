"""httpx authentication with the running call's credential."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import httpx

from agentguard._drive import drive
from agentguard._nonces import DpopNonces
from agentguard.access import current_call
from agentguard.clients.placing import (
    credential_for,
    header_names,
    headers_of,
    origin_text,
    query_of,
    refused,
    wants_nonce,
)
from agentguard.errors import CredentialUnavailable
from agentguard.model.credential import Credential
from agentguard.model.lease import Placement


class GuardAuth(httpx.Auth):
    """httpx authentication (sync and async) that sends the running call's credential.

    As the credential's broker says: a bearer token (RFC 6750), a DPoP-bound token with a fresh proof for each request
    (RFC 9449), or a brokered secret as a header, a query parameter or basic authentication. It goes only to the origin
    of the tool's audience and never along a redirect: it is put on the wire for this one request, and is in no headers
    mapping and no URL that httpx could copy, show or log. A target that answers 401 gets one other credential; where it
    refuses that too, the request fails with CredentialUnavailable.

    Use it as `httpx.Client(auth=GuardAuth())`; one client may serve many calls and users.
    """

    def __init__(self) -> None:
        self._nonces = DpopNonces()

    def __call__(self, request: httpx.Request) -> httpx.Request:
        """Authorise one request.

        Raises:
            CredentialUnavailable: no credential (see `current_credential`), or the request goes elsewhere.
        """
        _Sending(request, self._nonces).put()
        return request

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Authorise a request of a `httpx.Client`, and once more where the target asks for it."""
        sending = _Sending(request, self._nonces)
        sending.put()
        while sending.goes_on((yield request)):
            if sending.renews:
                drive(sending.credential.renew(sending.lease))
            sending.put()

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Authorise a request of a `httpx.AsyncClient`, and once more where the target asks for it."""
        credential = current_call().credential
        if credential is not None and credential.leaked:
            await credential.renew()
        sending = _Sending(request, self._nonces)
        sending.put()
        while sending.goes_on((yield request)):
            if sending.renews:
                await sending.credential.renew(sending.lease)
            sending.put()


class _Sending:
    """One request on its way: what is put on it, and what its answers mean."""

    def __init__(self, request: httpx.Request, nonces: DpopNonces) -> None:
        self.request, self._nonces = request, nonces
        self.credential = credential_for(str(request.url))
        self._origin = origin_text(str(request.url))
        self._plain = httpx.Headers(request.headers)
        self._url = request.url
        self.lease = ""
        self.renews = self._renewed = self._nonce_given = False

    def put(self) -> None:
        """Put the credential on the wire of this request, and nowhere else."""
        lease = self.credential.lease
        self.lease = lease.id
        nonce = self._nonces.get(self._origin) if lease.placement is Placement.DPOP else ""
        self.request.headers = _WireHeaders(self._plain, self.credential, self.request.method, str(self._url), nonce)
        if lease.placement is Placement.QUERY:
            self.request.url = _WireUrl(self._url, self.credential)

    def goes_on(self, response: httpx.Response) -> bool:
        """Tell whether the request is sent again, with what the target asked for.

        Raises:
            CredentialUnavailable: the target refuses what was just issued, or the request cannot be sent again.
        """
        # Where it was redirected, what answers was sent nothing, and says nothing.
        if response.request is not self.request:
            return False
        self._nonces.put(self._origin, response.headers.get("dpop-nonce", ""))
        if response.status_code != 401:
            return False
        challenge = ", ".join(response.headers.get_list("www-authenticate"))
        asks_nonce = wants_nonce(response.status_code, challenge) and not self._nonce_given
        if self._renewed and not asks_nonce:
            raise refused(self.credential.audience)
        if not isinstance(self.request.stream, httpx.ByteStream):
            raise CredentialUnavailable(
                f"{self.credential.audience} refused the credential (401), and the body of this request is a stream "
                "that cannot be sent again; send it as bytes"
            )
        # Where another request of the call had it renewed since this one was put together, the new one is sent now.
        self.renews = not asks_nonce and self.credential.lease.id == self.lease
        self._nonce_given, self._renewed = self._nonce_given or asks_nonce, self._renewed or not asks_nonce
        return True


class _WireHeaders(httpx.Headers):
    """Headers whose credential exists only in `raw`, which transports read and redirects do not copy."""

    def __init__(self, headers: httpx.Headers, credential: Credential, method: str, url: str, nonce: str) -> None:
        self._credential, self._method, self._for, self._nonce = credential, method, url, nonce
        plain = httpx.Headers(headers)
        for name in header_names(credential):
            plain.pop(name, None)
        super().__init__(plain)

    def _put(self) -> list[tuple[str, str]]:
        return headers_of(self._credential, self._method, self._for, self._nonce)

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        if not self._credential.live:
            return super().raw
        return [*super().raw, *((name.encode(), value.encode()) for name, value in self._put())]

    def __getitem__(self, key: str) -> str:
        if self._credential.live and key.lower() in header_names(self._credential):
            return {name.lower(): value for name, value in self._put()}[key.lower()]
        return super().__getitem__(key)


class _WireUrl(httpx.URL):
    """A URL whose secret parameter exists only in `raw_path`, which transports read; nothing shown or logged has it."""

    def __init__(self, url: httpx.URL, credential: Credential) -> None:
        super().__init__(url)
        self._credential = credential

    @property
    def raw_path(self) -> bytes:
        plain = super().raw_path
        if not self._credential.live:
            return plain
        return plain + (b"&" if b"?" in plain else b"?") + query_of(self._credential).encode()
