"""The vault's HTTP API: requests with a token, and what its answers mean.

INVARIANT: an error that leaves here, or is made from a `Refused`, holds neither a token nor anything the vault wrote:
its `errors` list names paths and claims. So answers are examined first, and errors raised once they are out of reach.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentguard._http import Http, HttpFailure, Request, Response, checked_url
from agentguard.errors import ConfigurationError, CredentialUnavailable, Unavailable
from agentguard.model.lease import Secret

ANSWER: Final = 64 * 1024  # most bytes of an answer
ENDING: Final = 4.0  # seconds for asking that something ends; a release is shielded for five
ASKING: Final = 10.0  # seconds for asking for something; below the leeway of a lease, which covers that time
_PATH: Final = re.compile(r"(?!\.{1,2}(?:/|\Z))[\w.@~-]{1,128}(?:/(?!\.{1,2}(?:/|\Z))[\w.@~-]{1,128}){0,15}", re.ASCII)
_STANDBY: Final = (429, 472, 473)  # too many requests, or a node that does not serve them


@dataclass(frozen=True, slots=True)
class Refused:
    """Why the vault's answer is of no use, in our own words.

    Args:
        why: what is wrong and what to do.
        outage: the vault is out of reach or out of order; it did not refuse.
    """

    why: str
    outage: bool = False

    def error(self) -> Unavailable:
        """Return the error to raise, once the answer itself is out of reach."""
        return Unavailable(self.why) if self.outage else CredentialUnavailable(self.why)


class Vault:
    """One server, or cluster behind one address, and one namespace of it.

    Args:
        http: sends; decides about TLS, private networks and time.
        address: https, or http to a literal loopback host; a path before `/v1` is kept.
        namespace: sent as `X-Vault-Namespace`; empty for the root namespace.

    Raises:
        ConfigurationError: address or namespace cannot be used.
    """

    def __init__(self, http: Http, address: str, namespace: str = "") -> None:
        checked_url(address, what="openbao address", networks=http.networks)
        if "?" in address:
            raise ConfigurationError(
                "openbao address: write it without a query, for example https://vault.example:8200"
            )
        if namespace and not _PATH.fullmatch(namespace):
            raise ConfigurationError(f"openbao namespace {namespace!r}: write a path such as team/payments")
        self.address = address.rstrip("/")
        self.name = f"{self.address}/{namespace}".rstrip("/") if namespace else self.address
        self._http = http
        self._headers = {"x-vault-request": "true"} | ({"x-vault-namespace": namespace} if namespace else {})

    async def ask(
        self, method: str, path: str, *, seconds: float, token: Secret | None = None,
        body: Callable[[], Mapping[str, Any]] | None = None, retry: bool = False,
    ) -> Response:  # fmt: skip
        """Send one request and return the answer, whatever its status.

        Args:
            method, path: the path below `/v1/`.
            seconds: for everything.
            token: who asks; none for a login.
            body: makes what a POST carries, when it is sent; it may hold a secret.
            retry: whether an attempt may follow one that the vault may have acted on.

        Raises:
            HttpFailure: there is no answer in time; it is an `Unavailable`, and holds nothing of the request.
        """

        def make() -> Request:
            headers = self._headers if token is None else {**self._headers, "x-vault-token": token.reveal()}
            url = f"{self.address}/v1/{path}"
            if method == "GET":
                return Request(method=method, url=url, headers=headers)
            return Request(method=method, url=url, headers=headers, json=dict(body()) if body else {})

        return await self._http.send(make, deadline=seconds, retry=retry)


def members(response: Response) -> dict[str, Any] | None:
    """Return a successful answer's members; None for one that cannot be trusted: wrapped, too large, no strict JSON."""
    if response.status != 200 or len(response.body) > ANSWER:
        return None
    try:
        answer = response.json()
    except HttpFailure:
        return None
    return None if answer.get("wrap_info") else answer


def refusal(status: int, doing: str, allow: str) -> Refused:
    """Say what a status means (the vault's HTTP API, "HTTP status codes").

    Args:
        doing: what was asked for, for example `reading database/creds/app`.
        allow: what stands in the vault's configuration where that is allowed.
    """
    if status == 200:
        return Refused(f"the vault's answer to {doing} is not what its API describes: a proxy, or a wrapped response?")
    if status == 400:
        return Refused(f"the vault refused {doing} as invalid (400): check {allow}")
    if status == 403:
        return Refused(f"the vault's policy does not allow {doing} (403): add {allow}")
    if status == 404:
        return Refused(f"the vault has nothing at {doing} (404): check the mount and the path, and {allow}")
    if status == 503:
        return Refused(f"the vault is sealed or in maintenance (503), so {doing} is impossible", outage=True)
    if status in _STANDBY:
        return Refused(f"the vault is a standby or limits requests ({status}), so {doing} has to wait", outage=True)
    return Refused(f"the vault failed at {doing} ({status})", outage=status >= 500)


def gone(response: Response, *, provable: bool) -> bool:
    """Tell whether a 403 proves that the token it answers does not exist any more.

    Vault says so in words. OpenBao answers an unknown token with a bare `permission denied`, and a policy's refusal
    with a numbered list of errors; but it answers bare, too, where a token is bound to another network.

    Args:
        response: to a request with the token.
        provable: when the token was new, it was seen to be bound to no network.
    """
    if response.status != 403 or len(response.body) > ANSWER:
        return False
    try:
        errors = response.json().get("errors")
    except HttpFailure:
        return False
    if not isinstance(errors, list) or not all(isinstance(error, str) for error in errors):
        return False
    if any("invalid token" in error or "bad token" in error for error in errors):
        return True
    return provable and errors == ["permission denied"]


def checked_path(text: object, what: str) -> str:
    """Return a mount, role or path of the vault: segments of letters, digits, `_ . @ ~ -`, no `.` and no `..`.

    Raises:
        ConfigurationError: it is something else.
    """
    if isinstance(text, str) and _PATH.fullmatch(text):
        return text
    raise ConfigurationError(
        f"openbao {what} {text!r}: write segments of letters, digits and _.@~- without / at the ends"
    )
