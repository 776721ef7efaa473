"""SQLAlchemy engines whose connections log in with the running call's credential."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.pool import NullPool

from agentguard.access import current_credential
from agentguard.errors import ConfigurationError, CredentialUnavailable
from agentguard.model.credential import Credential
from agentguard.model.lease import Placement

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

E = TypeVar("E", bound="Engine | AsyncEngine")
_KEY: Final = "agentguard_credential"
_PORT: Final = 5432
# What would lead a connection elsewhere than its host says, or bring a login of its own.
_REFUSED: Final = ("dsn", "service", "servicefile", "hostaddr", "passfile", "unix_sock")


def guard_engine(engine: E) -> E:
    """Make an engine log in as the role of the running call, and return it.

    Each connection belongs to the call that opened it: it is opened with that call's user name and password, only to
    the host, port and database of the tool's audience, and used in no other call. Outside a call there is none.

    Args:
        engine: made with `poolclass=NullPool` and a URL without user and password, such as
            `postgresql+psycopg://db.example:5432/app`; one engine may serve many calls and users.

    Raises:
        ConfigurationError: its pool keeps connections, or its URL holds a login.
    """
    sync: Engine = engine if isinstance(engine, Engine) else engine.sync_engine
    if not isinstance(sync.pool, NullPool):
        raise ConfigurationError(
            f"a pool ({type(sync.pool).__name__}) keeps a connection open as one task's role and gives it to another; "
            "write create_engine(..., poolclass=sqlalchemy.NullPool)"
        )
    if sync.url.username or sync.url.password:
        raise ConfigurationError("the engine's URL holds a login of its own; leave user and password out")
    for name, listener in _LISTENERS.items():
        if not event.contains(sync, name, listener):
            event.listen(sync, name, listener)
    return engine


def _log_in(dialect: Dialect, record: Any, args: list[Any], parameters: dict[str, Any]) -> Any:
    """Open the connection here: SQLAlchemy 2.0 keeps what a hook writes into its parameters for the next one."""
    credential = current_credential()
    if credential.lease.placement is not Placement.LOGIN:
        raise CredentialUnavailable(f"the credential for {credential.audience} is no login; it is for HTTP requests")
    _check_address(parameters, args, credential.audience)
    login = {"user": credential.username, "password": credential.password}
    connection = dialect.connect(*args, **{**parameters, **login})
    if record is not None:
        record.info[_KEY] = credential
    return connection


def _check_address(parameters: Mapping[str, Any], args: list[Any], audience: str) -> None:
    """Refuse an address that is not the audience's; what cannot be compared is not."""
    parts = urlsplit(audience)
    wanted = ((parts.hostname or "").lower(), str(parts.port or _PORT), unquote(parts.path[1:]))
    database = parameters.get("dbname") or parameters.get("database") or ""
    given = (str(parameters.get("host") or "").lower(), str(parameters.get("port") or _PORT), str(database))
    odd = [name for name in _REFUSED if parameters.get(name)]
    if parts.scheme != "postgresql" or args or odd or given != wanted:
        raise CredentialUnavailable(
            f"this credential is for {audience}; the engine connects to {given[0]}:{given[1]}/{given[2]}"
            + (f" with {', '.join(odd)}" if odd or not args else "")
        )


def _check_out(dbapi_connection: Any, record: Any, proxy: Any) -> None:
    _check_call(record.info, record.invalidate)


def _check_use(connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
    _check_call(connection.info, connection.invalidate)


def _check_call(info: Mapping[Any, Any], close: Callable[[], None]) -> None:
    """Refuse, and close, a connection that another call has opened; with the end of its call its role may be gone."""
    opened: Credential | None = info.get(_KEY)
    try:
        current: Credential | None = current_credential()
    except CredentialUnavailable:
        current = None
    if opened is None or opened is not current:
        close()
        raise CredentialUnavailable("this connection belongs to another call; open one inside the call that uses it")


_LISTENERS: Final[Mapping[str, Callable[..., Any]]] = {
    "do_connect": _log_in,
    "checkout": _check_out,
    "before_cursor_execute": _check_use,
}
