"""Push delivery over HTTP (RFC 8935), as a transmitter sees it."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import httpx
import pytest

from agentguard.errors import ConfigurationError
from agentguard.model.lease import Secret
from agentguard.signals import SetEndpoint
from tests.signals.events import KEYS, Stopped, pushed, receiver

pytestmark = pytest.mark.anyio
SET = {"content-type": "application/secevent+jwt", "accept": "application/json"}
BEARER = Secret("transmitter-token-0123456789")


async def post(app: SetEndpoint, content: Any, headers: Any = None, method: str = "POST") -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="https://agents.test") as client:
        return await client.request(method, "/events", content=content, headers=SET if headers is None else headers)


@pytest.mark.control("10 a security event is acknowledged after it was acted on")
async def test_a_set_is_acknowledged_with_202_and_no_body_after_its_subject_was_stopped() -> None:
    stops = Stopped()
    app = SetEndpoint(receiver(stops))

    answers = [await post(app, pushed()) for _ in range(2)]

    assert [(202, b""), (202, b"")] == [(answer.status_code, answer.content) for answer in answers]
    assert ["user:alice"] == stops.subjects


@pytest.mark.parametrize(
    ("changes", "err"),
    [
        ({"iss": "https://other.test"}, "invalid_issuer"),
        ({"aud": "https://other.test"}, "invalid_audience"),
        ({"head": {"kid": "other"}}, "invalid_key"),
        ({"head": {"typ": "at+jwt"}}, "invalid_request"),
        ({"events": {}}, "invalid_request"),
    ],
)
async def test_a_set_that_is_refused_is_answered_with_400_and_a_registered_code(
    changes: dict[str, Any], err: str
) -> None:
    stops = Stopped()

    answer = await post(SetEndpoint(receiver(stops)), pushed(**changes))

    assert 400 == answer.status_code
    assert {"err", "description"} == set(answer.json())
    assert err == answer.json()["err"]
    assert ("application/json", "en", "no-store") == tuple(
        answer.headers[name] for name in ("content-type", "content-language", "cache-control")
    )
    assert not stops.subjects


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"{}", {"content-type": "application/json"}),
        (pushed().encode(), {}),
        (pushed().encode(), {"content-type": "application/secevent+jwt", "content-encoding": "gzip"}),
        (b"", SET),
        (b"\xff\xfe", SET),
        (b"[" * 10_000, SET),
        (pushed().encode() + b"\n", SET),
    ],
)
async def test_what_is_no_set_is_answered_with_400(content: bytes, headers: dict[str, str]) -> None:
    answer = await post(SetEndpoint(receiver()), content, headers)

    assert (400, "invalid_request") == (answer.status_code, answer.json()["err"])


async def test_a_content_type_may_have_parameters_and_capitals() -> None:
    answer = await post(
        SetEndpoint(receiver()), pushed(), {"content-type": "Application/SecEvent+JWT; charset=us-ascii"}
    )

    assert 202 == answer.status_code


async def test_only_post_is_answered() -> None:
    for method in ("GET", "PUT", "HEAD"):
        answer = await post(SetEndpoint(receiver()), b"", method=method)
        assert (405, "POST") == (answer.status_code, answer.headers["allow"])


@pytest.mark.control("10 the transmitter is authenticated")
@pytest.mark.parametrize(
    "sent",
    [
        [],
        [("authorization", "Bearer wrong-token-0123456789")],
        [("authorization", "Basic transmitter-token-0123456789")],
        [("authorization", "transmitter-token-0123456789")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer transmitter-token-0123456789"), ("authorization", "Bearer other")],
    ],
)
async def test_a_transmitter_without_the_agreed_token_is_refused(sent: list[tuple[str, str]]) -> None:
    stops = Stopped()

    answer = await post(SetEndpoint(receiver(stops), bearer=[BEARER]), pushed(), [*SET.items(), *sent])

    assert (400, "authentication_failed") == (answer.status_code, answer.json()["err"])
    assert not stops.subjects


async def test_one_of_two_agreed_tokens_is_enough_while_one_replaces_the_other() -> None:
    app = SetEndpoint(receiver(), bearer=[Secret("the-next-token-0123456789"), BEARER])

    answer = await post(app, pushed(), {**SET, "authorization": f"bearer {BEARER.reveal()}"})

    assert 202 == answer.status_code


@pytest.mark.parametrize("bearer", [["x" * 20], [Secret("short")], [Secret("with space in it 0123")]])
def test_an_agreed_token_is_a_secret_of_some_length(bearer: Any) -> None:
    with pytest.raises(ConfigurationError, match="at least 16"):
        SetEndpoint(receiver(), bearer=bearer)


async def test_what_was_not_acted_on_is_answered_with_503_and_delivered_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stops = Stopped("user:alice")
    app = SetEndpoint(receiver(stops))

    first = await post(app, pushed())
    stops.failing = ()
    second = await post(app, pushed())

    assert (503, b"", "5") == (first.status_code, first.content, first.headers["retry-after"])
    assert 202 == second.status_code
    assert "delivered again" in caplog.text


class _Slow(Stopped):
    async def suspend(self, *, subject: str, why: str) -> None:
        await anyio.sleep(30)


class _Buggy:
    async def keys_for(self, token: str) -> Any:
        raise ZeroDivisionError(token)

    async def keys_after(self, keys: Any) -> None:
        return None


async def test_nothing_takes_longer_than_it_may_and_a_bug_is_no_acknowledgement(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow = await post(SetEndpoint(receiver(_Slow()), act_seconds=0.05), pushed())
    bug = await post(SetEndpoint(receiver(keys=_Buggy())), pushed())

    assert [503, 503] == [slow.status_code, bug.status_code]
    assert "ZeroDivisionError" in caplog.text
    assert pushed()[:20] not in caplog.text


async def test_a_body_that_does_not_come_is_waited_for_no_longer_than_it_may() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        await anyio.sleep(30)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/secevent+jwt")]}
    await SetEndpoint(receiver(), body_seconds=0.05)(scope, receive, send)

    assert 400 == sent[0]["status"]
    assert b"in time" in sent[1]["body"]


@pytest.mark.control("10 a pushed body is bounded")
async def test_no_more_of_a_body_is_read_than_a_set_can_have() -> None:
    read, sent = list[int](), list[Any]()

    async def receive() -> Any:
        read.append(1)
        return {"type": "http.request", "body": b"a" * 10_000, "more_body": len(read) < 1000}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/secevent+jwt")]}
    await SetEndpoint(receiver())(scope, receive, send)

    assert 2 == len(read)
    assert 400 == sent[0]["status"]
    assert b"at most 16384" in sent[1]["body"]


async def test_a_transmitter_that_left_is_not_answered() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/secevent+jwt")]}
    await SetEndpoint(receiver())(scope, receive, send)

    assert not sent


async def test_it_lives_and_ends_as_a_server_asks_and_speaks_no_other_protocol() -> None:
    messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    app = SetEndpoint(receiver())
    await app({"type": "lifespan"}, receive, send)
    await app({"type": "websocket"}, receive, send)
    with pytest.raises(ConfigurationError, match="http"):
        await app({"type": "other"}, receive, send)

    assert ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"] == sent


async def test_nothing_of_a_body_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "agentguard")
    token = pushed(jti="j\n")

    await post(SetEndpoint(receiver(keys=KEYS)), token)

    assert "was refused: invalid_request" in caplog.text
    assert not any(part in caplog.text for part in (*token.split("."), "alice", "canary"))
