"""A guard whose every secret is a canary, and tools that do with them whatever a bad tool can."""

from __future__ import annotations

import base64
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec.structs import replace

from agentguard import Guard, Intent, User, any_, current_credential, guarded, step
from agentguard._dpop import DpopKey
from agentguard.audit.log import FileLog
from agentguard.errors import CredentialUnavailable
from agentguard.handover import Handovers
from agentguard.keys import SigningKey
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Grant, Lease, Placement, Secret
from agentguard.model.principal import Proof, Subject
from agentguard.registry import OpenRegistry
from agentguard.state.approvals_sqlite import SqliteApprovals
from agentguard.state.budgets_sqlite import SqliteBudgets
from agentguard.state.parked_sqlite import SqliteParkedTasks
from agentguard.state.redemptions_sqlite import SqliteRedemptions
from agentguard.state.sqlite import SqliteLedger
from agentguard.state.suspensions_sqlite import SqliteSuspensions
from agentguard.testing.leaks import Sweep, sweep

API: Final = "https://api.test"
ID_TOKEN: Final = (
    "eyJhbGciOiJFUzI1NiIsImtpZCI6ImlkcCJ9.eyJzdWIiOiJhbGljZS1jYW5hcnktY2xhaW1zIiwibm9uY2UiOiI3NzEifQ."
    "aWQtdG9rZW4tc2lnbmF0dXJlLWNhbmFyeS04ODEyMzQ1Njc4OTA"
)
PSEUDONYM_KEY: Final = "pseudonym-key-canary-5f1c9e7ab2d84"
STATE_KEY: Final = "state-key-canary-90b1d2c3f4e5a697"
PIN: Final = "pin-canary-77120934"
IBAN: Final = "DE-iban-canary-0300000000202051"
USER: Final = "alice.canary@private.test"
HANDLE: Final = "handle-canary-f00f00baadcafe"
# What stands in clear where a person, the tool or the application has to see it, but in no record, span, log or file.
VALUES: Final = {"a secret argument": PIN, "personal data in an argument": IBAN}
KINDS: Final[dict[str, dict[str, Any]]] = {
    "bearer token": {"type": "access_token"},
    "bound token": {"placement": Placement.DPOP},
    "database password": {"type": "login", "placement": Placement.LOGIN, "name": "v-role-1"},
    "static secret": {"type": "static", "placement": Placement.HEADER, "name": "x-api-key"},
}


class CanaryIssuer:
    """Issues one kind of credential after another, each with a secret of its own, and tells the sweep."""

    suspends = remote = False

    def __init__(self, found: Sweep, kind: str) -> None:
        self.found, self.kind = found, kind
        self.fails = ""
        self.issued: list[str] = []

    def prepare(self, grant: Grant, now: float) -> Lease:
        """Name it."""
        made = Lease(id=f"l-{secrets.token_hex(4)}", issuer="canary", key=grant.key, task=grant.task,
                     issued_at=now, expires_at=now + 30)  # fmt: skip
        return replace(made, **KINDS[self.kind])

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        """Make it."""
        secret, key = secrets.token_urlsafe(33), SigningKey.generate()
        self.found.canary(self.kind, secret)
        self.found.canary("private key of a bound token", private_number(key))
        if self.fails == "typed":
            raise CredentialUnavailable("the server is out of reach")
        if self.fails == "untyped":
            raise RuntimeError(f"the server said: {secret}")
        self.issued.append(secret)
        prover = DpopKey(key) if lease.placement is Placement.DPOP else None
        return Issued(lease, Secret(secret), Secret(HANDLE), prover)

    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        """End it, or say with every secret that it failed."""
        if self.fails == "revoke":
            raise RuntimeError(f"cannot revoke {self.issued} with {handle.reveal() if handle else ''}")
        return Ending.REVOKED


def private_number(key: SigningKey) -> str:
    """What makes a key private, as a JWK says it (RFC 7518 section 6.2.2)."""
    private: Any = load_pem_private_key(key.to_pem(), None)
    number: int = private.private_numbers().private_value
    return base64.urlsafe_b64encode(number.to_bytes(32)).rstrip(b"=").decode()


class Users:
    """Believes one ID token."""

    suspends = False

    async def verify(self, token: str, now: float) -> Subject:
        """Say who it is."""
        if token != ID_TOKEN:
            raise ValueError(f"no such token: {token}")
        return Subject(USER, "https://idp.test", proof=Proof.VERIFIED)


class Room:
    """One guard with files, and the sweep over all it leaves."""

    def __init__(self, folder: Path, found: Sweep, kind: str = "bearer token", **rooms: Any) -> None:
        self.folder, self.found = folder, found
        self.issuer = CanaryIssuer(found, kind)
        state = folder / "state.db"
        self.log = FileLog(folder / "audit")
        parties = Handovers(
            issuer="home", trust_domain="bank.test", key=SigningKey.generate(), redemptions=SqliteRedemptions(state)
        )
        ledger = SqliteLedger(state, Secret(STATE_KEY))
        self.guard = Guard(**{
            "audit": self.log, "registry": OpenRegistry(), "issuer": self.issuer, "environment": "test",
            "users": Users(), "ledger": ledger, "budgets": SqliteBudgets(state), "handovers": parties,
            "suspensions": SqliteSuspensions(state), "approvals": SqliteApprovals(state),
            "parked": SqliteParkedTasks(state, Secret(STATE_KEY)), "closing": [parties.redemptions],
            "pseudonym_key": PSEUDONYM_KEY.encode(), **rooms,
        })  # fmt: skip

    def task(self, intent: Intent | None = None) -> Any:
        """A task of the verified user."""
        return self.guard.task("bot", on_behalf_of=User.verified(ID_TOKEN), intent=intent or anything())


