"""Verifies an access token and says who acts for whom, with which scopes."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol

import anyio
import anyio.to_thread

from agentguard._drive import drive, driven, loop_running
from agentguard._jwt import ACCESS_TOKEN, Keys, Profile, Rejection, actors_of, examine
from agentguard.errors import ConfigurationError
from agentguard.resource_server.rejection import InsufficientScope, rejected
from agentguard.resource_server.tracing import note_token

ASK_SECONDS: Final = 5.0
REQUIRED: Final = frozenset({"sub", "client_id", "jti"})
_TEXTS: Final = ("agentguard_resource", "intent_s256", "txn", "tenant")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedToken:
    """What a verified access token says.

    Decide by `subject`, `actor`, the scopes and the details. The rest of the chain is history (RFC 8693 section 4.1).

    Args:
        subject: whom the call is for: `sub`.
        actor: who calls: the outermost `act`, or the subject if nobody acts for it.
        chain: from the subject to the actor, as the claims name them.
        scopes: what was granted.
        resource: the one resource the token is for (`agentguard_resource`), or empty.
        details: RFC 9396 `authorization_details`.
        client_id: the OAuth client.
        jti, issuer: together they name the token; the token's text does not.
        expires_at: seconds since the epoch.
        intent_s256: hash of the intent, or empty.
        txn: the root task, or empty.
        tenant: the tenant, or empty.
        audience: whom it is for: this API.
        thumbprint: of the key it is bound to and whose possession was proved, or empty (RFC 9449 section 6.1).
    """

    subject: str
    actor: str
    chain: tuple[str, ...]
    scopes: frozenset[str]
    resource: str
    details: tuple[Mapping[str, Any], ...]
    client_id: str
    jti: str
    issuer: str
    expires_at: int
    intent_s256: str
    txn: str
    tenant: str
    audience: str = field(default="", compare=False)
    thumbprint: str = ""

    @property
    def chain_text(self) -> str:
        """`user:alice > support-bot > researcher`, for people: the same text as in the guard's records."""
        return " > ".join((self.chain[0], *(name.removeprefix("agent:") for name in self.chain[1:])))

    def require(self, scope: str = "", resource: str = "") -> None:
        """Return if the token carries every scope and is for the resource.

        Args:
            scope: one scope, or several separated by spaces: all of them are needed.
            resource: exact resource, with its variable parts percent-encoded.

        Raises:
            InsufficientScope: it does not; a `TokenRejected` that the middleware answers with 403.
            ConfigurationError: neither was given.
        """
        scopes = scope.split()
        if not scopes and not resource:
            raise ConfigurationError(
                'say what is required: require(scope="refunds:write") or require(resource="account/7")'
            )
        if not self.scopes.issuperset(scopes):
            raise InsufficientScope(" ".join(scopes), "the token does not carry the scope")
        if resource and self.resource != resource:
            raise InsufficientScope(" ".join(scopes), "the token is for another resource")


class AccessTokens(Protocol):
    """What verifies one kind of access token: `TokenVerifier` or `IntrospectionVerifier`.

    `examined` never raises and asks others for at most `seconds`. With a `thumbprint` the token has to be bound to that
    key; without one it must be bound to none. `remote` says that a server may be asked.
    """

    @property
    def audience(self) -> str: ...
    @property
    def remote(self) -> bool: ...

    async def examined(
        self, token: str, *, thumbprint: str = "", now: float | None = None, seconds: float = ASK_SECONDS
    ) -> VerifiedToken | Rejection: ...


class StatusCheck(Protocol):
    """Says whether the `status` claim of a token that was verified lets it pass: None, or why not. It never raises."""

    async def refusal(self, status: object, now: float, seconds: float) -> Rejection | None: ...


