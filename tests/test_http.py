"""The one HTTP client: bounded in time, size and count, a fresh request for every attempt, no secret in an error."""

from __future__ import annotations

import copy
import email.utils
import gzip
import logging
import os
import pickle
import random
import socket
import ssl
import sys
import threading
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from agentguard._drive import drive
from agentguard._http import Http, HttpFailure, Request, Response, checked_url
from agentguard._http.address import parsed_networks, refusal
from agentguard._http.network import Deadline, _Stream
from agentguard.errors import ConfigurationError, Unavailable
from tests.loopback import Answer, Loopback, Slowly, reply

pytestmark = pytest.mark.slow  # processes, servers that hang, deadlines that pass

CANARY = "canary-5f1c"


class NoPause(random.Random):
    """Makes the pauses between attempts none."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


@pytest.fixture
def served() -> Iterator[Callable[..., Loopback]]:
    """Start servers that end with the test."""
    running: list[Loopback] = []

    def start(*answers: Answer, tls: ssl.SSLContext | None = None) -> Loopback:
        left = list(answers)
        server = Loopback(lambda _: left.pop(0) if len(left) > 1 else left[0], tls)
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def http() -> Iterator[Http]:
    client = Http(rng=NoPause())
    yield client
    client.close()


def post(url: str, **changes: Any) -> Callable[[], Request]:
    return lambda: Request(**{"method": "POST", "url": url, "form": [("a", "b")], **changes})


def send(client: Http, make: Callable[[], Request], **how: Any) -> Response:
    """Send as a synchronous caller does."""
    return drive(client.send(make, **how))


def failure_of(client: Http, make: Callable[[], Request], **how: Any) -> HttpFailure:
    with pytest.raises(HttpFailure) as caught:
        send(client, make, **how)
    return caught.value


# What is sent and what comes back.


@pytest.mark.parametrize("how", ["driven", "awaited"])
@pytest.mark.anyio
async def test_a_form_goes_out_and_the_answer_comes_back_whole(
    http: Http, served: Callable[..., Loopback], how: str
) -> None:
    server = served(reply({"x": 1}, DPoP_Nonce="n1"))
    make = post(f"{server.url}/token?q=1", form=[("scope", "a b"), ("r", "é&=")], headers={"Authorization": "Basic x"})

    answer = send(http, make) if how == "driven" else await http.send(make)

    assert (200, {"x": 1}, "n1") == (answer.status, answer.json(), answer.headers["dpop-nonce"])
    (seen,) = server.seen
    assert ("POST", "/token?q=1", b"scope=a+b&r=%C3%A9%26%3D") == (seen.method, seen.target, seen.body)
    assert "application/x-www-form-urlencoded" == seen.headers["content-type"]
    assert ("Basic x", "identity") == (seen.headers["authorization"], seen.headers["accept-encoding"])
    assert f"127.0.0.1:{server.port}" == seen.headers["host"]
    await http.aclose()


def test_json_goes_out_as_json_and_a_get_has_no_body(http: Http, served: Callable[..., Loopback]) -> None:
    server = served(reply())
    send(http, lambda: Request(method="PUT", url=server.url, json={"a": [1]}))
    send(http, lambda: Request(method="POST", url=server.url, json=None))
    send(http, lambda: Request(method="GET", url=server.url))
    assert [b'{"a":[1]}', b"null", b""] == [seen.body for seen in server.seen]
    assert "application/json" == server.seen[0].headers["content-type"]
    assert "content-length" not in server.seen[2].headers


@pytest.mark.anyio
async def test_the_request_may_be_made_by_a_coroutine(http: Http, served: Callable[..., Loopback]) -> None:
    server = served(reply())

    async def make() -> Request:
        return Request(method="GET", url=server.url)

    assert 200 == (await http.send(make)).status == drive(http.send(make)).status
    await http.aclose()


def test_connections_are_kept_and_used_again(http: Http, served: Callable[..., Loopback]) -> None:
    server = served(reply())
    for _ in range(20):
        send(http, post(server.url))
    assert (20, 1) == (len(server.seen), server.connections)


@pytest.mark.anyio
async def test_no_more_connections_than_allowed_are_open_at_once(served: Callable[..., Loopback]) -> None:
    server = served(reply())
    client = Http(connections=3)
    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(client.send, post(server.url))
    assert (30, True) == (len(server.seen), server.connections <= 3)
    await client.aclose()


@pytest.mark.parametrize(
    ("body", "media"),
    [
        (b'{"a":1}', "text/html"),
        (b'{"a":1}', "application/jsonx"),
        (b'{"a":1}', "text/x+json"),
        (b'{"a":1,"a":2}', "application/json"),
        (b"[1]", "application/json"),
        (b"\xff", "application/json"),
        (b"", "application/json"),
    ],
)
def test_what_is_no_strict_json_object_is_refused_without_its_text(
    http: Http, served: Callable[..., Loopback], body: bytes, media: str
) -> None:
    answer = send(http, post(served(reply(body, media=media)).url))
    with pytest.raises(HttpFailure, match="answer") as caught:
        answer.json()
    assert caught.value.sent
    assert None is caught.value.__context__


@pytest.mark.parametrize("media", ["application/json; charset=utf-8", "Application/JSON", "application/jwk-set+json"])
def test_json_by_any_of_its_media_types_is_read(http: Http, served: Callable[..., Loopback], media: str) -> None:
    assert {"a": 1} == send(http, post(served(reply({"a": 1}, media=media)).url)).json()


def test_repeated_headers_are_joined_so_that_two_content_types_are_none(
    http: Http, served: Callable[..., Loopback]
) -> None:
    raw = b"HTTP/1.1 200 OK\r\nX: 1\r\nx: 2\r\nContent-Type: text/html\r\nContent-Type: application/json\r\n"
    answer = send(http, post(served(raw + b"Content-Length: 2\r\n\r\n{}").url))
    assert "1, 2" == answer.headers["x"]
    with pytest.raises(HttpFailure):
        answer.json()


# Attempts.


def counted(url: str) -> tuple[Callable[[], Request], list[str]]:
    made: list[str] = []

    def make() -> Request:
        made.append(f"jti-{len(made)}")
        return Request(method="POST", url=url, form=[("jti", made[-1])])

    return make, made


@pytest.mark.control("8 each attempt is a fresh request")
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_recovers_is_asked_again_each_time_with_a_fresh_request(
    http: Http, served: Callable[..., Loopback], status: int
) -> None:
    server = served(reply(status=status), None, reply())
    make, made = counted(server.url)

    answer = send(http, make)

    assert (200, True) == (answer.status, answer.unsure)
    assert ["jti-0", "jti-1", "jti-2"] == made
    assert [b"jti=jti-0", b"jti=jti-1", b"jti=jti-2"] == [seen.body for seen in server.seen]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 422, 501])
def test_what_another_attempt_cannot_better_is_returned_at_once(
    http: Http, served: Callable[..., Loopback], status: int
) -> None:
    server = served(reply(status=status))
    assert (status, 1) == (send(http, post(server.url)).status, len(server.seen))


def test_after_the_last_attempt_its_answer_is_returned(http: Http, served: Callable[..., Loopback]) -> None:
    server = served(reply(status=503))
    assert (503, 3) == (send(http, post(server.url)).status, len(server.seen))


@pytest.mark.anyio
async def test_attempts_are_the_same_in_an_event_loop(http: Http, served: Callable[..., Loopback]) -> None:
    server = served(reply(status=503), None, reply())
    make, made = counted(server.url)
    assert 200 == (await http.send(make)).status
    assert 3 == len(made)
    await http.aclose()


@pytest.mark.parametrize("answer", [reply(status=503), None])
def test_without_retry_there_is_one_attempt(http: Http, served: Callable[..., Loopback], answer: bytes | None) -> None:
    server = served(answer)
    if answer:
        assert 503 == send(http, post(server.url), retry=False).status
    else:
        assert failure_of(http, post(server.url), retry=False).sent
    assert 1 == len(server.seen)


@pytest.mark.parametrize("pause", ["in seconds", "as a date"])
def test_a_server_that_asks_for_a_pause_gets_it_or_no_more_attempts(
    served: Callable[..., Loopback], pause: str
) -> None:
    later = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=60))
    header = "1" if pause == "in seconds" else later
    server = served(reply(status=503, Retry_After=header), reply())
    client = Http(rng=NoPause())
    started = time.monotonic()
    answer = send(client, post(server.url), deadline=3)
    took = time.monotonic() - started
    client.close()
    if header == "1":  # it fits into the deadline
        assert (200, True) == (answer.status, 1 <= took < 3)
    else:
        assert (503, True) == (answer.status, took < 1)


def test_a_retry_after_that_is_nonsense_is_passed_over(http: Http, served: Callable[..., Loopback]) -> None:
    for nonsense in ("", "-5", "soon", "1e9", "Mon, 99 Foo 99999 99:99:99 GMT", "٣"):
        server = served(
            reply(status=503).replace(b"\r\n\r\n", b"\r\nRetry-After: %s\r\n\r\n" % nonsense.encode()), reply()
        )
        assert 200 == send(http, post(server.url)).status


def test_pauses_are_spread_from_zero_to_a_bound_that_doubles(served: Callable[..., Loopback]) -> None:
    asked: list[tuple[float, float]] = []

    class Noted(NoPause):
        def uniform(self, a: float, b: float) -> float:
            asked.append((a, b))
            return 0.0

    client = Http(rng=Noted(), attempts=8)
    send(client, post(served(reply(status=503)).url))
    client.close()
    assert [(0, 0.1), (0, 0.2), (0, 0.4), (0, 0.8), (0, 1.6), (0, 2.0), (0, 2.0)] == asked[:7]


def test_nothing_listens_says_that_nothing_was_sent(http: Http) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    failure = failure_of(http, post(f"http://127.0.0.1:{port}/x"))
    assert (False, "unavailable", True) == (failure.sent, failure.reason, isinstance(failure, Unavailable))


@pytest.mark.control("8 may-exist is not forgotten by a later attempt")
def test_an_earlier_attempt_that_may_have_acted_is_remembered(http: Http, served: Callable[..., Loopback]) -> None:
    server = served(None)

    def make() -> Request:
        if server.seen:
            server.stop()
        return Request(method="POST", url=server.url)

    assert failure_of(http, make).sent


def test_what_making_the_request_raises_passes_through(http: Http, served: Callable[..., Loopback]) -> None:
    server = served(reply(status=503))
    calls: list[int] = []

    def make() -> Request:
        calls.append(1)
        if len(calls) == 2:
            raise LookupError("no identity")
        return Request(method="GET", url=server.url)

    with pytest.raises(LookupError, match="no identity"):
        send(http, make)


# Time, size, redirects.


SLOW_HEAD = b"HTTP/1.1 200 OK\r\nX-Long: "


@pytest.mark.control("2 the deadline of an attempt is total (case 18)")
@pytest.mark.parametrize("where", ["head", "body", "informational"])
@pytest.mark.parametrize("how", ["driven", "awaited"])
@pytest.mark.anyio
async def test_a_slow_drip_ends_with_the_attempts_time(served: Callable[..., Loopback], where: str, how: str) -> None:
    drip = {
        "head": Slowly(SLOW_HEAD + b"x" * 1000),
        "body": Slowly(reply(b"x" * 1000)),
        "informational": Slowly(b"HTTP/1.1 103 Early\r\n\r\n" * 1000, 22),
    }[where]
    server, client = served(drip), Http(timeout=0.3)
    started = time.monotonic()
    with pytest.raises(HttpFailure, match="in time") as caught:
        if how == "driven":
            send(client, post(server.url), retry=False)
        else:
            await client.send(post(server.url), retry=False)
    assert 0.25 < time.monotonic() - started < 5
    assert caught.value.sent
    await client.aclose()


def test_the_deadline_bounds_all_attempts_together(served: Callable[..., Loopback]) -> None:
    server = served(Slowly(b"x" * 1000), Slowly(b"x" * 1000), Slowly(b"x" * 1000))
    client = Http(timeout=5, attempts=10)
    started = time.monotonic()
    failure_of(client, post(server.url), deadline=0.4)
    assert time.monotonic() - started < 5
    assert "deadline" in failure_of(client, post(server.url), deadline=0).why
    client.close()


def test_a_name_that_never_resolves_ends_with_the_attempts_time() -> None:
    done = threading.Event()

    def hangs(host: str, port: int) -> list[str]:
        done.wait(5)
        return []

    client = Http(timeout=0.2, resolve=hangs)
    assert "in time" in failure_of(client, post("https://slow.test/"), retry=False).why
    done.set()
    client.close()


def bomb(unfolded: int) -> bytes:
    return reply(gzip.compress(b" " * unfolded), Content_Encoding="gzip")


@pytest.mark.control("2 the size of an answer is capped, unfolded too (case 18)")
@pytest.mark.parametrize("how", ["driven", "awaited"])
@pytest.mark.anyio
async def test_an_answer_beyond_the_cap_is_cut_off(served: Callable[..., Loopback], how: str) -> None:
    huge = [b"HTTP/1.1 200 OK\r\nContent-Length: 60000000\r\n\r\n", *[b"x" * 100_000] * 600]
    client = Http(max_bytes=10_000)
    for answer in (huge, bomb(50_000_000), reply(b"x" * 10_001)):
        server = served(answer)
        with pytest.raises(HttpFailure, match="too large") as caught:
            if how == "driven":
                send(client, post(server.url))
            else:
                await client.send(post(server.url))
        assert caught.value.sent
        assert 1 == len(server.seen)  # not tried again
        assert server.sent < 20_000_000
    assert 10_000 == len(send(client, post(served(reply(b"x" * 10_000)).url)).body)
    await client.aclose()


@pytest.mark.control("2 a bomb is not unfolded (case 18)")
def test_a_gzip_bomb_takes_no_more_memory_than_the_cap(served: Callable[..., Loopback]) -> None:
    server, client = served(bomb(50_000_000)), Http(max_bytes=100_000)
    tracemalloc.start()
    failure_of(client, post(server.url))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    client.close()
    assert peak < 5_000_000


def test_gzip_that_fits_is_unfolded_and_anything_else_refused(http: Http, served: Callable[..., Loopback]) -> None:
    fits = gzip.compress(b'{"a":1}')
    assert {"a": 1} == send(http, post(served(reply(fits, Content_Encoding="gzip")).url)).json()
    assert 204 == send(http, post(served(b"HTTP/1.1 204 No\r\nContent-Encoding: gzip\r\n\r\n").url)).status
    for body, coding in (
        (fits[:-9], "gzip"),
        (fits + b"x", "gzip"),
        (b"{}", "gzip"),
        (fits, "br"),
        (fits, "gzip, gzip"),
    ):
        assert "compressed" in (
            why := failure_of(http, post(served(reply(body, Content_Encoding=coding)).url)).why
        ) or ("encoding" in why)


@pytest.mark.control("2 redirects are not followed (case 19)")
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_a_failure_that_says_so_and_goes_nowhere(
    http: Http, served: Callable[..., Loopback], status: int
) -> None:
    other = served(reply())
    server = served(reply(status=status, Location=f"{other.url}/{CANARY}"))
    failure = failure_of(http, post(server.url))
    assert (1, 0) == (len(server.seen), len(other.seen))
    assert "redirects are not followed" in str(failure)
    assert CANARY not in str(failure)


@pytest.mark.parametrize(
    "raw", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", b"\x00" * 300_000]
)
def test_what_is_no_complete_http_is_a_failure(http: Http, served: Callable[..., Loopback], raw: bytes) -> None:
    def answers() -> Iterator[bytes]:
        yield raw
        raise ConnectionResetError

    assert failure_of(http, post(served(answers()).url), retry=False).sent


# Cancellation, event loops, forks, the end.


@pytest.mark.anyio
async def test_a_cancelled_caller_leaves_at_once_and_gives_its_connection_back(served: Callable[..., Loopback]) -> None:
    hangs = served(Slowly(b"x" * 500))
    answers = served(reply())
    client = Http(connections=1)
    for _ in range(5):
        started = time.monotonic()
        with anyio.move_on_after(0.05):
            await client.send(post(hangs.url))
        assert time.monotonic() - started < 3
    assert 200 == (await client.send(post(answers.url))).status
    await client.aclose()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_ends_closes_its_connections(served: Callable[..., Loopback], backend: str) -> None:
    server, client = served(reply()), Http()

    async def main() -> None:
        await client.send(post(server.url))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            anyio.run(main, backend=backend)
        assert not client._pools._homes
    assert 3 == server.connections
    client.close()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_closing_from_another_thread_closes_the_connections_of_a_running_loop(
    served: Callable[..., Loopback], backend: str
) -> None:
    server, client = served(reply()), Http()

    async def main() -> None:
        await client.send(post(server.url))
        home = next(iter(client._pools._homes.values()))
        thread = threading.Thread(target=client.close)
        thread.start()
        thread.join()
        with anyio.fail_after(5):
            while home._pools:  # noqa: ASYNC110  # nothing tells that a pool was closed
                await anyio.sleep(0.01)
        with pytest.raises(HttpFailure, match="closed") as caught:
            await client.send(post(server.url))
        assert not caught.value.sent

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_closing_in_the_loop_that_ends_right_after_it_leaves_nothing(
    served: Callable[..., Loopback], backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = served(reply())

    async def main() -> None:
        client = Http()
        await client.send(post(server.url))
        client.close()

    anyio.run(main, backend=backend)
    assert [] == caplog.records


def test_a_closed_client_sends_nothing(served: Callable[..., Loopback]) -> None:
    server, client = served(reply()), Http()
    send(client, post(server.url))
    client.close()
    client.close()
    assert not failure_of(client, post(server.url)).sent
    assert 1 == len(server.seen)


@pytest.mark.anyio
async def test_threads_and_loops_use_one_client_together(http: Http, served: Callable[..., Loopback]) -> None:
    server = served(reply())
    results: list[int] = []

    def from_a_thread() -> None:
        results.extend(send(http, post(server.url)).status for _ in range(10))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(anyio.to_thread.run_sync, from_a_thread)
        for _ in range(10):
            group.start_soon(http.send, post(server.url))
    assert ([200] * 40, 50) == (results, len(server.seen))
    await http.aclose()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_connects_anew_and_its_parents_connection_lives_on(served: Callable[..., Loopback]) -> None:
    server, client = served(reply()), Http()
    send(client, post(server.url))
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if send(client, post(server.url)).status == 200 else 1)
        finally:
            os._exit(2)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    send(client, post(server.url))
    assert (3, 2) == (len(server.seen), server.connections)
    client.close()


# Secrets.


def held_by(error: BaseException) -> str:
    """All that an error shows, and what it keeps alive in frames of the library."""
    parts = ["".join(traceback.format_exception(error))]
    one: BaseException | None = error
    while one is not None:
        parts += [repr(one), str(vars(one))]
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if "/src/agentguard/" in frame.f_code.co_filename:
                parts += [f"{name}: {_deep(value)!r}" for name, value in frame.f_locals.items()]
        one = one.__cause__ or one.__context__
    return "\n".join(parts)


def _deep(value: Any) -> Any:
    if getattr(value, "__closure__", None):
        return [cell.cell_contents for cell in value.__closure__]
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return {name: getattr(value, name, None) for name in slots} if slots else getattr(value, "__dict__", value)


@pytest.mark.control("6 no error of a request holds what it sent or got")
@pytest.mark.parametrize(
    "answer",
    [
        None,
        reply(CANARY.encode(), media="text/html"),
        reply(CANARY.encode()),
        reply(CANARY.encode(), 302, Location=f"https://a.test/{CANARY}"),
        reply(CANARY.encode() * 1000, DPoP_Nonce=CANARY),
        CANARY.encode() + b"\r\n\r\n",
        Slowly(reply(CANARY.encode() * 100), 50),
    ],
    ids=["hang up", "html", "no json", "redirect", "large", "no http", "slow"],
)
def test_a_failure_holds_nothing_of_the_request_or_the_answer(
    served: Callable[..., Loopback], answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = served(answer).url
    client = Http(timeout=0.3, max_bytes=2000, rng=NoPause())

    secret = CANARY

    def make() -> Request:
        headers = {"Authorization": f"Bearer {secret}", "DPoP": secret}
        return Request(method="POST", url=f"{url}/?{secret}", headers=headers, form=[("token", secret)])

    with pytest.raises(HttpFailure) as caught:
        send(client, make, retry=False).json()
    client.close()
    assert CANARY not in held_by(caught.value)
    assert CANARY not in "".join(
        record.getMessage() for record in caplog.records if "receive_response" not in record.getMessage()
    )


@pytest.mark.control("6 debug logs get no credential")
def test_debug_logs_of_the_wire_get_neither_headers_nor_forms(
    http: Http, served: Callable[..., Loopback], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": f"Bearer {CANARY}", "DPoP": CANARY}
    make = post(f"{served(reply(CANARY.encode())).url}/?q={CANARY}", headers=headers, form=[("password", CANARY)])
    send(http, make)
    assert [record for record in caplog.records if record.name.startswith("httpcore")]
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": {"Authorization": f"Bearer {CANARY}\r\nX: y"}},
        {"headers": {"Authorization": f"{CANARY}é"}},
        {"headers": {f"X {CANARY}": "y"}},
        {"headers": {"Host": CANARY}},
        {"headers": {"Content-Length": "0"}},
        {"method": "POST /x HTTP/1.1\r\n"},
        {"form": [("a", f"{CANARY}\ud800")]},
        {"form": None, "json": {CANARY: object()}},
    ],
)
def test_a_request_that_cannot_be_sent_as_it_is_is_refused_without_quoting_it(
    http: Http, served: Callable[..., Loopback], changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = served(reply())
    failure = failure_of(http, post(server.url, **changes))
    assert (False, []) == (failure.sent, server.seen)
    assert CANARY not in str(failure) + caplog.text
    assert None is failure.__context__


def test_requests_and_answers_show_and_give_away_nothing(http: Http, served: Callable[..., Loopback]) -> None:
    url = f"{served(reply(CANARY.encode())).url}/p?q={CANARY}"
    request = post(url, headers={"a": CANARY}, form=[("b", CANARY)])()
    answer = send(http, lambda: request)
    assert (f"<Request POST {url.partition('?')[0]}>", True) == (repr(request), CANARY not in repr(answer))
    assert CANARY not in repr(Request(method="GET", url=f"https://{CANARY}:{CANARY}@a.test/#{CANARY}"))
    for value in (request, answer):
        for give_away in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                give_away(value)


# TLS.


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ca.pem` and `both.pem`, a certificate for api.test and 127.0.0.1 with its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "api.test")])
    now = datetime.now(UTC)
    hosts = x509.SubjectAlternativeName([x509.DNSName("api.test"), x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(hours=1)
        )
        .add_extension(hosts, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "ca.pem").write_bytes(pem)
    (folder / "both.pem").write_bytes(pem + private)
    return folder


def server_tls(authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "both.pem")
    return context


@pytest.mark.control("2 the address that was checked is the one connected to (case 21)")
@pytest.mark.parametrize("how", ["driven", "awaited"])
@pytest.mark.anyio
async def test_the_connection_goes_to_the_checked_address_under_the_urls_own_name(
    served: Callable[..., Loopback], authority: Path, how: str
) -> None:
    server = served(reply(), tls=server_tls(authority))
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["203.0.113.1"]

    client = Http(resolve=resolve, networks=["127.0.0.0/8"], ca_file=authority / "ca.pem")
    make = post(f"https://api.test:{server.port}/x")
    answer = send(client, make) if how == "driven" else await client.send(make)
    assert (200, ["api.test"]) == (answer.status, asked)
    assert ("api.test", f"api.test:{server.port}") == (server.seen[0].sni, server.seen[0].headers["host"])
    await client.aclose()


@pytest.mark.parametrize("how", ["driven", "awaited"])
@pytest.mark.anyio
async def test_a_certificate_that_does_not_verify_is_refused_once_and_says_so(
    served: Callable[..., Loopback], authority: Path, how: str
) -> None:
    server, client = served(reply(), tls=server_tls(authority)), Http()
    with pytest.raises(HttpFailure, match="certificate") as caught:
        if how == "driven":
            send(client, post(server.url))
        else:
            await client.send(post(server.url))
    assert (False, 1, []) == (caught.value.sent, server.connections, server.seen)
    await client.aclose()


def test_a_client_certificate_is_shown(served: Callable[..., Loopback], authority: Path) -> None:
    tls = server_tls(authority)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(authority / "ca.pem")
    server = served(reply(), tls=tls)
    shows = Http(ca_file=authority / "ca.pem", client_cert=authority / "both.pem")
    assert 200 == send(shows, post(server.url)).status
    lacks = Http(ca_file=authority / "ca.pem")
    failure_of(lacks, post(server.url), retry=False)
    shows.close()
    lacks.close()


def test_the_environment_cannot_have_the_session_keys_logged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authority: Path
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    client = Http(ca_file=authority / "ca.pem")
    assert client._pools.plan.ssl_context.keylog_filename is None
    client.close()


# Addresses and URLs.


@pytest.mark.parametrize(
    "url",
    [
        "https://as.test",
        "https://as.test:8443/token?x=1",
        "https://[2606:4700::1111]/",
        "https://8.8.8.8/",
        "http://127.0.0.1:8080/x",
        "http://127.9.9.9/",
        "http://[::1]:1/",
        "http://localhost/",
        "https://xn--bcher-kva.test/",
    ],
)
def test_a_url_for_credentials_is_returned_unchanged(url: str) -> None:
    assert url == checked_url(url, what="issuer")


@pytest.mark.parametrize(
    "url",
    [
        "http://as.test/",
        "http://10.0.0.1/",
        "ftp://as.test/",
        "file:///etc/passwd",
        "//as.test/",
        "as.test",
        "",
        "https://",
        "https://user@as.test/",
        "https://user:pw@as.test/",
        "https://user:pw/x@as.test/",
        "https://user:pw#x@as.test/",
        "https://user:pw?x@as.test/",
        "https://user:x@pw/y@as.test/",
        "user:pw@as.test",
        "//user:pw@as.test/",
        "https://as.test/#part",
        "https://as.test#",
        "https://as.test/a b",
        "https://as.test\\@evil.test/",
        "https://as.test/\r\nX: y",
        "https://as.test:0/",
        "https://as.test:65536/",
        "https://as.test:/",
        "https://bücher.test/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://127.1/",
        "http://127.1/",
        "https://2130706433/",
        "https://0177.0.0.1/",
        "https://0x7f.1/",
        "https://0x7f000001/",
        "https://a.0x1/",
        "https://127.0.0.1./",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:127.0.0.1]/",
        "http://[::ffff:127.0.0.1]/",
        "https://[fd00:ec2::254]/",
        "https://[fe80::1%25eth0]/",
        "https://[::]/",
        "https://0.0.0.0/",
        "https://as.test/" + "x" * 9000,
    ],
)
def test_another_kind_of_url_is_a_configuration_error_that_names_the_setting(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"tokens\.issuer") as caught:
        checked_url(url, what="tokens.issuer")
    assert "pw" not in str(caught.value)


def test_a_url_that_is_no_text_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        checked_url(None, what="issuer")  # type: ignore[arg-type]  # what a caller might pass by mistake


def test_a_private_address_is_admitted_by_its_network_only() -> None:
    assert checked_url("https://10.1.2.3/", what="x", networks=["10.0.0.0/8"])
    for networks in ([], ["10.0.0.0/24"], ["192.168.0.0/16"]):
        with pytest.raises(ConfigurationError):
            checked_url("https://10.1.2.3/", what="x", networks=networks)


REFUSED = [
    *("10.0.0.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "127.8.8.8", "0.0.0.0", "100.64.0.1", "169.254.169.254"),
    *("192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "168.63.129.16", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "64:ff9b:1::808:808", "2002:7f00:1::1"),
    *("2002:808:808::1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "100::1"),
    *("2001::1", "4000::1", "5f00::1", "3fff::1", "192.88.99.1"),
]


@pytest.mark.control("2 only public addresses (case 21)")
@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert str(ip_address(address)) in refusal("as.test", [ip_address(address)], ())
    assert refusal("as.test", [ip_address("8.8.8.8"), ip_address(address)], ())


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_a_public_address_is_admitted(address: str) -> None:
    assert "" == refusal("as.test", [ip_address(address)], ())


@pytest.mark.control("2 metadata only by its own name (case 21)")
@pytest.mark.parametrize(
    ("address", "covers", "names"),
    [
        ("169.254.169.254", "0.0.0.0/0", "169.254.0.0/16"),
        ("169.254.169.254", "168.0.0.0/5", "169.254.169.254/32"),
        ("fd00:ec2::254", "fd00::/8", "fd00:ec2::254/128"),
        ("fe80::1", "::/0", "fe80::/10"),
        ("100.100.100.200", "100.64.0.0/10", "100.100.100.200/32"),
        ("::ffff:169.254.169.254", "::/0", "::ffff:169.254.0.0/112"),
        ("::ffff:100.100.100.200", "::ffff:0:0/96", "::ffff:100.100.100.200/128"),
        ("64:ff9b::169.254.169.254", "64:ff9b::/96", "64:ff9b::169.254.169.254/128"),
    ],
)
def test_metadata_addresses_are_refused_unless_that_range_is_written(address: str, covers: str, names: str) -> None:
    assert refusal("as.test", [ip_address(address)], parsed_networks([covers]))
    assert "" == refusal("as.test", [ip_address(address)], parsed_networks([covers, names]))


@given(st.ip_addresses(), st.ip_addresses(v=4))
def test_a_loopback_host_reaches_loopback_and_no_other_host_does(address: Any, other: Any) -> None:
    assert bool(refusal("localhost", [address], parsed_networks(["0.0.0.0/0", "::/0"]))) != address.is_loopback
    if not other.is_global or other.is_multicast:
        assert refusal("as.test", [other], ())


@pytest.mark.parametrize("networks", ["10.0.0.0/8", ["10.0.0.1/8"], ["private"], [""]])
def test_networks_that_are_none_are_a_configuration_error(networks: Any) -> None:
    with pytest.raises(ConfigurationError, match="network"):
        Http(networks=networks)


@pytest.mark.parametrize(
    "bound",
    [
        {"attempts": 0},
        {"attempts": 11},
        {"attempts": True},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"deadline": float("inf")},
        {"max_bytes": 0},
        {"connections": 0},
        {"ca_file": "missing.pem"},
        {"client_cert": "missing.pem"},
    ],
)
def test_a_bound_or_a_file_that_is_wrong_is_a_configuration_error(bound: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Http(**bound)


def test_importing_the_client_imports_neither_httpx_nor_jwt() -> None:
    import subprocess

    code = "import sys, agentguard._http; sys.exit(bool({'httpx', 'jwt'} & set(sys.modules)))"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode


class Readable(httpcore.NetworkStream):
    """A connection on which an answer has arrived already."""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return b"answer"

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        pass

    def close(self) -> None:
        pass

    def get_extra_info(self, info: str) -> Any:
        return info == "is_readable"


@pytest.mark.control("2 a request is not sent twice by a race of threads")
def test_connection_that_another_thread_just_sent_on_is_not_taken_for_a_closed_one() -> None:
    stream = _Stream(Readable())
    assert stream.get_extra_info("is_readable")
    deadline: Any = Deadline(time.monotonic() + 5, time.monotonic)
    stream.write(b"request", deadline)
    stream.read(10, deadline)
    assert not stream.get_extra_info("is_readable")
    time.sleep(0.06)
    assert stream.get_extra_info("is_readable")
