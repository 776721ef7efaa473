"""What a credential of a remote authorization server costs the client: round trips, connections and processor time.

The server is a process of its own on a loopback port, and counts. The baseline is one bare `httpx` post of the same
size on a kept connection; a miss is all of it: the ledger, the client assertion and the actor token, the post, and the
verification of the JWT that comes back. Run as `python -m bench.remote [--json]`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import inspect
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, Final
from urllib.parse import parse_qs

import anyio
import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agentguard._dpop import compact_jwt
from agentguard._drive import drive
from agentguard._http import Http, Request, Response
from agentguard.credentials.leases import Leases
from agentguard.credentials.ledger import MemoryLedger
from agentguard.credentials.oauth import AuthorizationServer, PrivateKeyJwt, SignedActor, TokenExchange, TokenRules
from agentguard.keys import SigningKey
from agentguard.model.lease import Grant, LeaseKey, Secret, SubjectToken
from agentguard.model.principal import Agent, Chain, Proof, Subject
from bench.harness import Case, compare, figure, number, valid, versions
from bench.report import printed

API: Final = "https://api.test"
POOL: Final = 20
MISSES: Final = 1000
AT_ONCE: Final = 100
BARS: Final[Mapping[str, float]] = {
    "round_trips_per_miss": 1.0,
    "connections": POOL,
    "miss_cpu_over_bare_post": 1.3,
    "exchanges_for_100_concurrent_misses": 1.0,
}
_TYPES: Final = "urn:ietf:params:oauth:token-type:"


# the server ----------------------------------------------------------------------------------------------------------


class CountingServer:
    """The least authorization server that answers an exchange, and counts connections and requests by path."""

    def __init__(self) -> None:
        self.issuer, self.key, self.numbers = "", SigningKey.generate(), itertools.count()
        self.connections = 0
        self.requests: dict[str, int] = {}

    async def serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.issuer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        sys.stdout.write(f"{self.issuer}\n")
        sys.stdout.flush()
        async with server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                path = head.split(" ", 2)[1]
                headers = {
                    name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n"))
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests[path] = self.requests.get(path, 0) + 1
                answer = json.dumps(self._answer(path, body.decode(), headers), separators=(",", ":")).encode()
                sized = f"content-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n"
                writer.write(f"HTTP/1.1 200 OK\r\n{sized}".encode() + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(self, path: str, body: str, headers: Mapping[str, str]) -> Mapping[str, Any]:
        if path == "/token":
            return self._token({name: values[0] for name, values in parse_qs(body).items()}, headers.get("dpop", ""))
        if path == "/jwks":
            return {"keys": [self.key.public_jwk()]}
        if path == "/counts":
            self.connections, self.requests, counts = 0, {}, {"connections": self.connections, "paths": self.requests}
            return counts
        places = {"token_endpoint": "/token", "jwks_uri": "/jwks", "revocation_endpoint": "/revoke"}
        return {"issuer": self.issuer, **{name: self.issuer + place for name, place in places.items()}}

    def _token(self, form: Mapping[str, str], proof: str) -> Mapping[str, Any]:
        now, actor = int(time.time()), _part(form["actor_token"], 1)
        claims = {
            "iss": self.issuer,
            "sub": "alice",
            "aud": form["resource"],
            "client_id": form["client_id"],
            "iat": now,
            "exp": now + 120,
            "jti": f"t-{next(self.numbers)}",
            "scope": form["scope"],
            "act": {name: actor[name] for name in ("sub", "act") if name in actor},
        }
        if proof:
            claims["cnf"] = {"jkt": _thumbprint(_part(proof, 0)["jwk"])}
        return {
            "access_token": compact_jwt(self.key, {"typ": "at+jwt", "kid": self.key.kid}, claims),
            "token_type": "DPoP" if proof else "Bearer",
            "issued_token_type": f"{_TYPES}access_token",
            "expires_in": 120,
        }


def _part(token: str, number: int) -> dict[str, Any]:
    part = token.split(".")[number]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def _thumbprint(jwk: Mapping[str, Any]) -> str:
    from agentguard._jwk import from_jwk, public_key

    return public_key(from_jwk({**jwk, "kid": "any"}, 0).key).kid


@contextmanager
def counting_server() -> Iterator[str]:
    """Run the server in a process of its own; yields its issuer."""
    command = [sys.executable, "-m", "bench.remote", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


# the client ----------------------------------------------------------------------------------------------------------


class Client:
    """Leases on a token exchange, discovery and keys warm once `miss` was called."""

    def __init__(self, issuer: str, http: Http, *, dpop: bool = False) -> None:
        proof = PrivateKeyJwt("support-bot", SigningKey.generate(), issuer)
        rules = TokenRules(dpop=dpop, revocable=False)  # what a miss costs, without its end
        exchange = TokenExchange(AuthorizationServer(issuer, proof, http), SignedActor(proof), rules)
        self.leases = Leases(exchange, MemoryLedger(), lambda event, fields: None, time.time)
        self.leases.open_task("t")
        self._numbers = itertools.count()
        chain = Chain(Subject("alice", proof=Proof.VERIFIED), (Agent("support-bot"), Agent("researcher")))
        self._chain, self._token = chain, SubjectToken(Secret("t" * 500), f"{_TYPES}access_token")

    def grant(self) -> Grant:
        """A grant under a lease key that was never used."""
        resource = f"account/{next(self._numbers)}"
        names = self._chain.names()
        key = LeaseKey("", self._chain.subject.sub, "t", names, "refund", API, ("refunds:write",), resource)
        return Grant(
            key=key, chain=self._chain, task="t", intent_s256="s", deadline=time.time() + 600, subject_token=self._token
        )

    def miss(self) -> None:
        drive(self.leases.release(drive(self.leases.obtain(self.grant()))))

    async def amiss(self) -> None:
        await self.leases.release(await self.leases.obtain(self.grant()))


def counts(issuer: str) -> Mapping[str, Any]:
    """Read the counters, and set them to nothing."""
    with httpx.Client(trust_env=False) as client:
        return dict(client.get(f"{issuer}/counts").json())


def bare_post(issuer: str, client: httpx.Client, form: Mapping[str, str]) -> Case:
    """One post of the very form of an exchange, to the same endpoint; the answer is parsed and not verified."""

    def run() -> None:
        client.post(f"{issuer}/token", data=form).json()

    return run


def form_of_an_exchange(issuer: str) -> Mapping[str, str]:
    """What one miss sends."""
    sent: list[Request] = []

    class Listening(Http):
        async def send(self, make: Any, *, deadline: float | None = None, retry: bool = True) -> Response:
            async def heard() -> Request:
                made = make()
                sent.append(await made if inspect.isawaitable(made) else made)
                return sent[-1]

            return await super().send(heard, deadline=deadline, retry=retry)

    with closing(Listening()) as http:
        Client(issuer, http).miss()
    return next(dict(one.form) for one in sent if one.form)


def own_post(issuer: str, http: Http, form: Mapping[str, str]) -> Case:
    """The same post by our own client."""
    request = Request(method="POST", url=f"{issuer}/token", form=list(form.items()))
    return lambda: drive(http.send(lambda: request)).json()


def signatures() -> Case:
    """What nobody can save: two ES256 signatures, for client and actor, and one verification."""
    private, algorithm, data = ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(hashes.SHA256()), b"x" * 400
    public, signature = private.public_key(), private.sign(data, algorithm)

    def run() -> None:
        private.sign(data, algorithm)
        private.sign(data, algorithm)
        public.verify(signature, data, algorithm)

    return run


def counted(issuer: str, client: Client, misses: int = MISSES) -> Mapping[str, Mapping[str, Any]]:
    """Round trips and connections of many misses, side by side in threads, and of one miss that many ask for."""
    client.miss()
    counts(issuer)
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda _: client.miss(), range(misses)))
    seen = counts(issuer)
    trips = sum(seen["paths"].values()) - seen["paths"].get("/counts", 0)
    asyncio.run(_at_once(client))
    exchanges = counts(issuer)["paths"].get("/token", 0)
    return {
        "round_trips_per_miss": number(trips / misses, BARS["round_trips_per_miss"]),
        "connections": number(seen["connections"] - 1, BARS["connections"]),  # one asked for the counts
        "exchanges_for_100_concurrent_misses": number(exchanges, BARS["exchanges_for_100_concurrent_misses"]),
    }


async def _at_once(client: Client) -> None:
    grant = client.grant()
    async with anyio.create_task_group() as group:
        for _ in range(AT_ONCE):
            group.start_soon(client.leases.obtain, grant)


def report(rounds: int) -> Mapping[str, Any]:
    with counting_server() as issuer, closing(Http(connections=POOL)) as http, httpx.Client(trust_env=False) as bare:
        with closing(Http(connections=POOL)) as many:
            numbers = counted(issuer, Client(issuer, many))
        # Of its own, as the bare client's: a pool looks at each idle connection whenever it takes one.
        plain, bound = Client(issuer, http), Client(issuer, http, dpop=True)
        form = form_of_an_exchange(issuer)
        cases: Mapping[str, Case] = {
            "miss_cpu_over_bare_post": plain.miss,
            "miss_with_dpop_cpu_over_bare_post": bound.miss,
            "own_post_over_bare_post": own_post(issuer, http, form),
            "signatures_over_bare_post": signatures(),
        }
        ratios = compare(bare_post(issuer, bare, form), cases, rounds=rounds, batch_seconds=0.01)
        waiting = under_a_loop(issuer, form, plain, rounds)
        for client in (plain, bound):
            drive(client.leases.end_task("t"))
    figures = {name: figure(ratio, BARS.get(name)) for name, ratio in ratios.items()}
    figures["async_miss_cpu_over_bare_async_post"] = figure(waiting["miss"], None)
    good = valid(ratios["control"]) and valid(waiting["control"])
    return {"valid": good, "figures": {**numbers, **figures}, "versions": versions()}


def under_a_loop(issuer: str, form: Mapping[str, str], client: Client, rounds: int) -> Mapping[str, Any]:
    """The same miss in an event loop, over one bare post of httpx there."""
    with asyncio.Runner() as runner:
        bare = httpx.AsyncClient(trust_env=False)

        async def post() -> None:
            (await bare.post(f"{issuer}/token", data=form)).json()

        for warm in (post, client.amiss):
            runner.run(warm())
        found = compare(
            lambda: runner.run(post()), {"miss": lambda: runner.run(client.amiss())}, rounds=rounds, batch_seconds=0.01
        )
        runner.run(bare.aclose())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.remote", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--serve", action="store_true", help="be the server; prints its issuer")
    options = parser.parse_args()
    if options.serve:
        asyncio.run(CountingServer().serve())
    return printed(report(options.rounds), json_wanted=options.json)


if __name__ == "__main__":
    sys.exit(main())
