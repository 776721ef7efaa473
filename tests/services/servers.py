"""How each server is started, and how one sees that it answers."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from tests.services import install, processes
from tests.services.endpoints import (
    ROOT,
    STATE,
    AuthorizationServer,
    Bao,
    Cerbos,
    Client,
    Collector,
    Postgres,
    ResourceServer,
    WorkloadApiEndpoint,
    write_private,
)
from tests.services.keys import public_jwk, write_client_key

ATTEMPTS = 3
ANSWER = 2.0
AUTHORIZATION_SERVERS = ("authorization_server", "authorization_server_nonce")
CLIENTS = ("support-bot", "reporting")
TRUST_DOMAIN = "agents.test"
SPIFFE_ID = f"spiffe://{TRUST_DOMAIN}/support-bot"
TOKEN_TTL = int(os.environ.get("AGENTGUARD_TEST_TOKEN_TTL", "60"))

T = TypeVar("T")


def start_postgres(folder: Path) -> Postgres:
    """A new cluster with scram passwords, on TCP loopback and on a unix socket in its own folder."""
    data, password = folder / "pg", secrets.token_urlsafe(24)
    _initdb(data, password)
    return _on_a_free_port(lambda port: _postgres(data, port, password))


def _initdb(data: Path, password: str) -> None:
    for part in (data, data / "socket"):
        part.mkdir(mode=0o700)
    _give_to_postgres(data, data / "socket")
    secret = data / "password"
    write_private(secret, password.encode())
    _give_to_postgres(secret)
    options = [
        "--username=admin",
        "--auth=scram-sha-256",
        f"--pwfile={secret}",
        "--no-sync",
        "--encoding=UTF8",
        "--locale=C",
    ]
    try:
        command = [*_as_postgres(), str(install.postgres() / "initdb"), *options, "-D", str(data / "cluster")]
        done = subprocess.run(command, cwd=data, capture_output=True, text=True, timeout=60, check=False)
    finally:
        secret.unlink()
    if done.returncode != 0:
        raise processes.DidNotStart(f"initdb failed\n{done.stdout}{done.stderr}")


def _postgres(data: Path, port: int, password: str) -> Postgres:
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": data / "socket",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "max_connections": 200,
    }
    command = [*_as_postgres(), install.postgres() / "postgres", "-D", data / "cluster"]
    command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    process = processes.start("postgres", command, cwd=data)
    server = Postgres("127.0.0.1", port, "admin", password, "postgres", processes.LOGS / "postgres.log")
    processes.wait_until("postgres", process, lambda: postgres_answers(server))
    return server


def postgres_answers(server: Postgres) -> bool:
    """Whether a login works; the password tells our cluster from another one on that port."""
    import psycopg

    try:
        with psycopg.connect(server.dsn, connect_timeout=int(ANSWER)) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.Error:
        return False


def start_bao(folder: Path) -> Bao:
    """OpenBao, unsealed and in memory; the root token is in its environment, not on its command line."""
    token = secrets.token_urlsafe(24)

    def serve(port: int) -> Bao:
        command = [install.bao(), "server", "-dev", "-dev-no-store-token", f"-dev-listen-address=127.0.0.1:{port}"]
        env = {"BAO_DEV_ROOT_TOKEN_ID": token, "HOME": str(folder)}
        process = processes.start("bao", command, env=env, cwd=folder)
        server = Bao(f"http://127.0.0.1:{port}", token, processes.LOGS / "bao.log")
        processes.wait_until("bao", process, lambda: bao_answers(server))
        return server

    return _on_a_free_port(serve)


def bao_answers(server: Bao) -> bool:
    """Whether the server knows our root token."""
    return _get(f"{server.url}/v1/auth/token/lookup-self", {"X-Vault-Token": server.token}) is not None


def start_authorization_server(name: str, *, dpop_nonce: bool) -> AuthorizationServer:
    """An authorization server with the clients of `CLIENTS`; it takes a free port itself and tells us its issuer."""
    resource_server = ResourceServer("rs", secrets.token_urlsafe(24))
    clients = {client: _client(client) for client in CLIENTS}
    ready, file = _ready(name), STATE / "config" / f"{name}.json"
    ready.unlink(missing_ok=True)
    settings = {
        "clients": [{"client_id": c.client_id, "jwk": public_jwk(c.jwk)} for c in clients.values()],
        "resource_server": {"client_id": resource_server.client_id, "client_secret": resource_server.client_secret},
        "token_ttl": TOKEN_TTL,
        "dpop_nonce": dpop_nonce,
        "peers": [str(_ready(other)) for other in AUTHORIZATION_SERVERS if other != name],
        "ready": str(ready),
    }
    write_private(file, msgspec.json.encode(settings))
    process = processes.start(name, [install.node(), install.NPM / "server.mjs", file], cwd=install.NPM)
    processes.wait_until(name, process, ready.exists)
    issuer = msgspec.json.decode(ready.read_bytes())["issuer"]
    server = AuthorizationServer(issuer, TOKEN_TTL, clients, resource_server, processes.LOGS / f"{name}.log")
    processes.wait_until(name, process, lambda: authorization_server_answers(server))
    return server


def prepare_authorization_servers() -> None:
    """Make the clients' keys, the same for both servers, and lay the modules beside their dependencies.

    Node looks for packages from a module's own folder upwards.
    """
    for client_id in CLIENTS:
        client = _client(client_id)
        write_client_key(client.kid, client.jwk, client.pem)
    for module in install.NPM_SOURCE.glob("*.mjs"):
        shutil.copy(module, install.NPM / module.name)


def authorization_server_answers(server: AuthorizationServer) -> bool:
    """Whether the issuer serves its own metadata."""
    answer = _get(f"{server.issuer}/.well-known/oauth-authorization-server")
    return answer is not None and bool(answer.json()["issuer"] == server.issuer)


def _client(client_id: str) -> Client:
    jwk, pem = (STATE / "keys" / f"{client_id}.{kind}" for kind in ("jwk", "pem"))
    return Client(client_id, f"{client_id}-1", jwk, pem)


def _ready(name: str) -> Path:
    """Where an authorization server tells its issuer."""
    return STATE / "config" / f"{name}.ready.json"


def start_workload_api(folder: Path) -> WorkloadApiEndpoint:
    """A Workload API for the one identity `SPIFFE_ID`."""
    from tests.services.workload_api import SOCKET_NAME

    bundles, path = STATE / "workload_api", folder / SOCKET_NAME
    command = [sys.executable, "-m", "tests.services.workload_api", "--socket", path, "--bundles", bundles]
    process = processes.start("workload_api", [*command, "--spiffe-id", SPIFFE_ID], cwd=ROOT)
    files = bundles / "bundle.jwks.json", bundles / "bundle.pem"
    server = WorkloadApiEndpoint(f"unix://{path}", TRUST_DOMAIN, SPIFFE_ID, *files, processes.LOGS / "workload_api.log")
    processes.wait_until("workload_api", process, lambda: path.exists() and workload_api_answers(server))
    return server


def workload_api_answers(server: WorkloadApiEndpoint) -> bool:
    """Whether the socket serves the trust domain's bundle, and it is the one in the file."""
    import grpc

    from tests.services.workload_api import fetch_jwt_bundle

    try:
        return fetch_jwt_bundle(server.socket, timeout=ANSWER) == server.bundle_jwks.read_bytes()
    except (grpc.RpcError, FileNotFoundError):
        return False


