"""A wrapped tool looks the same, and its code is guarded exactly once from wherever it is called."""

from __future__ import annotations

import asyncio
import copy
import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool, ToolException, tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel

from agentguard import ConfigurationError, Denied, Guard, Intent, guarded, step
from agentguard_langchain import assert_guarded, guard_tools
from agentguard_langchain.checks import is_guarded
from integrations.langchain.tests.samples import (
    AddArgs,
    Adder,
    Around,
    BothAdder,
    add,
    decisions,
    parts,
    plain_tools,
    ran,
    reads,
    single,
)  # fmt: skip

MAKES = list(plain_tools())
READ = {"effect": "read"}
GIVEN = {"a": 1, "b": 5}
CALL = {"name": "x", "args": GIVEN, "id": "c1", "type": "tool_call"}


def wrapped(make: str, plain: BaseTool | None = None) -> BaseTool:
    plain = plain or plain_tools()[make]
    [tool] = guard_tools(plain, {plain.name: {"name": f"t.{make}", "effect": "read"}})
    return tool


async def first_of(stream: Any) -> Any:
    return await anext(stream)


SYNC: dict[str, Callable[[BaseTool], Any]] = {
    "invoke": lambda t: t.invoke(GIVEN),
    "invoke a tool call": lambda t: int(t.invoke(CALL).content),
    "run": lambda t: t.run(GIVEN),
    "batch": lambda t: t.batch([GIVEN])[0],
    "stream": lambda t: next(iter(t.stream(GIVEN))),
    "_run": lambda t: t._run(**GIVEN, config={}) if hasattr(t, "func") else t._run(**GIVEN),
    "with_config": lambda t: t.with_config(tags=["x"]).invoke(GIVEN),
    "bind": lambda t: t.bind().invoke(GIVEN),
    "with_retry": lambda t: t.with_retry(stop_after_attempt=1).invoke(GIVEN),
    "model_copy": lambda t: t.model_copy().invoke(GIVEN),
    "renamed copy": lambda t: t.model_copy(update={"name": "allowed"}).invoke(GIVEN),
    "deep model_copy": lambda t: t.model_copy(deep=True).invoke(GIVEN),
    "copy": lambda t: copy.copy(t).invoke(GIVEN),
    "deepcopy": lambda t: copy.deepcopy(t).invoke(GIVEN),
    "wrapped twice": lambda t: guard_tools([t])[0].invoke(GIVEN),
}
ASYNC: dict[str, Callable[[BaseTool], Any]] = {
    "ainvoke": lambda t: t.ainvoke(GIVEN),
    "arun": lambda t: t.arun(GIVEN),
    "astream": lambda t: first_of(t.astream(GIVEN)),
    "_arun": lambda t: t._arun(**GIVEN, config={}) if hasattr(t, "func") else t._arun(**GIVEN),
    "deepcopy": lambda t: copy.deepcopy(t).ainvoke(GIVEN),
}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    ran.clear()
    yield
    ran.clear()


# --- once, from everywhere --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", SYNC)
@pytest.mark.parametrize("make", [make for make in MAKES if make != "async"])
def test_every_synchronous_way_to_a_tool_is_decided_exactly_once(guard: Guard, make: str, way: str) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=reads("t.*")):
        assert SYNC[way](wrapped(make)) == 6
    assert decisions(guard) == [("call.permitted", f"t.{make}")]


@pytest.mark.parametrize("way", SYNC)
@pytest.mark.parametrize("make", [make for make in MAKES if make != "async"])
def test_no_synchronous_way_to_a_tool_leads_around_the_guard(guard: Guard, make: str, way: str) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=reads("other")), pytest.raises(Denied):
        SYNC[way](wrapped(make))
    assert ran == []
    assert [event for event, _ in decisions(guard)] == ["call.denied"]


@pytest.mark.anyio
@pytest.mark.parametrize("way", ASYNC)
@pytest.mark.parametrize("make", MAKES)
async def test_every_asynchronous_way_to_a_tool_is_decided_exactly_once(guard: Guard, make: str, way: str) -> None:
    async with guard.task("bot", on_behalf_of="alice", intent=reads("t.*")):
        assert await ASYNC[way](wrapped(make)) == 6
    assert decisions(guard) == [("call.permitted", f"t.{make}")]


@pytest.mark.anyio
@pytest.mark.parametrize("way", ASYNC)
@pytest.mark.parametrize("make", MAKES)
async def test_no_asynchronous_way_to_a_tool_leads_around_the_guard(guard: Guard, make: str, way: str) -> None:
    async with guard.task("bot", on_behalf_of="alice", intent=reads("other")):
        with pytest.raises(Denied):
            await ASYNC[way](wrapped(make))
    assert ran == []


