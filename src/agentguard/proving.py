"""Proving who acts before a task opens: the subject it acts for, and the workload that its agent is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from agentguard.errors import Denied, Unavailable
from agentguard.model.decision import Reason
from agentguard.model.principal import Chain, Identity, Proof, Subject
from agentguard.model.record import Event
from agentguard.user import Itself, User

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.task import Task

_NAMED: Final = Identity("", Proof.IN_PROCESS, math.inf)


async def subject_of(guard: Guard, task: Task) -> Subject:
    """Return whom a root task acts for: as the application says, or as a token proves that this guard verifies.

    Raises:
        Denied: `user_unverified` (recorded).
    """
    user, agent = task.user, task.agent
    if isinstance(user, Itself):
        return Subject(agent.agent.name, proof=Proof.ITSELF, sponsor=agent.owners.get("business", ""))
    assert isinstance(user, User)  # noqa: S101  # root() made it one
    if user.subject is not None:
        return user.subject
    why = "this guard verifies no users; configure `users` in agentguard.yaml"
    if guard.users is not None and user.token is not None:
        try:
            return await guard.users.verify(user.token.reveal(), guard.now())
        except Exception as error:
            why = f"the user's token was refused: {getattr(error, 'why', type(error).__name__)}"
    raise guard.opening.refused(Event.TASK_DENIED, agent.agent.name, Reason.USER_UNVERIFIED, why)


async def prove_agent(guard: Guard, task: Task) -> None:
    """Bind the agent to what this workload proved to be, before any tool is reached.

    Raises:
        Denied: `identity_unproved` (recorded).
    """
    registered = task.agent.agent
    identity = await _identity(guard, task)
    if registered.registered and identity.name != registered.identity:
        proved = f"is {identity.name!r}" if identity.name else "is only named in-process"
        wanted = f"is registered for {registered.identity!r}" if registered.identity else "has no identity there"
        raise _unproved(
            guard, task, f"this workload {proved}, and agent {registered.name!r} {wanted}; see agentguard.yaml"
        )
    if not guard.now() < identity.expires_at:
        raise _unproved(guard, task, f"the identity of this workload, {identity.name!r}, has expired")
    if identity.proof is not Proof.IN_PROCESS:
        chain, proof = task.chain, replace(registered, identity=identity.name, proof=identity.proof)
        task.settle_chain(Chain(chain.subject, (*chain.agents[:-1], proof)))


async def _identity(guard: Guard, task: Task) -> Identity:
    if guard.authenticator is None:
        return _NAMED
    try:
        return await guard.authenticator.identify(guard.now())
    except Exception as error:
        why = str(error) if isinstance(error, Unavailable) else type(error).__name__
        raise _unproved(guard, task, f"this workload could not prove who it is: {why}") from None


def _unproved(guard: Guard, task: Task, text: str) -> Denied:
    event = Event.DELEGATION_DENIED if task.parent else Event.TASK_DENIED
    return guard.opening.refused(event, task.agent.agent.name, Reason.IDENTITY_UNPROVED, text)
