"""Tokens of an API in another domain: the identity provider vouches for user and agent, that domain issues the token.

Identity Assertion JWT Authorization Grant (draft-ietf-oauth-identity-assertion-authz-grant): an exchange at the
identity provider for an ID-JAG, then the jwt-bearer grant (RFC 7523) with it at the API's authorization server.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Final

from agentguard._dpop import DpopKey
from agentguard._http import Response
from agentguard._jwt import Keys, Profile, Rejection, examine
from agentguard.credentials.oauth.access_token import differing
from agentguard.credentials.oauth.actor import Actor
from agentguard.credentials.oauth.answer import Answer, Asked, Refused, read_answer
from agentguard.credentials.oauth.client_auth import Fields
from agentguard.credentials.oauth.client_credentials import rights_fields
from agentguard.credentials.oauth.ends import known_end
from agentguard.credentials.oauth.issuer import Plan, TokenIssuer
from agentguard.credentials.oauth.revocation import revoke_token
from agentguard.credentials.oauth.rules import TokenRules
from agentguard.credentials.oauth.server import AuthorizationServer
from agentguard.credentials.oauth.token_exchange import NO_SUBJECT, exchange_fields
from agentguard.errors import ConfigurationError, CredentialUnavailable
from agentguard.model.lease import Ending, Grant, Secret
from agentguard.model.principal import Proof

ID_JAG: Final = "urn:ietf:params:oauth:token-type:id-jag"
_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_TYP: Final = frozenset({"oauth-id-jag+jwt"})
_REQUIRED: Final = frozenset({"sub", "client_id", "jti"})
MAX_ASSERTION: Final = 300  # seconds an ID-JAG may live


class IdJag(TokenIssuer):
    """Obtains tokens of another domain's authorization server with an assertion of the user's identity provider.

    The assertion is a credential too: it is verified, used once, within the call, and kept nowhere.

    Args:
        provider: the identity provider, whose ID token proves the user.
        server: the API's authorization server, which trusts the provider.
        actor: proves the agent that acts, to the provider.
        rules: what is accepted of the API's authorization server.

    Raises:
        ConfigurationError: both are one server: none accepts an assertion of its own.
    """

    def __init__(
        self, provider: AuthorizationServer, server: AuthorizationServer, actor: Actor, rules: TokenRules | None = None
    ) -> None:
        super().__init__(server, rules)
        if provider.issuer == server.issuer:
            raise ConfigurationError("an ID-JAG is for another authorization server; use a token exchange at this one")
        self._provider, self._actor = provider, actor

    def _plan(self, grant: Grant, key: DpopKey | None) -> Plan | str:
        """Plan the first leg; what is asked of the token itself holds for both."""
        base = self._base(grant, key)
        if grant.chain.subject.proof is Proof.ITSELF:
            return "an ID-JAG vouches for a user; for an agent on its own account use client credentials"
        if grant.subject_token is None:
            return NO_SUBJECT
        if problem := self._actor.problem(grant.chain):
            return problem
        form = [("requested_token_type", ID_JAG), ("audience", self._server.issuer)]
        form += rights_fields(grant, base, "resource")
        subject = "" if self._rules.subject == "any" else grant.chain.subject.name
        asked = replace(base, subject=subject, actors=self._actor.expected(grant.chain))
        return Plan(exchange_fields(grant, grant.subject_token, self._actor, form), asked)

    async def _answer(self, grant: Grant, plan: Plan, key: DpopKey | None, until: float) -> Answer | Refused:
        assertion = await self._assertion(plan, key, until)
        if isinstance(assertion, Refused):
            return await self._without_assertion(assertion)
        form = [("grant_type", _GRANT), *rights_fields(grant, plan.asked, self._rules.target)]

        async def fields(now: float) -> Fields:
            return [*form, ("assertion", assertion.reveal())]

        response = await self._token_request(self._server, fields, key, until)
        return response if isinstance(response, Refused) else read_answer(response, plan.asked)

    async def _assertion(self, plan: Plan, key: DpopKey | None, until: float) -> Secret | Refused:
        response = await self._token_request(self._provider, plan.fields, key, until)
        answer = response if isinstance(response, Refused) else _read_assertion(response, plan.asked)
        if isinstance(answer, Refused):
            return answer
        why = await self._provider.verified(
            answer.token, until, lambda keys: self._difference(answer, plan.asked, keys, key)
        )
        return Refused(why) if why else answer.token

    async def _without_assertion(self, refused: Refused) -> Refused:
        """An assertion is no access token, so none was issued; what else the provider gave may be one, and ends."""
        refreshes = refused.refresh is not None and not await self._ended_there(refused.refresh)
        alive = refused.token is not None and not await self._ended_there(refused.token)
        return Refused(
            f"the identity provider {self._provider.issuer}: {refused.why}",
            may_exist=alive or refreshes,
            outage=refused.outage,
            ends_at=known_end(refused, self._provider.clock()) if alive else 0.0,
        )

    async def _ended_there(self, token: Secret) -> bool:
        with suppress(CredentialUnavailable):
            return await revoke_token(self._provider, token) is Ending.REVOKED
        return False

    def _difference(self, answer: Answer, asked: Asked, keys: Keys, key: DpopKey | None) -> str:
        """Return in what the assertion differs from what was asked, or nothing."""
        profile = Profile(
            typ=_TYP,
            issuer=self._provider.issuer,
            audience=self._server.issuer,
            required=_REQUIRED,
            leeway=asked.leeway,
            max_lifetime=MAX_ASSERTION,
            thumbprint=key.thumbprint if key else "",
        )
        claims = examine(answer.token.reveal(), profile, keys, self._provider.clock())
        if isinstance(claims, Rejection):
            return f"the assertion does not verify: {claims.why}"
        if claims.get("resource", asked.audience) not in (asked.audience, [asked.audience]):
            return "the assertion is for another resource"
        return differing(claims, asked)

    def close(self) -> None:
        """Close the connections to both servers."""
        super().close()
        self._provider.close()

    def after_fork(self) -> None:
        """In a child process: wait for nobody of the parent, and hold none of its tokens."""
        super().after_fork()
        self._provider.after_fork()


def _read_assertion(response: Response, asked: Asked) -> Answer | Refused:
    """Read the answer of the identity provider: an assertion, which is no access token (`N_A`)."""
    wanted = replace(asked, token_type="N_A", issued_type=ID_JAG, max_lifetime=MAX_ASSERTION)  # noqa: S106  # a type
    answer = read_answer(response, wanted)
    if isinstance(answer, Refused) and answer.token is not None and response.json().get("issued_token_type") == ID_JAG:
        return replace(answer, token=None)  # it is an assertion, though another one
    return answer
