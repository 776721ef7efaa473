"""Records as OCSF events (Open Cybersecurity Schema Framework 1.8.0), for a SIEM.

Calls are API Activity (6003), credentials Authorize Session (3003) and User Access Management (3005), the log's own
records Application Lifecycle (6002). What OCSF has no place for, such as the delegation chain and the hashes, stands
under `unmapped.agentguard` as the record has it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from agentguard.audit.index import microseconds
from agentguard.model.record import Event

VERSION: Final = "1.8.0"
_MAX_KNOWN: Final = 100_000  # tasks whose agent and subject are remembered
_ACTIVITY: Final = {"write": (3, "Update"), "read": (2, "Read"), "destructive": (4, "Delete")}
_OTHER: Final = (99, "Other")
# For each event that is no call: class, activity, and how bad it is that it happened.
_CREDENTIAL: Final = {
    Event.CREDENTIAL_ISSUED: (3003, (1, "Assign Privileges"), 1),
    Event.CREDENTIAL_REVOKED: (3005, (2, "Revoke Privileges"), 1),
    Event.CREDENTIAL_EXPIRED: (3005, (2, "Revoke Privileges"), 1),
    Event.CREDENTIAL_REVOKE_FAILED: (3005, _OTHER, 3),
    Event.CREDENTIAL_IRREVOCABLE: (3005, _OTHER, 4),
}
_LIFE: Final = {Event.LOG_OPENED: (3, "Start"), Event.LOG_CLOSED: (4, "Stop")}
_CATEGORY: Final = {3: "Identity & Access Management", 6: "Application Activity"}
_CLASS: Final = {3003: "Authorize Session", 3005: "User Access Management", 6002: "Application Lifecycle",
                 6003: "API Activity"}  # fmt: skip
_SEVERITY: Final = {1: "Informational", 2: "Low", 3: "Medium", 4: "High"}
_GRAVE: Final = {Event.CALL_DENIED: 2, Event.SECRET_REMOVED: 4, Event.SUSPENDED: 3, Event.CALL_UNKNOWN: 3,
                 Event.LOG_REPAIRED: 3}  # fmt: skip
# action_id, disposition_id: allowed, blocked, waiting for a person, done.
_CONTROL: Final = {"permit": (1, 1), "deny": (2, 2), "ask": (0, 14)}
_STATUS: Final = {
    Event.CALL_COMPLETED: (1, "Success"), Event.CALL_FAILED: (2, "Failure"), Event.CALL_CANCELLED: (2, "Failure"),
    Event.CALL_DENIED: (2, "Failure"), Event.CREDENTIAL_REVOKE_FAILED: (2, "Failure"),
    Event.CREDENTIAL_IRREVOCABLE: (2, "Failure"), Event.CALL_UNKNOWN: (0, "Unknown"),
}  # fmt: skip


class Mapper:
    """Maps records in the order of their chain; what a chain or a task said earlier is remembered, within limits."""

    def __init__(self) -> None:
        self._hosts: dict[str, Mapping[str, Any]] = {}
        self._tasks: OrderedDict[str, Mapping[str, Any]] = OrderedDict()

    def event(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the OCSF event of one record."""
        code = record["event"]
        if code == Event.LOG_OPENED:
            self._hosts[record["chain"]] = record
        known = self._known(record)
        if code in _CREDENTIAL and _is_credential(record):
            return self._credential(record, known)
        if code.startswith("log."):
            return {**self._base(record, 6002, _LIFE.get(code, _OTHER), known), "app": _product(self._hosts, record)}
        return self._call(record, known)

    def _known(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        """Who acts for whom: the record's own word, else its task's."""
        task = record.get("task")
        if not isinstance(task, str) or "agent" in record:
            if isinstance(task, str) and "subject" in record:
                self._tasks[task] = {name: record.get(name) for name in ("agent", "subject", "delegation")}
                if len(self._tasks) > _MAX_KNOWN:
                    self._tasks.popitem(last=False)
            return record
        return self._tasks.get(task, record)

    def _call(self, record: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
        code = record["event"]
        is_call = code.startswith(("call.", "approval.", "secret."))
        activity = _ACTIVITY.get(str(record.get("effect", "")), _OTHER) if is_call else _OTHER
        event = {
            **self._base(record, 6003, activity, known),
            "api": {"operation": record.get("tool") or code, **_request(record), **_response(record)},
            "src_endpoint": {"name": self._hosts.get(record["chain"], {}).get("host") or "unknown"},
        }
        outcome = str(record.get("outcome", ""))
        if outcome in _CONTROL:
            event["metadata"]["profiles"] = ["security_control"]
            event["action_id"], event["disposition_id"] = _CONTROL[outcome]
            policy = {"name": record.get("intent") or "intent", "uid": record.get("intent_s256") or "unknown"}
            event["authorizations"] = [{"decision": outcome, "policy": policy}]
        if record.get("credential") not in (None, "none"):
            event["resources"] = [{"name": record["credential"], "type": "audience"}]
        return event

    def _credential(self, record: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
        number, activity, _ = _CREDENTIAL[record["event"]]
        event = {
            **self._base(record, number, activity, known),
            "user": _user(known),
            "privileges": list(record.get("scopes", ())) or ["unscoped"],
        }
        if number == 3003:
            session = {"uid": record["lease"], "issuer": record.get("issuer", ""),
                       "credential_uid": record.get("jti") or record.get("fingerprint", "")}  # fmt: skip
            if "expires_by" in record:
                session["expiration_time"] = record["expires_by"] * 1000
            event["session"] = session
        return event

    def _base(
        self, record: Mapping[str, Any], number: int, activity: tuple[int, str], known: Mapping[str, Any]
    ) -> dict[str, Any]:
        code, category = record["event"], number // 1000
        severity = _GRAVE.get(code) or (_CREDENTIAL[code][2] if code in _CREDENTIAL else 1)
        status = _STATUS.get(code, (1, "Success"))
        return {
            "category_uid": category, "category_name": _CATEGORY[category], "class_uid": number,
            "class_name": _CLASS[number], "activity_id": activity[0],
            "activity_name": activity[1] if activity != _OTHER else code,
            "type_uid": number * 100 + activity[0], "severity_id": severity, "severity": _SEVERITY[severity],
            "status_id": status[0], "status": status[1], "time": microseconds(record["time"]) // 1000,
            "message": _message(record), "metadata": _metadata(self._hosts, record),
            **({"status_detail": why} if (why := record.get("reason") or record.get("error")) else {}),
            "actor": {"app_name": str(known.get("agent") or "agentguard"), "user": _user(known)},
            "unmapped": {"agentguard": dict(record)},
        }  # fmt: skip


def _is_credential(record: Mapping[str, Any]) -> bool:
    """Tell whether a record has what an event of its class must say; a record that verifies may be anybody's."""
    scopes, ends = record.get("scopes", []), record.get("expires_by", 0)
    return isinstance(record.get("lease"), str) and isinstance(scopes, list) and type(ends) is int


def _user(known: Mapping[str, Any]) -> dict[str, Any]:
    return {"uid": str(known.get("subject") or "unknown")}


def _request(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"request": {"uid": record["call"]}} if record.get("call") else {}


def _response(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"response": {"error": record["error"]}} if record.get("error") else {}


def _message(record: Mapping[str, Any]) -> str:
    parts = (record["event"], record.get("tool"), record.get("outcome"), record.get("reason"))
    return " ".join(str(part) for part in parts if part)


def _product(hosts: Mapping[str, Mapping[str, Any]], record: Mapping[str, Any]) -> dict[str, Any]:
    version = hosts.get(record["chain"], {}).get("version") or "unknown"
    return {"name": "agentguard", "vendor_name": "agentguard", "version": version}


def _metadata(hosts: Mapping[str, Mapping[str, Any]], record: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {
        "version": VERSION, "product": _product(hosts, record), "uid": f"{record['chain']}:{record['seq']}",
        "event_code": record["event"], "sequence": record["seq"], "log_name": record["chain"],
        "original_time": record["time"],
    }  # fmt: skip
    if record.get("task"):
        metadata["correlation_uid"] = record["task"]
    return metadata
