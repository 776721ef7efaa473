"""Earlier calls of a task, as an author gives them to `explain`: checked, counted and kept as a guard would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from agentguard.errors import ConfigurationError, NotCanonical
from agentguard.intent.check import CompiledIntent
from agentguard.intent.data_file import read_json
from agentguard.intent.document import nearest
from agentguard.intent.provenance import sources_of
from agentguard.intent.strict_file import read_strict_file
from agentguard.intent.truth import Facts
from agentguard.intent.verdict import Admitted, Option
from agentguard.model.call import ToolCall, ToolSpec
from agentguard.model.canonical import canonical, digest, is_nfc
from agentguard.results import Store, View

_SCOPE: Final = "intent"
_TASK: Final = ("task",)
_FORM: Final = "[{tool: account.read, args: {id: a1}, result: {iban: DE02...}}]"


def call_of(tool: str, given: Mapping[str, Any], specs: Mapping[str, ToolSpec] | None) -> ToolCall:
    """Bind a call as a guard would.

    Raises:
        ConfigurationError: the tool or an argument is not known, or a value has no canonical form.
    """
    if specs is not None and tool not in specs:
        known = nearest(tool, specs) or f"; the tools file declares {', '.join(sorted(specs))}"
        raise ConfigurationError(f"no tool is called {tool!r}{known}")
    spec = (specs or {}).get(tool) or ToolSpec(name=tool)
    for name in given:
        if name in spec.hidden or name == spec.credential:
            raise ConfigurationError(f"{name} of {tool} is filled by the framework or the guard; leave it out")
        if spec.parameters is not None and name not in spec.parameters:
            takes = f"it takes {', '.join(sorted(spec.parameters)) or 'none'}"
            raise ConfigurationError(f"{tool} has no argument {name!r}{nearest(name, spec.parameters)}; {takes}")
    try:
        arguments = {**spec.defaults, **{name: canonical(value, name) for name, value in given.items()}}
    except NotCanonical as error:
        raise ConfigurationError(f"{tool} cannot be called so: {error}") from None
    return ToolCall(id=tool, spec=spec, arguments=arguments, given=frozenset(given), digest=digest(arguments))


@dataclass(slots=True)
class Past:
    """What a task has done so far."""

    compiled: CompiledIntent
    heard: tuple[str, ...] = ()
    seen: set[str] = field(default_factory=set)
    happened: set[str] = field(default_factory=set)
    used: dict[str, Decimal] = field(default_factory=dict)
    bound: dict[str, str] = field(default_factory=dict)
    store: Store = field(default_factory=Store)
    known: bool = False

    def __post_init__(self) -> None:
        self.store.need(sources_of(self.compiled.intent), _SCOPE)
        for words in self.heard:
            if not is_nfc(words):
                raise ConfigurationError("--heard takes text in Unicode NFC")

    @property
    def facts(self) -> Facts:
        """What a check may know; results are None where nobody gave any."""
        results = View(self.store, _TASK, _SCOPE) if self.known else None
        return Facts(frozenset(self.seen), frozenset(self.happened), results, self.heard, dict(self.bound))

    def option(self, verdict: Admitted) -> Option | None:
        """Return the first option that has budget left."""
        return next((option for option in verdict.options if self._fits(option)), None)

    def _fits(self, option: Option) -> bool:
        return all(
            self.used.get(charge.key, Decimal(0)) + Decimal(charge.amount) <= Decimal(charge.limit)
            for charge in option.charges
            if not charge.value
        )

    def add(self, calls: Iterable[Mapping[str, Any]], specs: Mapping[str, ToolSpec] | None) -> list[str]:
        """Add earlier calls in their order; return a sentence for each that the intent would not have admitted."""
        self.known, refused = True, []
        for index, entry in enumerate(calls):
            call = call_of(entry["tool"], entry.get("args", {}), specs)
            verdict = self.compiled.check(call, self.facts)
            option = self.option(verdict) if isinstance(verdict, Admitted) else None
            if option is None:
                why = "its budget is used up" if isinstance(verdict, Admitted) else verdict.miss.text
                refused.append(f"earlier call {index + 1} ({call.spec.name}) is not admitted and does not count: {why}")
                continue
            self._consume(call, option, entry.get("result"))
        return refused

    def _consume(self, call: ToolCall, option: Option, result: Any) -> None:
        for charge in option.charges:
            if charge.value:
                self.bound.setdefault(charge.key.removeprefix("bind."), charge.value)
            self.used[charge.key] = self.used.get(charge.key, Decimal(0)) + Decimal(charge.amount)
        self.happened.add(option.step)
        self.seen |= call.spec.data
        self.store.record(call, result, _TASK, ((_SCOPE, option.step),))


def read_calls(file: Path) -> list[Mapping[str, Any]]:
    """Read earlier calls from a YAML or JSON file.

    Raises:
        ConfigurationError: it cannot be read, or is no list of calls.
    """
    tree = read_json(file) if file.suffix == ".json" else read_strict_file(file).tree
    if not isinstance(tree, list) or not all(map(_is_call, tree)):
        raise ConfigurationError(f"{file}: earlier calls are a list: {_FORM}")
    return tree


def _is_call(entry: Any) -> bool:
    if not isinstance(entry, dict) or set(entry) - {"tool", "args", "result"}:
        return False
    return isinstance(entry.get("tool"), str) and isinstance(entry.get("args", {}), dict)
