"""Acts on security events: whoever an event is about is suspended before the event is acknowledged.

Events may come twice and in any order: a suspension that is made again changes nothing, and nothing that an event says
lifts one. INVARIANT: an event counts as seen only after everything it asks for has been done.
"""

from __future__ import annotations

import inspect
import logging
import re
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, Protocol, runtime_checkable

import anyio.to_thread

from agentguard._drive import driven
from agentguard._jwt import BAD_SIGNATURE, Keys
from agentguard.errors import ConfigurationError, TokenRejected, Unavailable
from agentguard.signals.seen import Seen
from agentguard.signals.stops import Stops
from agentguard.signals.subjects import SubjectOf, keys_of
from agentguard.signals.token import (
    CREDENTIAL_CHANGE,
    SESSION_REVOKED,
    STREAM_UPDATED,
    UNKNOWN_KEY,
    VERIFICATION,
    Fault,
    SecurityEvent,
    SetProfile,
    SetRejected,
    examine_set,
)

_log: Final = logging.getLogger("agentguard")
MOST_SEEN: Final = 100_000
MOST_STATES: Final = 100
_CHANGES: Final = frozenset({"create", "revoke", "update", "delete"})
_TYPE: Final = re.compile(r"[\x21-\x7e]{1,64}")


@runtime_checkable
class RemoteKeys(Protocol):
    """A cache of a remote JWK set, such as `_jwks.Jwks`.

    Where it has `fresh` too, which returns the keys within their lifetime or None, a SET whose key is not known is
    refused only if the keys were fetched for it; else it is to be delivered again.
    """

    async def keys_for(self, token: str) -> Any: ...
    async def keys_after(self, keys: Any) -> Keys | None: ...


class Receipt(StrEnum):
    """What became of a SET that was accepted."""

    STOPPED = "stopped"
    """Every subject that the event is about is suspended."""
    DUPLICATE = "duplicate"
    """It was received before."""
    NOBODY = "nobody"
    """The event is about nobody who is known here."""
    OUTDATED = "outdated"
    """It happened before the subject proved itself anew."""
    CREATED = "created"
    """A credential was added, which takes none away."""
    STREAM = "stream"
    """About the stream itself: `verification` or `stream-updated`."""
    UNKNOWN = "unknown"
    """An event of another type, which asks for nothing here."""


