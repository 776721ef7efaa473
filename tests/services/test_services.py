"""Each server does what our adapters need of it, and starting and stopping touches no other process."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import psycopg
import pytest
from psycopg import sql
from spiffe import JwtBundle, JwtSource, JwtSvid, TrustDomain, WorkloadApiClient, X509Source
from spiffe._proto import workload_pb2, workload_pb2_grpc
from spiffe.errors import PySpiffeError

from tests.services import install, processes
from tests.services.endpoints import FILE, ROOT, Process, Services
from tests.services.processes import DidNotStart
from tests.services.workload_api import WorkloadApi

TIMEOUT = 5.0


@pytest.fixture
def bao(services: Services) -> Iterator[httpx.Client]:
    headers = {"X-Vault-Token": services.bao.token}
    with httpx.Client(base_url=services.bao.url, headers=headers, trust_env=False, timeout=TIMEOUT) as client:
        yield client


# --- PostgreSQL


def test_postgres_makes_a_role_that_can_log_in_until_it_is_dropped(services: Services):
    role, password = f"task_{secrets.token_hex(4)}", secrets.token_urlsafe(12)
    login = f"postgresql://{role}:{password}@{services.postgres.host}:{services.postgres.port}/postgres"
    name = sql.Identifier(role)
    with psycopg.connect(services.postgres.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(password)))
        with psycopg.connect(login) as task:
            assert (role,) == task.execute("SELECT current_user").fetchone()
        admin.execute(sql.SQL("DROP ROLE {}").format(name))

    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        psycopg.connect(login)


def test_postgres_keeps_passwords_as_scram_verifiers(services: Services):
    with psycopg.connect(services.postgres.dsn) as admin:
        assert ("scram-sha-256",) == admin.execute("SHOW password_encryption").fetchone()


# --- OpenBao


def test_bao_is_unsealed_and_keeps_a_secret(bao: httpx.Client):
    path = f"/v1/secret/data/{secrets.token_hex(4)}"

    bao.post(path, json={"data": {"answer": "42"}}).raise_for_status()

    assert not bao.get("/v1/sys/health").json()["sealed"]
    assert {"answer": "42"} == bao.get(path).json()["data"]["data"]


def test_bao_knows_no_other_token(services: Services):
    answer = httpx.get(
        f"{services.bao.url}/v1/auth/token/lookup-self", headers={"X-Vault-Token": "root"}, trust_env=False
    )

    assert 403 == answer.status_code


# --- SPIFFE Workload API


def test_workload_api_hands_out_svids_that_its_bundles_verify(services: Services):
    api = services.workload_api
    bundle = JwtBundle.parse(TrustDomain(api.trust_domain), api.bundle_jwks.read_bytes())
    with WorkloadApiClient(api.socket, default_timeout=TIMEOUT) as client:
        x509, jwt = client.fetch_x509_svid(), client.fetch_jwt_svid(audience={"https://as.test"})

    assert api.spiffe_id == str(x509.spiffe_id)
    assert api.spiffe_id == str(JwtSvid.parse_and_validate(jwt.token, bundle, {"https://as.test"}).spiffe_id)
    assert api.bundle_pem.read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")


@pytest.fixture
def api(tmp_path: Path) -> Iterator[WorkloadApi]:
    with WorkloadApi(tmp_path, ttl=2) as api:
        yield api


def test_a_private_workload_api_pushes_a_new_x509_svid_before_the_old_one_ends(api: WorkloadApi):
    with X509Source(socket_path=api.address, timeout_in_seconds=TIMEOUT) as source:
        first = source.get_x509_context().default_svid.leaf.serial_number

        assert _soon(lambda: source.get_x509_context().default_svid.leaf.serial_number != first)


def test_a_rotated_jwt_key_reaches_the_stream_of_bundles(api: WorkloadApi):
    with JwtSource(socket_path=api.address, timeout_in_seconds=TIMEOUT) as source:
        api.rotate()

        new = source.fetch_svid(audience={"a"})

        assert _soon(lambda: len(_bundle(source).jwt_authorities) == 2)
        JwtSvid.parse_and_validate(new.token, _bundle(source), {"a"})


@pytest.mark.parametrize("mode", ["silent", "empty", "denied"])
def test_a_workload_api_that_gives_nothing_ends_in_an_error_and_not_in_a_wait(api: WorkloadApi, mode: str):
    api.mode = mode  # type: ignore[assignment]  # a parameter is a plain str
    began = time.monotonic()

    with WorkloadApiClient(api.address, default_timeout=0.5) as client:
        with pytest.raises(PySpiffeError):
            client.fetch_jwt_svid(audience={"a"})

    assert time.monotonic() - began < TIMEOUT


def test_a_call_without_the_security_header_is_refused(api: WorkloadApi):
    with grpc.insecure_channel(api.address) as channel:
        stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
        with pytest.raises(grpc.RpcError, match="security header missing"):
            stub.FetchJWTSVID(workload_pb2.JWTSVIDRequest(audience=["a"]), timeout=TIMEOUT)


def test_a_path_too_long_for_a_socket_is_replaced(tmp_path: Path):
    folder = tmp_path / ("x" * 120)
    folder.mkdir()

    with WorkloadApi(folder) as api, WorkloadApiClient(api.address, default_timeout=TIMEOUT) as client:
        path = Path(api.address.removeprefix("unix://"))
        assert api.spiffe_id == str(client.fetch_jwt_svid(audience={"a"}).spiffe_id)

    assert not path.parent.exists()


# --- what is installed


def test_the_npm_lock_names_hashes_and_no_registry():
    packages = json.loads((install.NPM_SOURCE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    installed = [entry for path, entry in packages.items() if path]

    assert [] == [entry for entry in installed if "resolved" in entry or not entry["integrity"].startswith("sha512-")]


# --- the processes


def test_up_changes_nothing_where_everything_answers(services: Services):
    before = FILE.read_bytes()

    done = subprocess.run(
        [sys.executable, "-m", "tests.services", "up"], cwd=ROOT, check=True, capture_output=True, text=True
    )

    assert "up already" in done.stdout
    assert before == FILE.read_bytes()


def test_secrets_are_readable_by_their_owner_only(services: Services):
    private = [
        FILE,
        *(file for client in services.authorization_server.clients.values() for file in (client.jwk, client.pem)),
    ]

    assert {0o600} == {file.stat().st_mode & 0o777 for file in private}
    assert services.bao.token not in repr(services)
    assert services.postgres.password not in repr(services)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGS", "PIDS"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(processes, name, tmp_path / name)


def test_a_process_that_ignores_the_request_to_end_is_killed(folders: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processes, "STOP_DEADLINE", 0.2)
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    process = processes.start("stubborn", [sys.executable, "-c", program])
    processes.wait_until("stubborn", process, lambda: processes.last_lines("stubborn") != "", 10)

    processes.stop(processes.recorded())

    assert _soon(lambda: not processes.alive(process))
    assert {} == processes.recorded()


def test_a_pid_that_now_belongs_to_another_process_is_left_alone(folders: None):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        processes.stop({"bao": Process(stranger.pid, started=1)})

        assert stranger.poll() is None
        stranger.send_signal(signal.SIGKILL)


def test_a_server_that_ends_at_once_is_reported_with_its_last_lines(folders: None):
    process = processes.start("broken", [sys.executable, "-c", "raise SystemExit('the reason')"])

    with pytest.raises(DidNotStart, match="the reason"):
        processes.wait_until("broken", process, lambda: False, 10)


def _bundle(source: JwtSource) -> JwtBundle:
    bundle = source.get_bundle_for_trust_domain(TrustDomain("agents.test"))
    assert bundle is not None
    return bundle


def _soon(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
