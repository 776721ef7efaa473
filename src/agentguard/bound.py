"""A task bound to a function: active while it runs, and at each step of what it only began."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentguard.task import Task


def bound_to(task: Task, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with the task active in it, wherever it is called and whatever it returns is stepped."""
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def bound_async(*args: Any, **kwargs: Any) -> Any:
            with task.activate():
                return await fn(*args, **kwargs)

        return bound_async

    @functools.wraps(fn)
    def bound(*args: Any, **kwargs: Any) -> Any:
        with task.activate():
            value = fn(*args, **kwargs)
        if isinstance(value, types.CoroutineType):
            return _awaited(task, value)
        if isinstance(value, types.GeneratorType):
            return _Steps(task, value)
        return _AsyncSteps(task, value) if isinstance(value, types.AsyncGeneratorType) else value

    return bound


async def _awaited(task: Task, coroutine: Coroutine[Any, Any, Any]) -> Any:
    with task.activate():
        return await coroutine


class _Steps(Generator[Any, Any, Any]):
    """A generator that sees the task while its body runs, and whoever steps it does not."""

    def __init__(self, task: Task, inner: Generator[Any, Any, Any]) -> None:
        self._task, self._inner = task, inner

    def send(self, value: Any) -> Any:
        with self._task.activate():
            return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        with self._task.activate():
            return self._inner.throw(*error)


class _AsyncSteps(AsyncGenerator[Any, Any]):
    """The same, asynchronously."""

    def __init__(self, task: Task, inner: AsyncGenerator[Any, Any]) -> None:
        self._task, self._inner = task, inner

    async def asend(self, value: Any) -> Any:
        with self._task.activate():
            return await self._inner.asend(value)

    async def athrow(self, *error: Any) -> Any:
        with self._task.activate():
            return await self._inner.athrow(*error)
