"""Driving the pipeline around a tool's body: for one value, and for parts that come one after the other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from typing import Any

from agentguard._drive import drive
from agentguard.access import _call
from agentguard.credentials.leaks import Search, Stream
from agentguard.refusal import Ended
from agentguard.running import Running, Tool
from agentguard.task import active_task

Pipeline = AsyncGenerator[Running, Ended]
Start = Callable[[tuple[Any, ...], dict[str, Any]], Coroutine[Any, Any, tuple[Pipeline, Running, Any]]]


async def admitted(tool: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Pipeline, Running]:
    task = active_task(tool.spec.name)
    pipeline = task.host.pipeline(task, tool, args, kwargs)  # type: ignore[attr-defined]  # the host is a Guard
    return pipeline, await pipeline.__anext__()


def run_tool(tool: Tool, running: Running) -> Any:
    args, kwargs = running.arguments
    running.arguments = ((), {})  # the frame of the tool holds them from here on
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
    if ended.error is raised:
        raise ended.error
    raise ended.error from None


def stream_parts(pipeline: Pipeline, running: Running, inner: Any) -> Generator[Any, Any, Any]:
    """Step a generator; the call is visible only while its body runs, never between two parts."""
    stream, ended = Stream(Search(running.guard.secrets)), Ended(error=GeneratorExit())
    step: Callable[[], Any] = partial(next, inner)
    try:
        while True:
            part = _visible(running, step)
            step = partial(next, inner)
            for clean in stream.part(part):
                try:
                    sent = yield running.passed(clean)
                    step = partial(inner.send, sent)
                except Exception as thrown:
                    step = partial(inner.throw, thrown)
    except StopIteration as stop:
        ended = Ended(stop.value)
        yield from map(running.passed, stream.end())
    except GeneratorExit:
        raise
    except BaseException as error:
        ended = Ended(error=error)
    finally:
        running.hits |= stream.search.hits
        try:
            _visible(running, inner.close)
        except BaseException as error:
            ended = Ended(error=error)
        drive(settle(pipeline, ended))
    return result_of(running, ended.error)


def _visible(running: Running, step: Callable[[], Any]) -> Any:
    token = _call.set(running.visible)
    try:
        return step()
    finally:
        with suppress(ValueError):
            _call.reset(token)


def async_generator(start: Start) -> Callable[..., AsyncGenerator[Any, Any]]:
    """Step an async generator as `stream_parts` a generator; with one `yield`, so that closing it closes the tool."""

    async def guarded_async_generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        pipeline, running, inner = await start(args, kwargs)
        stream, ended = Stream(Search(running.guard.secrets)), Ended(error=GeneratorExit())
        step: Callable[[], Any] = inner.__anext__
        try:
            while True:
                part = await _visible_async(running, step)
                step = inner.__anext__
                for clean in stream.part(part):
                    try:
                        sent = yield running.passed(clean)
                        step = partial(inner.asend, sent)
                    except Exception as thrown:
                        step = partial(inner.athrow, thrown)
        except StopAsyncIteration:
            ended = Ended()
            for rest in stream.end():
                yield running.passed(rest)
        except GeneratorExit:
            raise
        except BaseException as error:
            ended = Ended(error=error)
        finally:
            running.hits |= stream.search.hits
            try:
                await _visible_async(running, inner.aclose)
            except BaseException as error:
                ended = Ended(error=error)
            await settle(pipeline, ended)
        result_of(running, ended.error)

    return guarded_async_generator


def given(pipeline: Pipeline, running: Running, inner: Any) -> Start:
    async def start(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Pipeline, Running, Any]:
        return pipeline, running, inner

    return start


async def _visible_async(running: Running, step: Callable[[], Any]) -> Any:
    token = _call.set(running.visible)
    try:
        return await step()
    finally:
        with suppress(ValueError):
            _call.reset(token)
