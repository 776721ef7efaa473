"""Token Status List, the verifier's side (draft-ietf-oauth-status-list section 8.3): whether a token still counts."""

from __future__ import annotations

import binascii
import hashlib
import logging
import re
import time
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentguard._http import Http, HttpFailure, Request, Response, checked_url
from agentguard._jwks import Jwks
from agentguard._jwt import BAD_SIGNATURE, Keys, Rejection, signed_claims
from agentguard.errors import ConfigurationError, Unavailable
from agentguard.resource_server.answers import Answers, Busy
from agentguard.resource_server.rejection import UNAVAILABLE
from agentguard.resource_server.status_list import BITS, MEDIA_TYPE, Status, status_at

MOST_LISTS: Final = 64
MOST_BYTES: Final = 1 << 22  # 33 million tokens of one bit
MOST_CHARACTERS: Final = 1 << 21
MOST_SECONDS: Final = 3600.0
_TYP: Final = frozenset({"statuslist+jwt", "application/statuslist+jwt"})
_ACCEPT: Final = {"accept": MEDIA_TYPE}
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")
_STANDARD: Final = str.maketrans("-_", "+/")
_log: Final = logging.getLogger("agentguard")


@dataclass(frozen=True, slots=True, repr=False)
class _List:
    """A list that was fetched and verified, or why there is none."""

    bits: int = 1
    packed: bytes = b""
    expires_at: float = 0.0
    why: str = ""


