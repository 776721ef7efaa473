"""Calls of the Workload API (SPIFFE Workload API, sections 5 and 6), each with a deadline and its own connection.

A connection for each call: nothing is shared with a forked child or left open at the end, and the agent attests this
process anew. Calls are rare, because what they bring is held until half its life has passed.

INVARIANT: nothing here raises because of what the agent answers or does not; the errors' frames hold SVIDs, so what is
returned is a `Failure` in our own words.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import unquote, urlsplit

from agentguard.errors import ConfigurationError

if TYPE_CHECKING:
    from spiffe import JwtBundleSet, JwtSvid, WorkloadApiClient
    from spiffe.workloadapi.x509_context import X509Context

ENDPOINT: Final = "SPIFFE_ENDPOINT_SOCKET"
_PAUSE: Final = 0.1  # seconds before the second attempt, doubled up to the next
_LONGEST_PAUSE: Final = 1.0
_SHOWN: Final = 5  # names in a text
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no SVID.

    Args:
        why: what was wrong and what to do.
        withdrawn: the agent does answer, and the workload is not, or no longer, what it was: nothing held counts.
        again: another attempt may succeed at once.
    """

    why: str
    withdrawn: bool = False
    again: bool = False


def chosen(named: Sequence[tuple[str, T]], wanted: str) -> T | Failure:
    """Return the wanted one of what an agent answered, or the only one where none is wanted by name.

    The first is not taken for the default: which one that is is up to the agent, and may change under us.
    """
    names = sorted({name for name, _ in named})
    shown = ", ".join(names[:_SHOWN])
    if wanted and wanted not in names:
        return Failure(f"this workload is not {wanted}, which is configured; it is {shown}", withdrawn=True)
    if not wanted and len(names) > 1:
        return Failure(f"this workload has {len(names)} identities; write spiffe_id: one of {shown}", withdrawn=True)
    return next(one for name, one in named if name == (wanted or names[0]))


class WorkloadApi:
    """The Workload API behind one socket. Safe for threads; nothing is kept between calls.

    Args:
        socket: `unix:///run/spire/agent.sock`; by default what SPIFFE_ENDPOINT_SOCKET holds.

    Raises:
        ConfigurationError: the package `spiffe` is not installed, or there is no such address.
    """

    def __init__(self, socket: str | None = None) -> None:
        self.address = _address(socket or os.environ.get(ENDPOINT, ""))
        self._path = "/" + self.address.removeprefix("unix:").lstrip("/")
        _check_installed()

    def x509(self, deadline: float) -> X509Context | Failure:
        """Return the X.509-SVIDs and bundles; `deadline` is on the monotonic clock."""
        return self._asked(lambda client, seconds: client.fetch_x509_context(timeout=seconds), deadline)

    def jwt(self, audience: str, spiffe_id: str, deadline: float) -> tuple[Sequence[JwtSvid], JwtBundleSet] | Failure:
        """Return JWT-SVIDs for one audience, not verified yet, and the bundles to verify them with."""
        from spiffe import SpiffeId

        subject = SpiffeId(spiffe_id) if spiffe_id else None

        def both(client: WorkloadApiClient, seconds: float) -> tuple[Sequence[JwtSvid], JwtBundleSet]:
            svids = client.fetch_jwt_svids(audience={audience}, subject=subject, timeout=seconds)
            # Asked for second, so that a key that is new to the token is in it.
            return svids, client.fetch_jwt_bundles(timeout=_left(deadline))

        return self._asked(both, deadline)

    def _asked(self, call: Callable[[WorkloadApiClient, float], T], deadline: float) -> T | Failure:
        pause = _PAUSE
        while True:
            answer = self._attempt(call, deadline)
            if not (isinstance(answer, Failure) and answer.again) or time.monotonic() + pause >= deadline:
                return answer
            time.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311  # jitter
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _attempt(self, call: Callable[[WorkloadApiClient, float], T], deadline: float) -> T | Failure:
        from spiffe import WorkloadApiClient

        if problem := _socket_problem(self._path):
            return Failure(problem)
        try:
            with WorkloadApiClient(self.address) as client:
                return call(client, _left(deadline))
        except Exception as error:
            return _failure(error)


def _address(text: str) -> str:
    if not text:
        raise ConfigurationError(
            f"identity: spiffe needs the agent's socket: write socket: unix:///run/spire/agent.sock, or set {ENDPOINT}"
        )
    try:
        parts = urlsplit(text)
    except ValueError:  # a bracket that is no address
        parts = urlsplit("")
    plain = not (parts.netloc or parts.query or parts.fragment) and unquote(parts.path) == parts.path
    if parts.scheme != "unix" or not parts.path.startswith("/") or not plain:
        raise ConfigurationError(
            f"identity: spiffe: {text!r} is no socket; write unix:// and an absolute path, as unix:///run/spire/agent.sock"
        )
    return text


def _check_installed() -> None:
    try:
        import spiffe  # noqa: F401  # found out now, not at the first call
    except ImportError:
        pass
    else:
        return
    raise ConfigurationError("identity: spiffe needs the package spiffe: pip install 'agentguard[spiffe]'")


def _socket_problem(path: str) -> str:
    if not os.path.exists(path):
        return f"there is no socket {path}; does the SPIFFE agent run, and is its socket mounted here?"
    if not os.access(path, os.R_OK | os.W_OK):
        return f"this process may not use the socket {path}; give its user or group access"
    return ""


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _failure(error: Exception) -> Failure:
    from spiffe.workloadapi.errors import FetchJwtSvidError, FetchX509SvidError

    cause = error.__cause__
    code = getattr(cause, "code", None)
    if callable(code):
        name = getattr(code(), "name", "UNKNOWN")
        return _BY_CODE.get(name) or Failure(f"the SPIFFE agent failed with {name}; see its log")
    # An error without a cause is the client's own: the answer held no SVID, or the stream ended before there was one.
    if cause is None and isinstance(error, (FetchX509SvidError, FetchJwtSvidError)):
        return Failure("the SPIFFE agent holds no identity for this workload; register an entry for it", withdrawn=True)
    return Failure("what the SPIFFE agent answered holds no valid SVID and bundle; see its log")


_BY_CODE: Final = {
    "UNAVAILABLE": Failure("the SPIFFE agent cannot be reached at its socket; does it run?", again=True),
    "DEADLINE_EXCEEDED": Failure("the SPIFFE agent did not answer in time; is it overloaded or stuck?"),
    "PERMISSION_DENIED": Failure(
        "the SPIFFE agent issues no such identity to this workload; register an entry for it", withdrawn=True
    ),
    "INVALID_ARGUMENT": Failure("the SPIFFE agent refused the request as invalid; see its log"),
}
