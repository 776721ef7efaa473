"""Tokens for an agent on its own account (RFC 6749 section 4.4)."""

from __future__ import annotations

from dataclasses import replace

from agentguard._dpop import DpopKey
from agentguard.credentials.oauth.answer import Asked
from agentguard.credentials.oauth.client_auth import Fields
from agentguard.credentials.oauth.details import plain
from agentguard.credentials.oauth.issuer import Plan, TokenIssuer
from agentguard.credentials.oauth.rules import TokenRules
from agentguard.credentials.oauth.server import AuthorizationServer
from agentguard.model.lease import Grant
from agentguard.model.principal import Proof


class ClientCredentials(TokenIssuer):
    """Obtains tokens for agents that work on their own account; such a token names the client, and no user.

    Args:
        server: issues the tokens.
        rules: what is accepted of it.
        subject: exact `sub` of the tokens; the client id by default.
    """

    def __init__(self, server: AuthorizationServer, rules: TokenRules | None = None, *, subject: str = "") -> None:
        super().__init__(server, rules)
        self._subject = subject or server.client.client_id

    def _plan(self, grant: Grant, key: DpopKey | None) -> Plan | str:
        return client_credentials_plan(grant, self._base(grant, key), self._rules.target, self._subject)


def client_credentials_plan(grant: Grant, base: Asked, target: str, subject: str) -> Plan | str:
    """Return the request for an agent's own token, or why there is none."""
    if grant.chain.subject.proof is not Proof.ITSELF:
        return "client credentials act for no user; use a token exchange for tasks on behalf of one"
    if len(grant.chain.agents) > 1:
        return "client credentials cannot name a chain of agents; open the task for the agent that acts"
    form = [("grant_type", "client_credentials"), *rights_fields(grant, base, target)]

    async def fields(now: float) -> Fields:
        return form

    return Plan(fields, replace(base, subject=subject))


def rights_fields(grant: Grant, base: Asked, target: str) -> Fields:
    """The fields that say what a token is for: one target (RFC 8707), scope, and details (RFC 9396)."""
    form = [(target, base.audience)]
    if grant.key.scopes:
        form.append(("scope", " ".join(grant.key.scopes)))
    if grant.authorization_details:
        form.append(("authorization_details", plain(grant.authorization_details)))
    return form
