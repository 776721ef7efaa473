"""What each event code means and which members its records have: the source of the schema and of the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentguard.model.record import Event


@dataclass(frozen=True, slots=True)
class Shape:
    """What one event code means.

    Args:
        what: a sentence for people.
        always: members that every such record has.
        sometimes: members that it may have.
    """

    what: str
    always: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()


_TASK: Final = ("task", "root", "agent", "subject", "subject_proof", "agent_proof", "delegation", "intent",
                "intent_s256", "environment", "registration")  # fmt: skip
_TASK_TOO: Final = ("agent_identity", "tenant", "sponsor")
_CALL: Final = (*_TASK, "tool", "effect", "credential", "call", "arguments_hash")
_CALL_TOO: Final = (*_TASK_TOO, "data", "tags", "arguments", "framework", "trace", "span")
_POLICY: Final = ("policy", "obligations")
_DENIAL: Final = ("outcome", "reason", "level", "miss")
_OUTCOME: Final = Shape("", ("call", "task", "tool"), ("lease", "error"))
_LEASE: Final = ("lease", "task")


def _outcome(what: str) -> Shape:
    return Shape(what, _OUTCOME.always, _OUTCOME.sometimes)


def _call(what: str, *more: str) -> Shape:
    return Shape(what, (*_CALL, *more), _CALL_TOO)


EVENTS: Final[Mapping[str, Shape]] = {
    Event.LOG_OPENED: Shape(
        "A process began a file of its chain.",
        ("pid", "host", "version"),
        ("continues", "forked_from", "parent_seq", "parent_hash", "not_durable_from"),
    ),
    Event.LOG_REPAIRED: Shape(
        "`audit repair` cut off a torn line, or began the missing file that the chain continues in.",
        (),
        ("bytes", "sha256", "torn", "missing"),
    ),
    Event.LOG_ROTATED: Shape("The file is full; the chain continues in another.", ("next",)),
    Event.LOG_CLOSED: Shape("The process closed its log in good order."),
    Event.TASK_OPENED: Shape("A task began.", (*_TASK, "purpose", "ttl"), (*_TASK_TOO, "parent", "from")),
    Event.TASK_DENIED: Shape(
        "A task was not opened.", ("outcome", "reason"), ("agent", "intent", "task", "why", "from")
    ),
    Event.TASK_RESUMED: Shape(
        "A parked task goes on; subject and agent were proved again.", (*_TASK, "purpose", "ttl"), (*_TASK_TOO, "from")
    ),
    Event.TASK_LAPSED: Shape(
        "Nobody went on with a parked task in time; what it had reserved was given back.", ("task", "why"), ("agent",)
    ),
    Event.TASK_PARKED: Shape("A task waits for a person, without a credential.", (*_TASK, "why", "counts"), _TASK_TOO),
    Event.TASK_ENDED: Shape("A task ended; its credentials were revoked before.", (*_TASK, "why", "counts"), _TASK_TOO),
    Event.DELEGATED: Shape(
        "A part of a task was handed on: in this process (`parent`) or to another (`to`, `handover`).",
        _TASK,
        (*_TASK_TOO, "purpose", "ttl", "parent", "to", "handover", "redeem_by"),
    ),
    Event.DELEGATION_DENIED: Shape(
        "A part of a task was not handed on.", ("agent", "outcome", "reason"), ("task", "from")
    ),
    Event.CALL_PERMITTED: Shape(
        "A call may run; written before its credential exists.",
        (*_CALL, "outcome", "reason", "steps"),
        (*_CALL_TOO, *_POLICY),
    ),
    Event.CALL_DECIDED_AGAIN: Shape(
        "The policies changed before a call ran; the new ones permit it too.", (*_CALL, "policy"),
        (*_CALL_TOO, "obligations"),
    ),
    Event.CALL_DENIED: Shape(
        "A call was refused and did not run; outcome `ask` where a person has not answered yet.",
        (*_TASK, "tool", *_DENIAL),
        ("effect", "credential", "call", "arguments_hash", *_CALL_TOO, *_POLICY),
    ),
    Event.CALL_COMPLETED: _outcome("A permitted call returned."),
    Event.CALL_FAILED: _outcome("A permitted call raised; `error` is the exception's type."),
    Event.CALL_CANCELLED: _outcome("A permitted call did not run, or did not run to its end."),
    Event.CALL_UNKNOWN: Shape(
        "The process that permitted a call died before its outcome was recorded; written at recovery by another.",
        ("call", "task", "tool", "log", "decision", "decided", "leases"),
        ("agent", "subject", "delegation"),
    ),
    Event.APPROVAL_ASKED: _call("A person is asked about a call.", "digest", "binding"),
    Event.APPROVAL_ANSWERED: Shape(
        "A person answered, or cannot be asked; `refused` where they must not approve. An answer that came later, by "
        "another way, has no more than question, task, tool, answer and by.",
        ("task", "tool", "answer", "by", "question"),
        ("refused", *(name for name in _CALL if name not in ("task", "tool")), *_CALL_TOO),
    ),
    Event.APPROVAL_USED: Shape(
        "A call was made again whose question had been answered; an approval is used up by it.",
        (*_CALL, "answer", "by", "question"),
        (*_CALL_TOO, "refused"),
    ),
    Event.NOTIFIED: _call("Whoever a policy names was told, before the tool runs.", "notified"),
    Event.CREDENTIAL_ISSUED: Shape(
        "A credential exists.",
        (*_LEASE, "issuer", "audience", "scopes", "resource", "tool", "type", "fingerprint"),
        ("expires_by", "jti", "name", "parent"),
    ),
    Event.CREDENTIAL_REVOKED: Shape("A credential was revoked.", (*_LEASE, "why")),
    Event.CREDENTIAL_REVOKE_FAILED: Shape("A credential could not be revoked; it is tried again.",
                                          (*_LEASE, "why", "error")),
    Event.CREDENTIAL_EXPIRES: Shape(
        "Nobody can revoke a credential; it ends by itself.", (*_LEASE, "why", "ends"), ("expires_by",)
    ),
    Event.CREDENTIAL_EXPIRED: Shape("A credential has ended for every verifier.", (*_LEASE, "expires_by")),
    Event.CREDENTIAL_RENEWED: Shape("A credential that others hang under was prolonged.", (*_LEASE, "expires_by")),
    Event.CREDENTIAL_IRREVOCABLE: Shape(
        "A credential could not be revoked in many attempts; somebody has to look.",
        (*_LEASE, "why", "error", "attempts"),
    ),
    Event.CREDENTIAL_GRACE: Shape("The issuer is out of reach; a read goes on with an older credential.",
                                  (*_LEASE, "why")),
    Event.SECRET_REMOVED: _call("A live credential stood in a result and was removed; it is revoked.", "leases"),
    Event.SUSPENDED: Shape("An agent, user, task or everything was stopped.", ("key", "why")),
    Event.RESUMED: Shape("A stop was lifted.", ("key",)),
}  # fmt: skip

_HEX64: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_CHAIN: Final = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_TEXT: Final = {"type": "string"}
_TEXTS: Final = {"type": "array", "items": _TEXT}
_COUNT: Final = {"type": "integer", "minimum": 0}
_PROOF: Final = {"enum": ["verified", "asserted", "in_process", "attested", "itself"]}


def _object(members: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(members), "required": list(members), "additionalProperties": False}


# Members that are plain text are not listed here.
MEMBERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "v": {"const": 1}, "chain": _CHAIN, "seq": {"type": "integer", "minimum": 1}, "prev": _HEX64, "hash": _HEX64,
    "time": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"},
    "pid": _COUNT, "parent_seq": _COUNT, "not_durable_from": _COUNT, "bytes": _COUNT, "ttl": _COUNT,
    "redeem_by": _COUNT, "expires_by": _COUNT, "attempts": _COUNT, "forked_from": _CHAIN, "parent_hash": _HEX64,
    "sha256": _HEX64, "subject_proof": _PROOF, "agent_proof": _PROOF, "delegation": _TEXTS, "steps": _TEXTS,
    "scopes": _TEXTS, "data": _TEXTS, "tags": _TEXTS, "registration": {"enum": ["registered", "none"]},
    "effect": {"enum": ["read", "write", "destructive"]}, "outcome": {"enum": ["permit", "ask", "deny"]},
    "answer": {"enum": ["approved", "rejected", "pending"]}, "arguments": {"type": "object"}, "log": _CHAIN,
    "decision": {"type": "string", "pattern": "^[0-9a-f]{32}:[1-9][0-9]*$"},
    "counts": _object(dict.fromkeys(("permitted", "denied", "asked", "issued", "revoked"), _COUNT)),
    "miss": _object(dict.fromkeys(("step", "argument", "kind"), _TEXT)),
    "framework": _object(dict.fromkeys(("call", "agent", "run"), _TEXT)),
    "from": _object({"issuer": _TEXT, "jti": _TEXT}),
    "notified": _TEXTS,
    "policy": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "point": _TEXT, "outcome": {"enum": ["permit", "ask", "deny"]}, "reason": _TEXT, "version": _TEXT,
                "id": _TEXT, "rules": _TEXTS, "cached": {"const": True}, "outdated": {"const": True},
            },
            "required": ["point", "outcome", "reason"], "additionalProperties": False,
        },
    },
    "obligations": {
        "type": "object",
        "properties": {
            "approve": {"enum": ["operator", "subject"]}, "max_ttl": _COUNT, "per_call_lease": {"const": True},
            "redact": _TEXTS, "notify": _TEXTS, "log_arguments": _TEXTS,
        },
        "additionalProperties": False,
    },
    "leases": {"type": "array", "items": {"anyOf": [_TEXT, _object({"lease": _TEXT, "fate": _TEXT})]}},
}  # fmt: skip
ALWAYS: Final = ("v", "chain", "seq", "time", "event", "prev", "hash")


def record_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a record; a member that it does not name is not valid."""
    names = sorted({*ALWAYS, *(name for shape in EVENTS.values() for name in (*shape.always, *shape.sometimes))})
    members = {name: dict(MEMBERS.get(name, _TEXT)) for name in names if name != "event"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:agentguard:audit-record:1",
        "title": "A record of agentguard's audit log, version 1",
        "anyOf": [{"$ref": f"#/$defs/{event}"} for event in map(str, EVENTS)],
        "$defs": {**{str(event): _of(str(event), shape) for event, shape in EVENTS.items()}, "members": members},
    }


def _of(event: str, shape: Shape) -> dict[str, Any]:
    known = [*ALWAYS, *shape.always, *shape.sometimes]
    properties: dict[str, Any] = {name: {"$ref": f"#/$defs/members/{name}"} for name in known}
    return {
        "type": "object", "description": shape.what, "properties": {**properties, "event": {"const": event}},
        "required": [*ALWAYS, *shape.always], "additionalProperties": False,
    }  # fmt: skip
