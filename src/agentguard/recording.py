"""What the records of a call say: who, for whom, which tool, with which arguments (keyed hash), and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from agentguard.facts import call_facts
from agentguard.model.canonical import readable
from agentguard.model.decision import Decision
from agentguard.model.record import Event, Facts, Record
from agentguard.refusal import event_of

if TYPE_CHECKING:
    from agentguard.audit.recording_file import Recorded
    from agentguard.running import Running


_DECISIONS: Final = 32  # that a task knows; there are a few
_PERMITTED, _DENIED = Event.CALL_PERMITTED, Event.CALL_DENIED


def call_record(running: Running, event: Event, more: Mapping[str, Any] | None) -> Record:
    """A record of a call: what is its own, and more; arguments stand in clear only where tool or policy say so.

    What it says for every such call is shared: made once per task and tool, and where it records a decision, per
    decision.
    """
    call, task, spec = running.call, running.task, running.tool.spec
    if event is _PERMITTED:
        decision = running.decision
        # INVARIANT: whatever `_decision_fields` says of a decision stands in the key; its facts hold the tool's
        # declaration, so that no id is used twice.
        key = (id(spec), decision.reason, decision.steps)
        try:
            facts: Facts = task.cache["decided"][key]
        except KeyError:
            facts = _decided(running, event, key)
    elif event is _DENIED:
        facts = _denied(running)
    else:
        facts = call_facts(running.guard, task, spec)
    fields: dict[str, Any] = {"call": call.id, "arguments_hash": running.hash}
    names = spec.record if running.judged is None else _in_clear(running)
    if names:
        redactor = running.guard.redactor
        shown = {name: readable(call.arguments[name]) for name in names if name in call.arguments}
        fields["arguments"] = {name: redactor.member(name, item) for name, item in shown.items()} if redactor else shown
    if call.call_id or call.agent or call.run_id:
        fields["framework"] = {"call": call.call_id, "agent": call.agent, "run": call.run_id}
    if running.span is not None and running.span.on:
        trace, span = running.span.ids
        if trace:
            fields["trace"], fields["span"] = trace, span
    if more:
        fields.update(more)
    return Record(event, fields, facts)


def _denied(running: Running) -> Facts:
    decision = running.decision
    miss = decision.miss
    # INVARIANT: as above; the key is longer than a permit's.
    key = (id(running.tool.spec), decision.outcome, decision.reason, decision.level,
           miss.step, miss.argument, miss.kind)  # fmt: skip
    try:
        facts: Facts = running.task.cache["decided"][key]
    except KeyError:
        facts = _decided(running, _DENIED, key)
    return facts


def _decided(running: Running, event: Event, key: tuple[Any, ...]) -> Facts:
    """Make what records of this decision share, and keep it."""
    task = running.task
    known = task.cache.get("decided")
    if known is None or len(known) >= _DECISIONS:  # a denial names arguments that a model made up
        known = task.cache["decided"] = {}
    facts = Facts({**call_facts(running.guard, task, running.tool.spec), **_decision_fields(running, event)})
    facts.spec = running.tool.spec
    known[key] = facts
    return facts


def _decision_fields(running: Running, event: Event) -> Mapping[str, Any]:
    decision = running.decision
    if event is _DENIED:
        return denial_fields(decision, running.guard.stopping.public)
    return {"outcome": "permit", "reason": str(decision.reason), "steps": list(decision.steps)}


def _in_clear(running: Running) -> tuple[str, ...]:
    """The arguments that the tool records in clear, and those of a policy's `log_arguments`; never a secret one."""
    spec, judged = running.tool.spec, running.judged
    if judged is None or not judged.obligations.log_arguments:
        return spec.record
    more = judged.obligations.log_arguments - spec.secret - frozenset(spec.record)
    return (*spec.record, *sorted(more))


def full_values(running: Running) -> Recorded:
    """What the opt-in recording keeps of a call: its values too, but never the secret ones."""
    from agentguard.audit.recording_file import Recorded

    call, task, spec, decision = running.call, running.task, running.tool.spec, running.decision
    event, error = event_of(running.ended, started=True) if running.started else (None, "")
    return Recorded(
        tool=spec.name, call=call.id, task=task.id, agent=task.agent.agent.name, intent=task.intent.intent.name,
        intent_s256=task.intent.s256, decision=decision.id, outcome=str(decision.outcome), reason=str(decision.reason),
        ended=event.value.removeprefix("call.") if event is not None else "",
        arguments={name: value for name, value in call.arguments.items() if name not in spec.secret},
        secret=tuple(sorted(spec.secret & call.arguments.keys())),
        result=running.ended.value if running.parts is None else list(running.parts), error=error,
    )  # fmt: skip


_NAMING: Final = ("chain", "subject")  # how the keys of stops begin that can name a subject


def denial_fields(decision: Decision, public: Callable[[str], str]) -> dict[str, Any]:
    """Why a call was denied: the nearest miss by name, never a value.

    Args:
        decision: the denial.
        public: makes of the key of a stop, which names a subject, what records may hold.
    """
    miss, level = decision.miss, decision.level
    return {
        "outcome": str(decision.outcome), "reason": str(decision.reason),
        "level": public(level) if level.startswith(_NAMING) else level,
        "miss": {"step": miss.step, "argument": miss.argument, "kind": miss.kind},
    }  # fmt: skip
