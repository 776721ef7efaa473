"""Handing a task on: what is left of its authority is reserved, written into a token, and recorded."""

from __future__ import annotations

import binascii
import hashlib
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentguard._drive import run_shielded
from agentguard._jwt import MAX_LEEWAY, Profile, Rejection, examine
from agentguard.active import denial
from agentguard.errors import ConfigurationError, Unavailable
from agentguard.facts import task_facts
from agentguard.handover.details import REQUIRED, TYP, Details, act_of, details_from
from agentguard.handover.levels import Literal, give_back, level_details, literals, narrowing, reserve
from agentguard.handover.parties import MAX_WAIT, Handovers
from agentguard.handover.shares import Share, fraction_of
from agentguard.intent import Intent
from agentguard.intent.literal_intent import scope_of
from agentguard.intent.sets import Resolver
from agentguard.keys import KeySet, SigningKey
from agentguard.model.decision import Reason
from agentguard.model.duration import seconds
from agentguard.model.lease import Secret
from agentguard.model.principal import Proof, checked_name
from agentguard.model.record import Event, Record
from agentguard.ports import Exhausted, Reservation
from agentguard.stopping import stop_of

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.keys import Signer
    from agentguard.task import Task

DEFAULT_WAIT: Final = 60
MAX_MADE: Final = 10_000  # handovers that can be reclaimed at once


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A handover that was made here, for as long as it may be reclaimed."""

    task: str
    jti: str
    held: Reservation | None
    until: float  # seconds since the epoch: the end of the task that it describes


class Exporting:
    """Makes handovers for one guard, and remembers what it holds for them."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._made: dict[bytes, Outgoing] = {}

    async def export(
        self, task: Task, to: str, narrowed: Intent | None, *, ttl: Any = None, redeem_within: Any = None,
        share: Any = None,
    ) -> str:  # fmt: skip
        """Return a token for a task; `Task.export` says what the arguments mean."""
        guard, parties = self._guard, _parties(self._guard)
        if parties.key is None:
            raise ConfigurationError("this guard has no key to hand tasks on with: Handovers(key=SigningKey...)")
        await self._refuse(task, checked_name(to, "agent"))
        wait = DEFAULT_WAIT if redeem_within is None else seconds(redeem_within, "redeem_within: ")
        if not 1 <= wait <= MAX_WAIT:
            raise ConfigurationError(f"redeem_within is 1 to {MAX_WAIT} seconds")
        most = [seconds(ttl, "ttl: ")] if ttl is not None else []
        fraction = fraction_of(share)
        try:
            narrowed = narrowed.resolve(self._resolvers) if narrowed is not None else None
            found = await literals(task, to, narrowed, guard.budgets)
        except ConfigurationError as error:
            raise guard.opening.delegation_refused(task, to, Reason.NOT_ALLOWED, str(error)) from None
        shares: list[tuple[Share, ...]] = []
        held: Reservation | None = None
        # INVARIANT: said before the shares are taken, so that a window begins here after its last use there.
        lasts = min([task.remaining(), *most])
        until = guard.now() + lasts

        async def take() -> None:
            nonlocal shares, held
            reserved = await reserve(found, guard.budgets, fraction, guard.monotonic(), lasts + parties.leeway)
            if isinstance(reserved, Exhausted):
                text = f"what is left of {reserved.charge.key} changes faster than it can be handed on; try again"
                raise guard.opening.delegation_refused(task, to, Reason.BUDGET_EXHAUSTED, text)
            shares, held = reserved

        try:
            # INVARIANT: what a store takes for an export that is cancelled meanwhile is known here, to be given back.
            await run_shielded(take, suspends=guard.reserving_waits)
            return await self._signed(parties, task, to, narrowed, found, shares, held, until, wait)
        except BaseException:
            await run_shielded(lambda: give_back(held, guard.budgets), suspends=guard.release_waits)
            raise

    @property
    def _resolvers(self) -> Mapping[str, Resolver]:
        return self._guard.resolvers

    async def _refuse(self, task: Task, to: str) -> None:
        guard = self._guard
        refusal = guard.opening.delegation_refusal(task, to)
        for link in task.path if refusal is None else ():
            refusal = refusal or link.agent.refusal(guard.now(), guard.environment)
        refusal = refusal or await stop_of(guard, task)
        if refusal is None and any(link.why_stopped for link in task.path):
            refusal = Reason.SUSPENDED, "a task of the chain is stopped"
        if refusal is not None:
            raise guard.opening.delegation_refused(task, to, *refusal)

    async def _signed(
        self, parties: Handovers, task: Task, to: str, narrowed: Intent | None, found: list[Literal],
        shares: list[tuple[Share, ...]], held: Reservation | None, ends: float, wait: float,
    ) -> str:  # fmt: skip
        guard, now = self._guard, self._guard.now()
        jti = secrets.token_urlsafe(16)
        # INVARIANT: what is left is read after everything that may wait, so the far task ends no later than this one.
        until = math.floor(min(ends, now + task.remaining()))
        expires = min(math.floor(now) + math.floor(wait), until)
        if expires <= math.floor(now):
            raise guard.opening.delegation_refused(task, to, Reason.EXPIRED, "the task ends within a second")
        try:
            details = _details(guard, parties, task, to, narrowed, found, shares, until)
        except ConfigurationError as error:  # a text that no file may hold
            raise guard.opening.delegation_refused(task, to, Reason.NOT_ALLOWED, str(error)) from None
        named = narrowed or task.intent.intent
        claims = {
            "iss": parties.issuer, "aud": parties.trust_domain, "iat": math.floor(now), "exp": expires, "jti": jti,
            "txn": task.tree.root, "sub": task.chain.subject.sub, "scope": " ".join(scope_of(named)),
            "req_wl": _workload(task), "rctx": {"environment": guard.environment}, "tctx": msgspec.to_builtins(details),
            **({"act": act} if (act := act_of(task.chain)) else {}),
        }  # fmt: skip
        token = await _compact(parties, claims, now)
        if isinstance(token, Secret):
            await self._refuse(task, to)  # it may have ended or been stopped while store or signer took their time
            for link in task.path:  # whoever stops one of them stops the far side too, also after it ended here
                link.handed_on = True
            self._record(task, to, jti, expires)
            self._remember(_digest(token), Outgoing(task.id, jti, held, until))
            return token.reveal()
        raise guard.opening.delegation_refused(task, to, *token)

    def _record(self, task: Task, to: str, jti: str, expires: int) -> None:
        """INVARIANT: no record, no handover."""
        guard = self._guard
        fields = {**task_facts(guard, task), "to": to, "handover": jti, "redeem_by": expires}
        try:
            guard.records.append(Record(Event.DELEGATED, fields))
        except Exception as error:
            why = error if isinstance(error, Unavailable) else type(error).__name__
            text = f"the handover was not recorded ({why})"
            raise denial(Reason.AUDIT_UNAVAILABLE, "task", text) from None

    def _remember(self, digest: bytes, made: Outgoing) -> None:
        """Keep what may be reclaimed, until its time is over; the share of the oldest that is too many stays spent."""
        self._made[digest] = made
        now, most = self._guard.now(), len(self._made) - MAX_MADE
        for position, (other, old) in enumerate(list(self._made.items())):
            if position < most or not now < old.until:
                self._made.pop(other, None)

    async def reclaim(self, task: Task, token: Secret) -> None:
        """Take back the share of a handover that was provably not redeemed; `Task.reclaim` says when that is."""
        guard, parties = self._guard, _parties(self._guard)
        digest = _digest(token)
        made = self._made.get(digest)
        if made is None or made.task != task.id or not guard.now() < made.until:
            raise ConfigurationError(
                "this task made no such handover, its share was given back, its time is over, or "
                f"{MAX_MADE} others were made since"
            )
        if not parties.redemptions.shared:
            raise ConfigurationError(
                "nobody here can know whether the handover was redeemed: the far side has redemptions of its own; "
                "its share stays spent. Share them: Handovers(redemptions=...)"
            )
        # INVARIANT: whoever takes the id first has it, and it is remembered for longer than this may be asked.
        if not await parties.redemptions.redeem(
            redemption_key(parties.issuer, made.jti), remembered_until(made.until), guard.now()
        ):
            text = "the handover was redeemed, so its share is in use"
            raise guard.opening.delegation_refused(task, "", Reason.NOT_ALLOWED, text)
        self._made.pop(digest, None)
        await run_shielded(lambda: give_back(made.held, guard.budgets), suspends=guard.release_waits)