class TokenVerifier:
    """Verifies access tokens (RFC 9068) of one issuer for one audience. Safe for threads and event loops.

    Args:
        keys: the issuer's public keys.
        issuer: exact `iss`.
        audience: this API's origin, exact `aud`.
        revoked: told `(iss, jti)`, says whether the token was revoked; a raise, or anything but False, refuses it.
        status: looks a token's `status` claim up (`StatusListCheck`); without one a token that has the claim is
            refused, because nobody could say whether it still counts.
        require_status: refuse a token without `status`.
        leeway: seconds that clocks may differ, at most 60.
        max_lifetime: most seconds between `iat` and `exp`, at most 86,400.
        require_details: refuse a token without `authorization_details`.

    Raises:
        ConfigurationError: a bound is out of range, the issuer or audience is empty, `keys` finds none by its id,
            `revoked` is no plain function, or a status is required that nobody looks up.
    """

    def __init__(
        self,
        keys: Keys,
        issuer: str,
        audience: str,
        *,
        revoked: Callable[[str, str], bool] | None = None,
        status: StatusCheck | None = None,
        require_status: bool = False,
        leeway: int = 30,
        max_lifetime: int = 3600,
        require_details: bool = False,
    ) -> None:
        if inspect.iscoroutinefunction(revoked):
            raise ConfigurationError("revoked is a plain function of (iss, jti); the middleware calls it on a thread")
        if not callable(getattr(keys, "find", None)):
            raise ConfigurationError("keys is a KeySet; of a Jwks, what it holds now: await jwks.keys()")
        if require_status and status is None:
            raise ConfigurationError("require_status needs something to ask: status=StatusListCheck(...)")
        self._keys = keys
        self._revoked, self._status = revoked, status
        optional = {"authorization_details": require_details, "status": require_status}
        self._profile = Profile(
            typ=ACCESS_TOKEN,
            issuer=issuer,
            audience=audience,
            required=REQUIRED | {name for name, needed in optional.items() if needed},
            leeway=leeway,
            max_lifetime=max_lifetime,
        )

    @property
    def audience(self) -> str:
        """The `aud` of its tokens: this API."""
        return self._profile.audience

    @property
    def remote(self) -> bool:
        """Whether a server may be asked: for a status list."""
        return self._status is not None

    @property
    def may_block(self) -> bool:
        """Whether `verify` calls `revoked` or asks for a status list, which may wait."""
        return self._revoked is not None or self.remote

    def verify(self, token: str, now: float | None = None) -> VerifiedToken:
        """Return what the token says; one that is bound to a key is refused, see `RequestVerifier`.

        Args:
            token: the compact form, without `Bearer`.
            now: seconds since the epoch; the wall clock by default.

        Raises:
            TokenRejected: it does not pass; the text holds nothing of it.
            ConfigurationError: a status list may have to be fetched and an event loop runs here: `await verified(...)`.
        """
        outcome = self.examine(token, now)
        del token  # the traceback keeps this frame
        if isinstance(outcome, Rejection):
            raise rejected(outcome)
        return outcome

    async def verified(self, token: str, now: float | None = None) -> VerifiedToken:
        """Return what `verify` returns, for callers in an event loop.

        Raises:
            TokenRejected: it does not pass; the text holds nothing of it.
        """
        try:
            outcome = await self.examined(token, now=now)
        finally:
            del token  # the traceback keeps this frame
        if isinstance(outcome, Rejection):
            raise rejected(outcome)
        return outcome

    def examine(self, token: str, now: float | None = None) -> VerifiedToken | Rejection:
        """Return what the token says, or why it is refused; it never raises because of a token."""
        if self.remote:
            refuse_to_block_a_loop()
        return drive(self.examined(token, now=now))

    async def examined(
        self, token: str, *, thumbprint: str = "", now: float | None = None, seconds: float = ASK_SECONDS
    ) -> VerifiedToken | Rejection:
        """Return what the token says, or why it is refused; it never raises.

        Args:
            token: the compact form.
            thumbprint: of the key whose possession was proved; the token has to be bound to it.
            now: seconds since the epoch; the wall clock by default.
            seconds: how long `revoked` may take in an event loop, and then the status list.
        """
        now = time.time() if now is None else now
        claims = examine(token, bound_to(self._profile, thumbprint), self._keys, now)
        if isinstance(claims, Rejection):
            return claims
        said = told_by(claims, self.audience, thumbprint)
        if isinstance(said, Rejection):
            return said
        note_token(said.jti)
        return await self._revocation(claims, seconds) or await self._refused_status(claims, now, seconds) or said

    async def _revocation(self, claims: Mapping[str, Any], seconds: float) -> Rejection | Literal[False]:
        revoked, iss, jti = self._revoked, claims["iss"], claims["jti"]
        if revoked is None:
            return False
        answer: object = None
        try:
            if driven():
                answer = revoked(iss, jti)
            else:
                with anyio.move_on_after(seconds):
                    answer = await anyio.to_thread.run_sync(revoked, iss, jti, abandon_on_cancel=True)
        except Exception:  # noqa: S110  # deny by default: what cannot be checked is not accepted
            pass
        if answer is False:
            return False
        return Rejection("the token has been revoked" if answer is True else "revocation could not be checked")

    async def _refused_status(self, claims: Mapping[str, Any], now: float, seconds: float) -> Rejection | None:
        if "status" not in claims:
            return None
        if self._status is None:
            return Rejection("the token has a status that this API does not look up")
        return await self._status.refusal(claims["status"], now, seconds)


def refuse_to_block_a_loop() -> None:
    """Refuse a synchronous caller that would block the event loop it runs in.

    Raises:
        ConfigurationError: an event loop runs in this thread.
    """
    if loop_running():
        raise ConfigurationError("this asks a server and would block the event loop; await verified(...) instead")


def bound_to(profile: Profile, thumbprint: str) -> Profile:
    """Return the profile of tokens that are bound to this key, or to none where it is empty."""
    return replace(profile, thumbprint=thumbprint) if thumbprint else profile


def told_by(claims: Mapping[str, Any], audience: str, thumbprint: str) -> VerifiedToken | Rejection:
    """Return what claims that passed a profile say, or why they are refused all the same."""
    if not all(isinstance(claims.get(name, ""), str) for name in _TEXTS):
        return Rejection("a claim that must be text is not")
    chain = (claims["sub"], *reversed(actors_of(claims)))
    return VerifiedToken(
        subject=claims["sub"],
        actor=chain[-1],
        chain=chain,
        scopes=frozenset(claims.get("scope", "").split(" ")) - {""},
        resource=claims.get("agentguard_resource", ""),
        details=tuple(claims.get("authorization_details", ())),
        client_id=claims["client_id"],
        jti=claims["jti"],
        issuer=claims["iss"],
        expires_at=claims["exp"],
        intent_s256=claims.get("intent_s256", ""),
        txn=claims.get("txn", ""),
        tenant=claims.get("tenant", ""),
        audience=audience,
        thumbprint=thumbprint,
    )
