"""What a running tool may reach: its call and its credential; `clients` carry the credential for it.

There is no other way to a credential: no environment variable, no global, no argument that a model can see. All of
these fail closed outside the call, after it ended, and in a thread that outlived it or lost its context.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import Struct

from agentguard.errors import CredentialUnavailable
from agentguard.model.credential import Credential

if TYPE_CHECKING:
    from agentguard.task import Task

_task: ContextVar[Task | None] = ContextVar("agentguard_task", default=None)
_call: ContextVar[CurrentCall | None] = ContextVar("agentguard_call", default=None)
_caller: ContextVar[Caller | None] = ContextVar("agentguard_caller", default=None)


@dataclass(frozen=True, slots=True)
class Caller:
    """What a framework's hook says about the call it is about to make: for traces and records, never for a decision.

    Args:
        call_id: the framework's id of the tool call.
        agent: the name of the agent that calls.
        run_id: the framework's run.
    """

    call_id: str = ""
    agent: str = ""
    run_id: str = ""

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Say this about every guarded call inside the block: `with Caller(call_id="call_7").calling():`."""
        token = _caller.set(self)
        try:
            yield
        finally:
            with suppress(ValueError):  # left from another context
                _caller.reset(token)


class CurrentCall(Struct, frozen=True, eq=False):
    """The call that runs now, as its tool may see it.

    Args:
        id: the call's id, as in the audit log.
        tool: the tool's guard name.
        task_id: the task it runs in.
        chain: `("user:alice", "support-bot")`.
        idempotency_key: the same for every attempt of one call; send it to APIs that take one.
        credential: the credential, or None for a tool that declares no audience.
    """

    id: str
    tool: str
    task_id: str
    chain: tuple[str, ...]
    idempotency_key: str
    credential: Credential | None = None


def current_call() -> CurrentCall:
    """Return the call that runs now.

    Raises:
        CredentialUnavailable: no guarded tool runs in this context.
    """
    call = _call.get()
    if call is None:
        raise CredentialUnavailable(
            "no guarded tool runs in this context; a thread that was started by hand has lost it: "
            "use task.bind(fn), asyncio.to_thread or contextvars.copy_context()"
        )
    return call


def current_credential() -> Credential:
    """Return the credential of the call that runs now; read its `token` where it is sent, and keep it nowhere.

    Where another call that shares it leaked it, this one gets another one here; in an event loop `GuardAuth` obtains
    it, or `await current_call().credential.renew()`.

    Raises:
        CredentialUnavailable: outside a guarded call, after it ended, once the credential was revoked, or in a tool
            that declares no audience.
    """
    call = current_call()
    if call.credential is None:
        raise CredentialUnavailable(
            f"tool {call.tool!r} declares no audience, so it gets no credential; write "
            '@guarded(..., audience="https://api.example.com", scopes=["..."])'
        )
    if call.credential.leaked:
        _replace(call.credential)
    if not call.credential.live:
        why = "has ended, and its credential with it"
        if call.credential.revoked:
            why = "runs on without its credential: its task has ended or was stopped"
        if call.credential.leaked:
            why = "lost its credential, which another call leaked; `await current_call().credential.renew()` first"
        raise CredentialUnavailable(f"the call of {call.tool!r} {why}")
    return call.credential


def _replace(credential: Credential) -> None:
    """A caller without an event loop waits for another one; a loop would be blocked by it."""
    from agentguard._drive import drive, loop_running  # here, as almost no call needs it

    if not loop_running():
        drive(credential.renew())
