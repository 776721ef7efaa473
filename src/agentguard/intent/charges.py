"""What a step charges for a call; its counters are made once, where the call does not change them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeAlias

from agentguard.intent.constraint import Constraint
from agentguard.intent.limits import Limits
from agentguard.intent.literal import FrozenMapping, comparable, quoted
from agentguard.intent.references import SameAs
from agentguard.intent.step import Step
from agentguard.intent.truth import MISSING, is_empty, value_of
from agentguard.intent.verdict import Admitted, Option
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.canonical import digest, number_text
from agentguard.model.decision import Miss
from agentguard.ports import Charge

# What a step that holds answers: its option with its charges; or why they cannot be counted, which denies the call.
Admits: TypeAlias = Callable[[ToolCall], Admitted | Miss]
Spelling: TypeAlias = Callable[[str], str]
Spellings: TypeAlias = Mapping[str, Sequence[Spelling]]

_MAX_SHOWN: Final = 64
_PLAIN: Final[Spellings] = FrozenMapping()


def admits_of(step: Step, *, ceiling: bool, limits: tuple[Charge, ...] = (), spelled: Spellings = _PLAIN) -> Admits:
    """Return what makes a step's option; it is prebuilt unless the step counts per argument or sums one.

    Args:
        step: the step.
        ceiling: it stands in a ceiling, where no step is used once by default.
        limits: what every call of the intent charges.
        spelled: for each argument, what writes its texts in the one way in which they are counted.
    """
    times = step.uses
    if step.totals or step.unrepeated or (times is not None and times.per):
        return _computed(step, once_by_default=not ceiling and times is None, limits=limits, spelled=spelled)
    if times is not None:
        charge = Charge(f"{counter_of(step)}#times", str(times.n), per=times.window)
        always = _admitted(step, (charge, *limits), fixed=True)
        return lambda call: always
    once = _admitted(step, (Charge(f"{step.id}#times", "1"), *limits), fixed=True)
    unlimited = _admitted(step, limits, fixed=True)
    return (lambda call: unlimited) if ceiling else (lambda call: once if acts(call.spec) else unlimited)


def counter_of(step: Step) -> str:
    """Return what stands before `#` in a counter's key: the step's id, or the budget it shares."""
    return f"budget:{step.shared}" if step.shared else step.id


def spellings(steps: Iterable[Step], everywhere: Mapping[str, Constraint]) -> Mapping[str, Spellings]:
    """Return, by counter, how the values of its arguments are written once; most have one spelling only."""
    found: dict[str, dict[str, tuple[Spelling, ...]]] = {}
    for step in steps:
        own = found.setdefault(counter_of(step), {})
        said = [*everywhere.items(), *step.args.items()]
        for name in dict(said):
            alike = _alike(name, said)
            spelled = [one for other, constraint in said if other in alike for one in constraint.spellings()]
            # What ignores case comes last: a date, or a path, in small letters is none any more.
            own[name] = tuple(sorted((*own.get(name, ()), *spelled), key=lambda spelling: spelling("A") != "A"))
    return found


def _alike(name: str, said: Sequence[tuple[str, Constraint]]) -> set[str]:
    """The arguments that one has to equal by `same_as`, over any number of them, and itself."""
    found, new = {name}, {name}
    while new:
        items = [item for other, constraint in said if other in new for item in constraint.walk()]
        new = {item.other for item in items if isinstance(item, SameAs)} - found
        found |= new
    return found


def limit_charges(limits: Limits) -> tuple[Charge, ...]:
    """Return what every call of an intent charges: `calls` and `rate`."""
    found = (("calls", limits.calls), ("rate", limits.rate))
    return tuple(Charge(f"limits#{name}", str(limit.n), per=limit.window) for name, limit in found if limit)


def _admitted(step: Step, charges: tuple[Charge, ...], *, fixed: bool = False) -> Admitted:
    return Admitted((Option(step.id, step.outcome, charges, step.tries, step.ends_task, step.by),), fixed)


def acts(spec: ToolSpec) -> bool:
    """Tell whether a step without `times` may be used once only: writes, destructive tools and egress."""
    return spec.effect is not Effect.READ or "egress" in spec.tags


def _computed(step: Step, *, once_by_default: bool, limits: tuple[Charge, ...], spelled: Spellings) -> Admits:
    times, totals, counter = step.uses, tuple(step.totals.items()), counter_of(step)
    counted: tuple[tuple[str, tuple[str, ...], str, float], ...] = ()
    counted += (("times", times.per, str(times.n), times.window),) if times is not None else ()
    # In a shared budget it is one combination, in whatever order a step names its arguments.
    counted += (("distinct", tuple(sorted(step.unrepeated)), "1", 0.0),) if step.unrepeated else ()

    def compute(call: ToolCall) -> Admitted | Miss:
        charges = [Charge(f"{step.id}#times", "1")] if once_by_default and acts(call.spec) else []
        for word, names, limit, window in counted:
            key = _per(names, call, spelled)
            if key is None:
                return Miss(step.id, names[0], word, f"{', '.join(names)} cannot be compared, so not counted")
            charges.append(Charge(f"{counter}#{word}{key}", limit, per=window))
        for name, total in totals:
            value = value_of(name, call)
            # INVARIANT: nothing but a number of at least 0 is added; a negative one would give budget back.
            if type(value) is not Decimal or value < 0:
                return Miss(step.id, name, "total", f"{name} is summed, so it must be a number of at least 0")
            charges.append(
                Charge(f"{counter}#total.{name}", number_text(total.limit), number_text(value), per=total.window)
            )
        return _admitted(step, (*charges, *limits))

    return compute


def _per(names: tuple[str, ...], call: ToolCall, spelled: Spellings) -> str | None:
    """`[account="acme"]`: which of the counters; None where a value cannot be compared."""
    if not names:
        return ""
    shown = []
    for name in names:
        value = value_of(name, call)
        if value is not MISSING and not comparable(value):
            return None
        if name in call.spec.null_is_empty and is_empty(value):
            value = None  # what is equal has one counter
        value = _one_form(value, spelled.get(name, ()))
        shown.append(f"{name}={_shown(value, hidden=name in call.spec.secret)}")
    return f"[{','.join(shown)}]"


def _one_form(value: Any, spelled: Sequence[Spelling]) -> Any:
    """A value with its texts, also those in a list or an object, written in one way."""
    if isinstance(value, str):
        for spelling in spelled:
            value = spelling(value)
    elif isinstance(value, dict):
        return {key: _one_form(item, spelled) for key, item in value.items()}
    elif isinstance(value, tuple):
        return tuple([_one_form(item, spelled) for item in value])
    return value


def _shown(value: Any, *, hidden: bool) -> str:
    """A value in a counter's key: injective, and short; quotes keep text apart from all else."""
    if value is MISSING:
        return "absent"
    if isinstance(value, str) and len(value) <= _MAX_SHOWN and not hidden:
        return quoted(value)
    if (value is None or isinstance(value, bool | Decimal)) and not hidden:
        return number_text(value) if isinstance(value, Decimal) else str(value).lower()
    return f"sha256:{digest(value)}"
