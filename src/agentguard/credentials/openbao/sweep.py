"""Ending all leases of a database role, whoever holds them."""

from __future__ import annotations

from agentguard.credentials.openbao.database import Database
from agentguard.credentials.openbao.ending import end_token, sealed
from agentguard.credentials.openbao.login import JwtLogin, log_in
from agentguard.credentials.openbao.vault import ASKING, Vault, refusal
from agentguard.errors import CredentialUnavailable

_DONE = (200, 204)


async def sweep(vault: Vault, target: Database, login: JwtLogin, ttl: int, now: float) -> None:
    """Log in, revoke every lease whose id starts with the role's path, and end that login again.

    Raises:
        CredentialUnavailable: the login or the policy does not allow it.
        Unavailable: the vault is out of reach, or not all could be ended.
    """
    token = await log_in(vault, login, ttl, seconds=ASKING, now=now)
    path = f"sys/leases/revoke-prefix/{target.reads}"
    try:
        if token.problem:
            raise CredentialUnavailable(token.problem)
        response = await vault.ask(
            "POST", path, token=token.secret, seconds=ASKING, retry=True, body=lambda: {"sync": True}
        )
        if response.status not in _DONE:
            raise refusal(response.status, path, f'path "{path}" with sudo and update').error()
    finally:
        await end_token(vault, sealed(vault, token.secret, provable=False))
