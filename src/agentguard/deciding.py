"""Putting one call to the decision points, and carrying out what their permits oblige to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentguard.model.call import ToolSpec
from agentguard.model.decision import AccessRequest, Decision, Outcome, Reason
from agentguard.model.record import Event
from agentguard.pipeline.record import append
from agentguard.policy.again import decide_again
from agentguard.policy.attributes import about, gather
from agentguard.policy.combine import Versions, decide_all
from agentguard.policy.decided import Decided
from agentguard.policy.notices import Notice
from agentguard.policy.obligations import KINDS, NOTHING, Discharges, Obligations
from agentguard.policy.request import TaskFacts, request_for
from agentguard.refusal import Refusal

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.running import Running
    from agentguard.task import Task

_CHANGES: Final = 3  # of the policies, while one call waits for its gate
_CARRIED_OUT: Final = frozenset(KINDS)


@dataclass(slots=True)
class Judged:
    """What the decision points said of one call.

    Args:
        request: what they were asked.
        intent: what the intent had decided before.
        decided: their decisions, combined.
        versions: the policies it rests on.
    """

    request: AccessRequest
    intent: Decision
    decided: Decided
    versions: Versions

    @property
    def obligations(self) -> Obligations:
        """What has to be done for the permit to stand."""
        return self.decided.obligations

    @property
    def version(self) -> str:
        """The versions of all policies that decided, in order."""
        return " ".join(f"{entry.point}={entry.version}" for entry in self.decided.evidence)

    def fields(self) -> dict[str, Any]:
        """What the records of the call say about it."""
        found: dict[str, Any] = {"policy": [entry.fields() for entry in self.decided.evidence]}
        return {**found, "obligations": self.obligations.fields()} if self.obligations != NOTHING else found


async def judge(call: Running) -> Judged | None:
    """Ask every decision point; None where the guard has none.

    Raises:
        Refusal: a required attribute is missing, so nobody is asked.
    """
    guard = call.guard
    if not guard.decision_points:
        return None
    versions = Versions.of(guard.decision_points)
    request = await _request(call)
    decided = await decide_all(
        guard.decision_points, request, call.decision, discharges=_discharges(guard, call.tool.spec)
    )
    return Judged(request, call.decision, decided, versions)


async def still_decided(call: Running, judged: Judged) -> None:
    """Decide again, at the gate, where the policies changed since; record it.

    Raises:
        Refusal: the new ones deny it, or demand what can no longer be done.
    """
    guard, version = call.guard, judged.version
    for _ in range(_CHANGES):
        if await judged.versions.current():
            return
        discharges = _discharges(guard, call.tool.spec)
        judged.decided, judged.versions = await decide_again(
            guard.decision_points, judged.request, judged.intent, judged.decided, discharges=discharges
        )
        refuse_denied(judged)
        # INVARIANT: an approval is good under the policies that stood in the question, wherever one is needed still.
        if call.approved and judged.decided.outcome is Outcome.ASK and judged.version != version:
            raise Refusal(Reason.POLICY_ERROR, "a person approved it under other policies; call it again")
        append(call, Event.CALL_DECIDED_AGAIN, judged.fields())
    raise Refusal(Reason.POLICY_ERROR, "the policies change faster than the call can be decided")


def refuse_denied(judged: Judged) -> None:
    """Raise where a decision point denied."""
    decided = judged.decided
    if decided.outcome is Outcome.DENY:
        raise Refusal(decided.reason, level=decided.level, miss=decided.miss)


async def notify(call: Running, judged: Judged, record: str) -> None:
    """Tell whom the policies say, before the tool runs.

    Raises:
        Refusal: somebody could not be told.
    """
    names = sorted(judged.obligations.notify)
    notice = _notice(call, record) if names else None
    for name in names:
        problem = ""
        try:
            await call.guard.notified[name].tell(notice)  # type: ignore[arg-type]  # made, as there is a name
        except Exception as error:
            problem = type(error).__name__
        if problem:
            raise Refusal(Reason.POLICY_ERROR, f"{name} could not be notified ({problem})")
    if names:
        append(call, Event.NOTIFIED, {"notified": names})


async def _request(call: Running) -> AccessRequest:
    guard, task = call.guard, call.task
    attributes = await gather(guard.attributes, about(task.chain, call.tool.spec, guard.environment))
    if attributes.denied:
        raise Refusal(Reason.POLICY_ERROR, attributes.denied)
    facts = _facts(task, guard.environment, call.decision.steps, attributes.values, attributes.missing)
    return request_for(call.call, task.chain, facts)


def _facts(
    task: Task, environment: str, steps: tuple[str, ...], attributes: Mapping[str, Any], missing: tuple[str, ...]
) -> TaskFacts:
    return TaskFacts(
        environment=environment, task=task.id, purpose=task.root.intent.purpose, intent=task.intent.name,
        intent_s256=task.intent.s256, steps=steps, seen=task.tree.seen, attributes=attributes, missing=missing,
    )  # fmt: skip


def _discharges(guard: Guard, spec: ToolSpec) -> Discharges:
    return Discharges(kinds=_CARRIED_OUT, notify=frozenset(guard.notified), spec=spec)


def _notice(call: Running, record: str) -> Notice:
    task, spec = call.task, call.tool.spec
    return Notice(
        tool=spec.name, effect=spec.effect.value, resource=spec.resource_of(call.call.arguments),
        agent=task.chain.actor.name, chain=task.chain.text(), purpose=task.root.intent.purpose, task=task.id,
        call=call.id, record=record, environment=call.guard.environment,
    )  # fmt: skip
