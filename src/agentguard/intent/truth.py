"""What a constraint says about a value: it holds, it fails, or it cannot tell (Kleene's strong three-valued logic)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import Struct

from agentguard.intent.literal import FrozenMapping
from agentguard.model.call import ToolCall
from agentguard.model.canonical import same

if TYPE_CHECKING:
    from agentguard.intent.earlier import Results


class Truth(Enum):
    """The three answers of a constraint; only HOLD ever admits anything."""

    HOLD = "hold"
    FAIL = "fail"
    CANNOT_TELL = "cannot tell"


HOLD: Final = Truth.HOLD
FAIL: Final = Truth.FAIL
CANNOT_TELL: Final = Truth.CANNOT_TELL


class _Missing(Enum):
    MISSING = "missing"


MISSING: Final = _Missing.MISSING


class Facts(Struct, frozen=True):
    """What a check may know beside the call.

    Args:
        seen: classes of data that the task tree has read so far.
        happened: ids of the steps of this level that were consumed: what `after` waits for.
        results: what earlier calls returned, for `from`; None where nothing is known of them.
        heard: the subject's own words, for `said`; in NFC.
        bound: digests of the values that names are bound to at this level, for `bind`.
    """

    seen: frozenset[str] = frozenset()
    happened: frozenset[str] = frozenset()
    results: Results | None = None
    heard: tuple[str, ...] = ()
    bound: Mapping[str, str] = FrozenMapping()


# A test gets the argument's canonical value (or MISSING), the call and the facts. It is pure.
Test: TypeAlias = Callable[[Any, ToolCall, Facts], Truth]


def odd(value: object) -> Truth:
    """Judge a value of another type: one that is missing fails, any other cannot be told."""
    return FAIL if value is MISSING else CANNOT_TELL


def unset(argument: str, value: object, call: ToolCall) -> bool:
    """Tell whether an argument is absent or equals its default; null equals empty where the ToolSpec says so."""
    if value is MISSING:
        return True
    default: Any = call.spec.defaults.get(argument, MISSING)
    if default is MISSING:
        return False
    if same(value, default):  # type: ignore[arg-type]  # a canonical value, as it is not MISSING
        return True
    return argument in call.spec.null_is_empty and is_empty(value) and is_empty(default)


def is_empty(value: object) -> bool:
    """Tell whether a value is null or an empty collection."""
    return value is None or value == () or value == {}


def value_of(argument: str, call: ToolCall) -> Any:
    """Return an argument's value, its default, or MISSING."""
    value = call.arguments.get(argument, MISSING)
    return call.spec.defaults.get(argument, MISSING) if value is MISSING else value


def every(tests: Sequence[Test]) -> Test:
    """All hold; one that fails decides, whatever the others cannot tell: the order of tests never matters."""
    tests = tuple(tests)
    if len(tests) == 1:
        return tests[0]

    def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
        truth = HOLD
        for test in tests:
            verdict = test(value, call, facts)
            if verdict is FAIL:
                return FAIL
            if verdict is CANNOT_TELL:
                truth = CANNOT_TELL
        return truth

    return judge


def some(tests: Sequence[Test]) -> Test:
    """One that holds is enough; else one that cannot tell makes the whole cannot tell."""
    tests = tuple(tests)

    def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
        truth = FAIL
        for test in tests:
            verdict = test(value, call, facts)
            if verdict is HOLD:
                return HOLD
            if verdict is CANNOT_TELL:
                truth = CANNOT_TELL
        return truth

    return judge


def of_any_element(test: Test) -> Test:
    """Judge a list by its elements, at any depth: it holds if it holds for one of them (for `forbid`)."""

    def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
        if type(value) is not tuple:
            return test(value, call, facts)
        truth = FAIL
        for item in value:
            verdict = judge(item, call, facts)
            if verdict is HOLD:
                return HOLD
            if verdict is CANNOT_TELL:
                truth = CANNOT_TELL
        return truth

    return judge
