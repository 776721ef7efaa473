"""How a call gets another credential, because its target refused the one it has, or another call leaked it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Final
from weakref import ref

from agentguard._drive import driven, loop_running, wait_for
from agentguard.credentials.flight import Flight
from agentguard.credentials.held import Use
from agentguard.credentials.obtaining import LOOK_SECONDS, Obtaining
from agentguard.errors import CredentialUnavailable
from agentguard.model.lease import Grant

_JUST_ISSUED: Final = "the target refused a credential that was just issued, so no other is asked for"


class Renewing(Obtaining):
    """How the calls of one guard get another credential, once each."""

    async def renew(self, use: Use, refused: str, permitted: Callable[[], Awaitable[Grant]]) -> None:
        """Put another credential into the use of a call whose target refused the one it had, once.

        Of several requests of the call that were refused with one credential, one asks, and the others go on with what
        it obtained.

        Args:
            use: the call's share.
            refused: id of the lease that the target refused.
            permitted: looks whether the call may go on, and says for what.

        Raises:
            CredentialUnavailable: as for `obtain`; or the call may not go on, has ended, or has had another one.
        """
        mine = Flight()
        while (ahead := self._ahead(use, refused, mine)) is not None:
            if driven() and loop_running():  # whoever asks may need this very loop: it is not waited for
                raise CredentialUnavailable(
                    "another request of this call, in this event loop, is being given a new one"
                )
            with suppress(TimeoutError):  # looked at again: whoever asks may have been stopped
                await wait_for(ahead, LOOK_SECONDS)
        if use.renewing is None or use.renewing() is not mine:
            return
        failure: CredentialUnavailable | None = None
        try:
            use.cached = await self.replace(use, await permitted())
        except Exception as error:
            failure = CredentialUnavailable(str(error) or type(error).__name__)
            raise
        finally:
            with self._lock:
                use.renewing = None
                if failure is not None or use.credential.lease.id != refused:
                    use.no_more = str(failure or _JUST_ISSUED)
            mine.land(failure)

    def _ahead(self, use: Use, refused: str, mine: Flight) -> Future[None] | None:
        """Return which request to wait for, or None: the credential is another one by now, or this request asks."""
        with self._lock:
            if use.credential.lease.id != refused:
                return None
            if use.no_more:
                raise CredentialUnavailable(use.no_more)
            other = use.renewing() if use.renewing is not None else None
            if other is not None:
                return other.future
            use.renewing = ref(mine)
            return None

    async def replace(self, use: Use, grant: Grant) -> bool:
        """Put another credential into a use, whoever else asks; tell whether it was kept.

        Nobody is given the refused one again. INVARIANT: the use is a share of one lease at every moment, and one that
        was released, or whose call was stopped, takes no other: each excludes the other.

        Raises:
            CredentialUnavailable: as for `obtain`; or the call has ended meanwhile.
        """
        with self._lock:
            refused = use.held
            refused.retired = True
            self._kept.drop(refused)
        fresh = await self.obtain(grant)
        with self._lock:
            late = not self._goes_on(use)
            if not late:
                use.held = fresh.held
                use.credential.take(fresh.held.issued, fresh.held)
        await self._shielded(partial(self._let_go, fresh.held if late else refused))
        if late:
            raise CredentialUnavailable("the call ended, or was stopped, while another credential was being obtained")
        return fresh.cached

    def _goes_on(self, use: Use) -> bool:
        """Whether a call may have another credential: neither it nor its task was ended or stopped. The lock is held.

        INVARIANT: of a lease that leaked nobody is told of a stop that came later, but its task's leases are kept
        elsewhere after one, or nowhere.
        """
        if use.credential.live:
            return True
        held = use.held
        return use.credential.revoked and held.leaked and self._all.get(held.issued.lease.task) is held.leaked_in
