"""Which handovers were redeemed, in a database that several hosts share."""

from __future__ import annotations

from typing import Final, LiteralString

from psycopg import sql

from agentguard.state.postgres import PostgresStore
from agentguard.state.postgres_schema import COMMIT, DURABLE
from agentguard.state.postgres_session import query

MOST: Final = 1_000_000
_TAKE: Final[LiteralString] = (
    "DELETE FROM agentguard.redeemed WHERE until < extract(epoch FROM clock_timestamp()); "
    "INSERT INTO agentguard.redeemed (key, until) SELECT {key}, {until}::float8 "
    "WHERE (SELECT count(*) FROM agentguard.redeemed) < {most} ON CONFLICT DO NOTHING RETURNING key"
)


class PostgresRedemptions:
    """Handovers that were used up on any host; implements the port `Redemptions`.

    INVARIANT: looking and taking are one statement that is on the server's disk when it returns. Full means refuse.

    Args:
        store: the database.
    """

    suspends = False
    waits = True
    remote = True
    shared = True

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    async def redeem(self, key: str, until: float, now: float) -> bool:
        """Take an id; False if it was taken, or if no more can be remembered.

        Raises:
            Unavailable: it may be taken; nobody may use it.
        """
        take = query(_TAKE, key=key, until=until, most=MOST)
        statements = sql.SQL("; ").join([sql.SQL("BEGIN"), DURABLE, take, COMMIT])
        rows = await self._store.run(lambda session, deadline: session.run(statements, deadline), key)
        return bool(rows[-2])
