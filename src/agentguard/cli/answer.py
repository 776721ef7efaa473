"""What an intent says about one call, with what its author knows of the task: the check of a guard, told in full."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import structs

from agentguard.cli.past import Past
from agentguard.intent.check import explain
from agentguard.intent.constraint import Constraint
from agentguard.intent.intent import Intent
from agentguard.intent.misses import _UNTOLD
from agentguard.intent.provenance import From
from agentguard.intent.references import Is
from agentguard.intent.said_words import Said
from agentguard.intent.verdict import Admitted, Refused, StepExplanation
from agentguard.model.call import ToolCall
from agentguard.model.decision import Miss, Outcome, Reason


@dataclass(frozen=True, slots=True)
class Answer:
    """What an intent says about a call: permit, ask or deny, and why."""

    outcome: Outcome
    reason: str
    step: str
    by: str
    miss: Miss
    steps: tuple[StepExplanation, ...]


def answer_of(past: Past, call: ToolCall, *, seen_known: bool) -> Answer:
    """Judge a call.

    Args:
        past: what the task has done so far.
        call: bound.
        seen_known: whether somebody said which data was read; else a forbid that asks for it cannot be told.
    """
    compiled, facts = past.compiled, past.facts
    steps = tuple(structs.replace(step, miss=_told(past, step.miss)) for step in explain(compiled, call, facts))
    verdict = compiled.check(call, facts)
    if isinstance(verdict, Admitted) and not seen_known:
        verdict = _if_anything_was_seen(past, call) or verdict
    if isinstance(verdict, Refused):
        return Answer(Outcome.DENY, verdict.reason, "", "", _told(past, verdict.miss), steps)
    option = past.option(verdict, call)
    if option is None and (name := past.clash(verdict, call)):
        miss = Miss(verdict.options[-1].step, "", "bind", f"the value must be the same {name} as before")
        return Answer(Outcome.DENY, Reason.ARGUMENT_VIOLATION, "", "", miss, steps)
    if option is None:
        miss = Miss(verdict.options[0].step, "", "budget", "the budget of every step that takes the call is used up")
        return Answer(Outcome.DENY, Reason.BUDGET_EXHAUSTED, "", "", miss, steps)
    by = option.by if option.outcome is Outcome.ASK else ""
    return Answer(option.outcome, "", option.step, by, Miss(), steps)


def _told(past: Past, miss: Miss) -> Miss:
    """Say that a constraint lacks its input, where that is why it cannot tell."""
    said = _constraint(past.compiled.intent, miss)
    if said is None or _UNTOLD not in miss.text:
        return miss
    lacks = [] if past.known or not _holds_a(From, said) else ["earlier results are not known: give --results FILE"]
    lacks += [] if past.heard or not _holds_a(Said, said) else ["the subject's words are not known: give --heard TEXT"]
    why = "; and ".join(lacks)
    return structs.replace(miss, text=f"{miss.text.partition(_UNTOLD)[0]}; cannot tell, as {why}") if lacks else miss


def _constraint(intent: Intent, miss: Miss) -> Constraint | None:
    if miss.step == "everywhere":
        return intent.everywhere.get(miss.argument)
    return next((step.args.get(miss.argument) for step in intent.steps if step.id == miss.step), None)


def _holds_a(kind: type[Constraint], said: Constraint) -> bool:
    return any(isinstance(item, kind | Is) for item in said.walk())


def _if_anything_was_seen(past: Past, call: ToolCall) -> Refused | None:
    """Return the refusal of a forbid that only waits for data to be read; nobody said whether it was."""
    classes = frozenset(word for entry in past.compiled.intent.forbid for word in entry.seen)
    saved, past.seen = past.seen, set(classes)
    try:
        verdict = past.compiled.check(call, past.facts)
    finally:
        past.seen = saved
    if isinstance(verdict, Admitted):
        return None
    text = f"{verdict.miss.text}; cannot tell, as it is not known what was read: give --results FILE or --seen CLASS"
    return Refused(verdict.reason, Miss(verdict.miss.step, verdict.miss.argument, verdict.miss.kind, text))
