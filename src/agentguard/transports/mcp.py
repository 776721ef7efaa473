"""A handover over MCP: in `params._meta` of a request over stdio, and nowhere else.

Over stdio the two ends are one parent and its child process, and MCP has no authorization of its own there. Over HTTP
the server is an OAuth resource server (MCP specification 2026-07-28, authorization): the access token of the request,
for this server's own audience, carries the chain in `act`, and what stands in `_meta` says nothing about authority. A
server never passes a token on. Both helpers work on plain dicts, `params` as they stand in the JSON-RPC message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from agentguard._jwt import Rejection
from agentguard.transports.headers import HEADER, to_headers, token_in

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.task import Task

KEY: Final = "agentguard/txn-token"
Transport: TypeAlias = Literal["stdio", "http"]


def with_handover(params: Mapping[str, Any] | None, token: str, *, transport: Transport) -> dict[str, Any]:
    """Return a request's params with a handover and the current trace context in `_meta`; the params stay as they are.

    Args:
        params: those of the request, or None.
        token: what `Task.export` returned.
        transport: over http the handover is left out; the trace context (unprefixed, as the specification says) is not.
    """
    carried = to_headers(token)
    carried.pop(HEADER)
    meta: dict[str, Any] = {**_meta_of(params), **carried}
    meta.pop(KEY, None)
    if transport == "stdio":
        meta[KEY] = token
    return {**(params or {}), "_meta": meta}


def handover_in(params: Mapping[str, Any] | None, *, transport: Transport) -> str:
    """Return the handover of a request; it is not verified by this.

    Raises:
        TokenRejected: there is none; over http there never is one.
    """
    outcome = _found(params, transport)
    del params  # the traceback keeps this frame
    if isinstance(outcome, Rejection):
        raise outcome.raised()
    return outcome


def resume(guard: Guard, params: Mapping[str, Any] | None, *, agent: str, transport: Transport) -> Task:
    """Return the task of a request's handover, to be opened around the tool call (see `Guard.resume`).

    Raises:
        TokenRejected, Denied: there is no handover that can be used here.
    """
    return guard.resume(handover_in(params, transport=transport), agent=agent)


def without_handover(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a request's params for whoever handles it: no tool, no model and no log sees the token."""
    meta = {name: value for name, value in _meta_of(params).items() if name != KEY}
    rest = {name: value for name, value in (params or {}).items() if name != "_meta"}
    return {**rest, "_meta": meta} if meta else rest


def _found(params: Mapping[str, Any] | None, transport: Transport) -> str | Rejection:
    if transport != "stdio":
        return Rejection("over http the access token of the request is the authority; _meta is not")
    token = _meta_of(params).get(KEY)
    return token_in({HEADER: token} if isinstance(token, str) else {})


def _meta_of(params: Mapping[str, Any] | None) -> Mapping[str, Any]:
    meta = (params or {}).get("_meta")
    return meta if isinstance(meta, Mapping) else {}
