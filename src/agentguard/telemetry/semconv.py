"""The names on our spans; `semconv/agentguard.yaml` is the source of the `agentguard.*` ones.

The standard names stand here as text, because the GenAI conventions are in development and their constants move between
packages. INVARIANT: no name is also the namespace of another, or back ends that nest names lose one of the two.
"""

from __future__ import annotations

from typing import Final

# Standard: OpenTelemetry GenAI conventions, general conventions, OpenInference.
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_TOOL_TYPE: Final = "gen_ai.tool.type"
GEN_AI_TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
ERROR_TYPE: Final = "error.type"
USER_HASH: Final = "user.hash"
OPENINFERENCE_SPAN_KIND: Final = "openinference.span.kind"

# Values of gen_ai.operation.name, which the span names begin with, and our own span name.
EXECUTE_TOOL: Final = "execute_tool"
INVOKE_AGENT: Final = "invoke_agent"
DELEGATE: Final = "agentguard.delegate"

# The task, and who acts in it.
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

# The call, and what was decided about it.
AGENTGUARD_TOOL_EFFECT: Final = "agentguard.tool.effect"
AGENTGUARD_ARGUMENTS_HASH: Final = "agentguard.arguments.hash"
AGENTGUARD_DECISION_OUTCOME: Final = "agentguard.decision.outcome"
AGENTGUARD_DECISION_ID: Final = "agentguard.decision.id"
AGENTGUARD_DECISION_REASON: Final = "agentguard.decision.reason"
AGENTGUARD_DECISION_LEVEL: Final = "agentguard.decision.level"
AGENTGUARD_DECISION_ENFORCED: Final = "agentguard.decision.enforced"

# Its credential; never the credential itself.
AGENTGUARD_CREDENTIAL_ID: Final = "agentguard.credential.id"
AGENTGUARD_CREDENTIAL_TYPE: Final = "agentguard.credential.type"
AGENTGUARD_CREDENTIAL_AUDIENCE: Final = "agentguard.credential.audience"
AGENTGUARD_CREDENTIAL_SCOPES: Final = "agentguard.credential.scopes"
AGENTGUARD_CREDENTIAL_TTL: Final = "agentguard.credential.ttl"
AGENTGUARD_CREDENTIAL_EXPIRES_AT: Final = "agentguard.credential.expires_at"
AGENTGUARD_CREDENTIAL_CACHED: Final = "agentguard.credential.cached"
AGENTGUARD_CREDENTIAL_LIFE: Final = "agentguard.credential.life"
AGENTGUARD_CREDENTIAL_REVOCATION_STATUS: Final = "agentguard.credential.revocation.status"

# Roll-ups on an agent's span.
AGENTGUARD_DECISIONS_PERMITTED: Final = "agentguard.decisions.permitted"
AGENTGUARD_DECISIONS_DENIED: Final = "agentguard.decisions.denied"
AGENTGUARD_DECISIONS_ASKED: Final = "agentguard.decisions.asked"
AGENTGUARD_CREDENTIALS_ISSUED: Final = "agentguard.credentials.issued"
AGENTGUARD_CREDENTIALS_REVOKED: Final = "agentguard.credentials.revoked"

# Values of error.type.
ERROR_DENIED: Final = "agentguard.denied"
ERROR_APPROVAL_REJECTED: Final = "agentguard.approval_rejected"
ERROR_APPROVAL_EXPIRED: Final = "agentguard.approval_expired"
ERROR_CREDENTIAL: Final = "agentguard.credential_error"