@pytest.mark.parametrize("make", ["sync", "both", "around"])
def test_function_of_a_tool_is_guarded(guard: Guard, make: str) -> None:
    function = wrapped(make).func  # type: ignore[attr-defined]  # a StructuredTool
    with guard.task("bot", on_behalf_of="alice", intent=reads("t.*")):
        assert function(1, b=5) == 6
    with guard.task("bot", on_behalf_of="alice", intent=reads("other")), pytest.raises(Denied):
        function(1, b=5)
    assert len(ran) == 1


@pytest.mark.anyio
async def test_coroutine_of_a_tool_is_guarded(guard: Guard) -> None:
    async with guard.task("bot", on_behalf_of="alice", intent=reads("other")):
        with pytest.raises(Denied):
            await wrapped("async").coroutine(1)  # type: ignore[attr-defined]  # a StructuredTool
    assert ran == []


def test_function_that_is_put_into_a_guarded_tool_later_is_guarded(guard: Guard) -> None:
    changed, updated = wrapped("sync"), wrapped("sync").model_copy(update={"func": lambda a, b: ran.append("evil")})
    changed.func = lambda a, b: ran.append("evil")
    with guard.task("bot", on_behalf_of="alice", intent=reads("other")):
        for one in (changed, updated):
            with pytest.raises(Denied):
                one.invoke(GIVEN)
    assert ran == []
    with guard.task("bot", on_behalf_of="alice", intent=reads("t.*")):
        for one in (changed, updated):
            one.invoke(GIVEN)
    assert ran == ["evil", "evil"]


def test_outside_a_task_a_wrapped_tool_is_denied() -> None:
    with pytest.raises(Denied) as denied:
        wrapped("sync").invoke(GIVEN)
    assert denied.value.reason == "no_task"
    assert ran == []


@pytest.mark.anyio
async def test_async_batch_keeps_the_task_in_every_thread(guard: Guard) -> None:
    async with guard.task("bot", on_behalf_of="alice", intent=reads("t.*")):
        assert await wrapped("sync").abatch([{"a": n} for n in range(8)]) == [n + 2 for n in range(8)]
    assert len(decisions(guard)) == 8


def test_batch_keeps_the_task_in_every_thread(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=reads("t.*")):
        assert wrapped("subclass").batch([{"a": n} for n in range(8)]) == [n + 2 for n in range(8)]
    assert len(decisions(guard)) == 8


def test_every_attempt_of_a_retry_is_decided_again(guard: Guard) -> None:
    calls: list[int] = []

    def flaky(a: int) -> int:
        """Fail once."""
        calls.append(a)
        if len(calls) == 1:
            raise ConnectionError("try again")
        return a

    [tool_] = guard_tools(tool(flaky), {"flaky": READ})
    with guard.task("bot", on_behalf_of="alice", intent=reads("flaky")):
        assert tool_.with_retry(stop_after_attempt=2, wait_exponential_jitter=False).invoke({"a": 1}) == 1
    assert len(decisions(guard)) == 2


def test_policy_is_decided_over_validated_arguments(guard: Guard) -> None:
    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("t.sync", a=1, b=2))):
        assert wrapped("sync").invoke({"a": "1"}) == 3  # validated to 1, and the default of b is an argument too
    assert len(decisions(guard)) == 1


def test_call_that_fails_validation_is_neither_decided_nor_charged(guard: Guard) -> None:
    tool_ = wrapped("sync")
    tool_.handle_validation_error = True
    with guard.task("bot", on_behalf_of="alice", intent=reads("t.*")):
        assert tool_.invoke({"a": "no number"}) == "Tool input validation error"
    assert decisions(guard) == []


# --- looks the same ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKES)
def test_wrapped_tool_shows_a_model_what_the_plain_one_shows(make: str) -> None:
    plain = plain_tools()[make]
    tool_ = wrapped(make, plain)
    assert convert_to_openai_tool(tool_) == convert_to_openai_tool(plain)
    assert (tool_.name, tool_.description, tool_.args) == (plain.name, plain.description, plain.args)
    assert isinstance(tool_, type(plain))
    assert (type(tool_).__name__, type(tool_).__module__) == (type(plain).__name__, type(plain).__module__)
    assert tool_.args_schema is plain.args_schema
    assert str(tool_.get_input_schema().model_fields) == str(plain.get_input_schema().model_fields)  # type: ignore[union-attr]  # pydantic 2
    assert repr(tool_)
    assert tool_.model_dump(exclude={"func", "coroutine"}) == plain.model_dump(exclude={"func", "coroutine"})


