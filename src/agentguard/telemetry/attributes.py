"""From the guard's values to span attributes: pure, bounded, and without argument values or credentials."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeAlias

from opentelemetry.context import Context
from opentelemetry.util.types import AttributeValue

from agentguard.model.call import ToolSpec
from agentguard.model.decision import Decision, Outcome, Reason
from agentguard.model.lease import Lease, LeaseKey, LeaseState
from agentguard.model.principal import MAX_HOPS, Chain, Proof
from agentguard.telemetry import semconv as name

Attributes: TypeAlias = Mapping[str, AttributeValue]

MAX_TEXT: Final = 256
MAX_TOOLS: Final = 1000  # of one task; what the next ones begin with is made for each call

# A model or a tool cannot choose these, so error.type stays of low cardinality.
_ERROR_TYPES: Final[Mapping[Reason, str]] = MappingProxyType({
    Reason.APPROVAL_REJECTED: name.ERROR_APPROVAL_REJECTED,
    Reason.APPROVAL_EXPIRED: name.ERROR_APPROVAL_EXPIRED,
    Reason.CREDENTIAL_UNAVAILABLE: name.ERROR_CREDENTIAL,
})  # fmt: skip
_FOR_THE_MODEL: Final = " Do not call it again for this."
_RELEASED: Final[Mapping[str, str]] = MappingProxyType({"kept": LeaseState.ACTIVE.value})
_PERSONAL: Final = frozenset({"subject", "chain"})
GONE: Final = frozenset({LeaseState.REVOKED, LeaseState.EXPIRED})
_ROLL_UPS: Final[Mapping[str, str]] = MappingProxyType({
    "permitted": name.AGENTGUARD_DECISIONS_PERMITTED,
    "denied": name.AGENTGUARD_DECISIONS_DENIED,
    "asked": name.AGENTGUARD_DECISIONS_ASKED,
    "issued": name.AGENTGUARD_CREDENTIALS_ISSUED,
    "revoked": name.AGENTGUARD_CREDENTIALS_REVOKED,
})  # fmt: skip


# What a sampler is shown of a call, beside the span's name with the tool in it: it can keep denials, and writes. The
# rest is written right after it was asked, as the SDK looks at each attribute that a span begins with.
SAMPLED: Final = frozenset({
    name.GEN_AI_OPERATION_NAME, name.AGENTGUARD_TOOL_EFFECT, name.AGENTGUARD_DECISION_OUTCOME,
    name.AGENTGUARD_DECISION_REASON,
})  # fmt: skip

# Unless spans are full: a hash that stands on the agent's span, right above, and that nobody filters calls by.
_LEFT_OUT: Final = frozenset({name.AGENTGUARD_INTENT_S256})


class CallAttributes:
    """What the spans of all calls of a tool in a task have in common. INVARIANT: a span copies it, and never writes it.

    Attributes:
        of: `tool_attributes(spec)` of the tool.
        title: the spans' name.
        known: the attributes that they begin with.
        permit: what permitted the last call, and what the span of a call that it permits begins with (see `begins`).
        ended: for leases of one key and type with one end, what the span of a permitted call ends with; what differs
            between calls is to be filled in. Then the text that goes before the life of what is gone, or an empty one.
    """

    __slots__ = ("_denied", "_permitted", "ended", "known", "of", "permit", "title")

    def __init__(self, of: Attributes, title: str, known: dict[str, AttributeValue]) -> None:
        self.of, self.title, self.known = of, title, known
        permit = Decision(outcome=Outcome.PERMIT, reason=Reason.DECLARED, tool="", steps=("",))
        self._permitted = {**known, **decision_attributes(permit, enforced=True)}
        self.permit: tuple[Decision, Attributes, dict[str, AttributeValue]] = permit, *_parted(self._permitted)
        self.ended: tuple[LeaseKey | None, str, str, dict[str, AttributeValue], str] = None, "", "", {}, ""
        self._denied: tuple[Reason | None, str, Attributes, dict[str, AttributeValue]] = None, "", {}, {}

    def begins(self, decision: Decision) -> tuple[Attributes | None, dict[str, AttributeValue]]:
        """Return what a span begins with, of a call that nobody was asked about: what a sampler is shown, and the rest.

        The arguments' hash goes to the rest. Of a question, and of what is recorded already, the span's own way writes
        more: for those there is nothing to show.
        """
        outcome, steps = decision.outcome, decision.steps
        if decision.id or outcome is Outcome.ASK:
            return None, {}
        if outcome is Outcome.PERMIT and steps:
            shown, rest = _parted({**self._permitted, name.AGENTGUARD_INTENT_STEP: steps[-1][:MAX_TEXT]})
            self.permit = decision, shown, rest  # most calls of a tool are permitted by one decision
            return shown, rest
        reason, level, shown, rest = self._denied
        if reason is not decision.reason or level != decision.level or steps or outcome is not Outcome.DENY:
            shown, rest = _parted({**self.known, **decision_attributes(decision, enforced=True)})
            if outcome is Outcome.DENY and not steps:
                self._denied = decision.reason, decision.level, shown, rest
        return shown, rest


def _parted(known: Attributes) -> tuple[Attributes, dict[str, AttributeValue]]:
    """What a sampler is shown, and the rest. A sampler cannot write what the next call begins with."""
    shown = MappingProxyType({key: value for key, value in known.items() if key in SAMPLED})
    return shown, {key: value for key, value in known.items() if key not in SAMPLED}


class TaskAttributes(dict[str, AttributeValue]):
    """What every span of a task carries, and what is made of it once.

    Attributes:
        calls: what the spans of its calls begin with, by tool, `full` and `shown`; `call_attributes` keeps it.
        compact: the same for spans as they are by default, by tool alone.
        home: the context in which the agent's own span is current, where it is.
    """

    def __init__(self, known: Attributes) -> None:
        super().__init__(known)
        self.calls: dict[tuple[str, bool, bool], CallAttributes] = {}
        self.compact: dict[str, CallAttributes] = {}
        self.home: Context | None = None


def task_attributes(
    chain: Chain, task_id: str, intent_name: str, intent_s256: str, subject_hash: str, root_agent: str
) -> TaskAttributes:
    """Return what every span of a task carries; made once per task and agent.

    Args:
        chain: the delegation chain; a user stands in it as `u:` and the first 8 digits of the hash.
        task_id: the task's id.
        intent_name: the intent's name.
        intent_s256: the intent's hash.
        subject_hash: keyed hash of the subject (base16, with or without an `algorithm:` in front).
        root_agent: the agent that opened the outermost task.
    """
    names = _pseudonymous(chain, subject_hash)
    attributes: dict[str, AttributeValue] = {
        name.GEN_AI_AGENT_NAME: cut(chain.actor.name),
        name.AGENTGUARD_TASK_ID: cut(task_id),
        name.AGENTGUARD_INTENT_NAME: cut(intent_name),
        name.AGENTGUARD_INTENT_S256: cut(intent_s256),
        name.AGENTGUARD_DELEGATION_CHAIN: names,
        name.AGENTGUARD_DELEGATION_CHAIN_TEXT: cut(" > ".join(names)),
        name.AGENTGUARD_DELEGATION_DEPTH: chain.depth,
        name.AGENTGUARD_DELEGATION_ROOT_AGENT: cut(root_agent),
        name.AGENTGUARD_DELEGATION_VERIFIED: _verified(chain),
    }
    if subject_hash and chain.subject.proof is not Proof.ITSELF:
        attributes[name.USER_HASH] = cut(subject_hash)
    return TaskAttributes(attributes)


def tool_attributes(spec: ToolSpec) -> Attributes:
    """Return what every `execute_tool` span of a tool carries; made once per tool."""
    return {
        name.GEN_AI_OPERATION_NAME: name.EXECUTE_TOOL,
        name.GEN_AI_TOOL_NAME: cut(spec.name),
        name.GEN_AI_TOOL_TYPE: "function",
        name.OPENINFERENCE_SPAN_KIND: "TOOL",
        name.AGENTGUARD_TOOL_EFFECT: spec.effect.value,
    }


def call_attributes(
    tool: str, task_attrs: Attributes, tool_attrs: Attributes, *, full: bool, shown: bool
) -> CallAttributes:
    """Make what the span of a call begins with, of its task and its tool, and keep it with the task.

    Args:
        tool: the tool's name.
        task_attrs: `task_attributes(...)` of the task, or empty outside one.
        tool_attrs: `tool_attributes(spec)`.
        full: whether it repeats all that stands on its agent's span.
        shown: whether lists show the chain as the span's input.
    """
    made = {key: value for key, value in {**task_attrs, **tool_attrs}.items() if full or key not in _LEFT_OUT}
    if shown and name.AGENTGUARD_DELEGATION_CHAIN_TEXT in made:
        made[name.INPUT_VALUE] = made[name.AGENTGUARD_DELEGATION_CHAIN_TEXT]
    common = CallAttributes(tool_attrs, f"{name.EXECUTE_TOOL} {tool}", made)
    if isinstance(task_attrs, TaskAttributes) and len(task_attrs.calls) < MAX_TOOLS:
        task_attrs.calls[tool, full, shown] = common
        if shown and not full:
            task_attrs.compact[tool] = common
    return common


def decision_attributes(decision: Decision, enforced: bool, *, asked: bool = False) -> dict[str, AttributeValue]:
    """Return what a decision adds to a span: never the nearest miss, which can hold values.

    Args:
        decision: what was decided.
        enforced: False where it is only observed and the tool runs all the same.
        asked: whether a person was asked before: then a permit has its reason, as the question had one.
    """
    outcome = decision.outcome
    attributes: dict[str, AttributeValue] = {
        name.AGENTGUARD_DECISION_OUTCOME: str(outcome),
        name.AGENTGUARD_DECISION_ENFORCED: enforced,
    }
    if decision.id:
        attributes[name.AGENTGUARD_DECISION_ID] = decision.id[:MAX_TEXT]
    if decision.steps:
        attributes[name.AGENTGUARD_INTENT_STEP] = decision.steps[-1][:MAX_TEXT]
    if asked or outcome is not Outcome.PERMIT:
        attributes[name.AGENTGUARD_DECISION_REASON] = str(decision.reason)
    if decision.level and outcome is not Outcome.PERMIT:
        attributes[name.AGENTGUARD_DECISION_LEVEL] = level_text(decision.level)
    return attributes


def decision_error(decision: Decision, enforced: bool) -> tuple[str, str] | None:
    """Return error.type and a sentence for a denial that is enforced; a pending question is no error."""
    if not enforced or decision.outcome is not Outcome.DENY:
        return None
    return denial(decision.reason, decision.tool)


@lru_cache(maxsize=1024)
def denial(reason: Reason, tool: str) -> tuple[str, str]:
    """Return error.type and a sentence for a denial that is enforced."""
    sentence = Decision(outcome=Outcome.DENY, reason=reason, tool=tool).public.removesuffix(_FOR_THE_MODEL)
    return _ERROR_TYPES.get(reason, name.ERROR_DENIED), cut(f"denied: {reason.value}: {sentence}")


def lease_attributes(lease: Lease, cached: bool, *, full: bool = True) -> dict[str, AttributeValue]:
    """Return what is shown of a credential: its lease, so neither its secret nor its fingerprint.

    Args:
        lease: everything about the credential but its secret.
        cached: whether an earlier call obtained it.
        full: whether its times are shown too; the audit log has them.
    """
    key = lease.key
    attributes: dict[str, AttributeValue] = {
        name.AGENTGUARD_CREDENTIAL_ID: lease.id[:MAX_TEXT],
        name.AGENTGUARD_CREDENTIAL_AUDIENCE: key.audience[:MAX_TEXT],
        name.AGENTGUARD_CREDENTIAL_TYPE: cut(lease.type),
        name.AGENTGUARD_CREDENTIAL_CACHED: cached,
    }
    if key.scopes:
        attributes[name.AGENTGUARD_CREDENTIAL_SCOPES] = " ".join(key.scopes)[:MAX_TEXT]
    if full:
        attributes[name.AGENTGUARD_CREDENTIAL_TTL] = int(lease.expires_at - lease.issued_at)
        attributes[name.AGENTGUARD_CREDENTIAL_EXPIRES_AT] = int(lease.expires_at)
    return attributes


def release_attributes(lease: Lease, status: str, now: float) -> dict[str, AttributeValue]:
    """Return how a credential was released, and how long it lived if it is gone: one that may live has no life yet."""
    status = _RELEASED.get(status, status)
    attributes: dict[str, AttributeValue] = {name.AGENTGUARD_CREDENTIAL_REVOCATION_STATUS: str(status)[:MAX_TEXT]}
    if status in GONE:
        attributes[name.AGENTGUARD_CREDENTIAL_LIFE] = max(0.0, float(now - lease.issued_at))
    return attributes


def roll_ups(counts: Mapping[str, int]) -> dict[str, AttributeValue]:
    """Return all five counts of an agent's span; one that is not given is 0, so that a filter finds it."""
    return {key: int(counts.get(word, 0)) for word, key in _ROLL_UPS.items()}


def error_type_of(error: BaseException) -> str:
    """Return the qualified name of an exception's type, which is all that a span says about it."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _pseudonymous(chain: Chain, subject_hash: str) -> tuple[str, ...]:
    """The subject, and the latest agents: who acts now is never cut off. An agent that acts for itself is no person."""
    digits = subject_hash.rpartition(":")[2][:8]
    subject = cut(chain.subject.sub) if chain.subject.proof is Proof.ITSELF else f"u:{digits or 'unknown'}"
    return (subject, *(cut(agent.name) for agent in chain.agents[-(MAX_HOPS - 1) :]))


def _verified(chain: Chain) -> bool:
    subject = chain.subject.proof in (Proof.VERIFIED, Proof.ITSELF)
    return subject and all(agent.proof is Proof.VERIFIED for agent in chain.agents)


def level_text(level: str) -> str:
    """Return where a call was stopped: of a stop that names a subject, only that it does."""
    kind, _, _ = level.partition(":")
    return kind if kind in _PERSONAL else cut(level)


def cut(text: str) -> str:
    """Return a text, at most 256 characters of it."""
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT]
