"""The composition root: `load` makes a guard from `agentguard.yaml`, `local` one for the first five minutes."""

from __future__ import annotations

import dataclasses
import os
import secrets
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from agentguard.config_file import LocalTokens, SecretSource, Settings, Users, read_settings
from agentguard.errors import ConfigurationError
from agentguard.model.lease import Secret
from agentguard.registry import OpenRegistry, RegisteredAgent, Registry

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.intent import CompiledIntent
    from agentguard.intent.document import Path as Where
    from agentguard.intent.document import Problems
    from agentguard.ports import Approver, AuditSink, Issuer, SubjectVerifier

T = TypeVar("T")
_KEY_CHARACTERS: Final = 32
_MAKE_ONE: Final = "make one with: openssl rand -hex 32"


def load(path: str | os.PathLike[str] = "agentguard.yaml") -> Guard:
    """Make a guard from a configuration file; relative paths in it are relative to the file.

    Args:
        path: the file; docs/quickstart.md shows one.

    Raises:
        ConfigurationError: with every mistake of the file, and of the ceiling files it names, each with file and line.
        AuditUnavailable: the audit log cannot be opened.
    """
    from agentguard.guard import Guard
    from agentguard.intent.strict_file import Problems, read_strict_file

    document = read_strict_file(path)
    problems = Problems(document)
    settings = read_settings(document, problems)
    agents = _with_ceilings(settings, problems)
    issuer = _issuer(settings.tokens, problems) if settings.tokens else None
    users = _users(settings.users, problems) if settings.users else None
    pseudonym = _kept(problems, ("audit", "pseudonym_key"), lambda: _secret(settings.pseudonym))
    # INVARIANT: nothing is built from a file with a mistake; a part that was left out above stands in `problems`.
    problems.raise_if_any(f"{document.file} is wrong, and no guard was made from it:")
    return Guard(
        audit=_file_log(settings.audit),
        registry=Registry(agents),
        issuer=issuer,
        environment=settings.environment,
        users=users,
        pseudonym_key=pseudonym.reveal().encode() if pseudonym else b"",
    )


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

    return Guard(
        audit=_memory_log() if audit is None else _file_log(Path(audit)),
        registry=OpenRegistry(),
        issuer=LocalIssuer(SigningKey.generate()),
        environment=environment,
        approver=approver,
        users=users,
        pseudonym_key=secrets.token_bytes(_KEY_CHARACTERS),
        recall=True,
    )


def _kept(problems: Problems, where: Where, make: Callable[[], T | None]) -> T | None:
    """Return what `make` makes, or note its mistake at its place in the file."""
    try:
        return make()
    except ConfigurationError as error:
        problems.include(where, error)
        return None


def _with_ceilings(settings: Settings, problems: Problems) -> list[RegisteredAgent]:
    """Compile each ceiling file once; its mistakes stand in the same error as those of the configuration."""
    compiled: dict[Path, CompiledIntent | None] = {}
    for name, file in settings.ceilings.items():
        if file not in compiled:
            compiled[file] = _kept(problems, ("agents", name, "ceiling"), partial(_ceiling, file))
    found = {name: compiled[file] for name, file in settings.ceilings.items()}
    return [dataclasses.replace(agent, ceiling=found.get(agent.agent.name)) for agent in settings.agents]


def _ceiling(file: Path) -> CompiledIntent:
    from agentguard.intent import Intent, compile_intent

    return compile_intent(Intent.load(file).resolve(), ceiling=True)


def _issuer(tokens: LocalTokens, problems: Problems) -> Issuer | None:
    from agentguard.credentials.local import LocalIssuer
    from agentguard.keys import SigningKey

    key = _kept(problems, ("tokens", "local", "key"), partial(SigningKey.from_pem_file, tokens.key))
    return _kept(problems, ("tokens", "local", "issuer"), partial(LocalIssuer, key, tokens.issuer)) if key else None


def _users(users: Users, problems: Problems) -> SubjectVerifier | None:
    from agentguard.identity.id_token import IdTokenVerifier
    from agentguard.keys import KeySet

    keys = _kept(problems, ("users", "keys"), partial(KeySet.from_file, users.keys))
    if keys is None:
        return None
    return _kept(problems, ("users",), partial(IdTokenVerifier, keys, users.issuer, users.audience))


def _file_log(directory: Path) -> AuditSink:
    from agentguard.audit.log import FileLog

    return FileLog(directory)


def _memory_log() -> AuditSink:
    from agentguard.audit.memory import MemoryLog

    return MemoryLog()


def _secret(source: SecretSource) -> Secret | None:
    """Read a key of at least 32 characters; the error never holds any of it."""
    if source.file is not None:
        text = _private_text(source.file)
    elif source.env:
        text = os.environ.get(source.env, "")
        if not text:
            raise ConfigurationError(f"the environment variable {source.env} is not set; {_MAKE_ONE}")
    else:
        return None
    if len(text.strip()) < _KEY_CHARACTERS:
        raise ConfigurationError(f"the key has fewer than {_KEY_CHARACTERS} characters; {_MAKE_ONE}")
    return Secret(text.strip())


def _private_text(file: Path) -> str:
    try:
        with open(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as source:
            status = os.fstat(source.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigurationError(f"{file} is no regular file")
            if status.st_mode & 0o077:
                raise ConfigurationError(f"group or others can use {file}; run: chmod 600 {file}")
            content = source.read(4096)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}; {_MAKE_ONE}") from None
    if not content.isascii():
        raise ConfigurationError(f"{file} holds bytes that are no plain text; {_MAKE_ONE}")
    return content.decode("ascii")
