"""Security event tokens (RFC 8417) in the strict profile of Shared Signals 1.0 section 4.

INVARIANT: when an error leaves this module, no frame, cause or context of it holds the token or its claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentguard._jwt import BAD_SIGNATURE, MAX_LEEWAY, Keys, Rejection, signed_claims
from agentguard.errors import AgentguardError, ConfigurationError
from agentguard.signals.subjects import SubjectId, parse_subject

TYPES: Final = frozenset({"secevent+jwt", "application/secevent+jwt"})
_CAEP: Final = "https://schemas.openid.net/secevent/caep/event-type/"
_SSF: Final = "https://schemas.openid.net/secevent/ssf/event-type/"
SESSION_REVOKED: Final = f"{_CAEP}session-revoked"
CREDENTIAL_CHANGE: Final = f"{_CAEP}credential-change"
VERIFICATION: Final = f"{_SSF}verification"
STREAM_UPDATED: Final = f"{_SSF}stream-updated"
_END_OF_TIME: Final = 253_402_300_799
UNKNOWN_KEY: Final = "the token names no known key"
_KEY_PROBLEMS: Final = (
    BAD_SIGNATURE,
    UNKNOWN_KEY,
    "the signature algorithm is not accepted",
    "the signature algorithm is not the one of its key",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a SET is refused, in words that are safe to send back and to log.

    Args:
        err: a code of the registry that RFC 8935 section 7.1 sets up, or `invalid_state` of Shared Signals 1.0.
        description: holds no part of the token.
    """

    err: str
    description: str


class SetRejected(AgentguardError):
    """A security event token was refused; the text holds nothing of it.

    Args:
        err: the code to answer with (RFC 8935 section 2.4).
        description: what is wrong.
    """

    reason = "token_rejected"

    def __init__(self, err: str, description: str) -> None:
        self.err, self.description = err, description
        super().__init__(f"{err}: {description}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetProfile:
    """What a SET has to be.

    Args:
        issuer: exact `iss` of the transmitter.
        audience: exact `aud`: this receiver.
        leeway: seconds that clocks may differ, at most 60.
        max_age: most seconds since `iat`. A transmitter delivers late after an outage; what is older than what we
            remember as seen could be played back.
        extra_audiences: accept a SET that is also meant for others.

    Raises:
        ConfigurationError: a part is empty or out of bounds.
    """

    issuer: str
    audience: str
    leeway: int = 30
    max_age: int = 86_400
    extra_audiences: bool = False

    def __post_init__(self) -> None:
        if not self.issuer or not self.audience:
            raise ConfigurationError("a receiver needs the transmitter's issuer and its own audience, as text")
        if type(self.leeway) is not int or not 0 <= self.leeway <= MAX_LEEWAY:
            raise ConfigurationError(f"leeway {self.leeway!r}: write seconds from 0 to {MAX_LEEWAY}")
        if type(self.max_age) is not int or not 60 <= self.max_age <= 30 * 86_400:
            raise ConfigurationError(f"max_age {self.max_age!r}: write whole seconds from 60 to 30 days")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityEvent:
    """The one event of a verified SET.

    Args:
        issuer, jti: together they name the SET.
        issued_at: `iat`, seconds since the epoch.
        happened_at: `event_timestamp`, or `iat` where there is none.
        type: the event's URI.
        subject: whom it is about.
        payload: the event's own members.
    """

    issuer: str
    jti: str
    issued_at: int
    happened_at: float
    type: str
    subject: SubjectId
    payload: Mapping[str, Any] = field(repr=False)


def examine_set(token: str, profile: SetProfile, keys: Keys, now: float) -> SecurityEvent | Fault:
    """Return the event of a SET, or why it is refused; it never raises, so a caller can drop the token first."""
    claims = signed_claims(token, TYPES, keys)
    if isinstance(claims, Rejection):
        return Fault("invalid_key" if claims.why in _KEY_PROBLEMS else "invalid_request", claims.why)
    try:
        return _event(claims, profile, now)
    except Exception:  # deny by default: whatever breaks here breaks on the claims
        return _invalid("the SET is malformed")


def _invalid(description: str) -> Fault:
    return Fault("invalid_request", description)


def _event(claims: Mapping[str, Any], profile: SetProfile, now: float) -> SecurityEvent | Fault:
    if fault := _claims_fault(claims, profile, now):
        return fault
    subject = parse_subject(claims["sub_id"])
    if subject is None:
        return _invalid("sub_id is no subject identifier of a format that is known here (RFC 9493)")
    ((kind, payload),) = claims["events"].items()
    if not isinstance(payload, dict):
        return _invalid("the event is no object")
    happened_at = payload.get("event_timestamp", claims["iat"])
    if type(happened_at) not in (int, float) or not 0 <= happened_at <= now + profile.leeway:
        return _invalid("event_timestamp is no time in seconds that has passed")
    return SecurityEvent(
        issuer=claims["iss"], jti=claims["jti"], issued_at=claims["iat"], happened_at=happened_at, type=kind,
        subject=subject, payload=payload,
    )  # fmt: skip


def _claims_fault(claims: Mapping[str, Any], profile: SetProfile, now: float) -> Fault | None:
    # `iss` and `aud` first: what is meant for somebody else is not ours to judge.
    if claims.get("iss") != profile.issuer or not isinstance(claims["iss"], str):
        return Fault("invalid_issuer", "the issuer is not the transmitter that is expected here")
    if not _is_for(claims.get("aud"), profile):
        return Fault("invalid_audience", "the audience is not this receiver, or not this receiver alone")
    for name in ("exp", "sub"):
        if name in claims:
            return _invalid(f"a SET has no claim {name} (Shared Signals 1.0 section 4.1)")
    if not _is_id(claims.get("jti")):
        return _invalid("the claim jti is missing, or no text of at most 256 printable characters")
    events = claims.get("events")
    if not isinstance(events, dict) or len(events) != 1:
        return _invalid("a SET has exactly one event here")
    return _times_fault(claims, profile, now)


def _times_fault(claims: Mapping[str, Any], profile: SetProfile, now: float) -> Fault | None:
    for name in ("iat", "nbf"):
        # bool is an int to isinstance.
        if (name == "iat" or name in claims) and not (
            type(claims.get(name)) is int and 0 <= claims[name] <= _END_OF_TIME
        ):
            return _invalid(f"the claim {name} is no whole number of seconds")
    # Written so that a `now` that is no number denies.
    if not max(claims["iat"], claims.get("nbf", 0)) <= now + profile.leeway:
        return _invalid("the SET is not valid yet")
    if not claims["iat"] > now - profile.max_age:
        return _invalid("the SET was issued too long ago")
    return None


def _is_for(audience: object, profile: SetProfile) -> bool:
    entries = [audience] if isinstance(audience, str) else audience
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        return False
    return profile.audience in entries and (len(entries) == 1 or profile.extra_audiences)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable()
