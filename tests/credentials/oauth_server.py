"""An authorization server of the tests, in memory or on a loopback port; it does what it is told, right or wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from agentguard._http import Request, Response
from agentguard._jwt import Profile, Rejection, examine
from agentguard.credentials.oauth import (
    AuthorizationServer,
    ClientCredentials,
    PrivateKeyJwt,
    SignedActor,
    TokenExchange,
    TokenRules,
)
from agentguard.keys import KeySet, SigningKey
from agentguard.model.lease import Grant, LeaseKey, Secret, SubjectToken
from agentguard.model.principal import Agent, Chain, Proof, Subject

URN: Final = "urn:ietf:params:oauth:"
ISSUER: Final = "https://as.test"
API: Final = "https://api.test"
CLIENT: Final = "support-bot"
KEY: Final = SigningKey.generate()
CLIENT_KEY: Final = SigningKey.generate()
ABSENT: Final = object()
CANARY: Final = "canary-of-the-users-own-token"
Form = Mapping[str, str]


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(claims: Mapping[str, Any], typ: str = "at+jwt", key: SigningKey = KEY) -> str:
    """Sign without the code under test."""
    head = {"alg": key.algorithm, "typ": typ, "kid": key.kid}
    body = ".".join(base64url(json.dumps(part).encode()) for part in (head, claims))
    return f"{body}.{base64url(key.sign(body.encode()))}"


def payload(token: str) -> dict[str, Any]:
    """The claims of a token, unverified."""
    part = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def header(token: str) -> dict[str, Any]:
    part = token.split(".")[0]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def without(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not ABSENT}


def answered(status: int = 200, body: Any = None, **headers: str) -> Response:
    """An answer in JSON; bytes stand as they are."""
    data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, {"content-type": "application/json", **named}, data, ISSUER)


class FakeServer:
    """An authorization server that also stands in for `Http`.

    Attributes:
        claims, answer: what differs in the next tokens and answers; ABSENT takes a member away.
        script: the next answers, instead of what it would answer; a callable is called, an exception raised.
        opaque: tokens are opaque.
        nonce: the DPoP nonce it demands.
        alive: tokens that were issued and not revoked.
    """

    networks: tuple[str, ...] = ()

    def __init__(self, clock: Callable[[], float] = time.time, issuer: str = ISSUER) -> None:
        self.clock, self.issuer = clock, issuer
        self.claims: dict[str, Any] = {}
        self.answer: dict[str, Any] = {}
        self.introspection: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.script: list[Any] = []
        self.opaque, self.nonce = False, ""
        self.seen: list[Request] = []
        self.jtis: set[str] = set()
        self.alive: dict[str, dict[str, Any]] = {}
        self.numbers = iter(range(1, 10**9))
        self.lock = threading.Lock()

    # what Http does

    async def send(self, make: Any, *, deadline: float | None = None, retry: bool = True) -> Response:
        made = make()
        return self.respond(await made if hasattr(made, "__await__") else made)

    def close(self) -> None: ...

    # what a server does

    def respond(self, request: Request) -> Response:
        """Answer one request."""
        with self.lock:
            self.seen.append(request)
        path = urlsplit(request.url).path
        if self.script and request.method == "POST":
            step = self.script.pop(0)
            step = step(request) if callable(step) else step
            if isinstance(step, BaseException):
                raise step
            if step is not None:
                return step  # type: ignore[no-any-return]  # what the test put there
        return self._routes()[path](request, dict(request.form or ()))

    def _routes(self) -> dict[str, Callable[[Request, Form], Response]]:
        return {
            "/.well-known/oauth-authorization-server": lambda request, form: answered(body=self._metadata()),
            "/jwks": lambda request, form: answered(body=KeySet.of(KEY).jwks()),
            "/token": self._authenticated(self._token),
            "/revoke": self._authenticated(self._revoke),
            "/introspect": self._authenticated(self._introspect),
        }

    def _metadata(self) -> dict[str, Any]:
        places = {
            "token_endpoint": "/token",
            "revocation_endpoint": "/revoke",
            "introspection_endpoint": "/introspect",
            "jwks_uri": "/jwks",
        }
        urls = {name: self.issuer + path for name, path in places.items()}
        return without({"issuer": self.issuer, **urls, **self.metadata})

    def _authenticated(self, route: Any) -> Any:
        def answer(request: Request, form: Form) -> Response:
            claims = self.checked(form["client_assertion"], "client-authentication+jwt")
            if isinstance(claims, Rejection) or not claims["sub"] == claims["iss"] == form["client_id"]:
                return answered(401, {"error": "invalid_client", "error_description": form["client_assertion"]})
            return route(request, form)  # type: ignore[no-any-return]  # a route

        return answer

    def checked(self, assertion: str, typ: str) -> Mapping[str, Any] | Rejection:
        """Verify what the client signed: our issuer as the only audience, 60 seconds, each `jti` once."""
        profile = Profile(
            typ=frozenset({typ.lower()}),
            issuer=CLIENT,
            audience=self.issuer,
            required=frozenset({"sub", "jti"}),
            leeway=5,
            max_lifetime=60,
        )
        claims = examine(assertion, profile, KeySet.of(CLIENT_KEY), self.clock())
        if isinstance(claims, Rejection):
            return claims
        if not isinstance(claims["aud"], str) or claims["jti"] in self.jtis:
            return Rejection("audience is no text, or replayed")
        self.jtis.add(claims["jti"])
        return claims

    def _token(self, request: Request, form: Form) -> Response:
        proof = request.headers.get("DPoP", "")
        if proof and self.nonce and payload(proof).get("nonce") != self.nonce:
            return answered(400, {"error": "use_dpop_nonce"}, dpop_nonce=self.nonce)
        claims = self._claims(form, proof)
        number = next(self.numbers)
        token = f"opaque-token-number-{number:08}" if self.opaque else signed(claims)
        self.alive[token] = claims
        exchange = form["grant_type"].endswith("token-exchange")
        good = {
            "access_token": token,
            "token_type": "DPoP" if proof else "Bearer",
            "expires_in": 60,
            "issued_token_type": f"{URN}token-type:access_token" if exchange else ABSENT,
            "authorization_details": json.loads(form.get("authorization_details", "null")) or ABSENT,
        }
        return answered(body=without({**good, **self.answer}))

    def _claims(self, form: Form, proof: str) -> dict[str, Any]:
        now = int(self.clock())
        actor = self.checked(form["actor_token"], "JWT") if "actor_token" in form else {}
        assert not isinstance(actor, Rejection), actor
        good = {
            "iss": self.issuer,
            "sub": "alice" if "subject_token" in form or "assertion" in form else form["client_id"],
            "aud": form.get("resource", form.get("audience")),
            "client_id": form["client_id"],
            "iat": now,
            "exp": now + 60,
            "jti": f"jti-{now}-{len(self.alive)}",
            "scope": form.get("scope", ABSENT),
            "act": {name: actor[name] for name in ("sub", "act") if name in actor} or ABSENT,
            "cnf": {"jkt": thumbprint(header(proof)["jwk"])} if proof else ABSENT,
            "authorization_details": json.loads(form.get("authorization_details", "null")) or ABSENT,
        }
        return without({**good, **self.claims})

    def _revoke(self, request: Request, form: Form) -> Response:
        self.alive.pop(form["token"], None)
        return answered()

    def _introspect(self, request: Request, form: Form) -> Response:
        known = self.alive.get(form["token"])
        return answered(body=without({"active": known is not None, **(known or {}), **self.introspection}))

    # what tests ask

    def posts(self, path: str = "/token") -> list[dict[str, str]]:
        """The forms that were sent to an endpoint."""
        return [dict(one.form or ()) for one in self.seen if one.method == "POST" and urlsplit(one.url).path == path]


def thumbprint(jwk: Mapping[str, str]) -> str:
    members = json.dumps({name: jwk[name] for name in ("crv", "kty", "x", "y")}, sort_keys=True, separators=(",", ":"))
    return base64url(hashlib.sha256(members.encode()).digest())


def client(issuer: str = ISSUER) -> PrivateKeyJwt:
    return PrivateKeyJwt(CLIENT, CLIENT_KEY, issuer)


def server_of(fake: FakeServer, http: Any = None, **options: Any) -> AuthorizationServer:
    sends: Any = http or fake
    return AuthorizationServer(fake.issuer, client(fake.issuer), sends, clock=fake.clock, **options)


def exchange_at(fake: FakeServer, http: Any = None, **rules: Any) -> TokenExchange:
    return TokenExchange(server_of(fake, http), SignedActor(client(fake.issuer)), TokenRules(**rules))


def credentials_at(fake: FakeServer, **rules: Any) -> ClientCredentials:
    return ClientCredentials(server_of(fake), TokenRules(**rules))


def grant(*agents: str, **fields: Any) -> Grant:
    """A grant for alice, by `support-bot` unless other agents are named."""
    subject = fields.pop("subject", Subject("alice", ISSUER, proof=Proof.VERIFIED))
    chain = Chain(subject, tuple(Agent(name) for name in agents or ("support-bot",)))
    key = LeaseKey(
        "", subject.sub, "t", chain.names(), "pay", fields.pop("audience", API), fields.pop("scopes", ("pay",)), ""
    )
    token = SubjectToken(Secret(CANARY), f"{URN}token-type:id_token")
    defaults = {"deadline": 4e9, "subject_token": token}
    return Grant(key=key, chain=chain, task="t", intent_s256="s", **{**defaults, **fields})


def own_grant(*agents: str, **fields: Any) -> Grant:
    """A grant for an agent on its own account."""
    subject = Subject("support-bot", proof=Proof.ITSELF, sponsor="ann@bank.test")
    return grant(*agents, subject=subject, subject_token=None, **fields)


@contextmanager
def on_loopback(make: Callable[[str], FakeServer], wire: Callable[[Any], bool] | None = None) -> Iterator[FakeServer]:
    """Serve a fake on a free port of 127.0.0.1.

    Args:
        make: makes it, knowing its issuer.
        wire: called with the handler before each answer; True if it dealt with the connection itself.
    """
    fake: FakeServer

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            if wire is not None and wire(self):
                return
            url, named = fake.issuer + self.path, {"DPoP": self.headers["DPoP"]} if "DPoP" in self.headers else {}
            answer = fake.respond(Request(method=self.command, url=url, headers=named, form=parse_qsl(body)))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None: ...

    listening = Server(("127.0.0.1", 0), Handler)
    fake = make(f"http://127.0.0.1:{listening.server_address[1]}")
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join(5)
