"""Taking a task that another process handed on: verified, checked here too, and opened below its whole chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio.to_thread

from agentguard._drive import drive
from agentguard._jwt import Rejection, examine, kid_of
from agentguard.errors import AgentguardError, ConfigurationError, TokenRejected, Unavailable
from agentguard.handover.arrival import Arrival, compiled_from, links_of, seconds_left
from agentguard.handover.details import Details, details_of
from agentguard.handover.exporting import place_of, profile_of, scope_id
from agentguard.handover.parties import Handovers, RemoteKeys
from agentguard.intent import CompiledIntent
from agentguard.intent.literal_intent import scope_of
from agentguard.model.decision import Reason
from agentguard.model.lease import Secret
from agentguard.model.principal import MAX_HOPS, Chain
from agentguard.model.record import Event, Record
from agentguard.task import Task
from agentguard.user import User

if TYPE_CHECKING:
    from agentguard._jwt import Keys
    from agentguard.guard import Guard
    from agentguard.registry import RegisteredAgent

_UNKNOWN: Final = Rejection("no issuer that hands tasks on to this guard has signed it")
_UNTOLD: Final = Rejection("who has signed it cannot be told now: the keys of a peer cannot be had; try again")


def resume(guard: Guard, token: Secret, agent: str = "") -> Task:
    """Return the task that a handover describes; `Guard.resume` says what is checked."""
    parties = guard.handovers
    if parties is None or not parties.peers:
        raise ConfigurationError(
            "this guard takes no tasks; configure `handovers` with peers in agentguard.yaml, or "
            "Guard(handovers=Handovers(peers={issuer: KeySet...}))"
        )
    outcome = _verified(parties, token.reveal(), agent, guard.now())
    if isinstance(outcome, Rejection):
        raise rejected(guard, outcome)
    return _task(guard, *outcome)


async def aresume(guard: Guard, token: Secret, agent: str = "") -> Task:
    """Do what `resume` does on a thread: a peer's keys may have to be fetched, and intents are parsed."""
    return await anyio.to_thread.run_sync(resume, guard, token, agent)


def rejected(guard: Guard, rejection: Rejection) -> TokenRejected:
    """Record that a handover was refused, and return the error; neither holds anything of it."""
    fields = {"outcome": "deny", "reason": "token_rejected", "why": rejection.why}
    guard.records.try_append(Record(Event.TASK_DENIED, fields))
    return rejection.raised()


def _verified(
    parties: Handovers, token: str, agent: str, now: float
) -> tuple[str, dict[str, Any], Details] | Rejection:
    found = _claims(parties, token, now)
    if isinstance(found, Rejection):
        return found
    issuer, claims = found
    details = details_of(claims)
    if isinstance(details, Rejection):
        return details
    if agent and details.to != agent:
        return Rejection("the handover is for another agent")
    return issuer, claims, details


def _claims(parties: Handovers, token: str, now: float) -> tuple[str, dict[str, Any]] | Rejection:
    """INVARIANT: a key verifies only what its own issuer says: each peer has a profile with its own name."""
    kid, refused = kid_of(token) or "", _UNKNOWN
    for issuer, peer in parties.peers.items():
        try:
            keys = _keys_of(peer, token)
        except AgentguardError as error:  # out of reach: its handovers are refused meanwhile
            refused = _UNTOLD if refused is _UNKNOWN and isinstance(error, Unavailable) else refused
            continue
        if keys.find(kid) is None:
            continue
        outcome = examine(token, profile_of(parties, issuer), keys, now)
        if not isinstance(outcome, Rejection):
            return issuer, dict(outcome)
        refused = outcome
    return refused


def _keys_of(peer: Keys | RemoteKeys, token: str) -> Keys:
    """The keys of a peer; those that are fetched are at hand except at first, and after the peer's rotation."""
    return drive(peer.keys_for(token)) if isinstance(peer, RemoteKeys) else peer


