"""Who the workload is, and who the user is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from agentguard.model.lease import Secret
from agentguard.model.principal import Identity, Subject


@runtime_checkable
class Authenticator(Protocol):
    """Proves what this workload is. A raise means that nobody is identified, so nothing runs."""

    suspends: bool

    async def identify(self, now: float) -> Identity: ...


@runtime_checkable
class IdentityTokens(Protocol):
    """Tokens that prove this workload to somebody: for client authentication and for logins at a vault.

    A raise (`IdentityUnavailable`) means that there is none for this audience.
    """

    async def token(self, audience: str, now: float) -> Secret: ...


@runtime_checkable
class SubjectVerifier(Protocol):
    """Verifies what `User.verified(token)` carries. A raise is a deny."""

    suspends: bool

    async def verify(self, token: str, now: float) -> Subject: ...