class SetReceiver:
    """Verifies security event tokens of one transmitter and stops whom they are about. Safe for concurrent use.

    `session-revoked` stops the subject, and so does a `credential-change` of the types revoke, update and delete.

    Args:
        stops: suspends; `GuardStops(guard)`.
        keys: the transmitter's public keys, or a cache of its remote ones.
        profile: what a SET has to be.
        subject_of: told whom an event is about, returns our subjects (`user:alice`), or None for nobody; a plain
            function, called on a thread. A raise, or anything else, has the event delivered again.
        renewed_at: told one of our subjects, returns the time at which it last proved itself, in seconds since the
            epoch; an event that happened before that is acknowledged and changes nothing. Without it every event
            stops.
        most_seen: SETs that are remembered by `(iss, jti)`.
        clock: seconds since the epoch.

    Raises:
        ConfigurationError: a bound is out of range, or a function is a coroutine function.
    """

    def __init__(
        self,
        stops: Stops,
        keys: Keys | RemoteKeys,
        profile: SetProfile,
        subject_of: SubjectOf,
        *,
        renewed_at: Callable[[str], float | None] | None = None,
        most_seen: int = MOST_SEEN,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if type(most_seen) is not int or not 1 <= most_seen <= 10_000_000:
            raise ConfigurationError(f"most_seen {most_seen!r}: write a whole number from 1 to 10,000,000")
        if inspect.iscoroutinefunction(subject_of) or inspect.iscoroutinefunction(renewed_at):
            raise ConfigurationError("subject_of and renewed_at are plain functions; they are called on a thread")
        self._stops, self._keys, self._profile, self._clock = stops, keys, profile, clock
        self._subject_of, self._renewed_at = subject_of, renewed_at
        self._seen, self._states = Seen(most_seen), Seen(MOST_STATES)
        self.stream_status = "enabled"

    def expect(self, state: str) -> None:
        """Announce the `state` of a verification that is about to be asked for (Shared Signals 1.0 section 8.1.4)."""
        self._states.add(state)

    async def receive(self, token: str) -> Receipt:
        """Act on one SET; when it returns, everything the event asks for has been done.

        Args:
            token: the compact form.

        Raises:
            SetRejected: it is refused; delivering it again changes nothing.
            Unavailable: it could not be verified, or not everything was done; it is to be delivered again.
        """
        try:
            outcome = await self._examined(token)
        finally:
            del token  # the traceback keeps this frame
        if isinstance(outcome, Fault):
            raise SetRejected(outcome.err, outcome.description)
        if isinstance(outcome, str):
            raise Unavailable(outcome)
        if (outcome.issuer, outcome.jti) in self._seen:
            return Receipt.DUPLICATE
        receipt = await self._acted(outcome)
        if isinstance(receipt, Fault):
            del outcome
            raise SetRejected(receipt.err, receipt.description)
        if not isinstance(receipt, Receipt):
            del outcome
            raise Unavailable(receipt)
        self._seen.add((outcome.issuer, outcome.jti))
        _log.info("security event %s of %s: %s", _shown(outcome), outcome.issuer, receipt)
        return receipt

    async def _examined(self, token: str) -> SecurityEvent | Fault | str:
        try:
            if not isinstance(self._keys, RemoteKeys):
                return examine_set(token, self._profile, self._keys, self._clock())
            fresh = getattr(self._keys, "fresh", None)
            before = fresh() if fresh is not None else None
            keys = await self._keys.keys_for(token)
            found = examine_set(token, self._profile, keys, self._clock())
            if isinstance(found, Fault) and found.description == BAD_SIGNATURE:
                newer = await self._keys.keys_after(keys)  # a kid may have got a new key
                found = examine_set(token, self._profile, newer, self._clock()) if newer is not None else found
            if isinstance(found, Fault) and found.description == UNKNOWN_KEY and fresh is not None:
                # Perhaps a new key of the transmitter: that it cannot be looked for now is no reason to lose a stop.
                looked = keys is not before and keys is fresh()
                return found if looked else "its key is not known, and the transmitter's keys could not be fetched anew"
            return found
        except TokenRejected:
            return Fault("invalid_request", "the SET is malformed, or its algorithm or kid is not accepted")
        finally:
            del token

    # --- acting --------------------------------------------------------------------------------------------------

    async def _acted(self, event: SecurityEvent) -> Receipt | Fault | str:
        """Do what an event asks for; a text says why it could not all be done."""
        if event.type == VERIFICATION:
            return self._verification(event)
        if event.type == STREAM_UPDATED:
            return self._stream_updated(event)
        if event.type == CREDENTIAL_CHANGE:
            change, of = event.payload.get("change_type"), event.payload.get("credential_type")
            if not (isinstance(change, str) and change in _CHANGES and isinstance(of, str)):
                return Fault("invalid_request", "a credential-change has a change_type of CAEP and a credential_type")
            return Receipt.CREATED if change == "create" else await self._stopped(event)
        return await self._stopped(event) if event.type == SESSION_REVOKED else Receipt.UNKNOWN

    def _verification(self, event: SecurityEvent) -> Receipt | Fault:
        state = event.payload.get("state")
        if state is not None and not (isinstance(state, str) and state in self._states):
            return Fault("invalid_state", "nobody here asked for a verification with this state")
        return Receipt.STREAM

    def _stream_updated(self, event: SecurityEvent) -> Receipt | Fault:
        status = event.payload.get("status")
        if status not in ("enabled", "paused", "disabled"):
            return Fault("invalid_request", "the status of a stream is enabled, paused or disabled")
        self.stream_status = status
        if status != "enabled":
            _log.error("the stream of security events of %s is %s: revocations are missed", event.issuer, status)
        return Receipt.STREAM

    async def _stopped(self, event: SecurityEvent) -> Receipt | str:
        found = await self._ours(event)
        if isinstance(found, str):
            return found
        keys, current = found
        if not keys:
            _log.warning("security event %s of %s is about nobody who is known here", _shown(event), event.issuer)
            return Receipt.NOBODY
        failed = ""
        for key in current:
            try:
                await self._stops.suspend(subject=key, why=_why(event))
            except Exception as error:  # the others are stopped all the same
                failed = type(error).__name__
        if failed:
            return f"a subject could not be suspended ({failed})"
        return Receipt.STOPPED if current else Receipt.OUTDATED

    async def _ours(self, event: SecurityEvent) -> tuple[tuple[str, ...], tuple[str, ...]] | str:
        """Return our subjects, and those of them that the event stops; a text says why they cannot be told."""

        def ask() -> tuple[tuple[str, ...], tuple[str, ...]] | str:
            try:
                keys = keys_of(self._subject_of(event.subject))
                if keys is None:
                    return "subject_of answered neither user:NAME nor a list of those nor None"
                return keys, tuple(key for key in keys if not self._is_outdated(key, event))
            except Exception as error:
                return f"whom the event is about could not be told ({type(error).__name__})"

        return ask() if driven() else await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)

    def _is_outdated(self, key: str, event: SecurityEvent) -> bool:
        renewed: Any = None if self._renewed_at is None else self._renewed_at(key)
        if renewed is None:
            return False
        if type(renewed) not in (int, float):
            raise TypeError
        # Clocks differ: within the leeway the event stops.
        return bool(event.happened_at + self._profile.leeway < renewed)


def _shown(event: SecurityEvent) -> str:
    """What may stand in a log: the last part of the type, which the transmitter wrote, if it is plain."""
    name = event.type.rpartition("/")[2]
    return name if _TYPE.fullmatch(name) else "of another type"


def _why(event: SecurityEvent) -> str:
    """For the record: which event. Its subject is the record's own, and its reasons are texts for people elsewhere."""
    return f"security event {_shown(event)} from {event.issuer}, jti {event.jti}"
