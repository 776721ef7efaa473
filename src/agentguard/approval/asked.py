"""What all ways to ask share: a rejection with its reason, how long a question stands, and work in a thread of its own.

Work goes to a daemon thread of its own, never to the event loop's pool: a person takes minutes, and a few who wait must
not take the threads that the store and the log need.
"""

from __future__ import annotations

import contextvars
import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from agentguard._drive import wait_for
from agentguard.ports import Answer, Approval, ApprovalRequest

T = TypeVar("T")
LONGEST_WAIT: Final = 86_400.0  # seconds
_log: Final = logging.getLogger("agentguard")


def rejected(why: str, request: ApprovalRequest) -> Approval:
    """Return the rejection of a question that nobody answered, and log why; `by` says it in the record.

    Args:
        why: a few words of our own: no names, no values.
        request: the question.
    """
    _log.warning("call %s of %s is not approved: %s", request.call, request.tool, why)
    return Approval(Answer.REJECTED, by=f"nobody: {why}", id=request.call)


def seconds_left(request: ApprovalRequest, now: float) -> float:
    """Return the seconds in which an answer still counts; 0 where it says no end, because nothing waits for ever.

    Args:
        request: the question.
        now: seconds since the epoch.
    """
    left = request.expires_at - now
    return min(left, LONGEST_WAIT) if left > 0 and not math.isnan(left) else 0.0


async def answered_in_thread(
    work: Callable[[], T], seconds: float, not_started: Callable[[], object] = lambda: None
) -> T:
    """Return what the work returns; whoever is cancelled or out of time leaves it to end by itself.

    Args:
        work: blocks; it sees the context variables of whoever asks.
        seconds: how long it is waited for.
        not_started: called where there is no thread for it, before that is raised.

    Raises:
        TimeoutError: it was not done in time.
    """
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(work)
        except BaseException as error:  # whoever waits decides what it means
            future.set_exception(error)
        else:
            future.set_result(result)

    thread: threading.Thread | None = None
    try:
        thread = threading.Thread(target=run, name="agentguard-approval", daemon=True)
        thread.start()
    except BaseException:  # the system has no more of them, or who asks was stopped
        if thread is None or thread.ident is None:
            not_started()
        raise
    return await wait_for(future, seconds)