def _digest(token: Secret) -> bytes:
    return hashlib.sha256(str(token.reveal()).encode("utf-8", "replace")).digest()


def remembered_until(until: float) -> float:
    """How long an id is remembered: past the end of its task, by every clock that may be asked."""
    return until + 2 * MAX_LEEWAY


def redemption_key(issuer: str, jti: str) -> str:
    """What is remembered of a handover: a `jti` names a token of its issuer (RFC 7519 section 4.1.7)."""
    return f"{issuer} {jti}"


def scope_id(issuer: str, jti: str) -> str:
    """What the counters of a handover are named by at the far side; another peer's of the same `jti` has others."""
    return hashlib.sha256(redemption_key(issuer, jti).encode()).hexdigest()[:32]


def _parties(guard: Guard) -> Handovers:
    if guard.handovers is None:
        raise ConfigurationError(
            "this guard hands no tasks on; configure `handovers` with a key in agentguard.yaml, or "
            "Guard(handovers=Handovers(issuer=..., key=...))"
        )
    return guard.handovers


def _workload(task: Task) -> str:
    actor = task.chain.actor
    return actor.identity if actor.proof is Proof.ATTESTED and actor.identity else f"agent:{actor.name}"


def _details(
    guard: Guard, parties: Handovers, task: Task, to: str, narrowed: Intent | None, found: list[Literal],
    shares: list[tuple[Share, ...]], until: int,
) -> Details:  # fmt: skip
    names = [agent.name for agent in task.chain.agents]
    subject, agents = details_from(task.chain)
    levels = []
    for literal, share in zip(found, shares, strict=True):
        position = names.index(literal.link.agent.agent.name)
        levels.append(level_details(literal, share, [*names, to][position + 1], position))
    own = narrowing(task, narrowed) if narrowed is not None else None
    return Details(
        v=1, to=to, until=until, intent_s256=(own or _last(levels, found)).s256, subject=subject, agents=agents,
        levels=sorted(levels, key=lambda level: (level.agent, not level.ceiling)), seen=sorted(task.tree.seen),
        path=[*task.tree.hosts, place_of(guard)], intent=own.to_yaml() if own is not None else "",
    )  # fmt: skip


