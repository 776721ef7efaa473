"""Agents as workloads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.errors import ConfigurationError
from agentguard.model.decision import Reason
from agentguard.model.principal import Agent, Proof
from agentguard.registry import OpenRegistry, RegisteredAgent, Registry, admits

DAY = 86_400.0


def registered(name: str = "bot", **changes: Any) -> RegisteredAgent:
    return RegisteredAgent(agent=Agent(name, registered=True), **changes)


def reason(entry: RegisteredAgent, now: float = 0.0, environment: str = "prod") -> Reason | None:
    refusal = entry.refusal(now, environment)
    return refusal[0] if refusal else None


@pytest.mark.parametrize(
    ("pattern", "tool", "expected"),
    [
        ("account.read", "account.read", True),
        ("account.read", "account.read.all", False),
        ("account.read", "account.reader", False),
        ("account.*", "account.read", True),
        ("account.*", "account.read.all", True),
        ("account.*", "account", False),
        ("account.*", "accounts.read", False),
        ("*", "anything.at.all", True),
    ],
)
def test_a_pattern_is_an_exact_name_a_prefix_or_everything(pattern: str, tool: str, expected: bool) -> None:
    assert admits([pattern], tool) is expected


@pytest.mark.parametrize("pattern", ["", "account.", "account*", "*.read", "a.*.b", "Account.read", ".*", "**", "a b"])
def test_other_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="is no pattern"):
        registered(tools=frozenset({pattern}))


word = st.text("ab", min_size=1, max_size=2)
names = st.lists(word, min_size=1, max_size=4).map(".".join)


@given(names, names)
def test_a_prefix_admits_what_lies_below_it_and_nothing_else(prefix: str, tool: str) -> None:
    below = tool.split(".")[: prefix.count(".") + 1] == prefix.split(".") and tool != prefix

    assert admits([f"{prefix}.*"], tool) is below


@pytest.mark.parametrize("status", ["suspended", "retired"])
def test_an_agent_that_is_not_active_is_refused(status: Any) -> None:
    refusal = registered(status=status).refusal(0.0, "prod")

    assert refusal == (Reason.SUSPENDED, f"agent 'bot' is {status} in the registry")


def test_an_agent_is_valid_from_not_before_until_expires() -> None:
    entry = registered(not_before=DAY, expires=2 * DAY)

    assert [reason(entry, now) for now in (DAY - 0.001, DAY, 2 * DAY - 0.001, 2 * DAY)] == [
        Reason.EXPIRED,
        None,
        None,
        Reason.EXPIRED,
    ]


def test_an_expired_agent_is_told_when_it_expired() -> None:
    refusal = registered(expires=DAY).refusal(DAY, "prod")

    assert refusal is not None
    assert "expired at 1970-01-02T00:00:00Z" in refusal[1]


@pytest.mark.parametrize(
    ("environment", "expected"), [("prod", None), ("test", Reason.NOT_ALLOWED), ("", Reason.NOT_ALLOWED)]
)
def test_an_agent_works_only_in_its_environments(environment: str, expected: Reason | None) -> None:
    assert reason(registered(environments=frozenset({"prod"})), environment=environment) is expected


def test_an_agent_without_environments_works_anywhere() -> None:
    assert reason(registered(), environment="") is None


def test_an_agent_calls_its_own_tools_only() -> None:
    entry = registered(tools=frozenset({"account.read"}), hand_on={"helper": frozenset({"crm.*"})})

    assert entry.allows("account.read", None)
    assert not entry.allows("crm.read", None)


def test_an_agent_hands_on_its_own_tools_and_those_it_may_hand_on_to_that_agent() -> None:
    entry = registered(tools=frozenset({"account.read"}), hand_on={"researcher": frozenset({"crm.*"})})

    assert entry.allows("account.read", "researcher")
    assert entry.allows("crm.read", "researcher")
    assert not entry.allows("crm.read", "stranger")
    assert not entry.allows("mail.send", "researcher")


def test_no_tools_means_none_and_no_list_means_any() -> None:
    assert not registered(tools=frozenset()).allows("account.read", None)
    assert registered().allows("account.read", None)


def test_an_agent_opens_only_the_purposes_it_is_registered_for() -> None:
    entry = registered(purposes={"refund": None, "report": "pin"})

    assert entry.may_open("refund", "whatever")
    assert entry.may_open("report", "pin")
    assert not entry.may_open("report", "other")
    assert not entry.may_open("report", "")
    assert not entry.may_open("report", None)
    assert not entry.may_open("transfer", "pin")


def test_an_agent_without_purposes_opens_any() -> None:
    assert registered().may_open("transfer", "")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"task_ttl": 0}, "task_ttl"),
        ({"task_ttl": 86_401}, "task_ttl"),
        ({"task_ttl": float("nan")}, "task_ttl"),
        ({"max_depth": -1}, "max_depth"),
        ({"max_depth": 17}, "max_depth"),
        ({"max_depth": True}, "max_depth"),
        ({"calls": (0, 60.0)}, "calls"),
        ({"calls": (1, 0.0)}, "calls"),
        ({"calls": (1, float("inf"))}, "calls"),
        ({"status": "paused"}, "status 'paused': write active, suspended, retired"),
        ({"tools": frozenset({"a*"})}, "'a*' is no pattern"),
        ({"hand_on": {"x": frozenset({"a*"})}}, "'a*' is no pattern"),
        ({"tools": "pay"}, "'pay' is one text"),
        ({"hand_on": {"x": "pay"}}, "'pay' is one text"),
        ({"not_before": 2.0, "expires": 1.0}, "not_before must be earlier"),
        ({"expires": float("nan")}, "must be numbers"),
        ({"not_before": float("nan"), "expires": 1.0}, "must be numbers"),
    ],
)
def test_a_wrong_registration_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        registered(**changes)

    assert expected in str(caught.value)


def test_a_registration_cannot_be_changed_through_what_it_was_made_from() -> None:
    tools, handed = {"crm.read"}, {"crm.*"}
    hand_on = {"researcher": handed}
    entry = registered(tools=tools, hand_on=hand_on)
    hand_on["stranger"] = {"*"}
    tools.add("*")
    handed.add("*")

    assert not entry.allows("mail.send", "stranger")
    assert not entry.allows("mail.send", "researcher")
    assert not entry.allows("mail.send", None)


def test_the_registry_knows_its_agents_and_nobody_else() -> None:
    entry = registered("bot")
    registry = Registry([entry, registered("other")])

    assert registry.get("bot") is entry
    assert registry.get("Bot") is None
    assert registry.names() == ("bot", "other")
    assert registry.registration == "registered"


def test_a_registry_with_a_name_twice_or_an_unknown_heir_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Registry([registered("bot"), registered("bot"), registered("a", hand_on={"ghost": frozenset({"*"})})])

    assert caught.value.problems == (
        "agent 'bot' is there twice",
        "agent 'a' hands on to 'ghost', which is not registered",
    )


def test_the_open_registry_admits_every_well_formed_name_and_says_so() -> None:
    registry = OpenRegistry()
    entry = registry.get("support-bot")

    assert entry is not None
    assert (entry.agent, entry.task_ttl, entry.max_depth) == (Agent("support-bot", proof=Proof.IN_PROCESS), 600.0, 3)
    assert entry.refusal(0.0, "anywhere") is None
    assert entry.allows("any.tool", None)
    assert registry.registration == "none"
    assert registry.names() == ()


@pytest.mark.parametrize("name", ["", "a b", "a>b", "a\nb", "-a", "x" * 257])
def test_the_open_registry_admits_no_malformed_name(name: str) -> None:
    assert OpenRegistry().get(name) is None
