"""Roles that are born for a task, against a real PostgreSQL; the admin has CREATEROLE and grant options."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest
from msgspec.structs import replace
from psycopg import sql

from agentguard._drive import drive
from agentguard.credentials.postgres import PostgresRoles, connections, roles
from agentguard.errors import CredentialUnavailable
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Grant, Lease, LeaseKey, Placement, Secret
from agentguard.model.principal import Agent, Chain, Subject
from tests.services.endpoints import Services

GRANTS = {
    "table/invoices": {
        "billing.invoices": {"db:read": ["SELECT"], "db:write": ["SELECT", "INSERT", "UPDATE"]},
        "sequence:billing.numbers": {"db:write": ["USAGE"]},
    },
    "table/payroll": {"billing.payroll": {"db:read": ["SELECT"]}},
}
SCHEMA = """
CREATE SCHEMA billing;
CREATE SEQUENCE billing.numbers;
CREATE TABLE billing.invoices (id int, amount int);
INSERT INTO billing.invoices VALUES (1, 100), (2, 200);
CREATE TABLE billing.payroll (id int);
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
"""


@dataclass(frozen=True)
class Database:
    """A database of its own, with an admin of its own."""

    host: str
    port: int
    name: str
    admin: str
    superuser: str
    owner: str

    @property
    def audience(self) -> str:
        return f"postgresql://{self.host}:{self.port}/{self.name}"

    def issuer(self, **options: Any) -> PostgresRoles:
        return PostgresRoles(
            **{"dsn": self.admin, "audience": self.audience, "grants": GRANTS, "owner": self.owner, **options}
        )

    def grant(self, **fields: Any) -> Grant:
        key = LeaseKey(
            tenant="", subject="user:alice", root="t", chain=("user:alice", "bot"), tool="sql.query",
            audience=self.audience, scopes=("db:read",), resource="table/invoices",
        )  # fmt: skip
        chain = Chain(Subject("alice"), (Agent("bot"),))
        names = {name for name in fields if name in LeaseKey.__struct_fields__}
        key = replace(key, **{name: fields.pop(name) for name in names})
        return replace(Grant(key=key, chain=chain, task="t", intent_s256="", deadline=time.time() + 60), **fields)

    def as_superuser(self, statement: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.superuser, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def roles(self) -> list[str]:
        """The roles that were made here and are still there."""
        found = self.as_superuser("SELECT rolname FROM pg_roles WHERE rolname LIKE %s", f"ag_{self.owner}_%")
        return [row[0] for row in found]

    def login(self, issued: Issued) -> psycopg.Connection:
        return psycopg.connect(
            host=self.host, port=self.port, dbname=self.name, user=issued.lease.name, password=issued.secret.reveal(),
            autocommit=True,
        )  # fmt: skip


@pytest.fixture(scope="module")
def database(services: Services) -> Iterator[Database]:
    server, unique = services.postgres, secrets.token_hex(4)
    name, admin = f"app_{unique}", f"minter_{unique}"
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD 'admin of the tests'").format(sql.Identifier(admin))
        )
    found = Database(
        server.host, server.port, name,
        f"postgresql://{admin}:admin%20of%20the%20tests@{server.host}:{server.port}/{name}",
        f"postgresql://{server.user}:{server.password}@{server.host}:{server.port}/{name}", f"t{unique}",
    )  # fmt: skip
    found.as_superuser(SCHEMA)
    found.as_superuser(f"""
        GRANT CONNECT ON DATABASE {name} TO {admin} WITH GRANT OPTION;
        GRANT USAGE ON SCHEMA billing TO {admin} WITH GRANT OPTION;
        GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA billing TO {admin} WITH GRANT OPTION;
        GRANT USAGE ON SEQUENCE billing.numbers TO {admin} WITH GRANT OPTION;
    """)
    yield found
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        left = found.roles()
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        for role in left:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(admin)))


@pytest.fixture
def make(database: Database) -> Iterator[Callable[..., PostgresRoles]]:
    made: list[PostgresRoles] = []

    def issuer(**options: Any) -> PostgresRoles:
        made.append(database.issuer(**options))
        return made[-1]

    yield issuer
    for one in made:
        one.close()


def issued_by(issuer: PostgresRoles, grant: Grant, now: float | None = None) -> Issued:
    now = time.time() if now is None else now
    return drive(issuer.issue(grant, issuer.prepare(grant, now), now))


def revoke(issuer: PostgresRoles, lease: Lease) -> Ending:
    return drive(issuer.revoke(lease))


@contextmanager
def refused(connection: psycopg.Connection) -> Iterator[None]:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
        yield


# --- what a role may do -----------------------------------------------------------------------------------------------


@pytest.mark.control("2 a database role has the task's rights only")
def test_role_reads_its_table_and_postgresql_refuses_every_other(database: Database, make: Any) -> None:
    issued = issued_by(make(), database.grant())
    with database.login(issued) as connection:
        assert connection.execute("SELECT sum(amount) FROM invoices").fetchone() == (300,)
        with refused(connection):
            connection.execute("SELECT * FROM billing.payroll")
        connection.execute("SET default_transaction_read_only = off")  # a role may change its own defaults
        with refused(connection):
            connection.execute("DELETE FROM billing.invoices")
        with refused(connection):
            connection.execute("CREATE TABLE billing.mine ()")
        with refused(connection):
            connection.execute("CREATE ROLE another")
    lease = issued.lease
    assert (lease.placement, lease.type, lease.lasts) == (Placement.LOGIN, "login", True)
    assert revoke(make(), lease) is Ending.REVOKED


def test_role_that_only_reads_has_safe_defaults(database: Database, make: Any) -> None:
    issuer = make(statement_timeout=7)
    issued = issued_by(issuer, database.grant())
    with database.login(issued) as connection:
        shown = [connection.execute(f"SHOW {name}").fetchone() for name in
                 ("default_transaction_read_only", "statement_timeout", "search_path")]  # fmt: skip
    assert shown == [("on",), ("7s",), ("billing",)]
    revoke(issuer, issued.lease)


def test_role_that_writes_may_do_what_its_scope_lists(database: Database, make: Any) -> None:
    issuer = make()
    issued = issued_by(issuer, database.grant(scopes=("db:write",)))
    with database.login(issued) as connection:
        connection.execute("BEGIN; INSERT INTO billing.invoices VALUES (nextval('billing.numbers'), 1); ROLLBACK")
        with refused(connection):
            connection.execute("DELETE FROM billing.invoices")
    revoke(issuer, issued.lease)


@pytest.mark.control("2 a password is not in the server's log")
def test_servers_log_holds_no_password(database: Database, make: Any, services: Services) -> None:
    issuer = make(dsn=f"{database.superuser}?options=-c%20log_statement%3Dall")
    issued = issued_by(issuer, database.grant())
    revoke(issuer, issued.lease)
    log = services.postgres.log.read_text(errors="replace")
    assert f'CREATE ROLE "{issued.lease.name}"' in log
    assert "SCRAM-SHA-256$" in log
    assert issued.secret.reveal() not in log


def test_role_is_limited_in_time_and_sessions(database: Database, make: Any) -> None:
    issuer = make(connections=1)
    issued = issued_by(issuer, database.grant())
    [(limit, until)] = database.as_superuser(
        "SELECT rolconnlimit, extract(epoch FROM rolvaliduntil)::float FROM pg_roles WHERE rolname = %s",
        issued.lease.name,
    )
    assert (limit, until) == (1, issued.lease.expires_at)
    with database.login(issued), pytest.raises(psycopg.OperationalError, match="too many connections"):
        database.login(issued)
    revoke(issuer, issued.lease)


@pytest.mark.control("2 names are quoted")
@pytest.mark.parametrize("name", ['x"; DROP ROLE postgres; --', "it's", "Mixed Case", "a%b", "$$", "back\\slash"])
def test_names_of_the_configuration_are_quoted(database: Database, make: Any, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    admin = admin_name(database)
    database.as_superuser(f"CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.{quoted} (id int)")
    database.as_superuser(f"GRANT USAGE ON SCHEMA {quoted} TO {admin} WITH GRANT OPTION")
    database.as_superuser(f"GRANT SELECT ON {quoted}.{quoted} TO {admin} WITH GRANT OPTION")
    issuer = make(grants={"table/invoices": {f"{name}.{name}": {"db:read": ["SELECT"]}}})
    issued = issued_by(issuer, database.grant())
    with database.login(issued) as connection:
        assert connection.execute(f"SELECT count(*) FROM {quoted}".encode()).fetchone() == (0,)  # by its search path
    assert revoke(issuer, issued.lease) is Ending.REVOKED
    database.as_superuser("SELECT 'billing.payroll'::regclass")


def admin_name(database: Database) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(database.admin)["user"])


# --- its end ----------------------------------------------------------------------------------------------------------


@pytest.mark.control("3 a role and its open sessions end with the lease")
def test_revoked_role_is_gone_and_so_is_its_open_session(database: Database, make: Any) -> None:
    issuer = make()
    issued = issued_by(issuer, database.grant())
    with closing(database.login(issued)) as open_session:
        open_session.execute("SELECT 1")
        assert revoke(issuer, issued.lease) is Ending.REVOKED
        with pytest.raises(psycopg.errors.AdminShutdown):
            open_session.execute("SELECT 1")
    assert issued.lease.name not in database.roles()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        database.login(issued)
    assert revoke(issuer, issued.lease) is Ending.REVOKED


@pytest.mark.control("3 a hostile session cannot hold up its role's end")
@pytest.mark.parametrize(
    "hostile",
    [
        "BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'another'",
        "BEGIN; SELECT lo_create(0)",
        "SELECT lo_create(0)",
        "SELECT count(lo_create(0)) FROM generate_series(1, 30000)",  # more than the server has locks for
        "CREATE TEMPORARY TABLE mine AS SELECT * FROM billing.invoices",
        "BEGIN; UPDATE billing.invoices SET amount = amount",
        "BEGIN; LOCK TABLE billing.invoices IN ROW EXCLUSIVE MODE",
        "SELECT pg_advisory_lock(n) FROM generate_series(1, 500) AS n",
        "ALTER ROLE CURRENT_USER SET search_path = public",
        "LISTEN something",
    ],
)
def test_hostile_session_does_not_keep_its_role(database: Database, make: Any, hostile: str) -> None:
    issuer = make()
    issued = issued_by(issuer, database.grant(scopes=("db:write",)))
    with closing(database.login(issued)) as session:
        session.execute(hostile)
        assert revoke(issuer, issued.lease) is Ending.REVOKED
    assert issued.lease.name not in database.roles()


@pytest.mark.control("3 a role that cannot be dropped is locked out")
def test_role_that_cannot_be_dropped_is_locked_out_and_not_called_revoked(database: Database, make: Any) -> None:
    issuer = make()
    issued = issued_by(issuer, database.grant())
    table = f"left_{issued.lease.name}"
    with psycopg.connect(database.superuser, dbname="postgres", autocommit=True) as elsewhere:
        elsewhere.execute(f"CREATE TABLE {table} (); ALTER TABLE {table} OWNER TO {issued.lease.name}".encode())
        with closing(database.login(issued)) as session:
            with pytest.raises(CredentialUnavailable, match="could not be dropped"):
                revoke(issuer, issued.lease)
            with pytest.raises(psycopg.errors.AdminShutdown):
                session.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
            database.login(issued)
        elsewhere.execute(f"DROP TABLE {table}".encode())
    assert revoke(issuer, issued.lease) is Ending.REVOKED


def test_client_that_logs_in_again_and_again_does_not_keep_its_role(database: Database, make: Any) -> None:
    issuer, stopped = make(), threading.Event()
    issued = issued_by(issuer, database.grant())

    def again_and_again() -> None:
        while not stopped.is_set():
            with suppress(psycopg.Error), closing(database.login(issued)) as session:
                session.execute("SELECT pg_sleep(0.05)")

    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            pool.submit(again_and_again)
        time.sleep(0.2)
        ending = revoke(issuer, issued.lease)
        stopped.set()
    assert ending is Ending.REVOKED
    assert database.as_superuser("SELECT 1 FROM pg_stat_activity WHERE usename = %s", issued.lease.name) == []


def test_running_statement_is_ended(database: Database, make: Any) -> None:
    issuer = make()
    issued = issued_by(issuer, database.grant())
    with closing(database.login(issued)) as session, ThreadPoolExecutor(1) as pool:
        sleeping = pool.submit(session.execute, "SELECT pg_sleep(30)")
        while not database.as_superuser("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
            time.sleep(0.01)
        began = time.monotonic()
        assert revoke(issuer, issued.lease) is Ending.REVOKED
        with pytest.raises(psycopg.OperationalError):
            sleeping.result(10)
        assert time.monotonic() - began < 3


def test_case_53_another_process_ends_the_role_by_its_lease_alone(database: Database, make: Any) -> None:
    issued = issued_by(make(), database.grant())
    restarted = make(owner="other")
    assert revoke(restarted, issued.lease) is Ending.REVOKED
    assert issued.lease.name not in database.roles()


@pytest.mark.control("3 a role that was made at another server is not called revoked")
def test_role_that_was_made_at_another_server_is_not_called_revoked_here(database: Database, make: Any) -> None:
    lost = replace(make().prepare(database.grant(), 0.0), issued_at=time.time() - 60)
    [(here,)] = database.as_superuser("SELECT system_identifier::text FROM pg_control_system()")
    with pytest.raises(CredentialUnavailable, match="was made at another PostgreSQL server"):
        drive(make().revoke(lost, Secret("1234567890123456789")))
    assert drive(make().revoke(lost, Secret(here))) is Ending.REVOKED


def test_role_goes_with_the_name_of_its_server_also_after_an_upgrade_renamed_it(database: Database, make: Any) -> None:
    issued = issued_by(make(), database.grant())
    [(here,)] = database.as_superuser("SELECT system_identifier::text FROM pg_control_system()")
    assert issued.handle is not None
    assert issued.handle.reveal() == here
    assert drive(make().revoke(issued.lease, Secret("1234567890123456789"))) is Ending.REVOKED
    assert issued.lease.name not in database.roles()


def test_admin_that_may_not_ask_for_the_name_of_the_server_issues_and_revokes(
    database: Database, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_SERVER", sql.SQL("SELECT passwd FROM pg_catalog.pg_shadow").format())
    issuer = make()
    issued = issued_by(issuer, database.grant())
    assert issued.handle is None
    assert revoke(issuer, issued.lease) is Ending.REVOKED
    assert database.roles() == []


@pytest.mark.control("3 a role that may still be created is not called revoked")
def test_case_53_role_that_may_still_be_born_is_not_called_revoked(database: Database, make: Any) -> None:
    issuer = make(window=6)
    lease = issuer.prepare(database.grant(), time.time())
    with pytest.raises(CredentialUnavailable, match="may still be created"):
        revoke(issuer, lease)
    assert revoke(issuer, replace(lease, issued_at=time.time() - 7)) is Ending.REVOKED


@pytest.mark.control("3 a delayed creation is refused by the server's clock")
def test_delayed_creation_is_refused_by_the_server(database: Database, make: Any) -> None:
    issuer, grant = make(window=6), database.grant()
    late = issuer.prepare(grant, time.time() - 7)
    with pytest.raises(CredentialUnavailable, match="its clock is 7"):
        drive(issuer.issue(grant, late, time.time()))
    assert late.name not in database.roles()
    assert revoke(issuer, late) is Ending.REVOKED


@pytest.mark.control("3 a creation under way is waited for")
def test_creation_that_is_under_way_keeps_its_revocation_from_giving_up(database: Database, make: Any) -> None:
    issuer = make(window=6)
    lease = replace(issuer.prepare(database.grant(), 0.0), issued_at=time.time() - 7)
    with psycopg.connect(database.superuser) as slow:  # passed the clock in time, and has not committed yet
        slow.execute(f'CREATE ROLE "{lease.name}" LOGIN')
        with pytest.raises(CredentialUnavailable, match="could not be dropped"):
            revoke(issuer, lease)
        slow.commit()
    assert database.roles() == [lease.name]
    assert revoke(make(dsn=database.superuser), lease) is Ending.REVOKED
    assert database.roles() == []


def test_role_that_the_server_refused_is_revoked_at_once(database: Database, make: Any) -> None:
    grants = {"table/invoices": {"billing.invoices": {"db:read": ["DELETE"]}}}
    issuer, grant = make(grants=grants), database.grant()
    lease = issuer.prepare(grant, time.time())
    with pytest.raises(CredentialUnavailable, match=r"DELETE ON TABLE billing.invoices.*WITH GRANT OPTION"):
        drive(issuer.issue(grant, lease, time.time()))
    assert lease.name not in database.roles()
    assert revoke(issuer, lease) is Ending.REVOKED


def test_unknown_table_is_refused_without_a_role(database: Database, make: Any) -> None:
    issuer = make(grants={"table/invoices": {"billing.absent": {"db:read": ["SELECT"]}}})
    with pytest.raises(CredentialUnavailable, match="does not exist"):
        issued_by(issuer, database.grant())
    assert database.roles() == []


@pytest.mark.control("3 only roles that were made here are dropped")
@pytest.mark.parametrize("name", ["admin", "postgres", "ag_x", 'ag_tests_"; DROP', ""])
def test_no_other_role_is_ever_dropped(database: Database, make: Any, name: str) -> None:
    issuer = make()
    lease = replace(issuer.prepare(database.grant(), time.time()), name=name)
    with pytest.raises(CredentialUnavailable, match="names no role"):
        revoke(issuer, lease)


def test_sweep_drops_what_no_ledger_knows(database: Database, make: Any) -> None:
    issuer = make()
    fresh, old = (issued_by(issuer, database.grant()) for _ in range(2))
    database.as_superuser(f"ALTER ROLE \"{old.lease.name}\" VALID UNTIL '2020-01-01'")
    assert drive(issuer.sweep()) == (old.lease.name,)
    assert database.roles() == [fresh.lease.name]
    revoke(issuer, fresh.lease)


# --- many at once, and a bad network ----------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_many_roles_at_once_under_an_event_loop(database: Database, make: Any) -> None:
    issuers, grant = [make(), make()], database.grant()  # two of them: two processes, as far as locks go
    ended: list[Ending] = []

    async def one(number: int) -> None:
        issuer = issuers[number % 2]
        issued = await issuer.issue(grant, issuer.prepare(grant, time.time()), time.time())
        ended.append(await issuer.revoke(issued.lease))

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(one, number)
    assert ended == [Ending.REVOKED] * 12
    assert database.roles() == []


@pytest.mark.control("3 catalog conflicts are tried again")
def test_concurrent_change_of_rights_is_tried_again(
    database: Database, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = make()
    with psycopg.connect(database.superuser) as other:
        other.execute("GRANT SELECT ON billing.invoices TO PUBLIC")  # the same catalog row, not committed
        threading.Timer(0.3, other.commit).start()
        issued = issued_by(issuer, database.grant())
    database.as_superuser("REVOKE SELECT ON billing.invoices FROM PUBLIC")
    revoke(issuer, issued.lease)


def test_idle_connection_that_the_server_closed_is_not_used_again(database: Database, make: Any) -> None:
    issuer = make()
    revoke(issuer, issued_by(issuer, database.grant()).lease)
    database.as_superuser(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'agentguard'"
    )
    time.sleep(0.1)
    revoke(issuer, issued_by(issuer, database.grant()).lease)


@pytest.mark.anyio
async def test_case_58_cancelled_caller_leaves_a_role_that_its_lease_ends(
    database: Database, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer, grant = make(), database.grant()
    lease = issuer.prepare(grant, time.time())
    run, on_its_way = connections.Admin.run, threading.Event()

    def slowly(admin: Any, statement: Any, deadline: float) -> Any:
        if b"CREATE ROLE" in statement.as_bytes(None):
            on_its_way.set()
            time.sleep(0.1)
        return run(admin, statement, deadline)

    monkeypatch.setattr(connections.Admin, "run", slowly)
    async with anyio.create_task_group() as caller:
        caller.start_soon(issuer.issue, grant, lease, time.time())
        assert await anyio.to_thread.run_sync(on_its_way.wait, 10)
        caller.cancel_scope.cancel()
    assert database.roles() == [lease.name]
    assert await issuer.revoke(lease) is Ending.REVOKED
    assert database.roles() == []


@pytest.mark.anyio
async def test_case_58_caller_that_was_cancelled_before_it_asked_left_no_role(database: Database, make: Any) -> None:
    issuer, grant = make(), database.grant()
    lease = issuer.prepare(grant, time.time())
    with anyio.CancelScope() as caller:
        caller.cancel()
        await issuer.issue(grant, lease, time.time())
    assert caller.cancelled_caught
    assert await issuer.revoke(lease) is Ending.REVOKED
    assert database.roles() == []


def test_case_53_lost_answer_leaves_a_role_that_its_lease_ends(
    database: Database, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer, grant = make(), database.grant()
    lease = issuer.prepare(grant, time.time())
    run = connections.Admin.run

    def lost(admin: Any, statement: Any, deadline: float) -> Any:
        answer = run(admin, statement, deadline)
        if b"CREATE ROLE" in statement.as_bytes(None):
            raise psycopg.OperationalError("the answer was lost")
        return answer

    monkeypatch.setattr(connections.Admin, "run", lost)
    with pytest.raises(CredentialUnavailable, match="did not answer"):
        drive(issuer.issue(grant, lease, time.time()))
    assert database.roles() == [lease.name]
    assert revoke(issuer, lease) is Ending.REVOKED
    assert database.roles() == []


def test_server_that_stops_answering_is_left_in_time(
    database: Database, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "ISSUE", 1.5)
    issuer, grant = make(), database.grant()
    with psycopg.connect(database.superuser) as other:
        other.execute("LOCK TABLE pg_catalog.pg_authid IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        with pytest.raises(CredentialUnavailable):
            issued_by(issuer, grant)
        assert time.monotonic() - began < 4


# --- configuration that does not fit the server -----------------------------------------------------------------------


def test_wrong_password_shows_no_password(database: Database, make: Any) -> None:
    issuer = make(dsn=database.admin.replace("admin%20of", "swordfish%20of"))
    with pytest.raises(CredentialUnavailable, match="password authentication failed") as raised:
        issued_by(issuer, database.grant())
    assert "swordfish" not in _everything(raised.value)


@pytest.mark.parametrize("dsn", ["postgresql://me:sword/fish@127.0.0.1:5432/app", "host=x passw0rd swordfish"])
def test_connection_string_that_cannot_be_read_shows_nothing(database: Database, make: Any, dsn: str) -> None:
    with pytest.raises(CredentialUnavailable) as raised:
        issued_by(make(dsn=dsn), database.grant())
    assert "sword" not in _everything(raised.value)


def _everything(error: BaseException) -> str:
    found, here = [repr(error)], error.__traceback__
    while here is not None:
        if "credentials/postgres" in here.tb_frame.f_code.co_filename:
            found.append(repr(here.tb_frame.f_locals))
        here = here.tb_next
    return " ".join([*found, repr(error.__cause__), repr(error.__context__)])


def test_check_names_what_every_role_may_do(database: Database, make: Any) -> None:
    database.as_superuser("GRANT CREATE ON SCHEMA public TO PUBLIC; GRANT SELECT ON billing.payroll TO PUBLIC")
    try:
        found = "\n".join(drive(make().check()))
    finally:
        database.as_superuser(
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC; REVOKE SELECT ON billing.payroll FROM PUBLIC"
        )
    assert "may make objects in the schema public" in found
    assert "privileges on billing.payroll" in found
    assert f"temporary tables in {database.name}" in found
    assert "may connect to " in found
    assert "superuser" not in found
    assert "is a superuser" in "\n".join(drive(make(dsn=database.superuser).check()))


def test_warnings_are_logged_before_the_first_role(
    database: Database, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = make()
    for _ in range(2):
        revoke(issuer, issued_by(issuer, database.grant()).lease)
    assert sum("may make temporary tables" in record.message for record in caplog.records) == 1