class StatusListCheck:
    """Looks up what the `status` claim of a verified token points to. Safe for threads and event loops.

    Args:
        keys: of those who sign the lists: a `KeySet`, or a `Jwks` of the issuer.
        http: fetches the lists.
        uris: the only lists that are fetched; None for any public URI that a verified token names.
        default_ttl: seconds for which a list serves that says no `ttl`.
        max_ttl: most seconds for which a list serves, whatever it says, at most 3600.
        failed_seconds: how long a list that could not be had is not asked for again.
        leeway: seconds that clocks may differ, for `iat`; at most 60. None for `exp`.
        max_bytes: most bytes of an unpacked list.
        clock: seconds since the epoch.
        monotonic: seconds, for what is kept.

    Raises:
        ConfigurationError: a URI is refused, or a bound is out of range.
    """

    def __init__(
        self,
        keys: Keys | Jwks,
        http: Http,
        *,
        uris: Collection[str] | None = None,
        default_ttl: float = 60.0,
        max_ttl: float = 300.0,
        failed_seconds: float = 5.0,
        leeway: int = 30,
        max_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < default_ttl <= max_ttl <= MOST_SECONDS or not 0 <= failed_seconds <= max_ttl:
            raise ConfigurationError(
                f"write seconds with 0 < default_ttl <= max_ttl <= {MOST_SECONDS:.0f}, failed_seconds up to max_ttl"
            )
        if not 0 <= leeway <= 60 or type(max_bytes) is not int or max_bytes < 1:
            raise ConfigurationError("leeway is 0 to 60 seconds, and max_bytes a whole number from 1")
        if isinstance(uris, str):
            raise ConfigurationError('uris is a list: uris=["https://as.bank.test/status/1"]')
        self._uris = (
            None if uris is None else frozenset(checked_url(u, what="uris", networks=http.networks) for u in uris)
        )
        self._keys, self._http, self._clock = keys, http, clock
        self._default, self._most, self._failed = default_ttl, max_ttl, failed_seconds
        self._leeway, self._max_bytes = leeway, max_bytes
        self._answers: Answers[_List] = Answers(MOST_LISTS, monotonic)

    async def refusal(self, status: object, now: float, seconds: float) -> Rejection | None:
        """Return why a token is refused by its status, or None if it is valid; it never raises.

        Args:
            status: the claim of a token that passed everything else.
            now: seconds since the epoch.
            seconds: how long fetching the list may take.
        """
        reference = _reference(status)
        if reference is None:
            return Rejection("the status of the token is malformed, or of a kind that is not looked up here")
        index, uri = reference
        if self._uris is not None and uri not in self._uris:
            return Rejection("the token names a status list that this API does not trust")
        found = await self._list(uri, seconds)
        if not found.why and not now < found.expires_at:
            found = _List(why="the status list has expired")
        if found.why:
            return Rejection("the status of the token cannot be found out at the moment", UNAVAILABLE)
        if index >= len(found.packed) * 8 // found.bits:
            return Rejection("the status of the token is not in its list")
        value = status_at(found.packed, found.bits, index)
        if value == Status.VALID:
            return None
        return Rejection("the token has been suspended" if value == Status.SUSPENDED else "the token has been revoked")

    async def _list(self, uri: str, seconds: float) -> _List:
        key = hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()
        try:
            return await self._answers.get(key, lambda: self._fetched(uri, seconds), seconds)
        except TimeoutError:
            return _List(why="it did not come in time")
        except Busy:
            return _List(why="too many are being fetched")
        except Exception as error:  # deny by default
            return _List(why=f"it could not be fetched ({type(error).__name__})")

    async def _fetched(self, uri: str, seconds: float) -> tuple[_List, float]:
        read = await self._read(uri, seconds)
        if isinstance(read, str):
            _log.warning("a status list cannot be used, so tokens that name it are refused: %s", read)
            return _List(why=read), self._failed
        return read

    async def _read(self, uri: str, seconds: float) -> tuple[_List, float] | str:
        try:
            answer = await self._http.send(lambda: Request(method="GET", url=uri, headers=_ACCEPT), deadline=seconds)
        except HttpFailure as failure:
            return failure.why
        token = _text(answer)
        if token is None:
            return f"the answer ({answer.status}) is no status list token of the type {MEDIA_TYPE}"
        try:
            claims = await self._claims(token)
        except Unavailable as error:
            return f"its keys cannot be had ({error.reason})"
        if isinstance(claims, Rejection):
            return f"it does not verify: {claims.why}"
        return self._checked(claims, uri, self._clock())

    async def _claims(self, token: str) -> Mapping[str, Any] | Rejection:
        if not isinstance(self._keys, Jwks):
            return signed_claims(token, _TYP, self._keys, MOST_CHARACTERS)
        keys = await self._keys.keys()
        claims = signed_claims(token, _TYP, keys, MOST_CHARACTERS)
        if isinstance(claims, Rejection) and claims.why in (BAD_SIGNATURE, "the token names no known key"):
            newer = await self._keys.keys_after(keys)
            claims = signed_claims(token, _TYP, newer, MOST_CHARACTERS) if newer is not None else claims
        return claims

    def _checked(self, claims: Mapping[str, Any], uri: str, now: float) -> tuple[_List, float] | str:
        issued, expires, ttl = claims.get("iat"), claims.get("exp"), claims.get("ttl", self._default)
        if claims.get("sub") != uri:
            return "it is the list of another URI"
        if type(issued) is not int or not issued <= now + self._leeway:
            return "its iat is missing, or lies in the future"
        if expires is not None and not (type(expires) is int and now < expires):
            return "it has expired"
        if type(ttl) not in (int, float) or not ttl > 0:
            return "its ttl is no number of seconds"
        until = now + MOST_SECONDS if expires is None else expires
        read = self._unpacked(claims.get("status_list"), until)
        return read if isinstance(read, str) else (read, min(ttl, self._most, until - now))

    def _unpacked(self, said: object, until: float) -> _List | str:
        bits, lst = (said.get("bits"), said.get("lst")) if isinstance(said, dict) else (None, None)
        if type(bits) is not int or bits not in BITS or not isinstance(lst, str) or not _BASE64URL.fullmatch(lst):
            return "its status_list has no bits of 1, 2, 4 or 8, or no lst in base64url"
        packed = _inflated(lst, self._max_bytes)
        return _List(bits, packed, until) if packed is not None else "its lst is no ZLIB data, or too large unpacked"

    def __repr__(self) -> str:
        return f"<StatusListCheck of {'any list' if self._uris is None else ', '.join(sorted(self._uris))}>"


def _reference(status: object) -> tuple[int, str] | None:
    # Another mechanism beside the list may say that the token is not valid, so it is not passed over.
    if not isinstance(status, dict) or set(status) != {"status_list"} or not isinstance(status["status_list"], dict):
        return None
    index, uri = status["status_list"].get("idx"), status["status_list"].get("uri")
    if type(index) is not int or index < 0 or not isinstance(uri, str) or not 0 < len(uri) <= 2048:
        return None
    return index, uri


def _text(answer: Response) -> str | None:
    media = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if answer.status != 200 or media != MEDIA_TYPE or not answer.body.isascii():
        return None
    return answer.body.decode("ascii").strip("\r\n")


def _inflated(lst: str, most: int) -> bytes | None:
    """Return the unpacked list; 200 MB of zeros fit into 200 kB, so it is unpacked no further than `most`."""
    try:
        data = binascii.a2b_base64(lst.translate(_STANDARD) + "=" * (-len(lst) % 4))
        inflater = zlib.decompressobj()
        packed = inflater.decompress(data, most + 1)
    except (binascii.Error, zlib.error):
        return None
    return packed if inflater.eof and not inflater.unused_data and len(packed) <= most else None
