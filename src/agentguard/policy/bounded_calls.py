"""Calling what somebody else wrote, within a deadline: each call in a thread of its own, a few at once."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from agentguard._drive import wait_for
from agentguard.errors import ConfigurationError

_AT_ONCE: Final = 16


class BoundedCalls:
    """Calls one plain function. Safe for concurrent use by threads and event loops.

    One that hangs holds nobody up beyond the deadline; at most 16 hang at once, and then no other is started.

    Args:
        name: of the threads.
        call: the function, of one argument.
        deadline: seconds that one call may take.

    Raises:
        ConfigurationError: it is a coroutine function, which nobody here would await.
    """

    def __init__(self, name: str, call: Callable[[Any], object], deadline: float) -> None:
        if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(type(call).__call__):
            raise ConfigurationError(f"{name!r} names a coroutine function; name a plain one, it is called on a thread")
        self._name, self._call, self._deadline = name, call, deadline
        self.renew()

    def renew(self) -> None:
        """In a forked child: the threads that call are the parent's."""
        self._free = threading.BoundedSemaphore(_AT_ONCE)

    async def result(self, argument: Any) -> Any:
        """Return what the function returns.

        Raises:
            TimeoutError: it is late, or too many hang.
            Exception: whatever it raised.
        """
        return await wait_for(self._started(argument), self._deadline)

    def _started(self, argument: Any) -> Future[object]:
        answer: Future[object] = Future()
        free = self._free
        if not free.acquire(blocking=False):
            answer.set_exception(TimeoutError("too many calls hang"))
            return answer
        try:
            threading.Thread(
                target=self._run, args=(argument, answer, free), name=f"agentguard-{self._name}", daemon=True
            ).start()
        except (RuntimeError, MemoryError) as error:
            free.release()
            answer.set_exception(error)
        return answer

    def _run(self, argument: Any, answer: Future[object], free: threading.BoundedSemaphore) -> None:
        found: object = None
        problem: BaseException | None = None
        try:
            found = self._call(argument)
            if inspect.iscoroutine(found):  # INVARIANT: what has not run is no answer
                found.close()
                raise TypeError("a coroutine")
        except BaseException as error:  # a thread has nobody above it who would be told
            problem = error if isinstance(error, Exception) else RuntimeError(type(error).__name__)
        finally:
            free.release()
        if problem is not None:
            answer.set_exception(problem)
        else:
            answer.set_result(found)