def start_cerbos(folder: Path) -> Cerbos:
    """Cerbos with the policies of this folder; it reads them once."""
    config = folder / "cerbos.yaml"

    def serve(port: int) -> Cerbos:
        settings = {
            "server": {"httpListenAddr": f"127.0.0.1:{port}", "grpcListenAddr": f"unix:{folder / 'cerbos.sock'}"},
            "telemetry": {"disabled": True},
            "storage": {
                "driver": "disk",
                "disk": {"directory": str(Path(__file__).parent / "cerbos"), "watchForChanges": False},
            },
        }
        write_private(config, msgspec.json.encode(settings))
        process = processes.start("cerbos", [install.cerbos(), "server", "--config", config], cwd=folder)
        server = Cerbos(f"http://127.0.0.1:{port}", processes.LOGS / "cerbos.log")
        processes.wait_until("cerbos", process, lambda: cerbos_answers(server))
        return server

    return _on_a_free_port(serve)


def cerbos_answers(server: Cerbos) -> bool:
    """Whether the decision point serves its own metadata."""
    answer = _get(f"{server.url}/.well-known/authzen-configuration")
    return answer is not None and bool(answer.json()["policy_decision_point"] == server.url)


def start_collector() -> Collector:
    """Rotel, an OpenTelemetry collector; it takes OTLP over HTTP and sends it on, also over HTTP."""

    def serve(port: int) -> Collector:
        own, forwards_to = _free_port(), _free_port()
        options = {
            "otlp-http-endpoint": f"127.0.0.1:{port}",
            "otlp-grpc-endpoint": f"127.0.0.1:{own}",
            "exporter": "otlp",
            "otlp-exporter-protocol": "http",
            "otlp-exporter-endpoint": f"http://127.0.0.1:{forwards_to}",
            "otlp-exporter-retry-initial-backoff": "100ms",
            "otlp-exporter-retry-max-elapsed-time": "2s",  # what nobody listens for is dropped
            "batch-timeout": "50ms",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        process = processes.start("collector", [install.rotel(), "start", *words])
        collector = Collector(f"http://127.0.0.1:{port}", forwards_to, processes.LOGS / "collector.log")
        processes.wait_until("collector", process, lambda: collector_answers(collector))
        return collector

    return _on_a_free_port(serve)


def collector_answers(collector: Collector) -> bool:
    """Whether it takes an export request that holds nothing."""
    try:
        with httpx.Client(trust_env=False, timeout=ANSWER) as client:
            empty = client.post(
                f"{collector.url}/v1/traces", content=b"", headers={"Content-Type": "application/x-protobuf"}
            )
    except httpx.HTTPError:
        return False
    return empty.status_code == 200


def _get(url: str, headers: dict[str, str] | None = None) -> httpx.Response | None:
    try:
        with httpx.Client(trust_env=False, timeout=ANSWER) as client:
            answer = client.get(url, headers=headers)
    except httpx.HTTPError:
        return None
    return answer if answer.status_code == 200 else None


def _on_a_free_port(serve: Callable[[int], T]) -> T:
    """Between finding a free port and the server's bind another process may take it: then try another one."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return serve(_free_port())
        except processes.DidNotStart:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _as_postgres() -> list[str]:
    """PostgreSQL refuses to run as root."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []


def _give_to_postgres(*paths: Path) -> None:
    for path in paths:
        if os.geteuid() == 0:
            shutil.chown(path, "postgres", "postgres")
