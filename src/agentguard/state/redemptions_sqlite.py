"""Which handovers were redeemed, in a file that the processes of one host share."""

from __future__ import annotations

from typing import Final

from agentguard.state.shared_file import SharedFile

MOST: Final = 100_000


class SqliteRedemptions(SharedFile):
    """Handovers that were used up on one host; implements the port `Redemptions`.

    INVARIANT: looking and taking are one write transaction that is on the disk when it returns. Full means refuse.
    """

    shared = True

    async def redeem(self, key: str, until: float, now: float) -> bool:
        """Take an id; False if it was taken, or if no more can be remembered.

        Raises:
            Unavailable: it may be taken; nobody may use it.
        """
        return await self._run(lambda: self._redeem(key, until, now))

    def _redeem(self, key: str, until: float, now: float) -> bool:
        with self._database.write(durable=True) as database:
            # A process whose clock is ahead must not forget for the others.
            database.execute("DELETE FROM redeemed WHERE until < ?", (min(now, self._clock()),))
            ((count,),) = database.execute("SELECT count(*) FROM redeemed").fetchall()
            if count >= MOST:
                return False
            taken = database.execute("INSERT OR IGNORE INTO redeemed (key, until) VALUES (?, ?)", (key, until))
            return taken.rowcount == 1
