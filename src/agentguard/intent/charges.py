"""What a step charges for a call; its counters are made once, where the call does not change them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, TypeAlias

from agentguard.intent.literal import comparable, quoted
from agentguard.intent.step import Step, Times
from agentguard.intent.truth import MISSING, value_of
from agentguard.intent.verdict import Admitted, Option
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.canonical import digest, number_text
from agentguard.model.decision import Miss
from agentguard.ports import Charge

# What a step that holds answers: its option with its charges; or why they cannot be counted, which denies the call.
Admits: TypeAlias = Callable[[ToolCall], Admitted | Miss]

_MAX_SHOWN: Final = 64


def admits_of(step: Step, *, ceiling: bool) -> Admits:
    """Return what makes a step's option; it is prebuilt unless the step counts per argument or sums one."""
    times = step.budget
    once = _admitted(step, (Charge(f"{step.id}#times", "1"),))
    unlimited = _admitted(step, ())
    if step.totals or (times is not None and times.per):
        return _computed(step, once_by_default=not ceiling and times is None)
    if times is not None:
        fixed = _admitted(step, (Charge(f"{step.id}#times", str(times.n), per=times.window),))
        return lambda call: fixed
    return (lambda call: unlimited) if ceiling else (lambda call: once if acts(call.spec) else unlimited)


def _admitted(step: Step, charges: tuple[Charge, ...]) -> Admitted:
    return Admitted((Option(step.id, step.outcome, charges, step.tries),))


def acts(spec: ToolSpec) -> bool:
    """Tell whether a step without `times` may be used once only: writes, destructive tools and egress."""
    return spec.effect is not Effect.READ or "egress" in spec.tags


def _computed(step: Step, *, once_by_default: bool) -> Admits:
    times, totals = step.budget, tuple(step.totals.items())

    def compute(call: ToolCall) -> Admitted | Miss:
        charges = [Charge(f"{step.id}#times", "1")] if once_by_default and acts(call.spec) else []
        if times is not None:
            key = _per(times, call)
            if key is None:
                return Miss(
                    step.id, times.per[0], "times", f"{', '.join(times.per)} cannot be compared, so not counted"
                )
            charges.append(Charge(f"{step.id}#times{key}", str(times.n), per=times.window))
        for name, total in totals:
            value = value_of(name, call)
            # INVARIANT: nothing but a number of at least 0 is added; a negative one would give budget back.
            if type(value) is not Decimal or value < 0:
                return Miss(step.id, name, "total", f"{name} is summed, so it must be a number of at least 0")
            charges.append(
                Charge(f"{step.id}#total.{name}", number_text(total.limit), number_text(value), per=total.window)
            )
        return _admitted(step, tuple(charges))

    return compute


def _per(times: Times, call: ToolCall) -> str | None:
    """`[account="acme"]`: which of the counters; None where a value cannot be compared."""
    if not times.per:
        return ""
    shown = []
    for name in times.per:
        value = value_of(name, call)
        if value is not MISSING and not comparable(value):
            return None
        shown.append(f"{name}={_shown(value, hidden=name in call.spec.secret)}")
    return f"[{','.join(shown)}]"


def _shown(value: Any, *, hidden: bool) -> str:
    """A value in a counter's key: injective, and short; quotes keep text apart from all else."""
    if value is MISSING:
        return "absent"
    if isinstance(value, str) and len(value) <= _MAX_SHOWN and not hidden:
        return quoted(value)
    if (value is None or isinstance(value, bool | Decimal)) and not hidden:
        return number_text(value) if isinstance(value, Decimal) else str(value).lower()
    return f"sha256:{digest(value)}"
