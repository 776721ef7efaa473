"""The requests of poll mode, and what the ID token has to say (OpenID CIBA Core 1.0 sections 7, 10.1 and 11)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

from agentguard._http import Response
from agentguard._jwt import MAX_LIFETIME, Profile
from agentguard.approval.ciba_answers import Again, Ended, Started, Tokens, read_polled, read_started
from agentguard.approval.ciba_open import Open
from agentguard.approval.ciba_people import Person
from agentguard.approval.message import binding_message
from agentguard.approval.provider import NoAnswer, OpenIdProvider
from agentguard.ports import ApprovalRequest

GRANT_TYPE: Final = "urn:openid:params:grant-type:ciba"
AUTH_REQ_ID: Final = "urn:openid:params:jwt:claim:auth_req_id"
LEEWAY: Final = 30
_SEND_SECONDS: Final = 15.0
_REVOKE_SECONDS: Final = 4.0  # a release is shielded for five
_ATTEMPTS: Final = 3
_BETWEEN: Final = 1.0
Pause: TypeAlias = Callable[[float], Awaitable[None]]


class Backchannel:
    """The backchannel of one provider.

    Args:
        provider: it, and this client's proof.
        pause: waits for some seconds.
        length: characters of a binding message at most.
    """

    def __init__(self, provider: OpenIdProvider, pause: Pause, length: int) -> None:
        self.provider, self._pause, self._length = provider, pause, length
        # It says who approved just now and is used for nothing after that, so it may live for as long as a login.
        self._profile = Profile(
            typ=frozenset({"jwt", ""}), issuer=provider.issuer, audience=provider.client.client_id,
            required=frozenset({"sub"}), leeway=LEEWAY, max_lifetime=MAX_LIFETIME,
        )  # fmt: skip

    async def start(self, request: ApprovalRequest, person: Person, until: float) -> Open | str:
        """Have the provider ask somebody, or return why it does not (sections 7.1 and 7.3).

        Args:
            request: the question.
            person: whom to ask.
            until: monotonic seconds at which the question ends; the provider may end it earlier.
        """
        asked_at = self.provider.clock()
        started, now = read_started(await self._asked(request, person, until)), self.provider.monotonic()
        if not isinstance(started, Started):
            return started
        until = min(until, now + started.expires_in)
        return Open(started.id, person, request.digest, until, started.interval, asked_at=asked_at)

    async def _asked(self, request: ApprovalRequest, person: Person, until: float) -> Response | NoAnswer:
        """Ask once; again only if nothing was sent, or the person's device would ring twice."""
        answer: Response | NoAnswer = NoAnswer("the question has expired", sent=False)
        for attempt in range(_ATTEMPTS):
            if attempt:
                await self._pause(_BETWEEN)
            left = until - self.provider.monotonic()
            if left <= 0:
                break
            answer = await self._asked_once(request, person, left)
            if not isinstance(answer, NoAnswer) or answer.sent:
                break
        return answer

    async def _asked_once(self, request: ApprovalRequest, person: Person, left: float) -> Response | NoAnswer:
        known = await self.provider.metadata(min(_SEND_SECONDS, left))
        if isinstance(known, str):
            return NoAnswer(known, sent=False)
        fields = [
            ("scope", "openid"),
            ("login_hint", person.hint),
            ("binding_message", binding_message(request, longest=self._length)),
            ("requested_expiry", str(max(1, int(left)))),
        ]
        return await self.provider.post(known.backchannel_authentication_endpoint, fields, min(_SEND_SECONDS, left))

    async def poll(self, question: Open, left: float) -> Tokens | Again | Ended:
        """Ask for the answer once (section 10.1); what cannot be reached is asked again.

        Args:
            question: it.
            left: seconds until it ends.
        """
        known = await self.provider.metadata(min(_SEND_SECONDS, left))
        if isinstance(known, str):
            return Again.UNAVAILABLE
        fields = [("grant_type", GRANT_TYPE), ("auth_req_id", question.id)]
        return read_polled(await self.provider.post(known.token_endpoint, fields, min(_SEND_SECONDS, left)))

    async def difference(self, tokens: Tokens, question: Open) -> str:
        """Return in what an ID token is not the answer of whom was asked, or nothing (Core section 3.1.3.7)."""
        known = await self.provider.metadata(_SEND_SECONDS)
        if isinstance(known, str) or tokens.id_token is None:
            return known if isinstance(known, str) else "the provider's answer holds no ID token"
        claims = await self.provider.claims(tokens.id_token, self._profile, known.jwks_uri)
        if isinstance(claims, str):
            return f"the ID token does not verify: {claims}"
        return _difference(claims, question, self._profile.audience)

    async def revoke(self, tokens: Tokens) -> None:
        """End what came along, as far as the provider can; nobody keeps it, so else it ends unused."""
        until = self.provider.monotonic() + _REVOKE_SECONDS
        known = await self.provider.metadata(_REVOKE_SECONDS)
        for token, kind in () if isinstance(known, str) or not known.revocation_endpoint else tokens.others:
            left = until - self.provider.monotonic()
            if left > 0:
                fields = [("token", token.reveal()), ("token_type_hint", kind)]
                await self.provider.post(known.revocation_endpoint, fields, left)  # type: ignore[union-attr]  # no token else


def _difference(claims: Mapping[str, Any], question: Open, client_id: str) -> str:
    if claims["sub"] != question.person.sub:
        return "the ID token is of somebody else than who was asked"
    if claims.get("azp", client_id) != client_id:
        return "the ID token is another client's"
    if claims.get(AUTH_REQ_ID, question.id) != question.id:
        return "the ID token answers another question"
    if claims["iat"] < question.asked_at - LEEWAY:
        return "the ID token is older than the question"
    return ""
