"""Where the servers for the tests answer: written by `up`, read by the `services` fixture and by hand."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".services"
FILE = STATE / "endpoints.json"


@dataclass(frozen=True, slots=True)
class Postgres:
    """PostgreSQL; `dsn` is the superuser's."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    log: Path

    @property
    def dsn(self) -> str:
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/{self.database}"


@dataclass(frozen=True, slots=True)
class Bao:
    """OpenBao in dev mode: everything in memory, unsealed; `token` is the root token."""

    url: str
    token: str = field(repr=False)
    log: Path


@dataclass(frozen=True, slots=True)
class Client:
    """A client of the authorization server, with its private ES256 key in two forms (both files have mode 0600)."""

    client_id: str
    kid: str
    jwk: Path
    pem: Path


@dataclass(frozen=True, slots=True)
class ResourceServer:
    """The client that may introspect every token (client_secret_basic)."""

    client_id: str
    client_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthorizationServer:
    """An authorization server; what it offers is listed in authorization_server/server.mjs."""

    issuer: str
    token_ttl: int
    clients: dict[str, Client]
    resource_server: ResourceServer
    log: Path


@dataclass(frozen=True, slots=True)
class WorkloadApiEndpoint:
    """A SPIFFE Workload API, and the trust domain's keys as a verifier of its SVIDs would have them."""

    socket: str
    trust_domain: str
    spiffe_id: str
    bundle_jwks: Path
    bundle_pem: Path
    log: Path


@dataclass(frozen=True, slots=True)
class Cerbos:
    """A decision point that speaks AuthZEN; its policies stand in tests/services/cerbos."""

    url: str
    log: Path


@dataclass(frozen=True, slots=True)
class Collector:
    """An OpenTelemetry collector; what it is sent it sends on to a port of loopback on which a test may listen."""

    url: str
    forwards_to: int
    log: Path


@dataclass(frozen=True, slots=True)
class Process:
    """A server's process. The system uses a pid again, so its start time (in clock ticks since boot) goes along."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Services:
    """All servers that `python -m tests.services up` has started."""

    digest: str
    folder: Path
    postgres: Postgres
    bao: Bao
    authorization_server: AuthorizationServer
    authorization_server_nonce: AuthorizationServer
    workload_api: WorkloadApiEndpoint
    cerbos: Cerbos
    collector: Collector
    processes: dict[str, Process]


def load() -> Services | None:
    """Read the file, or return None where there is none or it was written by another version of this code."""
    try:
        return msgspec.json.decode(FILE.read_bytes(), type=Services, dec_hook=_path)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def save(services: Services) -> None:
    """Write the file at once, readable by its owner only: it holds passwords."""
    text = msgspec.json.format(msgspec.json.encode(services, enc_hook=str), indent=2)
    write_private(FILE.with_suffix(".new"), text)
    os.replace(FILE.with_suffix(".new"), FILE)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _path(kind: type[Any], value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
