"""What `PostgresRoles` does before it asks a server, and what it says when there is none."""

from __future__ import annotations

import math
import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from psycopg import sql

from agentguard._drive import drive
from agentguard.credentials.postgres import PostgresRoles, statements
from agentguard.credentials.postgres.connections import Connections, Refused
from agentguard.credentials.postgres.grants import Privileges
from agentguard.credentials.postgres.lint import findings_text
from agentguard.credentials.routes import Route, Routes
from agentguard.errors import ConfigurationError, CredentialUnavailable
from agentguard.model.lease import Ending, Grant, LeaseKey, Placement, Secret
from agentguard.model.principal import Agent, Chain, Subject
from agentguard.ports import Issuer, waits

pytestmark = pytest.mark.slow  # processes, servers that hang, deadlines that pass

AUDIENCE = "postgresql://db.test:5432/app"
GRANTS = {"table/invoices": {"billing.invoices": {"db:read": ["SELECT"]}}}


def issuer(**options: Any) -> PostgresRoles:
    return PostgresRoles(
        **{"dsn": "host=127.0.0.1 password=swordfish", "audience": AUDIENCE, "grants": GRANTS, **options}
    )


def grant(**fields: Any) -> Grant:
    names = {name: fields.pop(name) for name in tuple(fields) if name in LeaseKey.__struct_fields__}
    key = LeaseKey(
        tenant="", subject="user:alice", root="t", chain=("user:alice", "bot"), tool="sql.query",
        audience=AUDIENCE, scopes=("db:read",), resource="table/invoices",
    )  # fmt: skip
    plain = Grant(
        key=replace(key, **names),
        chain=Chain(Subject("alice"), (Agent("bot"),)),
        task="t",
        intent_s256="",
        deadline=1e12,
    )
    return replace(plain, **fields)


def test_it_is_an_issuer_that_blocks_and_does_not_suspend() -> None:
    made = issuer()
    assert isinstance(made, Issuer)
    assert (made.suspends, waits(made), made.remote) == (False, True, True)


def test_lease_names_the_role_and_lasts_until_it_is_revoked() -> None:
    lease = issuer(owner="prod1", ttl=60).prepare(grant(), 1000.5)
    assert lease.name.startswith("ag_prod1_")
    assert len(lease.name.encode()) <= 63
    assert (lease.issued_at, lease.expires_at, lease.expires_by) == (1000.5, 1061, math.inf)
    assert (lease.type, lease.placement, lease.issuer) == ("login", Placement.LOGIN, AUDIENCE)


def test_login_ends_no_later_than_its_task() -> None:
    assert issuer(ttl=60).prepare(grant(deadline=1010.0), 1000.0).expires_at == 1010


def test_no_two_leases_have_one_role() -> None:
    made = issuer()
    assert len({made.prepare(grant(), 0.0).name for _ in range(100)}) == 100


@pytest.mark.control("5 a role is made for its database only")
@pytest.mark.parametrize(
    "audience",
    ["postgresql://db.test:5433/app", "postgresql://other.test/app", "postgresql://db.test/other", "https://db.test/app",
     "postgresql://db.test:x/app", "postgresql://db.test/app/more", "postgresql://me@db.test/app"],
)  # fmt: skip
def test_another_database_gets_no_role(audience: str) -> None:
    with pytest.raises(CredentialUnavailable, match="roles are made for"):
        issuer().prepare(grant(audience=audience), 0.0)


