"""Ending what the vault gave: a task's token with all that hangs under it, or one lease alone."""

from __future__ import annotations

from agentguard._http import Response
from agentguard.credentials.openbao.vault import ENDING, Vault, gone, refusal
from agentguard.errors import CredentialUnavailable, Unavailable
from agentguard.model.lease import Ending, Secret

_DONE = (200, 204)
_PLAIN, _BOUND = "plain", "bound"


def sealed(vault: Vault, token: Secret, *, provable: bool) -> Secret:
    """Return a handle: whether a bare 403 will prove, to another process too, that it is gone; the vault; the token."""
    return Secret(f"{_PLAIN if provable else _BOUND} {vault.name} {token.reveal()}")


def opened(vault: Vault, handle: Secret) -> tuple[Secret, bool]:
    """Return the token of a handle, and whether a bare 403 proves that it is gone.

    Raises:
        CredentialUnavailable: the handle is of no vault, or of another one, which alone may see the token.
    """
    token, name, kind = _parts(handle)
    if kind not in (_PLAIN, _BOUND):
        raise CredentialUnavailable("the handle in the ledger is not one of this issuer")
    # INVARIANT: a token goes to the vault that made it; another one would learn it, and say that there is none.
    if name not in ("", vault.name):
        raise CredentialUnavailable(
            f"the token is of the vault {name}, and this broker asks {vault.name} now; put it back under `tokens` "
            "until its leases have ended"
        )
    return token, kind == _PLAIN


def _parts(handle: Secret) -> tuple[Secret, str, str]:
    kind, _, rest = handle.reveal().partition(" ")
    name, _, token = rest.rpartition(" ")  # one of before has no name
    return Secret(token), name, kind


async def is_free(vault: Vault, token: Secret, seconds: float) -> bool:
    """Tell whether a new token may look itself up and is bound to no network, so that a later 403 means its death."""
    try:
        return _bound_to_no_network(await vault.ask("GET", "auth/token/lookup-self", token=token, seconds=seconds))
    except Exception:  # it only makes the end harder to prove
        return False


async def end_token(vault: Vault, handle: Secret) -> Ending:
    """Revoke a task's token, and with it every lease under it.

    A token that the vault does not know any more has ended before: an earlier answer was lost, or it expired. That
    is said only where the vault's answer proves it; else it ends by its own time.

    Raises:
        CredentialUnavailable: it lives, and the policy does not let it revoke itself; or it is another vault's.
        Unavailable: nobody can tell now; ask again.
    """
    token, provable = opened(vault, handle)
    response = await vault.ask("POST", "auth/token/revoke-self", token=token, seconds=ENDING, retry=True)
    if response.status in _DONE:
        return Ending.REVOKED
    found: Ending | int = response.status
    if response.status == 403:
        found = _looked_up(
            await vault.ask("GET", "auth/token/lookup-self", token=token, seconds=ENDING, retry=True), provable=provable
        )
    if isinstance(found, Ending):
        return found
    raise refusal(found, "revoking the task's token", 'path "auth/token/revoke-self" with update').error()


def _looked_up(response: Response, *, provable: bool) -> Ending | int:
    """What is known of a token that may not revoke itself: how it ended, or a status that says why nobody can tell."""
    if gone(response, provable=provable):
        return Ending.REVOKED
    if gone(response, provable=True):
        return Ending.EXPIRES
    return 403 if response.status == 200 else response.status


async def end_lease(vault: Vault, lease_id: str, handle: Secret) -> Ending:
    """Revoke one lease; where the policy does not allow that, it ends with the task's token.

    Raises:
        CredentialUnavailable: it is another vault's.
        Unavailable: nobody can tell now; ask again.
    """
    token, provable = opened(vault, handle)
    response = await vault.ask(
        "POST", "sys/leases/revoke", token=token, seconds=ENDING, retry=True,
        body=lambda: {"lease_id": lease_id, "sync": True},
    )  # fmt: skip
    if response.status in _DONE or gone(response, provable=provable):
        return Ending.REVOKED
    if response.status in (403, 404):
        return Ending.WITH_PARENT
    if response.status == 400:  # measured: what the vault answers where it cannot reach the database
        raise Unavailable("the vault could not end the lease (400); can it reach the database?")
    raise refusal(response.status, "revoking a lease", 'path "sys/leases/revoke" with update').error()


def _bound_to_no_network(response: Response) -> bool:
    if response.status != 200:
        return False
    data = response.json().get("data")
    return isinstance(data, dict) and not data.get("bound_cidrs")