def test_tool_with_a_single_text_works(guard: Guard) -> None:
    [shout] = guard_tools(single(), {"shout": READ})
    with guard.task("bot", on_behalf_of="alice", intent=reads("shout")):
        assert (shout.invoke("a"), shout.invoke({"tool_input": "b"}), shout.func("c")) == ("A", "B", "C")  # type: ignore[attr-defined]
        assert asyncio.run(shout.ainvoke("d")) == "D"
    assert len(decisions(guard)) == 4


def test_artifact_return_direct_tags_and_metadata_stay(guard: Guard) -> None:
    @tool(response_format="content_and_artifact", return_direct=True)
    def fetch(q: str) -> tuple[str, dict[str, int]]:
        """Fetch."""
        return "short", {"long": 1}

    fetch.tags, fetch.metadata = ["t"], {"m": 1}
    [tool_] = guard_tools(fetch, {"fetch": READ})
    with guard.task("bot", on_behalf_of="alice", intent=reads("fetch")):
        message = tool_.invoke({"name": "fetch", "args": {"q": "a"}, "id": "c", "type": "tool_call"})
    assert (message.content, message.artifact, message.tool_call_id) == ("short", {"long": 1}, "c")
    assert (tool_.return_direct, tool_.tags, tool_.metadata) == (True, ["t"], {"m": 1})


def test_state_of_a_tool_object_is_shared_with_its_body(guard: Guard) -> None:
    [tool_] = guard_tools(Adder(), {"adder": READ})
    with guard.task("bot", on_behalf_of="alice", intent=reads("adder")):
        tool_.invoke(GIVEN)
        tool_.invoke(GIVEN)
    assert tool_.calls == 2  # type: ignore[attr-defined]  # an Adder


def test_config_reaches_the_function(guard: Guard) -> None:
    @tool
    def whose(q: str, config: RunnableConfig) -> str:
        """Tell."""
        return f"{q} {config['configurable']['who']}"

    def bound(q: str, config: RunnableConfig, times: int) -> str:
        return f"{q} {config['configurable']['who']}" * times

    partly = StructuredTool.from_function(
        functools.partial(bound, times=2), name="partly", description="d", args_schema=whose.args_schema
    )
    config: RunnableConfig = {"configurable": {"who": "me"}}
    with guard.task("bot", on_behalf_of="alice", intent=reads("whose", "partly")):
        first, second = guard_tools([whose, partly], {"whose": READ, "partly": READ})
        assert first.invoke({"q": "a"}, config) == "a me"
        assert second.invoke({"q": "a"}, config) == "a mea me"


def test_pickled_tool_comes_back_guarded(guard: Guard) -> None:
    structured = StructuredTool(name="add", description="d", func=add, args_schema=Adder().args_schema)
    for plain in (Adder(), BothAdder(), structured):
        [tool_] = guard_tools(plain, {plain.name: {"name": "t.x", "effect": "read"}})
        back = pickle.loads(pickle.dumps(tool_))
        assert is_guarded(back)
        with guard.task("bot", on_behalf_of="alice", intent=reads("other")), pytest.raises(Denied):
            back.invoke(GIVEN)
        with guard.task("bot", on_behalf_of="alice", intent=reads("t.*")):
            assert back.invoke(GIVEN) == 6


def test_copy_that_lost_its_declaration_does_not_run() -> None:
    tool_ = wrapped("subclass")
    tool_.__dict__.pop("_agentguard_policy")
    with pytest.raises(ConfigurationError, match="lost its declaration"):
        tool_.invoke(GIVEN)
    assert ran == []


def test_original_stays_as_it_was() -> None:
    plain = plain_tools()["sync"]
    guard_tools(plain)
    assert plain.invoke(GIVEN) == 6
    assert not is_guarded(plain)


# --- denials ----------------------------------------------------------------------------------------------------------


