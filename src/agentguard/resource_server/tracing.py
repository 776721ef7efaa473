"""What the API's own span says of a token: its id, so that the use of a dead credential is found in traces."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from opentelemetry import trace

CREDENTIAL_ID: Final = "agentguard.credential.id"
_LONGEST: Final = 256


def note_token(jti: str) -> None:
    """Put the id of a token on the span that is current, if there is one; nothing of it raises.

    A token that is refused is noted too, as it is when it was revoked: `agentguard audit bypass` holds the span's time
    against the log's.

    Args:
        jti: of a token whose signature held, or that its issuer called active (RFC 7519 section 4.1.7).
    """
    with suppress(Exception):
        trace.get_current_span().set_attribute(CREDENTIAL_ID, jti[:_LONGEST])
