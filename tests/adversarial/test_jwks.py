"""Cases 15 to 23: a remote key set under attack, and where a URL may lead. Every server is a real one, on loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import anyio
import pytest

from agentguard._drive import drive
from agentguard._http import Http, HttpFailure, Request, checked_url
from agentguard._jwks import Jwks, same_issuer
from agentguard._jwt import ACCESS_TOKEN, Profile
from agentguard.errors import ConfigurationError, TokenRejected, Unavailable
from agentguard.keys import KeySet, SigningKey
from tests.loopback import Answer, Clock, Loopback, Slowly, reply
from tests.resource_server.forging import AUDIENCE, ISSUER, KEY, NOW, claims, header, sign, token

pytestmark = pytest.mark.slow  # processes, servers that hang, deadlines that pass

LIFETIME, COOLDOWN, MAX_STALE = 300.0, 60.0, 3600.0
PROFILE = Profile(typ=ACCESS_TOKEN, issuer=ISSUER, audience=AUDIENCE, required=frozenset({"sub"}))
OTHER = SigningKey.generate()


class Issuer:
    """A server that publishes keys; `answer` replaces what it says, `outage` hangs up."""

    def __init__(self) -> None:
        self.answer: Answer = reply(KeySet.of(KEY).jwks())
        self.hits = 0
        self.clock = Clock()
        self.server = Loopback(lambda _: self._said())
        self.http = Http(timeout=2)
        self.jwks = Jwks(self.http, f"{self.server.url}/jwks", clock=self.clock)

    def _said(self) -> Answer:
        self.hits += 1
        return self.answer

    def publish(self, *keys: SigningKey) -> None:
        self.answer = reply(KeySet.of(*keys).jwks())

    def verify(self, text: str) -> Any:
        return drive(self.jwks.verify(text, PROFILE, NOW))

    def accepts(self, text: str) -> bool:
        try:
            return bool(self.verify(text)["sub"] == "user:alice")
        except TokenRejected:
            return False

    def close(self) -> None:
        self.http.close()
        self.server.stop()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with closing(Issuer()) as server:
        yield server


def signed_by(key: SigningKey, **changes: Any) -> str:
    return sign(claims(), header(key, **changes), key)


def get(url: str) -> Callable[[], Request]:
    return lambda: Request(method="GET", url=url, headers={"Authorization": "Bearer x"})


def unknown(number: int) -> str:
    return sign(claims(), header(kid=f"unknown-{number}"))


def slow(data: bytes, seconds: float) -> Slowly:
    """Answer after some seconds."""
    return Slowly(data, len(data) - 1, seconds)


# 15: single flight.


@pytest.mark.control("2 one fetch for all who wait (case 15)")
def test_case_15_twenty_cold_threads_cause_one_fetch(issuer: Issuer) -> None:
    issuer.answer = slow(reply(KeySet.of(KEY).jwks()), 0.2)
    with ThreadPoolExecutor(20) as threads:
        assert [True] * 20 == list(threads.map(lambda _: issuer.accepts(token()), range(20)))
    assert 1 == issuer.hits


@pytest.mark.anyio
async def test_case_15_threads_and_tasks_of_a_loop_share_one_fetch(issuer: Issuer) -> None:
    issuer.answer = slow(reply(KeySet.of(KEY).jwks()), 0.2)
    verified: list[Any] = []

    async def in_the_loop() -> None:
        verified.append(await issuer.jwks.verify(token(), PROFILE, NOW))

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(in_the_loop)
            group.start_soon(anyio.to_thread.run_sync, issuer.accepts, token())
    assert (10, 1) == (len(verified), issuer.hits)


@pytest.mark.control("2 a cancelled leader takes nobody along (case 15)")
@pytest.mark.anyio
async def test_case_15_the_first_who_asks_is_cancelled_and_the_others_get_their_keys(issuer: Issuer) -> None:
    issuer.answer = slow(reply(KeySet.of(KEY).jwks()), 0.3)
    sizes: list[int] = []

    async def follow() -> None:
        sizes.append(len(await issuer.jwks.keys()))

    async with anyio.create_task_group() as group:
        with anyio.move_on_after(0.05) as leader:
            await issuer.jwks.keys()
        for _ in range(5):
            group.start_soon(follow)
    assert (True, [1] * 5, 1) == (leader.cancelled_caught, sizes, issuer.hits)


def test_case_15_a_loop_that_ends_while_it_waits_leaves_the_fetch_to_the_next(issuer: Issuer) -> None:
    issuer.answer = slow(reply(KeySet.of(KEY).jwks()), 0.3)

    async def gives_up() -> None:
        with anyio.move_on_after(0.05):
            await issuer.jwks.keys()

    asyncio.run(gives_up())
    assert issuer.accepts(token())
    assert 1 == issuer.hits


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_case_15_a_child_forked_during_a_fetch_fetches_for_itself(issuer: Issuer) -> None:
    issuer.answer = slow(reply(KeySet.of(KEY).jwks()), 0.3)
    thread = threading.Thread(target=issuer.accepts, args=(token(),))
    thread.start()
    while not issuer.hits:
        time.sleep(0.01)
    pid = os.fork()
    if pid == 0:
        try:
            issuer.clock.pass_by(COOLDOWN)
            os._exit(0 if issuer.accepts(token()) else 1)
        finally:
            os._exit(2)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    thread.join()


# 16: unknown kids.


@pytest.mark.control("2 unknown kids: one fetch in a cool-down (case 16)")
def test_case_16_a_thousand_unknown_kids_cause_one_fetch_in_a_cooldown(issuer: Issuer) -> None:
    assert not any(issuer.accepts(unknown(number)) for number in range(1000))
    assert 1 == issuer.hits
    issuer.clock.pass_by(COOLDOWN)
    assert not any(issuer.accepts(unknown(number)) for number in range(1000))
    assert 2 == issuer.hits


@pytest.mark.control("2 the cool-down holds for failures too (case 16)")
@pytest.mark.parametrize("answer", [None, reply(status=500), reply(b"{}"), reply(b"x", media="text/html")])
def test_case_16_the_cooldown_holds_while_every_fetch_fails(issuer: Issuer, answer: Answer) -> None:
    assert issuer.accepts(token())
    issuer.answer = answer
    issuer.clock.pass_by(COOLDOWN)
    assert not any(issuer.accepts(unknown(number)) for number in range(200))
    assert 2 == issuer.hits
    assert issuer.accepts(token())  # known kids do not suffer


def test_case_16_a_cold_cache_asks_a_failing_server_once_with_its_retries(issuer: Issuer) -> None:
    issuer.answer = reply(status=503)
    for number in range(200):
        with pytest.raises(Unavailable, match="503"):
            issuer.verify(unknown(number))
    assert 3 == issuer.hits
    issuer.publish(KEY)
    issuer.clock.pass_by(COOLDOWN)
    assert issuer.accepts(token())


def test_case_16_a_fetch_that_no_thread_can_begin_keeps_nobody_from_the_next(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("threading.Thread.start", start)
        with pytest.raises(Unavailable, match="no thread"):
            drive(issuer.jwks.keys())
    issuer.clock.pass_by(COOLDOWN)
    assert issuer.accepts(token())


@pytest.mark.anyio
async def test_case_16_callers_that_leave_cannot_have_it_fetched_again(issuer: Issuer) -> None:
    await issuer.jwks.keys()
    issuer.clock.pass_by(COOLDOWN)
    issuer.answer = slow(reply(KeySet.of(KEY).jwks()), 0.1)
    for number in range(50):
        with anyio.move_on_after(0.005):
            await issuer.jwks.keys_for(unknown(number))
    assert 2 == issuer.hits


@pytest.mark.parametrize(
    "text", ["", "a.b.c", "x" * 20_000, token()[:-40] + "!!", sign(claims(), {"alg": "none", "kid": "x"})]
)
def test_case_16_what_is_no_token_never_reaches_the_network(issuer: Issuer, text: str) -> None:
    with pytest.raises(TokenRejected):
        issuer.verify(text)
    assert 0 == issuer.hits


# 17: outages.


@pytest.mark.control("2 known keys serve through an outage, up to a limit (case 17)")
@pytest.mark.parametrize("answer", [None, reply(status=500), reply(status=404), Slowly(reply(b"x" * 500))])
def test_case_17_known_kids_verify_through_an_outage_up_to_max_stale(issuer: Issuer, answer: Answer) -> None:
    issuer.http.close()
    issuer.http = issuer.jwks._http = Http(timeout=0.2)
    assert issuer.accepts(token())
    issuer.answer = answer
    for seconds in (LIFETIME, COOLDOWN, MAX_STALE - LIFETIME - COOLDOWN - 1):
        issuer.clock.pass_by(seconds)
        assert issuer.accepts(token())
        assert not issuer.accepts(signed_by(OTHER))
    issuer.clock.pass_by(1)
    with pytest.raises(Unavailable, match="cannot be had"):
        issuer.verify(token())
    issuer.publish(KEY)
    issuer.clock.pass_by(COOLDOWN)
    assert issuer.accepts(token())


def test_case_17_only_the_first_who_meets_the_outage_waits_for_it(issuer: Issuer) -> None:
    assert issuer.accepts(token())
    issuer.answer = Slowly(b"x" * 400, 1, 0.02)
    issuer.http.close()
    issuer.http = issuer.jwks._http = Http(timeout=1)
    issuer.clock.pass_by(LIFETIME)
    assert issuer.accepts(token())
    issuer.clock.pass_by(COOLDOWN)
    started = time.monotonic()
    assert issuer.accepts(token())
    assert time.monotonic() - started < 0.8


def test_case_17_an_outage_is_logged_once(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    assert issuer.accepts(token())
    issuer.answer = None
    for _ in range(5):
        issuer.clock.pass_by(LIFETIME)
        issuer.accepts(unknown(1))
        time.sleep(0.02)
    assert 1 == len([record for record in caplog.records if record.name == "agentguard"])


# 18: bodies.


def many(count: int) -> bytes:
    entry = KEY.public_jwk()
    return json.dumps({"keys": [{**entry, "kid": str(number)} for number in range(count)]}).encode()


BODIES: dict[str, Callable[[], Answer]] = {
    "60 MB": lambda: [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n", *[b" " * 100_000] * 600],
    "slow drip": lambda: Slowly(reply(b" " * 500)),
    "gzip bomb": lambda: reply(gzip.compress(b" " * 60_000_000), Content_Encoding="gzip"),
    "html": lambda: reply(many(1), media="text/html"),
    "5000 keys": lambda: reply(many(5000)),
    "101 keys": lambda: reply(many(101)),
    "no object": lambda: reply(b"[]"),
    "no keys": lambda: reply(b'{"keys": []}'),
    "keys no list": lambda: reply(b'{"keys": {"a": 1}}'),
    "twice the same member": lambda: reply(b'{"keys": [], "keys": []}'),
    "deep": lambda: reply(b'{"keys": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "entries no keys": lambda: reply(b'{"keys": [1, null, [], "x", {}, {"kty": []}, {"kty": "RSA", "kid": "a"}]}'),
}


@pytest.mark.control("2 a key set is bounded in time, size and number (case 18)")
@pytest.mark.parametrize("name", BODIES)
def test_case_18_a_body_out_of_bounds_is_refused_in_time_and_what_is_known_goes_on(issuer: Issuer, name: str) -> None:
    assert issuer.accepts(token())
    issuer.http.close()
    issuer.http = issuer.jwks._http = Http(timeout=0.5)
    issuer.answer = BODIES[name]()
    issuer.clock.pass_by(COOLDOWN)
    started = time.monotonic()
    assert not issuer.accepts(signed_by(OTHER))
    assert time.monotonic() - started < 5
    assert (True, 2) == (issuer.accepts(token()), issuer.hits)
    assert issuer.server.sent < 20_000_000


def test_case_18_a_hundred_keys_are_taken(issuer: Issuer) -> None:
    issuer.answer = reply(many(100))
    assert 100 == len(drive(issuer.jwks.keys()))


# 19: redirects and bad keys.


@pytest.mark.control("2 a key set is not followed elsewhere (case 19)")
def test_case_19_a_redirect_is_refused_and_nothing_goes_there(issuer: Issuer) -> None:
    with closing(Issuer()) as evil:
        issuer.answer = reply(status=302, Location=f"{evil.server.url}/jwks")
        with pytest.raises(Unavailable, match="redirects are not followed"):
            issuer.verify(token())
        assert (1, 0) == (issuer.hits, evil.hits)


@pytest.mark.control("2 a kid names one key (case 19)")
def test_case_19_a_kid_of_two_different_keys_is_not_used_and_the_others_are(issuer: Issuer) -> None:
    forged = {**OTHER.public_jwk(), "kid": KEY.kid}
    third = SigningKey.generate()
    for entries in ([KEY.public_jwk(), forged], [forged, KEY.public_jwk()]):
        issuer.answer = reply({"keys": [*entries, third.public_jwk()]})
        issuer.clock.pass_by(LIFETIME)
        assert [False, False, True] == [
            issuer.accepts(text) for text in (token(), signed_by(OTHER, kid=KEY.kid), signed_by(third))
        ]


def test_case_19_the_same_key_twice_is_one_key(issuer: Issuer) -> None:
    issuer.answer = reply({"keys": [KEY.public_jwk(), KEY.public_jwk()]})
    assert issuer.accepts(token())


@pytest.mark.control("2 private, symmetric and encryption keys are not used (case 19)")
def test_case_19_keys_of_another_kind_are_passed_over_with_one_warning(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [
        {**OTHER.public_jwk(), "use": "enc"},
        {**OTHER.public_jwk(), "kid": "private", "d": "c2VjcmV0LWNhbmFyeQ"},
        {"kty": "oct", "kid": "symmetric", "k": "c2VjcmV0LWNhbmFyeQ"},
        {**OTHER.public_jwk(), "kid": "wrong", "alg": "RS256"},
    ]
    issuer.answer = reply({"keys": [*bad, KEY.public_jwk()]})
    for _ in range(3):
        assert 1 == len(drive(issuer.jwks.keys()))
        issuer.clock.pass_by(LIFETIME)
    assert not issuer.accepts(signed_by(OTHER))
    (record,) = caplog.records
    assert "WARNING" == record.levelname
    assert "not for signatures" in caplog.text
    assert "c2VjcmV0LWNhbmFyeQ" not in caplog.text


@pytest.mark.control("2 a published private key is not trusted (case 19)")
def test_case_19_a_key_whose_private_half_was_published_is_not_used_from_its_clean_copy(issuer: Issuer) -> None:
    exposed = {**KEY.public_jwk(), "d": "c2VjcmV0"}
    issuer.answer = reply({"keys": [KEY.public_jwk(), exposed, OTHER.public_jwk()]})
    assert [False, True] == [issuer.accepts(token()), issuer.accepts(signed_by(OTHER))]


# 20: rotation.


@pytest.mark.control("2 a new key is found within the cool-down (case 20)")
def test_case_20_a_new_kid_is_found_once_the_cooldown_has_passed(issuer: Issuer) -> None:
    assert issuer.accepts(token())
    issuer.publish(KEY, OTHER)
    assert not issuer.accepts(signed_by(OTHER))
    issuer.clock.pass_by(COOLDOWN)
    assert [True, True] == [issuer.accepts(signed_by(OTHER)), issuer.accepts(token())]
    assert 2 == issuer.hits


@pytest.mark.control("2 new material under an old kid is fetched, once in a cool-down (case 20)")
def test_case_20_the_same_kid_with_new_material_is_fetched_once(issuer: Issuer) -> None:
    assert issuer.accepts(token())
    issuer.answer = reply({"keys": [{**OTHER.public_jwk(), "kid": KEY.kid}]})
    issuer.clock.pass_by(COOLDOWN)
    assert issuer.accepts(signed_by(OTHER, kid=KEY.kid))
    assert not any(issuer.accepts(token()) for _ in range(100))  # signed by the key that was replaced
    assert 2 == issuer.hits


@pytest.mark.control("2 a retired key ends with the next fetch (case 20)")
def test_case_20_a_retired_kid_is_refused_after_the_refresh(issuer: Issuer) -> None:
    issuer.publish(KEY, OTHER)
    assert issuer.accepts(token())
    issuer.publish(OTHER)
    issuer.clock.pass_by(LIFETIME)
    assert [False, True] == [issuer.accepts(token()), issuer.accepts(signed_by(OTHER))]


def test_case_20_keys_are_a_snapshot_that_a_later_fetch_does_not_change(issuer: Issuer) -> None:
    before = drive(issuer.jwks.keys())
    assert None is drive(issuer.jwks.keys_after(before))
    issuer.publish(OTHER)
    issuer.clock.pass_by(COOLDOWN)
    after = drive(issuer.jwks.keys_after(before))
    assert after is not None
    assert (True, False) == (before.find(KEY.kid) is not None, after.find(KEY.kid) is not None)


# 21: server-side request forgery.

ODD_HOSTS = [
    "127.1",
    "2130706433",
    "0177.0.0.1",
    "0x7f.1",
    "[::ffff:127.0.0.1]",
    "169.254.169.254",
    "100.64.0.1",
    "[64:ff9b::7f00:1]",
    "[fd00::1]",
    "[fd00:ec2::254]",
    "10.0.0.1",
    "0.0.0.0",
    "[::]",
    "user@127.0.0.1",
    "as.test@127.0.0.1",
    "127.0.0.1.",
    "127%2e0.0.1",
    "\uff11\uff12\uff17.0.0.1",
]


@pytest.mark.control("2 a URL to where nobody should look is refused (case 21)")
@pytest.mark.parametrize("host", ODD_HOSTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_case_21_a_url_with_an_inner_address_is_refused_when_written_and_when_sent(
    issuer: Issuer, scheme: str, host: str
) -> None:
    url = f"{scheme}://{host}:{issuer.server.port}/jwks"
    for build in (lambda: checked_url(url, what="issuer"), lambda: Jwks(issuer.http, url)):
        with pytest.raises(ConfigurationError):
            build()
    with pytest.raises(HttpFailure, match="refused") as caught:
        drive(issuer.http.send(get(url)))
    assert (False, 0, 0) == (caught.value.sent, issuer.hits, issuer.server.connections)


@pytest.mark.control("2 a name is judged by its addresses (case 21)")
@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["169.254.169.254"],
        ["10.0.0.1"],
        ["100.64.0.1"],
        ["64:ff9b::7f00:1"],
        ["::ffff:127.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["fe80::1%eth0"],
        [],
        ["nonsense"],
    ],
)
@pytest.mark.anyio
async def test_case_21_a_name_that_leads_inside_is_not_connected_to(issuer: Issuer, addresses: list[str]) -> None:
    client = Http(resolve=lambda host, port: addresses)
    make = get(f"https://as.test:{issuer.server.port}/")
    with pytest.raises(HttpFailure, match="refused") as caught:
        await client.send(make)
    with pytest.raises(HttpFailure, match="refused"):
        drive(client.send(make))
    assert (False, 0) == (caught.value.sent, issuer.server.connections)
    await client.aclose()


@pytest.mark.control("2 no second look between check and connection (case 21)")
@pytest.mark.parametrize("how", ["driven", "awaited"])
@pytest.mark.anyio
async def test_case_21_a_name_that_changes_its_answer_is_never_believed_twice(issuer: Issuer, how: str) -> None:
    """DNS rebinding: an admitted address when it is checked, the server's when it is connected to."""
    asked: list[str] = []

    def rebinds(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.2"] if len(asked) == 1 else ["127.0.0.1"]

    client = Http(resolve=rebinds, networks=["127.0.0.2/32"], timeout=0.3)
    make = get(f"https://as.test:{issuer.server.port}/")
    with pytest.raises(HttpFailure):
        drive(client.send(make, retry=False)) if how == "driven" else await client.send(make, retry=False)
    assert (1, 0) == (len(asked), issuer.server.connections)
    # The next connection asks again, and the answer of then is judged.
    with pytest.raises(HttpFailure, match="refused"):
        drive(client.send(make, retry=False)) if how == "driven" else await client.send(make, retry=False)
    assert (2, 0) == (len(asked), issuer.server.connections)
    await client.aclose()


def test_case_21_localhost_is_loopback_and_nothing_else(issuer: Issuer) -> None:
    make = get(f"http://localhost:{issuer.server.port}/jwks")
    here = Http(resolve=lambda host, port: ["127.0.0.1"])
    away = Http(resolve=lambda host, port: ["8.8.8.8"], networks=["0.0.0.0/0"])
    assert 200 == drive(here.send(make)).status
    with pytest.raises(HttpFailure, match="refused"):
        drive(away.send(make))
    here.close()
    away.close()


# 22: mix-up of issuers.


@pytest.mark.control("2 metadata of another issuer is not used (case 22)")
@pytest.mark.parametrize(
    "said",
    [
        "https://evil.test",
        f"{ISSUER}/",
        ISSUER.upper(),
        f"{ISSUER}/tenant",
        ISSUER[:-1],
        "",
        None,
        [ISSUER],
    ],
)
def test_case_22_metadata_of_another_issuer_must_not_be_used(said: object) -> None:
    assert ISSUER in same_issuer({"issuer": said}, ISSUER)


def test_case_22_metadata_without_an_issuer_must_not_be_used_and_its_own_may() -> None:
    assert same_issuer({}, ISSUER)
    assert "" == same_issuer({"issuer": ISSUER}, ISSUER)


# 23: proxies of the environment.


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """A proxy that the environment names for everything; it refuses to connect."""
    proxy = Loopback(lambda _: reply(status=403))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://user:pw@127.0.0.1:{proxy.port}")
        monkeypatch.setenv(name.upper(), f"http://user:pw@127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    yield proxy
    proxy.stop()


@pytest.mark.control("2 the environment's proxy gets nothing (case 23)")
@pytest.mark.anyio
async def test_case_23_proxies_of_the_environment_see_nothing(issuer: Issuer, proxied: Loopback) -> None:
    client = Http(resolve=lambda host, port: ["127.0.0.1"])
    assert issuer.accepts(token())
    make = get("https://as.test/")
    for caller in ("driven", "awaited"):
        with pytest.raises(HttpFailure, match="refused"):
            drive(client.send(make)) if caller == "driven" else await client.send(make)
    assert ([], 0) == (proxied.seen, proxied.connections)
    await client.aclose()


@pytest.mark.anyio
async def test_case_23_where_they_are_asked_for_https_goes_through_and_loopback_does_not(
    issuer: Issuer, proxied: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "direct.test")
    client = Http(trust_env=True, resolve=lambda host, port: ["127.0.0.1"])
    through = get("https://as.test/?q=1")
    for caller in ("driven", "awaited"):
        with pytest.raises(HttpFailure, match="proxy") as caught:
            drive(client.send(through)) if caller == "driven" else await client.send(through)
        assert not caught.value.sent
    assert ["as.test:443"] * 2 == [seen.target for seen in proxied.seen]
    assert all("authorization" not in seen.headers for seen in proxied.seen)
    assert "Basic dXNlcjpwdw==" == proxied.seen[0].headers["proxy-authorization"]
    assert 200 == drive(client.send(get(f"{issuer.server.url}/jwks"))).status
    with pytest.raises(HttpFailure, match="refused"):  # not through the proxy, so its address is judged
        await client.send(get("https://direct.test/"))
    assert 2 == len(proxied.seen)
    await client.aclose()


@pytest.mark.control("2 the environment's proxy gets nothing (case 23)")
@pytest.mark.anyio
async def test_case_23_an_inner_address_in_the_url_is_refused_also_behind_a_proxy(proxied: Loopback) -> None:
    client = Http(trust_env=True, attempts=1, networks=["10.1.0.0/16"])
    for url in ("https://169.254.169.254/", "https://10.0.0.1/", "https://[::ffff:10.0.0.1]/"):
        with pytest.raises(HttpFailure, match="refused"):
            drive(client.send(get(url)))
        with pytest.raises(HttpFailure, match="refused"):
            await client.send(get(url))
    assert 0 == proxied.connections
    with pytest.raises(HttpFailure, match="proxy"):
        drive(client.send(get("https://10.1.0.1/")))
    assert ["10.1.0.1:443"] == [seen.target for seen in proxied.seen]
    await client.aclose()


@pytest.mark.parametrize(
    "proxy", ["socks5://user:pw@127.0.0.1:1", "http://user:pw@[127", "http://user:pw@127.0.0.1:99999"]
)
def test_case_23_a_proxy_of_another_kind_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(ConfigurationError, match="https_proxy") as caught:
        Http(trust_env=True)
    assert "pw" not in str(caught.value)


# What an error keeps alive, and what is written wrongly.


@pytest.mark.control("6 no error of the key cache holds the token")
@pytest.mark.parametrize("answer", [None, reply(KeySet.of(OTHER).jwks())])
@pytest.mark.parametrize("ask", ["verify", "keys_for"])
def test_no_error_keeps_the_token_within_reach(issuer: Issuer, answer: Answer, ask: str) -> None:
    issuer.answer = answer
    for text in (token(), "not.a.token", sign(claims(), header(kid="k"))):
        started = issuer.jwks.verify(text, PROFILE, NOW) if ask == "verify" else issuer.jwks.keys_for(text)
        try:
            drive(started)
        except (TokenRejected, Unavailable) as error:
            assert error.__context__ is None
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            library = [frame for frame in frames if "/src/agentguard/" in frame.f_code.co_filename]
            # `drive` is the test's own caller here, and a coroutine object holds what its frame holds.
            assert not any(text in map(str, frame.f_locals.values()) for frame in library)
        else:
            assert "keys_for" == ask


@pytest.mark.parametrize(
    "bounds",
    [
        {"cooldown": 0},
        {"cooldown": 301},
        {"lifetime": 3601},
        {"max_stale": float("inf")},
        {"lifetime": float("nan")},
        {"max_keys": 0},
    ],
)
def test_bounds_that_bound_nothing_are_a_configuration_error(issuer: Issuer, bounds: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Jwks(issuer.http, "https://as.test/jwks", **bounds)


def test_a_slow_caller_logs_nothing_of_the_keys(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert issuer.accepts(token())
    assert ([], f"<Jwks {issuer.server.url}/jwks>") == (caplog.records, repr(issuer.jwks))
