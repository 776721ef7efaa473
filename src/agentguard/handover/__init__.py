"""The handover: a task's authority in a short-lived signed token, for another process or host.

`Task.export(to=...)` makes one, `Guard.resume(token)` opens the task it describes. The token has the shape of a
transaction token (draft-ietf-oauth-transaction-tokens: typ `txntoken+jwt`, `txn`, `sub`, `scope`, `tctx`, `rctx`,
`req_wl`) with the delegation chain in `act` (RFC 8693 section 4.1). It is no access token: no verifier of those accepts
it, and the other way round. Whoever holds it can redeem it, once, within its minute; send it over TLS only.

The far side needs no shared store: the token holds every level of the chain as a literal intent, and what each may
still use up is reserved here when the token is made, so both sides together never use more than the intent lets.
"""

from __future__ import annotations

from agentguard.handover.parties import Handovers
from agentguard.handover.redemptions import MemoryRedemptions
from agentguard.ports import Redemptions

__all__ = ["Handovers", "MemoryRedemptions", "Redemptions"]
