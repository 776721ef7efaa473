"""A chat model that follows a script, for tests and examples without a key or a network."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCallChunk
from langchain_core.messages.tool import tool_call
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import Field, PrivateAttr

Turn: TypeAlias = "AIMessage | str | Sequence[tuple[str, Mapping[str, Any]]]"


class ScriptedModel(BaseChatModel):
    """Says what its script says: the n-th turn when the conversation holds n answers of it already.

    It has no state besides what it was shown, so one model serves parallel runs, threads and resumed graphs.

    Args:
        script: turns: a text, an AIMessage, or calls as a list of (tool name, arguments).

    Attributes:
        seen: the messages of every call, in order.
        bound: the tools of every `bind_tools`, in order.
    """

    script: list[Any] = Field(default_factory=list)
    _seen: list[list[BaseMessage]] = PrivateAttr(default_factory=list)
    _bound: list[list[Any]] = PrivateAttr(default_factory=list)

    def __init__(self, *script: Turn, **fields: Any) -> None:
        given: dict[str, Any] = {"script": list(script), **fields}
        super().__init__(**given)

    @property
    def seen(self) -> list[list[BaseMessage]]:
        """The messages of every call."""
        return self._seen

    @property
    def bound(self) -> list[list[Any]]:
        """The tools that agents bound."""
        return self._bound

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Note the tools; the script decides which are called."""
        self._bound.append(list(tools))
        return self

    def _next(self, messages: list[BaseMessage]) -> AIMessage:
        self._seen.append(list(messages))
        number = sum(isinstance(message, AIMessage) for message in messages)
        if number >= len(self.script):
            raise AssertionError(f"the script has {len(self.script)} turns, and the agent asked for turn {number + 1}")
        turn = self.script[number]
        if isinstance(turn, AIMessage):
            return turn.model_copy(deep=True)
        if isinstance(turn, str):
            return AIMessage(turn)
        calls = [tool_call(name=n, args=dict(a), id=f"call_{number + 1}_{i + 1}") for i, (n, a) in enumerate(turn)]
        return AIMessage("", tool_calls=calls)

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> ChatResult:  # fmt: skip
        return ChatResult(generations=[ChatGeneration(message=self._next(messages))])

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> ChatResult:  # fmt: skip
        return self._generate(messages)

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:  # fmt: skip
        for chunk in _chunks(self._next(messages)):
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None, **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:  # fmt: skip
        for chunk in _chunks(self._next(messages)):
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def _chunks(message: AIMessage) -> Iterator[ChatGenerationChunk]:
    words = message.text.split(" ")
    for index, word in enumerate(words):
        text = word if index == len(words) - 1 else f"{word} "
        if text:
            yield ChatGenerationChunk(message=AIMessageChunk(content=text, id=message.id))
    for index, call in enumerate(message.tool_calls):
        part = ToolCallChunk(
            name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index, type="tool_call_chunk"
        )
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[part], id=message.id))
    yield ChatGenerationChunk(message=AIMessageChunk(content="", id=message.id, chunk_position="last"))
