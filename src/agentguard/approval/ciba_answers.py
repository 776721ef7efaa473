"""What a provider answers in poll mode (OpenID CIBA Core 1.0 sections 7.3, 10.1, 11 and 13); pure.

INVARIANT: nothing here raises, and no text holds a token, an `auth_req_id` or any part of a body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from agentguard._http import HttpFailure, Response
from agentguard._jwt import MAX_TOKEN
from agentguard.approval.provider import NoAnswer
from agentguard.model.lease import Secret

DEFAULT_INTERVAL: Final = 5.0
LONGEST_INTERVAL: Final = 3600
_AUTH_REQ_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,1024}")
_CODES: Final[Mapping[str, str]] = {
    "invalid_request": "the provider refuses the request",
    "invalid_scope": "the provider does not grant openid to this client",
    "expired_login_hint_token": "the provider says that the hint has expired",
    "unknown_user_id": "the provider does not know whom to ask",
    "unauthorized_client": "the provider does not let this client ask; allow the CIBA grant at the provider",
    "missing_user_code": "the provider wants a user code, which cannot be given here",
    "invalid_user_code": "the provider wants a user code, which cannot be given here",
    "invalid_binding_message": "the provider refuses the binding message; make it shorter with binding_length",
    "invalid_client": "the provider does not accept this client's assertion; check client_id, its key and the clock",
    "invalid_grant": "the provider knows no such question of this client",
    "unsupported_grant_type": "the provider does not know the CIBA grant; enable it",
    "access_denied": "the provider denies the request",
    "transaction_failed": "the provider says that the transaction failed",
}


@dataclass(frozen=True, slots=True)
class Started:
    """The provider asks the person.

    Args:
        id: the `auth_req_id`.
        expires_in: seconds.
        interval: least seconds between two polls.
    """

    id: str = field(repr=False)
    expires_in: int
    interval: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """What came with an approval; none of it is kept.

    Args:
        id_token: says who approved, or None.
        others: what has to be revoked, with its type hint (RFC 7009 section 2.1).
    """

    id_token: Secret | None
    others: tuple[tuple[Secret, str], ...] = ()


class Again(StrEnum):
    """Why another poll is made."""

    PENDING = "authorization_pending"
    SLOWER = "slow_down"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Ended:
    """There is no approval and there will be none.

    Args:
        why: for people.
        by_person: the person who was asked said no.
    """

    why: str
    by_person: bool = False


def valid_id(text: object) -> bool:
    """Tell whether a text can be an `auth_req_id` (section 7.3)."""
    return isinstance(text, str) and _AUTH_REQ_ID.fullmatch(text) is not None


def read_started(answer: Response | NoAnswer) -> Started | str:
    """Return what the provider says to a question, or why it does not ask."""
    if isinstance(answer, NoAnswer):
        return answer.why
    if answer.status != 200:
        return error_text(answer)
    document = _document(answer)
    ident, lifetime = document.get("auth_req_id"), document.get("expires_in")
    interval = document.get("interval", int(DEFAULT_INTERVAL))
    if not isinstance(ident, str) or not valid_id(ident) or type(lifetime) is not int or lifetime < 1:
        return "the provider's answer names no question and no end of it"
    if type(interval) is not int or not 0 < interval <= LONGEST_INTERVAL:
        return f"the provider's answer has an interval that is no whole number from 1 to {LONGEST_INTERVAL}"
    return Started(ident, lifetime, float(interval))


def read_polled(answer: Response | NoAnswer) -> Tokens | Again | Ended:
    """Return what a poll brought."""
    if isinstance(answer, NoAnswer) or answer.status == 429 or answer.status >= 500:
        return Again.UNAVAILABLE
    if answer.status == 200:
        return _tokens(_document(answer))
    code = _document(answer).get("error")
    if answer.status == 400 and code in (Again.PENDING, Again.SLOWER):
        return Again(code)
    if code == "expired_token":
        return Ended("the provider says that the question has expired")
    return Ended(error_text(answer), by_person=answer.status in (400, 403) and code == "access_denied")


def _tokens(document: Mapping[str, Any]) -> Tokens:
    found = {name: document.get(name) for name in ("id_token", "access_token", "refresh_token")}
    texts = {name: Secret(text) for name, text in found.items() if isinstance(text, str) and 0 < len(text) <= MAX_TOKEN}
    others = tuple((texts[name], name) for name in ("refresh_token", "access_token") if name in texts)
    return Tokens(texts.get("id_token"), others)


def error_text(answer: Response) -> str:
    """Return what an error answer means, in our words only."""
    code = _document(answer).get("error")
    if isinstance(code, str) and code in _CODES:
        return f"{code}: {_CODES[code]}"
    return f"the provider answered with status {answer.status} and no known error code"


def _document(answer: Response) -> Mapping[str, Any]:
    try:
        return answer.json()
    except HttpFailure:
        return {}
