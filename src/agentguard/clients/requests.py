"""requests authentication with the running call's credential."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from requests import PreparedRequest, Response
from requests.auth import AuthBase
from requests.structures import CaseInsensitiveDict

from agentguard._drive import drive
from agentguard._nonces import DpopNonces
from agentguard.clients.placing import credential_for, header_names, headers_of, origin_text, refused, wants_nonce
from agentguard.errors import CredentialUnavailable
from agentguard.model.credential import Credential
from agentguard.model.lease import Placement


class GuardRequestsAuth(AuthBase):
    """requests authentication that sends the running call's credential, by the rules of `GuardAuth`.

    It goes only to the origin of the tool's audience and never along a redirect: it is in the headers of this one
    request while it is being sent, and in no copy of it. A target that answers 401 gets one other credential, if the
    body can be sent again; where it refuses that too, the request fails with CredentialUnavailable. A secret that
    belongs into the URL's query is refused, because urllib3 logs URLs; use `GuardAuth` with httpx.

    Use it as `requests.get(url, auth=GuardRequestsAuth())` or `session.auth = GuardRequestsAuth()`; one may serve many
    calls and users.
    """

    def __init__(self) -> None:
        self._nonces = DpopNonces()

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Authorise one request.

        Raises:
            CredentialUnavailable: no credential (see `current_credential`), or the request goes elsewhere.
        """
        _Sending(request, self._nonces).put(request)
        return request


class _Sending:
    """One request on its way: what is put on it, and what its answers mean."""

    def __init__(self, request: PreparedRequest, nonces: DpopNonces) -> None:
        url = request.url or ""
        self.credential, self._origin, self._nonces = credential_for(url), origin_text(url), nonces
        if self.credential.lease.placement is Placement.QUERY:
            raise CredentialUnavailable(
                f"the credential for {self.credential.audience} goes into the URL, which urllib3 logs; use httpx with "
                "agentguard.GuardAuth"
            )
        self._headers = CaseInsensitiveDict(request.headers)
        body: Any = request.body
        self._start = _place_in(body)
        self._replayable = body is None or isinstance(body, str | bytes) or self._start is not None
        self._lease = ""
        self._renewed = self._nonce_given = False
        request.hooks["response"] = [*request.hooks.get("response", []), self.answered]

    def put(self, request: PreparedRequest) -> None:
        nonce = self._nonces.get(self._origin)
        self._lease = self.credential.lease.id
        request.__class__ = _WireRequest
        request.headers = _WireHeaders(self._plain(), self.credential, request.method or "", request.url or "", nonce)

    def answered(self, response: Response, **sending: Any) -> Response:
        """Send the request again where its target asks for another credential or a nonce (RFC 9449 section 9).

        Raises:
            CredentialUnavailable: the target refuses what was just issued, or the request cannot be sent again.
        """
        if not isinstance(response.request, _WireRequest):  # it was redirected, so it carried nothing
            return response
        response.request.headers = self._plain()
        self._nonces.put(self._origin, response.headers.get("dpop-nonce", ""))
        if response.status_code != 401:
            return response
        asks_nonce = not self._nonce_given and wants_nonce(401, response.headers.get("www-authenticate", ""))
        if self._renewed and not asks_nonce:
            response.close()
            raise refused(self.credential.audience)
        if not self._replayable:
            response.close()
            raise CredentialUnavailable(
                f"{self.credential.audience} refused the credential (401), and the body of this request is a stream "
                "that cannot be sent again; send it as bytes or as a file"
            )
        self._nonce_given, self._renewed = self._nonce_given or asks_nonce, self._renewed or not asks_nonce
        # Where another request of the call had it renewed since this one was put together, the new one is sent now.
        renew = not asks_nonce and self.credential.lease.id == self._lease
        return self._again(response, renew=renew, sending=sending)

    def _again(self, response: Response, *, renew: bool, sending: dict[str, Any]) -> Response:
        _ = response.content  # read to its end, so that the connection can be used again
        response.close()
        if renew:
            drive(self.credential.renew(self._lease))
        request = response.request.copy()
        if self._start is not None:
            body: Any = request.body
            body.seek(self._start)
        self.put(request)
        answer: Response = response.connection.send(request, **sending)
        answer.history.append(response)
        answer.request = request
        return self.answered(answer, **sending)

    def _plain(self) -> CaseInsensitiveDict[str]:
        hidden = header_names(self.credential)
        return CaseInsensitiveDict({name: self._headers[name] for name in self._headers if name.lower() not in hidden})


def _place_in(body: Any) -> int | None:
    """Where a file stands; None for what cannot be sent again, such as a pipe, which has the methods of a file too."""
    if not (hasattr(body, "seek") and hasattr(body, "tell")):
        return None
    try:
        return int(body.tell())
    except OSError:
        return None


class _WireRequest(PreparedRequest):
    """A request that carries the credential; a copy of it, which is what a redirect is made of, does not."""

    def copy(self) -> PreparedRequest:
        request = super().copy()
        if isinstance(self.headers, _WireHeaders):
            request.headers = self.headers.plain()
        return request


class _WireHeaders(CaseInsensitiveDict[str]):
    """Headers that hold the credential while its call runs; urllib3 copies them, so a copy of these holds it too."""

    def __init__(
        self, plain: CaseInsensitiveDict[str], credential: Credential, method: str, url: str, nonce: str
    ) -> None:
        self._credential, self._method, self._url, self._nonce = credential, method, url, nonce
        super().__init__(plain)

    def _names(self) -> tuple[str, ...]:
        return header_names(self._credential) if self._credential.live else ()

    def __iter__(self) -> Iterator[str]:
        yield from super().__iter__()
        yield from self._names()

    def __len__(self) -> int:
        return super().__len__() + len(self._names())

    def __getitem__(self, name: str) -> str:
        if name.lower() not in self._names():
            return super().__getitem__(name)
        put = headers_of(self._credential, self._method, self._url, self._nonce)
        return {key.lower(): value for key, value in put}[name.lower()]

    def plain(self) -> CaseInsensitiveDict[str]:
        """Return the headers without the credential."""
        return CaseInsensitiveDict({name: super(_WireHeaders, self).__getitem__(name) for name in super().__iter__()})

    def copy(self) -> CaseInsensitiveDict[str]:
        """Return the headers as they are sent."""
        return CaseInsensitiveDict(self.items())

    def __repr__(self) -> str:
        return repr(dict(self.plain()))

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a request that carries a credential can be neither copied nor pickled")
