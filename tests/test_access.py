"""`GuardAuth` against a real server, and what a running tool may reach: one origin gets the token, nobody keeps it."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import itertools
import pickle
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from agentguard import CredentialUnavailable, Guard, GuardAuth, Intent, any_, current_call, guard_tool, step
from agentguard.clients.placing import origin
from agentguard.testing import FakeIssuer, fake_guard

CANARY = "canary-lease-"
one_origin = pytest.mark.control("6 a token goes to its audience's origin only")
nothing_kept = pytest.mark.control("6 a credential is never seen")
not_ambient = pytest.mark.control("5 no ambient credential")


class Server:
    """A server on loopback that remembers what it saw, and redirects where it is told to."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []
        self.bodies: list[bytes] = []
        outer = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                outer.seen.append((self.command, self.path, self.headers.get("Authorization", "")))
                status, where = 200, ""
                if self.path.startswith("/to/"):
                    status, where = int(self.path.split("/")[2]), self.path.split("/", 3)[3]
                self.send_response(status)
                if where:
                    self.send_header("Location", where)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            do_POST = do_GET  # noqa: N815  # the name is that of the server

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def tokens(self) -> list[str]:
        return [token for _, _, token in self.seen]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


@pytest.fixture
def guard() -> Iterator[Guard]:
    with fake_guard() as made:
        yield made


def calling(guard: Guard, audience: str, body: Callable[[], Any]) -> Any:
    """Run a body as a guarded tool."""
    with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("call"))):
        return guard_tool(body, "call", audience=audience)()


async def acalling(guard: Guard, audience: str, body: Callable[[], Any]) -> Any:
    async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("call"))):
        return await guard_tool(body, "call", audience=audience)()


def client(**options: Any) -> httpx.Client:
    return httpx.Client(auth=GuardAuth(), trust_env=False, **options)


# where it goes --------------------------------------------------------------------------------------------


def test_token_arrives_at_the_origin_of_the_audience(guard: Guard, server: Server) -> None:
    def body() -> int:
        with client() as http:
            return http.get(f"{server.url}/a/b?c=d").status_code

    assert calling(guard, f"{server.url}/api", body) == 200
    assert server.seen == [("GET", "/a/b?c=d", server.tokens()[0])]
    assert server.tokens()[0].startswith(f"Bearer {CANARY}1-")


def test_token_arrives_from_an_async_client(server: Server) -> None:
    async def body() -> int:
        async with httpx.AsyncClient(auth=GuardAuth(), trust_env=False) as http:
            return (await http.post(server.url, json={"a": 1})).status_code

    async def work() -> int:
        with fake_guard() as guard:
            async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("call"))):
                return int(await guard_tool(body, "call", audience=server.url)())

    assert asyncio.run(work()) == 200
    assert server.tokens()[0].startswith(f"Bearer {CANARY}")
    assert server.bodies == [b'{"a":1}']


def test_header_that_somebody_else_set_is_replaced_and_sent_once(guard: Guard, server: Server) -> None:
    def body() -> None:
        with client(headers={"authorization": "Bearer other", "x-own": "1"}) as http:
            http.get(server.url, headers={"Authorization": "Basic other"})

    calling(guard, server.url, body)
    assert server.tokens()[0].startswith(f"Bearer {CANARY}")


@one_origin
@pytest.mark.parametrize("change", ["host", "port", "scheme", "user"])
def test_another_origin_is_refused_before_anything_is_sent(guard: Guard, server: Server, change: str) -> None:
    sent: list[httpx.Request] = []
    url = httpx.URL(server.url)
    urls = {
        "host": url.copy_with(host="localhost"),
        "port": url.copy_with(port=(url.port or 0) + 1),
        "scheme": url.copy_with(scheme="https"),
        "user": httpx.URL(f"http://127.0.0.1@evil.test:{url.port}"),
    }

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    def body() -> None:
        with client(transport=httpx.MockTransport(answer)) as http:
            http.get(urls[change])

    with pytest.raises(CredentialUnavailable, match="client without GuardAuth"):
        calling(guard, server.url, body)
    assert sent == []


