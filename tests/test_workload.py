"""An agent is bound to what its workload proves to be, before any tool is reached."""

from __future__ import annotations

import math
from typing import Any

import pytest

from agentguard import Denied, Guard, Intent, guarded, step
from agentguard._drive import drive
from agentguard.errors import IdentityUnavailable
from agentguard.model.principal import Agent, Identity, Proof
from agentguard.registry import RegisteredAgent, Registry
from agentguard.testing import FakeClock, fake_guard

bound = pytest.mark.control("7 an agent is what its workload proves")
SPIFFE = "spiffe://agents.test/support-bot"
ran: list[str] = []


@guarded("look", effect="read")
def look() -> str:
    ran.append("look")
    return "seen"


class Platform:
    """Proves one identity, or fails."""

    suspends = False

    def __init__(self, name: str = SPIFFE, expires_at: float = math.inf, error: Exception | None = None) -> None:
        self.identity = Identity(name, Proof.ATTESTED if name else Proof.IN_PROCESS, expires_at, "agents.test")
        self.error = error

    async def identify(self, now: float) -> Identity:
        if self.error is not None:
            raise self.error
        return self.identity


def agent(name: str, identity: str = "") -> RegisteredAgent:
    return RegisteredAgent(
        agent=Agent(name, identity, registered=True), owners={"business": "ann@bank.test"}, purpose="x"
    )


def guard(platform: Platform | None, *agents: RegisteredAgent, **rooms: Any) -> Guard:
    registry = Registry(
        agents or (agent("support-bot", SPIFFE), agent("helper", SPIFFE), agent("other", "spiffe://agents.test/other"))
    )
    return fake_guard(registry=registry, authenticator=platform, **rooms)


def opened(made: Guard, name: str = "support-bot") -> dict[str, Any]:
    ran.clear()
    with made, made.task(name, on_behalf_of="alice", intent=Intent("x", step("look"))):
        look()
    return next(record for record in made.audit.records if record["event"] == "task.opened")  # type: ignore[attr-defined]  # in memory


def test_identity_that_the_registry_names_is_bound_and_stands_on_every_record() -> None:
    made = guard(Platform())
    record = opened(made)
    assert (record["agent_proof"], record["agent_identity"]) == ("attested", SPIFFE)
    permitted = next(r for r in made.audit.records if r["event"] == "call.permitted")  # type: ignore[attr-defined]  # in memory
    assert permitted["agent_identity"] == SPIFFE


@bound
@pytest.mark.parametrize(
    ("platform", "name", "text"),
    [
        (Platform(), "other", "registered for 'spiffe://agents.test/other'"),
        (Platform("spiffe://evil.test/support-bot"), "support-bot", "evil.test"),
        (Platform(expires_at=0), "support-bot", "expired"),
        (Platform(error=IdentityUnavailable("no socket")), "support-bot", "no socket"),
        (Platform(error=ValueError("secret inside")), "support-bot", "ValueError"),
    ],
)
def test_workload_that_is_not_what_the_registry_says_reaches_no_tool(platform: Platform, name: str, text: str) -> None:
    made = guard(platform)
    with pytest.raises(Denied, match=text) as raised:
        opened(made, name)
    assert (raised.value.reason, ran) == ("identity_unproved", [])
    assert "secret inside" not in str(raised.value)
    assert made.audit.records[-1]["reason"] == "identity_unproved"  # type: ignore[attr-defined]  # in memory


@bound
def test_agent_without_a_registered_identity_is_not_taken_for_the_workload() -> None:
    with pytest.raises(Denied, match="no identity there"):
        opened(guard(Platform(), agent("support-bot")))


@bound
def test_sub_agent_that_is_another_workload_cannot_be_delegated_to_in_this_process() -> None:
    made = guard(Platform())
    with made, made.task("support-bot", on_behalf_of="alice", intent=Intent("x", step("look"))) as task:
        with task.delegate("helper", intent=Intent("x", step("look"))) as child:
            assert look() == "seen"
            assert [link.proof for link in child.chain.agents] == [Proof.ATTESTED] * 2
        with pytest.raises(Denied, match="registered for"):
            with task.delegate("other", intent=Intent("x", step("look"))):
                pass


def test_workload_that_is_only_named_says_so() -> None:
    record = opened(guard(Platform(""), agent("support-bot")))
    assert record["agent_proof"] == "in_process"
    assert "agent_identity" not in record


@bound
@pytest.mark.parametrize("platform", [None, Platform("")])
def test_agent_that_is_bound_to_an_identity_never_works_under_a_mere_name(platform: Platform | None) -> None:
    with pytest.raises(Denied, match="only named"):
        opened(guard(platform))


def test_identity_is_proved_again_when_a_parked_task_goes_on() -> None:
    platform = Platform()
    made = guard(platform, clock=FakeClock())
    task = made.task("support-bot", on_behalf_of="alice", intent=Intent("x", step("look")))
    drive(made.open_task(task))
    from agentguard.task_state import TaskState

    drive(made.close_task(task, TaskState.PARKED, "asked"))
    platform.error = IdentityUnavailable("revoked")
    with pytest.raises(Denied, match="revoked"):
        drive(made.open_task(task))
    made.close()
