"""The names in spans, metrics and events. Made by `python semconv/constants.py` from semconv/agentguard.yaml.

The standard names stand here as text, because the GenAI conventions are in development and their constants move between
packages. INVARIANT: no name is also the namespace of another, or back ends that nest names lose one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from agentguard.telemetry.kinds import Copy, Instrument

# Standard: OpenTelemetry GenAI conventions, general conventions, OpenInference.
ERROR_TYPE: Final = "error.type"
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_TOOL_CALL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
GEN_AI_TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
GEN_AI_TOOL_CALL_RESULT: Final = "gen_ai.tool.call.result"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_TOOL_TYPE: Final = "gen_ai.tool.type"
INPUT_VALUE: Final = "input.value"
OPENINFERENCE_SPAN_KIND: Final = "openinference.span.kind"
OUTPUT_VALUE: Final = "output.value"
USER_HASH: Final = "user.hash"

# What the spans' names begin with; also values of gen_ai.operation.name.
EXECUTE_TOOL: Final = "execute_tool"
INVOKE_AGENT: Final = "invoke_agent"
DELEGATE: Final = "agentguard.delegate"
AUTHORIZE: Final = "agentguard.authorize"
APPROVAL: Final = "agentguard.approval"
CREDENTIAL_ISSUE: Final = "agentguard.credential.issue"
CREDENTIAL_REVOKE: Final = "agentguard.credential.revoke"
RESUME: Final = "resume"

# Values of error.type.
ERROR_DENIED: Final = "agentguard.denied"
ERROR_APPROVAL_REJECTED: Final = "agentguard.approval_rejected"
ERROR_APPROVAL_EXPIRED: Final = "agentguard.approval_expired"
ERROR_CREDENTIAL: Final = "agentguard.credential_error"
ERROR_POLICY: Final = "agentguard.policy_error"

# Attributes.
AGENTGUARD_TASK_ID: Final = "agentguard.task.id"
AGENTGUARD_INTENT_NAME: Final = "agentguard.intent.name"
AGENTGUARD_INTENT_S256: Final = "agentguard.intent.s256"
AGENTGUARD_INTENT_STEP: Final = "agentguard.intent.step"
AGENTGUARD_DELEGATION_CHAIN: Final = "agentguard.delegation.chain"
AGENTGUARD_DELEGATION_CHAIN_TEXT: Final = "agentguard.delegation.chain_text"
AGENTGUARD_DELEGATION_DEPTH: Final = "agentguard.delegation.depth"
AGENTGUARD_DELEGATION_ROOT_AGENT: Final = "agentguard.delegation.root_agent"
AGENTGUARD_DELEGATION_VERIFIED: Final = "agentguard.delegation.verified"
AGENTGUARD_DELEGATION_FROM: Final = "agentguard.delegation.from"
AGENTGUARD_DELEGATION_TO: Final = "agentguard.delegation.to"
AGENTGUARD_TOOL_EFFECT: Final = "agentguard.tool.effect"
AGENTGUARD_ARGUMENTS_HASH: Final = "agentguard.arguments.hash"
AGENTGUARD_DECISION_OUTCOME: Final = "agentguard.decision.outcome"
AGENTGUARD_DECISION_ID: Final = "agentguard.decision.id"
AGENTGUARD_DECISION_REASON: Final = "agentguard.decision.reason"
AGENTGUARD_DECISION_LEVEL: Final = "agentguard.decision.level"
AGENTGUARD_DECISION_ENFORCED: Final = "agentguard.decision.enforced"
AGENTGUARD_CREDENTIAL_ID: Final = "agentguard.credential.id"
AGENTGUARD_CREDENTIAL_TYPE: Final = "agentguard.credential.type"
AGENTGUARD_CREDENTIAL_AUDIENCE: Final = "agentguard.credential.audience"
AGENTGUARD_CREDENTIAL_SCOPES: Final = "agentguard.credential.scopes"
AGENTGUARD_CREDENTIAL_TTL: Final = "agentguard.credential.ttl"
AGENTGUARD_CREDENTIAL_EXPIRES_AT: Final = "agentguard.credential.expires_at"
AGENTGUARD_CREDENTIAL_CACHED: Final = "agentguard.credential.cached"
AGENTGUARD_CREDENTIAL_LIFE: Final = "agentguard.credential.life"
AGENTGUARD_CREDENTIAL_REVOCATION_STATUS: Final = "agentguard.credential.revocation.status"
AGENTGUARD_DECISIONS_PERMITTED: Final = "agentguard.decisions.permitted"
AGENTGUARD_DECISIONS_DENIED: Final = "agentguard.decisions.denied"
AGENTGUARD_DECISIONS_ASKED: Final = "agentguard.decisions.asked"
AGENTGUARD_CREDENTIALS_ISSUED: Final = "agentguard.credentials.issued"
AGENTGUARD_CREDENTIALS_REVOKED: Final = "agentguard.credentials.revoked"
AGENTGUARD_OVERHEAD_DURATION: Final = "agentguard.overhead.duration"
AGENTGUARD_LINK_KIND: Final = "agentguard.link.kind"
AGENTGUARD_POLICY_VERSION: Final = "agentguard.policy.version"
AGENTGUARD_APPROVAL_ID: Final = "agentguard.approval.id"
AGENTGUARD_APPROVAL_ANSWER: Final = "agentguard.approval.answer"
AGENTGUARD_SUSPENSION_KEY: Final = "agentguard.suspension.key"
AGENTGUARD_AUDIT_STATUS: Final = "agentguard.audit.status"

# Metrics.
METRIC_GEN_AI_EXECUTE_TOOL_DURATION: Final = "gen_ai.execute_tool.duration"
METRIC_AGENTGUARD_AUTHORIZE_DURATION: Final = "agentguard.authorize.duration"
METRIC_AGENTGUARD_OVERHEAD_DURATION: Final = "agentguard.overhead.duration"
METRIC_AGENTGUARD_CREDENTIAL_ISSUE_DURATION: Final = "agentguard.credential.issue.duration"
METRIC_AGENTGUARD_CREDENTIAL_REVOKE_DURATION: Final = "agentguard.credential.revoke.duration"
METRIC_AGENTGUARD_DECISIONS: Final = "agentguard.decisions"
METRIC_AGENTGUARD_CREDENTIALS_ISSUED: Final = "agentguard.credentials.issued"
METRIC_AGENTGUARD_CREDENTIALS_REVOKED: Final = "agentguard.credentials.revoked"
METRIC_AGENTGUARD_CREDENTIALS_ACTIVE: Final = "agentguard.credentials.active"
METRIC_AGENTGUARD_CREDENTIAL_LIFETIME: Final = "agentguard.credential.lifetime"
METRIC_AGENTGUARD_CREDENTIAL_UNUSED_TTL: Final = "agentguard.credential.unused_ttl"
METRIC_AGENTGUARD_APPROVAL_WAIT_DURATION: Final = "agentguard.approval.wait.duration"
METRIC_AGENTGUARD_APPROVALS_PENDING: Final = "agentguard.approvals.pending"
METRIC_AGENTGUARD_DELEGATIONS: Final = "agentguard.delegations"
METRIC_AGENTGUARD_DELEGATION_DEPTH: Final = "agentguard.delegation.depth"
METRIC_AGENTGUARD_AUDIT_WRITE_DURATION: Final = "agentguard.audit.write.duration"
METRIC_AGENTGUARD_AUDIT_LAG: Final = "agentguard.audit.lag"

INSTRUMENTS: Final[Mapping[str, Instrument]] = MappingProxyType({
    METRIC_GEN_AI_EXECUTE_TOOL_DURATION: Instrument(
        kind="histogram",
        unit="s",
        brief="Duration of tool executions, of permitted calls only.",
        attributes=frozenset({
            GEN_AI_TOOL_NAME, GEN_AI_TOOL_TYPE, GEN_AI_AGENT_NAME, ERROR_TYPE,
        }),
        buckets=(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    ),
    METRIC_AGENTGUARD_AUTHORIZE_DURATION: Instrument(
        kind="histogram",
        unit="s",
        brief="Time from the interception of a call until it was permitted, denied or had to be asked about.",
        attributes=frozenset({
            AGENTGUARD_DECISION_OUTCOME,
        }),
        buckets=(1e-05, 5e-05, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
    ),
    METRIC_AGENTGUARD_OVERHEAD_DURATION: Instrument(
        kind="histogram",
        unit="s",
        brief="What the guard adds to a call, without the tool and without waiting for a person.",
        attributes=frozenset({
            GEN_AI_TOOL_NAME, AGENTGUARD_DECISION_OUTCOME,
        }),
        buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    ),
    METRIC_AGENTGUARD_CREDENTIAL_ISSUE_DURATION: Instrument(
        kind="histogram",
        unit="s",
        brief="Time to obtain a new credential; those that were kept are not counted.",
        attributes=frozenset({
            AGENTGUARD_CREDENTIAL_TYPE, ERROR_TYPE,
        }),
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    ),
    METRIC_AGENTGUARD_CREDENTIAL_REVOKE_DURATION: Instrument(
        kind="histogram",
        unit="s",
        brief="Time to end a credential after its call.",
        attributes=frozenset({
            AGENTGUARD_CREDENTIAL_TYPE, AGENTGUARD_CREDENTIAL_REVOCATION_STATUS,
        }),
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    ),
    METRIC_AGENTGUARD_DECISIONS: Instrument(
        kind="counter",
        unit="{decision}",
        brief="Decisions about calls, tasks and delegations; without a tool where it was about a task.",
        attributes=frozenset({
            GEN_AI_TOOL_NAME, GEN_AI_AGENT_NAME, AGENTGUARD_DECISION_OUTCOME, AGENTGUARD_DECISION_REASON,
            AGENTGUARD_DECISION_ENFORCED,
        }),
    ),
    METRIC_AGENTGUARD_CREDENTIALS_ISSUED: Instrument(
        kind="counter",
        unit="{credential}",
        brief="Credentials that were issued.",
        attributes=frozenset({
            AGENTGUARD_CREDENTIAL_TYPE,
        }),
    ),
    METRIC_AGENTGUARD_CREDENTIALS_REVOKED: Instrument(
        kind="counter",
        unit="{credential}",
        brief="Ends of credentials and attempts at them, by status; `failed` and `expires` are not ended yet.",
        attributes=frozenset({
            AGENTGUARD_CREDENTIAL_TYPE, AGENTGUARD_CREDENTIAL_REVOCATION_STATUS,
        }),
    ),
    METRIC_AGENTGUARD_CREDENTIALS_ACTIVE: Instrument(
        kind="updowncounter",
        unit="{credential}",
        brief="Credentials that this process was issued and that are neither revoked nor expired.",
        attributes=frozenset({
            AGENTGUARD_CREDENTIAL_TYPE,
        }),
    ),
    METRIC_AGENTGUARD_CREDENTIAL_LIFETIME: Instrument(
        kind="histogram",
        unit="s",
        brief="Time from the issue of a credential to its end.",
        attributes=frozenset({
            AGENTGUARD_CREDENTIAL_TYPE,
        }),
        buckets=(1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600),
    ),
    METRIC_AGENTGUARD_CREDENTIAL_UNUSED_TTL: Instrument(
        kind="histogram",
        unit="s",
        brief="Time for which a credential would still have been accepted when it was revoked.",
        attributes=frozenset({
            AGENTGUARD_CREDENTIAL_TYPE,
        }),
        buckets=(1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600),
    ),
    METRIC_AGENTGUARD_APPROVAL_WAIT_DURATION: Instrument(
        kind="histogram",
        unit="s",
        brief="Time from a question to a person to the answer.",
        attributes=frozenset({
            AGENTGUARD_APPROVAL_ANSWER,
        }),
        buckets=(1, 5, 15, 60, 300, 900, 3600, 14400, 86400),
    ),
    METRIC_AGENTGUARD_APPROVALS_PENDING: Instrument(
        kind="gauge",
        unit="{question}",
        brief="Questions to people that wait now, of all guards of this process; read when metrics are collected.",
        attributes=frozenset(),
    ),
    METRIC_AGENTGUARD_DELEGATIONS: Instrument(
        kind="counter",
        unit="{delegation}",
        brief="Tasks that were handed on, by who handed on to whom; handovers to another process too.",
        attributes=frozenset({
            AGENTGUARD_DELEGATION_FROM, AGENTGUARD_DELEGATION_TO,
        }),
    ),
    METRIC_AGENTGUARD_DELEGATION_DEPTH: Instrument(
        kind="histogram",
        unit="{hop}",
        brief="Hops between agents of each delegation.",
        attributes=frozenset({
            AGENTGUARD_DELEGATION_ROOT_AGENT,
        }),
        buckets=(0, 1, 2, 3, 4, 5, 8, 16),
    ),
    METRIC_AGENTGUARD_AUDIT_WRITE_DURATION: Instrument(
        kind="histogram",
        unit="s",
        brief="Time to append an audit record, and so also the number of records; the wait for the disk is not in it.",
        attributes=frozenset({
            AGENTGUARD_AUDIT_STATUS,
        }),
        buckets=(1e-05, 5e-05, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
    ),
    METRIC_AGENTGUARD_AUDIT_LAG: Instrument(
        kind="gauge",
        unit="{record}",
        brief="Audit records of all guards of this process that are written and not on the disk yet.",
        attributes=frozenset(),
    ),
})  # fmt: skip

# By the event code of the audit record that is copied.
COPIES: Final[Mapping[str, Copy]] = MappingProxyType({
    "call.denied": Copy(
        name="agentguard.call.denied",
        severity="warn",
        attributes=frozenset({
            AGENTGUARD_TASK_ID, GEN_AI_AGENT_NAME, AGENTGUARD_DECISION_ID, AGENTGUARD_INTENT_NAME,
            AGENTGUARD_DELEGATION_CHAIN_TEXT, GEN_AI_TOOL_NAME, AGENTGUARD_DECISION_OUTCOME, AGENTGUARD_DECISION_REASON,
            AGENTGUARD_DECISION_LEVEL, AGENTGUARD_ARGUMENTS_HASH, GEN_AI_TOOL_CALL_ARGUMENTS,
        }),
    ),
    "task.denied": Copy(
        name="agentguard.task.denied",
        severity="warn",
        attributes=frozenset({
            AGENTGUARD_TASK_ID, GEN_AI_AGENT_NAME, AGENTGUARD_DECISION_ID, AGENTGUARD_DECISION_OUTCOME,
            AGENTGUARD_DECISION_REASON,
        }),
    ),
    "delegation.denied": Copy(
        name="agentguard.delegation.denied",
        severity="warn",
        attributes=frozenset({
            AGENTGUARD_TASK_ID, GEN_AI_AGENT_NAME, AGENTGUARD_DECISION_ID, AGENTGUARD_DECISION_OUTCOME,
            AGENTGUARD_DECISION_REASON,
        }),
    ),
    "task.parked": Copy(
        name="agentguard.task.parked",
        severity="info",
        attributes=frozenset({
            AGENTGUARD_TASK_ID, GEN_AI_AGENT_NAME, AGENTGUARD_DECISION_ID, AGENTGUARD_INTENT_NAME,
            AGENTGUARD_DELEGATION_CHAIN_TEXT,
        }),
    ),
    "task.resumed": Copy(
        name="agentguard.task.resumed",
        severity="info",
        attributes=frozenset({
            AGENTGUARD_TASK_ID, GEN_AI_AGENT_NAME, AGENTGUARD_DECISION_ID, AGENTGUARD_INTENT_NAME,
            AGENTGUARD_DELEGATION_CHAIN_TEXT,
        }),
    ),
    "approval.asked": Copy(
        name="agentguard.approval.asked",
        severity="info",
        attributes=frozenset({
            AGENTGUARD_TASK_ID, GEN_AI_AGENT_NAME, AGENTGUARD_DECISION_ID, AGENTGUARD_INTENT_NAME,
            AGENTGUARD_DELEGATION_CHAIN_TEXT, GEN_AI_TOOL_NAME, AGENTGUARD_ARGUMENTS_HASH, GEN_AI_TOOL_CALL_ARGUMENTS,
        }),
    ),
    "approval.answered": Copy(
        name="agentguard.approval.answered",
        severity="info",
        attributes=frozenset({
            AGENTGUARD_TASK_ID, GEN_AI_AGENT_NAME, AGENTGUARD_DECISION_ID, GEN_AI_TOOL_NAME, AGENTGUARD_APPROVAL_ANSWER,
            AGENTGUARD_APPROVAL_ID,
        }),
    ),
    "approval.used": Copy(
        name="agentguard.approval.used",
        severity="info",
        attributes=frozenset({
            AGENTGUARD_TASK_ID, GEN_AI_AGENT_NAME, AGENTGUARD_DECISION_ID, AGENTGUARD_INTENT_NAME,
            AGENTGUARD_DELEGATION_CHAIN_TEXT, GEN_AI_TOOL_NAME, AGENTGUARD_APPROVAL_ANSWER, AGENTGUARD_APPROVAL_ID,
        }),
    ),
    "suspension.set": Copy(
        name="agentguard.suspension.set",
        severity="warn",
        attributes=frozenset({
            AGENTGUARD_SUSPENSION_KEY, AGENTGUARD_DECISION_ID,
        }),
    ),
    "suspension.lifted": Copy(
        name="agentguard.suspension.lifted",
        severity="warn",
        attributes=frozenset({
            AGENTGUARD_SUSPENSION_KEY, AGENTGUARD_DECISION_ID,
        }),
    ),
    "credential.revoke_failed": Copy(
        name="agentguard.credential.revoke_failed",
        severity="error",
        attributes=frozenset({
            AGENTGUARD_TASK_ID, AGENTGUARD_CREDENTIAL_ID, AGENTGUARD_DECISION_ID,
        }),
    ),
    "secret.removed": Copy(
        name="agentguard.secret.removed",
        severity="error",
        attributes=frozenset({
            AGENTGUARD_TASK_ID, GEN_AI_AGENT_NAME, AGENTGUARD_DECISION_ID, AGENTGUARD_INTENT_NAME,
            AGENTGUARD_DELEGATION_CHAIN_TEXT, GEN_AI_TOOL_NAME,
        }),
    ),
})  # fmt: skip
