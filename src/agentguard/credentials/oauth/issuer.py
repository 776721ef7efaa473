"""What the grants of an authorization server share: a lease first, then a token that is verified, or nothing."""

from __future__ import annotations

import functools
import math
import os
import re
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from agentguard._dpop import DpopKey
from agentguard._http import Response
from agentguard.credentials.oauth.access_token import Verified, trust_answer, verify_access_token, verify_introspection
from agentguard.credentials.oauth.answer import Answer, Asked, Refused, is_jwt, read_answer
from agentguard.credentials.oauth.ends import end_in, known_end
from agentguard.credentials.oauth.revocation import introspect_token, revoke_token
from agentguard.credentials.oauth.rules import TokenRules
from agentguard.credentials.oauth.server import SEND_SECONDS, AuthorizationServer, MakeFields
from agentguard.errors import ConfigurationError, CredentialUnavailable
from agentguard.model.credential import Issued
from agentguard.model.lease import LEEWAY, Ending, Grant, Lease, Placement, Secret

_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_UNSURE: Final = "unsure"
_MOST: Final = 1000
_LATE_LEEWAY: Final = LEEWAY + math.ceil(SEND_SECONDS)  # it may be issued as late as the request is given up


@dataclass(frozen=True, slots=True)
class Plan:
    """One request for a token.

    Args:
        fields: makes the form of one attempt.
        asked: what has to come back.
    """

    fields: MakeFields
    asked: Asked


