"""The composition root: `load` makes a guard from `agentguard.yaml`, `local` one for the first five minutes."""

from __future__ import annotations

import dataclasses
import os
import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentguard.config_approval import make_approver
from agentguard.config_audit import (
    Audit,
    checkpoints_of,
    close_unknown_calls,
    open_log,
    pseudonyms_of,
    recording_of,
    redactor_of,
)
from agentguard.config_brokers import Brokers, Stores, authenticator, handovers_of, keys_of, stores_of
from agentguard.config_file import Settings, Users, read_settings
from agentguard.config_policy import make_policy
from agentguard.config_secrets import kept
from agentguard.registry import OpenRegistry, RegisteredAgent, Registry

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.intent import CompiledIntent
    from agentguard.intent.document import Problems
    from agentguard.ports import Approver, AuditSink, Authenticator, SubjectVerifier

_KEY_CHARACTERS: Final = 32


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
    from agentguard.telemetry.settings import Telemetry

    document = read_strict_file(path)
    problems = Problems(document)
    settings = read_settings(document, problems)
    agents = _with_ceilings(settings, problems)
    workload: Authenticator | None = None
    if settings.identity.kind != "static":
        workload = kept(problems, ("identity",), lambda: authenticator(settings.identity, lambda: brokers.http()))
    brokers = Brokers(settings.http, workload, problems)
    issuer = brokers.issuer(settings.tokens) if settings.tokens else None
    users = _users(settings.users, brokers, problems) if settings.users else None
    pseudonyms = pseudonyms_of(settings.audit, problems)
    redactor = redactor_of(settings.audit, problems)
    checkpoints = checkpoints_of(settings.audit, problems)
    policy = make_policy(settings.policy, Path(document.file).parent, brokers.http, problems)
    approver = make_approver(settings.approval, brokers, problems)
    stores = _stores(settings, problems)
    handovers = kept(problems, ("handovers",), lambda: handovers_of(settings.handovers, stores, brokers.http))
    # INVARIANT: nothing is built from a file with a mistake; a part that was left out above stands in `problems`.
    problems.raise_if_any(f"{document.file} is wrong, and no guard was made from it:")
    guard = Guard(
        audit=open_log(settings.audit, checkpoints),
        registry=Registry(agents),
        issuer=issuer,
        environment=settings.environment,
        users=users,
        telemetry=Telemetry(**settings.telemetry),
        approver=approver,
        approvals=stores.approvals if stores else None,
        parked=stores.parked if stores else None,
        ask_for=settings.approval.ask_for,
        not_by=settings.approval.not_by,
        decision_points=policy.decision_points,
        attributes=policy.attributes,
        notify=policy.notify,
        authenticator=workload,
        ledger=stores.ledger if stores else None,
        budgets=stores.budgets if stores else None,
        suspensions=stores.suspensions if stores else None,
        handovers=handovers,
        closing=stores.closing if stores else (),
        grace=settings.tokens.grace if settings.tokens else 0.0,
        pseudonym_key=pseudonyms or b"",
        redactor=redactor,
        recording=recording_of(settings.audit, redactor),
    )
    guard.recover()
    close_unknown_calls(guard, settings.audit)
    return guard


def _stores(settings: Settings, problems: Problems) -> Stores | None:
    """The state is opened last, and only if nothing else is wrong: opening it says that this process lives."""
    if problems or settings.state is None:
        return None
    return kept(problems, ("state",), partial(stores_of, settings.state))


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
        audit=_memory_log() if audit is None else open_log(Audit(Path(audit))),
        registry=OpenRegistry(),
        issuer=LocalIssuer(SigningKey.generate()),
        environment=environment,
        approver=approver,
        users=users,
        pseudonym_key=secrets.token_bytes(_KEY_CHARACTERS),
        recall=True,
    )


def _with_ceilings(settings: Settings, problems: Problems) -> list[RegisteredAgent]:
    """Compile each ceiling file once; its mistakes stand in the same error as those of the configuration."""
    compiled: dict[Path, CompiledIntent | None] = {}
    for name, file in settings.ceilings.items():
        if file not in compiled:
            compiled[file] = kept(problems, ("agents", name, "ceiling"), partial(_ceiling, file))
    found = {name: compiled[file] for name, file in settings.ceilings.items()}
    return [dataclasses.replace(agent, ceiling=found.get(agent.agent.name)) for agent in settings.agents]


def _ceiling(file: Path) -> CompiledIntent:
    from agentguard.intent import Intent, compile_intent

    return compile_intent(Intent.load(file).resolve(), ceiling=True)


def _users(users: Users, brokers: Brokers, problems: Problems) -> SubjectVerifier | None:
    from agentguard.identity.id_token import IdTokenVerifier

    keys = kept(problems, ("users", "keys"), lambda: keys_of(users.keys, users.jwks, brokers.http))
    if keys is None:
        return None
    return kept(problems, ("users",), partial(IdTokenVerifier, keys, users.issuer, users.audience))


def _memory_log() -> AuditSink:
    from agentguard.audit.memory import MemoryLog

    return MemoryLog()
