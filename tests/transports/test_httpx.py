"""Handovers on httpx requests: to configured origins only, and never along redirects."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from agentguard import Guard
from agentguard.errors import ConfigurationError, Denied
from agentguard.transports.httpx import HandoverAuth
from tests.handing import claims_of, guard_of, refunds

FAR = "https://agents.test"
origins = pytest.mark.control("7 handovers go to configured origins only")


@pytest.fixture
def home() -> Iterator[Guard]:
    with guard_of("home", "far") as made:
        yield made


def recording(seen: list[httpx.Request]) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(httpx.Request(request.method, request.url, headers=request.headers.raw))
        if request.url.path == "/away":
            return httpx.Response(307, headers={"location": "https://evil.test/x"})
        if request.url.path == "/again":
            return httpx.Response(307, headers={"location": f"{FAR}/x"})
        return httpx.Response(200)

    return answer


def test_each_request_gets_a_handover_of_its_own(home: Guard) -> None:
    seen: list[httpx.Request] = []
    auth = HandoverAuth("researcher", origins=[FAR], narrowing={"reads": ["handed.read"]})
    with httpx.Client(transport=httpx.MockTransport(recording(seen)), auth=auth) as client:
        with home.task("bot", on_behalf_of="alice", intent=refunds()):
            response = client.get(f"{FAR}/x")
            client.get(f"{FAR}/x")
    tokens = [request.headers["txn-token"] for request in seen]
    assert tokens[0] != tokens[1]
    assert claims_of(tokens[0])["scope"] == "handed.read"
    assert "authorization" not in seen[0].headers
    assert "txn-token" not in response.request.headers
    assert tokens[0] not in repr(response.request.headers)


@origins
@pytest.mark.parametrize(
    "url", ["https://evil.test/", "https://agents.test.evil.test/", "https://agents.test:444/", "http://agents.test/"]
)
def test_other_origins_get_none_and_none_that_was_put_there_by_hand(home: Guard, url: str) -> None:
    seen: list[httpx.Request] = []
    auth = HandoverAuth("researcher", origins=[FAR])
    with httpx.Client(transport=httpx.MockTransport(recording(seen)), auth=auth) as client:
        with home.task("bot", on_behalf_of="alice", intent=refunds()):
            client.get(url, headers={"Txn-Token": "a.b.c", "baggage": "agentguard.task.id=1"})
    assert not {"txn-token", "baggage"} & set(seen[0].headers)


@origins
@pytest.mark.parametrize("path", ["/away", "/again"])
def test_no_handover_follows_a_redirect(home: Guard, path: str) -> None:
    seen: list[httpx.Request] = []
    auth = HandoverAuth("researcher", origins=[FAR])
    with httpx.Client(transport=httpx.MockTransport(recording(seen)), auth=auth, follow_redirects=True) as client:
        with home.task("bot", on_behalf_of="alice", intent=refunds()):
            client.get(f"{FAR}{path}")
    first, second = seen
    assert "txn-token" in first.headers
    assert "txn-token" not in second.headers


@origins
def test_request_that_is_sent_again_elsewhere_takes_no_handover_along(home: Guard) -> None:
    seen: list[httpx.Request] = []
    auth = HandoverAuth("researcher", origins=[FAR])
    with httpx.Client(transport=httpx.MockTransport(recording(seen)), auth=auth) as client:
        with home.task("bot", on_behalf_of="alice", intent=refunds()):
            request = client.build_request("GET", f"{FAR}/x")
            client.send(request)
            request.url = httpx.URL("https://evil.test/x")
            client.send(request)
    assert ["txn-token" in request.headers for request in seen] == [True, False]


@pytest.mark.anyio
async def test_async_clients_hand_on_too(home: Guard) -> None:
    seen: list[httpx.Request] = []
    auth = HandoverAuth("researcher", origins=["http://127.0.0.1:8000"])
    async with httpx.AsyncClient(transport=httpx.MockTransport(recording(seen)), auth=auth) as client:
        async with home.task("bot", on_behalf_of="alice", intent=refunds()):
            await client.get("http://127.0.0.1:8000/")
    assert claims_of(seen[0].headers["txn-token"])["tctx"]["to"] == "researcher"


def test_without_a_task_nothing_is_sent(home: Guard) -> None:
    auth, seen = HandoverAuth("researcher", origins=[FAR]), list[httpx.Request]()
    with httpx.Client(transport=httpx.MockTransport(recording(seen)), auth=auth) as client:
        with pytest.raises(Denied, match="no_task"):
            client.get(FAR)
    assert not seen


@pytest.mark.parametrize(
    "listed", [FAR, [], ["http://agents.test"], ["agents.test"], [f"{FAR}/path"], ["https://a@b.test"], ["https://a:x"]]
)
def test_origins_are_exact_and_protected(listed: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        HandoverAuth("researcher", origins=listed)
