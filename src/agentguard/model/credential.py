"""What an issuer returns for a lease, and Credential: what one call has of it, until it ends."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn, Protocol

from msgspec import Struct

from agentguard.errors import CredentialUnavailable
from agentguard.model.lease import Lease, Placement, Secret


class Prover(Protocol):
    """A key that a credential is bound to (RFC 9449); it stays where it was made."""

    def proof(self, method: str, url: str, token: str = "", nonce: str = "") -> str:
        """Return a new proof for one request: a `dpop+jwt` with a fresh `jti`."""
        ...


class Issued(Struct, frozen=True):
    """What an issuer returns.

    Args:
        lease: everything about the credential but its secret.
        secret: the token or password.
        handle: what `Issuer.revoke` needs beside the lease, if anything; kept sealed in the ledger.
        prover: the key it is bound to, or None for a bearer credential.
    """

    lease: Lease
    secret: Secret
    handle: Secret | None = None
    prover: Prover | None = None


class Shared(Protocol):
    """What holds a lease for the calls that share it."""

    @property
    def revoked(self) -> bool: ...
    @property
    def leaked(self) -> bool: ...


class _Alone:
    revoked = leaked = False


_ALONE: Final[Shared] = _Alone()


class Credential:
    """The credential of the running call; after the call it holds nothing.

    `token` raises `CredentialUnavailable` once the call has ended, also in a thread that outlived it, and once the
    lease was revoked, as when its task is suspended while the call runs.
    """

    __slots__ = ("_prover", "_secret", "_shared", "lease", "renewed_by")

    renewed_by: Callable[[str], Coroutine[Any, Any, None]] | None
    """How another is obtained, for a lease that was refused; the guard says so."""

    def __init__(self, issued: Issued, shared: Shared = _ALONE) -> None:
        self.renewed_by = None
        self._shared = shared
        self.lease = issued.lease
        self._secret: Secret | None = issued.secret
        self._prover = issued.prover

    def take(self, issued: Issued, shared: Shared = _ALONE) -> None:
        """Stand for this one from now on; the guard calls it."""
        self.lease, self._shared = issued.lease, shared
        self._secret = issued.secret
        self._prover = issued.prover

    @property
    def token(self) -> str:
        """The bearer token; never put it into a message, a result or a log.

        Raises:
            CredentialUnavailable: the call it was obtained for has ended, or it was revoked.
        """
        return self._revealed().reveal()

    @property
    def username(self) -> str:
        """The user name of a login, such as a database role's; empty for a token."""
        return self.lease.name if self.lease.placement in (Placement.LOGIN, Placement.BASIC) else ""

    @property
    def password(self) -> str:
        """The password of a login; never put it into a message, a result or a log.

        Raises:
            CredentialUnavailable: the call it was obtained for has ended, or it was revoked, or it is no login.
        """
        if self.lease.placement not in (Placement.LOGIN, Placement.BASIC):
            raise CredentialUnavailable(f"a credential of type {self.lease.type} has no password; read its token")
        return self._revealed().reveal()

    def _revealed(self) -> Secret:
        secret = self._secret
        if secret is None:
            raise CredentialUnavailable(
                "the call this credential was obtained for has ended; obtain it inside the call"
            )
        if self.leaked:
            raise CredentialUnavailable(
                "another call leaked this credential, so it was revoked; `await credential.renew()` obtains another one"
            )
        if self._shared.revoked:
            raise CredentialUnavailable(
                "this credential was revoked while its call runs: its task has ended or was stopped, or it leaked"
            )
        return secret

    def proof(self, method: str, url: str, nonce: str = "") -> str:
        """Return a DPoP proof for one request with this token, or "" for one that is bound to no key (RFC 9449).

        Raises:
            CredentialUnavailable: the call it was obtained for has ended, or it was revoked.
        """
        token = self.token
        return self._prover.proof(method, url, token, nonce) if self._prover is not None else ""

    async def renew(self, refused: str = "") -> None:
        """Let go of this one, because its target refused it or it ends, and stand for a new one.

        Args:
            refused: id of the lease that was refused; where this stands for another one by now, nothing is obtained.

        Raises:
            CredentialUnavailable: the call or its task has ended or is stopped, or no other credential could be had.
        """
        renewed_by = self.renewed_by
        if renewed_by is None or self._secret is None:
            raise CredentialUnavailable("this credential cannot be renewed; its call has ended")
        await renewed_by(refused or self.lease.id)

    @property
    def audience(self) -> str:
        """The origin it is for."""
        return self.lease.key.audience

    @property
    def live(self) -> bool:
        """Whether the call it belongs to is still running, and nobody revoked it."""
        return self._secret is not None and not self._shared.revoked

    @property
    def revoked(self) -> bool:
        """Whether it was revoked while its call runs: its task has ended or was stopped, or it leaked."""
        return self._secret is not None and self._shared.revoked

    @property
    def leaked(self) -> bool:
        """Whether it was revoked because another call that shares it leaked it; then `renew` obtains another one."""
        return self._secret is not None and self._shared.leaked

    def release(self) -> None:
        """Forget the secret."""
        self._secret = self._prover = self.renewed_by = None

    def __repr__(self) -> str:
        return f"<Credential {self.lease.id} for {self.audience}, {'live' if self.live else 'ended'}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a credential can be neither copied nor pickled")