@one_origin
@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("https://api.test", "https://api.test:0"),
        ("https://api.test", "https://api.test."),
        ("https://api.test", "https://api.test:8443"),
        ("https://api.test", "http://api.test"),
        ("https://api.test", "https://api.test.evil.test"),
        ("https://api.test", "https://evil.test/https://api.test"),
        ("https://api.test", "https://api.test@evil.test"),
        ("https://api.test", "https://evil.test#@api.test"),
        ("https://api.test", "https://evil.test?@api.test"),
        ("http://[::1]:80", "http://127.0.0.1:80"),
    ],
)
def test_two_origins_are_two(left: str, right: str) -> None:
    assert origin(left) != origin(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("https://api.test", "https://API.test:443/v1?x#y"),
        ("http://127.0.0.1:80", "http://127.0.0.1/"),
        ("http://[::1]", "http://[::1]:80"),
    ],
)
def test_one_origin_is_one_however_it_is_written(left: str, right: str) -> None:
    assert origin(left) == origin(right)


@one_origin
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["same origin", "another port", "another host"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_redirect_never_carries_the_token(guard: Guard, server: Server, status: int, where: str, mode: str) -> None:
    with Server() as other:
        urls = {"same origin": server.url, "another port": other.url,
                "another host": other.url.replace("127.0.0.1", "localhost")}  # fmt: skip
        target = f"{server.url}/to/{status}/{urls[where]}/end"

        def body() -> Any:
            with client(follow_redirects=True) as http:
                return len(http.post(target, content=b"the body").history)

        async def async_body() -> Any:
            async with httpx.AsyncClient(auth=GuardAuth(), trust_env=False, follow_redirects=True) as http:
                return len((await http.post(target, content=b"the body")).history)

        if mode == "sync":
            assert calling(guard, server.url, body) == 1
        else:
            assert asyncio.run(acalling(guard, server.url, async_body)) == 1
        seen = server.tokens() + other.tokens()
    assert len(seen) == 2
    assert seen[0].startswith(f"Bearer {CANARY}")
    assert seen[1] == ""


# what is left of it ---------------------------------------------------------------------------------------


@nothing_kept
def test_request_and_response_show_no_token_during_the_call_and_hold_none_after_it(
    guard: Guard, server: Server
) -> None:
    kept: list[httpx.Response] = []

    def body() -> str:
        with client() as http:
            response = http.get(server.url)
        kept.append(response)
        headers = response.request.headers
        return f"{headers!r} {headers} {dict(headers)} {list(headers.multi_items())} {headers.copy().raw}"

    assert "canary" not in calling(guard, server.url, body)
    request = kept[0].request
    headers = request.headers
    assert "canary" not in f"{request!r} {headers!r} {dict(headers)} {headers.copy().raw} {vars(headers)}"
    assert b"Authorization" not in dict(headers.raw)
    assert headers.get("authorization") is None
    for attempt in (pickle.dumps, copy.deepcopy):
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            attempt(headers)
    assert server.tokens()[0].startswith(f"Bearer {CANARY}")


@nothing_kept
def test_response_that_a_tool_returns_is_no_leak_and_still_shows_none(guard: Guard, server: Server) -> None:
    def body() -> httpx.Response:
        with client() as http:
            return http.get(server.url)

    response = calling(guard, server.url, body)
    assert response.text == "ok"
    assert "canary" not in repr(vars(response.request))


@nothing_kept
def test_error_of_the_server_reaches_the_caller_as_it_is_and_costs_no_credential(server: Server) -> None:
    def body() -> None:
        with client() as http:
            http.get(f"{server.url}/to/404/").raise_for_status()

    issuer = FakeIssuer()
    with fake_guard(issuer=issuer) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("call"))):
            with pytest.raises(httpx.HTTPStatusError) as raised:
                guard_tool(body, "call", audience=server.url)()
            assert list(issuer.live) == ["lease-1"]
    assert raised.value.response.status_code == 404
    assert "canary" not in f"{raised.value!r} {vars(raised.value.request)} {raised.value.response.headers}"


@nothing_kept
def test_error_of_the_network_shows_no_token_also_not_in_the_locals_of_its_traceback(guard: Guard) -> None:
    import traceback

    def answer(request: httpx.Request) -> httpx.Response:
        headers = request.headers.raw
        raise httpx.ConnectError(f"connection refused after {len(headers)} headers", request=request)

    def body() -> None:
        with client(transport=httpx.MockTransport(answer)) as http:
            http.get("https://api.test")

    with pytest.raises(httpx.ConnectError) as raised:
        calling(guard, "https://api.test", body)
    told = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    assert "canary" not in "".join(told.format())


@not_ambient
def test_client_that_is_used_outside_a_call_sends_nothing(guard: Guard, server: Server) -> None:
    http = client()
    calling(guard, server.url, lambda: http.get(server.url).status_code)
    with pytest.raises(CredentialUnavailable):
        http.get(server.url)
    http.close()
    assert len(server.seen) == 1


