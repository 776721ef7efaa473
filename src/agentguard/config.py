"""The composition root: `load` makes a guard from `agentguard.yaml`, `local` one for the first five minutes."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.ports import Approver, AuditSink, SubjectVerifier

_KEY_CHARACTERS: Final = 32


def load(path: str | os.PathLike[str] = "agentguard.yaml") -> Guard:
    """Make a guard from a configuration file; relative paths in it are relative to the file.

    Args:
        path: the file; docs/quickstart.md shows one.

    Raises:
        ConfigurationError: with every mistake of the file, and of the ceiling files it names, each with file and line.
        AuditUnavailable: the audit log cannot be opened.
    """
    from agentguard.config_load import loaded

    return loaded(path)


def local(
    *,
    audit: str | os.PathLike[str] | None = None,
    approver: Approver | None = None,
    users: SubjectVerifier | None = None,
    environment: str = "local",
) -> Guard:
    """Make a guard without a file or a server: intents are enforced, and every agent is admitted and recorded as such.

    Args:
        audit: a directory for the audit log; without it the log is in memory, and ends with the process.
        approver: who is asked; without one a call that needs a person is denied.
        users: verifies what `User.verified` carries; without it such a user is denied.
        environment: the environment's name, for decision points and records.
    """
    from agentguard.credentials.local import LocalIssuer
    from agentguard.guard import Guard
    from agentguard.keys import SigningKey
    from agentguard.registry import OpenRegistry

    return Guard(
        audit=_log(audit),
        registry=OpenRegistry(),
        issuer=LocalIssuer(SigningKey.generate()),
        environment=environment,
        approver=approver,
        users=users,
        pseudonym_key=secrets.token_bytes(_KEY_CHARACTERS),
        recall=True,
    )


def _log(directory: str | os.PathLike[str] | None) -> AuditSink:
    if directory is None:
        from agentguard.audit.memory import MemoryLog

        return MemoryLog()
    from agentguard.audit.log import FileLog

    return FileLog(directory)
