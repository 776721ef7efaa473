"""How a credential is put on a request: pure rules that every HTTP client's hook shares."""

from __future__ import annotations

import base64
import re
from typing import Final
from urllib.parse import quote, urlsplit

from agentguard._drive import drive
from agentguard.access import current_call, current_credential
from agentguard.errors import CredentialUnavailable
from agentguard.model.credential import Credential
from agentguard.model.lease import Placement

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# Two searches, one after the other: one expression for both takes quadratic time on a long challenge.
_DPOP: Final = re.compile(r"\bDPoP\b", re.IGNORECASE)
_USE_NONCE: Final = re.compile(r'error="use_dpop_nonce"', re.IGNORECASE)


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL (RFC 6454 section 4)."""
    parts = urlsplit(url)
    port = parts.port if parts.port is not None else _DEFAULT_PORTS.get(parts.scheme, -1)
    return parts.scheme, (parts.hostname or "").lower(), port


def origin_text(url: str) -> str:
    """The origin as text, to keep something by it."""
    scheme, host, port = origin(url)
    return f"{scheme}://{host}:{port}"


def credential_for(url: str) -> Credential:
    """Return the running call's credential, if a request to this URL may carry it.

    Raises:
        CredentialUnavailable: there is none (see `current_credential`), or the request goes elsewhere.
    """
    lost = current_call().credential
    if lost is not None and lost.leaked:
        drive(lost.renew())  # whoever sends without waiting in a loop waits for the answer as well
    credential = current_credential()
    if origin(url) != origin(credential.audience):
        raise CredentialUnavailable(
            f"this credential is for {credential.audience}; the request goes to {urlsplit(url).hostname!r}, "
            "which gets none. Use a client without GuardAuth for other hosts"
        )
    if credential.lease.placement is Placement.LOGIN:
        raise CredentialUnavailable(
            f"the credential for {credential.audience} is a database login; use agentguard.clients.sqlalchemy, or read "
            "its username and password inside the call"
        )
    return credential


def header_names(credential: Credential) -> tuple[str, ...]:
    """Names, in lower case, of the headers that the credential takes; whatever else put there is dropped."""
    match credential.lease.placement:
        case Placement.DPOP:
            return ("authorization", "dpop")
        case Placement.HEADER:
            return (credential.lease.name.lower(),)
        case Placement.QUERY:
            return ()
    return ("authorization",)


def headers_of(credential: Credential, method: str, url: str, nonce: str = "") -> list[tuple[str, str]]:
    """The headers that put the credential on a request (RFC 6750 section 2.1, RFC 9449 section 7.1, RFC 7617)."""
    lease = credential.lease
    match lease.placement:
        case Placement.DPOP:
            proof = credential.proof(method, url, nonce)
            return [("Authorization", f"DPoP {credential.token}"), ("DPoP", proof)]
        case Placement.HEADER:
            return [(lease.name, credential.token)]
        case Placement.BASIC:
            pair = base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()
            return [("Authorization", f"Basic {pair}")]
        case Placement.QUERY:
            return []
    return [("Authorization", f"Bearer {credential.token}")]


def query_of(credential: Credential) -> str:
    """The query parameter that puts the credential on a request, percent-encoded, or nothing."""
    if credential.lease.placement is not Placement.QUERY:
        return ""
    return f"{quote(credential.lease.name, safe='')}={quote(credential.token, safe='')}"


def wants_nonce(status: int, challenge: str) -> bool:
    """Tell whether a resource server refused a proof only because its nonce is missing or old (RFC 9449 section 9)."""
    found = _DPOP.search(challenge) if status == 401 else None
    return found is not None and _USE_NONCE.search(challenge, found.end()) is not None


def refused(audience: str) -> CredentialUnavailable:
    """The error of a target that refuses a fresh credential too."""
    return CredentialUnavailable(
        f"{audience} refused a credential that was just issued for it (401); look at what the target accepts: its "
        "issuer, audience and scopes"
    )