class TokenIssuer:
    """Obtains access tokens; a grant type adds what is asked for. Implements the port `Issuer`.

    INVARIANT: no frame of an error that leaves here holds a token: whatever goes wrong is returned as a `Refused`, and
    raised after everything else was let go.

    Args:
        server: issues the tokens.
        rules: what is accepted of it.
    """

    suspends: bool = False
    waits: bool = True
    remote: bool = True

    def __init__(self, server: AuthorizationServer, rules: TokenRules | None = None) -> None:
        self._server, self._rules = server, rules or TokenRules()
        self.details = self._rules.details
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        # INVARIANT: what the server gave and `issue` did not return is here, whatever stopped it, so `revoke` without a
        # handle can end it; or that there is none.
        self._failed: OrderedDict[str, Secret | None] = OrderedDict()

    def prepare(self, grant: Grant, now: float) -> Lease:
        """Return the lease before anything is asked for; it ends when the longest token that is accepted would.

        A server does not know the task's end, so a token whose answer is lost may outlive it.

        Raises:
            ConfigurationError: a scope is no scope-token (RFC 6749 section 3.3).
        """
        if not _are_scopes(grant.key.scopes):
            raise ConfigurationError(
                f"scopes {grant.key.scopes!r}: a scope is printable ASCII without space, quote, backslash"
            )
        return Lease(
            id=os.urandom(16).hex(),
            issuer=self._server.issuer,
            key=grant.key,
            task=grant.task,
            issued_at=now,
            expires_at=now + self._rules.max_lifetime,
            type="access_token",
            placement=Placement.DPOP if self._rules.dpop else Placement.BEARER,
            verifier_leeway=_LATE_LEEWAY,
        )

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        """Obtain the token of a prepared lease and verify that it is what was asked for, and no more.

        Raises:
            CredentialUnavailable: there is none that may be used; what was issued instead has been revoked, or
                `revoke` with the prepared lease ends it.
        """
        outcome = await self._outcome(grant, lease, now)
        if isinstance(outcome, Refused):
            error = CredentialUnavailable(f"no token from {self._server.issuer}: {outcome.why}")
            error.ends_at, error.outage = outcome.ends_at, outcome.outage
            del outcome  # it may hold what was issued instead, and the traceback keeps this frame
            raise error
        return outcome

    async def _outcome(self, grant: Grant, lease: Lease, now: float) -> Issued | Refused:
        key = DpopKey(clock=self._server.clock) if self._rules.dpop else None
        plan = (
            self._plan(grant, key) if self._is_due(grant, lease, now) else "the task's end has passed, or the lease's"
        )
        if isinstance(plan, str):
            return await self._given_up(lease, Refused(plan, may_exist=False))
        began = self._server.monotonic()
        until = began + min(SEND_SECONDS, grant.deadline - now)
        answer = await self._answer(grant, plan, key, until)
        if isinstance(answer, Refused):
            return await self._given_up(lease, answer)
        self._hold(lease, self._handle(answer.token, unsure=answer.unsure))
        verified = await self._verified(answer, plan.asked, now, until)
        if isinstance(verified, Refused):
            return await self._given_up(lease, verified)
        issued = self._issued(lease, answer, verified, key)
        self._let_go(lease)
        return issued

    def _is_due(self, grant: Grant, lease: Lease, now: float) -> bool:
        return now < min(grant.deadline, lease.expires_at) and lease.key == grant.key

    def _plan(self, grant: Grant, key: DpopKey | None) -> Plan | str:
        """Return the request, or why there is none."""
        raise NotImplementedError

    async def _answer(self, grant: Grant, plan: Plan, key: DpopKey | None, until: float) -> Answer | Refused:
        response = await self._token_request(self._server, plan.fields, key, until)
        return response if isinstance(response, Refused) else read_answer(response, plan.asked)

    async def _token_request(
        self, server: AuthorizationServer, fields: MakeFields, key: DpopKey | None, until: float
    ) -> Response | Refused:
        known = await server.metadata(until)
        if isinstance(known, Refused):
            return known
        return await server.post(known.token_endpoint, fields, until, key, known=known)

    async def _verified(self, answer: Answer, asked: Asked, asked_at: float, until: float) -> Verified | Refused:
        ends_at = 0.0
        if is_jwt(answer.token):
            verified = await self._verified_jwt(answer, asked, until)
        elif self._rules.introspect:
            said = await introspect_token(self._server, answer.token, until)
            now = self._server.clock()
            verified = said if isinstance(said, str) else verify_introspection(said, answer, asked, now)
            ends_at = 0.0 if isinstance(said, str) else end_in(said)
        else:
            verified = trust_answer(answer, asked, asked_at)
        if isinstance(verified, Verified):
            return verified
        return Refused(verified, token=answer.token, unsure=answer.unsure, lifetime=answer.lifetime, ends_at=ends_at)

    async def _verified_jwt(self, answer: Answer, asked: Asked, until: float) -> Verified | str:
        issuer, clock = self._server.issuer, self._server.clock
        fresh = self._server.fresh_keys()
        verified = verify_access_token(answer, asked, issuer, fresh, clock()) if fresh is not None else ""
        if isinstance(verified, Verified):
            return verified
        # Perhaps its key is a new one.
        return await self._server.verified(
            answer.token, until, lambda keys: verify_access_token(answer, asked, issuer, keys, clock())
        )

    async def _given_up(self, lease: Lease, refused: Refused) -> Refused:
        """Revoke what was issued all the same, and remember for `revoke` what is left to do."""
        if refused.token is not None:
            left = refused.unsure or refused.refresh is not None
            self._hold(lease, self._handle(refused.token, unsure=left))
            if refused.refresh is not None:
                with suppress(CredentialUnavailable):
                    left = await revoke_token(self._server, refused.refresh) is not Ending.REVOKED or refused.unsure
            handle = self._handle(refused.token, unsure=left)
            self._hold(lease, handle)
            refused = replace(refused, ends_at=known_end(refused, self._server.clock()))
            with suppress(CredentialUnavailable):  # it is held until it is asked for again
                ending = await self._end(handle)
                self._ended(lease, ending)
                if ending is Ending.REVOKED:
                    return replace(refused, ends_at=0.0)
        elif not refused.may_exist:
            self._hold(lease, None)
        return refused

    def _hold(self, lease: Lease, handle: Secret | None) -> None:
        with self._lock:
            self._failed[lease.id] = handle
            if len(self._failed) > _MOST:
                self._failed.popitem(last=False)

    def _let_go(self, lease: Lease) -> None:
        with self._lock:
            self._failed.pop(lease.id, None)

    def _ended(self, lease: Lease, ending: Ending) -> None:
        """What is revoked stays known as that; the rest ends by itself."""
        self._let_go(lease)
        if ending is Ending.REVOKED:
            self._hold(lease, None)

    def _issued(self, lease: Lease, answer: Answer, verified: Verified, key: DpopKey | None) -> Issued:
        # A token of an earlier attempt whose answer was lost ends by the time the prepared lease says.
        slack = math.ceil(max(0.0, lease.expires_by - verified.expires_at)) if answer.unsure else LEEWAY
        issued = Lease(
            id=lease.id, issuer=lease.issuer, key=lease.key, task=lease.task, issued_at=lease.issued_at,
            placement=lease.placement, name=lease.name, parent=lease.parent, expires_at=verified.expires_at,
            fingerprint=answer.token.fingerprint(), type=verified.type, jti=verified.jti,
            verifier_leeway=max(LEEWAY, slack),
        )  # fmt: skip
        return Issued(issued, answer.token, self._handle(answer.token, unsure=answer.unsure), key)

    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        """End a token at its server (RFC 7009); one that the server cannot revoke, or nobody knows, ends by itself.

        Raises:
            CredentialUnavailable: it may be alive still; ask again.
        """
        return await (self._end_failed(lease) if handle is None else self._end(handle))

    async def _end(self, handle: Secret) -> Ending:
        token, issuer, unsure = _opened(handle)
        # INVARIANT: a token goes to the server that issued it; another one would learn it, and say that it is revoked.
        if issuer not in ("", self._server.issuer):
            raise CredentialUnavailable(
                f"the token is of {issuer}, and this broker asks {self._server.issuer} now; put it back under `tokens` "
                "until its leases have ended"
            )
        if is_jwt(token) and not self._rules.revocable:
            return Ending.EXPIRES
        ending = await revoke_token(self._server, token)
        return Ending.EXPIRES if unsure else ending

    async def _end_failed(self, lease: Lease) -> Ending:
        with self._lock:
            known, handle = lease.id in self._failed, self._failed.get(lease.id)
        if handle is None:
            return Ending.REVOKED if known else Ending.EXPIRES
        ending = await self._end(handle)
        self._ended(lease, ending)
        return ending

    def _handle(self, token: Secret, *, unsure: bool) -> Secret:
        """What `revoke` needs: the token and its server; where another one may exist, this end is not the lease's."""
        return Secret(" ".join([*([_UNSURE] if unsure else []), self._server.issuer, token.reveal()]))

    def _base(
        self, grant: Grant, key: DpopKey | None, issued_type: str = "", subject: str = "", actors: tuple[str, ...] = ()
    ) -> Asked:
        """What every grant asks for: one target, these scopes, these details."""
        return Asked(
            audience=self._target(grant),
            client_id=self._server.client.client_id,
            scopes=grant.key.scopes,
            details=grant.authorization_details,
            issued_type=issued_type,
            subject=subject,
            actors=actors,
            token_type="DPoP" if key else "Bearer",  # a type, no token
            thumbprint=key.thumbprint if key else "",
            max_lifetime=self._rules.max_lifetime,
            default_lifetime=self._rules.default_lifetime,
            enrichment=self._rules.enrichment,
            leeway=self._rules.leeway,
        )

    def _target(self, grant: Grant) -> str:
        return self._rules.targets.get(grant.key.audience, grant.key.audience)

    def close(self) -> None:
        """Close the connections to the server."""
        self._server.close()

    def after_fork(self) -> None:
        """In a child process: wait for nobody of the parent, and hold none of its tokens."""
        self._start()
        self._server.after_fork()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._server.issuer} as {self._server.client.client_id}>"


@functools.lru_cache(maxsize=1024)
def _are_scopes(scopes: tuple[str, ...]) -> bool:
    return all(_SCOPE.fullmatch(scope) for scope in scopes)


def _opened(handle: Secret) -> tuple[Secret, str, bool]:
    """Return the token of a handle, its server (or nothing, in one of before), and whether another one may exist."""
    *said, token = handle.reveal().split(" ")
    return Secret(token), next((word for word in said if word != _UNSURE), ""), _UNSURE in said
