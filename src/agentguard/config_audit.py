"""`audit` and `telemetry` of `agentguard.yaml`: where the log is, who signs its checkpoints, and what traces show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Final

from agentguard.config_fields import Fields, SecretSource, file_of, flag, part, seconds, secret_of, text, whole, word
from agentguard.config_secrets import kept
from agentguard.intent.document import Problems
from agentguard.intent.node import Node

if TYPE_CHECKING:
    from agentguard.audit.checkpoints import Checkpoints
    from agentguard.guard import Guard
    from agentguard.ports import AuditSink

_SIGNED: Final[Fields] = {
    "key": file_of, "name": text("the log's name in its checkpoints"), "every": whole(1, 1_000_000),
    "seconds": seconds(86_400.0), "checkpoints": file_of,
}  # fmt: skip
_DIR: Final = "the name of a directory"


@dataclass(frozen=True, slots=True)
class Audit:
    """What `audit` says.

    Args:
        directory: of the log.
        pseudonym: where the key of the hashes of subjects and arguments is.
        signed: `key`, `name`, `every`, `seconds` and `checkpoints`, as far as they are there.
    """

    directory: FilePath
    pseudonym: SecretSource = field(default_factory=SecretSource)
    signed: Mapping[str, Any] = field(default_factory=dict)


def read_audit(node: Node, base: FilePath) -> Audit:
    """Read `audit`."""
    found = node.fields("dir", "pseudonym_key", optional=tuple(_SIGNED))
    signed = {name: read(found[name], base) for name, read in _SIGNED.items() if name in found}
    if signed and "key" not in signed:
        node.refuse("checkpoints are signed: write key: FILE, made with: openssl genpkey -algorithm ed25519")
    return Audit(
        base / found["dir"].text(_DIR) if "dir" in found else base,
        secret_of(found["pseudonym_key"], base) if "pseudonym_key" in found else SecretSource(),
        signed,
    )


def read_telemetry(node: Node, base: FilePath) -> dict[str, Any]:
    """Read `telemetry`."""
    return dict(part({}, {"spans": word("compact", "full"), "events": flag})(node, base))


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
