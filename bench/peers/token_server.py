"""The least authorization server that answers a token exchange (RFC 8693): on loopback, in a process of its own.

It refuses what is asked for under `/secret` (`invalid_target`), and counts its requests: `GET /counts`. Answers are
sent at once; with Nagle's algorithm on, a client on a kept connection would wait 40 ms for each.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import os
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl

LASTS: Final = 300  # seconds
MOST: Final = 65_536  # bytes of a request
_KEY: Final = os.urandom(32)
_numbers = itertools.count()
counts: Counter[str] = Counter()


def jwt(audience: str) -> str:
    """A JWT of this server's own key; no peer verifies what it was given."""
    now = int(time.time())
    claims = {"sub": "alice", "act": {"sub": "bot"}, "aud": audience, "iat": now, "exp": now + LASTS}
    signed = f"{_coded({'alg': 'HS256', 'typ': 'at+jwt'})}.{_coded({**claims, 'jti': str(next(_numbers))})}"
    return f"{signed}.{_text(hmac.digest(_KEY, signed.encode(), hashlib.sha256))}"


def _coded(value: dict[str, Any]) -> str:
    return _text(json.dumps(value).encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def exchanged(form: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """The answer to a token request: its status and body."""
    wanted = form.get("resource") or form.get("audience") or ""
    if "/secret" in wanted:
        return 400, {"error": "invalid_target", "error_description": "not granted"}
    return 200, {
        "access_token": jwt(wanted), "token_type": "Bearer", "expires_in": LASTS, "scope": form.get("scope", ""),
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
    }  # fmt: skip


class Answer(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def do_GET(self) -> None:
        """Metadata (RFC 8414), or how often what was asked for."""
        if self.path == "/counts":
            return self._send(200, dict(counts))
        counts["metadata"] += 1
        here = f"http://{self.headers['Host']}"
        self._send(200, {
            "issuer": here, "token_endpoint": f"{here}/token", "revocation_endpoint": f"{here}/revoke",
            "authorization_endpoint": f"{here}/authorize", "jwks_uri": f"{here}/jwks",
            "response_types_supported": ["code"],
            "grant_types_supported": ["urn:ietf:params:oauth:grant-type:token-exchange", "client_credentials"],
        })  # fmt: skip

    def do_POST(self) -> None:
        """A token, or a revocation (RFC 7009)."""
        size = int(self.headers.get("Content-Length", 0))
        if size > MOST:
            self.close_connection = True
            return self._send(413, {"error": "invalid_request"})
        form = dict(parse_qsl(self.rfile.read(size).decode()))
        counts[self.path.strip("/")] += 1
        self._send(*((200, {}) if self.path == "/revoke" else exchanged(form)))

    def _send(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(json.dumps({"address": f"http://127.0.0.1:{server.server_port}"}), flush=True)
        sys.stdin.read()  # until who started it closes the pipe, or is gone
        server.shutdown()


if __name__ == "__main__":
    main()
