"""Earlier calls of a task, as an author gives them to `explain`: checked, counted and kept as a guard would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from agentguard.errors import ConfigurationError, NotCanonical
from agentguard.intent.binds import bind_key, binds_of
from agentguard.intent.check import CompiledIntent
from agentguard.intent.data_file import read_json
from agentguard.intent.document import nearest
from agentguard.intent.sources import sources_of
from agentguard.intent.strict_file import read_strict_file
from agentguard.intent.truth import Facts
from agentguard.intent.verdict import Admitted, Option, Refused
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

    def option(self, verdict: Admitted, call: ToolCall) -> Option | None:
        """Return the first option that has budget left, and that binds no name to two values."""
        return next((one for one in verdict.options if self._fits(one) and not self._clash(one, call)), None)

    def clash(self, verdict: Admitted, call: ToolCall) -> str:
        """Return the name that a call would bind to two values, if that is why no option is left."""
        last = [self._clash(option, call) for option in verdict.options if self._fits(option)]
        return last[-1] if last else ""

    def _fits(self, option: Option) -> bool:
        return all(
            self.used.get(charge.key, Decimal(0)) + Decimal(charge.amount) <= Decimal(charge.limit)
            for charge in option.charges
        )

    def _binds(self, option: Option, call: ToolCall) -> list[tuple[str, str]]:
        found = binds_of(self.compiled.intent).charges(option.step, call)
        return [(charge.key.removeprefix(bind_key("")), charge.value) for charge in found]

    def _clash(self, option: Option, call: ToolCall) -> str:
        bound = dict(self.bound)
        return next((name for name, value in self._binds(option, call) if bound.setdefault(name, value) != value), "")

    def add(self, calls: Iterable[Mapping[str, Any]], specs: Mapping[str, ToolSpec] | None) -> list[str]:
        """Add earlier calls in their order; return a sentence for each that the intent would not have admitted."""
        self.known, refused = True, []
        for index, entry in enumerate(calls):
            call = call_of(entry["tool"], entry.get("args", {}), specs)
            verdict = self.compiled.check(call, self.facts)
            option = self.option(verdict, call) if isinstance(verdict, Admitted) else None
            if option is None:
                why = verdict.miss.text if isinstance(verdict, Refused) else self._why_none(verdict, call)
                refused.append(f"earlier call {index + 1} ({call.spec.name}) is not admitted and does not count: {why}")
                continue
            self._consume(call, option, entry.get("result"))
        return refused

    def _why_none(self, verdict: Admitted, call: ToolCall) -> str:
        name = self.clash(verdict, call)
        return f"it binds {name} to two values" if name else "its budget is used up"

    def _consume(self, call: ToolCall, option: Option, result: Any) -> None:
        self.bound |= self._binds(option, call)
        for charge in option.charges:
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
