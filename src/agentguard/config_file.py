"""`agentguard.yaml`: from its tree to frozen settings. Each mistake is noted where it stands and reading goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Final, Literal, TypeAlias

from agentguard.config_approval import Approving, read_approval
from agentguard.config_audit import Audit, read_audit, read_telemetry
from agentguard.config_fields import file_of, whole_seconds
from agentguard.config_policy import POLICY, Policy, read_policy
from agentguard.config_tokens import (
    State,
    Tokens,
    Workload,
    read_handovers,
    read_http,
    read_identity,
    read_state,
    read_tokens,
)
from agentguard.errors import ConfigurationError
from agentguard.intent.document import Document, Problems, nearest
from agentguard.intent.node import Node
from agentguard.intent.step import pattern_problem
from agentguard.model.principal import MAX_HOPS, Agent, Proof, checked_name
from agentguard.registry import (
    DEFAULT_DEPTH,
    DEFAULT_TTL,
    MAX_TTL,
    STATUSES,
    RegisteredAgent,
    dates_problem,
)

_INTENT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_S256: Final = re.compile(r"s256:([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class Users:
    """ID tokens of this issuer for this audience are verified with its keys: of a file, or fetched from a URL."""

    issuer: str
    audience: str
    keys: FilePath | None = None
    jwks: str = ""
    max_lifetime: int = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the file says; the agents are still without their ceilings."""

    environment: str
    agents: tuple[RegisteredAgent, ...]
    ceilings: Mapping[str, FilePath]
    audit: Audit
    identity: Workload
    tokens: Tokens | None
    users: Users | None
    state: State | None
    handovers: Mapping[str, Any]
    telemetry: Mapping[str, Any]
    approval: Approving
    policy: Policy
    http: Mapping[str, Any]


def read_settings(document: Document, problems: Problems) -> Settings:
    """Read the settings; every mistake is noted in `problems`, and the result is good only if there is none.

    Args:
        document: the file; relative paths in it are relative to it.
        problems: receives the mistakes.
    """
    base = FilePath(document.file).parent
    top = Node(problems, (), document.tree)
    optional = (
        "environment",
        "identity",
        "tokens",
        "users",
        "state",
        "http",
        "handovers",
        "approval",
        "telemetry",
        *POLICY,
    )
    found = top.fields("version", "agents", "audit", optional=optional)
    if "version" in found:
        found["version"].whole(1, 1, 1)
    workload = read_identity(found["identity"], base) if "identity" in found else Workload()
    agents = found["agents"].named("{support-bot: {owners: {...}, purpose: ...}}") if "agents" in found else {}
    listed = tuple(_agent(name, node, agents, base) for name, node in agents.items())
    tokens = read_tokens(found["tokens"], base) if "tokens" in found else None
    state = read_state(found["state"], base) if "state" in found else None
    if tokens and tokens.outside and "state" not in found:
        found["tokens"].refuse(
            "credentials of servers outlive this process, so their ledger must: write state: "
            "{sqlite: state.db, key: {env: AG_STATE_KEY}}"
        )
    return Settings(
        environment=found["environment"].text("the environment's name") if "environment" in found else "",
        agents=tuple(agent for agent, _ in listed if agent),
        ceilings={agent.agent.name: ceiling for agent, ceiling in listed if agent and ceiling},
        audit=read_audit(found["audit"], base) if "audit" in found else Audit(base),
        identity=workload,
        tokens=tokens,
        users=_users(found["users"], base) if "users" in found else None,
        state=state,
        handovers=read_handovers(found["handovers"], base) if "handovers" in found else {},
        telemetry=read_telemetry(found["telemetry"], base) if "telemetry" in found else {},
        approval=read_approval(found["approval"], base) if "approval" in found else Approving(),
        policy=read_policy(found, base),
        http=read_http(found["http"], base) if "http" in found else {},
    )


def _users(node: Node, base: FilePath) -> Users | None:
    found = node.fields("issuer", "audience", optional=("keys", "jwks", "max_lifetime"))
    if not {"issuer", "audience"} <= found.keys():
        return None
    if ("keys" in found) == ("jwks" in found):
        node.refuse("write where the issuer's keys are: keys: FILE or jwks: URL, one of them")
        return None
    issuer, audience = found["issuer"].text("the issuer's URL"), found["audience"].text("the client id")
    longest = whole_seconds(1, 86_400)(found["max_lifetime"], base) if "max_lifetime" in found else 3600
    if "jwks" in found:
        return Users(issuer, audience, None, found["jwks"].text("the URL of the issuer's keys"), longest)
    keys = file_of(found["keys"], base)
    return Users(issuer, audience, keys, max_lifetime=longest) if keys else None