def _last(levels: list[Any], found: list[Literal]) -> Intent:
    return [literal.intent for literal in found if not literal.ceiling][-1]


def place_of(guard: Guard) -> str:
    """Name this guard in the path of a handover: its issuer, and which of the processes that share it."""
    return f"{_parties(guard).issuer}#{guard.instance}"


async def _compact(parties: Handovers, claims: Mapping[str, Any], now: float) -> Secret | tuple[Reason, str]:
    """Sign; then look at the token as the far side will, so that nobody is sent what nobody accepts."""
    key = parties.key
    assert key is not None  # noqa: S101  # looked at before anything was reserved
    try:
        signer: Signer = key if isinstance(key, SigningKey) else await key.current(now)
        header = {"alg": signer.algorithm, "typ": "txntoken+jwt", "kid": signer.kid}
        signed = b".".join(_base64url(msgspec.json.encode(part)) for part in (header, claims))
        token = b".".join((signed, _base64url(await signer.signature(signed)))).decode("ascii")
        outcome = examine(token, profile_of(parties, parties.issuer), KeySet([signer.public]), now)
    except Unavailable as error:  # its text goes on, its frames do not
        return Reason.CREDENTIAL_UNAVAILABLE, f"the handover could not be signed: {error}"
    except Exception as error:
        return Reason.CREDENTIAL_UNAVAILABLE, f"the handover could not be signed: {type(error).__name__}"
    if isinstance(outcome, Rejection):
        text = f"the handover would be refused ({outcome.why}); hand on fewer tools with reads=, steps= or intent="
        return Reason.NOT_ALLOWED, text
    return Secret(token)


def profile_of(parties: Handovers, issuer: str) -> Profile:
    """The profile of a handover from one issuer."""
    return Profile(
        typ=TYP, issuer=issuer, audience=parties.trust_domain, required=REQUIRED, leeway=parties.leeway,
        max_lifetime=MAX_WAIT,
    )  # fmt: skip


def _base64url(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False).translate(_URLSAFE).rstrip(b"=")


_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")
