"""Turns an OpenID Connect ID token into the Subject of a task: `User.verified(token)`."""

from __future__ import annotations

from typing import Any

from agentguard._jwt import BAD_SIGNATURE, Keys, Profile, Rejection, examine, is_name
from agentguard.identity.jwt_file import RemoteKeys, keys_after
from agentguard.model.principal import Proof, Subject

_TYPES = frozenset({"jwt", ""})


class IdTokenVerifier:
    """Verifies ID tokens of one issuer for one client (OpenID Connect Core 1.0 section 3.1.3.7); a `SubjectVerifier`.

    Only `typ` `JWT` or none is taken, so an access token (`at+jwt`) proves no user here.

    Args:
        keys: the issuer's public keys, or a cache of its remote ones.
        issuer: exact `iss`.
        audience: the client id the token was issued to, exact `aud`.
        tenant_claim: the claim that names the tenant, or empty; a token without it is refused.
        leeway: seconds that clocks may differ, at most 60.
        max_lifetime: most seconds between `iat` and `exp`, at most 86,400.

    Raises:
        ConfigurationError: a bound is out of range, or the issuer or audience is empty.
    """

    suspends: bool = False

    def __init__(
        self,
        keys: Keys | RemoteKeys,
        issuer: str,
        audience: str,
        tenant_claim: str = "",
        *,
        leeway: int = 30,
        max_lifetime: int = 3600,
    ) -> None:
        self._keys: Any = keys
        self.waits = self.remote = hasattr(keys, "keys_for")
        self._tenant_claim = tenant_claim
        self._profile = Profile(
            typ=_TYPES,
            issuer=issuer,
            audience=audience,
            required=frozenset({"sub", tenant_claim} - {""}),
            leeway=leeway,
            max_lifetime=max_lifetime,
        )

    async def verify(self, token: str, now: float) -> Subject:
        """Return the subject that the token proves.

        Args:
            token: the ID token in compact form.
            now: seconds since the epoch.

        Raises:
            TokenRejected: it does not pass; the text holds nothing of it.
        """
        remote = getattr(self._keys, "keys_for", None)
        try:
            keys: Keys = await remote(token) if remote is not None else self._keys
            outcome = self._outcome(token, keys, now)
            if isinstance(outcome, Rejection) and outcome.why == BAD_SIGNATURE:
                newer = await keys_after(self._keys, keys)
                outcome = self._outcome(token, newer, now) if newer is not None else outcome
        finally:
            del token  # the traceback keeps this frame
        if isinstance(outcome, Rejection):
            raise outcome.raised()
        return outcome

    def _outcome(self, token: str, keys: Keys, now: float) -> Subject | Rejection:
        claims = examine(token, self._profile, keys, now)
        if isinstance(claims, Rejection):
            return claims
        tenant = claims[self._tenant_claim] if self._tenant_claim else ""
        if self._tenant_claim and not is_name(tenant):
            return Rejection("the tenant is no name")
        return Subject(name=claims["sub"], issuer=claims["iss"], tenant=tenant, proof=Proof.VERIFIED)
