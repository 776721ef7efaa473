"""Tokens for an agent that acts for a user, by exchanging the user's own (RFC 8693)."""

from __future__ import annotations

from typing import Final

from agentguard._dpop import DpopKey
from agentguard.credentials.oauth.actor import Actor
from agentguard.credentials.oauth.client_auth import Fields
from agentguard.credentials.oauth.client_credentials import client_credentials_plan, rights_fields
from agentguard.credentials.oauth.issuer import Plan, TokenIssuer
from agentguard.credentials.oauth.rules import TokenRules
from agentguard.credentials.oauth.server import AuthorizationServer, MakeFields
from agentguard.model.lease import Grant, SubjectToken
from agentguard.model.principal import Proof

_GRANT: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105  # a type, no token
NO_SUBJECT: Final = (
    "the user is only asserted, so no token proves them; open the task with on_behalf_of=User.verified(id_token)"
)


class TokenExchange(TokenIssuer):
    """Exchanges the user's token for one of this tool, audience and chain of agents; one exchange carries the chain.

    The user's token goes to this server and nowhere else. A task of an agent on its own account gets a token by client
    credentials.

    Args:
        server: issues the tokens.
        actor: proves the agent that acts.
        rules: what is accepted of the server.
        own_subject: exact `sub` of an agent's own tokens; the client id by default.
    """

    def __init__(
        self, server: AuthorizationServer, actor: Actor, rules: TokenRules | None = None, *, own_subject: str = ""
    ) -> None:
        super().__init__(server, rules)
        self._actor, self._own_subject = actor, own_subject or server.client.client_id

    def _plan(self, grant: Grant, key: DpopKey | None) -> Plan | str:
        target = self._rules.target
        if grant.chain.subject.proof is Proof.ITSELF:
            return client_credentials_plan(grant, self._base(grant, key), target, self._own_subject)
        if grant.subject_token is None:
            return NO_SUBJECT
        if problem := self._actor.problem(grant.chain):
            return problem
        subject = "" if self._rules.subject == "any" else grant.chain.subject.name
        asked = self._base(grant, key, ACCESS_TOKEN, subject, self._actor.expected(grant.chain))
        form = [("requested_token_type", ACCESS_TOKEN), *rights_fields(grant, asked, target)]
        return Plan(exchange_fields(grant, grant.subject_token, self._actor, form), asked)


def exchange_fields(grant: Grant, subject: SubjectToken, actor: Actor, form: Fields) -> MakeFields:
    """Return what makes the form of one attempt at an exchange (RFC 8693 section 2.1)."""

    async def fields(now: float) -> Fields:
        return [
            ("grant_type", _GRANT),
            ("subject_token", subject.secret.reveal()),
            ("subject_token_type", subject.type),
            *await actor.fields(grant.chain, now),
            *form,
        ]

    return fields