_Listed: TypeAlias = tuple[RegisteredAgent | None, FilePath | None]


def _agent(name: str, node: Node, known: Iterable[str], base: FilePath) -> _Listed:
    found = node.fields("owners", "purpose", optional=(*_READERS, "identity", "ceiling", "hand_on", "limits"))
    values = {key: read(found[key]) for key, read in _READERS.items() if key in found}
    values |= {"hand_on": _hand_on(found["hand_on"], known)} if "hand_on" in found else {}
    values |= _limits(found["limits"]) if "limits" in found else {}
    identity = found["identity"].text("the workload's identity") if "identity" in found else ""
    ceiling = file_of(found["ceiling"], base) if "ceiling" in found else None
    if why := dates_problem(values.get("not_before"), values.get("expires")):
        found["expires"].refuse(why)
        del values["expires"]
    try:
        agent = Agent(checked_name(name, "agent"), identity, Proof.IN_PROCESS, registered=True)
        return RegisteredAgent(agent=agent, **values), ceiling
    except ConfigurationError as error:
        node.problems.include(node.path, error)
        return None, ceiling


def _owners(node: Node) -> dict[str, str]:
    found = node.fields("business", optional=("identity", "control"))
    return {key: owner.text("who it is, such as ann@bank.test") for key, owner in found.items()}


def _status(node: Node) -> Literal["active", "suspended", "retired"]:
    if node.value in STATUSES:
        return node.value  # type: ignore[no-any-return]  # one of the literals
    node.refuse(f"write {', '.join(STATUSES)}" + nearest(str(node.value), STATUSES))
    return "suspended"


def _purposes(node: Node) -> dict[str, str | None]:
    purposes: dict[str, str | None] = {}
    for item in node.items("intent names", empty="leave the key out for any intent, or write status: suspended"):
        name, pin = item.value, None
        if isinstance(name, dict) and len(name) == 1:
            ((name, text),) = name.items()
            match = _S256.fullmatch(text) if isinstance(text, str) else None
            pin = match[1] if match else None
            if not match:
                item.at(name, text).refuse('write the source_s256 of the intent file: "s256:" and 43 characters')
        if not isinstance(name, str) or not _INTENT_NAME.fullmatch(name):
            item.refuse(f"{name!r} is no intent name: write words of a-z 0-9 . _ - or {{name: s256:...}}")
        elif name in purposes:
            item.refuse(f"{name!r} is there twice")
        else:
            purposes[name] = pin
    return purposes


def _patterns(node: Node) -> frozenset[str]:
    patterns = set()
    for item in node.items("tool names"):
        if why := pattern_problem(item.value):
            item.refuse(why)
        else:
            patterns.add(item.value)
    return frozenset(patterns)


def _hand_on(node: Node, known: Iterable[str]) -> dict[str, frozenset[str]]:
    entries = node.named("{researcher: [account.read]}")
    for name, item in entries.items():
        if name not in known:
            item.refuse(f"{name!r} is not registered under agents{nearest(name, known)}")
    return {name: _patterns(item) for name, item in entries.items()}


def _limits(entry: Node) -> dict[str, Any]:
    found = entry.fields(optional=("task_ttl", "max_depth", "calls"))
    limits: dict[str, Any] = {}
    if node := found.get("task_ttl"):
        limits["task_ttl"] = node.seconds(MAX_TTL, DEFAULT_TTL)
    if node := found.get("max_depth"):
        limits["max_depth"] = node.whole(0, MAX_HOPS, DEFAULT_DEPTH)
    if "calls" in found:
        calls = found["calls"].fields("max", "per")
        if len(calls) == 2:
            limits["calls"] = calls["max"].whole(1, 10**9, 1), calls["per"].seconds(366 * 86_400.0, 60.0)
    return limits


_READERS: Final[Mapping[str, Callable[[Node], Any]]] = {
    "owners": _owners,
    "purpose": lambda node: node.text("what the agent is for"),
    "environments": lambda node: frozenset(
        item.text("an environment's name") for item in node.items("environments", empty="leave the key out for any")
    ),
    "not_before": lambda node: node.instant(end=False),
    "expires": lambda node: node.instant(end=True),
    "status": _status,
    "purposes": _purposes,
    "tools": _patterns,
}
