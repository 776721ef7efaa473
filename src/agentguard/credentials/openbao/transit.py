"""The transit engine: keys that sign our tokens and never leave the vault.

A rotation at the vault (`transit/keys/NAME/rotate`) makes a version. It takes its turn as a key of a folder does: it is
published when it is seen, and signs once the propagation has passed; until then the version before it is asked for by
its number.

INVARIANT: an error that leaves here holds neither what was to be signed nor anything the vault wrote.
"""

from __future__ import annotations

import binascii
import re
import time
from collections.abc import Callable
from typing import Any, Final

from agentguard._http import Http, HttpFailure, Response
from agentguard._jwk import PublicKey
from agentguard.credentials.openbao.kept import Kept
from agentguard.credentials.openbao.login import TOKEN, JwtLogin, log_in
from agentguard.credentials.openbao.vault import ASKING, ENDING, Refused, Vault, checked_path, gone, members, refusal
from agentguard.credentials.openbao.versions import Versions, read_versions, verifies
from agentguard.errors import ConfigurationError, Unavailable
from agentguard.keys import KeySet, Times
from agentguard.keys.timetable import Timetable
from agentguard.model.lease import Secret

POLL: Final = 60.0  # seconds after which the vault is asked for its versions anew
_SIGNATURE: Final = re.compile(r"vault:v([1-9]\d{0,8}):([A-Za-z0-9_-]{86})", re.ASCII)
_STANDARD: Final = str.maketrans("-_", "+/")


