"""A token server in a process of its own, which knows what is alive, and an issuer that asks it.

`python -m bench.authority [--faults SHARE]` prints its port and runs until its standard input ends.
POST /token {lease, ttl}, POST /revoke {lease} or {token}, POST /act {token, call}, POST /note {call}, GET /state.
A form instead of JSON is a token exchange (RFC 8693) or a revocation (RFC 7009) as a standard client sends them.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl

import anyio
from msgspec.structs import replace

from agentguard import CredentialUnavailable
from agentguard._drive import driven
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Grant, Lease, Secret

HOST: Final = "127.0.0.1"
AUDIENCE: Final = "https://api.test"
TIMEOUT: Final = 2.0
FORM_TTL: Final = 6  # seconds that a token of a token exchange lives
LATE: Final = 0.02  # seconds by which a delayed answer is late
FAULTS: Final = ("drop", "duplicate", "delay", "error_before", "error_after")


class Tokens:
    """What is alive, what acted, and what went wrong. Safe for concurrent use."""

    def __init__(self, faults: float, seed: int) -> None:
        self._lock = threading.Lock()
        self._alive: dict[str, tuple[str, float]] = {}
        self._random, self._faults = random.Random(seed), faults
        self.actions: list[str] = []
        self.counts: Counter[str] = Counter()

    def fault(self) -> str:
        with self._lock:
            chosen = self._random.choice(FAULTS) if self._random.random() < self._faults else ""
            self.counts[chosen or "ok"] += 1
            return chosen

    def issue(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        token, ttl = secrets.token_urlsafe(24), asked.get("ttl", FORM_TTL)
        with self._lock:
            self._alive[token] = asked.get("lease", token), time.time() + ttl
            self.counts["issued"] += 1
        kind = asked.get("requested_token_type")
        typed = {"issued_token_type": kind, "token_type": "Bearer"} if kind else {}
        return {"access_token": token, "expires_in": ttl, **typed}

    def revoke(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._lock:
            for token in [t for t, (lease, _) in self._alive.items() if asked.get("lease", t) in (lease, t)]:
                if asked.get("token", token) == token:
                    del self._alive[token]
                    self.counts["revoked"] += 1
        return {}

    def act(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        with self._lock:
            if self._alive.get(asked["token"], ("", 0.0))[1] <= time.time():
                self.counts["refused"] += 1
                return {"ok": False}
            self.actions.append(asked["call"])
        return {"ok": True}

    def note(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """A tool ran whose credential is somebody else's."""
        with self._lock:
            self.actions.append(asked["call"])
        return {"ok": True}

    def state(self) -> Mapping[str, Any]:
        with self._lock:
            alive = [lease for lease, ends in self._alive.values() if ends > time.time()]
            return {"alive": alive, "actions": list(self.actions), "counts": dict(self.counts)}


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    tokens: Tokens

    def do_GET(self) -> None:
        self._answer(200, self.tokens.state())

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["content-length"])).decode()
        form = self.headers["content-type"] == "application/x-www-form-urlencoded"
        asked = dict(parse_qsl(text)) if form else json.loads(text)
        tokens = self.tokens
        paths = {"/token": tokens.issue, "/revoke": tokens.revoke, "/act": tokens.act, "/note": tokens.note}
        act = paths[self.path]
        fault = tokens.fault() if self.path in ("/token", "/revoke") else ""
        if fault == "error_before":
            return self._answer(503, {})
        answer = act(asked)
        if fault == "duplicate":  # the request came twice, as after a lost acknowledgement
            answer = act(asked)
        if fault == "drop":
            return None
        if fault == "delay":
            time.sleep(LATE)
        return self._answer(500 if fault == "error_after" else 200, answer)

    def _answer(self, status: int, members: Mapping[str, Any]) -> None:
        body = json.dumps(members).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, address: object) -> None:
        """A client that was killed is what this server is for."""


class Client:
    """Asks the server; each request has a connection of its own, so nothing is left open."""

    def __init__(self, port: int) -> None:
        self._port = port

    def __call__(self, path: str, asked: Mapping[str, Any] | None = None) -> Any:
        """Return the answer.

        Raises:
            CredentialUnavailable: there was none, or it was an error.
        """
        status, connection = 0, http.client.HTTPConnection(HOST, self._port, timeout=TIMEOUT)
        try:
            connection.request("POST" if asked else "GET", path, json.dumps(asked) if asked else None)
            answer = connection.getresponse()
            status, body = answer.status, answer.read()
            if status == 200:
                return json.loads(body)
        except (OSError, http.client.HTTPException, ValueError):
            pass
        finally:
            connection.close()
        raise CredentialUnavailable(f"the token server gave no answer that can be used (status {status})")


class RemoteIssuer:
    """Asks the server in the other process.

    Args:
        port: the server's.
        ttl: seconds that a token lives.
        named: the server ends a token by its lease's id; else by the token only, so what was lost expires.
    """

    suspends = False
    waits = True
    remote = True

    def __init__(self, port: int, *, ttl: float = 30.0, named: bool = True) -> None:
        self.ask, self._ttl, self._named = Client(port), ttl, named

    def prepare(self, grant: Grant, now: float) -> Lease:
        """Name the lease."""
        return Lease(
            id=secrets.token_hex(12), issuer="bench", key=grant.key, task=grant.task, issued_at=now,
            expires_at=now + self._ttl + TIMEOUT, verifier_leeway=0, type="access_token",
        )  # fmt: skip

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        """Ask for a token."""
        answer = await self._ask("/token", {"lease": lease.id, "ttl": self._ttl})
        token = Secret(answer["access_token"])
        return Issued(replace(lease, fingerprint=token.fingerprint()), token, token)

    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        """Have it ended."""
        if self._named:
            await self._ask("/revoke", {"lease": lease.id})
            return Ending.REVOKED
        if handle is None:
            return Ending.EXPIRES
        await self._ask("/revoke", {"token": handle.reveal()})
        return Ending.REVOKED

    async def _ask(self, path: str, asked: Mapping[str, Any]) -> Any:
        if driven():
            return self.ask(path, asked)
        return await anyio.to_thread.run_sync(self.ask, path, asked)


@contextmanager
def authority(*, faults: float = 0.0, seed: int = 0) -> Iterator[int]:
    """Run the server in a process of its own, and return its port."""
    command = [sys.executable, "-m", "bench.authority", "--faults", str(faults), "--seed", str(seed)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.authority", description=__doc__)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    _Requests.tokens = Tokens(options.faults, options.seed)
    server = _Server((HOST, 0), _Requests)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
