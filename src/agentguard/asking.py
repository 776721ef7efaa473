"""What the guard asks for a call: of decision points, of people and of the issuer; never anything the model said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from agentguard.approval.rendering import rendered, rendered_value
from agentguard.credentials.held import Key, apart, key_of
from agentguard.intent import Step
from agentguard.intent.earlier import Candidate
from agentguard.intent.provenance import From
from agentguard.intent.tree import hash_of, step_tree
from agentguard.levels import Level, levels_of
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.canonical import canonical, readable
from agentguard.model.decision import Outcome
from agentguard.model.lease import Grant, LeaseKey
from agentguard.policy.obligations import NOTHING, Obligations
from agentguard.ports import ApprovalRequest, Origin

if TYPE_CHECKING:
    from agentguard.running import Running
    from agentguard.task import Task

_MOST: Final = 20
_LONGEST: Final = 256
_OTHERWISE: Final = "otherwise"  # stands for a step where an intent asks for what it does not name
DETAILS_TYPE: Final = "agentguard_tool_call"


def approval_request(
    task: Task, call: ToolCall, steps: tuple[str, ...], by: str = "", policy: str = "", expires_at: float = 0.0
) -> ApprovalRequest:
    """The question to a person: these exact arguments, once, with where their values come from.

    Args:
        task, call, steps: what would run, and the step of each level that admitted it.
        by: whom a policy obliges to ask, if one does: `operator` or `subject`.
        policy: versions of the policies that decided.
        expires_at: seconds since the epoch after which an answer comes too late.
    """
    used = list(_steps_used(task, steps))
    # INVARIANT: whoever demands an operator, as all do who name nobody, is not served by the subject's own approval.
    asked = {step.by for _, step in used if step.outcome is Outcome.ASK} | ({by} if by else set())
    asked |= {"operator"} if _OTHERWISE in steps else set()
    whom = "subject" if asked == {"subject"} else "operator"
    return ApprovalRequest(
        call=call.id, tool=call.spec.name, arguments=rendered(call), digest=call.digest,
        chain=task.chain.text(), purpose=task.root.intent.purpose, step=steps[-1],
        by=whom, origins=tuple(_origins(used)), agent=task.chain.actor.name,
        subject=task.chain.subject.sub, owner=task.agent.owners.get("business", ""), policy=policy,
        expires_at=expires_at,
    )  # fmt: skip


def _steps_used(task: Task, steps: tuple[str, ...]) -> Iterator[tuple[Level, Step]]:
    for level, name in zip(levels_of(task).levels, steps, strict=False):
        yield from ((level, step) for step in level.intent.intent.steps if step.id == name)


def _origins(used: Iterable[tuple[Level, Step]]) -> Iterator[Origin]:
    for level, step in used:
        for argument, said in step.args.items():
            for item in said.walk():
                if isinstance(item, From) and level.results is not None:
                    found, _ = level.results.of(item.source)
                    values = sorted({_candidate(value) for call in found for value in call.values})
                    calls = tuple(dict.fromkeys(call.call for call in found if call.call))[-_MOST:]
                    source, where = item.tool or item.step, str(item.field or item.arg)
                    yield Origin(argument, source, where, tuple(values[:_MOST]), calls)


def _candidate(value: Candidate) -> str:
    """A candidate as text; whoever shows it makes it visible. A long one is cut, with its hash."""
    return value if isinstance(value, str) and len(value) <= _LONGEST else rendered_value(value)


def grant_for(running: Running, asked: Asked) -> Grant:
    """What the issuer is asked for.

    Where a policy obliges to it, the credential is single-use, or lives no longer than so many seconds; then it serves
    only calls under the same bound. A single-use credential carries the call's values (RFC 9396), and for an issuer
    that puts them into its tokens each one carries the steps that admitted it, with their bounds; then it serves only
    calls that the same steps admit.
    """
    task, call, guard, judged = running.task, running.call, running.guard, running.judged
    spec, left = call.spec, task.deadline - guard.monotonic()
    if left < 0.0:
        left = 0.0
    if guard.details or judged is not None or spec.resource:
        return _grant_for(running, asked, judged.obligations if judged is not None else NOTHING, left)
    # What differs from call to call of one tool in one task, where its values are all that a token says of a call.
    details: tuple[Mapping[str, Any], ...] = ()
    if asked.single_use:
        details = ({**asked.said, "arguments": _shown(call), "arguments_hash": running.hash},)
    # The chain is as it is now: that of a task that was parked is settled when it is opened again.
    return replace(asked.grant, chain=task.chain, authorization_details=details, deadline=guard.now() + left)


def _grant_for(running: Running, asked: Asked, obligations: Obligations, left: float) -> Grant:
    task, call, guard = running.task, running.call, running.guard
    steps = running.decision.steps if guard.details and guard.details_for(call.spec.audience) else None
    resource, key, most = call.spec.resource_of(call.arguments), asked.grant.key, obligations.max_ttl
    single_use = asked.single_use or obligations.per_call_lease
    details: tuple[Mapping[str, Any], ...] = ()
    if single_use or steps is not None:
        said = {**asked.said}
        if resource:
            said["identifier"] = resource
        if steps:
            said |= _bounds(task, call, steps)
        if single_use:
            said |= {"arguments": _shown(call), "arguments_hash": running.hash}
        details = (said,)
    return replace(
        asked.grant, key=replace(key, resource=resource) if resource else key, chain=task.chain,
        authorization_details=details, single_use=single_use,
        details_s256=_tells_apart(task, steps, obligations, call.spec) if steps or most else "",
        deadline=guard.now() + (min(left, most) if most else left), max_ttl=most,
    )  # fmt: skip


def _shown(call: ToolCall) -> dict[str, Any]:
    """The values of this one call, so that the resource server can check them again."""
    shown: dict[str, Any] = dict(call.arguments)
    for name in call.spec.secret:
        shown.pop(name, None)
    for name, value in shown.items():
        if type(value) is not str:  # most are, and show as they are
            text = str(value) if type(value) is Decimal else ""
            shown[name] = text if text.isdecimal() else readable(value)  # a whole number's text is its digits
    return shown


class Asked(Struct, frozen=True):
    """What is asked for all calls of one tool in one task.

    Args:
        spec: what it was made from; another tool may be called like it.
        grant: without what a call adds: the chain as it is by then, the call's resource and values, what a policy
            demands of it, and its deadline.
        kept: the key under which a credential is kept for the next call, or None where a call is asked for by itself.
        said: how the authorization details begin.
        single_use: as in `Grant`.
    """

    spec: ToolSpec
    grant: Grant
    kept: Key | None
    said: Mapping[str, Any]
    single_use: bool


def asked_for(task: Task, spec: ToolSpec) -> Asked:
    """What is asked for every call of a tool; made once per task and tool."""
    found: Asked | None = task.cache.get(("asked", spec.name))
    if found is not None and found.spec is spec:
        return found
    chain = task.chain
    names = chain.names()
    key = LeaseKey(
        tenant=chain.subject.tenant, subject=names[0], root=task.tree.root, chain=names,
        tool=spec.name, audience=spec.audience, scopes=spec.scopes, resource="",
    )  # fmt: skip
    grant = Grant(
        key=key, chain=chain, task=task.id, intent_s256=task.intent.s256, single_use=spec.single_use,
        reads=spec.effect is Effect.READ, subject_token=task.subject_token,
    )  # fmt: skip
    asked = task.cache[("asked", spec.name)] = Asked(
        spec, grant, None if spec.single_use or spec.resource else key_of(key, task.id, apart("", reads=grant.reads)),
        {"type": DETAILS_TYPE, "actions": [spec.name], "locations": [spec.audience]}, spec.single_use,
    )  # fmt: skip
    return asked


def _tells_apart(task: Task, steps: Sequence[str] | None, obligations: Obligations, spec: ToolSpec) -> str:
    """INVARIANT: whatever a kept credential's token says beside its key; of secret arguments it says nothing."""
    bound = (f"max_ttl={obligations.max_ttl}",) if obligations.max_ttl else ()
    hidden = [f"secret={name}" for name in sorted(spec.secret)] if steps else ()
    return _hash_of(task, (*(steps or ()), *hidden, *bound))


def _bounds(task: Task, call: ToolCall, steps: Sequence[str]) -> dict[str, Any]:
    """The steps that admitted a call, at every level, with what they demand of its arguments; made once."""
    slot = ("bounds", call.spec.name, call.spec.secret, *steps)  # another tool may be called like it
    found: dict[str, Any] | None = task.cache.get(slot)
    if found is None:
        used = [_bounded(step, call.spec) for _, step in _steps_used(task, tuple(steps))]
        found = task.cache[slot] = {"steps": used} if used else {}
    return found


def _bounded(step: Step, spec: ToolSpec) -> dict[str, Any]:
    tree = step_tree(step)
    args = {name: said for name, said in tree.get("args", {}).items() if name not in spec.secret}
    exact = canonical({"step": step.id, **({"args": args} if args else {})})
    return dict(readable(exact))


def _hash_of(task: Task, steps: Sequence[str]) -> str:
    slot = ("details", *steps)
    found: str | None = task.cache.get(slot)
    if found is None:
        found = task.cache[slot] = hash_of(list(steps))
    return found