class TransitKeys:
    """A key of the transit engine, whose versions take turns; the `Signers` of a local issuer. Safe for concurrent use.

    The key is `ecdsa-p256` (ES256) or `ed25519` (EdDSA), and one that could leave the vault is refused. Every signature
    is verified here before it is used. The policy of whoever asks: `read` on `MOUNT/keys/KEY`, `update` on
    `MOUNT/sign/KEY`.

    Args:
        http: sends.
        address: of the vault.
        key: the key's name.
        token: returns a token of the vault, whenever one is needed; or how one is had by a login.
        mount: where the engine is mounted.
        times: what a rotation waits for.
        ttl: most seconds that the login's token may live, 5 to 3600.
        namespace: of the vault; empty for the root namespace.
        monotonic: counts ages. clock: seconds since the epoch.

    Raises:
        ConfigurationError: a part is wrong.
    """

    suspends: bool = False
    waits: bool = True

    def __init__(
        self,
        http: Http,
        address: str,
        key: str,
        *,
        token: Callable[[], Secret] | JwtLogin,
        mount: str = "transit",
        times: Times | None = None,
        ttl: int = 600,
        namespace: str = "",
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if type(ttl) is not int or not 5 <= ttl <= 3600:
            raise ConfigurationError(f"openbao ttl {ttl!r}: write whole seconds from 5 to 3600")
        name, mounted = checked_path(key, "transit key"), checked_path(mount, "transit mount")
        self._reads, self._signs = f"{mounted}/keys/{name}", f"{mounted}/sign/{name}"
        self._vault, self._token, self._ttl = Vault(http, address, namespace), token, ttl
        self._times, self._clock = times or Times(), clock
        self._seen: dict[int, float] = {}
        self._login = Kept(self._logged_in, monotonic)
        self._versions = Kept(self._read, monotonic)

    async def current(self, now: float) -> TransitSigner:
        """Return the version that signs at a time.

        Raises:
            Unavailable: the vault cannot be asked, refused, or the key may not be used.
        """
        found = await self._versions.get()
        # A vault that fails for a moment at describing the key may still sign: the versions that are known do no harm.
        versions = found if isinstance(found, Versions) else self._versions.value if found.outage else None
        if versions is None:
            raise Unavailable(found.why if isinstance(found, Refused) else "the vault's key was never read")
        version = versions.signing(self._timetable(versions), now)
        return TransitSigner(version.public, version.number, self)

    def published(self, now: float) -> KeySet:
        """Return the public keys that verifiers need at a time; what is older than a minute is asked for anew.

        Raises:
            Unavailable: the vault has not answered yet: await `ready` first.
        """
        self._versions.renew()
        versions = self._versions.value
        if versions is None:
            raise Unavailable("the vault was not asked for its public keys yet; await ready() when the program starts")
        return KeySet(turn.public for turn in self._timetable(versions).published(now))

    async def ready(self) -> KeySet:
        """Return the public keys as the vault says them now.

        Raises:
            Unavailable: the vault cannot be asked, refused, or the key may not be used.
        """
        await self.current(self._clock())
        return self.published(self._clock())

    async def signed(self, data: bytes, public: PublicKey, version: int) -> bytes | Refused:
        """Return a signature of some bytes by a version, or why there is none."""

        def body() -> dict[str, Any]:
            return {
                "input": binascii.b2a_base64(data, newline=False).decode(), "key_version": version,
                "hash_algorithm": "sha2-256", "marshaling_algorithm": "jws", "prehashed": False,
            }  # fmt: skip

        outcome = await self._asked("POST", self._signs, body)
        if isinstance(outcome, Refused):
            return outcome
        signature = _signature(outcome, version)
        if signature is None:
            return refusal(outcome.status, self._signs, f'path "{self._signs}" with update')
        if not verifies(public, data, signature):
            return Refused(f"what the vault answered to {self._signs} is not the signature of the key it published")
        return signature

    async def _asked(self, method: str, path: str, body: Any = None) -> Response | Refused:
        token = await self._bearer()
        outcome = token if isinstance(token, Refused) else await self._ask(method, path, token, body)
        dead = isinstance(outcome, Response) and gone(outcome, provable=True)
        if dead and isinstance(token, Secret) and isinstance(self._token, JwtLogin):
            # It ended before its time; a new one is had once.
            self._login.forget(token)
            token = await self._bearer()
            outcome = token if isinstance(token, Refused) else await self._ask(method, path, token, body)
        return outcome

    async def _ask(self, method: str, path: str, token: Secret, body: Any = None) -> Response | Refused:
        try:
            return await self._vault.ask(method, path, seconds=ASKING, token=token, body=body, retry=True)
        except HttpFailure as failure:  # its frames hold what was to be signed
            return Refused(str(failure), outage=True)

    async def _bearer(self) -> Secret | Refused:
        if isinstance(self._token, JwtLogin):
            return await self._login.get()
        try:
            token: object = self._token()
        except Exception as error:
            return Refused(f"the vault's token cannot be had ({type(error).__name__})", outage=True)
        if isinstance(token, Secret) and TOKEN.fullmatch(token.reveal()):
            return token
        return Refused("the function that returns the vault's token returned none: it returns a Secret")

    async def _logged_in(self) -> tuple[Secret, float] | Refused:
        login = self._token
        assert isinstance(login, JwtLogin)  # noqa: S101  # asked for only then
        made = await log_in(self._vault, login, self._ttl, seconds=ASKING, now=self._clock())
        if made.problem:
            await self._vault.ask("POST", "auth/token/revoke-self", seconds=ENDING, token=made.secret)
            return Refused(made.problem)
        return made.secret, made.seconds * 2 / 3

    async def _read(self) -> tuple[Versions, float] | Refused:
        answer = await self._asked("GET", self._reads)
        found = answer if isinstance(answer, Refused) else read_versions(answer, self._reads)
        if isinstance(found, Refused):
            return found
        before = self._versions.value
        if before is not None:
            known = {version.number for version in before.known}
            new = [version.number for version in found.known if version.number not in known]
            self._seen.update(dict.fromkeys(new, self._clock()))
        return found, POLL

    def _timetable(self, versions: Versions) -> Timetable:
        return versions.timetable(self._times, self._seen)

    def __repr__(self) -> str:
        return f"<TransitKeys {self._vault.name} {self._reads}>"


class TransitSigner:
    """One version of a transit key; implements the port `Signer`.

    Args:
        public: its public half.
        version: its number.
        keys: ask the vault.
    """

    __slots__ = ("_keys", "public", "version")

    suspends: bool = False
    waits: bool = True

    def __init__(self, public: PublicKey, version: int, keys: TransitKeys) -> None:
        self.public, self.version, self._keys = public, version, keys

    @property
    def kid(self) -> str:
        """The thumbprint of the public half (RFC 7638)."""
        return self.public.kid

    @property
    def algorithm(self) -> str:
        """`ES256` or `EdDSA`."""
        return self.public.algorithm

    async def signature(self, data: bytes) -> bytes:
        """Return the raw JOSE signature of some bytes.

        Raises:
            Unavailable: the vault cannot be asked, or refused; the error holds nothing of the bytes.
        """
        outcome = await self._keys.signed(data, self.public, self.version)
        del data  # the traceback keeps this frame
        if isinstance(outcome, Refused):
            raise Unavailable(outcome.why)
        return outcome

    def __repr__(self) -> str:
        return f"<TransitSigner {self.algorithm} {self.kid}>"


def _signature(response: Response, version: int) -> bytes | None:
    answer = members(response)
    data = answer.get("data") if answer else None
    text = data.get("signature") if isinstance(data, dict) else None
    found = _SIGNATURE.fullmatch(text) if isinstance(text, str) else None
    if found is None or int(found[1]) != version:
        return None
    return binascii.a2b_base64(found[2].translate(_STANDARD) + "==")
