"""Engines log in with the running call's credential, to its database only, and share no connection between calls."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.engine import Engine
from sqlalchemy.engine.default import DefaultDialect

from agentguard import ConfigurationError, CredentialUnavailable, Intent, guard_tool, step
from agentguard.clients.sqlalchemy import guard_engine
from agentguard.model.lease import Placement
from agentguard.testing import FakeIssuer, fake_guard
from tests.clients.test_httpx import Broker, calling

DATABASE = "postgresql://db.test:5432/app"
URL = "postgresql+psycopg://db.test:5432/app"


class Login(Broker):
    def __init__(self) -> None:
        super().__init__(Placement.LOGIN, "ag_role", "a password of the call")


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches the driver; a SQLite database in memory answers for PostgreSQL."""
    seen: list[dict[str, Any]] = []

    def connect(self: Any, *args: Any, **parameters: Any) -> Any:
        seen.append(parameters)
        return sqlite3.connect(":memory:")

    # SQLite speaks enough SQL, and none of what the dialect asks a new server about.
    monkeypatch.setattr(DefaultDialect, "connect", connect)
    monkeypatch.setattr("sqlalchemy.dialects.postgresql.psycopg.PGDialect_psycopg.initialize", lambda *_: None)
    monkeypatch.setattr("sqlalchemy.dialects.postgresql.psycopg.PGDialect_psycopg.on_connect", lambda *_: None)
    monkeypatch.setattr("sqlalchemy.dialects.postgresql.psycopg.PGDialect_psycopg.get_isolation_level", lambda *_: "")
    return seen


def engine(url: str = URL, **options: Any) -> Engine:
    return guard_engine(create_engine(url, **{"poolclass": NullPool, **options}))


def query(made: Engine) -> Callable[[], int]:
    def body() -> int:
        with made.connect() as connection:
            return int(connection.execute(text("SELECT 1")).scalar_one())

    return body


def test_connection_logs_in_as_the_role_of_the_call(logins: Any) -> None:
    made = engine()
    assert calling(Login(), DATABASE, query(made)) == 1
    assert [(login["user"], login["password"]) for login in logins] == [("ag_role", "a password of the call")]


@pytest.mark.control("5 a login is kept in no engine")
def test_login_does_not_stay_in_the_engine(logins: Any) -> None:
    made, seen = create_engine(URL, poolclass=NullPool), []
    sqlalchemy.event.listen(made, "do_connect", lambda *args: seen.append(args[3]))  # not a copy of it
    guard_engine(made)
    for _ in range(2):
        calling(Login(), DATABASE, query(made))
    assert len(seen) == 2
    assert "a password of the call" not in str(seen) + repr(made.url)


def test_outside_a_call_there_is_no_connection(logins: Any) -> None:
    with pytest.raises(CredentialUnavailable, match="no guarded tool"):
        query(engine())()
    assert logins == []


@pytest.mark.control("5 a login goes to its audience only")
@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://evil.test:5432/app",
        "postgresql+psycopg://db.test:5433/app",
        "postgresql+psycopg://db.test:5432/other",
        "postgresql+psycopg:///app",
        "postgresql+psycopg://db.test:5432/app?host=evil.test",
        "postgresql+psycopg://db.test:5432/app?hostaddr=192.0.2.1",
        "postgresql+psycopg://db.test:5432/app?service=evil",
        "postgresql+psycopg://db.test:5432/app?dbname=other",
    ],
)
def test_another_address_gets_no_login(logins: Any, url: str) -> None:
    with pytest.raises(CredentialUnavailable, match=f"this credential is for {DATABASE}"):
        calling(Login(), DATABASE, query(engine(url)))
    assert logins == []


def test_default_port_is_the_audiences(logins: Any) -> None:
    assert calling(Login(), "postgresql://db.test/app", query(engine("postgresql+psycopg://DB.test/app"))) == 1


def test_token_is_no_login(logins: Any) -> None:
    with pytest.raises(CredentialUnavailable, match="is no login"):
        calling(FakeIssuer(), DATABASE, query(engine()))


@pytest.mark.control("5 a pooled connection serves no second task")
@pytest.mark.parametrize("pool", [sqlalchemy.QueuePool, sqlalchemy.StaticPool, sqlalchemy.SingletonThreadPool])
def test_pool_that_keeps_connections_is_refused(pool: Any) -> None:
    with pytest.raises(ConfigurationError, match="gives it to another"):
        engine(poolclass=pool)


def test_url_with_a_login_of_its_own_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="login of its own"):
        engine("postgresql+psycopg://me:mine@db.test/app")


@pytest.mark.control("5 a connection serves the call that opened it")
def test_connection_that_was_kept_is_refused_in_the_next_call_and_closed(logins: Any) -> None:
    made, kept = engine(), []

    def opening() -> None:
        kept.append(made.connect())
        kept[0].execute(text("SELECT 1"))

    def using() -> int:
        return int(kept[0].execute(text("SELECT 1")).scalar_one())

    with fake_guard(issuer=Login()) as guard:
        with guard.task("bot", on_behalf_of="ann", intent=Intent("x", step("call").times(2))):
            guard_tool(opening, "call", audience=DATABASE)()
            with pytest.raises(CredentialUnavailable, match="another call"):
                guard_tool(using, "call", audience=DATABASE)()
    assert kept[0].invalidated
    kept[0].close()


def test_connection_is_refused_after_its_call(logins: Any) -> None:
    made, kept = engine(), []
    calling(Login(), DATABASE, lambda: kept.append(made.connect()))
    with pytest.raises(CredentialUnavailable, match="another call"):
        kept[0].execute(text("SELECT 1"))
    kept[0].close()


def test_engine_that_is_guarded_twice_connects_once(logins: Any) -> None:
    assert calling(Login(), DATABASE, query(guard_engine(engine()))) == 1
    assert len(logins) == 1
