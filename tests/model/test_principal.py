"""Who acts: subjects, agents and the chain that they form compare, show and copy themselves as values."""

from __future__ import annotations

import copy
import pickle

import pytest

from agentguard.errors import ConfigurationError
from agentguard.model.principal import Agent, Chain, Proof, Subject, checked_name

ALICE = Subject("alice", issuer="https://as.test", proof=Proof.VERIFIED)
CHAIN = Chain(ALICE, (Agent("support-bot"), Agent("researcher")))


def test_chain_names_everybody_from_the_subject_to_the_actor() -> None:
    assert CHAIN.names() == ("user:alice", "support-bot", "researcher")
    assert CHAIN.text() == "user:alice > support-bot > researcher"
    assert CHAIN.actor == Agent("researcher")
    assert CHAIN.depth == 1


def test_current_actor_stands_outermost_in_the_claim() -> None:
    assert CHAIN.act() == {"sub": "agent:researcher", "act": {"sub": "agent:support-bot"}}


@pytest.mark.control("a chain cannot be told who is in it")
def test_names_follow_from_who_is_in_the_chain_whatever_else_is_said() -> None:
    forged = Chain(ALICE, (Agent("support-bot"),), ("user:root",), {"sub": "agent:root"})

    assert forged.names() == ("user:alice", "support-bot")
    assert forged.act() == {"sub": "agent:support-bot"}


def test_chains_are_equal_that_hold_the_same() -> None:
    again = Chain(Subject("alice", issuer="https://as.test", proof=Proof.VERIFIED), CHAIN.agents)

    assert again == CHAIN
    assert hash(again) == hash(CHAIN)
    assert CHAIN != Chain(Subject("alice"), CHAIN.agents)
    assert CHAIN != CHAIN.extended(Agent("third"))
    assert CHAIN != CHAIN.names()


def test_chain_shows_who_is_in_it_and_nothing_twice() -> None:
    assert repr(Chain(Subject("bob"), ())) == f"Chain(subject={Subject('bob')!r}, agents=())"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda chain: pickle.loads(pickle.dumps(chain))])
def test_copied_chain_is_the_same(copied) -> None:
    again = copied(CHAIN)

    assert again == CHAIN
    assert again.names() == CHAIN.names()
    assert again.act() == CHAIN.act()


def test_chain_does_not_change() -> None:
    with pytest.raises(AttributeError):
        CHAIN.subject = Subject("eve")  # type: ignore[misc]  # that it is refused is the test


def test_agent_on_its_own_account_is_no_user() -> None:
    assert Subject("bot", proof=Proof.ITSELF).sub == "agent:bot"


@pytest.mark.parametrize("name", ["", "a b", "a>b", "x" * 257, None])
def test_name_that_could_be_read_as_another_is_refused(name: object) -> None:
    with pytest.raises(ConfigurationError, match="is no name"):
        checked_name(name, "agent")
