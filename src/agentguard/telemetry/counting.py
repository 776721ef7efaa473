"""What the audit log is told, counted: credentials, delegations, denials of tasks, questions to people."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.util.types import AttributeValue

from agentguard.model.record import Event, Record
from agentguard.telemetry import semconv as name
from agentguard.telemetry.metrics import Metrics
from agentguard.telemetry.pending import Pending

MOST: Final = 100_000  # credentials, and questions, that are followed from begin to end
_STATUS: Final[Mapping[Event, str]] = {
    Event.CREDENTIAL_REVOKED: "revoked",
    Event.CREDENTIAL_EXPIRED: "expired",
    Event.CREDENTIAL_EXPIRES: "expires",
    Event.CREDENTIAL_REVOKE_FAILED: "failed",
    Event.CREDENTIAL_IRREVOCABLE: "irrevocable",
}
_GONE: Final = (Event.CREDENTIAL_REVOKED, Event.CREDENTIAL_EXPIRED)
_ANSWERED: Final = (Event.APPROVAL_ANSWERED, Event.APPROVAL_USED)
_DENIED: Final = (Event.CALL_DENIED, Event.TASK_DENIED, Event.DELEGATION_DENIED)


@dataclass(frozen=True, slots=True)
class _Issued:
    """A credential that this process was issued."""

    type: str
    at: float
    accepted_until: float | None  # seconds since the epoch; None for one that does not end by itself


class Counting:
    """Turns the records of one guard into measurements."""

    def __init__(self, metrics: Metrics, pending: Pending) -> None:
        self._metrics, self._pending = metrics, pending
        self._live: OrderedDict[str, _Issued] = OrderedDict()
        self._asked: OrderedDict[str, float] = OrderedDict()

    def recorded(self, record: Record) -> None:
        """Measure what a record says, once it is written."""
        event = record.event
        if event is Event.CREDENTIAL_ISSUED:
            self._issued(record.fields)
        elif event in _STATUS:
            self._ended(event, record.fields)
        elif event in _DENIED:
            self._denied(record)
        elif event is Event.DELEGATED:
            self._delegated(record.fields)
        elif event is Event.APPROVAL_ASKED:
            self._keep(self._asked, str(record.fields.get("call", "")), time.monotonic())
        elif event in _ANSWERED:
            self._answered(event, record.fields)

    def _issued(self, fields: Mapping[str, Any]) -> None:
        issued = _Issued(str(fields.get("type", "")), time.monotonic(), fields.get("expires_by"))
        self._keep(self._live, str(fields.get("lease", "")), issued)
        kind = {name.AGENTGUARD_CREDENTIAL_TYPE: issued.type}
        self._metrics.note(name.METRIC_AGENTGUARD_CREDENTIALS_ISSUED, 1, kind)
        self._metrics.note(name.METRIC_AGENTGUARD_CREDENTIALS_ACTIVE, 1, kind)

    def _ended(self, event: Event, fields: Mapping[str, Any]) -> None:
        """A lease may have been asked for and never issued; its end lets nothing go that was counted."""
        lease = str(fields.get("lease", ""))
        issued = self._live.pop(lease, None) if event in _GONE else self._live.get(lease)
        kind: dict[str, AttributeValue] = {name.AGENTGUARD_CREDENTIAL_TYPE: issued.type} if issued is not None else {}
        status = {**kind, name.AGENTGUARD_CREDENTIAL_REVOCATION_STATUS: _STATUS[event]}
        self._metrics.note(name.METRIC_AGENTGUARD_CREDENTIALS_REVOKED, 1, status)
        if issued is not None and event in _GONE:
            self._metrics.note(name.METRIC_AGENTGUARD_CREDENTIALS_ACTIVE, -1, kind)
            lived = time.monotonic() - issued.at
            self._metrics.note(name.METRIC_AGENTGUARD_CREDENTIAL_LIFETIME, lived, kind)
            if event is Event.CREDENTIAL_REVOKED and issued.accepted_until is not None:
                unused = issued.accepted_until - time.time()
                self._metrics.note(name.METRIC_AGENTGUARD_CREDENTIAL_UNUSED_TTL, unused, kind)

    def _denied(self, record: Record) -> None:
        """A guarded call counts when its span ends, by its last decision; here is what has no such span."""
        fields = record.fields
        if "call" in fields:
            self._asked.pop(str(fields["call"]), None)
            return
        agent = record.whole().get("agent")
        known: dict[str, AttributeValue] = {name.GEN_AI_AGENT_NAME: str(agent)} if agent else {}
        decision: dict[str, AttributeValue] = {
            name.AGENTGUARD_DECISION_OUTCOME: str(fields.get("outcome", "deny")),
            name.AGENTGUARD_DECISION_REASON: str(fields.get("reason", "")),
            name.AGENTGUARD_DECISION_ENFORCED: True,
        }
        self._metrics.note(name.METRIC_AGENTGUARD_DECISIONS, 1, {**known, **decision})

    def _delegated(self, fields: Mapping[str, Any]) -> None:
        chain: Sequence[str] = fields.get("delegation") or ()
        if len(chain) > 1:
            to = fields.get("to")  # a handover is recorded by who hands on
            edge = (chain[-1], to) if to else (chain[-2], chain[-1])
            if to or len(chain) > 2:  # subject, agent, agent
                known = {name.AGENTGUARD_DELEGATION_FROM: str(edge[0]), name.AGENTGUARD_DELEGATION_TO: str(edge[1])}
                self._metrics.note(name.METRIC_AGENTGUARD_DELEGATIONS, 1, known)
            depth = len(chain) - 2 + ("to" in fields)
            root = {name.AGENTGUARD_DELEGATION_ROOT_AGENT: str(chain[1])}
            self._metrics.note(name.METRIC_AGENTGUARD_DELEGATION_DEPTH, depth, root)

    def _answered(self, event: Event, fields: Mapping[str, Any]) -> None:
        if not fields.get("refused"):  # else it waits on, for whoever may answer it
            self._pending.end(str(fields.get("question", "")))
        if event is not Event.APPROVAL_ANSWERED:
            return
        asked = self._asked.pop(str(fields.get("call", "")), None)
        if asked is not None:
            self.waited(time.monotonic() - asked, str(fields.get("answer", "")))

    def waited(self, seconds: float, answer: str) -> None:
        """Measure how long a person took to answer."""
        answered = {name.AGENTGUARD_APPROVAL_ANSWER: answer}
        self._metrics.note(name.METRIC_AGENTGUARD_APPROVAL_WAIT_DURATION, seconds, answered)

    @staticmethod
    def _keep(table: OrderedDict[str, Any], key: str, value: object) -> None:
        table[key] = value
        while len(table) > MOST:
            table.popitem(last=False)
