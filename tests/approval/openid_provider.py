"""An OpenID provider of the tests, in memory; it says what it is told, right or wrong, and time is the test's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from agentguard._http import HttpFailure, Request, Response
from agentguard.approval.ciba import CibaApprover
from agentguard.keys import KeySet, SigningKey
from tests.credentials.oauth_server import ABSENT, answered, signed, without

ISSUER: Final = "https://op.test"
KEY: Final = SigningKey.generate()
CANARY: Final = "canary-access-token-of-the-person"
LOST: Final = HttpFailure("no complete answer in time", sent=True)
AWAY: Final = HttpFailure("no connection can be made", sent=False)


class Proof:
    """Stands for the client's assertion."""

    client_id = "support-bot"
    issuer = ISSUER

    async def fields(self, token_endpoint: str, now: float) -> list[tuple[str, str]]:
        return [("client_id", self.client_id), ("client_assertion", f"assertion-{now}")]


def said(error: str, status: int = 400) -> Response:
    return answered(status, {"error": error})


class FakeProvider:
    """Stands in for `Http`.

    Attributes:
        now: seconds, of both clocks; a pause adds to it.
        polls: what the next polls bring: an answer, an exception, or None for tokens.
        starts: the same for the next questions, None for a good one.
        started, tokens, claims, document: members that differ; ABSENT takes one away.
        forms: what was sent, by path; `times` when.
    """

    networks: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.polls: list[Any] = []
        self.starts: list[Any] = []
        self.started: dict[str, Any] = {}
        self.tokens: dict[str, Any] = {}
        self.claims: dict[str, Any] = {}
        self.document: dict[str, Any] = {}
        self.metadata: Any = None
        self.revocation: Any = None
        self.key = KEY
        self.forms: list[tuple[str, dict[str, str]]] = []
        self.times: list[float] = []
        self.poll_takes = 0.0
        self.closed = False

    def clock(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.now += seconds

    def approver(self, *, client: Any = None, **options: Any) -> CibaApprover:
        usual: dict[str, Any] = {"login_hints": {"operator": "ann"}}
        clocks = {"clock": self.clock, "monotonic": self.clock, "pause": self.pause}
        return CibaApprover(ISSUER, client or Proof(), self, **{**usual, **clocks, **options})  # type: ignore[arg-type]  # a stand-in

    async def send(self, make: Any, *, deadline: float | None = None, retry: bool = True) -> Response:
        made = make()
        request: Request = await made if hasattr(made, "__await__") else made
        path = urlsplit(request.url).path
        if request.method == "POST":
            assert not retry
            self.forms.append((path, dict(request.form or ())))
        if path == "/token":
            self.times.append(self.now)
            self.now += self.poll_takes
        result = self._route(path)
        if isinstance(result, BaseException):
            raise result
        return result  # type: ignore[no-any-return]  # what the test put there

    def close(self) -> None:
        self.closed = True

    def sent(self, path: str) -> list[dict[str, str]]:
        return [form for where, form in self.forms if where == path]

    def _route(self, path: str) -> Any:
        if path == "/jwks":
            return answered(body=KeySet.of(KEY).jwks())
        if path == "/revoke":
            return self.revocation or answered()
        if path.startswith("/.well-known/"):
            return self.metadata or answered(body=self._metadata())
        scripted = {"/token": self.polls, "/backchannel": self.starts}[path]
        step = scripted.pop(0) if scripted else None
        return step if step is not None else answered(body=self._good(path))

    def _metadata(self) -> Mapping[str, Any]:
        places = {
            "token_endpoint": "/token",
            "backchannel_authentication_endpoint": "/backchannel",
            "jwks_uri": "/jwks",
            "revocation_endpoint": "/revoke",
        }
        return without({"issuer": ISSUER, **{name: ISSUER + path for name, path in places.items()}, **self.document})

    def _good(self, path: str) -> Mapping[str, Any]:
        if path == "/backchannel":
            return without({"auth_req_id": "question-1", "expires_in": 120, "interval": 5, **self.started})
        now = int(self.now)
        claims = {"iss": ISSUER, "sub": "ann", "aud": "support-bot", "iat": now, "exp": now + 60}
        token = signed(without({**claims, **self.claims}), "JWT", self.key)
        return without({"id_token": token, "access_token": CANARY, "token_type": "Bearer", **self.tokens})


__all__ = ["ABSENT", "AWAY", "CANARY", "ISSUER", "KEY", "LOST", "FakeProvider", "Proof", "said"]
