"""A vault in this process over real loopback HTTP: tokens, leases under them, KV; and it goes wrong when told to."""

from __future__ import annotations

import json
import secrets
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agentguard.model.lease import Secret


class FakeVault:
    """What an OpenBao server answers, as measured with the real one.

    Attributes:
        tokens: live tokens. leases: live leases, with their token. requests: what was asked, in order.
        auth, creds: fields that the next answers have otherwise. forbidden: paths the policy does not allow.
        faults: by path: a status to answer instead of acting, or "drop" to act and never answer; used once each.
    """

    def __init__(self) -> None:
        self.tokens: set[str] = set()
        self.leases: dict[str, str] = {}
        self.kv: dict[str, Any] = {}
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.auth: dict[str, Any] = {}
        self.creds: dict[str, Any] = {}
        self.data: dict[str, Any] = {}
        self.lookup: dict[str, Any] = {}
        self.renews_to: int | None = None
        self.forbidden: set[str] = set()
        self.faults: dict[str, list[int | str]] = {}
        self.raw: bytes | None = None
        self.dead_says = ["permission denied"]
        self.url = ""

    def count(self, path: str) -> int:
        return len([asked for asked in self.requests if asked.endswith(path)])

    def act(self, method: str, path: str, token: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path.endswith("/login"):
            return self._login(body)
        if token not in self.tokens:
            return 403, {"errors": self.dead_says}
        if any(path.startswith(name) for name in self.forbidden):
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        if path == "auth/token/lookup-self":
            return 200, {"data": {"id": token, "ttl": 30, **self.lookup}}
        if path == "auth/token/renew-self":
            asked = int(body["increment"].removesuffix("s"))
            return 200, {"auth": {"client_token": token, "lease_duration": self.renews_to or asked}}
        if path == "auth/token/revoke-self":
            self.tokens.discard(token)
            self.leases = {lease: of for lease, of in self.leases.items() if of != token}
            return 204, None
        if path == "sys/leases/revoke":
            self.leases.pop(body["lease_id"], None)
            return 204, None
        if path.startswith("sys/leases/revoke-prefix/"):
            prefix = path.removeprefix("sys/leases/revoke-prefix/")
            self.leases = {lease: of for lease, of in self.leases.items() if not lease.startswith(prefix)}
            return 204, None
        if path.startswith("database/creds/"):
            return self._login_role(path, token)
        return (200, {"data": self.kv[path], "lease_duration": 0}) if path in self.kv else (404, {"errors": []})

    def _login(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body.get("jwt") != "eyJ.proof.of-the-workload":
            return 400, {"errors": ["error validating token: eyJ.proof"]}
        token = f"s.{secrets.token_hex(12)}"
        self.tokens.add(token)
        auth = {
            "client_token": token, "accessor": "a", "policies": ["default", "app"], "token_policies": ["app"],
            "metadata": {"role": body["role"]}, "lease_duration": 30, "renewable": True, "entity_id": "76cdf46b-f41d",
            "token_type": "service", "orphan": True, "mfa_requirement": None, "num_uses": 0,
        }  # fmt: skip
        return 200, {"data": None, "wrap_info": None, "warnings": ["be careful"], "auth": {**auth, **self.auth}}

    def _login_role(self, path: str, token: str) -> tuple[int, Any]:
        lease = f"{path}/{secrets.token_hex(8)}"
        self.leases[lease] = token
        data = {"username": f"v-{secrets.token_hex(4)}", "password": secrets.token_hex(10), **self.data}
        return 200, {"lease_id": lease, "lease_duration": 20, "data": data, "wrap_info": None, **self.creds}


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    vault: FakeVault

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        vault, path = self.vault, self.path.removeprefix("/v1/")
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        vault.requests.append(f"{method} {path}")
        vault.headers.append({name.lower(): value for name, value in self.headers.items()})
        due = vault.faults.get(path) or [""]
        fault = due.pop(0)
        if isinstance(fault, int):
            self._send(fault, {"errors": ["vault at /very/private/path failed"]})
            return
        status, answer = vault.act(method, path, self.headers.get("x-vault-token", ""), body)
        if fault == "drop":
            self.close_connection = True
            return
        self._send(status, answer)

    def _send(self, status: int, answer: Any) -> None:
        content = b"" if answer is None else self.vault.raw or json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def fake_vault() -> Iterator[FakeVault]:
    """A vault that answers until the end of the `with`."""
    vault = FakeVault()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"vault": vault}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    vault.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield vault
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()


class Tokens:
    """The workload's token, for whichever audience is asked for."""

    def __init__(self) -> None:
        self.text, self.audiences = "eyJ.proof.of-the-workload", list[str]()

    async def token(self, audience: str, now: float) -> Secret:
        self.audiences.append(audience)
        return Secret(self.text)


def in_reach(error: BaseException, text: str) -> bool:
    """Whether a text stands in an error, its cause or context, or in what the library's frames hold."""
    frames = [
        frame for frame, _ in traceback.walk_tb(error.__traceback__) if "/src/agentguard/" in frame.f_code.co_filename
    ]
    seen: set[int] = set()
    waiting: list[object] = [error.args, error.__context__, error.__cause__, *(frame.f_locals for frame in frames)]
    while waiting:
        found = waiting.pop()
        if id(found) in seen or len(seen) > 20_000:
            continue
        seen.add(id(found))
        if isinstance(found, (str, bytes)):
            if text in (found if isinstance(found, str) else found.decode(errors="replace")):
                return True
        elif isinstance(found, dict):
            waiting += [*found.keys(), *found.values()]
        elif isinstance(found, (list, tuple, set)):
            waiting += found
        elif type(found).__module__.startswith("agentguard") and type(found).__name__ not in (
            "Secret",
            "OpenBaoIssuer",
        ):
            waiting += [getattr(found, name, None) for name in getattr(type(found), "__slots__", ())]
            waiting.append(getattr(found, "__dict__", None))
    return False
