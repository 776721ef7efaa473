"""What the guard asks for a call: of decision points, of people and of the issuer; never anything the model said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from agentguard.approval.rendering import rendered, rendered_value
from agentguard.intent import Step
from agentguard.intent.provenance import Candidate, From
from agentguard.intent.tree import hash_of, step_tree
from agentguard.matching import Level, levels_of
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.canonical import canonical, readable
from agentguard.model.decision import Outcome
from agentguard.model.lease import Grant, LeaseKey
from agentguard.model.principal import Chain
from agentguard.policy.obligations import NOTHING, Obligations
from agentguard.ports import ApprovalRequest, Origin

if TYPE_CHECKING:
    from agentguard.task import Task

_MOST: Final = 20
_LONGEST: Final = 256
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
    subject = by == "subject" or any(step.by == "subject" for _, step in used if step.outcome is Outcome.ASK)
    return ApprovalRequest(
        call=call.id, tool=call.spec.name, arguments=rendered(call), digest=call.digest,
        chain=task.chain.text(), purpose=task.root.intent.purpose, step=steps[-1],
        by="subject" if subject else "operator", origins=tuple(_origins(used)), agent=task.chain.actor.name,
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


def grant_for(
    task: Task, call: ToolCall, arguments_hash: str, now: float, steps: Sequence[str] | None = None,
    obligations: Obligations = NOTHING,
) -> Grant:  # fmt: skip
    """What the issuer is asked for.

    Where a policy obliges to it, the credential is single-use, or lives no longer than so many seconds; then it serves
    only calls under the same bound. A single-use credential carries the call's values (RFC 9396), and where `steps` are
    given each one carries the steps that admitted it, with their bounds; then it serves only calls that the same steps
    admit.
    """
    spec, chain = call.spec, task.chain
    resource = spec.resource_of(call.arguments) if spec.resource else ""
    key = _key(task, spec, chain, resource)
    details: tuple[Mapping[str, Any], ...] = ()
    single_use, left = spec.single_use or obligations.per_call_lease, task.remaining()
    if single_use or steps is not None:
        said = {"type": DETAILS_TYPE, "actions": [spec.name], "locations": [spec.audience]}
        if resource:
            said["identifier"] = resource
        if steps:
            said |= _bounds(task, call, steps)
        if single_use:
            said |= _values(call, arguments_hash)
        details = (said,)
    return Grant(
        key=key, chain=chain, task=task.id, intent_s256=_s256(task), authorization_details=details,
        details_s256=_tells_apart(task, steps, obligations) if steps or obligations.max_ttl else "",
        single_use=single_use,
        reads=spec.effect is Effect.READ, deadline=now + (min(left, ttl) if (ttl := obligations.max_ttl) else left),
        max_ttl=obligations.max_ttl, subject_token=task.subject_token,
    )  # fmt: skip


def _s256(task: Task) -> str:
    found: str = task.cache.get("s256") or task.cache.setdefault("s256", task.intent.s256)
    return found


def _key(task: Task, spec: ToolSpec, chain: Chain, resource: str) -> LeaseKey:
    """The lease key; that of a tool without a resource is the same for all its calls, and made once."""
    slot = ("key", spec.name, spec.audience, spec.scopes)
    key: LeaseKey | None = task.cache.get(slot) if not resource else None
    if key is None:
        names = chain.names()
        key = LeaseKey(
            tenant=chain.subject.tenant, subject=names[0], root=task.tree.root, chain=names,
            tool=spec.name, audience=spec.audience, scopes=spec.scopes, resource=resource,
        )  # fmt: skip
        if not resource:
            task.cache[slot] = key
    return key


def _tells_apart(task: Task, steps: Sequence[str] | None, obligations: Obligations) -> str:
    bound = (f"max_ttl={obligations.max_ttl}",) if obligations.max_ttl else ()
    return _hash_of(task, (*(steps or ()), *bound))


def _values(call: ToolCall, arguments_hash: str) -> dict[str, Any]:
    """The values of this one call, so that the resource server can check them again."""
    secret = call.spec.secret
    shown = {
        name: value if type(value) is str else readable(value)
        for name, value in call.arguments.items()
        if name not in secret
    }
    return {"arguments": shown, "arguments_hash": arguments_hash}


def _bounds(task: Task, call: ToolCall, steps: Sequence[str]) -> dict[str, Any]:
    """The steps that admitted a call, at every level, with what they demand of its arguments; made once."""
    slot = ("bounds", call.spec.name, *steps)
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