def test_default_port_may_be_left_out() -> None:
    assert issuer().prepare(grant(audience="postgresql://DB.test/app"), 0.0).name


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 5}, {"ttl": 7200}, {"ttl": True}, {"ttl": "60"}, {"connections": 0}, {"statement_timeout": 0},
        {"window": 3}, {"window": math.nan}, {"owner": "Prod"}, {"owner": ""}, {"owner": "a" * 17}, {"owner": "a_b"},
        {"audience": "https://db.test"}, {"audience": "postgresql://db.test"}, {"audience": "postgresql:///app"},
        {"grants": {}}, {"dsn": 5},
    ],
)  # fmt: skip
def test_wrong_options_are_refused_at_start(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        issuer(**options)


def test_ended_task_gets_no_role() -> None:
    made, asked = issuer(), grant(deadline=1100.0)
    lease = made.prepare(asked, 1000.0)
    with pytest.raises(CredentialUnavailable, match="has passed"):
        drive(made.issue(asked, lease, 1100.0))


def test_lease_of_another_grant_is_refused() -> None:
    made = issuer()
    lease = made.prepare(grant(), 0.0)
    with pytest.raises(CredentialUnavailable, match="another grant"):
        drive(made.issue(grant(tool="other"), lease, 0.0))
    with pytest.raises(CredentialUnavailable, match="issued by"):
        drive(made.revoke(replace(lease, issuer="postgresql://other.test/app")))


def test_role_is_not_sought_in_another_database_that_took_the_place_of_its_own() -> None:
    """A later process finds the lease under its broker's name, and asks another server by now."""
    before, after = (
        Routes([Route("db", issuer(audience=audience))]) for audience in (AUDIENCE, "postgresql://new/app")
    )
    lease = before.prepare(grant(), 0.0)
    with pytest.raises(CredentialUnavailable, match=r"the role is of postgresql://db\.test:5432/app, .*//new/app now"):
        drive(after.revoke(lease))


def test_nothing_shows_the_admins_password() -> None:
    made = issuer(dsn=Secret("host=127.0.0.1 password=swordfish"))
    assert "swordfish" not in repr(made) + repr(vars(made)) + repr(vars(vars(made)["_roles"]))
    with pytest.raises(TypeError):
        pickle.dumps(made)


@pytest.mark.anyio
async def test_server_that_is_down_is_said_and_is_not_a_revocation() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    made, asked = issuer(dsn=f"postgresql://me:swordfish@127.0.0.1:{port}/app"), grant()
    asked_for, elsewhere = (made.prepare(asked, time.time()) for _ in range(2))
    for work in (lambda: made.issue(asked, asked_for, time.time()), lambda: made.revoke(elsewhere)):
        with pytest.raises(CredentialUnavailable, match=r"cannot be reached.*onnection refused") as raised:
            await work()
        assert "swordfish" not in repr(raised.value)
    assert await made.revoke(asked_for) is Ending.REVOKED, "nothing was sent that could make the role"


def test_server_that_accepts_and_says_nothing_is_left_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = issuer(dsn=f"postgresql://me:swordfish@127.0.0.1:{silent.getsockname()[1]}/app")
        began = time.monotonic()
        with pytest.raises(CredentialUnavailable, match="cannot be reached"):
            drive(made.revoke(made.prepare(grant(), time.time())))
        assert time.monotonic() - began < 5


@pytest.mark.anyio
async def test_event_loop_is_not_blocked_while_the_server_is_silent() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.sleep(0.01)
            ticks += 1

    with socket.create_server(("127.0.0.1", 0)) as silent:
        made = issuer(dsn=f"postgresql://me:x@127.0.0.1:{silent.getsockname()[1]}/app")
        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            with pytest.raises(CredentialUnavailable):
                await made.revoke(made.prepare(grant(), time.time()))
            group.cancel_scope.cancel()
    assert ticks > 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_child_after_a_fork_leaves_the_parents_connections_alone() -> None:
    made = issuer()
    idle = vars(vars(made)["_roles"].connections)["_idle"]
    closed: list[str] = []

    class Kept:
        connection = None

        def close(self) -> None:
            closed.append("closed")

    idle.append(Kept())
    child = os.fork()
    if child == 0:
        made.close()
        os._exit(len(closed))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    made.close()
    assert closed == ["closed"]


class Slow:
    """A connection that is there after a while; it keeps what was sent."""

    def __init__(self) -> None:
        self.asked_for, self.there = threading.Event(), threading.Event()
        self.sent: list[str] = []

    @contextmanager
    def one(self, deadline: float) -> Iterator[Slow]:
        self.asked_for.set()
        assert self.there.wait(5)
        yield self

    def server(self, deadline: float) -> str:
        return ""

    def verifier(self, role: str, password: Secret) -> str:
        return "v"

    def run(self, statement: sql.Composed, deadline: float) -> list[tuple[str | None, ...]]:
        self.sent.append(statement.as_string(None))
        return [("16384", str(time.time()))]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    slow = Slow()
    monkeypatch.setattr(Connections, "one", lambda _, deadline: slow.one(deadline))
    return slow


@pytest.mark.control("3 a role that may still be created is not called revoked")
def test_role_that_was_called_revoked_before_it_was_asked_for_is_not_created(slow: Slow) -> None:
    made, asked = issuer(), grant()
    lease = made.prepare(asked, time.time())
    vars(made)["_linted"] = True  # what every role may do was said before
    with ThreadPoolExecutor(1) as pool:
        # So goes on the thread of a caller that asyncio cancelled.
        issued = pool.submit(drive, made.issue(asked, lease, time.time()))
        assert slow.asked_for.wait(5)
        assert drive(made.revoke(lease)) is Ending.REVOKED
        slow.there.set()
        with pytest.raises(CredentialUnavailable, match="was revoked before"):
            issued.result(5)
    assert slow.sent == []
    with pytest.raises(CredentialUnavailable, match="asked for already"):
        drive(made.issue(asked, lease, time.time()))


def test_role_is_created_once_and_its_end_is_asked_for_whoever_tries_again(slow: Slow) -> None:
    made, asked = issuer(), grant()
    lease = made.prepare(asked, time.time())
    vars(made)["_linted"] = True
    slow.there.set()
    drive(made.issue(asked, lease, time.time()))
    with pytest.raises(CredentialUnavailable, match="asked for already"):
        drive(made.issue(asked, lease, time.time()))
    assert len(slow.sent) == 1
    assert drive(made.revoke(lease)) is Ending.REVOKED
    assert "DROP ROLE" in slow.sent[-1]


# What is sent ---------------------------------------------------------------------------------------------------------


def test_clock_is_looked_at_after_the_role_was_inserted() -> None:
    text = statements.create(
        "ag_main_1", "v", (Privileges("TABLE", "s", "t", ("SELECT",)),), prepared=1.0, window=10.0, until=60.0,
        connections=1, settings=[], database="app", milliseconds=1000,
    ).as_string(None)  # fmt: skip
    assert text.index("CREATE ROLE") < text.index("clock_timestamp") < text.index("GRANT SELECT")


def test_findings_are_one_line_each() -> None:
    rows: list[tuple[str | None, ...]] = [("connect", f"db{number}") for number in range(7)]
    assert findings_text(rows) == (
        "every role may connect to db0, db1, db2, db3, db4 and 2 more; REVOKE CONNECT ON DATABASE ... FROM PUBLIC",
    )


def test_servers_text_is_bounded() -> None:
    assert len(Refused("42501", "x" * 10_000).text) == 200
