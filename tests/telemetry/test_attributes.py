from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.model.lease import Lease
from agentguard.model.principal import Agent, Chain, Proof, Subject
from agentguard.telemetry import semconv as name
from agentguard.telemetry.attributes import (
    Attributes,
    error_type_of,
    lease_attributes,
    release_attributes,
    task_attributes,
)


def attributes_of(chain: Chain, subject_hash: str = "4be1c0ffee99") -> Attributes:
    return task_attributes(chain, "t", "i", "s256:x", subject_hash, chain.agents[0].name)


def test_a_user_is_a_pseudonym_in_the_chain(task: Attributes) -> None:
    assert ("u:4be1c0ff", "support-bot", "researcher") == task[name.AGENTGUARD_DELEGATION_CHAIN]
    assert "u:4be1c0ff > support-bot > researcher" == task[name.AGENTGUARD_DELEGATION_CHAIN_TEXT]
    assert "alice" not in str(task)


def test_the_acting_agent_is_the_last_of_the_chain(task: Attributes) -> None:
    assert "researcher" == task[name.GEN_AI_AGENT_NAME]
    assert 1 == task[name.AGENTGUARD_DELEGATION_DEPTH]


def test_an_agent_that_acts_for_itself_is_named_and_has_no_user() -> None:
    chain = Chain(Subject("nightly", proof=Proof.ITSELF, sponsor="ann"), (Agent("nightly", proof=Proof.VERIFIED),))

    attributes = attributes_of(chain)

    assert "agent:nightly > nightly" == attributes[name.AGENTGUARD_DELEGATION_CHAIN_TEXT]
    assert name.USER_HASH not in attributes
    assert attributes[name.AGENTGUARD_DELEGATION_VERIFIED] is True


@pytest.mark.parametrize(
    ("subject", "agent", "expected"),
    [
        (Proof.VERIFIED, Proof.VERIFIED, True),
        (Proof.ASSERTED, Proof.VERIFIED, False),
        (Proof.VERIFIED, Proof.IN_PROCESS, False),
        (Proof.VERIFIED, Proof.ASSERTED, False),
    ],
)
def test_a_chain_is_verified_only_if_every_link_is(subject: Proof, agent: Proof, expected: bool) -> None:
    chain = Chain(Subject("alice", proof=subject), (Agent("a", proof=Proof.VERIFIED), Agent("b", proof=agent)))

    assert attributes_of(chain)[name.AGENTGUARD_DELEGATION_VERIFIED] is expected


@given(agents=st.lists(st.text(min_size=1, max_size=400), min_size=1, max_size=40), digits=st.text(max_size=400))
def test_a_long_chain_is_bounded_and_keeps_who_acts(agents: list[str], digits: str) -> None:
    attributes = attributes_of(Chain(Subject("alice"), tuple(Agent(agent) for agent in agents)), digits)

    names = attributes[name.AGENTGUARD_DELEGATION_CHAIN]
    assert isinstance(names, tuple)
    assert len(names) <= 16
    assert agents[-1][:256] == names[-1]
    texts = [text for value in attributes.values() for text in (value if isinstance(value, tuple) else (value,))]
    assert all(len(text) <= 256 for text in texts if isinstance(text, str))


def test_no_text_is_longer_than_256_characters() -> None:
    long = "x" * 400

    attributes = task_attributes(Chain(Subject("alice"), (Agent(long), Agent(long))), long, long, long, long, long)

    assert 256 == len(str(attributes[name.AGENTGUARD_TASK_ID]))
    assert 256 == len(str(attributes[name.AGENTGUARD_DELEGATION_CHAIN_TEXT]))
    assert ("u:xxxxxxxx", "x" * 256, "x" * 256) == attributes[name.AGENTGUARD_DELEGATION_CHAIN]


def test_a_subject_without_hash_is_unknown_and_never_named() -> None:
    attributes = attributes_of(Chain(Subject("alice"), (Agent("a"),)), "")

    assert "u:unknown > a" == attributes[name.AGENTGUARD_DELEGATION_CHAIN_TEXT]


def test_a_credential_is_shown_by_its_lease_without_its_fingerprint(lease: Lease) -> None:
    attributes = lease_attributes(lease, cached=True)

    assert ("jti-1", "a:w a:r", 30, 1030, True) == tuple(
        attributes[key]
        for key in (
            name.AGENTGUARD_CREDENTIAL_ID,
            name.AGENTGUARD_CREDENTIAL_SCOPES,
            name.AGENTGUARD_CREDENTIAL_TTL,
            name.AGENTGUARD_CREDENTIAL_EXPIRES_AT,
            name.AGENTGUARD_CREDENTIAL_CACHED,
        )
    )
    assert lease.fingerprint not in str(attributes)


@pytest.mark.parametrize(("status", "life"), [("revoked", 2.5), ("expired", 2.5), ("active", None), ("failed", None)])
def test_a_credential_has_a_life_once_it_is_gone(lease: Lease, status: str, life: float | None) -> None:
    assert life == release_attributes(lease, status, 1002.5).get(name.AGENTGUARD_CREDENTIAL_LIFE)


def test_the_type_of_an_error_is_qualified_and_bare_for_builtins() -> None:
    assert "ValueError" == error_type_of(ValueError("secret"))
    assert "agentguard.errors.Denied" == error_type_of(_denied())


def _denied() -> BaseException:
    from agentguard.errors import Denied

    return Denied.__new__(Denied)
