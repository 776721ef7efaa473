"""A state machine: whatever is asked of it in whatever order, a store of counters answers like the memory's."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from msgspec import structs
from msgspec.structs import replace

from agentguard._drive import drive
from agentguard.ports import Budgets, Candidate, Charge, Exhausted, Reservation, Settlement
from agentguard.state.budgets_memory import MemoryBudgets
from tests.state.contract import Clock

_runs = itertools.count()
PLAIN = {"a/count": "3", "a/total": "10", "b/count": "2"}
WINDOWS = {"b/window": ("4", 10.0), "c/window": ("2", 25.0)}
amounts = st.sampled_from(["1", "0.1", "2.5", "1E-20", "0", "-1"])
plain = st.builds(lambda key, amount: Charge(key, PLAIN[key], amount), st.sampled_from(sorted(PLAIN)), amounts)
windows = st.builds(
    lambda key, amount, wider: Charge(key, WINDOWS[key][0], amount, WINDOWS[key][1] * wider),
    st.sampled_from(sorted(WINDOWS)), amounts, st.sampled_from([1, 1, 2]),
)  # fmt: skip
values = st.builds(lambda value: Charge("a/bind", "0", "0", value=value), st.sampled_from(["x", "y"]))
needs = st.builds(lambda least: Charge("a/count", "3", "0", least=least), st.sampled_from(["1", "2"]))
candidates = st.builds(
    lambda step, charges, retry, attempts: Candidate(step, tuple(charges), retry, attempts if retry else 1),
    st.sampled_from("xyz"), st.lists(plain | windows | values | needs, max_size=3),
    st.sampled_from(["", "", "a/retry", "c/retry"]), st.integers(2, 3),
)  # fmt: skip
levels = st.lists(st.lists(candidates, min_size=1, max_size=2), min_size=1, max_size=3)


class Alike(RuleBasedStateMachine):
    """A subclass names the store and its clock; every run has scopes of its own."""

    store: ClassVar[Budgets]
    clock: ClassVar[Clock]
    reservations: Bundle[Any] = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.run, self.same = MemoryBudgets(), f"run{next(_runs)}", dict[str, str]()

    def key(self, key: str) -> str:
        return f"{self.run}{key}" if key else ""

    def named(self, candidate: Candidate) -> Candidate:
        charges = tuple(replace(charge, key=self.key(charge.key)) for charge in candidate.charges)
        return replace(candidate, charges=charges, retry_key=self.key(candidate.retry_key))

    @rule(target=reservations, levels=levels)
    def reserve(self, levels: Any) -> Any:
        asked = [[self.named(candidate) for candidate in level] for level in levels]

        mine = drive(self.memory.reserve(asked, self.clock()))
        found: Any = drive(self.store.reserve(asked, -1.0))

        if isinstance(mine, Exhausted):
            assert mine == found
            return None
        assert isinstance(found, Reservation)
        assert mine == structs.replace(found, id=mine.id)
        assert self.same.setdefault(mine.id, found.id) == found.id
        return mine, found

    @rule(reservation=consumes(reservations), settlement=st.sampled_from(Settlement))
    def settle(self, reservation: Any, settlement: Settlement) -> None:
        if reservation is not None:
            drive(self.memory.settle(reservation[0], settlement))
            drive(self.store.settle(reservation[1], settlement))

    @rule(scope=st.sampled_from("abc"))
    def forget(self, scope: str) -> None:
        drive(self.memory.forget(self.key(scope)))
        drive(self.store.forget(self.key(scope)))

    @rule(seconds=st.sampled_from([0.5, 9.0, 10.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def counters_stand_for_the_same(self) -> None:
        keys = [self.key(key) for key in (*PLAIN, *WINDOWS, "a/bind")]
        found: Any = drive(self.store.standing(keys))
        assert list(drive(self.memory.standing(keys))) == list(found)
