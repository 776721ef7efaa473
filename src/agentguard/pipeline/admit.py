"""Steps 3 to 5: the intent admits the call, the decision points permit it, and a person approves where one is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from agentguard._drive import run_shielded
from agentguard.approving import approved_by, give_back_waiting
from agentguard.intent import Facts
from agentguard.levels import Levels, levels_of
from agentguard.matching import match
from agentguard.model.decision import Outcome
from agentguard.telemetry import spans

if TYPE_CHECKING:
    from agentguard.running import Running


async def match_intent(call: Running) -> None:
    """At every level the call must match a step; all are reserved at once, or none."""
    task, guard = call.task, call.guard
    tree = task.tree
    if tree.waiting.calls:
        await give_back_waiting(call)
    levels = task.cache.get("levels") or levels_of(task)
    facts = Facts(seen=tree.seen, heard=tree.heard)
    if guard.reserving_waits:
        # INVARIANT: what a store takes for a call that is cancelled meanwhile is known here, so it is given back.
        return await run_shielded(lambda: _matched(call, levels, facts), suspends=True)
    found = await match(call.call, levels, facts, guard.budgets, guard.monotonic())
    call.decision, call.reservation, call.ending = found.decision, found.reservation, found.ending
    call.marks = found.marks


async def _matched(call: Running, levels: Levels, facts: Facts) -> None:
    found = await match(call.call, levels, facts, call.guard.budgets, call.guard.monotonic())
    call.decision, call.reservation, call.ending = found.decision, found.reservation, found.ending
    call.marks = found.marks


async def decide(call: Running) -> None:
    """The decision points: forbid wins, an error is a deny."""
    if not call.span.parts:
        if call.guard.decision_points:
            await _decide(call)
        return
    with call.span.phase(spans.AUTHORIZE, bool(call.guard.decision_points)) as phase:
        await _decide(call)
        phase.decided(call.decision, call.judged.version if call.judged is not None else "")


async def _decide(call: Running) -> None:
    from agentguard.deciding import judge, refuse_denied  # loaded where there are decision points

    call.judged = await judge(call)
    if call.judged is not None:
        refuse_denied(call.judged)
        call.decision = call.judged.decided


async def approve(call: Running) -> None:
    """Ask a person where a step or an obligation says so; the answer is good for these exact arguments, once."""
    if call.decision.outcome is Outcome.ASK:
        call.span.decided(call.decision)  # before the span begins, so that a sampler sees it
        with call.span.phase(spans.APPROVAL):
            call.approved = await approved_by(call)
        call.decision = replace(call.decision, outcome=Outcome.PERMIT)
