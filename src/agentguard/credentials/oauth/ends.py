"""When a token that may not be used ends all the same, as its server says: what is recorded until it does.

Nothing is verified by this. It only makes a lease longer, so that its record names no end before the token's.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any, Final

from agentguard._json import strict_json
from agentguard.credentials.oauth.answer import Refused, is_jwt
from agentguard.model.lease import Secret

_LATEST: Final = 253_370_764_800  # the year 9999: later than any end that can be written


def known_end(refused: Refused, now: float) -> float:
    """Return the latest end that is said of a token (seconds since the epoch), or 0 if none is.

    Args:
        refused: what came instead of a token that may be used.
        now: a moment at which it had been issued.
    """
    said = now + min(refused.lifetime, _LATEST) if refused.lifetime else 0.0
    claimed = _claimed_end(refused.token) if refused.token is not None and is_jwt(refused.token) else 0.0
    return min(max(said, claimed, refused.ends_at), _LATEST)


def _claimed_end(token: Secret) -> float:
    try:
        part = token.reveal().split(".")[1]
        claims = strict_json(binascii.a2b_base64(part.translate(_STANDARD) + "=" * (-len(part) % 4)))
    except Exception:  # it says no end that can be read
        return 0.0
    return end_in(claims)


_STANDARD: Final = str.maketrans("-_", "+/")


def end_in(claims: Mapping[str, Any]) -> float:
    """Return the `exp` of some claims, or 0 if it is no number of seconds."""
    said = claims.get("exp")
    return float(min(said, _LATEST)) if isinstance(said, int | float) and type(said) is not bool and said > 0 else 0.0
