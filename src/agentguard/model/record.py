"""Audit records: their event codes and the fields every one of them has."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct


class Event(StrEnum):
    """Stable event codes of audit records."""

    LOG_OPENED = "log.opened"
    LOG_REPAIRED = "log.repaired"
    LOG_ROTATED = "log.rotated"
    LOG_CLOSED = "log.closed"
    TASK_OPENED = "task.opened"
    TASK_DENIED = "task.denied"
    TASK_PARKED = "task.parked"
    TASK_RESUMED = "task.resumed"
    TASK_LAPSED = "task.lapsed"
    TASK_ENDED = "task.ended"
    DELEGATED = "delegation.created"
    DELEGATION_DENIED = "delegation.denied"
    CALL_PERMITTED = "call.permitted"
    CALL_DENIED = "call.denied"
    CALL_DECIDED_AGAIN = "call.decided_again"
    CALL_COMPLETED = "call.completed"
    CALL_FAILED = "call.failed"
    CALL_CANCELLED = "call.cancelled"
    CALL_UNKNOWN = "call.unknown"
    APPROVAL_ASKED = "approval.asked"
    APPROVAL_ANSWERED = "approval.answered"
    APPROVAL_USED = "approval.used"
    NOTIFIED = "notification.sent"
    CREDENTIAL_ISSUED = "credential.issued"
    CREDENTIAL_REVOKED = "credential.revoked"
    CREDENTIAL_REVOKE_FAILED = "credential.revoke_failed"
    CREDENTIAL_EXPIRES = "credential.expires"
    CREDENTIAL_EXPIRED = "credential.expired"
    CREDENTIAL_RENEWED = "credential.renewed"
    CREDENTIAL_IRREVOCABLE = "credential.irrevocable"
    CREDENTIAL_GRACE = "credential.grace"
    SECRET_REMOVED = "secret.removed"
    SUSPENDED = "suspension.set"
    RESUMED = "suspension.lifted"


class Position(Struct, frozen=True, gc=False):
    """Where a record stands: its chain, its number (from 1) and its hash (base16)."""

    chain: str
    seq: int
    hash: str

    @property
    def id(self) -> str:
        """The record's id, which spans and errors carry as the anchor to the log."""
        return f"{self.chain}:{self.seq}"


class Facts(dict[str, Any]):
    """Fields that many records share and that never change; an audit sink may keep their prepared form on it.

    Whoever keeps them for a tool keeps its declaration with them: another tool may be called like it.
    """

    prepared: Any = None
    spec: Any = None

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """INVARIANT: a copy, which may be changed, has no prepared form: it would be written as it was before."""
        return Facts, (dict(self),)


class Record(Struct, frozen=True):
    """One thing that happened, before it is chained.

    Args:
        event: what happened.
        fields: what is known about it: text, whole numbers below 2^53, booleans, lists and mappings; no floats, and
            never a credential.
        facts: more fields, shared with other records; a name stands in one of the two only.
    """

    event: Event
    fields: Mapping[str, Any]
    facts: Facts | None = None

    def whole(self) -> dict[str, Any]:
        """All that is known about it, shared or not: what a sink writes."""
        return {**(self.facts or {}), **self.fields}
