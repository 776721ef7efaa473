"""The parts of `agentguard.yaml` that reach outside the process: `identity`, `tokens`, `state` and `http`.

Each mistake is noted where it stands and reading goes on; nothing is built here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Final

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
    whole_seconds,
    word,
)
from agentguard.intent.document import Path
from agentguard.intent.node import Node
from agentguard.model.lease import LEEWAY


@dataclass(frozen=True, slots=True)
class Broker:
    """One entry of `tokens`.

    Args:
        kind: `local`, `exchange`, `client_credentials`, `id_jag`, `openbao` or `postgres`.
        said: what the file says, by key.
        audiences: what it issues for; empty for all that no other broker names.
        where: its place in the file.
    """

    kind: str
    said: Mapping[str, Any]
    audiences: tuple[str, ...]
    where: Path


@dataclass(frozen=True, slots=True)
class Tokens:
    """`tokens`: the brokers, and the grace in seconds."""

    brokers: tuple[Broker, ...] = ()
    grace: float = 0.0

    @property
    def outside(self) -> bool:
        """Whether a broker is outside this process, so that its credentials outlive it."""
        return any(broker.kind != "local" for broker in self.brokers)


@dataclass(frozen=True, slots=True)
class Workload:
    """`identity`: its kind (`static`, `jwt_file` or `spiffe`) and what the file says about it."""

    kind: str = "static"
    said: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class State:
    """`state`: a file that the processes of one host share, or a database that several hosts do.

    Args:
        key: seals what the ledger needs to revoke.
        file: the file of `sqlite`.
        dsn: the connection string of `postgres`.
        options: of the database's store.
    """

    key: SecretSource
    file: FilePath | None = None
    dsn: SecretSource | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


_CLIENT: Final[Fields] = {"issuer": text("the server's issuer URL"), "client_id": text("the client id")}
_PROOF: Final[Fields] = {
    "key": file_of,
    "kid": text("the id under which the server knows the key"),
    "assertion": word("identity"),
    "legacy_aud": word("token_endpoint"),
    "metadata": part(
        {"token_endpoint": text("a URL")},
        dict.fromkeys(("revocation_endpoint", "introspection_endpoint", "jwks_uri"), text("a URL")),
    ),
}
_RULES: Final[Fields] = {
    "max_lifetime": whole_seconds(1, 3600),
    "default_lifetime": whole_seconds(1, 3600),
    "dpop": flag,
    "target": word("resource", "audience"),
    "targets": strings,
    "subject": word("same", "any"),
    "details": flag,
    "enrichment": flag,
    "introspect": flag,
    "revocable": flag,
}
_ACTOR: Final[Fields] = {"actor": word("signed", "identity")}
_USE: Final[Fields] = {"scopes": texts("scopes")}
_DATABASE: Final = part({"role": text("the role's name")}, {"mount": text("the mount"), **_USE})
_SECRET: Final = part(
    {"path": text("the secret's path"), "field": text("the field that holds it")},
    {
        "mount": text("the mount"), "version": whole(1, 2), "header": text("the header's name"),
        "query": text("the parameter's name"), "basic": text("the user name"), "login": text("the user name"),
        "user_field": text("the field that holds the user name"), **_USE,
    },
)  # fmt: skip


def _privileges(node: Node, base: FilePath) -> dict[str, Any]:
    """Resources, objects, scopes and privileges; what may stand there is judged where they are used."""
    tree: dict[str, Any] = {}
    for resource, objects in node.named('{"table/invoices": {billing.invoices: {"db:read": [SELECT]}}}').items():
        tree[resource] = {
            name: {
                scope: tuple(item.text("a privilege") for item in entry.items("privileges"))
                for scope, entry in scopes.named('{"db:read": [SELECT]}').items()
            }
            for name, scopes in objects.named('{billing.invoices: {"db:read": [SELECT]}}').items()
        }
    return tree


# For each kind of broker what it needs, and what it takes beside.
_KINDS: Final[Mapping[str, tuple[Fields, Fields]]] = {
    "local": ({}, {"key": file_of, "keys": file_of, "issuer": text("the issuer's URL or name")}),
    "exchange": (_CLIENT, {**_PROOF, **_RULES, **_ACTOR, "own_subject": text("the sub of an agent's own tokens")}),
    "client_credentials": (_CLIENT, {**_PROOF, **_RULES, "own_subject": text("the sub of its tokens")}),
    "id_jag": ({**_CLIENT, "provider": part(_CLIENT, _PROOF)}, {**_PROOF, **_RULES, **_ACTOR}),
    "openbao": (
        {
            "address": text("the vault's URL"),
            "login": part(
                {"role": text("the login role"), "audience": text("the audience of the login token")},
                {"mount": text("the mount of the login method")},
            ),
        },
        {
            "ttl": whole_seconds(5, 3600), "namespace": text("the namespace"),
            "databases": by_name("{postgresql://db.bank.test/app: {role: read-invoices}}", _DATABASE),
            "secrets": by_name("{https://legacy.bank.test: {path: legacy, field: key, header: X-Api-Key}}", _SECRET),
        },
    ),
    "postgres": (
        {"dsn": secret_of, "audience": text("the database, postgresql://db.bank.test/app"), "grants": _privileges},
        {
            "ttl": whole_seconds(10, 3600), "owner": text("a short name for this installation"),
            "connections": whole(1, 100), "statement_timeout": seconds(3600.0), "window": seconds(60.0),
        },
    ),
}  # fmt: skip


def read_tokens(node: Node, base: FilePath) -> Tokens:
    """Read `tokens`."""
    found = node.fields(optional=(*_KINDS, "grace"))
    brokers = []
    for kind, entry in found.items():
        if kind == "grace":
            continue
        needed, optional = _KINDS[kind]
        before = len(node.problems)
        said = part(needed, {**optional, "audiences": texts("audiences")})(entry, base)
        if len(node.problems) == before:  # nothing is made of one that is wrong
            brokers.append(Broker(kind, said, said.pop("audiences", _own_audiences(kind, said)), entry.path))
    grace = found["grace"].seconds(float(LEEWAY), 0.0) if "grace" in found else 0.0
    if isinstance(node.value, dict) and not node.value.keys() & _KINDS.keys():
        node.refuse(f"name a broker: {', '.join(_KINDS)}")
    return Tokens(tuple(brokers), grace)


def _own_audiences(kind: str, said: Mapping[str, Any]) -> tuple[str, ...]:
    """A vault and a database say themselves what they issue for."""
    if kind == "postgres":
        return (said["audience"],) if said.get("audience") else ()
    if kind == "openbao":
        return tuple({**said.get("databases", {}), **said.get("secrets", {})})
    return ()


def read_identity(node: Node, base: FilePath) -> Workload:
    """Read `identity`."""
    if node.value == "static":
        return Workload()
    if not isinstance(node.value, dict) or len(node.value) != 1:
        node.refuse("write static, {jwt_file: {...}} or {spiffe: {...}}")
        return Workload()
    found = node.fields(optional=tuple(_IDENTITIES))
    before = len(node.problems)
    for kind, entry in found.items():
        said = part(*_IDENTITIES[kind])(entry, base)
        if len(node.problems) == before:
            return Workload(kind, said)
    return Workload()


_KEYS: Final[Fields] = {"keys": file_of, "jwks": text("the URL of the issuer's keys")}
_IDENTITIES: Final[Mapping[str, tuple[Fields, Fields]]] = {
    "jwt_file": (
        {"path": file_of, "issuer": text("the token's issuer"), "audience": text("the token's audience")},
        {**_KEYS, "leeway": whole_seconds(1, 60), "max_lifetime": whole_seconds(1, 86_400)},
    ),
    "spiffe": (
        {},
        {
            "socket": text("the Workload API's address, unix:///run/spire/agent.sock"), "timeout": seconds(60.0),
            "svid": word("x509", "jwt"), "spiffe_id": text("the SPIFFE ID to take"),
        },
    ),
}  # fmt: skip


def read_state(node: Node, base: FilePath) -> State | None:
    """Read `state`."""
    found = node.fields("key", optional=("sqlite", "postgres"))
    if "key" not in found:
        return None
    if ("sqlite" in found) == ("postgres" in found):
        node.refuse("write sqlite: FILE for the processes of one host, or postgres: {dsn: ...} for several hosts")
        return None
    key = secret_of(found["key"], base)
    if "sqlite" in found:
        file = file_of(found["sqlite"], base)
        return State(key, file) if file else None
    options = part({"dsn": secret_of}, {"migrate": flag, "timeout": seconds(60.0)})(found["postgres"], base)
    return State(key, dsn=options.pop("dsn"), options=options) if "dsn" in options else None


def read_handovers(node: Node, base: FilePath) -> dict[str, Any]:
    """Read `handovers`: who hands tasks on to whom."""
    before = len(node.problems)
    said = dict(part(*_HANDOVERS)(node, base))
    return said if len(node.problems) == before else {}


def _peer(node: Node, base: FilePath) -> dict[str, Any]:
    return dict(part({}, _KEYS)(node, base))


_HANDOVERS: Final[tuple[Fields, Fields]] = (
    {"issuer": text("this guard's issuer"), "trust_domain": text("the trust domain of all peers")},
    {
        "key": file_of, "keys": file_of, "leeway": whole_seconds(1, 60),
        "peers": by_name("{https://other.bank.test: {keys: keys/other.jwks.json}}", _peer),
    },
)  # fmt: skip


def read_http(node: Node, base: FilePath) -> dict[str, Any]:
    """Read `http`: how servers are reached."""
    return dict(part({}, _HTTP)(node, base))


_HTTP: Final[Fields] = {
    "networks": texts("networks, such as 10.0.0.0/8"),
    "ca_file": file_of,
    "trust_env": flag,
    "timeout": seconds(60.0),
    "deadline": seconds(300.0),
    "connections": whole(1, 1000),
}
