"""Who acts, proved to the authorization server: the actor token of a token exchange (RFC 8693 section 2.1)."""

from __future__ import annotations

from typing import Final, Protocol

from agentguard._jwt import MAX_ACTORS
from agentguard.credentials.oauth.client_auth import Fields, PrivateKeyJwt, fresh
from agentguard.model.principal import Chain
from agentguard.ports import IdentityTokens

_JWT: Final = "urn:ietf:params:oauth:token-type:jwt"


class Actor(Protocol):
    """Proves the agent that acts.

    `problem` says why a chain cannot be proved, or nothing. `expected` names the actors that the new token's `act` must
    hold, the current one first. `fields` is called for every attempt; a raise means that there is no proof.
    """

    def problem(self, chain: Chain) -> str: ...
    def expected(self, chain: Chain) -> tuple[str, ...]: ...
    async def fields(self, chain: Chain, now: float) -> Fields: ...


class SignedActor:
    """Signs the actor token with the client's key: the current agent, with the earlier agents in its own `act`.

    So one exchange carries the whole chain, and the server sees who vouches for it: `iss` is the client.

    Args:
        client: whose key signs.
    """

    def __init__(self, client: PrivateKeyJwt) -> None:
        self._client = client

    def problem(self, chain: Chain) -> str:
        """Chains of up to 16 agents can be proved."""
        return "" if len(chain.agents) <= MAX_ACTORS else f"a chain of more than {MAX_ACTORS} agents fits no token"

    def expected(self, chain: Chain) -> tuple[str, ...]:
        """`agent:NAME` of every agent."""
        return tuple(f"agent:{agent.name}" for agent in reversed(chain.agents))

    async def fields(self, chain: Chain, now: float) -> Fields:
        """Return the form fields of one attempt, with a token that lives 60 seconds."""
        claims = {**chain.act(), "iss": self._client.client_id, "aud": self._client.issuer, **fresh(now)}
        return [("actor_token", self._client.sign("JWT", claims)), ("actor_token_type", _JWT)]


class WorkloadActor:
    """Proves the agent by the workload's own token; such a token knows no earlier agents.

    Args:
        tokens: gives the workload's tokens, for the issuer as audience.
        issuer: the server's issuer identifier.
    """

    def __init__(self, tokens: IdentityTokens, issuer: str) -> None:
        self._tokens, self._issuer = tokens, issuer

    def problem(self, chain: Chain) -> str:
        """Only an agent that works alone and whose identity was proved can be named."""
        if len(chain.agents) > 1:
            return "a workload's own token names one agent; for a delegated task sign the actor token (actor: signed)"
        if not chain.actor.identity:
            return f"agent {chain.actor.name!r} has no proved identity; configure one, or sign the actor token"
        return ""

    def expected(self, chain: Chain) -> tuple[str, ...]:
        """The identity, such as a SPIFFE ID."""
        return (chain.actor.identity,)

    async def fields(self, chain: Chain, now: float) -> Fields:
        """Return the form fields of one attempt.

        Raises:
            IdentityUnavailable: the workload has no token for this audience.
        """
        token = await self._tokens.token(self._issuer, now)
        return [("actor_token", token.reveal()), ("actor_token_type", _JWT)]
