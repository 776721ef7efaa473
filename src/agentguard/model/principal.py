"""Who acts: the subject that authority comes from, the agents that act for it, and the chain they form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import force_setattr

from agentguard.errors import ConfigurationError

MAX_HOPS: Final = 16
MAX_ACTORS: Final = 16  # that one token names
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,255}")


class Proof(StrEnum):
    """How much is known about who somebody is; ATTESTED: the platform vouches for the workload."""

    VERIFIED = "verified"
    ASSERTED = "asserted"
    IN_PROCESS = "in_process"
    ATTESTED = "attested"
    ITSELF = "itself"


def checked_name(name: object, what: str) -> str:
    """Return a name that is safe in a chain, a token and a log; it holds no spaces, `>` or control characters."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{what} {name!r} is no name: use letters, digits and . _ : / @ - (at most 256, no spaces)"
        )
    return name


class Subject(Struct, frozen=True):
    """Whom a task acts for: RFC 8693 `sub`, with the issuer that says so.

    Args:
        name: the subject's identifier at its issuer.
        issuer: who vouches for it; empty for an asserted subject.
        tenant: the tenant it belongs to, or empty.
        proof: how it is known.
        sponsor: for `ITSELF`, the owner of the agent that works on its own account.
    """

    name: str
    issuer: str = ""
    tenant: str = ""
    proof: Proof = Proof.ASSERTED
    sponsor: str = ""

    @property
    def sub(self) -> str:
        """The `sub` claim: prefixed, so that a user can never be taken for an agent (RFC 9068 section 5)."""
        return f"{'agent' if self.proof is Proof.ITSELF else 'user'}:{self.name}"


class Agent(Struct, frozen=True):
    """An agent as a workload: a name, the identity that was proved for it, and how."""

    name: str
    identity: str = ""
    proof: Proof = Proof.IN_PROCESS
    registered: bool = False


class Identity(Struct, frozen=True):
    """What a workload is, as its platform proves it.

    Args:
        name: the SPIFFE ID, or the `sub` of its token; empty for one that is only named in-process.
        proof: `IN_PROCESS` or `ATTESTED`.
        expires_at: seconds since the epoch; infinite where nothing expires.
        issuer: the trust domain, or the token's `iss`.
    """

    name: str
    proof: Proof
    expires_at: float
    issuer: str = ""


class Chain(Struct, frozen=True):
    """The delegation chain, from the subject to the agent that acts now; it only grows by one agent at a time."""

    subject: Subject
    agents: tuple[Agent, ...]
    _names: tuple[str, ...] = ()  # follows from the others, as does the next: neither compared nor shown
    _act: Mapping[str, object] = {}

    def __post_init__(self) -> None:
        force_setattr(self, "_names", (self.subject.sub, *[agent.name for agent in self.agents]))
        claim: dict[str, object] = {}
        for agent in self.agents:
            claim = {"sub": f"agent:{agent.name}", "act": claim} if claim else {"sub": f"agent:{agent.name}"}
        force_setattr(self, "_act", claim)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Chain):
            return NotImplemented
        return (self.subject, self.agents) == (other.subject, other.agents)

    def __hash__(self) -> int:
        return hash((self.subject, self.agents))

    def __repr__(self) -> str:
        return f"Chain(subject={self.subject!r}, agents={self.agents!r})"

    @property
    def actor(self) -> Agent:
        """The agent that acts now."""
        return self.agents[-1]

    @property
    def depth(self) -> int:
        """Hops between agents: 0 for the agent that opened the task."""
        return len(self.agents) - 1

    def names(self) -> tuple[str, ...]:
        """`("user:alice", "support-bot", "researcher")`."""
        return self._names

    def text(self) -> str:
        """`user:alice > support-bot > researcher`, for people."""
        return " > ".join(self._names)

    def act(self) -> dict[str, object]:
        """The nested `act` claim of RFC 8693 section 4.1: the current actor outermost, the first one innermost."""
        return dict(self._act)

    def extended(self, agent: Agent) -> Chain:
        """Return the chain with one more agent."""
        return Chain(self.subject, (*self.agents, agent))
