"""One caller asks for a credential, and others who want the same wait for it."""

from __future__ import annotations

from concurrent.futures import Future

from agentguard.errors import CredentialUnavailable


class Flight:
    """A caller that asks; most of the time nobody waits for it.

    INVARIANT: the caller alone holds it, those who wait hold its future: where something stops the caller before it
    lands, at whatever line, it is gone, and who looks again finds that nobody asks.
    """

    _future: Future[None] | None = None

    @property
    def future(self) -> Future[None]:
        """What those who follow wait for; the lock of its leases is held."""
        if self._future is None:
            self._future = Future()
        return self._future

    def land(self, failure: CredentialUnavailable | None = None) -> None:
        """Send those who wait round again, or fail them; nobody can follow any more."""
        future, self._future = self._future, None
        if future is None:
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(None)
