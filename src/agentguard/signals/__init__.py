"""Shared Signals: what an identity provider says about its users stops what agents do for them.

A receiver of security event tokens (RFC 8417, OpenID Shared Signals 1.0): `SetReceiver` verifies one and acts on it,
`SetEndpoint` is the ASGI app that they are pushed to (RFC 8935). Understood are CAEP's `session-revoked` and
`credential-change`, and the framework's `verification` and `stream-updated`.
"""

from __future__ import annotations

from agentguard.signals.endpoint import SetEndpoint
from agentguard.signals.receiver import Receipt, SetReceiver
from agentguard.signals.stops import GuardStops, Stops
from agentguard.signals.subjects import SubjectId, all_of, by_email, by_iss_sub
from agentguard.signals.token import SetProfile, SetRejected

__all__ = [
    "GuardStops",
    "Receipt",
    "SetEndpoint",
    "SetProfile",
    "SetReceiver",
    "SetRejected",
    "Stops",
    "SubjectId",
    "all_of",
    "by_email",
    "by_iss_sub",
]
