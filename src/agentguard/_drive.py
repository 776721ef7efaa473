"""One async core, driven by hand for synchronous callers: the only place that knows sync exists.

A coroutine that never suspends can be run by one `send(None)`. A port that would suspend is refused
(`SuspendedError`) before the tool runs, so a synchronous call can neither block an event loop nor hang.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio

from agentguard.errors import SuspendedError

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
RELEASE_SECONDS: Final = 5.0
_THROWS: Final = 8
_SUSPENDED: Final = (
    "a port suspended during a synchronous call; call the tool with `await`, inside `async with guard.task(...)`"
)
_driven: ContextVar[bool] = ContextVar("agentguard_driven", default=False)


def drive(awaitable: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, or one step of an async generator, to its end without an event loop.

    Where it suspends, SuspendedError is thrown in at that point, so that everything it holds is released by its own
    `finally` blocks.

    Raises:
        SuspendedError: it suspended and let the error pass.
    """
    token = _driven.set(True)
    try:
        awaitable.send(None)
        for _ in range(_THROWS):
            awaitable.throw(SuspendedError(_SUSPENDED))
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # the coroutine's own result
    finally:
        _driven.reset(token)
    with suppress(RuntimeError):  # it waits once more although it is being closed
        awaitable.close()
    raise SuspendedError(_SUSPENDED)


def driven() -> bool:
    """Tell whether the running coroutine is driven by hand for a synchronous caller."""
    return _driven.get()


def asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of asyncio that runs in this thread; where nobody has loaded asyncio, none does."""
    running = getattr(sys.modules.get("asyncio"), "_get_running_loop", None)
    return running() if running is not None else None


def loop_running() -> bool:
    """Tell whether an event loop (asyncio or trio) runs in this thread; a blocking call here would block it."""
    if asyncio_loop() is not None:
        return True
    trio = sys.modules.get("trio")
    if trio is None:
        return False
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        return False
    return True


async def run_shielded(work: Callable[[], Coroutine[Any, Any, None]], *, suspends: bool) -> None:
    """Await some work to its end even when the caller is cancelled, also twice, bounded by five seconds.

    anyio's shield holds against anyio's own cancel scopes; asyncio's double cancel passes it, so under asyncio the
    work runs as a task of its own. Work that never suspends sees no cancellation and needs neither.

    Args:
        work: makes the coroutine.
        suspends: whether it can suspend at all.

    Raises:
        TimeoutError: it was not done in time; what is not known to be done is not done.
    """
    if driven() or not suspends:
        await work()
    elif not loop_running():  # a call that is collected unfinished, where no loop runs any more
        drive(work())
    elif asyncio_loop() is None:
        with anyio.move_on_after(RELEASE_SECONDS, shield=True) as scope:
            await work()
        if scope.cancelled_caught:
            raise TimeoutError
    else:
        await _as_own_task(work())


async def _as_own_task(work: Coroutine[Any, Any, None]) -> None:
    import asyncio

    task = asyncio.ensure_future(asyncio.wait_for(work, RELEASE_SECONDS))
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:  # noqa: S110  # the task itself is looked at below
            pass
    if cancelled is not None:
        raise cancelled
    task.result()


async def wait_for(future: Future[T], seconds: float | None = None) -> T:
    """Wait for a future that another thread or task completes: blocking when driven, else without a thread.

    A waiter that is cancelled leaves the future alone; no worker thread waits, so many waiters cannot use up the
    threads that whoever completes the future may need.

    Raises:
        TimeoutError: it was not completed in time.
    """
    if future.done() or driven():
        return future.result(seconds)
    done, wake = anyio.Event(), _from_any_thread()
    future.add_done_callback(lambda _: wake(done.set))
    with anyio.fail_after(seconds):
        await done.wait()
    return future.result()


def _from_any_thread() -> Callable[[Callable[[], None]], None]:
    """Return what runs a callback in this event loop, called from any thread; a loop that has ended needs none."""
    if (loop := asyncio_loop()) is not None:
        soon: Callable[[Callable[[], None]], object] = loop.call_soon_threadsafe
    else:
        soon = sys.modules["trio"].lowlevel.current_trio_token().run_sync_soon

    def wake(callback: Callable[[], None]) -> None:
        with suppress(RuntimeError):
            soon(callback)

    return wake
