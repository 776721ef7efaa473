"""What a check answers: the steps that admit a call, or why none does; and what each step says about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from agentguard.intent.truth import HOLD, Truth

if TYPE_CHECKING:
    from agentguard.model.decision import Miss, Outcome, Reason
    from agentguard.ports import Charge


class Option(Struct, frozen=True):
    """A step that would admit the call, with what it charges.

    Args:
        step: its id; `reads` for a pattern of reads.
        outcome: permit or ask.
        charges: their keys are relative to the intent (`refund#times`): the caller puts its scope before them.
        attempts: how often the very same call may run.
        ends_task: whether the task ends once the outcome of this call is recorded; its outcome is permit.
        by: who is asked, `operator` or `subject`, where the outcome is ask.
    """

    step: str
    outcome: Outcome
    charges: tuple[Charge, ...] = ()
    attempts: int = 1
    ends_task: bool = False
    by: str = "operator"


class Admitted(Struct, frozen=True):
    """The intent admits the call: the first option that has budget left is the one.

    INVARIANT: no option is milder than the one before it (those that permit stand before those that ask), so a step
    whose budget is used up falls through to an equal or a stricter outcome, and adding a step never denies more.

    Args:
        options: in the order in which they are tried.
        fixed: this very object answers every call that the step admits, so what is made of it may be kept.
    """

    options: tuple[Option, ...]
    fixed: bool = False  # not compared

    def __eq__(self, other: object) -> bool:
        return self.options == other.options if isinstance(other, Admitted) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.options)


class Refused(Struct, frozen=True):
    """The intent does not admit the call."""

    reason: Reason
    miss: Miss


Verdict: TypeAlias = Admitted | Refused


class StepExplanation(Struct, frozen=True):
    """What a step says about a call: its truth, and the first constraint that did not hold."""

    step: str
    outcome: Outcome
    truth: Truth
    miss: Miss

    @property
    def holds(self) -> bool:
        """Whether all its arguments hold."""
        return self.truth is HOLD
