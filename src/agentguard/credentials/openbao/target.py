"""What the vault has for one audience: the parts that a database role and a static secret share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeGuard, TypeVar

from msgspec.structs import replace

from agentguard._http import Response
from agentguard.credentials.openbao.vault import Refused, gone, refusal
from agentguard.errors import ConfigurationError
from agentguard.model.lease import Lease, Secret

V = TypeVar("V")
_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Received:
    """What the vault gave for a target.

    Args:
        secret: the password or the value.
        name: the user name, or the header's or parameter's.
        jti: the id that the vault gave it.
        seconds: it lives; 0 for what does not end by itself.
        problem: why it must not be used, or empty; it exists all the same.
    """

    secret: Secret
    name: str
    jti: str
    seconds: int = 0
    problem: str = ""


def checked_use(audience: object, scopes: object) -> None:
    """Check what a target is for.

    Raises:
        ConfigurationError: the audience is no text, or the scopes are no tuple of texts.
    """
    if not isinstance(audience, str) or "://" not in audience or not audience.isprintable():
        raise ConfigurationError(
            f"openbao target {audience!r}: write the tools' audience, such as postgresql://db.test/app"
        )
    if not isinstance(scopes, tuple) or not all(isinstance(scope, str) and scope for scope in scopes):
        raise ConfigurationError(f"openbao target {audience}: write scopes as a tuple of texts, the tools' own")


def is_line(text: object, longest: int) -> TypeGuard[str]:
    """Tell whether this is a text without control characters, neither empty nor too long."""
    if not isinstance(text, str):
        return False
    return 0 < len(text) <= longest and not any(character < " " or "\x7f" <= character < "\xa0" for character in text)


def ended_by(lease: Lease, received: Received, now: float) -> Lease:
    """Return the lease of what was received: no longer than it was prepared, and as short as the vault says."""
    # The vault counts from when it acted, which is later than `now`; the lease's leeway covers that.
    ends = min(lease.expires_at, now + received.seconds) if received.seconds else lease.expires_at
    return replace(
        lease, expires_at=ends, fingerprint=received.secret.fingerprint(), name=received.name, jti=received.jti
    )


def room_in(rows: dict[str, V]) -> dict[str, V]:
    """Drop the oldest rows of too many: their leases have expired long since."""
    for oldest in list(rows)[: len(rows) - _MOST + 1] if len(rows) >= _MOST else ():
        rows.pop(oldest, None)
    return rows


def unread(response: Response, path: str, what: str) -> Refused:
    """Say why nothing could be read for a target."""
    if gone(response, provable=True):
        return Refused(f"the vault knows the task's token no more, or not from this network: {path} was not read (403)")
    return refusal(response.status, f"reading {path}", f'path "{path}" with read, and that {what}')
