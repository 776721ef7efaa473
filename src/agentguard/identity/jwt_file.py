"""The identity that a platform writes into a file: a projected Kubernetes token, or a CI system's OpenID Connect token.

The platform rotates the file, so it is read anew when it changed, and every few seconds in any case.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from agentguard._json import strict_json
from agentguard._jwt import BAD_SIGNATURE, Keys, Profile, Rejection, examine
from agentguard.errors import ConfigurationError, IdentityUnavailable, TokenRejected
from agentguard.identity.offload import offloaded
from agentguard.identity.token_file import Reading, Stamp, Unreadable, read_token, warn_if_writable
from agentguard.model.lease import Secret
from agentguard.model.principal import Identity, Proof

LOOK: Final = 5.0  # seconds after which a file that seems unchanged is read anyway: times of files are coarse
_EXPIRED: Final = "the token has expired"  # what the strict profile says, after it verified the signature
_TYPES: Final = frozenset({"jwt", ""})


class RemoteKeys(Protocol):
    """A cache of a remote JWK set: it knows which keys a token needs, and fetches them."""

    async def keys_for(self, token: str) -> Keys: ...


@dataclass(frozen=True, slots=True)
class _Held:
    """The last token that passed, and which reading of the file it came from."""

    secret: Secret
    identity: Identity
    stamp: Stamp
    look_at: float


class JwtFileIdentity:
    """Proves the workload by a JWT in a file (RFC 7519, RFC 8725); implements `Authenticator` and `IdentityTokens`.

    A token that does not pass, as a file does while it is being written, leaves the one before in force until that
    expires. A file that is gone proves nothing from then on. Safe for threads.

    Args:
        path: the token's file; links are followed, as Kubernetes swaps one.
        issuer: exact `iss`.
        audience: exact `aud`, as text or as a list of this one.
        keys: the issuer's public keys, or a cache that fetches them.
        leeway: seconds that clocks may differ, at most 60.
        max_lifetime: most seconds between `iat` and `exp`, at most 86,400.
        monotonic: counts the seconds between readings.

    Raises:
        ConfigurationError: a bound is out of range, or the path, issuer or audience is empty.
    """

    suspends: bool = False
    waits: bool = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        issuer: str,
        audience: str,
        keys: Keys | RemoteKeys,
        *,
        leeway: int = 30,
        max_lifetime: int = 3600,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not os.fspath(path):
            raise ConfigurationError("identity: jwt_file needs the path of the token's file")
        self._path = str(Path(path).absolute())  # the process may change its working directory
        warn_if_writable(self._path)
        self._keys = keys
        self._monotonic = monotonic
        self._held: _Held | None = None
        self._profile = Profile(
            typ=_TYPES,
            issuer=issuer,
            audience=audience,
            required=frozenset({"sub"}),
            leeway=leeway,
            max_lifetime=max_lifetime,
        )

    async def identify(self, now: float) -> Identity:
        """Return the token's `sub` and `exp`, with proof `attested`.

        Args:
            now: seconds since the epoch.

        Raises:
            IdentityUnavailable: there is no token that passes and has not expired.
        """
        return (await self._current(now)).identity

    async def token(self, audience: str, now: float) -> Secret:
        """Return the file's token, for the one audience it was made for.

        Args:
            audience: who will verify it.
            now: seconds since the epoch.

        Raises:
            IdentityUnavailable: it was made for another audience, or there is none that passes.
        """
        if audience != self._profile.audience:
            raise IdentityUnavailable(
                f"the token in {self._path!r} is for {self._profile.audience!r}, not for {audience!r}: "
                "let the platform write one for it into a file of its own"
            )
        return (await self._current(now)).secret

    def __repr__(self) -> str:
        return f"<JwtFileIdentity {self._path}>"

    async def _current(self, now: float) -> _Held:
        found = await self._found(now)
        if isinstance(found, str):
            raise IdentityUnavailable(f"workload token {self._path!r}: {found}")
        return found

    async def _found(self, now: float) -> _Held | str:
        held, look_at = self._held, self._monotonic() + LOOK
        known = held.stamp if held is not None and self._monotonic() < held.look_at else None
        reading = await offloaded(partial(read_token, self._path, known))
        why = ""
        if reading is not None:
            outcome = await self._examined(reading, now, look_at)
            if isinstance(outcome, _Held):
                held = self._held = outcome
            else:
                why = outcome
        if isinstance(reading, Unreadable) and reading.gone:
            held = self._held = None
        if held is not None and now < held.identity.expires_at:
            return held
        return why or _expired_at(held.identity.expires_at if held is not None else now)

    async def _examined(self, reading: Reading | Unreadable, now: float, look_at: float) -> _Held | str:
        if isinstance(reading, Unreadable):
            return reading.why
        keys = await self._keys_for(reading.secret)
        if isinstance(keys, str):
            return keys
        claims = examine(reading.secret.reveal(), self._profile, keys, now)
        if isinstance(claims, Rejection) and claims.why == BAD_SIGNATURE:
            newer = await keys_after(self._keys, keys)
            claims = examine(reading.secret.reveal(), self._profile, newer, now) if newer is not None else claims
        if isinstance(claims, Rejection):
            return _expired_at(_expiry(reading.secret)) if claims.why == _EXPIRED else claims.why
        if not now < claims["exp"]:
            return _expired_at(claims["exp"])
        identity = Identity(claims["sub"], Proof.ATTESTED, float(claims["exp"]), claims["iss"])
        return _Held(reading.secret, identity, reading.stamp, look_at)

    async def _keys_for(self, secret: Secret) -> Keys | str:
        """Return the keys that the token may be signed with, or why there are none."""
        fetch = getattr(self._keys, "keys_for", None)
        if fetch is None:
            return self._keys  # type: ignore[return-value]  # without keys_for it is a set of keys
        try:
            keys: Keys = await fetch(secret.reveal())
        except TokenRejected as error:  # nothing was fetched for what is no token
            return error.why
        except Exception:  # whatever kept the keys away; its frames hold the token, so it goes no further
            return "the keys of its issuer are out of reach"
        return keys


async def keys_after(source: object, keys: Keys) -> Keys | None:
    """Return newer keys of a remote set, for a signature that does not verify with these: a kid may have got a new key.

    Args:
        source: a cache of remote keys, or keys that stay as they are.
        keys: what it gave before.
    """
    newer = getattr(source, "keys_after", None)
    try:
        found: Keys | None = await newer(keys) if newer is not None else None
    except Exception:  # then those that are known decide
        return None
    return found


def _expiry(secret: Secret) -> float:
    """Read `exp` of a token whose signature was verified."""
    payload = secret.reveal().split(".")[1]
    return float(strict_json(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])


def _expired_at(expires_at: float) -> str:
    until = datetime.fromtimestamp(expires_at, UTC).isoformat(timespec="seconds")
    return f"its token was good until {until} and the platform has written no newer one"
