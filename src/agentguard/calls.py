"""One call of a guarded tool, from its arguments to its result; loaded by the first call, not by a declaration."""

from __future__ import annotations

import types
from contextlib import suppress
from typing import Any, Final

from agentguard._drive import drive
from agentguard.access import _call, _task
from agentguard.active import active_task, refuse_blocking
from agentguard.async_streams import async_generator
from agentguard.refusal import NOT_RUN, Ended
from agentguard.running import Running
from agentguard.streams import Pipeline, admitted, given, result_of, run_tool, settle, stream_parts, unlisted
from agentguard.tool import Tool

__all__ = [
    "active_task", "admitted", "call_function", "drive", "finish_coroutine", "refuse_blocking", "run_tool",
    "stream_parts", "unlisted",
]  # fmt: skip

_LATER: Final = (types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType)


def call_function(tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    task = _task.get() or active_task(tool.spec.name)
    if task.host.suspends or task.host.remote:
        refuse_blocking(task.host)
    pipeline: Pipeline = task.host.pipeline(task, tool, args, kwargs)  # type: ignore[attr-defined]  # it is a Guard
    # INVARIANT: no frame that an exception of the tool passes through holds the task, which shows who it is for.
    del task, args, kwargs
    running = drive(pipeline.__anext__())
    token, raised, ended, span = _call.set(running.visible), None, NOT_RUN, running.span
    if span.on:
        span.attach()
    try:
        value = run_tool(tool, running)
        if isinstance(value, _LATER):
            return _later(pipeline, running, value)
        ended = Ended(value)
    except BaseException as error:
        raised, ended = error, Ended(error=error)
    finally:
        if span.on:
            span.detach()
        _call.reset(token)
    try:
        drive(pipeline.asend(ended))
    except StopAsyncIteration:
        pass
    ended = running.ended
    if ended.error is None:
        return ended.value
    try:
        return result_of(running, raised)
    finally:  # the error's traceback holds this frame: what that holds would live until the next collection
        del running, ended, raised


def _later(pipeline: Pipeline, running: Running, value: Any) -> Any:
    """What a plain function returned is only begun: the call lasts until it ended."""
    if isinstance(value, types.CoroutineType):
        return finish_coroutine(pipeline, running, value)
    if isinstance(value, types.GeneratorType):
        return stream_parts(pipeline, running, value)
    return async_generator(given(pipeline, running, value))()


async def finish_coroutine(pipeline: Pipeline, running: Running, coroutine: Any = None) -> Any:
    """Await what a tool returned; nothing where it is still to be called, which can fail by itself."""
    token, raised = _call.set(running.visible), None
    if running.span.on:
        running.span.attach()
    try:
        ended = Ended(await (run_tool(running.tool, running) if coroutine is None else coroutine))
    except BaseException as error:
        raised, ended = error, Ended(error=error)
    # INVARIANT: release first; a context that another task entered cannot be reset here, and must not prevent it.
    try:
        await settle(pipeline, ended)
    finally:
        if running.span.on:
            running.span.detach()
        with suppress(ValueError):
            _call.reset(token)
    try:
        return result_of(running, raised)
    finally:  # as above
        del running, ended, raised
