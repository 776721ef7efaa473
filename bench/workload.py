"""The guarded calls that are measured: four tools, and a chain of three agents whose intents have 100 steps each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from agentguard import Denied, Guard, Intent, any_, between, guarded, step
from agentguard._drive import drive
from agentguard.model.decision import Outcome
from bench.harness import Case

STEPS: Final = 100
AGENTS: Final = 3
API: Final = "https://crm.test"
_MANY: Final = 10**9
_BOUNDS: Final = {"customer": any_, "limit": between(1, 1000), "region": "eu"}
TOOLS: Final = ("crm.read", "crm.list", "crm.update", "crm.wait")


@guarded("crm.read", effect="read", audience=API, scopes=["crm:read"], lease="call")
def read_once(customer: str, limit: int = 5, region: str = "eu") -> str:
    """Read with a credential of its own."""
    return customer


@guarded("crm.list", effect="read", audience=API, scopes=["crm:read"])
def read_again(customer: str, limit: int = 5, region: str = "eu") -> str:
    """Read with the task's credential."""
    return customer


@guarded("crm.wait", effect="read", audience=API, scopes=["crm:read"], lease="call")
async def wait_once(customer: str, limit: int = 5, region: str = "eu") -> str:
    """Read with a credential of its own, and let every other task have its turn meanwhile."""
    await asyncio.sleep(0)
    return customer


@guarded("crm.update", audience=API, scopes=["crm:write"], lease="call")
def update(customer: str, limit: int = 5, region: str = "eu") -> str:
    """Write with a credential of its own; its decision has to be on the disk."""
    return customer


def intent(steps: int = STEPS) -> Intent:
    """The steps that are used, and others for other tools."""
    others = [step(f"other.tool_{number}", customer="x") for number in range(steps - len(TOOLS))]
    return Intent("Measure one call", *others, *(step(tool, **_BOUNDS).times(_MANY) for tool in TOOLS))


@contextmanager
def chain(guard: Guard, *, agents: int = AGENTS, steps: int = STEPS) -> Iterator[Any]:
    """A task and its delegations, each with an intent of its own so that each is checked; yields the last one."""
    with ExitStack() as stack:
        task = stack.enter_context(guard.task("agent-1", on_behalf_of="alice", intent=intent(steps), ttl=3600))
        for number in range(2, agents + 1):
            task = stack.enter_context(task.delegate(f"agent-{number}", intent=intent(steps)))
        yield task


def full() -> None:
    """A call with a credential of its own, recorded and traced."""
    read_once("c-1", limit=10)


def reused() -> None:
    """A call with a credential that an earlier one obtained."""
    read_again("c-1", limit=10)


def durable() -> None:
    """A full call that waits for the disk."""
    update("c-1", limit=10)


def denied() -> None:
    """A call that is denied, and recorded."""
    try:
        read_again("c-1", limit=5000)
    except Denied:
        return
    raise AssertionError("the call was not denied")


def deciding(guard: Guard, task: Any) -> Case:
    """The decision alone: steps 1 to 5 of the pipeline, and giving back what they reserved."""
    from agentguard.facts import span_attributes
    from agentguard.pipeline.admit import approve, decide, match_intent
    from agentguard.pipeline.identify import identify
    from agentguard.pipeline.intercept import intercept
    from agentguard.pipeline.release import release
    from agentguard.running import Running, undecided

    tool = read_again.__agentguard__  # type: ignore[attr-defined]  # the declaration that the wrapper carries

    async def decided() -> Any:  # as `Guard.pipeline` has them
        call = Running(guard, task, tool, guard.next_id(), undecided(tool.spec.name))
        known_as = task.cache.get("attributes") or span_attributes(guard, task)
        call.span = guard.telemetry.start_call(tool.spec.name, known_as, tool.attributes)
        intercept(call, ("c-1",), {"limit": 10})
        identify(call)
        await match_intent(call)
        if guard.decision_points or call.span.parts:
            await decide(call)
        if call.decision.outcome is Outcome.ASK:
            await approve(call)
        await release(call)
        return call.decision

    if drive(decided()).outcome is not Outcome.PERMIT:
        raise AssertionError("the decision is no permit")
    return lambda: drive(decided())
