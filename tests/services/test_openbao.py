"""The vault's issuer against a real OpenBao and a real PostgreSQL: nothing is left once the task has ended."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from agentguard import CredentialUnavailable
from agentguard._drive import drive
from agentguard._http import Http
from agentguard.credentials.held import Use
from agentguard.credentials.leases import Leases
from agentguard.credentials.ledger import MemoryLedger
from agentguard.credentials.openbao import Database, JwtLogin, OpenBaoIssuer, StaticSecret
from agentguard.identity.spiffe import SpiffeIdentity
from agentguard.model.credential import Credential
from agentguard.model.lease import Grant, LeaseKey, Placement, Secret
from agentguard.model.principal import Agent, Chain, Subject
from agentguard.model.record import Event
from agentguard.ports import IdentityTokens
from tests.services import bao_setup, install
from tests.services.chaos import ChaosProxy
from tests.services.endpoints import ROOT, Bao, Postgres, Services
from tests.services.raw_client import RawClient
from tests.services.servers import _on_a_free_port, bao_answers

DB, LEGACY = "postgresql://db.test/app", "https://legacy.test"
TARGETS = (
    Database(DB, "ag-reader"),
    StaticSecret(audience=LEGACY, path="legacy/api", field="key", placement=Placement.HEADER, name="X-Api-Key"),
)
nothing_left = pytest.mark.control("10 nothing at the vault outlives its task")


@pytest.fixture(scope="module")
def configured(services: Services) -> Services:
    bao_setup.configure(services)
    return services


@pytest.fixture
def operator(configured: Services) -> Iterator[bao_setup.Operator]:
    with bao_setup.Operator(configured.bao) as operator:
        yield operator


@pytest.fixture
def identity(configured: Services) -> Iterator[SpiffeIdentity]:
    identity = SpiffeIdentity(configured.workload_api.socket)
    yield identity
    identity.close()


@pytest.fixture
def http() -> Iterator[Http]:
    http = Http()
    yield http
    http.close()


class Room:
    """Leases of one task, from the real vault, perhaps through a proxy."""

    def __init__(self, url: str, http: Http, tokens: IdentityTokens, role: str = "support", **options: Any) -> None:
        login = JwtLogin(tokens, options.pop("audience", bao_setup.AUDIENCE), role, options.pop("mount", "spiffe"))
        self.issuer = OpenBaoIssuer(http, url, login=login, targets=TARGETS, ttl=options.pop("ttl", 30))
        self.records: list[tuple[Event, Mapping[str, Any]]] = []
        self.leases = Leases(
            self.issuer, MemoryLedger(), lambda *record: self.records.append(record), clock=time.time
        )  # fmt: skip
        self.task = secrets.token_hex(4)
        self.leases.open_task(self.task)

    def obtain(self, audience: str = DB, tool: str = "read", seconds: float = 60, **fields: Any) -> Use:
        chain = Chain(Subject("alice"), (Agent("bot"),))
        key = LeaseKey("", chain.subject.sub, self.task, chain.names(), tool, audience, (), "")
        deadline = time.time() + seconds
        grant = Grant(key=key, chain=chain, task=self.task, intent_s256="s", deadline=deadline, **fields)
        return drive(self.leases.obtain(grant))

    def end(self) -> None:
        drive(self.leases.end_task(self.task))

    def outstanding(self) -> int:
        return drive(self.leases.outstanding())


@pytest.fixture
def room(configured: Services, http: Http, identity: SpiffeIdentity) -> Room:
    return Room(configured.bao.url, http, identity)


def connect(postgres: Postgres, credential: Credential) -> psycopg.Connection:
    return psycopg.connect(
        host=postgres.host, port=postgres.port, dbname="postgres", user=credential.username,
        password=credential.password, autocommit=True, connect_timeout=5,
    )  # fmt: skip


def soon(true: Callable[[], bool], seconds: float) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# what a login may do, and until when ----------------------------------------------------------------------


@nothing_left
def test_a_role_is_born_for_the_task_may_read_one_table_and_dies_with_its_open_session(
    configured: Services, room: Room
):
    credential = room.obtain().credential
    user, password = credential.username, credential.password
    with connect(configured.postgres, credential) as session:
        assert (300,) == session.execute("SELECT sum(amount) FROM ag_invoices").fetchone()
        for query in ("SELECT * FROM ag_payroll", "DELETE FROM ag_invoices"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(query)

        room.end()

        assert soon(lambda: not bao_setup.roles_left(configured.postgres, [user]), 2)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        where = {"host": configured.postgres.host, "port": configured.postgres.port, "dbname": "postgres"}
        psycopg.connect(**where, user=user, password=password)  # type: ignore[arg-type]  # one number among texts
    assert 0 == room.outstanding()


@nothing_left
def test_five_leases_of_a_task_end_with_one_request(
    configured: Services, http: Http, identity: SpiffeIdentity, operator: bao_setup.Operator
):
    with CountingProxy(configured.bao.url) as proxy:
        room = Room(proxy.url, http, identity)
        users = [room.obtain(tool=f"tool{number}").credential.username for number in range(5)]
        before = len(proxy.requests)

        room.end()

        assert ["POST auth/token/revoke-self"] == proxy.requests[before:]
    assert 1 == proxy.requests.count("POST auth/spiffe/login")
    assert soon(lambda: not bao_setup.roles_left(configured.postgres, users), 2)
    assert 0 == operator.tokens("support")


@nothing_left
def test_a_role_for_one_call_is_gone_when_its_revocation_returns(configured: Services, room: Room):
    use = room.obtain(single_use=True)
    user = use.credential.username

    assert "revoked" == drive(room.leases.release(use))

    assert [] == bao_setup.roles_left(configured.postgres, [user])
    room.end()


@nothing_left
def test_a_token_of_the_authorization_server_logs_in_too(configured: Services, http: Http):
    with RawClient(configured.authorization_server) as client:
        text = client.token("client_credentials", resource=bao_setup.AS_AUDIENCE).json()["access_token"]

    class Fixed:
        async def token(self, audience: str, now: float) -> Secret:
            return Secret(text)

    room = Room(configured.bao.url, http, Fixed(), mount="ag-jwt", audience=bao_setup.AS_AUDIENCE)

    assert room.obtain().credential.username
    room.end()


# what goes wrong ------------------------------------------------------------------------------------------


@nothing_left
def test_case_53_a_login_whose_answer_was_lost_is_dead_when_its_row_ends(
    configured: Services, http: Http, identity: SpiffeIdentity, operator: bao_setup.Operator
):
    with CountingProxy(configured.bao.url) as proxy:
        room = Room(proxy.url, http, identity, role="brief", ttl=5)
        proxy.drop = "auth/spiffe/login"
        with pytest.raises(CredentialUnavailable, match="out of reach"):
            room.obtain()
        room.end()

    assert (1, 1) == (operator.tokens("brief"), room.outstanding())
    (left,) = [fields for event, fields in room.records if event is Event.CREDENTIAL_EXPIRES]
    assert soon(lambda: not operator.tokens("brief"), 9)
    assert time.time() < left["expires_by"]


@nothing_left
def test_case_53_a_role_whose_answer_was_lost_ends_with_the_task(
    configured: Services, http: Http, identity: SpiffeIdentity, operator: bao_setup.Operator
):
    before = set(operator.leases())
    with CountingProxy(configured.bao.url) as proxy:
        room = Room(proxy.url, http, identity)
        proxy.drop = "database/creds/ag-reader"
        with pytest.raises(CredentialUnavailable, match="out of reach"):
            room.obtain()
        assert 1 == len(set(operator.leases()) - before)

        room.end()

    assert soon(lambda: set(operator.leases()) <= before, 2)
    assert 0 == room.outstanding()


@nothing_left
def test_case_30_a_revocation_whose_answer_was_lost_is_proven_by_the_real_server(
    configured: Services, http: Http, identity: SpiffeIdentity, operator: bao_setup.Operator
):
    with CountingProxy(configured.bao.url) as proxy:
        room = Room(proxy.url, http, identity)
        room.obtain()
        proxy.drop = "auth/token/revoke-self"

        room.end()

    assert (0, 0) == (operator.tokens("support"), room.outstanding())


def test_a_token_that_lives_longer_than_configured_is_refused_and_revoked(
    configured: Services, http: Http, identity: SpiffeIdentity, operator: bao_setup.Operator
):
    room = Room(configured.bao.url, http, identity, role="long")

    with pytest.raises(CredentialUnavailable, match="set token_ttl=30s"):
        room.obtain()

    assert (0, 0) == (operator.tokens("long"), room.outstanding())


def test_a_policy_that_does_not_allow_it_is_a_denial_that_says_what_to_add(
    configured: Services, http: Http, identity: SpiffeIdentity, operator: bao_setup.Operator
):
    room = Room(configured.bao.url, http, identity, role="blind")

    with pytest.raises(CredentialUnavailable, match='add path "database/creds/ag-reader" with read'):
        room.obtain()
    room.end()

    assert (0, 0) == (operator.tokens("blind"), room.outstanding())


def test_a_role_that_does_not_bind_this_workload_s_audience_is_a_denial(
    configured: Services, http: Http, identity: SpiffeIdentity
):
    room = Room(configured.bao.url, http, identity, audience="https://other.test")

    with pytest.raises(CredentialUnavailable, match="bound issuer, audience"):
        room.obtain()


def test_a_login_that_lives_longer_than_configured_is_refused_and_revoked(
    configured: Services, http: Http, identity: SpiffeIdentity, operator: bao_setup.Operator
):
    before = set(operator.leases())
    room = Room(configured.bao.url, http, identity, role="brief", ttl=5)

    with pytest.raises(CredentialUnavailable, match="set default_ttl=5s"):
        room.obtain()

    assert set(operator.leases()) <= before
    room.end()


def test_a_sealed_vault_fails_closed_in_time_and_what_it_holds_stays_owed(
    configured: Services, http: Http, identity: SpiffeIdentity, tmp_path: Path
):
    with private_bao(tmp_path) as bao:
        with bao_setup.Operator(bao) as operator:
            operator.write("sys/auth/spiffe", type="jwt")
            operator.write("sys/policies/acl/ag-task", policy=bao_setup.POLICY)
            operator.write("auth/spiffe/config", jwt_validation_pubkeys=bao_setup._bundle(configured))
            bao_setup._role(operator, "spiffe", "support", "30s", ["ag-task"], bound_audiences=[bao_setup.AUDIENCE])
            operator.write("secret/data/legacy/api", data={"key": bao_setup.SECRET})
            room = Room(bao.url, http, identity)
            room.obtain(LEGACY)
            operator.write("sys/seal")

        began = time.monotonic()
        with pytest.raises(CredentialUnavailable, match=r"sealed or in maintenance \(503\)"):
            room.obtain(DB, seconds=3)
        room.end()

        assert time.monotonic() - began < 12
        assert room.outstanding() >= 1


# long tasks, static secrets, operators --------------------------------------------------------------------


def test_renewal_keeps_a_long_task_s_token_alive_beyond_its_first_life(
    configured: Services, http: Http, identity: SpiffeIdentity, operator: bao_setup.Operator
):
    bao_setup.role(operator, "5s")
    try:
        with CountingProxy(configured.bao.url) as proxy:
            room = Room(proxy.url, http, identity, role="brief", ttl=5)
            room.obtain()
            end = time.monotonic() + 8
            while time.monotonic() < end:
                time.sleep(0.25)
                drive(room.leases.tend())

            with connect(configured.postgres, room.obtain().credential) as session:
                assert (300,) == session.execute("SELECT sum(amount) FROM ag_invoices").fetchone()
            room.end()
        assert 1 == proxy.requests.count("POST auth/spiffe/login")
        assert 2 <= proxy.requests.count("POST auth/token/renew-self") <= 6
        assert 0 == operator.tokens("brief")
    finally:
        bao_setup.role(operator, f"{bao_setup.DEFAULT_TTL}s")


def test_a_static_secret_is_lent_for_its_audience_and_found_by_the_leak_search(room: Room):
    use = room.obtain(LEGACY)

    credential = use.credential
    assert (bao_setup.SECRET, LEGACY, "X-Api-Key") == (credential.token, credential.audience, credential.lease.name)
    assert ("static", "v") == (credential.lease.type, credential.lease.jti[:1])
    assert "the key is [credential removed]" == room.leases.secrets.cleaned(f"the key is {bao_setup.SECRET}")[0]
    drive(room.leases.release(use))
    room.end()


def test_a_sweep_ends_the_roles_of_every_task(configured: Services, room: Room, identity: SpiffeIdentity):
    users = [room.obtain(tool=tool).credential.username for tool in "ab"]
    sweeper = JwtLogin(identity, bao_setup.AUDIENCE, "sweeper", "spiffe")

    drive(room.issuer.sweep(DB, login=sweeper, now=time.time()))

    assert soon(lambda: not bao_setup.roles_left(configured.postgres, users), 2)
    room.end()


def test_the_page_s_example_runs_and_leaves_nothing(configured: Services, operator: bao_setup.Operator):
    before, page = set(operator.leases()), (ROOT / "docs/credentials/openbao.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert ("300\n", "") == (done.stdout, done.stderr)
    assert soon(lambda: set(operator.leases()) <= before, 2)


@pytest.mark.slow
@nothing_left
def test_case_72_after_forty_tasks_with_faults_on_the_wire_nothing_is_left_at_the_servers(
    configured: Services, identity: SpiffeIdentity, operator: bao_setup.Operator
):
    rates: Any = {"drop_reply": 0.1, "reset": 0.05, "refuse": 0.05, "truncate": 0.05}
    bao_setup.role(operator, "5s")
    rooms, host, port = [], *configured.bao.url.removeprefix("http://").split(":")
    try:
        with ChaosProxy(host, int(port), rates=rates, seed=7) as proxy:
            for _ in range(40):
                http = Http(timeout=1.0, deadline=3.0)  # a new connection, and so a new draw, for each task
                room = Room(f"http://{proxy.host}:{proxy.port}", http, identity, role="brief", ttl=5)
                try:
                    room.obtain()
                except CredentialUnavailable:
                    pass
                room.end()
                drive(room.leases.retry_failed())
                rooms.append(room)
                http.close()
            assert sum(proxy.counts.values()) > proxy.counts["ok"] > 0
        left = [lease for room in rooms for lease in drive(room.leases._ledger.outstanding(time.time()))]
        assert operator.tokens("brief") <= len([lease for lease in left if lease.type == "vault_token"]) > 0
        assert all(lease.expires_by <= time.time() + 5 + 30 for lease in left)
        assert soon(lambda: not operator.tokens("brief") and not operator.leases(), 12)
    finally:
        bao_setup.role(operator, f"{bao_setup.DEFAULT_TTL}s")


# the places between ---------------------------------------------------------------------------------------


class CountingProxy:
    """Forwards to the vault, counts what was asked, and loses the answer to the next request for `drop`."""

    def __init__(self, url: str) -> None:
        self.requests: list[str] = []
        self.drop = ""
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=10)
        handler = type("Forward", (_Forward,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> CountingProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()
        self._http.close()

    def forward(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> httpx.Response | None:
        name = path.removeprefix("/v1/")
        self.requests.append(f"{method} {name}")
        lost = name == self.drop
        if lost:
            self.drop = ""
        kept = {key: value for key, value in headers.items() if key.lower().startswith(("x-vault", "content-type"))}
        answer = self._http.request(method, path, headers=kept, content=body)
        return None if lost else answer


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: CountingProxy

    def do_GET(self) -> None:
        self._forward()

    def do_POST(self) -> None:
        self._forward()

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        answer = self.proxy.forward(self.command, self.path, dict(self.headers.items()), body)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status_code)
        self.send_header("content-type", answer.headers.get("content-type", "application/json"))
        self.send_header("content-length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *_: Any) -> None:
        pass


class private_bao:  # noqa: N801  # used as a function
    """An OpenBao of one test, which may seal it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Bao:
        return _on_a_free_port(self._serve)

    def _serve(self, port: int) -> Bao:
        token = secrets.token_urlsafe(24)
        server = Bao(f"http://127.0.0.1:{port}", token, self._folder / "bao.log")
        command = [str(install.bao()), "server", "-dev", "-dev-no-store-token", f"-dev-listen-address=127.0.0.1:{port}"]
        env = {"BAO_DEV_ROOT_TOKEN_ID": token, "HOME": str(self._folder)}
        with server.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=self._folder
            )
        assert soon(lambda: bao_answers(server), 30), server.log.read_text()
        return server

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
