"""Every way in which a value, or an exception with all it drags along, can come to be shown."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from types import CodeType, TracebackType
from typing import Any, Final, TypeAlias

Shown: TypeAlias = "tuple[str, str | bytes]"
_MOST: Final = 200  # exceptions of one chain, and members of one collection, that are looked at
_DEPTH: Final = 6
_METHODS: Final = ("model_dump_json", "model_dump", "to_json", "_asdict")
_PLAIN: Final = (int, float, complex, type(None))


def ways(value: object, depth: int = _DEPTH) -> Iterator[Shown]:
    """Yield the texts that a value can become, each with the way it did; what raises shows only its error.

    Beside `repr`, `str` and `format` those are the ways that pass by a `repr` that hides: `vars`, `asdict`, pickle,
    copies, JSON and the dumps of pydantic and LangChain.
    """
    if isinstance(value, str | bytes):
        yield "text", value
    elif isinstance(value, bytearray | memoryview):
        yield "bytes", bytes(value)
    elif not isinstance(value, _PLAIN):
        for way, make in _ways_of(value):
            yield from _made(way, make)
        if depth:
            yield from _inside(value, depth - 1)


def _ways_of(value: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "repr", lambda: repr(value)
    yield "str", lambda: str(value)
    yield "format", lambda: f"{value}"
    yield "vars", lambda: repr(vars(value))
    yield "slots", lambda: repr([getattr(value, name, None) for name in _slots_of(value)])
    yield "pickle", lambda: pickle.dumps(value)
    yield "copy", lambda: repr(vars(copy.copy(value)))
    yield "json", lambda: json.dumps(value, default=vars)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield "asdict", lambda: repr(dataclasses.asdict(value))
    for name in _METHODS:
        if callable(method := getattr(value, name, None)):
            yield name, lambda method=method: _text_of(method())  # type: ignore[misc]  # mypy infers no lambda's default
    if (langchain := sys.modules.get("langchain_core.load")) is not None:
        yield "langchain dumps", lambda: langchain.dumps(value)


def _text_of(made: object) -> object:
    return made if isinstance(made, str | bytes) else repr(made)


def _slots_of(value: object) -> list[str]:
    named = (getattr(kind, "__slots__", ()) for kind in type(value).__mro__)
    return [name for names in named for name in ((names,) if isinstance(names, str) else names)]


def _made(way: str, make: Callable[[], object]) -> Iterator[Shown]:
    try:
        text = make()
    except Exception as error:  # a refusal shows nothing but itself
        text = f"{error} {error.args!r}"
    if isinstance(text, str | bytes):
        yield way, text


def _inside(value: object, depth: int) -> Iterator[Shown]:
    """The members of a collection, and its texts put together: a secret can be split over two of them."""
    members: list[object] = []
    if isinstance(value, Mapping):
        members = [*value.keys(), *value.values()]
    elif isinstance(value, Collection):
        members = list(value)
    texts = [member for member in members if isinstance(member, str)]
    if len(texts) > 1:
        yield "put together", "".join(texts)
    for member in members[:_MOST]:
        if not isinstance(member, str):
            yield from ways(member, depth)


def errors_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, its causes, its contexts (suppressed ones too) and the members of groups, each once."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST:
        link = waiting.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [link.__cause__, link.__context__]
        waiting += link.exceptions if isinstance(link, BaseExceptionGroup) else ()


def shown_error(error: BaseException, mine: Collection[CodeType] = ()) -> Iterator[Shown]:
    """Yield what can be shown of an exception: its text, what it holds, and the locals of its traceback's frames.

    Args:
        error: the exception.
        mine: code whose frames may hold a canary, such as the test's own.
    """
    for link in errors_of(error):
        name = type(link).__name__
        for way, text in ways(link, depth=1):
            yield f"{name} by {way}", text
        for way, text in ways([link.args, getattr(link, "__notes__", [])]):
            yield f"{name} with its arguments by {way}", text
        yield f"{name} as a traceback", "".join(traceback.format_exception_only(link))
        for where, text in _locals_of(link.__traceback__, mine):
            yield f"{name} with {where}", text


def _locals_of(trace: TracebackType | None, mine: Collection[CodeType]) -> Iterator[Shown]:
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        if frame.f_code in mine:
            continue
        for name, value in list(frame.f_locals.items()):
            where = f"the local {name} of {frame.f_code.co_qualname}"
            for _, text in _made("repr", lambda value=value: repr(value)):  # type: ignore[misc]  # as above
                yield where, text
