"""Step 9: what the tool returned or raised, without live credentials and without what a policy takes out."""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from agentguard.candidates import MAX_CANDIDATES
from agentguard.credentials.leaks import MARK, Search, clean_exception
from agentguard.pipeline.intercept import PLAIN
from agentguard.policy.redact import REDACTED, redacted
from agentguard.refusal import Ended

if TYPE_CHECKING:
    from agentguard.running import Running

_NOTHING: Final[frozenset[str]] = frozenset()


def search(call: Running, ended: Ended) -> Ended:
    """Return how the tool ended, without live credentials, and without what a policy takes out of its value."""
    if call.span.on:
        call.span.tool_until = time_ns()
    if call.judged is not None and ended.error is None and _redact(call):
        ended = Ended(_redacted(call, ended.value))
    if ended.error is None:
        kind, shortest = type(ended.value), call.guard.secrets.shortest
        if not shortest or kind in PLAIN or (kind is str and len(ended.value) < shortest):  # as `_too_short` says
            return ended
    search = Search(call.guard.secrets)
    try:
        return _searched(call, ended, search)
    except Exception:
        # What cannot be searched is not passed on, neither as a value nor as an exception.
        return (
            Ended(MARK) if ended.error is None else Ended(error=RuntimeError(f"{type(ended.error).__name__}: {MARK}"))
        )
    finally:
        call.hits |= search.hits


def passed(call: Running, part: Any) -> Any:
    """Take out of a part of a stream what a policy says, and keep it, if anything looks at results."""
    part = _redacted(call, part) if _redact(call) else part
    if call.task.tree.results.idle:
        call.missed = True
    else:
        call.parts = [] if call.parts is None else call.parts
        call.parts.append(part)
        del call.parts[MAX_CANDIDATES + 1 :]
    return part


def _redact(call: Running) -> frozenset[str]:
    return call.judged.obligations.redact if call.judged is not None else _NOTHING


def _redacted(call: Running, value: Any) -> Any:
    try:
        return redacted(value, _redact(call))
    except Exception:  # what cannot be looked into is not passed on
        return REDACTED


def _searched(call: Running, ended: Ended, search: Search) -> Ended:
    if ended.error is not None:
        return Ended(error=clean_exception(ended.error, search))
    return Ended(search.value(ended.value))
