"""What a handover says beside the registered claims: the `tctx` of a transaction token, strictly typed and bounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from agentguard._jwt import Rejection, is_name
from agentguard.errors import ConfigurationError
from agentguard.model.principal import MAX_HOPS, Agent, Chain, Proof, Subject, checked_name

TYP: Final = frozenset({"txntoken+jwt"})
REQUIRED: Final = frozenset({"jti", "sub", "txn", "scope", "req_wl", "tctx", "rctx"})
_MALFORMED: Final = Rejection("the details of the handover are malformed")
_FORGED: Final = Rejection("the details of the handover contradict its claims")

_Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=256)]
_Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=16_384)]
_Number: TypeAlias = Annotated[str, msgspec.Meta(max_length=1024, pattern=r"\A-?[0-9]+(?:\.[0-9]+)?\Z")]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    pass


class Spent(_Strict, frozen=True):
    """What is used up of a counter before the far side begins, or what a name is bound to there."""

    key: Annotated[str, msgspec.Meta(max_length=512)]
    limit: _Number
    amount: _Number = "0"
    value: _Name = ""


class LevelDetails(_Strict, frozen=True):
    """One level of the chain: an intent, or a ceiling, with what is left of it."""

    task: _Name
    agent: Annotated[int, msgspec.Meta(ge=0, lt=MAX_HOPS)]  # position in `agents`
    intent: _Text
    max_depth: Annotated[int, msgspec.Meta(ge=0, le=MAX_HOPS)]
    tools: Annotated[list[_Name], msgspec.Meta(max_length=1_000)] | None = None
    spent: Annotated[list[Spent], msgspec.Meta(max_length=1_000)] = []
    ceiling: bool = False
    source: _Name = ""


class AgentDetails(_Strict, frozen=True):
    """An agent of the chain, as it is attested by whoever hands on."""

    name: _Name
    identity: Annotated[str, msgspec.Meta(max_length=2_048)] = ""
    proof: str = Proof.IN_PROCESS.value
    registered: bool = False


class SubjectDetails(_Strict, frozen=True):
    """The subject, with how it was proved where the task began."""

    name: _Name
    issuer: Annotated[str, msgspec.Meta(max_length=2_048)] = ""
    tenant: _Name = ""
    proof: str = Proof.ASSERTED.value
    sponsor: _Name = ""


class Details(_Strict, frozen=True):
    """The `tctx` claim.

    `intent` narrows the last level; where it is left out the agent gets that level's own intent.
    """

    v: Literal[1]
    to: _Name
    until: int
    intent_s256: _Name
    subject: SubjectDetails
    agents: Annotated[list[AgentDetails], msgspec.Meta(min_length=1, max_length=MAX_HOPS)]
    levels: Annotated[list[LevelDetails], msgspec.Meta(min_length=1, max_length=4 * MAX_HOPS)]
    path: Annotated[list[_Name], msgspec.Meta(min_length=1, max_length=MAX_HOPS)]
    intent: _Text = ""
    seen: Annotated[list[_Name], msgspec.Meta(max_length=1_000)] = []

    def chain(self) -> Chain:
        """The chain up to the agent that hands on.

        Raises:
            ValueError: a proof that is none.
        """
        agents = [Agent(one.name, one.identity, Proof(one.proof), one.registered) for one in self.agents]
        subject = self.subject
        return Chain(
            Subject(subject.name, subject.issuer, subject.tenant, Proof(subject.proof), subject.sponsor), tuple(agents)
        )


def details_of(claims: Mapping[str, Any]) -> Details | Rejection:
    """Return the details of claims that passed the profile, or why they are refused: two places never say two things.

    INVARIANT: `sub`, `act`, `scope` and the details agree, so that it does not matter which one somebody reads.
    """
    try:
        details = msgspec.convert(claims["tctx"], Details, strict=True)
        chain = details.chain()
        _check_names(details)
    except (msgspec.ValidationError, ValueError, ConfigurationError):
        return _MALFORMED
    environment = claims["rctx"].get("environment") if isinstance(claims["rctx"], dict) else None
    if not isinstance(environment, str) or not is_name(claims["txn"]):
        return _MALFORMED
    agrees = claims["sub"] == chain.subject.sub and claims.get("act", {}) == act_of(chain)
    return details if agrees else _FORGED


def _check_names(details: Details) -> None:
    checked_name(details.to, "agent")
    checked_name(details.subject.name, "subject")
    for agent in details.agents:
        checked_name(agent.name, "agent")
    if any(level.agent >= len(details.agents) for level in details.levels):
        raise ValueError
    if any("/" in level.task for level in details.levels):  # it begins the scope of its counters, which has none
        raise ValueError
    order = [level.agent for level in details.levels]
    # INVARIANT: each agent has a level that is no ceiling: it brings in what the registry here says of that agent.
    own = {level.agent for level in details.levels if not level.ceiling}
    if order != sorted(order) or own != set(range(len(details.agents))) or details.levels[-1].ceiling:
        raise ValueError


def act_of(chain: Chain) -> dict[str, object]:
    """The `act` claim; an agent that works on its own account is the subject itself, not somebody who acts for it."""
    if chain.subject.sub == f"agent:{chain.agents[0].name}":
        return Chain(chain.subject, chain.agents[1:]).act()
    return chain.act()


def details_from(chain: Chain) -> tuple[SubjectDetails, list[AgentDetails]]:
    """Return subject and agents of a chain as details."""
    subject = chain.subject
    return (
        SubjectDetails(
            name=subject.name, issuer=subject.issuer, tenant=subject.tenant, proof=subject.proof.value,
            sponsor=subject.sponsor,
        ),
        [
            AgentDetails(name=one.name, identity=one.identity, proof=one.proof.value, registered=one.registered)
            for one in chain.agents
        ],
    )  # fmt: skip
