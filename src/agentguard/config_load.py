"""`agentguard.yaml` becomes a guard: each part of the file is given to who makes it, and every mistake is collected."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agentguard.config_approval import make_approver
from agentguard.config_audit import (
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
from agentguard.guard import Guard
from agentguard.intent.strict_file import Problems, read_strict_file
from agentguard.registry import RegisteredAgent, Registry
from agentguard.telemetry.settings import Telemetry

if TYPE_CHECKING:
    from agentguard.intent import CompiledIntent
    from agentguard.ports import Authenticator, SubjectVerifier


def loaded(path: str | os.PathLike[str]) -> Guard:
    """Make a guard from a configuration file; see `agentguard.load`."""
    document = read_strict_file(path)
    problems = Problems(document)
    settings = read_settings(document, problems)
    agents = _with_ceilings(settings, problems)
    workload: Authenticator | None = None
    brokers = Brokers(settings.http, problems)
    if settings.identity.kind != "static":
        workload = kept(problems, ("identity",), lambda: authenticator(settings.identity, brokers.http))
        brokers.identity = workload
    issuer = brokers.issuer(settings.tokens) if settings.tokens else None
    users = _users(settings.users, brokers, problems) if settings.users else None
    pseudonyms = pseudonyms_of(settings.audit, problems)
    redactor = redactor_of(settings.audit, problems)
    checkpoints = checkpoints_of(settings.audit, problems)
    policy = make_policy(settings.policy, Path(document.file).parent, brokers.http, problems)
    approver = make_approver(settings.approval, brokers, problems)
    handovers = kept(problems, ("handovers",), lambda: handovers_of(settings.handovers, brokers.http))
    stores = _stores(settings, problems)
    if handovers is not None and stores is not None:
        handovers = dataclasses.replace(handovers, redemptions=stores.redemptions)
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
    try:
        guard.recover()
        close_unknown_calls(guard, settings.audit)
    except BaseException:  # nobody else has it yet
        guard.close()
        raise
    return guard


def _stores(settings: Settings, problems: Problems) -> Stores | None:
    """The state is opened last, and only if nothing else is wrong: opening it says that this process lives."""
    if problems or settings.state is None:
        return None
    return kept(problems, ("state",), partial(stores_of, settings.state))


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
    made = partial(IdTokenVerifier, keys, users.issuer, users.audience, max_lifetime=users.max_lifetime)
    return kept(problems, ("users",), made)
