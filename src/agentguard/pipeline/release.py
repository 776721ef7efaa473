"""Step 10: everything that was taken for the call is given back, the credential first."""

from __future__ import annotations

import logging
from time import time_ns
from typing import TYPE_CHECKING, Final

from agentguard.approving import settle_waiting
from agentguard.ports import Settlement
from agentguard.refusal import NOT_RUN, settlement_of

if TYPE_CHECKING:
    from agentguard.running import Running

_log: Final = logging.getLogger("agentguard")
_RAN: Final = Settlement.RAN  # found faster than in its enumeration


async def release(call: Running) -> None:
    """Give everything back, the credential first; what fails is logged and keeps nothing else from its release."""
    guard, use = call.guard, call.use
    # One that was marked as running and that the last look refused did not run.
    call.started = call.started and call.ended is not NOT_RUN
    if use is not None:
        try:
            assert guard.leases is not None  # noqa: S101  # the use is one of its leases
            began = time_ns() if call.span.on else 0
            status = await guard.leases.release(use)
            if call.span.on:
                call.span.release = status, guard.now(), began
        except Exception as error:
            _not_done(call, "release of its credential", error)
    for lease in call.hits:
        try:
            await _revoke_leaked(call, lease)
        except Exception as error:
            _not_done(call, "revocation of what it leaked", error)
    if call.marked:
        try:
            await guard.suspensions.finish(call.id)
        except Exception as error:
            _not_done(call, "end", error)
    if call.reservation is not None or call.waits is not None:
        try:
            if call.waits is not None:
                await settle_waiting(call, call.waits)
            elif call.reservation is not None:
                ran = call.started and call.ended.error is None
                settlement = _RAN if ran else settlement_of(call.ended, call.started)
                await guard.budgets.settle(call.reservation, settlement)
        except Exception as error:
            _not_done(call, "settlement", error)


def _not_done(call: Running, what: str, error: Exception) -> None:
    _log.error("call %s: its %s failed: %s", call.id, what, type(error).__name__)


async def _revoke_leaked(call: Running, lease: str) -> None:
    if call.guard.leases is None:
        return
    began, use, span = time_ns(), call.use, call.span
    await call.guard.leases.revoke(lease, "leaked")
    if use is not None and use.held.issued.lease.id == lease and span.on and span.release is not None:
        kept, status = span.release[0] == "kept", use.held.status
        if kept and status:  # what was to be kept for the next call is gone
            span.release = status, call.guard.now(), began
