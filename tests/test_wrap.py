"""`@guarded`: what others see of a guarded callable, and what a wrong declaration or a wrong call says."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import typing
from collections.abc import AsyncIterator, Generator, Iterator
from decimal import Decimal
from typing import Annotated, Any

import pydantic
import pytest
from langchain_core.callbacks import CallbackManagerForToolRun
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import InjectedToolArg, StructuredTool, tool

from agentguard import (
    ConfigurationError,
    Credential,
    Denied,
    Guard,
    Intent,
    any_,
    current_credential,
    guard_tool,
    guarded,
    spec_of,
    step,
)
from agentguard.audit.memory import MemoryLog
from agentguard.testing import FakeIssuer, fake_guard

API = "https://api.test"
recipe = pytest.mark.control("6 hidden parameters are no arguments of the model")


@pytest.fixture
def guard() -> Iterator[Guard]:
    with fake_guard() as made:
        yield made


def opened(guard: Guard, *names: str) -> Any:
    return guard.task(
        "bot", on_behalf_of="alice", intent=Intent("x", *[step(n).times(9) for n in names], reads=["r.*"])
    )


# what schema builders see ---------------------------------------------------------------------------------


def plain(a: str, b: Decimal = Decimal(1), *, c: list[int] | None = None) -> dict[str, int]:
    """Say what it does."""
    return {}


async def later(a: str, b: Decimal = Decimal(1)) -> str:
    """Say what it does."""
    return a


def parts(a: str) -> Iterator[str]:
    """Say what it does."""
    yield a


async def async_parts(a: str) -> AsyncIterator[str]:
    """Say what it does."""
    yield a


def positional(a: str, /, b: int, *rest: str, c: bool = False, **more: int) -> None:
    """Say what it does."""


class Desk:
    def method(self, a: str) -> str:
        """Say what it does."""
        return a

    def __call__(self, a: str) -> str:
        """Say what it does."""
        return a


@pytest.mark.parametrize(
    "fn", [plain, later, parts, async_parts, positional, Desk.method, Desk().method], ids=lambda fn: fn.__qualname__
)
def test_guarded_callable_has_names_doc_annotations_and_resolved_signature_of_its_own(fn: Any) -> None:
    made = guard_tool(fn, "r.tool")
    hints = typing.get_type_hints(fn)
    assert (made.__name__, made.__qualname__, made.__doc__) == (fn.__name__, fn.__qualname__, fn.__doc__)
    assert made.__module__ == __name__
    assert made.__wrapped__ == fn
    assert made.__annotations__ == {name: hint for name, hint in hints.items() if name != "self"}
    parameters = inspect.signature(fn).parameters
    assert inspect.signature(made).parameters.keys() == parameters.keys()
    for name, parameter in inspect.signature(made).parameters.items():
        assert not isinstance(parameter.annotation, str)
        assert (parameter.kind, parameter.default) == (parameters[name].kind, parameters[name].default)
    assert inspect.signature(made).return_annotation == hints["return"]


@pytest.mark.parametrize(
    ("fn", "is_kind"),
    [(later, inspect.iscoroutinefunction), (parts, inspect.isgeneratorfunction),
     (async_parts, inspect.isasyncgenfunction), (plain, inspect.isfunction)],
)  # fmt: skip
def test_guarded_callable_is_of_the_kind_of_its_own(fn: Any, is_kind: Any) -> None:
    assert is_kind(guard_tool(fn, "r.tool"))


def shown_to_the_model(made: Any) -> set[str]:
    return set(made.tool_call_schema.model_json_schema()["properties"])


def with_credential(q: str, credential: Credential, limit: int = 3) -> str:
    """Look something up."""
    return f"{q} {limit} {credential.lease.id}"


@recipe
def test_credential_parameter_is_in_no_schema_and_is_filled_by_the_guard(guard: Guard) -> None:
    made = guard_tool(with_credential, "r.find", effect="read", audience=API)
    assert "credential" not in inspect.signature(made).parameters
    assert "credential" not in made.__annotations__
    for schema in (
        StructuredTool.from_function(made).args,
        tool(made).get_input_schema().model_json_schema()["properties"],
    ):
        assert schema.keys() == {"q", "limit"}
    assert shown_to_the_model(StructuredTool.from_function(made)) == {"q", "limit"}
    with opened(guard):
        assert made("x") == "x 3 lease-1"
        assert tool(made).invoke({"q": "x", "limit": 5}) == "x 5 lease-1"


@recipe
@pytest.mark.parametrize("way", ["function", "langchain", "async"])
def test_value_of_the_model_for_the_credential_is_denied(guard: Guard, way: str) -> None:
    made = guard_tool(with_credential, "r.find", effect="read", audience=API)
    with opened(guard):
        if way == "langchain":  # its schema does not know the argument, so it is dropped
            assert tool(made).invoke({"q": "x", "credential": "evil"}) == "x 3 lease-1"
            return
        with pytest.raises(Denied) as denied:
            made("x", credential="evil")
    assert denied.value.reason == "invalid_arguments"


def test_pydantic_validates_by_the_tools_own_signature(guard: Guard) -> None:
    made = pydantic.validate_call(guard_tool(plain, "r.plain", effect="read"))
    with opened(guard):
        assert made("a", "2.5", c=["1"]) == {}
        with pytest.raises(pydantic.ValidationError):
            made("a", "no number")


def test_parameters_of_langchain_are_hidden_and_reach_the_tool_as_they_are(guard: Guard) -> None:
    got: list[Any] = []

    @tool
    @guarded("r.look", effect="read")
    def look(
        q: str,
        config: RunnableConfig,
        user: Annotated[str, InjectedToolArg],
        run_manager: CallbackManagerForToolRun | None = None,
    ) -> str:
        """Look."""
        got.extend([config["configurable"], user, run_manager])
        return q

    found = spec_of(look.func)  # type: ignore[attr-defined]  # a StructuredTool
    assert found is not None
    assert found.parameters == frozenset({"q"})
    assert shown_to_the_model(look) == {"q"}
    inside = {"session": object()}
    with opened(guard):
        assert look.invoke({"q": "x", "user": "ann"}, {"configurable": inside}) == "x"
    assert got[0]["session"] is inside["session"]
    assert got[1] == "ann"


def test_partial_and_callable_object_have_a_name_and_the_free_arguments(guard: Guard) -> None:
    fixed = guard_tool(functools.partial(plain, a="x"), effect="read")
    assert spec_of(fixed).name == "plain"  # type: ignore[union-attr]  # it is guarded
    assert list(inspect.signature(fixed).parameters) == ["b", "c"]
    desk = guard_tool(Desk(), "r.desk", effect="read")
    assert list(inspect.signature(desk).parameters) == ["a"]
    assert desk.__doc__ == "Say what it does."
    with opened(guard, "plain"):
        assert fixed() == {}
        assert desk("y") == "y"


def test_callable_object_is_called_whatever_else_it_calls_func(guard: Guard) -> None:
    class Named:
        func = staticmethod(later)

        def __call__(self, a: str) -> str:
            """Say what it does."""
            return a

    named = guard_tool(Named(), "r.named", effect="read")
    assert named.__doc__ == "Say what it does."
    with opened(guard):
        assert named("y") == "y"


def test_mutable_default_is_fresh_at_every_call(guard: Guard) -> None:
    @guarded("r.grow", effect="read")
    def grow(item: int, into: list[int] = []) -> list[int]:  # noqa: B006  # what people write
        into.append(item)
        return into

    with opened(guard):
        assert [grow(1), grow(2)] == [[1], [2]]


def test_tool_with_a_default_that_has_no_canonical_form_can_be_called(guard: Guard) -> None:
    @guarded("r.grow", effect="read")
    def grow(item: int, into: set[int] = set()) -> set[int]:  # noqa: B006  # what people write
        into.add(item)
        return into

    with opened(guard):
        assert [grow(1), grow(2)] == [{1}, {2}]


def test_method_gets_its_own_object_uncopied(guard: Guard) -> None:
    class Shop:
        @guarded("r.own", effect="read")
        def own(self, q: str) -> Shop:
            return self

    shop = Shop()
    with opened(guard):
        assert shop.own("x") is shop


# declarations ---------------------------------------------------------------------------------------------


def takes(account: str, token: str = "") -> None: ...


DECLARED: list[tuple[str, dict[str, Any], str]] = [
    ("Bad Name", {}, '@guarded("refund.create")'),
    ("pay", {"effect": "delete"}, "write read, write or destructive"),
    ("pay", {"audience": "http://api.test"}, "http only on loopback"),
    ("pay", {"audience": "https://user@api.test"}, "user, query or fragment"),
    ("pay", {"audience": "https://api.test?x=1"}, "query"),
    ("pay", {"scopes": ["a"]}, "audience"),
    ("pay", {"resource": "account/{acount}"}, "it takes account, token"),
    ("pay", {"record": ["amount"]}, "it takes account, token"),
    ("pay", {"secret": ["password"]}, "it takes account, token"),
    ("pay", {"record": ["token"], "secret": ["token"]}, "secret hides it"),
    ("pay", {"lease": "once"}, "'task' or 'call'"),
    ("pay", {"hidden": ["session"]}, "does not take"),
    ("pay", {"efect": "read"}, "did you mean 'effect'?"),
    ("pay", {"name": "x"}, "unknown name"),
    ("pay", {"defaults": {}}, "unknown defaults"),
    ("pay", {"scopes": "a b", "audience": API}, 'scopes=["a", "b"]'),
    ("pay", {"tags": "money"}, 'tags=["a", "b"]'),
    ("pay", {"data": [1]}, 'data=["a", "b"]'),
]


@pytest.mark.parametrize(("name", "fields", "text"), DECLARED, ids=lambda value: str(value)[:40])
def test_wrong_declaration_fails_at_decoration_and_says_what_to_write(
    name: str, fields: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        guarded(name, **fields)(takes)
    assert text in str(refused.value)


@pytest.mark.parametrize("again", [guarded, guard_tool, lambda fn: guarded("other")(fn)])
def test_guarding_twice_is_an_error(again: Any) -> None:
    once = guarded(takes)
    with pytest.raises(ConfigurationError, match="already"):
        again(once)
    with pytest.raises(ConfigurationError, match="already"):
        again(functools.wraps(once)(lambda *args, **kwargs: once(*args, **kwargs)))


@pytest.mark.parametrize("thing", [7, None, object(), [takes]])
def test_only_callables_can_be_guarded(thing: Any) -> None:
    with pytest.raises(ConfigurationError, match="callables"):
        guard_tool(thing)


def test_tool_of_a_framework_is_told_to_stand_above_guarded() -> None:
    def shown(a: str) -> str:
        """Shown."""
        return a

    with pytest.raises(ConfigurationError, match="below a framework's decorator such as @tool"):
        guard_tool(tool(shown))


def test_callable_that_nobody_guarded_has_no_declaration() -> None:
    assert spec_of(takes) is None
    assert spec_of(None) is None


# wrong calls ----------------------------------------------------------------------------------------------

CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    (("a", "b", "c"), {}),
    (("a",), {"account": "b"}),
    (("a",), {"other": 1}),
    ((), {"token": "x"}),
    (("a",), {"token": float("nan")}),
    (({"a"},), {}),
    ((b"bytes",), {}),
]


@pytest.mark.control("2 what cannot be checked does not run")
@pytest.mark.parametrize(("args", "kwargs"), CALLS, ids=repr)
def test_call_that_does_not_fit_is_a_recorded_denial(guard: Guard, args: Any, kwargs: Any) -> None:
    ran: list[Any] = []

    @guarded("pay")
    def pay(account: str, token: str = "") -> None:
        ran.append(account)

    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("pay", account=any_, token=any_))):
        with pytest.raises(Denied) as denied:
            pay(*args, **kwargs)
    assert denied.value.reason == "invalid_arguments"
    assert ran == []
    assert isinstance(guard.audit, MemoryLog)
    record = next(r for r in guard.audit.records if r["event"] == "call.denied")
    assert (record["reason"], record["tool"]) == ("invalid_arguments", "pay")


def test_tools_own_type_error_stays_its_own(guard: Guard) -> None:
    @guarded("r.broken", effect="read")
    def broken() -> None:
        raise TypeError("the tool's own")

    with opened(guard), pytest.raises(TypeError, match="own"):
        broken()


# generators -----------------------------------------------------------------------------------------------


@pytest.mark.control("6 a stream is passed on as it is, without secrets")
def test_items_of_a_generator_tool_keep_their_boundaries_and_identity(guard: Guard) -> None:
    items: list[Any] = ["name", "the", "canar", {"a": 1}, b"bytes", "", "lease", 7]

    @guarded("r.items", effect="read", audience=API)
    def listed() -> Iterator[Any]:
        yield from items

    @guarded("r.aitems", effect="read", audience=API)
    async def alisted() -> AsyncIterator[Any]:
        for item in items:
            yield item

    with opened(guard):
        assert list(listed()) == items
        assert all(got is item for got, item in zip(listed(), items, strict=True))

    async def work() -> list[Any]:
        async with opened(guard):
            return [item async for item in alisted()]

    assert asyncio.run(work()) == items


def test_exception_thrown_at_a_part_that_was_held_back_reaches_the_generator(guard: Guard) -> None:
    caught: list[str] = []

    @guarded("r.items", effect="read", audience=API)
    def listed() -> Iterator[Any]:
        for item in ("the", "canar", 7, "last"):
            try:
                yield item
            except KeyError as thrown:
                caught.append(str(thrown))

    @guarded("r.aitems", effect="read", audience=API)
    async def alisted() -> AsyncIterator[Any]:
        for item in ("the", "canar", 7, "last"):
            try:
                yield item
            except KeyError as thrown:
                caught.append(str(thrown))

    with opened(guard):
        stream: Any = listed()
        assert [next(stream), next(stream)] == ["the", "canar"]
        assert stream.throw(KeyError("one")) == "last"

    async def work() -> None:
        async with opened(guard):
            stream: Any = alisted()
            assert [await anext(stream), await anext(stream)] == ["the", "canar"]
            assert await stream.athrow(KeyError("two")) == "last"

    asyncio.run(work())
    assert caught == ["'one'", "'two'"]


def test_what_is_sent_where_the_rest_of_a_stream_is_passed_on_has_nobody_to_go_to(guard: Guard) -> None:
    @guarded("r.asked", effect="read", audience=API)
    def asked() -> Generator[str, str, str]:
        answer = yield "the"
        yield f"{answer} canary"  # held back, as a credential may begin so
        return "done"

    with opened(guard):
        stream = asked()
        assert [next(stream), stream.send("a"), stream.send("b")] == ["the", "a ", "canary"]
        with pytest.raises(StopIteration, match="done"):
            stream.send("c")


@pytest.mark.parametrize("suspends", [False, True])
@pytest.mark.parametrize("left", ["to the loop's end", "in a cycle"])
def test_half_read_stream_that_the_loop_closes_closes_its_tool_first_and_then_the_call(
    left: str, suspends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cleaned: list[bool] = []

    @guarded("r.parts", effect="read", audience=API)
    async def parts() -> AsyncIterator[str]:
        try:
            yield "one"
            yield "two"
        finally:
            await asyncio.sleep(0.001)
            cleaned.append(current_credential().live)

    kept: list[Any] = []

    async def main(guard: Guard) -> None:
        await opened(guard).__aenter__()
        kept.append(parts())
        assert await anext(kept[0]) == "one"
        if left == "in a cycle":
            kept.append([*kept, kept[:]])
            kept[1].append(kept[1])
            kept.clear()
            gc.collect()
            await asyncio.sleep(0.05)

    gc.collect()  # what others left
    caplog.clear()
    for number in range(1, 9):  # a loop closes in no order of its own
        audit = MemoryLog()
        with fake_guard(issuer=FakeIssuer(suspends=suspends), audit=audit) as guard:
            asyncio.run(main(guard))
            kept.clear()
            gc.collect()
        assert cleaned == [True] * number
        ends = [(entry["event"], entry.get("error")) for entry in audit.records if entry["event"].startswith("call.")]
        assert ends == [("call.permitted", None), ("call.cancelled", "GeneratorExit")]
    assert not caplog.records


def test_error_of_a_generators_clean_up_reaches_who_closes_it(guard: Guard) -> None:
    @guarded("r.open", effect="read", audience=API)
    def opened_file() -> Iterator[str]:
        try:
            yield "one"
        finally:
            raise OSError("not flushed")

    @guarded("r.aopen", effect="read", audience=API)
    async def aopened_file() -> AsyncIterator[str]:
        try:
            yield "one"
        finally:
            raise OSError("not flushed")

    with opened(guard):
        stream: Any = opened_file()
        next(stream)
        with pytest.raises(OSError, match="not flushed"):
            stream.close()

    async def work() -> None:
        async with opened(guard):
            stream: Any = aopened_file()
            await anext(stream)
            with pytest.raises(OSError, match="not flushed"):
                await stream.aclose()

    asyncio.run(work())


@pytest.mark.control("5 a generator's call ends with it (case 46)")
@pytest.mark.parametrize("kind", ["raises", "is not started"])
def test_generator_that_raises_or_never_starts_holds_nothing(kind: str) -> None:
    @guarded("r.gen", effect="read", audience=API, lease="call")
    def gen() -> Iterator[str]:
        yield "one"
        raise KeyError("own")

    issuer = FakeIssuer()
    with fake_guard(issuer=issuer) as guard, opened(guard):
        stream = gen()
        if kind == "raises":
            assert next(stream) == "one"
            with pytest.raises(KeyError, match="own"):
                next(stream)
        del stream
        assert issuer.live == {}
    assert issuer.issued == issuer.revoked


async def _two(one: str, other: str) -> None:
    pass


def _two_parts(one: str, other: str) -> Iterator[str]:
    yield one


async def _two_later(one: str, other: str) -> AsyncIterator[str]:
    yield one


async def _one(one: str) -> None:
    pass


def _one_part(one: str) -> Iterator[str]:
    yield one


async def _one_later(one: str) -> AsyncIterator[str]:
    yield one


@pytest.mark.control("5 a generator's call ends with it (case 46)")
@pytest.mark.parametrize(
    ("shown", "real", "ask"),
    [
        (_two, _one, lambda made: asyncio.run(made)),
        (_two_parts, _one_part, next),
        (_two_later, _one_later, lambda made: asyncio.run(made.asend(None))),
    ],
)
def test_tool_that_cannot_even_be_called_has_failed_and_holds_nothing(shown: Any, real: Any, ask: Any) -> None:
    wrongly_wrapped = functools.wraps(shown)(real)  # it shows two parameters and takes one
    made = guard_tool(wrongly_wrapped, "r.wrapped", effect="read", audience=API, lease="call")
    issuer = FakeIssuer()
    with fake_guard(issuer=issuer) as guard, opened(guard):
        with pytest.raises(TypeError) as kept:
            ask(made("a", "b"))
        assert issuer.live == {}
        assert isinstance(guard.audit, MemoryLog)
        assert "call.failed" in [record["event"] for record in guard.audit.records]
    assert "takes 1 positional argument" in str(kept.value)


@pytest.mark.control("5 a generator's call ends with it (case 46)")
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_call_whose_coroutine_is_thrown_away_without_a_loop_is_given_back(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None: ...

    begun = guard_tool(lambda: work(), "r.begun", effect="read", audience=API, lease="call")
    issuer = FakeIssuer(remote=True)
    gc.collect()  # what others left
    caplog.clear()
    with fake_guard(issuer=issuer) as guard, opened(guard):
        made = begun()
        assert len(issuer.live) == 1
        del made
        gc.collect()
        assert issuer.live == {}
    assert not caplog.records


@pytest.mark.control("5 a generator's call ends with it (case 46)")
def test_function_that_returns_a_generator_keeps_its_call_open_until_that_ends() -> None:
    @guarded("r.made", effect="read", audience=API, lease="call")
    def made() -> Any:
        return (current_credential().lease.id for _ in range(2))

    issuer = FakeIssuer()
    with fake_guard(issuer=issuer) as guard, opened(guard):
        stream = made()
        assert next(stream) == "lease-1"
        assert list(issuer.live) == ["lease-1"]
        assert list(stream) == ["lease-1"]
        assert issuer.live == {}


@pytest.mark.anyio
@pytest.mark.control("a synchronous call neither waits nor blocks a loop")
@pytest.mark.parametrize(("suspends", "why"), [(True, "cannot wait"), (False, "block the running event loop")])
async def test_plain_tool_is_refused_in_a_loop_whose_ports_would_wait(suspends: bool, why: str) -> None:
    issuer = FakeIssuer(suspends=suspends)
    issuer.remote = True  # as a broker elsewhere is
    ran: list[str] = []

    @guarded("note.read", effect="read")
    def read(note: str) -> None:
        ran.append(note)

    intent = Intent("Read notes", step("note.read", note=any_))
    async with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=intent):
        with pytest.raises(ConfigurationError, match=why):
            read("a")
    assert ran == []