@not_ambient
def test_request_that_was_authorised_in_a_call_carries_nothing_after_it(guard: Guard, server: Server) -> None:
    kept: list[httpx.Request] = []
    calling(guard, server.url, lambda: kept.append(GuardAuth()(httpx.Request("GET", server.url))))
    with httpx.Client(trust_env=False) as http:
        http.send(kept[0])
    assert server.tokens() == [""]


@not_ambient
def test_thread_that_outlives_the_call_sends_nothing(guard: Guard, server: Server) -> None:
    go, outcome = threading.Event(), list[Any]()

    def late() -> None:
        go.wait(5)
        try:
            with client() as http:
                outcome.append(http.get(server.url))
        except CredentialUnavailable as error:
            outcome.append(error)

    def body() -> threading.Thread:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(late,))
        thread.start()
        return thread

    thread = calling(guard, server.url, body)
    go.set()
    thread.join(5)
    assert isinstance(outcome[0], CredentialUnavailable)
    assert server.seen == []


# many at once (case 48) -----------------------------------------------------------------------------------

crossing = pytest.mark.control("7 nothing crosses between tasks (case 48)")
API = "https://api.test"


class Registry:
    """Answers with the subject that a token was issued for."""

    def __init__(self, issuer: FakeIssuer) -> None:
        self.issuer = issuer

    def __call__(self, request: httpx.Request) -> httpx.Response:
        token = dict(request.headers.raw)[b"Authorization"].decode()
        lease = "-".join(token.removeprefix("Bearer canary-").split("-")[:2])
        return httpx.Response(200, text=self.issuer.live[lease].key.subject)


@crossing
def test_one_client_serves_many_users_in_one_loop_and_never_crosses() -> None:
    issuer = FakeIssuer(suspends=True)
    shared = httpx.AsyncClient(auth=GuardAuth(), transport=httpx.MockTransport(Registry(issuer)))

    async def whoami(pause: int) -> tuple[str, str]:
        for _ in range(pause):
            await asyncio.sleep(0)
        answer = (await shared.get(API)).text
        for _ in range(pause):
            await asyncio.sleep(0)
        return answer, current_call().chain[0]

    asking = guard_tool(whoami, "whoami", audience=API)
    order = random.Random(7)

    async def user(guard: Guard, name: str) -> None:
        intent = Intent("x", step("whoami", pause=any_).times(99))
        async with guard.task("bot", on_behalf_of=name, intent=intent):
            answers = await asyncio.gather(*(asking(order.randrange(5)) for _ in range(10)))
        assert set(answers) == {(f"user:{name}", f"user:{name}")}

    async def work() -> None:
        with fake_guard(issuer=issuer) as guard:
            await asyncio.gather(*(user(guard, f"user{n}") for n in range(40)))

    asyncio.run(work())
    assert issuer.live == {}


@crossing
def test_one_client_serves_many_users_in_one_thread_pool_and_leaves_no_residue() -> None:
    issuer = FakeIssuer()
    shared = client(transport=httpx.MockTransport(Registry(issuer)))
    asking = guard_tool(lambda: (shared.get(API).text, current_call().chain[0]), "whoami", audience=API)
    numbers = itertools.count()

    def user(guard: Guard) -> None:
        name = f"user{next(numbers)}"
        with pytest.raises(CredentialUnavailable):  # what ran in this thread before has left nothing
            current_call()
        with guard.task("bot", on_behalf_of=name, intent=Intent("x", step("whoami").times(99))):
            for _ in range(5):
                assert asking() == (f"user:{name}", f"user:{name}")

    with fake_guard(issuer=issuer) as guard, ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(user, guard) for _ in range(60)]:
            done.result()
    assert issuer.live == {}
    assert len(issuer.issued) == 60


@pytest.mark.control("7 missing context is a deny")
def test_pool_and_bare_thread_see_no_call_and_to_thread_does(guard: Guard) -> None:
    def look() -> str:
        try:
            return current_call().tool
        except CredentialUnavailable:
            return "none"

    async def body() -> list[str]:
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(None, look), await asyncio.to_thread(look)]

    async def work() -> list[str]:
        async with guard.task("bot", on_behalf_of="alice", intent=Intent("x", step("call"))):
            return list(await guard_tool(body, "call", audience=API)())

    assert asyncio.run(work()) == ["none", "call"]
