"""What a running tool may reach: its call, its credential, and clients that carry the credential for it.

There is no other way to a credential: no environment variable, no global, no argument that a model can see. All of
these fail closed outside the call, after it ended, and in a thread that outlived it or lost its context.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from agentguard.errors import CredentialUnavailable
from agentguard.model.lease import Credential

if TYPE_CHECKING:
    import httpx

    from agentguard.task import Task

_task: ContextVar[Task | None] = ContextVar("agentguard_task", default=None)
_call: ContextVar[CurrentCall | None] = ContextVar("agentguard_call", default=None)
_caller: ContextVar[Caller | None] = ContextVar("agentguard_caller", default=None)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


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


@dataclass(frozen=True, slots=True, eq=False)
class CurrentCall:
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

    Raises:
        CredentialUnavailable: outside a guarded call, after it ended, or in a tool that declares no audience.
    """
    call = current_call()
    if call.credential is None:
        raise CredentialUnavailable(
            f"tool {call.tool!r} declares no audience, so it gets no credential; write "
            '@guarded(..., audience="https://api.example.com", scopes=["..."])'
        )
    if not call.credential.live:
        raise CredentialUnavailable(f"the call of {call.tool!r} has ended, and its credential with it")
    return call.credential


class GuardAuth:
    """httpx authentication (sync and async) that sends the running call's credential as a bearer token (RFC 6750).

    The token goes only to the origin of the tool's audience and never along a redirect: it is put on the wire for this
    one request and is in no headers mapping that httpx could copy.

    Use it as `httpx.Client(auth=GuardAuth())`; one client may serve many calls and users.
    """

    def __call__(self, request: httpx.Request) -> httpx.Request:
        """Authorise one request.

        Raises:
            CredentialUnavailable: no credential (see `current_credential`), or the request goes elsewhere.
        """
        credential = current_credential()
        if origin(str(request.url)) != origin(credential.audience):
            raise CredentialUnavailable(
                f"this credential is for {credential.audience}; the request goes to {request.url.host!r}, "
                "which gets none. Use a client without GuardAuth for other hosts"
            )
        request.headers = _wire_headers()(request.headers, credential)
        return request


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL (RFC 6454 section 4)."""
    parts = urlsplit(url)
    port = parts.port if parts.port is not None else _DEFAULT_PORTS.get(parts.scheme, -1)
    return parts.scheme, (parts.hostname or "").lower(), port


@functools.cache
def _wire_headers() -> Any:
    """A Headers class whose Authorization exists only in `raw`, which transports read and redirects do not copy."""
    import httpx

    class WireHeaders(httpx.Headers):
        def __init__(self, headers: httpx.Headers, credential: Credential) -> None:
            self._credential = credential
            plain = httpx.Headers(headers)
            plain.pop("authorization", None)
            super().__init__(plain)

        @property
        def raw(self) -> list[tuple[bytes, bytes]]:
            if not self._credential.live:
                return super().raw
            return [*super().raw, (b"Authorization", b"Bearer " + self._credential.token.encode())]

        def __getitem__(self, key: str) -> str:
            if key.lower() == "authorization" and self._credential.live:
                return f"Bearer {self._credential.token}"
            return super().__getitem__(key)

    return WireHeaders
