"""The identity of a workload that nothing attests: it is named in this process, and every record says so."""

from __future__ import annotations

import math
from typing import NoReturn

from agentguard.errors import IdentityUnavailable
from agentguard.model.principal import Identity, Proof


class StaticIdentity:
    """Proves nothing: agents are who this process says they are. Implements `Authenticator` and `IdentityTokens`."""

    suspends: bool = False
    waits: bool = False

    async def identify(self, now: float) -> Identity:
        """Return an identity without a name, proof `in_process`."""
        return Identity("", Proof.IN_PROCESS, math.inf)

    async def token(self, audience: str, now: float) -> NoReturn:
        """Refuse: there is no platform that would vouch for this workload.

        Raises:
            IdentityUnavailable: always.
        """
        raise IdentityUnavailable(
            f"a token for {audience!r} needs an attested identity: "
            "configure identity: {jwt_file: {...}} or identity: {spiffe: {...}}"
        )

    def __repr__(self) -> str:
        return "<StaticIdentity>"
