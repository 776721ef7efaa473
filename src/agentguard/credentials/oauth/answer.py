"""What a token endpoint answers, held against what was asked: anything broader, or other, is refused.

INVARIANT: nothing here raises, and no text holds a token or any part of a body; an error's frames would keep them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentguard._http import HttpFailure, Response
from agentguard._jwt import MAX_TOKEN
from agentguard.credentials.oauth.details import covered
from agentguard.model.lease import Secret

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # b64token, RFC 6750 section 2.1
_REFRESH: Final = re.compile(rf"[\x20-\x7e]{{1,{MAX_TOKEN}}}")  # RFC 6749 appendix A.17
_VISIBLE: Final = re.compile(rf"[\x21-\x7e]{{1,{MAX_TOKEN}}}")  # RFC 6749 appendix A.12, without blanks
_DIGITS: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
# RFC 6749 section 5.2, RFC 8693 section 2.2.2, RFC 8707 section 2, RFC 9396 section 5, RFC 9449 sections 5 and 8.
_ERRORS: Final[Mapping[str, str]] = {
    "invalid_request": "it refuses the request, or the subject or actor token in it; the user may have to log in again",
    "invalid_client": "it does not accept this client's assertion; check client_id, the registered key and the clock",
    "invalid_grant": "it does not accept the subject token or assertion; the user may have to log in again",
    "unauthorized_client": "this client may not use this grant; allow it at the server",
    "unsupported_grant_type": "it does not know this grant; enable it at the server",
    "invalid_scope": "it does not grant these scopes to this client and subject",
    "invalid_target": "it does not know this audience, or not for this client",
    "invalid_authorization_details": "it does not accept these authorization_details; register their type",
    "invalid_dpop_proof": "it does not accept the DPoP proof; check the clock and the algorithm",
    "use_dpop_nonce": "it demands another DPoP nonce again and again",
    "unsupported_token_type": "it does not support this type of token",
    "access_denied": "it denies the request",
    "temporarily_unavailable": "it is overloaded for the moment",
    "server_error": "it failed",
}

_DOWN: Final = frozenset({"", "temporarily_unavailable", "server_error"})


@dataclass(frozen=True, slots=True)
class Refused:
    """There is no token that may be used.

    Args:
        why: for people; holds nothing secret.
        may_exist: a token may have been issued all the same.
        token: what was issued and has to be revoked.
        unsure: beside it another token may have been issued, by an attempt whose answer was lost.
        refresh: the refresh token that came with it, which has to be revoked too.
        lifetime: seconds that the token lives, as its answer says; 0 if it does not.
        ends_at: when the token ends (seconds since the epoch), where that is known; 0 once it is revoked.
        outage: the server is out of reach or out of order; it did not refuse.
    """

    why: str
    may_exist: bool = True
    token: Secret | None = None
    unsure: bool = False
    refresh: Secret | None = None
    lifetime: int = 0
    ends_at: float = 0.0
    outage: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a token has to be.

    Args:
        audience: exact `aud`.
        client_id: exact `client_id`.
        scopes, details: the most it may carry.
        issued_type: exact `issued_token_type` of a token exchange; empty where the grant answers without one.
        token_type: `Bearer` or `DPoP`.
        subject: exact `sub`, or empty for any.
        actors: the `sub` of every actor, the current one first; empty for a token without `act`.
        thumbprint: of the key it is bound to, or empty.
        max_lifetime: most seconds it may live.
        default_lifetime: seconds an opaque token lives when the server does not say; 0 to refuse such a one.
        enrichment: the server may add members to authorization details.
        leeway: seconds that clocks may differ.
    """

    audience: str
    client_id: str
    scopes: tuple[str, ...]
    issued_type: str
    max_lifetime: int
    details: tuple[Mapping[str, Any], ...] = ()
    token_type: str = "Bearer"  # noqa: S105  # a type, no token
    subject: str = ""
    actors: tuple[str, ...] = ()
    thumbprint: str = ""
    default_lifetime: int = 0
    enrichment: bool = False
    leeway: int = 30


@dataclass(frozen=True, slots=True)
class Answer:
    """A token that is, by what the answer says, what was asked for.

    Args:
        token: it.
        lifetime: `expires_in`, or 0 if the server does not say.
        details_said: the answer confirms the authorization details.
        unsure: an earlier attempt got no answer, so another token may exist.
    """

    token: Secret
    lifetime: int
    details_said: bool
    unsure: bool = field(default=False)


