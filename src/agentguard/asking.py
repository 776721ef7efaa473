"""What the guard asks for a call: of decision points, of people and of the issuer; never anything the model said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentguard.explanation import shown_arguments
from agentguard.model.call import ToolCall
from agentguard.model.canonical import readable
from agentguard.model.decision import AccessRequest
from agentguard.model.lease import Grant, LeaseKey
from agentguard.ports import ApprovalRequest

if TYPE_CHECKING:
    from agentguard.task import Task


def access_request(task: Task, call: ToolCall, environment: str, steps: tuple[str, ...]) -> AccessRequest:
    """The question to a decision point (AuthZEN 1.0), with the arguments that the tool records in clear."""
    spec, chain = call.spec, task.chain
    shown = {name: readable(call.arguments[name]) for name in spec.record if name in call.arguments}
    return AccessRequest(
        subject={"type": "user", "id": chain.subject.sub, "properties": {"proof": chain.subject.proof.value}},
        action={"name": spec.name, "properties": {"effect": spec.effect.value, "tags": sorted(spec.tags)}},
        resource={
            "type": spec.name, "id": spec.resource_of(call.arguments), "properties": {"data": sorted(spec.data)},
        },
        context={
            "environment": environment, "purpose": task.root.intent.purpose, "intent": task.intent.name,
            "intent_s256": task.intent.s256, "steps": list(steps), "chain": list(chain.names()),
            "agent_proof": chain.actor.proof.value, "seen": sorted(task.tree.seen), "arguments": shown,
        },
    )  # fmt: skip


def approval_request(task: Task, call: ToolCall, step: str) -> ApprovalRequest:
    """The question to a person: these exact arguments, once."""
    return ApprovalRequest(
        call=call.id, tool=call.spec.name, arguments=shown_arguments(call), digest=call.digest,
        chain=task.chain.text(), purpose=task.root.intent.purpose, step=step,
    )  # fmt: skip


def grant_for(task: Task, call: ToolCall, arguments_hash: str, now: float) -> Grant:
    """What the issuer is asked for; a single-use credential carries the call's values (RFC 9396)."""
    spec, chain = call.spec, task.chain
    resource = spec.resource_of(call.arguments)
    key = LeaseKey(
        tenant=chain.subject.tenant, subject=chain.subject.sub, root=task.root.id, chain=chain.names(), tool=spec.name,
        audience=spec.audience, scopes=spec.scopes, resource=resource,
    )  # fmt: skip
    details = (_details(call, resource, arguments_hash),) if spec.single_use else ()
    return Grant(
        key=key, chain=chain, task=task.id, intent_s256=task.intent.s256, authorization_details=details,
        single_use=spec.single_use, deadline=now + task.remaining(),
    )  # fmt: skip


def _details(call: ToolCall, resource: str, arguments_hash: str) -> Mapping[str, Any]:
    """RFC 9396 details of this one call, so that the resource server can check its values again."""
    spec = call.spec
    shown = {name: readable(value) for name, value in call.arguments.items() if name not in spec.secret}
    return {
        "type": "agentguard_tool_call", "actions": [spec.name], "locations": [spec.audience], "identifier": resource,
        "arguments": shown, "arguments_hash": arguments_hash,
    }  # fmt: skip