def _task(guard: Guard, issuer: str, claims: dict[str, Any], details: Details) -> Task:
    chain, source = details.chain(), {"from": {"issuer": issuer, "jti": claims["jti"]}}
    opening = guard.opening
    registered = opening.registered(details.to, Event.TASK_DENIED, source)
    if refusal := _refusal(guard, claims, details, chain, registered):
        raise opening.refused(Event.TASK_DENIED, details.to, *refusal, source)
    left = seconds_left(details, guard.now())
    intent = _own(claims, details)
    try:
        if isinstance(intent, Rejection):
            raise ConfigurationError(intent.why)
        links = links_of(guard, details, scope_id(issuer, claims["jti"]), chain, left)
    except ConfigurationError as error:
        why = Rejection(f"an intent of the handover cannot be used here: {str(error).splitlines()[0][:200]}")
        raise rejected(guard, why) from None
    limits = [left, registered.task_ttl, *([intent.ttl] if intent.ttl else [])]
    task = Task(
        guard, id=guard.next_id(), agent=registered, intent=intent, user=User(subject=chain.subject),
        chain=chain.extended(registered.agent), parent=links[-1], ttl=min(limits),
    )  # fmt: skip
    tree = task.tree
    tree.root, tree.seen = claims["txn"], frozenset(details.seen)
    tree.origins = tuple(dict.fromkeys(level.task for level in details.levels))
    tree.hosts = tuple(details.path)
    redeem_by = claims["exp"] + (guard.handovers.leeway if guard.handovers else 0)
    task.arrival = Arrival(issuer, claims["jti"], redeem_by, details, links)
    return task


def _own(claims: dict[str, Any], details: Details) -> CompiledIntent | Rejection:
    """What the agent gets: the narrowing, or the last level's own intent; as the claims say."""
    try:
        intent = compiled_from(details.intent or details.levels[-1].intent)
    except ConfigurationError as error:
        return Rejection(str(error))
    if intent.s256 != details.intent_s256:
        return Rejection("the intent is not the one that its hash names")
    named = set(scope_of(intent.intent))
    return intent if named <= set(claims["scope"].split(" ")) else Rejection("the intent is wider than its scope")


def _refusal(
    guard: Guard, claims: dict[str, Any], details: Details, chain: Chain, registered: RegisteredAgent
) -> tuple[Reason, str] | None:
    """Why this guard does not take the task; nothing is redeemed before this."""
    if claims["rctx"]["environment"] != guard.environment:
        return Reason.NOT_ALLOWED, f"the task is of environment {claims['rctx']['environment']!r}, not of this one"
    names = [agent.name for agent in chain.agents]
    if place_of(guard) in details.path:
        return Reason.CYCLE, "the task has passed this process before"
    if details.to in names or len(set(names)) != len(names):
        return Reason.CYCLE, f"{details.to} is in the chain already: {chain.text()}"
    if depth := _too_deep(guard, details, chain):
        return Reason.DEPTH_EXCEEDED, depth
    for agent in chain.agents:
        here = guard.registry.get(agent.name)
        if here is not None and here.agent.registered and here.agent.identity and here.agent.identity != agent.identity:
            return Reason.IDENTITY_UNPROVED, f"agent {agent.name!r} has another identity in this registry"
    root = next(level for level in details.levels if not level.ceiling)
    name = _name_of(root.intent)
    if not registered.may_open(name, root.source or None):
        return Reason.NOT_ALLOWED, f"the registered purposes of agent {details.to!r} do not name intent {name!r}"
    return None


def _name_of(text: str) -> str:
    """The name of an intent in its file form; empty if it is none, which is refused where it is read."""
    try:
        return compiled_from(text).name
    except ConfigurationError:
        return ""


def _too_deep(guard: Guard, details: Details, chain: Chain) -> str:
    here = [found.max_depth for agent in chain.agents if (found := guard.registry.get(agent.name)) is not None]
    deepest = min(MAX_HOPS - 1, *(level.max_depth for level in details.levels), *here)
    hops = max(chain.depth + 1, len(details.path))
    return f"{chain.text()} > {details.to} is longer than {deepest} hops" if hops > deepest else ""
