"""Step 7: a credential for this tool, audience and task: issued, or reused."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from agentguard.access import CurrentCall
from agentguard.asking import Asked, asked_for, grant_for
from agentguard.credentials.held import Use
from agentguard.errors import CredentialUnavailable
from agentguard.model.credential import Credential
from agentguard.model.decision import Reason
from agentguard.pipeline.identify import identify
from agentguard.policy.obligations import NOTHING
from agentguard.refusal import Refusal, cause
from agentguard.stopping import suspension_keys
from agentguard.telemetry import spans

if TYPE_CHECKING:
    from agentguard.model.lease import Grant
    from agentguard.running import Running


async def lease(call: Running) -> None:
    """For a tool with an audience, a credential under its lease key: issued, or reused."""
    guard, task, spec = call.guard, call.task, call.tool.spec
    credential: Credential | None = None
    if not spec.audience:
        names = task.chain.names()
    else:
        leases = guard.leases
        if leases is None:
            raise Refusal(Reason.CREDENTIAL_UNAVAILABLE, "this guard has no issuer, and the tool needs a credential")
        # A call that the gate is going to refuse obtains no credential; the gate itself looks again.
        try:
            stopped = await guard.suspensions.suspended(task.cache.get("keys") or suspension_keys(task))
        except Exception as error:
            raise Refusal(Reason.SUSPENDED, f"the suspensions cannot be read ({cause(error)})") from None
        if stopped:
            raise Refusal(Reason.SUSPENDED, f"{stopped} is suspended", level=stopped)
        asked: Asked | None = task.cache.get(("asked", spec.name))
        if asked is None or asked.spec is not spec:
            asked = asked_for(task, spec)
        use: Use | None = None
        try:
            if call.span.parts:
                with call.span.phase(spans.CREDENTIAL_ISSUE) as phase:
                    use = call.use = await leases.obtain(grant_for(call, asked))
                    phase.obtained(use.credential.lease, use.cached)
            else:
                # A credential that is kept for all calls of the tool is found before there is a grant. INVARIANT:
                # none is, where its token says something of a call, or a policy says how it must be.
                if asked.kept is not None and not guard.details:
                    obligations = call.judged.obligations if call.judged is not None else NOTHING
                    if not (obligations.per_call_lease or obligations.max_ttl):
                        use = call.use = leases.reuse(asked.kept, task.id)
                if use is None:
                    use = call.use = await leases.obtain(grant_for(call, asked))
        except CredentialUnavailable as error:
            raise Refusal(Reason.CREDENTIAL_UNAVAILABLE, str(error)) from None
        names, credential = asked.grant.key.chain, use.credential
        credential.renewed_by = partial(renew, call)
        if call.span.on:
            call.span.lease, call.span.cached = credential.lease, use.cached
    known_as = call.call.id
    retried = call.reservation.id if call.reservation is not None else known_as
    call.visible = CurrentCall(known_as, spec.name, task.id, names, retried, credential)
    binder, (copy, hidden) = call.tool.binder, call.copies
    as_given = binder.as_given and not hidden
    call.arguments = ((), copy) if as_given else binder.call_arguments(copy, hidden, credential)


async def renew(call: Running, refused: str) -> None:
    """Obtain another credential for the running call, because its target refused the one it has, or it ends.

    Raises:
        CredentialUnavailable: the call may not go on, has had another one already, or none could be had.
    """
    use, leases = call.use, call.guard.leases
    if use is None or leases is None:
        raise CredentialUnavailable("this call has no credential that could be renewed")
    await leases.renew(use, refused, partial(_permitted, call))
    if call.span.on:
        call.span.lease, call.span.cached = use.credential.lease, use.cached


async def _permitted(call: Running) -> Grant:
    try:
        identify(call)
    except Refusal as no:
        raise CredentialUnavailable(f"the call may not go on: {no.reason}") from None
    if stopped := await call.guard.suspensions.suspended(suspension_keys(call.task)):
        raise CredentialUnavailable(f"{stopped} is suspended")
    return grant_for(call, asked_for(call.task, call.tool.spec))
