"""Group commit: one sync serves everybody who waits, threads (Leadership) and tasks of event loops (Committer)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import anyio

from agentguard._drive import asyncio_loop
from agentguard.errors import AuditUnavailable

LINGER_SECONDS: Final = 0.003  # the longest that a leader lets others come; what a sync takes on many a disk
_NOBODY_CAME: Final = 3  # looks at the others in a row, after which it goes on
_LOOK_SECONDS: Final = 1.0  # after which one who waits looks for itself: whoever was to wake it was interrupted
IDLE_SECONDS: Final = 1.0  # the thread ends after that long without work; the next wait starts another


class Leadership:
    """Lets the first of several threads that wait for the same work do it for all of them; no thread of its own."""

    def __init__(self) -> None:
        # INVARIANT: entered as a lock, never as a condition: that one's `with` is Python, where an interrupt (Ctrl-C)
        # can leave it locked.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._led = False
        self._followers = 0

    def run(self, done: Callable[[], bool], work: Callable[[], None]) -> None:
        """Return once `done()` holds, or after this thread did the work.

        Args:
            done: whether somebody's work has served this caller too; may raise.
            work: what a leader does; its error is the leader's only, the next caller tries for itself.
        """
        leading = False
        try:
            with self._lock:
                self._followers += 1
                try:
                    while self._led and not done():
                        self._changed.wait(_LOOK_SECONDS)
                finally:
                    self._followers -= 1
                if done():
                    return
                leading = self._led = True
            if self._followers:
                self._linger()
            work()
        finally:
            if leading:
                self._led = False  # first, without a lock: an interrupt between the two costs the others a second
                with self._lock:
                    self._changed.notify_all()

    def _linger(self) -> None:
        """Let threads that were woken just now add what they have, as long as they keep coming.

        They need the interpreter for it, which a leader that went on at once would hold: on a quick disk it would sync
        for hardly more than itself. Who waits meanwhile loses nothing, as the others run.
        """
        until, known, left = time.monotonic() + LINGER_SECONDS, 0, _NOBODY_CAME
        while left and time.monotonic() < until:
            time.sleep(0)
            known, left = (self._followers, _NOBODY_CAME) if self._followers > known else (known, left - 1)


class _Batch:
    """Those of one event loop who wait for the next commit."""

    def __init__(self, call_soon: Callable[[Callable[[], object]], object]) -> None:
        self.call_soon = call_soon
        self.done = anyio.Event()
        self.error = ""

    def finish(self, error: str) -> None:
        self.error = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.call_soon(self.done.set)


def _this_loop() -> tuple[object, Callable[[Callable[[], object]], Any]]:
    """The running loop, and its way to be called from any thread after the tasks that are ready now have run."""
    loop = asyncio_loop()
    if loop is not None:
        return loop, loop.call_soon_threadsafe
    import trio

    token = trio.lowlevel.current_trio_token()
    return token, token.run_sync_soon


class Committer:
    """Calls `commit` for whole batches of waiters. Safe for concurrent use, from any number of event loops.

    No worker thread is parked per waiter, and a cancelled waiter leaves nothing behind.

    Args:
        commit: makes everything written so far durable, or raises AuditUnavailable; called on the thread.
    """

    def __init__(self, commit: Callable[[], None]) -> None:
        self._commit = commit
        self._lock = threading.RLock()  # entered as in Leadership
        self._changed = threading.Condition(self._lock)
        self._waiting: dict[object, _Batch] = {}
        self._ready = self._running = False

    async def wait(self) -> None:
        """Wait for a commit that began after this call.

        Raises:
            AuditUnavailable: the commit failed.
        """
        loop, call_soon = _this_loop()
        with self._lock:
            batch = self._waiting.get(loop)
            if batch is None:
                batch = _Batch(call_soon)
                # At the end of this tick, so that all tasks that are ready now share one commit. INVARIANT: a batch is
                # waited for once it will be woken: an interrupt (Ctrl-C) between the two would leave one for ever.
                call_soon(self._wake)
                self._waiting[loop] = batch
        await batch.done.wait()
        if batch.error:
            raise AuditUnavailable(batch.error)

    def _wake(self) -> None:
        thread: threading.Thread | None = None
        try:
            with self._lock:
                self._ready = True
                if self._running:
                    self._changed.notify()
                    return
                thread = threading.Thread(target=self._run, name="agentguard-audit", daemon=True)
                self._running = True
            thread.start()
        except BaseException as error:
            # INVARIANT: what stands as running runs, or all who wait later would wait for ever.
            with self._lock:
                if thread is not None and thread.ident is None:
                    self._running = False
                left = [] if self._running else self._take()
            self._finish(left, f"no thread to make records durable: {str(error) or type(error).__name__}")
            if not isinstance(error, RuntimeError | MemoryError):
                raise

    def _run(self) -> None:
        while batches := self._next():
            error = ""
            try:
                self._commit()
            except Exception as failed:
                error = str(failed) or type(failed).__name__
            self._finish(batches, error)

    def _next(self) -> list[_Batch]:
        with self._lock:
            # Not before the tick of the first waiter has ended: a batch taken early would be a batch of one.
            woken = self._changed.wait_for(lambda: self._ready and bool(self._waiting), IDLE_SECONDS)
            batches = self._take() if woken else []
            self._running = bool(batches)
            return batches

    def _take(self) -> list[_Batch]:
        with self._lock:
            batches, self._waiting, self._ready = list(self._waiting.values()), {}, False
            return batches

    @staticmethod
    def _finish(batches: list[_Batch], error: str) -> None:
        for batch in batches:
            batch.finish(error)
