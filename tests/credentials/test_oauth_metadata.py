"""Discovery: the right document of the right issuer, asked for once, and kept (RFC 8414)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from agentguard._drive import drive
from agentguard._http import HttpFailure, Request, Response
from agentguard.credentials.oauth import AuthorizationServer, ServerMetadata
from agentguard.credentials.oauth.metadata import Discovery, read_metadata, well_known
from agentguard.errors import ConfigurationError
from agentguard.testing import FakeClock
from tests.credentials.oauth_server import ISSUER, FakeServer, answered, client
from tests.credentials.test_revocation import Stopped, StopsAt

same_issuer = pytest.mark.control("8 metadata is its issuer's own")
DOCUMENT = {"issuer": ISSUER, "token_endpoint": f"{ISSUER}/token"}
WELL_KNOWN = "/.well-known/oauth-authorization-server"


class Documents:
    """Answers with what stands at each place; counts."""

    networks: tuple[str, ...] = ()

    def __init__(self, places: dict[str, Any] | None = None) -> None:
        self.places = {ISSUER + WELL_KNOWN: DOCUMENT} if places is None else places
        self.asked: list[str] = []
        self.wait: Callable[[], Any] | None = None

    async def send(self, make: Callable[[], Request], *, deadline: float = 0, retry: bool = True) -> Response:
        url = make().url
        self.asked.append(url)
        if self.wait is not None:
            await self.wait()
        found = self.places.get(url, 404)
        if isinstance(found, Exception):
            raise found
        return answered(found) if isinstance(found, int) else answered(200, found)


def discovery(http: Any, issuer: str = ISSUER, **options: Any) -> Discovery:
    return Discovery(issuer, http, **options)


@pytest.mark.parametrize(
    ("issuer", "places"),
    [
        ("https://as.test", [WELL_KNOWN, "/.well-known/openid-configuration"]),
        ("https://as.test/", [WELL_KNOWN, "/.well-known/openid-configuration"]),
        (
            "https://as.test/tenant",
            [
                f"{WELL_KNOWN}/tenant",
                "/.well-known/openid-configuration/tenant",
                "/tenant/.well-known/openid-configuration",
            ],
        ),
    ],
)
def test_metadata_stands_where_the_standards_say(issuer: str, places: list[str]) -> None:
    assert [f"https://as.test{place}" for place in places] == list(well_known(issuer))


def test_the_next_place_is_asked_where_nothing_stands() -> None:
    last = f"{ISSUER}/t/.well-known/openid-configuration"
    http = Documents({last: {**DOCUMENT, "issuer": f"{ISSUER}/t"}})

    found = drive(discovery(http, f"{ISSUER}/t").metadata(5))

    assert isinstance(found, ServerMetadata)
    assert (3, last) == (len(http.asked), http.asked[-1])


@same_issuer
@pytest.mark.parametrize(
    "other", [f"{ISSUER}/", "HTTPS://as.test", "https://AS.test", "https://evil.test", None, [ISSUER]]
)
def test_a_document_that_names_another_issuer_is_never_used(other: object) -> None:
    http = Documents({ISSUER + WELL_KNOWN: {**DOCUMENT, "issuer": other}})

    found = drive(discovery(http).metadata(5))

    assert isinstance(found, str)
    assert "another issuer" in found
    assert 1 == len(http.asked)


@pytest.mark.parametrize(
    "changes",
    [
        {"token_endpoint": "http://as.test/token"},
        {"token_endpoint": "https://user:pass@as.test/token"},
        {"token_endpoint": "https://169.254.169.254/token"},
        {"token_endpoint": ""},
        {"token_endpoint": 7},
        {"revocation_endpoint": "https://10.0.0.7/revoke"},
        {"jwks_uri": "file:///etc/passwd"},
        {"introspection_endpoint": "https://2130706433/"},
        {"authorization_grant_profiles_supported": "x"},
    ],
)
def test_an_endpoint_that_is_refused_refuses_the_document(changes: dict[str, Any]) -> None:
    assert isinstance(read_metadata({**DOCUMENT, **changes}, ISSUER), str)


def test_an_endpoint_may_be_of_another_origin() -> None:
    found = read_metadata({**DOCUMENT, "jwks_uri": "https://keys.test/jwks"}, ISSUER)

    assert isinstance(found, ServerMetadata)
    assert "https://keys.test/jwks" == found.jwks_uri


def test_metadata_is_kept_for_its_lifetime() -> None:
    http, clock = Documents(), FakeClock(0)
    found = discovery(http, lifetime=100, clock=clock)

    for _ in range(5):
        drive(found.metadata(5))
    clock.advance(101)
    drive(found.metadata(5))

    assert 2 == len(http.asked)


def test_a_failure_is_kept_for_a_moment_only() -> None:
    http, clock = Documents({ISSUER + WELL_KNOWN: HttpFailure("no connection", sent=False)}), FakeClock(0)
    found = discovery(http, cooldown=5, clock=clock)

    assert {"its metadata could not be read: no connection"} == {str(drive(found.metadata(5))) for _ in range(5)}
    assert 1 == len(http.asked)
    http.places = {ISSUER + WELL_KNOWN: DOCUMENT}
    clock.advance(5)
    assert isinstance(drive(found.metadata(5)), ServerMetadata)


def test_known_metadata_serves_for_a_day_while_a_refresh_fails() -> None:
    http, clock = Documents(), FakeClock(0)
    found = discovery(http, lifetime=100, cooldown=5, clock=clock)
    drive(found.metadata(5))
    http.places = {ISSUER + WELL_KNOWN: 500}

    clock.advance(101)
    assert isinstance(drive(found.metadata(5)), ServerMetadata)
    drive(found.metadata(5))
    assert 2 == len(http.asked)
    clock.advance(86_400)
    assert "status 500" in str(drive(found.metadata(5)))


def test_who_had_no_time_to_ask_leaves_nobody_else_without_an_answer() -> None:
    clock = FakeClock(0)

    class Slow(Documents):
        async def send(self, make: Any, *, deadline: float = 0, retry: bool = True) -> Response:
            if deadline > 0.1:
                return await super().send(make, deadline=deadline, retry=retry)
            clock.advance(deadline)
            raise HttpFailure("no complete answer in time", sent=True)

    found = discovery(Slow(), cooldown=5, lifetime=100, clock=clock)

    assert "in time" in str(drive(found.metadata(0.01)))  # a task that is about to end
    assert isinstance(drive(found.metadata(5)), ServerMetadata)
    clock.advance(101)
    assert isinstance(drive(found.metadata(0.01)), ServerMetadata)  # what is known serves


def test_threads_that_ask_at_once_ask_once() -> None:
    async def slow() -> None:
        threading.Event().wait(0.05)  # the others come meanwhile

    http = Documents()
    http.wait = slow
    found = discovery(http)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: drive(found.metadata(5)), range(8)))

    assert (1, 1) == (len(http.asked), len(set(map(id, answers))))


def test_whatever_line_stops_one_who_asks_the_next_one_asks_for_itself() -> None:
    line, before = 0, sys.gettrace()
    while True:
        line += 1
        found, stop = discovery(Documents()), StopsAt(line)
        try:
            sys.settrace(stop)
            drive(found.metadata(5))
        except Stopped:
            pass
        finally:
            sys.settrace(before)
        assert isinstance(drive(found.metadata(0.5)), ServerMetadata), f"stopped at line {line}"
        if stop.left > 0:  # it came to its end
            return


@pytest.mark.anyio
async def test_a_cancelled_leader_leaves_the_others_going() -> None:
    http, started = Documents(), anyio.Event()

    async def hang() -> None:
        started.set()
        http.wait = None
        await anyio.sleep(60)

    http.wait = hang
    found = discovery(http)
    got: list[Any] = []

    async def follow() -> None:
        got.append(await found.metadata(5))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as outer:
            async with anyio.create_task_group() as leader:
                leader.start_soon(found.metadata, 60)
                await started.wait()
                outer.start_soon(follow)
                await anyio.sleep(0.02)
                leader.cancel_scope.cancel()

    assert isinstance(got[0], ServerMetadata)
    assert 2 == len(http.asked)


@pytest.mark.anyio
async def test_who_waits_too_long_is_told_so() -> None:
    http = Documents()
    http.wait = lambda: anyio.sleep(1)
    found = discovery(http)
    async with anyio.create_task_group() as group:
        group.start_soon(found.metadata, 5)
        await anyio.sleep(0.02)
        assert "in time" in str(await found.metadata(0.02))
        group.cancel_scope.cancel()


@pytest.mark.parametrize(
    "issuer", ["http://as.test", "as.test", "https://as.test?x=1", "https://as.test#x", "https://u@as.test"]
)
def test_an_issuer_that_is_no_https_url_is_a_mistake(issuer: str) -> None:
    with pytest.raises(ConfigurationError):
        discovery(Documents(), issuer)


def test_explicit_endpoints_need_no_discovery() -> None:
    fake = FakeServer()
    fixed = ServerMetadata(issuer=ISSUER, token_endpoint=f"{ISSUER}/token")
    server = AuthorizationServer(ISSUER, client(), fake, metadata=fixed)  # type: ignore[arg-type]  # a fake

    assert fixed is drive(server.metadata(1e9))
    assert [] == fake.seen
    with pytest.raises(ConfigurationError, match="token_endpoint"):
        AuthorizationServer(ISSUER, client(), fake, metadata=ServerMetadata(issuer=ISSUER, token_endpoint=""))  # type: ignore[arg-type]  # a fake


@same_issuer
def test_a_client_or_metadata_of_another_issuer_is_a_mistake() -> None:
    fake: Any = FakeServer()
    with pytest.raises(ConfigurationError, match="client is for issuer"):
        AuthorizationServer("https://other.test", client(), fake)
    with pytest.raises(ConfigurationError, match="metadata is for issuer"):
        AuthorizationServer(ISSUER, client(), fake, metadata=ServerMetadata(issuer="x", token_endpoint=f"{ISSUER}/t"))
