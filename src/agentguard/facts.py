"""What records and spans say of a task, and of all calls of a tool in it; made once each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentguard.model.call import ToolSpec
from agentguard.model.principal import Proof
from agentguard.model.record import Facts
from agentguard.telemetry import spans

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.task import Task


def task_facts(guard: Guard, task: Task) -> Mapping[str, Any]:
    """What every record of a task says; made once."""
    facts: Mapping[str, Any] | None = task.cache.get("facts")
    if facts is None:
        chain = task.chain
        task.cache["chain"] = chain
        subject = chain.subject.sub if chain.subject.proof is Proof.ITSELF else guard.pseudonym(chain.subject.sub)
        names = [subject, *chain.names()[1:]]
        facts = task.cache["facts"] = {
            "task": task.id, "root": task.tree.root, "agent": chain.actor.name, "subject": subject,
            "subject_proof": chain.subject.proof.value, "agent_proof": chain.actor.proof.value,
            **({"agent_identity": chain.actor.identity} if chain.actor.proof is Proof.ATTESTED else {}),
            "delegation": names, "intent": task.intent.name, "intent_s256": task.intent.s256,
            "environment": guard.environment, "registration": guard.registry.registration,
            **({"tenant": chain.subject.tenant} if chain.subject.tenant else {}),
            **({"sponsor": guard.pseudonym(chain.subject.sponsor)} if chain.subject.sponsor else {}),
        }  # fmt: skip
    return facts


def span_attributes(guard: Guard, task: Task) -> Mapping[str, Any]:
    """The span attributes of a task; made once."""
    attributes: Mapping[str, Any] | None = task.cache.get("attributes")
    if attributes is None:
        subject = guard.pseudonym(task.chain.subject.sub).removeprefix("u:")
        attributes = task.cache["attributes"] = spans.task_attributes(
            task.chain, task.id, task.intent.name, task.intent.s256, subject, task.root.agent.agent.name
        )
    return attributes


def call_facts(guard: Guard, task: Task, spec: ToolSpec) -> Facts:
    """What every record of a tool's calls in a task says; made once per task and tool."""
    facts: Facts | None = task.cache.get(("facts", spec.name))
    if facts is None or facts.spec is not spec:  # another tool may be called like it
        facts = Facts({**task_facts(guard, task), **_spec_fields(spec)})
        facts.spec = spec
        task.cache[("facts", spec.name)] = facts
    return facts


def _spec_fields(spec: ToolSpec) -> Mapping[str, Any]:
    """What every record of a tool's calls says about the tool."""
    fields: dict[str, Any] = {"tool": spec.name, "effect": spec.effect.value, "credential": spec.audience or "none"}
    if spec.data:
        fields["data"] = sorted(spec.data)
    if spec.tags:
        fields["tags"] = sorted(spec.tags)
    return fields
