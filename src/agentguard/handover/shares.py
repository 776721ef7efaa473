"""What is left of each budget, and which share of it a handover takes along: pure arithmetic, exact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import Final

from agentguard.errors import ConfigurationError
from agentguard.handover.details import Spent
from agentguard.intent import Intent, Limit
from agentguard.intent.charges import counter_of
from agentguard.intent.limits import Limits
from agentguard.model.canonical import number_text
from agentguard.ports import Charge

_EXACT: Final = Context(prec=4000)  # never the application's own context: it would round
_HALF: Final = Decimal("0.5")
_ONE: Final = Decimal(1)


@dataclass(frozen=True, slots=True)
class Hold:
    """A counter of this side, of which a share is handed on."""

    key: str
    limit: Decimal
    per: float = 0.0


@dataclass(frozen=True, slots=True)
class Counter:
    """One budget of a level: how the far side counts it, and where it is counted here.

    Args:
        key: its key below the level.
        limit: the most it may reach.
        holds: the counters here; the share fits into all of them.
        whole: it counts in whole numbers.
        common: it bounds more than one step, or is given back by time: by default half of it stays here.
        reserved: the share is taken here; what only counts denials is copied.
    """

    key: str
    limit: Decimal
    holds: tuple[Hold, ...]
    whole: bool = True
    common: bool = False
    reserved: bool = True


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a counter is handed on."""

    counter: Counter
    amount: Decimal

    def spent(self) -> Spent:
        """What the far side begins with: all but its share is used up."""
        limit = self.counter.limit
        used = _EXACT.subtract(limit, self.amount)
        return Spent(key=self.counter.key, limit=number_text(limit), amount=number_text(used))

    def charges(self, lasts: float) -> Iterator[Charge]:
        """Yield what is taken here.

        Args:
            lasts: seconds in which the far side may use it. A window begins after them, as it may be used in the last.
        """
        for hold in self.counter.holds if self.counter.reserved and self.amount else ():
            later = lasts if hold.per else 0.0
            yield Charge(hold.key, number_text(hold.limit), number_text(self.amount), per=hold.per, later=later)


def counters_of(intent: Intent, scope: str, *, ceiling: bool) -> Iterator[Counter]:
    """Yield the counters of a literal intent.

    Args:
        intent: one level.
        scope: what stands before their keys here.
        ceiling: it stands in a ceiling, where no step is used once by default.
    """
    found: dict[str, Counter] = {}
    for step in intent.steps:
        name = counter_of(step)
        if step.uses is not None:
            _add(found, scope, f"{name}#times", Decimal(step.uses.n), step.uses.window)
        elif not ceiling:
            _add(found, scope, f"{step.id}#times", _ONE, 0.0)
        for argument, total in step.totals.items():
            _add(found, scope, f"{name}#total.{argument}", total.limit, total.window, whole=False)
    if intent.otherwise is not None and intent.otherwise.calls is not None:
        _add(found, scope, "otherwise#calls", Decimal(intent.otherwise.calls.n), intent.otherwise.calls.window)
    yield from found.values()
    limits = intent.limits or Limits()
    for word in ("calls", "rate", "asks", "denials"):
        limit: Limit | None = getattr(limits, word)
        if limit is not None:
            hold = Hold(f"{scope}/limits#{word}", Decimal(limit.n), limit.window)
            yield Counter(f"limits#{word}", hold.limit, (hold,), common=True, reserved=word != "denials")


def _add(found: dict[str, Counter], scope: str, key: str, limit: Decimal, per: float, *, whole: bool = True) -> None:
    found[key] = Counter(key, limit, (Hold(f"{scope}/{key}", limit, per),), whole, common=bool(per))


def with_calls(
    intent: Intent, counters: list[Counter], key: str, calls: tuple[int, float]
) -> tuple[Intent, list[Counter]]:
    """Return a level with the call limit of its agent's registration put into its `rate`.

    Where it has a rate already, the new one is as strict as both: the fewer calls, in the longer window.
    """
    most, per = calls
    limits = intent.limits or Limits()
    own = limits.rate
    rate = Limit(most, per) if own is None else Limit(min(own.n, most), max(own.window, per))
    holds = [Hold(key, Decimal(most), per)]
    holds += [hold for counter in counters if counter.key == "limits#rate" for hold in counter.holds]
    merged = Counter("limits#rate", Decimal(rate.n), tuple(holds), common=True)
    others = [counter for counter in counters if counter.key != "limits#rate"]
    made = Limits(limits.calls, limits.denials, limits.asks, rate)
    return intent.changed(limits=made), [*others, merged]


def share_of(counter: Counter, used: dict[str, Decimal], fraction: Decimal | None) -> Share:
    """Return the share of a counter that is handed on.

    Args:
        counter: the counter.
        used: what was used up here so far, by key.
        fraction: of what is left; None for all of it, or half of what more than one step draws on.
    """
    left = min(_EXACT.subtract(hold.limit, used[hold.key]) for hold in counter.holds)
    left = max(Decimal(0), min(left, counter.limit))
    part = fraction if fraction is not None else _HALF if counter.common else _ONE
    amount = left if not counter.reserved else _EXACT.multiply(left, part)
    return Share(counter, min(left, amount.to_integral_value(ROUND_CEILING)) if counter.whole else amount)


def fraction_of(share: object) -> Decimal | None:
    """Return a share as an exact number over 0 and up to 1.

    Raises:
        ConfigurationError: it is none.
    """
    if share is None:
        return None
    try:
        found = Decimal(str(share))
    except ArithmeticError:
        found = Decimal(0)
    if isinstance(share, bool) or not found.is_finite() or not 0 < found <= 1:
        raise ConfigurationError(f'share={share!r}: write what part of each budget is handed on, such as "0.25" or 1')
    return found