def is_jwt(token: Secret) -> bool:
    """Tell whether a token reads as a JWT; then it is verified as one."""
    text = token.reveal()
    return text.count(".") == 2 and text.startswith("eyJ")


def read_answer(response: Response, asked: Asked) -> Answer | Refused:
    """Return the token of an answer, or why it may not be used."""
    if response.status != 200:
        maybe = response.unsure or not (400 <= response.status < 500 or response.status == 503)
        down = (response.status == 429 or response.status >= 500) and error_code(response) in _DOWN
        return Refused(error_text(response), may_exist=maybe, outage=down)
    document = _document(response)
    if document is None:
        return Refused("its answer is no strict JSON object of the type application/json")
    token = document.get("access_token")
    if not isinstance(token, str) or not _VISIBLE.fullmatch(token):
        return Refused("its answer holds no access token that can be sent")
    secret = Secret(token)
    why = _difference(document, asked) if _TOKEN.fullmatch(token) else "its access token cannot be sent in a header"
    if why:
        refresh = document.get("refresh_token")
        also = Secret(refresh) if isinstance(refresh, str) and _REFRESH.fullmatch(refresh) else None
        lifetime = _lifetime_said(document.get("expires_in"))
        return Refused(why, token=secret, unsure=response.unsure, refresh=also, lifetime=lifetime)
    return Answer(secret, document.get("expires_in") or 0, bool(document.get("authorization_details")), response.unsure)


def _difference(document: Mapping[str, Any], asked: Asked) -> str:
    """Return in what an answer differs from what was asked, or nothing (RFC 6749 section 5.1, RFC 8693 2.2.1)."""
    return (
        _kind_differs(document, asked)
        or _lifetime_differs(document.get("expires_in"), asked)
        or _scope_differs(document.get("scope"), asked)
        or details_differ(document.get("authorization_details"), asked)
        or ("it sent a refresh token, which nobody asked for" if document.get("refresh_token") else "")
    )


def _kind_differs(document: Mapping[str, Any], asked: Asked) -> str:
    kind, issued = document.get("token_type"), document.get("issued_token_type")
    if not isinstance(kind, str) or kind.lower() != asked.token_type.lower():
        return f"its token_type is not {asked.token_type}, as it was asked for"
    if asked.issued_type and issued != asked.issued_type:
        return "its issued_token_type is missing, or not the one it was asked for"
    return ""


def _lifetime_differs(lifetime: object, asked: Asked) -> str:
    if lifetime is None:
        return ""
    if type(lifetime) is not int or not 0 < lifetime <= asked.max_lifetime:
        return f"its expires_in is no whole number from 1 to {asked.max_lifetime}, the max_lifetime configured here"
    return ""


def _lifetime_said(lifetime: object) -> int:
    """Return how long a token lives that is refused, also where that is said in a form that is refused; 0 for nothing.

    Nothing is accepted by this: it keeps a record from naming an end before the token's.
    """
    if isinstance(lifetime, str):
        return int(lifetime) if _DIGITS.fullmatch(lifetime) else 0
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not 0 < lifetime < math.inf:
        return 0
    return math.ceil(lifetime)


def _scope_differs(scope: object, asked: Asked) -> str:
    if scope is None:
        return ""
    if not isinstance(scope, str) or not set(asked.scopes).issuperset(scope.split()):
        return "its scope is broader than what was asked for"
    return ""


def details_differ(details: object, asked: Asked) -> str:
    """Return why granted details may not be used, or nothing; where nothing is said nothing differs."""
    if details is None or (details == [] and not asked.details):
        return ""
    if covered(details, asked.details, enrichment=asked.enrichment):
        return ""
    return "its authorization_details are not those that were asked for, nor narrower"


def error_code(response: Response) -> str:
    """Return the error code of an answer if it is a registered one, else an empty text."""
    document = _document(response) or {}
    code = document.get("error")
    return code if isinstance(code, str) and code in _ERRORS else ""


def error_text(response: Response) -> str:
    """Return what an error answer means, in our words only."""
    code = error_code(response)
    return f"{code}: {_ERRORS[code]}" if code else f"it answered with status {response.status} and no known error code"


def _document(response: Response) -> dict[str, Any] | None:
    try:
        return response.json()
    except HttpFailure:
        return None
