"""Binding a call: as Python would, once; and the same call again from the checked copy."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard import ConfigurationError, Credential
from agentguard.binding import Binder

if TYPE_CHECKING:
    from somewhere import Elsewhere  # type: ignore[import-not-found]  # it exists for type checkers only

hidden_from_the_model = pytest.mark.control("6 hidden parameters are no arguments of the model")
CREDENTIAL: Any = object()


class ToolRuntime:
    """Named as LangChain's."""


class InjectedToolArg:
    """Named as LangChain's."""


class RunnableConfig(dict[str, Any]):
    """Named as LangChain's."""


class CallbackManagerForToolRun:
    """Named as LangChain's."""


class InjectedState(InjectedToolArg):
    """A kind of its own."""


def through(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Bind, and call from what was bound."""
    binder = Binder(fn)
    bound = binder.bind(args, kwargs)
    again, named = binder.call_arguments(dict(bound.visible), bound.hidden, CREDENTIAL)
    return fn(*again, **named)


# as Python would ------------------------------------------------------------------------------------------

NAMES = ["a", "b", "c", "d", "e", "f"]
words = st.sampled_from([*NAMES, "x", "rest", "more"])


@st.composite
def signatures(draw: Any) -> str:
    names = iter(NAMES)
    parts, optional = [], False
    for mark in ("/", ""):
        count = draw(st.integers(0, 2))
        for _ in range(count):
            optional = optional or draw(st.booleans())
            parts.append(next(names) + ("=0" if optional else ""))
        if mark and count:
            parts.append(mark)
    rest = draw(st.sampled_from(["", "*rest", "*"]))
    only = [next(names) + draw(st.sampled_from(["", "=0"])) for _ in range(draw(st.integers(0, 2)))]
    if rest == "*rest" or (rest == "*" and only):
        parts += [rest, *only]
    if draw(st.booleans()):
        parts.append("**more")
    return ", ".join(parts)


@pytest.mark.control("4 what was checked is what runs")
@settings(max_examples=300, deadline=None)
@given(signatures(), st.lists(st.integers(), max_size=6), st.dictionaries(words, st.integers(), max_size=4))
def test_call_from_the_copy_is_pythons_own_call(signature: str, args: list[int], kwargs: dict[str, int]) -> None:
    scope: dict[str, Any] = {}
    exec(f"def fn({signature}): return dict(sorted(locals().items()))", scope)
    fn = scope["fn"]
    try:
        wanted = fn(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            through(fn, *args, **kwargs)
        return
    if kwargs.keys() & wanted.get("more", {}).keys() & set(inspect.signature(fn).parameters):
        with pytest.raises(TypeError):  # Python allows it; checked by name, the two would be one
            through(fn, *args, **kwargs)
        return
    assert through(fn, *args, **kwargs) == wanted


@pytest.mark.parametrize("signature", ["a=0, b=0, /", "a=0, b=0, /, **more"])
def test_name_of_an_argument_that_has_none_does_not_bind(signature: str) -> None:
    scope: dict[str, Any] = {}
    exec(f"def fn({signature}): ...", scope)
    with pytest.raises(TypeError):
        Binder(scope["fn"]).bind((), {"b": 0})


@settings(max_examples=150, deadline=None)
@given(signatures(), st.integers(0, 6), st.lists(st.integers(), max_size=5), st.dictionaries(words, st.integers()))
def test_credential_is_filled_in_wherever_it_stands(
    signature: str, place: int, args: list[int], kwargs: dict[str, int]
) -> None:
    parts = [part for part in signature.split(", ") if part]
    with_it = [*parts[:place], "credential: Credential = None", *parts[place:]]
    scope: dict[str, Any] = {"Credential": Credential}
    try:
        exec(f"def plain({signature}): return dict(sorted(locals().items()))", scope)
        exec(f"def fn({', '.join(with_it)}): return dict(sorted(locals().items()))", scope)
    except SyntaxError:
        return  # no place for it there
    binder = Binder(scope["fn"])
    assert "credential" not in binder.signature.parameters
    try:
        wanted = through(scope["plain"], *args, **kwargs)
    except TypeError:
        return
    assert through(scope["fn"], *args, **kwargs) == dict(sorted({**wanted, "credential": CREDENTIAL}.items()))


def test_mutable_default_is_fresh_at_every_call() -> None:
    def grow(item: int, into: list[int] = [], seen: set[int] = set()) -> tuple[list[int], set[int]]:  # noqa: B006
        into.append(item)
        seen.add(item)
        return into, seen

    binder = Binder(grow)
    for item in (1, 2):
        bound = binder.bind((item,), {})
        from agentguard.model.canonical import run_copy

        args, kwargs = binder.call_arguments(run_copy(bound.visible)[0], bound.hidden, None)
        assert grow(*args, **kwargs) == ([item], {item})
    assert "seen" not in binder.defaults  # a set has no canonical form, so a step has to mention it
    assert "seen" not in binder.bind((1,), {}).visible


@dataclass
class Options:
    limit: int = 10
    to: list[str] = field(default_factory=list)


class Shade(Enum):
    DARK = "dark"


def test_what_a_tool_does_to_its_default_is_seen_by_no_other_call() -> None:
    given = Options()

    def widen(item: str, options: Options = given, pair: tuple[list[str], int] = ([], 1)) -> tuple[Any, ...]:
        found = (options.limit, *options.to, *pair[0])
        options.limit += 90
        options.to.append(item)
        pair[0].append(item)
        return found

    binder = Binder(widen)
    for item in "abc":
        args, kwargs = binder.call_arguments(dict(binder.bind((item,), {}).visible), {}, None)
        assert widen(*args, **kwargs) == (10,)
    given.limit = 10_000  # whoever made it changes it, and it was checked as it was
    args, kwargs = binder.call_arguments({"item": "d"}, {}, None)
    assert widen(*args, **kwargs) == (10,)


def test_default_that_cannot_change_is_left_to_the_tool() -> None:
    def tool(a: str = "x", b: tuple[int, ...] = (1, 2), c: Shade = Shade.DARK, d: None = None) -> None: ...

    assert Binder(tool).call_arguments({}, {}, None) == ((), {})


def test_default_that_cannot_be_copied_is_that_of_every_call() -> None:
    view = MappingProxyType({"a": 1})

    def tool(a: Any = view) -> Any:
        return a

    assert through(tool) is view


def test_defaults_are_canonical_and_say_what_is_left_out() -> None:
    def tool(a: int, b: float = 1.0, *rest: str, c: str | None = None, d: object = object()) -> None: ...

    assert dict(Binder(tool).defaults) == {"b": 1, "rest": (), "c": None}
    assert Binder(tool).names == frozenset({"a", "b", "rest", "c", "d"})


def test_any_keyword_means_that_the_names_are_not_known() -> None:
    def tool(a: int, **more: int) -> None: ...

    assert Binder(tool).names is None


# hidden ---------------------------------------------------------------------------------------------------


def runtime(q: str, runtime: ToolRuntime) -> None: ...
def config(q: str, config: RunnableConfig) -> None: ...
def config_or_none(q: str, config: Optional[RunnableConfig] = None) -> None: ...  # noqa: UP045  # as people write it
def config_or_none_new(q: str, config: RunnableConfig | None = None) -> None: ...
def callbacks(q: str, run_manager: CallbackManagerForToolRun | None = None) -> None: ...
def injected(q: str, state: Annotated[dict[str, Any], InjectedState]) -> None: ...
def injected_instance(q: str, state: Annotated[str, InjectedToolArg()]) -> None: ...
def injected_or_none(q: str, state: Annotated[str, InjectedToolArg] | None = None) -> None: ...
def none_or_injected(q: str, state: Annotated[str | None, InjectedToolArg] = None) -> None: ...
def state_or_none(q: str, state: Annotated[str, InjectedState] | None = None) -> None: ...
def runtime_or_none(q: str, runtime: ToolRuntime | None = None) -> None: ...
def described_config(q: str, config: Annotated[RunnableConfig, "whose"]) -> None: ...
def described_config_or_none(q: str, config: Annotated[RunnableConfig | None, "whose"] = None) -> None: ...


@hidden_from_the_model
@pytest.mark.parametrize(
    "fn",
    [
        runtime, config, callbacks, injected, injected_instance, none_or_injected, state_or_none, runtime_or_none,
        described_config,
    ],
)  # fmt: skip
def test_parameter_of_a_framework_is_hidden_by_its_annotation_and_passed_through_uncopied(fn: Any) -> None:
    binder, given_ = Binder(fn), object()
    (name,) = binder.hidden
    assert binder.names == frozenset({"q"})
    assert name in binder.signature.parameters  # the framework looks for it there
    bound = binder.bind(("x",), {name: given_})
    assert (bound.visible, bound.hidden) == ({"q": "x"}, {name: given_})
    assert binder.call_arguments({"q": "y"}, bound.hidden, None)[1][name] is given_


@hidden_from_the_model
@pytest.mark.parametrize("fn", [config_or_none, config_or_none_new, injected_or_none, described_config_or_none])
def test_parameter_that_langchain_shows_a_model_for_its_union_is_an_ordinary_argument(fn: Any) -> None:
    assert Binder(fn).hidden == frozenset()


def several(q: str, configs: list[RunnableConfig]) -> None: ...
def by_name(q: str, states: dict[str, ToolRuntime]) -> None: ...
def of_tokens(q: str, tokens: list[Credential]) -> None: ...


@hidden_from_the_model
@pytest.mark.parametrize("fn", [several, by_name, of_tokens])
def test_container_of_such_values_is_an_ordinary_argument_which_the_intent_sees(fn: Any) -> None:
    assert Binder(fn).hidden == frozenset()
    assert Binder(fn).credential == ""


def test_hidden_may_be_named_and_has_to_exist() -> None:
    def tool(q: str, session: str) -> None: ...

    assert Binder(tool, frozenset({"session"})).names == frozenset({"q"})
    with pytest.raises(ConfigurationError, match="sesion"):
        Binder(tool, frozenset({"sesion"}))


def partly(q: str, elsewhere: Elsewhere, credential: Credential) -> None: ...


@hidden_from_the_model
def test_one_annotation_that_cannot_be_resolved_does_not_hide_the_others() -> None:
    binder = Binder(partly)
    assert binder.credential == "credential"
    assert binder.signature.parameters["q"].annotation is str
    assert binder.signature.parameters["elsewhere"].annotation == "Elsewhere"


@hidden_from_the_model
def test_credential_that_cannot_be_resolved_is_an_error_and_no_argument() -> None:
    scope: dict[str, Any] = {}
    exec("from __future__ import annotations\ndef tool(q: str, c: Credential): ...", scope)
    with pytest.raises(ConfigurationError, match="TYPE_CHECKING"):
        Binder(scope["tool"])


@hidden_from_the_model
@pytest.mark.parametrize(
    "fn",
    [
        lambda credential, q="": q,
        lambda q="", credential=None, *rest: q,
        lambda q="", *, credential=None, **more: q,
        lambda credential, /, q="": q,
    ],
)
def test_value_of_the_caller_for_the_credential_does_not_bind(fn: Any) -> None:
    fn.__annotations__["credential"] = Credential | None
    with pytest.raises(TypeError):
        Binder(fn).bind((), {"q": "x", "credential": "evil"})


def test_two_credentials_are_an_error() -> None:
    def tool(a: Credential, b: Credential) -> None: ...

    with pytest.raises(ConfigurationError, match="a, b"):
        Binder(tool)


# kinds of callable ----------------------------------------------------------------------------------------


def test_argument_that_a_partial_has_fixed_is_none_of_the_model() -> None:
    def tool(base: str, q: str, limit: int = 3) -> tuple[str, str, int]:
        return base, q, limit

    for fixed in (functools.partial(tool, base="x"), functools.partial(tool, "x")):
        binder = Binder(fixed)
        assert binder.names == frozenset({"q", "limit"})
        args, kwargs = binder.call_arguments(dict(binder.bind((), {"q": "y"}).visible), {}, None)
        assert fixed(*args, **kwargs) == ("x", "y", 3)
        with pytest.raises(TypeError):
            binder.bind((), {"q": "y", "base": "evil"})


def test_callable_without_a_signature_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="no signature"):
        Binder(max)


def test_self_of_a_function_is_hidden_and_of_a_bound_method_gone() -> None:
    class Desk:
        def tool(self, q: str) -> None: ...

    assert Binder(Desk.tool).hidden == {"self"}
    assert Binder(Desk().tool).hidden == frozenset()


@functools.singledispatch
def dispatched(a: Any, b: int = 2, *, c: int = 3) -> Any:
    return "any", a, b, c


@dispatched.register
def _(text: str, b: int = 2, *, c: int = 3) -> Any:
    return "text", text, b, c


def positional(fn: Any) -> Any:
    return functools.wraps(fn)(lambda *args, **kwargs: fn(*args, **kwargs))


def places_only(fn: Any) -> Any:
    return functools.wraps(fn)(lambda *args: fn(*args))


def first_by_place(fn: Any) -> Any:
    return functools.wraps(fn)(lambda first, *args, **kwargs: fn(first, *args, **kwargs))


def names_only(fn: Any) -> Any:
    return functools.wraps(fn)(lambda **kwargs: fn(**kwargs))


def both(a: Any, b: int = 2, *, c: int = 3) -> Any:
    return a, b, c


def places(a: Any, b: int = 2) -> Any:
    return a, b


def slashed(a: Any, /, b: int = 2) -> Any:
    return a, b


@pytest.mark.control("4 what was checked is what runs")
@pytest.mark.parametrize(
    ("fn", "args", "kwargs"),
    [
        (dispatched, (1,), {}), (dispatched, ("x", 5), {"c": 6}), (dispatched, ("x",), {"c": 6}),
        (positional(both), (1, 5), {"c": 6}), (positional(both), (1,), {"c": 6}), (places_only(places), (1,), {}),
        (places_only(places), (1, 5), {}), (first_by_place(both), (1,), {"c": 6}), (places_only(slashed), (1, 5), {}),
        (first_by_place(both), (1,), {"b": 5}), (names_only(both), (), {"a": 1, "c": 6}),
    ],
)  # fmt: skip
def test_callable_around_another_is_called_as_it_takes_its_arguments(fn: Any, args: Any, kwargs: Any) -> None:
    assert through(fn, *args, **kwargs) == fn(*args, **kwargs)


def test_self_of_a_method_is_hidden_whatever_it_is_wrapped_in() -> None:
    def logged(fn: Any) -> Any:
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            return fn(self, *args, **kwargs)

        return functools.wraps(fn)(wrapper)

    def bare(fn: Any) -> Any:
        def wrapper(self, *args, **kwargs):
            return fn(self, *args, **kwargs)

        return wrapper

    class Desk:
        @functools.lru_cache  # noqa: B019  # of a test
        def kept(self, q: str) -> str:
            return q

        @logged
        def noted(self, q: str) -> str:
            return q

        @bare
        def plain(self, q: str) -> str:
            return q

    for method in (Desk.kept, Desk.noted, Desk.plain):
        assert Binder(method).hidden == {"self"}


def enrol(cls: str, pupil: str) -> None:
    """Put a pupil into a class."""


@pytest.mark.control("6 hidden parameters are no arguments of the model")
def test_class_that_a_model_names_is_an_argument() -> None:
    def local(cls: str, pupil: str) -> None: ...

    def named(self: str, pupil: str) -> None: ...

    assert Binder(enrol).hidden == Binder(local).hidden == Binder(named).hidden == frozenset()
    assert Binder(enrol).names == frozenset({"cls", "pupil"})