def anything() -> Intent:
    """Every tool below, with any argument."""
    names = ("leaks.tell", "leaks.raise", "leaks.stream", "leaks.astream", "leaks.slow", "leaks.say")
    return Intent("Anything", *[step(name, account=any_, pin=any_, how=any_).times(50) for name in names])


@contextmanager
def swept(
    folder: Path, kind: str = "bearer token", *, but: Sequence[str] = (), **rooms: Any
) -> Iterator[tuple[Room, Sweep]]:
    """A room whose guard is closed, and everything it left looked at, before the assertion at the end.

    Args:
        folder: for its files.
        kind: of its credentials.
        but: canaries that may be seen.
        rooms: of the guard.
    """
    canaries = {
        "ID token": ID_TOKEN, "pseudonym key": PSEUDONYM_KEY, "state key": STATE_KEY, "revocation handle": HANDLE,
        "the subject's name": USER,
    }  # fmt: skip
    mine: list[Callable[..., Any]] = [CanaryIssuer.issue, CanaryIssuer.revoke, Users.verify]
    canaries = {name: text for name, text in {**canaries, **VALUES}.items() if name not in but}
    with sweep(canaries, files=[folder], mine=mine) as found:
        room = Room(folder, found, kind, **rooms)
        try:
            yield room, found
        finally:
            room.guard.close()
            found.guard(room.guard)
    found.assert_no_leaks()


def without_locals(error: BaseException) -> list[object]:
    """What is shown of an exception where no locals are: for values, which any frame above the guard holds too."""
    return [str(error), repr(error), error.args, {name: str(value) for name, value in vars(error).items()}]


# --- tools --------------------------------------------------------------------------------------------------


def _spec(**more: Any) -> dict[str, Any]:
    return {"audience": API, "scopes": ["x"], "secret": ["pin"], "data": {"pii"}, **more}


TELL: Final[dict[str, Callable[[str], object]]] = {
    "plain": lambda s: s,
    "header": lambda s: {"headers": {"Authorization": f"Bearer {s}"}, "status": 401},
    "base64": lambda s: base64.b64encode(f"user:{s}".encode()),
    "nested": lambda s: [({"deep": [s]},)],
    "key": lambda s: {s: 1},
    "url": lambda s: f"{API}/cb?token={s}#x",
    "exception": lambda s: ValueError(s),
    "lc": lambda s: {"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"], "token": s},
}
RAISE: Final[dict[str, Callable[[str], BaseException]]] = {
    "text": lambda s: RuntimeError(f"401 for {s}"),
    "field": lambda s: _with_field(RuntimeError("401"), s),
    "note": lambda s: _with_note(RuntimeError("401"), s),
    "group": lambda s: ExceptionGroup("all", [RuntimeError(s), ValueError(1)]),
    "file name": lambda s: OSError(2, "no such file", s),
}


def _with_field(error: Any, secret: str) -> BaseException:
    error.response = {"body": secret}
    return error  # type: ignore[no-any-return]  # the error it was given


def _with_note(error: BaseException, secret: str) -> BaseException:
    error.add_note(f"the token was {secret}")
    return error


def revealed() -> str:
    """The running call's secret."""
    credential = current_credential()
    return credential.token


@guarded("leaks.tell", **_spec())
def tell(account: str, pin: str, how: str) -> object:
    """Return the credential."""
    return TELL[how](revealed())


@guarded("leaks.raise", **_spec())
def throw(account: str, pin: str, how: str) -> object:
    """Raise the credential, from another error with it, with it in a local variable."""
    local = {"secret": revealed()}
    try:
        raise KeyError(local["secret"])
    except KeyError as cause:
        raise RAISE[how](local["secret"]) from cause


@guarded("leaks.stream", **_spec(effect="read"))
def stream(account: str, pin: str, how: str) -> Iterator[str]:
    """Stream the credential in parts of some characters."""
    text, size = f"before {revealed()} after", int(how)
    yield from (text[at : at + size] for at in range(0, len(text), size))


@guarded("leaks.astream", **_spec(effect="read"))
async def astream(account: str, pin: str, how: str) -> AsyncIterator[str]:
    """The same, asynchronously."""
    text, size = f"before {revealed()} after", int(how)
    for at in range(0, len(text), size):
        yield text[at : at + size]


@guarded("leaks.say", audience=API, scopes=["x"], secret=["pin"])
def say(account: str, pin: str, how: str) -> str:
    """Do nothing wrong."""
    assert revealed()
    return "done"


@guarded("leaks.die", audience=API, scopes=["x"], secret=["pin"])
def die(account: str, pin: str, how: str) -> str:
    """End the process during the call."""
    assert revealed()
    logging.shutdown()
    os._exit(9)