class Noting(BaseCallbackHandler):
    """Notes what tracers see."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_tool_start(self, *args: Any, **kwargs: Any) -> None:
        self.events.append("start")

    def on_tool_error(self, error: BaseException, **kwargs: Any) -> None:
        self.events.append(type(error).__name__)


@pytest.mark.parametrize("make", ["sync", "subclass"])
def test_denial_is_an_error_event_for_tracers_and_no_advice_to_retry(guard: Guard, make: str) -> None:
    tool_, noting = wrapped(make), Noting()
    tool_.handle_tool_error = True
    with guard.task("bot", on_behalf_of="alice", intent=reads("other")), pytest.raises(Denied) as denied:
        tool_.invoke(CALL, {"callbacks": [noting]})
    assert not isinstance(denied.value, ToolException)
    assert noting.events == ["start", "Denied"]


def test_error_of_a_tool_is_handled_as_before(guard: Guard) -> None:
    def broken() -> str:
        """Break."""
        raise ToolException("no such table")

    tool_ = tool(broken)
    tool_.handle_tool_error = True
    [guarded_tool] = guard_tools(tool_, {"broken": READ})
    with guard.task("bot", on_behalf_of="alice", intent=reads("broken")):
        assert guarded_tool.invoke({}) == "no such table"


# --- guarded already, or not guardable --------------------------------------------------------------------------------


def test_tool_over_guarded_is_passed_through(guard: Guard) -> None:
    @tool("renamed")
    @guarded("own.name", effect="read")
    def mine(q: str) -> str:
        """Mine."""
        return q

    @guarded(effect="read")
    async def bare(q: str) -> str:
        """Bare."""
        return q

    first, second = guard_tools([mine, bare])
    assert first is mine
    assert second.name == "bare"
    assert_guarded([first, second])
    with guard.task("bot", on_behalf_of="alice", intent=reads("own.name", "bare")):
        assert first.invoke({"q": "a"}) == "a"
        assert asyncio.run(second.ainvoke({"q": "b"})) == "b"
    assert decisions(guard) == [("call.permitted", "own.name"), ("call.permitted", "bare")]


def test_partial_of_a_guarded_function_is_guarded_and_its_body_is_not_taken_for_one() -> None:
    @guarded("own.name", effect="read")
    def mine(q: str, n: int) -> str:
        """Mine."""
        return q * n

    schema = AddArgs
    partly = StructuredTool(name="p", description="d", func=functools.partial(mine, n=2), args_schema=schema)
    body = StructuredTool(name="b", description="d", func=mine.__wrapped__, args_schema=schema)  # type: ignore[attr-defined]
    assert is_guarded(partly)
    assert not is_guarded(body)


def test_tool_that_is_guarded_in_part_is_refused() -> None:
    half = StructuredTool.from_function(guarded("x.y")(add), plain_tools()["async"].coroutine, name="half")  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match="coroutine is not"):
        guard_tools(half)


def test_async_generator_is_refused_when_it_is_wrapped() -> None:
    with pytest.raises(ConfigurationError, match="async generator"):
        guard_tools(parts)


def test_class_that_overrides_an_entrance_is_refused() -> None:
    class Sneaky(Adder):
        def run(self, *args: Any, **kwargs: Any) -> Any:
            return "ran"

    with pytest.raises(ConfigurationError, match="overrides run"):
        guard_tools(Sneaky())


def test_structured_tool_whose_run_cannot_tell_config_from_arguments_is_refused() -> None:
    class Loose(StructuredTool):
        def _run(self, *args: Any, **kwargs: Any) -> Any:
            return "ran"

    with pytest.raises(ConfigurationError, match="declare both parameters"):
        guard_tools(Loose.from_function(add, name="loose", description="d"))


def test_assert_guarded_names_every_tool_that_is_not() -> None:
    with pytest.raises(ConfigurationError, match=r"add, web_search;"):
        assert_guarded([plain_tools()["sync"], {"type": "web_search"}, wrapped("sync")])
    assert_guarded(wrapped("around"))
    assert not is_guarded(Around.from_function(add, name="x", description="d"))


# --- shapes of arguments ----------------------------------------------------------------------------------------------


class Address(BaseModel):
    city: str


def test_models_inside_arguments_are_checked_field_by_field_and_arrive_as_models(guard: Guard) -> None:
    @tool
    def send(to: Address, tags: list[str]) -> str:
        """Send."""
        assert isinstance(to, Address)
        return to.city

    [tool_] = guard_tools(send)
    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("send", to={"city": "Bern"}, tags=["a"]))):
        assert tool_.invoke({"to": {"city": "Bern"}, "tags": ["a"]}) == "Bern"
        with pytest.raises(Denied):
            tool_.invoke({"to": {"city": "Rome"}, "tags": ["a"]})


def test_tool_with_a_json_schema_and_keywords_is_checked_by_what_it_is_given(guard: Guard) -> None:
    async def call(**arguments: Any) -> str:
        return str(arguments)

    schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    remote = StructuredTool(name="remote", description="d", coroutine=call, args_schema=schema)
    [tool_] = guard_tools(remote)
    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("remote", path="/a").times(2))):
        assert asyncio.run(tool_.ainvoke({"path": "/a"})) == "{'path': '/a'}"
        # LangChain puts its own config in the place of one that a model writes; the function gets neither.
        assert asyncio.run(tool_.ainvoke({"path": "/a", "config": {"x": 1}})) == "{'path': '/a'}"
        for args in ({"path": "/b"}, {"path": "/a", "force": True}):
            with pytest.raises(Denied):
                asyncio.run(tool_.ainvoke(args))
