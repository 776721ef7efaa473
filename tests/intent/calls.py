"""Calls and checks, short enough for a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from agentguard.errors import ConfigurationError
from agentguard.intent import Admitted, Facts, Intent, Refused, compile_intent
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.canonical import canonical, digest

NOTHING_SEEN = Facts()


def spec_of(name: str = "pay", effect: str = "write", **fields: Any) -> ToolSpec:
    """A tool; `defaults` are given as plain values."""
    defaults = {key: canonical(value) for key, value in fields.pop("defaults", {}).items()}
    return ToolSpec(name=name, effect=Effect(effect), defaults=defaults, **fields)


def call_of(spec: ToolSpec | str = "pay", /, **given: Any) -> ToolCall:
    """A bound call: what was left out stands with its default."""
    spec = spec_of(spec) if isinstance(spec, str) else spec
    arguments = dict(spec.defaults) | {key: canonical(value) for key, value in given.items()}
    return ToolCall(id="1", spec=spec, arguments=arguments, given=frozenset(given), digest=digest(arguments))


def check(intent: Intent, call: ToolCall, seen: Iterable[str] = ()) -> Admitted | Refused:
    """Check a call against an intent."""
    return compile_intent(intent).check(call, Facts(frozenset(seen)))


def admitted(intent: Intent, call: ToolCall, seen: Iterable[str] = ()) -> bool:
    """Whether the intent admits the call."""
    return isinstance(check(intent, call, seen), Admitted)


def options(intent: Intent, call: ToolCall) -> list[tuple[str, str]]:
    """Step and outcome of every option."""
    verdict = check(intent, call)
    return [(option.step, str(option.outcome)) for option in verdict.options] if isinstance(verdict, Admitted) else []


def charges(intent: Intent, call: ToolCall, **how: bool) -> Mapping[str, tuple[str, str]]:
    """Limit and amount of every charge of the first option, by key."""
    verdict = compile_intent(intent, **how).check(call, NOTHING_SEEN)
    assert isinstance(verdict, Admitted), verdict
    return {charge.key: (charge.limit, charge.amount) for charge in verdict.options[0].charges}


def miss(intent: Intent, call: ToolCall) -> Any:
    """The nearest miss of a refusal."""
    verdict = check(intent, call)
    assert isinstance(verdict, Refused), verdict
    return verdict.miss


def problems(body: str, **params: object) -> list[str]:
    """The mistakes of a file, without its name; a body without a head gets one."""
    head = "" if body.startswith("version") else "version: 1\npurpose: p\n"
    with pytest.raises(ConfigurationError) as caught:
        Intent.from_yaml(head + body, file="f", **params)
    return [line.removeprefix("f:") for line in caught.value.problems]
