"""When another attempt is made, and after how long: full jitter, or what the server asks for, within the deadline."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_result

from agentguard._drive import driven
from agentguard._http.message import Response
from agentguard._http.prepare import Outcome

_BASE, _CAP = 0.1, 2.0  # seconds
_AGAIN: Final = frozenset({429, 500, 502, 503, 504})
_SECONDS: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


def is_worth_another(outcome: Outcome) -> bool:
    """Tell whether another attempt may end better: never after a 4xx other than 429 (RFC 6585 section 4)."""
    return outcome.status in _AGAIN if isinstance(outcome, Response) else outcome.again


def retrying(attempts: int, until: float, clock: Callable[[], float], rng: random.Random) -> AsyncRetrying:
    """Return what repeats attempts until one is not worth another, and gives the last outcome when they are used up.

    It neither suspends for a driven caller nor sees an exception, but those of whoever makes the request.
    """

    def stop(state: RetryCallState) -> bool:
        return state.attempt_number >= attempts or clock() + state.upcoming_sleep >= until

    def wait(state: RetryCallState) -> float:
        jitter = rng.uniform(0, min(_CAP, _BASE * 2.0 ** (state.attempt_number - 1)))
        return max(jitter, _asked_for(_outcome(state)))

    return AsyncRetrying(
        sleep=_pause, stop=stop, wait=wait, retry=retry_if_result(is_worth_another), retry_error_callback=_outcome
    )


def _outcome(state: RetryCallState) -> Outcome:
    if state.outcome is None:  # tenacity never asks before an attempt
        raise AssertionError
    outcome: Outcome = state.outcome.result()
    return outcome


def _asked_for(outcome: Outcome) -> float:
    """Return the seconds of a Retry-After header (RFC 9110 section 10.2.3), or 0."""
    text = outcome.headers.get("retry-after", "").strip() if isinstance(outcome, Response) else ""
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, date.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


async def _pause(seconds: float) -> None:
    if driven():
        time.sleep(seconds)  # noqa: ASYNC251  # a driven caller has no event loop to give way to
    else:
        await anyio.sleep(seconds)
