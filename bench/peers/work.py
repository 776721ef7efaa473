"""The tool that every peer guards, and looking at what a peer does for a call of it.

This and `serving` run inside each peer's environment, which holds no agentguard: they import nothing but the standard
library and langchain-core.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol

Case = Callable[[], object]
ALLOWED: Final = {"table": "users"}
DENIED: Final = {"table": "secret"}
API: Final = "https://db.test"
SCOPE: Final = "db:read"
CALLS: Final = 3  # calls that are looked at
_ROWS: Final = {"users": [1, 2, 3], "secret": [4]}

ran: list[str] = []  # the tables that the tool's body read, while calls are looked at
tokens: list[str] = []  # and the credentials that it could use
disk_waits = 0
_looking = False


def lookup(table: str) -> int:
    """Count the rows of a table."""
    if _looking:
        ran.append(table)
    return len(_ROWS[table])


def note(token: str) -> None:
    """What a tool's body calls with its credential."""
    if _looking:
        tokens.append(token)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of using a peer: a call that is let through, and one that is refused with an exception of the peer's.

    Args:
        allowed: makes the call.
        denied: makes the refused call.
        refusal: what a refused call raises.
    """

    allowed: Case
    denied: Case
    refusal: type[Exception]


@dataclass(frozen=True, slots=True)
class Facts:
    """What one call does, as seen while it ran.

    Args:
        credential: who signs it with what: "ES256", "token server's", "unsigned"; "none" without one.
        each_call: "own", or "shared" where several calls get the same credential.
        revoked: "by itself" at the task's end, "by caller" where the user's code has to ask, or "never".
        audit: "file", "memory" or "none".
        bytes_written: to files, for one allowed call.
        disk_waits: `fsync` and `fdatasync` for one allowed call.
        round_trips: requests to the token server for one allowed call.
        chain: a change of a record is found: "file", "memory" or "no".
        spans: OpenTelemetry spans of one allowed call.
        arguments: a denial can depend on an argument: "yes", "keywords only" or "no".
        denial_recorded: "file", "memory" or "no".
        denied_tool_runs: the body of a denied tool that does not ask for its credential.
        denied_by: what says no in the measured denial.
    """

    credential: str = "none"
    each_call: str = "-"
    revoked: str = "-"
    audit: str = "none"
    bytes_written: int = 0
    disk_waits: float = 0
    round_trips: float = 0
    chain: str = "no"
    spans: int = 0
    arguments: str = "no"
    denial_recorded: str = "no"
    denied_tool_runs: str = "no"
    denied_by: str = ""


class Peer(Protocol):
    """A peer in its own environment; made with an empty folder and the token server's address."""

    @property
    def distributions(self) -> tuple[str, ...]:
        """Whose versions are reported."""

    def variants(self) -> Mapping[str, Variant]: ...
    def fresh(self) -> None:
        """Forget what earlier calls left behind: done before each batch, and never timed."""

    def facts(self, name: str) -> Facts: ...
    def close(self) -> None: ...


# --- looking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """What some calls left behind, per call, and how often the tool's body ran."""

    bytes_written: int
    disk_waits: float
    ran: int


def look(folder: Path, call: Case, refusal: type[Exception] | None = None) -> Seen:
    """Make a few calls and see what they write and how often the tool's body runs.

    Args:
        folder: where the peer keeps its files.
        call: the call.
        refusal: what it has to raise, if it is to be refused.
    """
    global _looking
    ran.clear()
    tokens.clear()
    before, waits, _looking = written(folder), disk_waits, True
    try:
        for _ in range(CALLS):
            expect(call, refusal)
    finally:
        _looking = False
    return Seen((written(folder) - before) // CALLS, round((disk_waits - waits) / CALLS, 2), len(ran))


def expect(call: Case, refusal: type[Exception] | None) -> None:
    """Make a call; one that should have been refused and was not is an error, or its figure would be for other work."""
    if refusal is None:
        call()
    elif not refused(call, refusal):
        raise AssertionError("a call that is to be denied was let through")


def refused(call: Case, refusal: type[Exception]) -> bool:
    """Make a call, and tell whether it was refused."""
    try:
        call()
    except refusal:
        return True
    return False


def written(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def algorithm(token: str) -> str:
    """The signature algorithm that a JWT's header names, or "unsigned" for what is no JWT."""
    return str(_part(token, 0)["alg"]) if token.count(".") == 2 else "unsigned"


def claims(token: str) -> Mapping[str, Any]:
    """The claims of a JWT; nothing is verified."""
    return _part(token, 1)


def _part(token: str, number: int) -> dict[str, Any]:
    text = token.split(".")[number]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return found


def each_call() -> str:
    """Whether the calls that were looked at last had a credential each."""
    return "-" if not tokens else "own" if len(set(tokens)) == len(tokens) else "shared"


def requests(server: str) -> Counter[str]:
    """How often the token server was asked for what."""
    with urllib.request.urlopen(f"{server}/counts", timeout=10) as answer:
        return Counter(json.load(answer))


def linked(lines: list[str]) -> bool:
    """Tell whether each line of a log holds the SHA-256 of the line before it, in hex or base64, as it stands."""
    for line, after in pairwise(lines):
        digest = hashlib.sha256(line.encode()).digest()
        if digest.hex() not in after and base64.urlsafe_b64encode(digest).rstrip(b"=").decode() not in after:
            return False
    return len(lines) > 1


def count_disk_waits() -> None:
    """Count every `fsync` and `fdatasync` of this process; before a peer is imported, which may keep the function."""

    def counted(name: str) -> None:
        real = getattr(os, name)

        def wait(fd: Any) -> None:
            global disk_waits
            disk_waits += 1
            real(fd)

        setattr(os, name, wait)

    for name in ("fsync", "fdatasync"):
        if hasattr(os, name):
            counted(name)


def served(folder: Path, server: str, variant: Variant, by: str) -> Facts:
    """What an SDK does whose credentials come from a token server, seen from outside.

    Args:
        folder: what the SDK may write.
        server: the token server's URL.
        variant: its calls.
        by: who refuses the call that is refused.
    """
    variant.allowed()  # the first call fetches the server's metadata
    before = requests(server)
    allowed = look(folder, variant.allowed)
    after, credential = requests(server), each_call()
    denied = look(folder, variant.denied, variant.refusal)
    return Facts(
        credential="server's", each_call=credential,
        revoked="by itself" if after["revoke"] > before["revoke"] else "never",
        audit="file" if allowed.bytes_written else "none", bytes_written=allowed.bytes_written,
        disk_waits=allowed.disk_waits, round_trips=round((after.total() - before.total()) / CALLS, 2),
        denial_recorded="file" if denied.bytes_written else "no", denied_tool_runs="yes" if denied.ran else "no",
        denied_by=by,
    )  # fmt: skip
