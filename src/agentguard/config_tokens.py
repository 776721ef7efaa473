"""The parts of `agentguard.yaml` that reach outside the process: `identity`, `tokens`, `state` and `http`.

Each mistake is noted where it stands and reading goes on; nothing is built here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, Final, TypeAlias

from agentguard.intent.document import Path
from agentguard.intent.node import Node
from agentguard.model.lease import LEEWAY

Read: TypeAlias = Callable[[Node, FilePath], Any]
Fields: TypeAlias = Mapping[str, Read]


@dataclass(frozen=True, slots=True)
class SecretSource:
    """Where a secret is found: the name of an environment variable, or a file."""

    env: str = ""
    file: FilePath | None = None


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


def file_of(node: Node, base: FilePath) -> FilePath | None:
    """A file, relative to the configuration."""
    name = node.text("the name of a file")
    return base / name if name else None


def secret_of(node: Node, base: FilePath) -> SecretSource:
    """Where a secret is: never the secret."""
    if not isinstance(node.value, dict) or len(node.value) != 1:
        # The value itself may be the secret, so the text does not repeat it.
        node.refuse("write where the secret is, never the secret: {env: NAME} or {file: PATH}")
        return SecretSource()
    found = node.fields(optional=("env", "file"))
    if "env" in found:
        return SecretSource(env=found["env"].text("the name of an environment variable"))
    return SecretSource(file=file_of(found["file"], base) if "file" in found else None)


def _text(what: str) -> Read:
    return lambda node, base: node.text(what)


def _texts(what: str) -> Read:
    return lambda node, base: tuple(item.text(what) for item in node.items(what, empty="leave the key out"))


def _word(*known: str) -> Read:
    return lambda node, base: node.word(*known)


def _flag(node: Node, base: FilePath) -> bool:
    return node.flag()


def _whole_seconds(least: int, most: int) -> Read:
    def read(node: Node, base: FilePath) -> int:
        found = node.seconds(float(most), float(least))
        if found < least or found != int(found):
            node.refuse(f"write whole seconds from {least}s to {most}s")
        return int(found)

    return read


def _seconds(most: float) -> Read:
    return lambda node, base: node.seconds(most, most)


def _whole(low: int, high: int) -> Read:
    return lambda node, base: node.whole(low, high, low)


def _part(needed: Fields, optional: Fields) -> Read:
    def read(node: Node, base: FilePath) -> dict[str, Any]:
        found = node.fields(*needed, optional=tuple(optional))
        readers = {**needed, **optional}
        return {key: readers[key](entry, base) for key, entry in found.items()}

    return read


def _by_name(what: str, read: Read) -> Read:
    return lambda node, base: {name: read(entry, base) for name, entry in node.named(what).items()}


def _strings(node: Node, base: FilePath) -> dict[str, str]:
    return {name: entry.text("text") for name, entry in node.named('{"https://api.bank.test": payments}').items()}


_CLIENT: Final[Fields] = {"issuer": _text("the server's issuer URL"), "client_id": _text("the client id")}
_PROOF: Final[Fields] = {
    "key": file_of,
    "kid": _text("the id under which the server knows the key"),
    "assertion": _word("identity"),
    "legacy_aud": _word("token_endpoint"),
    "metadata": _part(
        {"token_endpoint": _text("a URL")},
        dict.fromkeys(("revocation_endpoint", "introspection_endpoint", "jwks_uri"), _text("a URL")),
    ),
}
_RULES: Final[Fields] = {
    "max_lifetime": _whole_seconds(1, 3600),
    "default_lifetime": _whole_seconds(1, 3600),
    "dpop": _flag,
    "target": _word("resource", "audience"),
    "targets": _strings,
    "subject": _word("same", "any"),
    "enrichment": _flag,
    "introspect": _flag,
    "revocable": _flag,
}
_ACTOR: Final[Fields] = {"actor": _word("signed", "identity")}
_USE: Final[Fields] = {"scopes": _texts("scopes")}
_DATABASE: Final = _part({"role": _text("the role's name")}, {"mount": _text("the mount"), **_USE})
_SECRET: Final = _part(
    {"path": _text("the secret's path"), "field": _text("the field that holds it")},
    {
        "mount": _text("the mount"), "version": _whole(1, 2), "header": _text("the header's name"),
        "query": _text("the parameter's name"), "basic": _text("the user name"), "login": _text("the user name"),
        "user_field": _text("the field that holds the user name"), **_USE,
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
    "local": ({}, {"key": file_of, "keys": file_of, "issuer": _text("the issuer's URL or name")}),
    "exchange": (_CLIENT, {**_PROOF, **_RULES, **_ACTOR, "own_subject": _text("the sub of an agent's own tokens")}),
    "client_credentials": (_CLIENT, {**_PROOF, **_RULES, "own_subject": _text("the sub of its tokens")}),
    "id_jag": ({**_CLIENT, "provider": _part(_CLIENT, _PROOF)}, {**_PROOF, **_RULES, **_ACTOR}),
    "openbao": (
        {
            "address": _text("the vault's URL"),
            "login": _part(
                {"role": _text("the login role"), "audience": _text("the audience of the login token")},
                {"mount": _text("the mount of the login method")},
            ),
        },
        {
            "ttl": _whole_seconds(5, 3600), "namespace": _text("the namespace"),
            "databases": _by_name("{postgresql://db.bank.test/app: {role: read-invoices}}", _DATABASE),
            "secrets": _by_name("{https://legacy.bank.test: {path: legacy, field: key, header: X-Api-Key}}", _SECRET),
        },
    ),
    "postgres": (
        {"dsn": secret_of, "audience": _text("the database, postgresql://db.bank.test/app"), "grants": _privileges},
        {
            "ttl": _whole_seconds(10, 3600), "owner": _text("a short name for this installation"),
            "connections": _whole(1, 100), "statement_timeout": _seconds(3600.0), "window": _seconds(60.0),
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
        said = _part(needed, {**optional, "audiences": _texts("audiences")})(entry, base)
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
        said = _part(*_IDENTITIES[kind])(entry, base)
        if len(node.problems) == before:
            return Workload(kind, said)
    return Workload()


_KEYS: Final[Fields] = {"keys": file_of, "jwks": _text("the URL of the issuer's keys")}
_IDENTITIES: Final[Mapping[str, tuple[Fields, Fields]]] = {
    "jwt_file": (
        {"path": file_of, "issuer": _text("the token's issuer"), "audience": _text("the token's audience")},
        {**_KEYS, "leeway": _whole_seconds(1, 60), "max_lifetime": _whole_seconds(1, 86_400)},
    ),
    "spiffe": (
        {},
        {
            "socket": _text("the Workload API's address, unix:///run/spire/agent.sock"), "timeout": _seconds(60.0),
            "svid": _word("x509", "jwt"), "spiffe_id": _text("the SPIFFE ID to take"),
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
    options = _part({"dsn": secret_of}, {"migrate": _flag, "timeout": _seconds(60.0)})(found["postgres"], base)
    return State(key, dsn=options.pop("dsn"), options=options) if "dsn" in options else None


def read_handovers(node: Node, base: FilePath) -> dict[str, Any]:
    """Read `handovers`: who hands tasks on to whom."""
    before = len(node.problems)
    said = dict(_part(*_HANDOVERS)(node, base))
    return said if len(node.problems) == before else {}


def _peer(node: Node, base: FilePath) -> dict[str, Any]:
    return dict(_part({}, _KEYS)(node, base))


_HANDOVERS: Final[tuple[Fields, Fields]] = (
    {"issuer": _text("this guard's issuer"), "trust_domain": _text("the trust domain of all peers")},
    {
        "key": file_of, "keys": file_of, "leeway": _whole_seconds(1, 60),
        "peers": _by_name("{https://other.bank.test: {keys: keys/other.jwks.json}}", _peer),
    },
)  # fmt: skip


def read_http(node: Node, base: FilePath) -> dict[str, Any]:
    """Read `http`: how servers are reached."""
    return dict(_part({}, _HTTP)(node, base))


_HTTP: Final[Fields] = {
    "networks": _texts("networks, such as 10.0.0.0/8"),
    "ca_file": file_of,
    "trust_env": _flag,
    "timeout": _seconds(60.0),
    "deadline": _seconds(300.0),
    "connections": _whole(1, 1000),
}
