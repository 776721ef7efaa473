"""`audit` and `telemetry` of `agentguard.yaml`: where the log is, who signs its checkpoints, and what traces show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Final

from agentguard.config_fields import (
    Fields,
    SecretSource,
    by_name,
    file_of,
    flag,
    part,
    seconds,
    secret_of,
    strings,
    text,
    texts,
    whole,
    word,
)
from agentguard.config_secrets import kept, secret_key
from agentguard.intent.document import Problems
from agentguard.intent.node import Node

if TYPE_CHECKING:
    from agentguard.audit.checkpoints import Checkpoints
    from agentguard.audit.pseudonyms import Pseudonyms
    from agentguard.audit.recording_file import Recording
    from agentguard.audit.redaction import Redactor
    from agentguard.guard import Guard
    from agentguard.ports import AuditSink

_SIGNED: Final[Fields] = {
    "key": file_of, "name": text("the log's name in its checkpoints"), "every": whole(1, 1_000_000),
    "seconds": seconds(86_400.0), "checkpoints": file_of,
}  # fmt: skip
_REDACT: Final[Fields] = {
    "patterns": texts("the name of a pattern, such as iban"), "members": texts("the name of a member"),
    "expressions": strings, "texts": by_name("project: [Blue Heron]", texts("text to take out")),
}  # fmt: skip
_RECORDING: Final[Fields] = {
    "max_bytes": whole(1 << 17, 1 << 40), "keep": whole(0, 100), "results": flag,
}  # fmt: skip
_DIR: Final = "the name of a directory"


@dataclass(frozen=True, slots=True)
class Audit:
    """What `audit` says.

    Args:
        directory: of the log.
        pseudonym: where the key of the hashes of subjects and arguments is.
        signed: `key`, `name`, `every`, `seconds` and `checkpoints`, as far as they are there.
        redact: `patterns`, `members`, `expressions` and `texts`, or None for no redaction.
        recording: `file`, `max_bytes`, `keep` and `results`, or None for no recording.
    """

    directory: FilePath
    pseudonym: SecretSource = field(default_factory=SecretSource)
    signed: Mapping[str, Any] = field(default_factory=dict)
    redact: Mapping[str, Any] | None = None
    recording: Mapping[str, Any] | None = None


def read_audit(node: Node, base: FilePath) -> Audit:
    """Read `audit`."""
    found = node.fields("dir", "pseudonym_key", optional=(*_SIGNED, "redact", "recording"))
    before = len(node.problems)
    signed = {name: read(found[name], base) for name, read in _SIGNED.items() if name in found}
    if signed and "key" not in signed:
        node.refuse("checkpoints are signed: write key: FILE, made with: openssl genpkey -algorithm ed25519")
    return Audit(
        base / found["dir"].text(_DIR) if "dir" in found else base,
        secret_of(found["pseudonym_key"], base) if "pseudonym_key" in found else SecretSource(),
        signed if len(node.problems) == before else {},  # nothing is made of one that is wrong
        part({}, _REDACT)(found["redact"], base) if "redact" in found else None,
        part({"file": file_of}, _RECORDING)(found["recording"], base) if "recording" in found else None,
    )


def read_telemetry(node: Node, base: FilePath) -> dict[str, Any]:
    """Read `telemetry`."""
    return dict(part({}, {"spans": word("compact", "full"), "events": flag})(node, base))


def pseudonyms_of(audit: Audit, problems: Problems) -> Pseudonyms | None:
    """Make the keys of pseudonyms; a mistake is noted."""
    from agentguard.audit.pseudonyms import Pseudonyms

    def made() -> Pseudonyms | None:
        key = secret_key(audit.pseudonym)
        return Pseudonyms.parse(key) if key is not None else None

    return kept(problems, ("audit", "pseudonym_key"), made)


def redactor_of(audit: Audit, problems: Problems) -> Redactor | None:
    """Make what takes personal data out of values; a mistake is noted."""
    said = audit.redact
    return kept(problems, ("audit", "redact"), lambda: _redactor(said)) if said is not None else None


def _redactor(said: Mapping[str, Any]) -> Redactor:
    from agentguard.audit.patterns import NAMED, expression, literal
    from agentguard.audit.redaction import Redactor

    own = [
        *(expression(name, text) for name, text in said.get("expressions", {}).items()),
        *(literal(name, *found) for name, found in said.get("texts", {}).items()),
    ]
    return Redactor([*said.get("patterns", NAMED), *own], members=said.get("members", ()))


def recording_of(audit: Audit, redactor: Redactor | None) -> Recording | None:
    """Open the recording, last, as it makes a file."""
    if audit.recording is None:
        return None
    from agentguard.audit.recording_file import Recording

    said = dict(audit.recording)
    return Recording(said.pop("file"), redactor=redactor, **said)


def checkpoints_of(audit: Audit, problems: Problems) -> Checkpoints | None:
    """Make what signs checkpoints; a mistake is noted."""
    if "key" not in audit.signed:
        return None
    return kept(problems, ("audit", "key"), lambda: _checkpoints(dict(audit.signed)))


def _checkpoints(said: dict[str, Any]) -> Checkpoints:
    from agentguard.audit.checkpoints import Checkpoints

    to = said.pop("checkpoints", ())
    return Checkpoints(**said, to=to)


def open_log(audit: Audit, checkpoints: Checkpoints | None = None) -> AuditSink:
    """Open the log."""
    from agentguard.audit.log import FileLog

    return FileLog(audit.directory, checkpoints=checkpoints)


def close_unknown_calls(guard: Guard, audit: Audit) -> int:
    """Record the calls whose process died before their outcome was recorded; return how many.

    After the ledger's recovery, so that what became of their credentials is known.
    """
    from agentguard._drive import drive
    from agentguard.audit.unknown import recover

    alive = {lease.id: lease for lease in drive(guard.leases.ledger.outstanding(guard.now()))} if guard.leases else {}

    def fate(lease: str) -> str:
        found = alive.get(lease)
        return (
            "ended" if found is None else f"may be alive until {int(found.expires_by)}" if not found.lasts else "owed"
        )

    return recover(audit.directory, fate, guard.audit.append)
