"""Driving the pipeline around a tool's body: for one value, and for parts that come one after the other."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from functools import partial
from typing import Any

from agentguard._drive import drive
from agentguard.access import CurrentCall, _call
from agentguard.active import active_task
from agentguard.async_streams import Start
from agentguard.credentials.leaks import Search, Stream
from agentguard.pipeline.search import passed
from agentguard.refusal import Ended
from agentguard.running import Running
from agentguard.tool import Tool

Pipeline = AsyncGenerator[Running, Ended]


async def admitted(
    tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any], first: Callable[[Pipeline], Any] | None = None
) -> tuple[Pipeline, Running]:
    task = active_task(tool.spec.name)
    pipeline = task.host.pipeline(task, tool, args, kwargs)  # type: ignore[attr-defined]  # the host is a Guard
    return pipeline, await (pipeline.__anext__() if first is None else first(pipeline))


def unlisted(inner: AsyncGenerator[Any, Any]) -> Any:
    """The first step of an asynchronous generator that another one closes, and nobody else.

    An event loop that ends, and a collection of a cycle, have all that the loop knows of closed side by side:
    the call would end while its tool still closes, and what is being closed cannot be closed by the one around it.
    """
    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter=None, finalizer=_left_to_the_one_around_it)
    try:
        return inner.__anext__()
    finally:
        sys.set_asyncgen_hooks(*before)


def _left_to_the_one_around_it(inner: AsyncGenerator[Any, Any]) -> None:
    """INVARIANT: that one is closed by the event loop, and holds this one until then."""


def run_tool(tool: Tool, running: Running) -> Any:
    args, kwargs = running.arguments
    running.arguments = ((), {})  # the frame of the tool holds them from here on
    del running  # and this frame, which its errors' tracebacks hold, nothing else
    return tool.fn(*args, **kwargs)


async def settle(pipeline: Pipeline, ended: Ended) -> None:
    """Tell the pipeline how the tool ended, which releases and records."""
    with suppress(StopAsyncIteration):
        await pipeline.asend(ended)


def result_of(running: Running, raised: BaseException | None) -> Any:
    """The tool's value, or its own exception, unchanged unless it held a secret."""
    ended = running.ended
    if ended.error is None:
        return ended.value
    try:
        if ended.error is raised:
            raise ended.error
        raise ended.error from None
    finally:  # the error's traceback holds this frame
        del running, ended, raised


def stream_parts(pipeline: Pipeline, running: Running, inner: Any = None) -> Generator[Any, Any, Any]:
    """Step a generator; the call is visible only while its body runs, never between two parts.

    Nothing is given where the tool is still to be called, which can fail by itself.
    """
    stream, ended = Stream(Search(running.guard.secrets)), Ended(error=GeneratorExit())
    try:
        inner = run_tool(running.tool, running) if inner is None else inner
        step: Callable[[], Any] = partial(next, inner)
        while True:
            part = _visible(running.visible, step)
            step = partial(next, inner)
            for clean in stream.part(part):
                try:
                    sent = yield passed(running, clean)
                    step = partial(inner.send, sent)
                except Exception as thrown:
                    step = partial(inner.throw, thrown)
                    break  # what else was held back came after it
    except StopIteration as stop:
        ended = Ended(stop.value)
        for rest in stream.end():  # what is sent now has nobody to go to
            yield passed(running, rest)
    except GeneratorExit:  # raised again below, unless the tool's own clean-up fails
        pass
    except BaseException as error:
        ended = Ended(error=error)
    finally:
        running.hits |= stream.search.hits
        try:
            if inner is not None:
                _visible(running.visible, inner.close)
        except BaseException as error:
            ended = Ended(error=error)
        drive(settle(pipeline, ended))
    try:
        return result_of(running, ended.error)
    finally:  # the error's traceback holds this frame: what that holds would live until the next collection
        del pipeline, running, ended


def _visible(call: CurrentCall | None, step: Callable[[], Any]) -> Any:
    token = _call.set(call)
    try:
        return step()
    finally:
        with suppress(ValueError):
            _call.reset(token)


def given(pipeline: Pipeline, running: Running, inner: Any) -> Start:
    async def start(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Pipeline, Running, Any]:
        return pipeline, running, inner

    return start


async def visible_async(call: CurrentCall | None, step: Callable[[], Any]) -> Any:
    token = _call.set(call)
    try:
        return await step()
    finally:
        with suppress(ValueError):
            _call.reset(token)
