"""The asynchronous generator around one that is guarded; it loads what runs it when it is first stepped."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from agentguard.running import Running
    from agentguard.streams import Pipeline

Start: TypeAlias = "Callable[[tuple[Any, ...], dict[str, Any]], Coroutine[Any, Any, tuple[Pipeline, Running, Any]]]"


def async_generator(start: Start) -> Callable[..., AsyncGenerator[Any, Any]]:
    """Step an async generator as `stream_parts` a generator; with one `yield`, so that closing it closes the tool."""

    async def guarded_async_generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        from agentguard.credentials.leaks import Search, Stream
        from agentguard.pipeline.search import passed
        from agentguard.refusal import Ended
        from agentguard.streams import result_of, run_tool, settle, unlisted, visible_async

        pipeline, running, inner = await start(args, kwargs)
        stream, ended = Stream(Search(running.guard.secrets)), Ended(error=GeneratorExit())
        try:
            inner = run_tool(running.tool, running) if inner is None else inner
            step: Callable[[], Any] = partial(unlisted, inner)
            while True:
                part = await visible_async(running.visible, step)
                step = inner.__anext__
                for clean in stream.part(part):
                    try:
                        sent = yield passed(running, clean)
                        step = partial(inner.asend, sent)
                    except Exception as thrown:
                        step = partial(inner.athrow, thrown)
                        break  # what else was held back came after it
        except StopAsyncIteration:
            ended = Ended()
            for rest in stream.end():
                yield passed(running, rest)
        except GeneratorExit:  # as in `stream_parts`
            pass
        except BaseException as error:
            ended = Ended(error=error)
        finally:
            running.hits |= stream.search.hits
            try:
                if inner is not None:
                    await visible_async(running.visible, inner.aclose)
            except BaseException as error:
                ended = Ended(error=error)
            await settle(pipeline, ended)
        try:
            result_of(running, ended.error)
        finally:  # the error's traceback holds this frame: what that holds would live until the next collection
            del pipeline, running, ended

    return guarded_async_generator
