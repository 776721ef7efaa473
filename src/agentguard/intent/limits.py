"""Limits of a whole intent, the fallback that asks, and its examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import force_setattr

from agentguard.errors import ConfigurationError
from agentguard.intent.literal import FrozenMapping, count, duration_text, is_list, is_text, literal, thawed
from agentguard.model.call import TOOL_NAME
from agentguard.model.duration import seconds

_RATE: Final = re.compile(r"([1-9][0-9]{0,8})/(s|m|h|d)")


class Limit(Struct, frozen=True):
    """The most of something: in all, or in a sliding window of seconds."""

    n: int
    window: float = 0.0

    def __post_init__(self) -> None:
        count(self.n, "a limit")

    def form(self) -> Any:
        """Return the limit as it stands in a file."""
        return {"n": self.n, "per": duration_text(self.window)} if self.window else self.n


class Limits(Struct, frozen=True):
    """What holds for all calls of an intent together; whatever is None is not limited.

    `calls` and `rate` are charges on every option of every step, so the budgets enforce them: a call that never ran is
    given back. `denials` and `asks` are the runtime's: it counts what the task (and every task below it) was denied and
    asked. At `denials` denials it suspends the task, as an agent that probes is stopped; when `asks` questions were
    asked, the next call that needs a person is denied with `budget_exhausted`, and nobody is asked. In a ceiling each
    of them counts over all tasks of the agent, in its window.

    Args:
        calls: calls that ran.
        denials: denied calls.
        asks: questions to a person.
        rate: calls in a sliding window.
    """

    calls: Limit | None = None
    denials: Limit | None = None
    asks: Limit | None = None
    rate: Limit | None = None

    def __post_init__(self) -> None:
        for name in ("calls", "denials", "asks"):
            value = getattr(self, name)
            force_setattr(self, name, None if value is None else limit_of(value, name))
        if self.rate is not None:
            force_setattr(self, "rate", rate_of(self.rate))

    def form(self) -> dict[str, Any]:
        """Return the limits as they stand in a file."""
        found = {name: getattr(self, name) for name in ("calls", "denials", "asks")}
        form = {name: limit.form() for name, limit in found.items() if limit is not None}
        return form | ({"rate": f"{self.rate.n}/{duration_text(self.rate.window)}"} if self.rate else {})

    def unbounded(self) -> Iterator[str]:
        """Yield the limits without a window: a ceiling cannot have them."""
        for name in ("calls", "denials", "asks"):
            limit = getattr(self, name)
            if limit is not None and not limit.window:
                yield name


def limit_of(value: object, name: str) -> Limit:
    """Return a limit from a number, or from `{n: 100, per: 1h}`."""
    if isinstance(value, Limit):
        return value
    if isinstance(value, Mapping):
        if set(value) != {"n", "per"}:
            raise ConfigurationError(f"{name!r} is a number, or {{n: 100, per: 1h}}")
        return Limit(count(value["n"], f"{name!r}"), seconds(value["per"]))
    return Limit(count(value, f"{name!r}"))


def rate_of(value: object) -> Limit:
    """Return a rate from text such as 10/m, or from `{n: 10, per: 90s}`."""
    if isinstance(value, Limit) and value.window:
        return value
    if isinstance(value, str) and (found := _RATE.fullmatch(value)):
        return Limit(int(found[1]), seconds(f"1{found[2]}"))
    if isinstance(value, str) and value.count("/") == 1:
        n, _, window = value.partition("/")
        if n.isascii() and n.isdigit():
            return Limit(int(n), seconds(window))
    raise ConfigurationError("'rate' is so many calls in a time, such as 10/m or 100/1h")


def limits_of(value: object) -> Limits | None:
    """Return limits from their Python form: Limits, or a mapping with the keys of the file form."""
    if value is None or isinstance(value, Limits):
        return value
    known = ("calls", "denials", "asks", "rate")
    if not isinstance(value, Mapping) or not value or set(value) - set(known):
        raise ConfigurationError(f"limits are a mapping with some of {', '.join(known)}")
    if None in value.values():
        raise ConfigurationError("an empty limit says nothing; leave it out")
    return Limits(**value)


class Otherwise(Struct, frozen=True):
    """What no step names and no read admits: a person is asked. It never covers a destructive tool.

    Args:
        tools: patterns over tool names.
        calls: how often in all; None for as often as people say yes.
    """

    tools: tuple[str, ...]
    calls: Limit | None = None

    def __post_init__(self) -> None:
        from agentguard.intent.step import pattern_problem

        if not is_list(self.tools) or not self.tools:
            raise ConfigurationError("'tools' of otherwise is a list of patterns: tools: [\"crm.*\"]")
        for pattern in self.tools:
            if problem := pattern_problem(pattern):
                raise ConfigurationError(problem)
        force_setattr(self, "tools", tuple(self.tools))
        force_setattr(self, "calls", None if self.calls is None else limit_of(self.calls, "calls"))

    def form(self) -> dict[str, Any]:
        """Return it as it stands in a file."""
        return {"then": "ask", "tools": list(self.tools)} | ({"calls": self.calls.form()} if self.calls else {})


def otherwise_of(value: object) -> Otherwise | None:
    """Return the fallback from its Python form: Otherwise, or a mapping with the keys of the file form."""
    if value is None or isinstance(value, Otherwise):
        return value
    if not isinstance(value, Mapping) or "tools" not in value or set(value) - {"then", "tools", "calls"}:
        raise ConfigurationError('otherwise is a mapping: {then: ask, tools: ["crm.*"], calls: 5}')
    if value.get("then", "ask") != "ask":
        raise ConfigurationError("'then' of otherwise is ask: what no step names is never simply permitted")
    return Otherwise(value["tools"], value.get("calls"))


class Example(Struct, frozen=True):
    """A call that an intent is said to permit, or to deny; its values are canonical."""

    tool: str
    args: Mapping[str, Any] = FrozenMapping()

    def __post_init__(self) -> None:
        if not is_text(self.tool) or not TOOL_NAME.fullmatch(self.tool):
            raise ConfigurationError(f"{self.tool!r} is no tool name; an example is {{tool: refund.create, args: ...}}")
        if not isinstance(self.args, Mapping):
            raise ConfigurationError("'args' of an example is a mapping of plain values")
        force_setattr(self, "args", FrozenMapping({name: literal(value) for name, value in self.args.items()}))

    def form(self) -> dict[str, Any]:
        """Return the example as it stands in a file."""
        return {"tool": self.tool} | (
            {"args": {k: _plain(thawed(v)) for k, v in self.args.items()}} if self.args else {}
        )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


class Examples(Struct, frozen=True):
    """Calls that the intent permits (or asks for), and calls that it denies; lint runs them."""

    permit: tuple[Example, ...] = ()
    deny: tuple[Example, ...] = ()

    def form(self) -> dict[str, Any]:
        """Return the examples as they stand in a file."""
        both = (("permit", self.permit), ("deny", self.deny))
        return {word: [example.form() for example in found] for word, found in both if found}


def examples_of(value: object) -> Examples | None:
    """Return examples from their Python form: Examples, or a mapping with the keys of the file form."""
    if value is None or isinstance(value, Examples):
        return value
    if not isinstance(value, Mapping) or not value or set(value) - {"permit", "deny"}:
        raise ConfigurationError("examples are a mapping: {permit: [{tool: refund.create, args: {...}}], deny: [...]}")
    return Examples(**{word: tuple(_examples(word, found)) for word, found in value.items()})


def _examples(word: str, found: object) -> Iterator[Example]:
    if isinstance(found, str | Mapping) or not isinstance(found, Iterable) or not (entries := list(found)):
        raise ConfigurationError(f"{word!r} of examples is a list with at least one call")
    for entry in entries:
        if isinstance(entry, Example):
            yield entry
        elif isinstance(entry, Mapping) and "tool" in entry and not set(entry) - {"tool", "args"}:
            yield Example(entry["tool"], entry.get("args", {}))
        else:
            raise ConfigurationError("an example is {tool: refund.create, args: {account: acme}}")
