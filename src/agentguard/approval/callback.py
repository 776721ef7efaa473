"""Asks by calling a function of the application: a chat, a ticket, a page of its own."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import anyio

from agentguard._drive import driven
from agentguard.approval.asked import answered_in_thread, rejected, seconds_left
from agentguard.errors import ConfigurationError
from agentguard.ports import Answer, Approval, ApprovalRequest

Said: TypeAlias = Approval | Answer | None
Ask: TypeAlias = Callable[[ApprovalRequest], Said] | Callable[[ApprovalRequest], Awaitable[Said]]
_MOST: Final = 64


class Callback:
    """Asks through a function; an `Approver`. Safe for threads and event loops.

    Only `Approval(Answer.APPROVED, by=...)` that names who approved counts as an approval, and only within the
    question's time. `None`, any other value, an error and no answer in time are rejections. A plain function runs in a
    thread of its own; one that never returns keeps that thread, so at most 64 are waited for at once. A coroutine
    function needs an event loop: with one, `suspends` is true and a synchronous task is refused.

    Args:
        ask: takes an ApprovalRequest; returns an Approval, or an Answer given by `by`, or None.
        by: who answers through this function, where its answer does not say so.
        clock: seconds since the epoch.

    Raises:
        ConfigurationError: `ask` cannot be called.
    """

    waits: bool = True

    def __init__(self, ask: Ask, *, by: str = "", clock: Callable[[], float] = time.time) -> None:
        if not callable(ask):
            raise ConfigurationError(
                f"a callback is a function that takes an ApprovalRequest, not {type(ask).__name__}"
            )
        self._ask: Callable[[ApprovalRequest], Any] = ask
        self._by, self._clock = by, clock
        self.suspends: bool = _is_async(ask)
        self._free = threading.BoundedSemaphore(_MOST)

    async def ask(self, request: ApprovalRequest) -> Approval:
        """Call the function and return what it said."""
        left = seconds_left(request, self._clock())
        if not left:
            return rejected("the question has expired", request)
        try:
            said = await (self._awaited(request, left) if self.suspends else self._called(request, left))
        except TimeoutError:
            return rejected("no answer in time", request)
        except Exception as error:  # its text may hold anything
            return rejected(f"the callback raised {type(error).__name__}", request)
        if not seconds_left(request, self._clock()):
            return rejected("the answer came too late", request)
        return self._read(said, request)

    async def _awaited(self, request: ApprovalRequest, left: float) -> object:
        if driven():  # it may never suspend; if it does, whoever drives refuses it
            return await self._ask(request)
        with anyio.fail_after(left):
            return await self._ask(request)

    async def _called(self, request: ApprovalRequest, left: float) -> object:
        if not self._free.acquire(blocking=False):
            return rejected("too many questions wait for the callback", request)

        def work() -> object:
            try:
                return self._ask(request)
            finally:
                self._free.release()

        return await answered_in_thread(work, left, self._free.release)

    def _read(self, said: Any, request: ApprovalRequest) -> Approval:
        if isinstance(said, Answer):
            return self._read(Approval(said, id=request.call), request)
        if not _is_approval(said):
            if inspect.iscoroutine(said):
                said.close()
            return rejected("the callback gave no answer", request)
        by = said.by if isinstance(said.by, str) and said.by.strip() else self._by
        if said.answer is Answer.APPROVED and not by.strip():
            return rejected("the callback does not say who approved", request)
        return Approval(said.answer, by, said.id, is_subject=said.is_subject is True)

    def __repr__(self) -> str:
        return f"<Callback {getattr(self._ask, '__qualname__', type(self._ask).__name__)}>"


def _is_approval(said: Any) -> bool:
    return isinstance(said, Approval) and isinstance(getattr(said, "answer", None), Answer)


def _is_async(ask: object) -> bool:
    while isinstance(ask, functools.partial):
        ask = ask.func
    return inspect.iscoroutinefunction(ask) or inspect.iscoroutinefunction(getattr(type(ask), "__call__", None))  # noqa: B004  # of its class, as Python calls it
