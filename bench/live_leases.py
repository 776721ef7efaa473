"""Very many live leases of the local issuer in one process, without the tools that would have asked for them.

Time passes when it is told to, so none expires before. A token has the claims and the length of a real one; only
its signature is 64 random bytes, because a million real ones take longer than they live.
"""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agentguard._drive import drive
from agentguard.credentials.held import Use
from agentguard.credentials.leases import Leases
from agentguard.credentials.ledger import MemoryLedger
from agentguard.credentials.local import LocalIssuer
from agentguard.keys import SigningKey
from agentguard.model.credential import Issued
from agentguard.model.lease import Grant, Lease, LeaseKey
from agentguard.model.principal import Agent, Chain, Proof, Subject
from agentguard.model.record import Event

API: Final = "https://crm.test"
AGENT: Final = Agent("support-bot", proof=Proof.IN_PROCESS, registered=False)
A_TASK: Final = 1000  # leases of one task
EXPIRED: Final = 61.0  # seconds after which a local token is dead for every verifier
SCOPES: Final = ("crm:read",)


class Clock:
    """Time that passes when it is told to, and by a trace each time it is asked for: no two leases share a moment."""

    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now


class Random(LocalIssuer):
    """The local issuer with random bytes in the place of signatures."""

    def _mint(self, grant: Grant, lease: Lease, key: SigningKey, header: bytes) -> Issued | None:
        return super()._mint(grant, lease, _NOISE, header)  # type: ignore[arg-type]  # all that a key does here is sign


class _Noise:
    def sign(self, signed: bytes) -> bytes:
        return os.urandom(64)


_NOISE: Final = _Noise()


class Live:
    """Leases that live until the clock passes their end.

    Args:
        count: how many are kept to be used again, one a resource, a thousand a task.
    """

    def __init__(self, count: int) -> None:
        self.clock, self.ledger = Clock(), MemoryLedger()
        issuer = Random(SigningKey.generate(), monotonic=self.clock)
        self.leases = Leases(issuer, self.ledger, _unrecorded, self.clock, most=count + A_TASK)
        self.token_bytes = 0
        self._tasks = [
            (f"task-{task}", Chain(Subject(f"user:{task}"), (AGENT,))) for task in range(1 + (count - 1) // A_TASK)
        ]
        for task, _ in self._tasks:
            self.leases.open_task(task)
        for number in range(count):
            self._release(self._obtain(number))

    def grant(self, number: int, *, single_use: bool = False) -> Grant:
        """As the guard makes it: everything is new but what belongs to the task and the tool."""
        task, chain = self._tasks[number // A_TASK]
        key = LeaseKey(
            tenant=chain.subject.tenant, subject=chain.subject.sub, root=task, chain=chain.names(),
            tool="crm.read", audience=API, scopes=SCOPES, resource=f"account/{number}",
        )  # fmt: skip
        return Grant(
            key=key, chain=chain, task=key.root, intent_s256="A" * 43, single_use=single_use, reads=True,
            deadline=self.clock() + 600,
        )  # fmt: skip

    def _obtain(self, number: int, *, single_use: bool = False) -> Use:
        use = drive(self.leases.obtain(self.grant(number, single_use=single_use)))
        if not use.cached and not single_use:
            self.token_bytes += sys.getsizeof(use.credential.token)
        return use

    def _release(self, use: Use) -> None:
        drive(self.leases.release(use))

    def reuse(self, number: int) -> None:
        """Obtain a lease that is kept, and let go of it."""
        use = self._obtain(number)
        if not use.cached:
            raise AssertionError("the lease was not kept")
        self._release(use)

    def issue(self) -> None:
        """Obtain a lease for one use, and let go of it, which revokes it."""
        self._release(self._obtain(0, single_use=True))

    def expire(self) -> None:
        """Let time pass until all are dead, and do what the keeper does then."""
        self.clock.now += EXPIRED
        for _ in range(4):  # the keeper ticks twice a second
            drive(self.leases.tend())
            self.clock.now += 1
        self.issue()  # the issuer looks after its own memory as it issues


def _unrecorded(event: Event, fields: Mapping[str, Any]) -> None:
    """The audit log is measured elsewhere."""


def resident() -> int:
    """Bytes of memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def allocated(count: int) -> Mapping[str, float]:
    """Bytes a lease that Python allocated beside the token's text: live, after a search, and after its end."""
    Live(2).issue()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        live = Live(count)
        gc.collect()
        alive = tracemalloc.get_traced_memory()[0] - before - live.token_bytes
        live.leases.secrets.found_in("x" * 1000)
        gc.collect()
        searched = tracemalloc.get_traced_memory()[0] - before - live.token_bytes
        live.expire()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0] - before
        return {"alive": alive / count, "searched": searched / count, "after": after / count}
    finally:
        tracemalloc.stop()
