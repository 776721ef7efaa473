"""The guard's records: what writes them into the audit log, and what copies them as events."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from agentguard.model.record import Event, Position, Record
from agentguard.ports import AuditSink
from agentguard.telemetry.emitter import Emitter

_log: Final = logging.getLogger("agentguard")


class Records:
    """Writes the records of one guard.

    Args:
        audit: where they go; no record, no action.
        telemetry: copies what stands there as events, where an application listens for them.
    """

    def __init__(self, audit: AuditSink, telemetry: Emitter) -> None:
        self.audit, self._telemetry = audit, telemetry

    def record(self, event: Event, fields: Mapping[str, Any]) -> None:
        """Write a record that something waits for; a raise means that it was not written."""
        if time.monotonic() < self._telemetry.quiet_until:
            self.audit.append(Record(event, fields))
        else:
            self._telemetry.append(self.audit, Record(event, fields))

    def append(self, record: Record) -> Position:
        """Write a record that something waits for, and return where it stands; a raise means that it was not."""
        if time.monotonic() < self._telemetry.quiet_until:
            return self.audit.append(record)
        return self._telemetry.append(self.audit, record)

    def try_append(self, record: Record) -> Position | None:
        """Write a record that nothing waits for; a failure is logged, and the next call is denied by it."""
        try:
            if time.monotonic() < self._telemetry.quiet_until:
                return self.audit.append(record)
            return self._telemetry.append(self.audit, record)
        except Exception as error:
            _log.error("audit record %s was not written: %s", record.event, type(error).__name__)
            return None
