"""The question to a decision point: built once a call, the same for all, never from what the model says.

AuthZEN's four parts (Authorization API 1.0 section 5). docs/policy.md shows them as a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final

from agentguard.model.call import ToolCall, ToolSpec
from agentguard.model.canonical import Canonical, Digest
from agentguard.model.decision import AccessRequest
from agentguard.model.principal import Chain, Proof

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
_HOLE: Final = "{"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """What the guard knows of the task a call belongs to.

    Args:
        environment: as configured, for example `prod`.
        task: the task's id.
        purpose: of the root task's intent.
        intent, intent_s256: name and digest of the task's own intent.
        steps: for each level, the step that admitted the call.
        seen: classes of data that the task's tree has seen.
        attributes: what the attribute sources said, by their names.
        missing: names of attribute sources that could not tell.
    """

    environment: str
    task: str = ""
    purpose: str = ""
    intent: str = ""
    intent_s256: str = ""
    steps: tuple[str, ...] = ()
    seen: frozenset[str] = frozenset()
    attributes: Mapping[str, Any] = field(default_factory=lambda: _NONE)
    missing: tuple[str, ...] = ()


def request_for(call: ToolCall, chain: Chain, facts: TaskFacts) -> AccessRequest:
    """Build the question about a call, with the arguments that its tool records in clear.

    Args:
        call: bound and canonical.
        chain: who acts for whom.
        facts: of the task.
    """
    spec = call.spec
    return AccessRequest(
        subject=_subject(chain),
        action={
            "name": spec.name,
            "properties": {"effect": spec.effect.value, "tags": sorted(spec.tags), "scopes": list(spec.scopes)},
        },
        resource={
            "type": resource_type(spec),
            "id": spec.resource_of(call.arguments) or spec.name,
            "properties": {
                "audience": spec.audience, "data": sorted(spec.data), "environment": facts.environment,
            },
        },
        context=_context(call, chain, facts),
    )  # fmt: skip


def _subject(chain: Chain) -> dict[str, Any]:
    subject = chain.subject
    return {
        "type": "agent" if subject.proof is Proof.ITSELF else "user",
        "id": subject.name,
        "properties": {
            "issuer": subject.issuer, "tenant": subject.tenant, "proof": subject.proof.value,
            "sponsor": subject.sponsor,
        },
    }  # fmt: skip


def _context(call: ToolCall, chain: Chain, facts: TaskFacts) -> dict[str, Any]:
    actor = chain.actor
    shown = {name: argument(call.arguments[name]) for name in call.spec.record if name in call.arguments}
    return {
        "environment": facts.environment, "task": facts.task, "purpose": facts.purpose, "intent": facts.intent,
        "intent_s256": facts.intent_s256, "steps": list(facts.steps), "seen": sorted(facts.seen),
        "agent": {"name": actor.name, "identity": actor.identity, "proof": actor.proof.value},
        "chain": list(chain.names()), "depth": chain.depth, "arguments": shown,
        "attributes": dict(facts.attributes), "missing": list(facts.missing),
    }  # fmt: skip


def argument(value: Canonical) -> Any:
    """An argument as a decision point sees it: a number stays a Decimal, bytes become their digest."""
    match value:
        case Decimal():
            return value
        case Digest():
            return f"sha256:{value.sha256}"
        case tuple():
            return [argument(item) for item in value]
        case dict():
            return {name: argument(item) for name, item in value.items()}
    return value


def resource_type(spec: ToolSpec) -> str:
    """The first segment of the resource template where it is literal (`account/{account}`), else `tool`."""
    first = spec.resource.partition("/")[0]
    return first if first and _HOLE not in first and "/" in spec.resource else "tool"
