"""Ending a token at its server (RFC 7009), and asking whether it is alive (RFC 7662)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from agentguard._http import HttpFailure
from agentguard.credentials.oauth.answer import Refused, error_code, error_text
from agentguard.credentials.oauth.client_auth import Fields
from agentguard.credentials.oauth.server import AuthorizationServer
from agentguard.errors import CredentialUnavailable
from agentguard.model.lease import Ending, Secret

REVOKE_SECONDS: Final = 4.0  # a release is shielded for five
_log: Final = logging.getLogger("agentguard")


async def revoke_token(server: AuthorizationServer, token: Secret) -> Ending:
    """End a token, or say that its server cannot; once more changes nothing.

    Raises:
        CredentialUnavailable: it may be alive still; ask again.
    """
    outcome = await _revoked(server, token)
    if not isinstance(outcome, Ending):
        raise CredentialUnavailable(f"the token is not revoked yet: {outcome}")
    return outcome


async def _revoked(server: AuthorizationServer, token: Secret) -> Ending | str:
    until = server.monotonic() + REVOKE_SECONDS
    known = await server.metadata(until)
    if isinstance(known, Refused):
        return known.why
    if not known.revocation_endpoint:
        return Ending.EXPIRES
    answer = await server.post(known.revocation_endpoint, lambda now: _fields(token), until)
    if isinstance(answer, Refused):
        return answer.why
    if answer.status == 200:
        return Ending.REVOKED
    if answer.status == 400 and error_code(answer) == "unsupported_token_type":
        return Ending.EXPIRES
    if answer.status == 401:
        _log.error(
            "%s refuses the credentials of client %s: nothing is revoked", server.issuer, server.client.client_id
        )
    return error_text(answer)


async def introspect_token(server: AuthorizationServer, token: Secret, until: float) -> Mapping[str, Any] | str:
    """Return what the server says about a token, or why that is not known; nothing is kept.

    Args:
        server: that issued it.
        token: the token.
        until: monotonic seconds.
    """
    known = await server.metadata(until)
    if isinstance(known, Refused):
        return known.why
    if not known.introspection_endpoint:
        return "the server offers no introspection, which is configured here"
    answer = await server.post(known.introspection_endpoint, lambda now: _fields(token), until)
    if isinstance(answer, Refused):
        return answer.why
    if answer.status != 200:
        return f"introspection failed: {error_text(answer)}"
    try:
        return answer.json()
    except HttpFailure:
        return "introspection answered with no strict JSON object"


async def _fields(token: Secret) -> Fields:
    return [("token", token.reveal()), ("token_type_hint", "access_token")]
