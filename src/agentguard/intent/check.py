"""Checks one call against a compiled intent: pure, in a fixed order, and never an exception."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from agentguard.intent.compile import CompiledStep, Rules, rules_of
from agentguard.intent.intent import Intent
from agentguard.intent.limits import Limits
from agentguard.intent.misses import forbidden, nearest_miss, not_everywhere, outside, step_miss
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, MISSING, Facts, Truth, value_of
from agentguard.intent.verdict import Admitted, Refused, StepExplanation, Verdict
from agentguard.model.call import ToolCall
from agentguard.model.decision import Miss, Reason

_NO_LIMITS: Final = Limits()


class CompiledIntent(Struct, frozen=True, eq=False):
    """An intent, ready to check calls. Made by `compile_intent`; safe to share between threads."""

    intent: Intent
    rules: Rules

    def __repr__(self) -> str:
        return f"CompiledIntent(intent={self.intent!r})"

    @property
    def name(self) -> str:
        """The intent's name."""
        return self.intent.name

    @property
    def purpose(self) -> str:
        """Why the task exists."""
        return self.intent.purpose

    @property
    def ttl(self) -> float | None:
        """How long the task may live, in seconds."""
        return self.intent.ttl

    @property
    def s256(self) -> str:
        """Hash of the resolved intent."""
        return self.intent.s256

    @property
    def source_s256(self) -> str | None:
        """Hash of its file before parameters; None for an intent built in Python."""
        return self.intent.source_s256

    @property
    def limits(self) -> Limits:
        """What holds for all calls together; `calls` and `rate` are among the charges of every option already."""
        return self.intent.limits or _NO_LIMITS

    @property
    def agents(self) -> Mapping[str, Intent]:
        """What a sub-agent gets, by its name."""
        return self.intent.agents

    def check(self, call: ToolCall, facts: Facts) -> Verdict:
        """Tell which steps admit a call, or why none does. It never raises: what goes wrong inside is a refusal.

        Args:
            call: bound, its arguments canonical.
            facts: what the task has seen.
        """
        try:
            only = self.rules.only.get(call.spec.name)
            if only is None:
                return _verdict(self.rules, call, facts)
            if only.judge(call, facts) is not HOLD:
                return Refused(Reason.ARGUMENT_VIOLATION, step_miss(only, call, facts, None)[1])
            found = only.admits(call)
            return found if type(found) is Admitted else _verdict(self.rules, call, facts)
        except Exception as error:  # deny is the path of least effort, whatever the input was
            return Refused(Reason.ARGUMENT_VIOLATION, Miss(text=f"the check itself failed ({type(error).__name__})"))


def compile_intent(intent: Intent, *, ceiling: bool = False) -> CompiledIntent:
    """Compile an intent; the result is kept on it.

    Args:
        intent: what is to be checked.
        ceiling: it bounds an agent over all its tasks: no default `times`, every budget in a window, no parameters.

    Raises:
        ConfigurationError: it cannot be a ceiling.
    """
    return intent.derived(f"compiled{ceiling:d}", lambda: CompiledIntent(intent, rules_of(intent, ceiling=ceiling)))


def explain(compiled: CompiledIntent, call: ToolCall, facts: Facts) -> tuple[StepExplanation, ...]:
    """Tell for each step that names the tool, in the order looked at, whether it holds and what did not hold first."""
    return tuple(_explained(step, call, facts) for step in compiled.rules.steps.get(call.spec.name, ()))


def _explained(step: CompiledStep, call: ToolCall, facts: Facts) -> StepExplanation:
    truth, answer = _answer(step, call, facts)
    miss = Miss(step.step.id) if truth is HOLD else step_miss(step, call, facts, answer)[1]
    return StepExplanation(step.step.id, step.step.outcome, truth, miss)


def _answer(step: CompiledStep, call: ToolCall, facts: Facts) -> tuple[Truth, Admitted | Miss | None]:
    """Judge a step and count what it would charge; what cannot be counted cannot be told."""
    # A step that waits for another is not looked at, so nothing in it can be told or not told.
    if step.step.earlier and not facts.happened.issuperset(step.step.earlier):
        return FAIL, None
    truth = step.judge(call, facts)
    if truth is not HOLD:
        return truth, None
    answer = step.admits(call)
    return (HOLD if type(answer) is Admitted else CANNOT_TELL), answer


def _verdict(rules: Rules, call: ToolCall, facts: Facts) -> Verdict:
    spec = call.spec
    # INVARIANT: forbid is looked at before anything that permits, so its place in the file cannot widen access.
    for forbid in rules.forbids_of.get(spec.name, rules.forbids):
        truth = forbid.judge(call, facts)
        if truth is not FAIL:
            reason = Reason.ARGUMENT_VIOLATION if forbid.forbid.args else Reason.OUTSIDE_INTENT
            return Refused(reason, forbidden(forbid, truth))
    for name, parts, test in rules.everywhere:
        value = value_of(name, call)
        if value is not MISSING and test(value, call, facts) is not HOLD:
            return Refused(Reason.ARGUMENT_VIOLATION, not_everywhere(name, parts, call, facts))
    steps = rules.steps.get(spec.name)
    if steps is not None:
        return _by_steps(steps, call, facts)
    if rules.reads(spec):
        return rules.read
    return rules.otherwise(spec) or Refused(Reason.OUTSIDE_INTENT, outside(rules, spec))


def _by_steps(steps: tuple[CompiledStep, ...], call: ToolCall, facts: Facts) -> Verdict:
    found: Admitted | None = None
    for compiled in steps:
        truth, answer = _answer(compiled, call, facts)
        if isinstance(answer, Admitted):
            found = answer if found is None else Admitted((*found.options, *answer.options))
        elif truth is CANNOT_TELL:
            if found is None:
                return Refused(Reason.ARGUMENT_VIOLATION, step_miss(compiled, call, facts, answer)[1])
            # What stands behind a step that cannot be told is not reached, so an exhausted step before it denies.
            break
    return found or Refused(Reason.ARGUMENT_VIOLATION, nearest_miss(steps, call, facts))
