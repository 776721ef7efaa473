"""Case 70 of the adversarial list: status lists that are wrong, old, too large or not there, and what they say."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from agentguard._drive import drive
from agentguard._http import Http
from agentguard._jwks import Jwks
from agentguard.errors import ConfigurationError, TokenRejected, Unavailable
from agentguard.keys import KeySet, SigningKey
from agentguard.resource_server import (
    Status,
    StatusList,
    StatusListCheck,
    TokenVerifier,
    VerificationUnavailable,
    VerifiedToken,
)
from agentguard.resource_server.status_check import _inflated
from agentguard.resource_server.status_list import status_at
from tests.loopback import Received, Slowly, reply, serving
from tests.resource_server.forging import ABSENT, AUDIENCE, ISSUER, KEY, KEYS, NOW, base64url, sign, token
from tests.resource_server.proving import Clock

MEDIA = "application/statuslist+jwt"
SIGNER = SigningKey.generate()


@dataclass
class Lists:
    """A server of one status list, and what verifies tokens by it."""

    statuses: StatusList = field(default_factory=lambda: StatusList(2, 1000))
    answer: Callable[[Received], Any] | None = None
    clock: Clock = field(default_factory=Clock)
    monotonic: Clock = field(default_factory=lambda: Clock(0))
    server: Any = None

    @property
    def uri(self) -> str:
        return f"{self.server.url}/status/1"

    def served(self, received: Received) -> Any:
        if self.answer is not None:
            return self.answer(received)
        return reply(self.statuses.token(SIGNER, self.uri, self.clock.now).encode(), media=MEDIA)

    def claim(self, index: Any = 7, **more: Any) -> dict[str, Any]:
        return {"status_list": {"idx": index, "uri": more.pop("uri", self.uri)}, **more}

    def check(self, http: Http, **options: Any) -> StatusListCheck:
        keys = options.pop("keys", None) or KeySet.of(SIGNER)
        return StatusListCheck(keys, http, clock=self.clock, monotonic=self.monotonic, **options)

    def verifier(self, http: Http, **options: Any) -> TokenVerifier:
        return TokenVerifier(KEYS, ISSUER, AUDIENCE, status=self.check(http, **options))


@pytest.fixture
def http() -> Iterator[Http]:
    http = Http(attempts=1, timeout=2, deadline=2)
    yield http
    http.close()


@pytest.fixture
def lists() -> Iterator[Lists]:
    made = Lists()
    with serving(made.served) as made.server:
        yield made


def verified(lists: Lists, http: Http, status: Any, **options: Any) -> VerifiedToken:
    return lists.verifier(http, **options).verify(token(status=status), NOW)


def unavailable(lists: Lists, http: Http, **options: Any) -> None:
    with pytest.raises(VerificationUnavailable, match="cannot be found out") as caught:
        verified(lists, http, lists.claim(), **options)
    assert (caught.value.status, caught.value.error) == (503, "temporarily_unavailable")


def test_case_70_a_valid_token_passes_and_the_list_is_fetched_once(lists: Lists, http: Http) -> None:
    verifier = lists.verifier(http)
    for index in (0, 7, 999):
        assert verifier.verify(token(status=lists.claim(index)), NOW).subject == "user:alice"

    (asked,) = lists.server.seen
    assert (asked.method, asked.headers["accept"]) == ("GET", MEDIA)


@pytest.mark.control("status list: only VALID passes")
@pytest.mark.parametrize(
    ("status", "why"), [(Status.INVALID, "revoked"), (Status.SUSPENDED, "suspended"), (3, "revoked")]
)
def test_case_70_any_other_status_refuses(lists: Lists, http: Http, status: int, why: str) -> None:
    lists.statuses.set(7, status)

    with pytest.raises(TokenRejected, match=why) as caught:
        verified(lists, http, lists.claim())
    assert (caught.value.error, caught.value.status) == ("invalid_token", 401)
    assert verified(lists, http, lists.claim(6)).subject


@pytest.mark.control("status list: a status that nobody looks up refuses")
def test_case_70_a_token_with_a_status_is_refused_where_nobody_looks_it_up(lists: Lists) -> None:
    with pytest.raises(TokenRejected, match="does not look up"):
        TokenVerifier(KEYS, ISSUER, AUDIENCE).verify(token(status=lists.claim()), NOW)


def test_case_70_a_status_can_be_required(lists: Lists, http: Http) -> None:
    needed = TokenVerifier(KEYS, ISSUER, AUDIENCE, status=lists.check(http), require_status=True)

    with pytest.raises(TokenRejected, match="status is missing"):
        needed.verify(token(), NOW)
    assert needed.verify(token(status=lists.claim()), NOW).subject
    assert lists.verifier(http).verify(token(), NOW).subject
    with pytest.raises(ConfigurationError, match="something to ask"):
        TokenVerifier(KEYS, ISSUER, AUDIENCE, require_status=True)


@pytest.mark.control("status list: the reference is exact")
@pytest.mark.parametrize(
    "status",
    [
        None, 1, "x", [], {}, {"status_list": []}, {"status_list": {}}, {"status_list": {"idx": 0}},
        {"status_list": {"idx": True, "uri": "@"}}, {"status_list": {"idx": -1, "uri": "@"}},
        {"status_list": {"idx": "0", "uri": "@"}}, {"status_list": {"idx": 0.0, "uri": "@"}},
        {"status_list": {"idx": 0, "uri": ""}}, {"status_list": {"idx": 0, "uri": 1}},
        {"status_list": {"idx": 0, "uri": "https://a.test/" + "x" * 3000}},
        {"status_list": {"idx": 0, "uri": "@"}, "other_mechanism": {"revoked": True}},
    ],
)  # fmt: skip
def test_case_70_a_reference_that_is_malformed_or_of_another_kind_refuses(
    lists: Lists, http: Http, status: Any
) -> None:
    exact = json.loads(json.dumps(status).replace('"@"', json.dumps(lists.uri)))

    with pytest.raises(TokenRejected):
        verified(lists, http, exact)
    assert lists.server.seen == []


@pytest.mark.control("status list: an index beyond the list refuses")
@pytest.mark.parametrize("index", [1000, 1001, 10**6, 10**30])
def test_case_70_an_index_out_of_range_refuses(lists: Lists, http: Http, index: int) -> None:
    with pytest.raises(TokenRejected):
        verified(lists, http, lists.claim(index))


def forged(lists: Lists, key: SigningKey = SIGNER, head: Any = None, **changes: Any) -> bytes:
    good = {
        "sub": lists.uri,
        "iat": NOW,
        "exp": NOW + 3600,
        "ttl": 60,
        "status_list": lists.statuses.claim(),
    }
    claims = {name: value for name, value in {**good, **changes}.items() if value is not ABSENT}
    header = {"alg": key.algorithm, "typ": "statuslist+jwt", "kid": key.kid, **(head or {})}
    return sign(claims, {name: value for name, value in header.items() if value is not ABSENT}, key).encode()


def answering(body: bytes, **how: Any) -> Callable[[Received], Any]:
    return lambda received: reply(body, **{"media": MEDIA, **how})


def test_case_70_what_forged_makes_is_good_unless_it_is_changed(lists: Lists, http: Http) -> None:
    for changes in ({}, {"exp": ABSENT}, {"ttl": ABSENT}, {"iat": NOW + 30}, {"ttl": 1.5}):
        lists.answer = answering(forged(lists, **changes))
        assert verified(lists, http, lists.claim()).subject


@pytest.mark.control("status list: it is the list of this URI")
@pytest.mark.parametrize("sub", [ABSENT, None, "", "https://as.bank.test/status/1", 1, ["x"]])
def test_case_70_the_list_of_another_uri_refuses(lists: Lists, http: Http, sub: object) -> None:
    lists.answer = answering(forged(lists, sub=sub))

    unavailable(lists, http)


@pytest.mark.control("status list: signed, and of its type")
def test_case_70_a_list_that_is_not_signed_by_the_issuer_or_no_list_refuses(lists: Lists, http: Http) -> None:
    other = SigningKey.generate()
    for body in (
        forged(lists, other),
        forged(lists, other, {"kid": SIGNER.kid}),
        forged(lists, head={"typ": "at+jwt"}),
        forged(lists, head={"typ": ABSENT}),
        forged(lists, head={"alg": "none"}),
        forged(lists, head={"kid": ABSENT}),
        forged(lists)[:-4],
        json.dumps(lists.statuses.claim()).encode(),
        b"",
        b"\xff\xfe",
    ):
        lists.answer = answering(body)
        unavailable(lists, http)


@pytest.mark.control("status list: never after its exp")
@pytest.mark.parametrize("changes", [{"exp": NOW}, {"exp": NOW - 1}, {"exp": "x"}, {"exp": True}, {"exp": NOW + 0.5},
                                     {"iat": ABSENT}, {"iat": NOW + 31}, {"iat": "1"}, {"ttl": 0}, {"ttl": -1},
                                     {"ttl": "60"}, {"ttl": True}])  # fmt: skip
def test_case_70_a_list_that_has_expired_or_says_no_times_refuses(lists: Lists, http: Http, changes: Any) -> None:
    lists.answer = answering(forged(lists, **changes))

    unavailable(lists, http)


@pytest.mark.control("status list: never after its exp")
def test_case_70_a_list_that_is_kept_does_not_outlive_its_exp(lists: Lists, http: Http) -> None:
    lists.answer = answering(forged(lists, exp=NOW + 10, ttl=600))
    verifier = lists.verifier(http)
    assert verifier.verify(token(status=lists.claim()), NOW).subject

    with pytest.raises(VerificationUnavailable):  # the wall clock has gone on, the other one has not
        verifier.verify(token(status=lists.claim()), NOW + 10)


@pytest.mark.control("status list: unpacking is bounded")
def test_case_70_a_bomb_of_200_megabytes_is_not_unpacked(lists: Lists, http: Http) -> None:
    bomb = zlib.compress(b"\0" * 200_000_000, 9)
    assert len(bomb) < 300_000
    lists.answer = answering(forged(lists, status_list={"bits": 1, "lst": base64url(bomb)}))

    started = time.process_time()
    unavailable(lists, http)
    assert time.process_time() - started < 2


@pytest.mark.control("status list: unpacking is bounded")
def test_case_70_no_more_is_unpacked_than_is_bounded() -> None:
    bomb = base64url(zlib.compress(b"\0" * 50_000_000, 9))
    tracemalloc.start()
    try:
        assert _inflated(bomb, 1_000_000) is None
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    for size in (1000, 1001):
        assert (_inflated(base64url(zlib.compress(b"\0" * size)), 1000) is None) == (size > 1000)


@pytest.mark.parametrize(
    "said",
    [
        None, [], {}, {"bits": 1}, {"bits": 3, "lst": "eNrbuRgAAhcBXQ"}, {"bits": True, "lst": "eNrbuRgAAhcBXQ"},
        {"bits": "1", "lst": "eNrbuRgAAhcBXQ"}, {"bits": 16, "lst": "eNrbuRgAAhcBXQ"}, {"bits": 1, "lst": ""},
        {"bits": 1, "lst": "AAAA"}, {"bits": 1, "lst": "eNrbuRgAAhcB"}, {"bits": 1, "lst": "eNrbuRgAAhcBXQAAAA"},
        {"bits": 1, "lst": "eNrbuRgAAhcBXQ=="}, {"bits": 1, "lst": "eN+/"}, {"bits": 1, "lst": "eNrb uRg"},
        {"bits": 1, "lst": 1}, {"bits": 1, "lst": "é"},
    ],
)  # fmt: skip
def test_case_70_a_list_that_cannot_be_read_refuses(lists: Lists, http: Http, said: Any) -> None:
    lists.answer = answering(forged(lists, status_list=said))

    unavailable(lists, http)


@pytest.mark.control("status list: no list, no token")
def test_case_70_a_server_that_fails_refuses_and_is_not_asked_at_once_again(lists: Lists, http: Http) -> None:
    lists.answer = lambda received: reply(b"{}", 500)
    verifier = lists.verifier(http)
    for _ in range(3):
        with pytest.raises(VerificationUnavailable):
            verifier.verify(token(status=lists.claim()), NOW)
    assert len(lists.server.seen) == 1

    lists.answer = None
    lists.monotonic.now += 6
    assert verifier.verify(token(status=lists.claim()), NOW).subject


@pytest.mark.control("status list: no list, no token")
@pytest.mark.parametrize(
    "answer",
    [
        lambda received: None,
        lambda received: reply(b"x", 404, media=MEDIA),
        lambda received: reply(b"x", 302, media=MEDIA, Location="https://elsewhere.test/"),
        lambda received: reply(b"{}"),
        lambda received: Slowly(reply(b"x" * 500, media=MEDIA), pause=0.05),
        lambda received: reply(b"x" * 2_000_000, media=MEDIA),
    ],
    ids=["hangs up", "404", "redirect", "json", "slow drip", "too large"],
)
def test_case_70_an_answer_that_is_no_list_refuses(lists: Lists, http: Http, answer: Any) -> None:
    lists.answer = answer

    unavailable(lists, http)


@pytest.mark.control("status list: where lists are fetched from")
@pytest.mark.parametrize(
    "uri",
    [
        "http://lists.test/1",
        "https://127.1/1",
        "https://169.254.169.254/1",
        "file:///etc/passwd",
        "https://user@lists.test/1",
        "https://10.0.0.1/1",
        "http://[::ffff:127.0.0.1]/",
    ],
)
def test_case_70_a_uri_that_leads_inside_or_is_not_https_is_not_fetched(lists: Lists, http: Http, uri: str) -> None:
    with pytest.raises(VerificationUnavailable):
        verified(lists, http, lists.claim(uri=uri))


@pytest.mark.control("status list: where lists are fetched from")
def test_case_70_a_list_that_is_not_among_those_trusted_is_not_fetched(lists: Lists, http: Http) -> None:
    with pytest.raises(TokenRejected, match="does not trust"):
        verified(lists, http, lists.claim(), uris=["https://as.bank.test/status/1"])
    assert lists.server.seen == []
    assert verified(lists, http, lists.claim(), uris=[lists.uri]).subject


@pytest.mark.control("status list: a token is verified first")
def test_case_70_nothing_is_fetched_for_a_token_that_is_refused(lists: Lists, http: Http) -> None:
    with pytest.raises(TokenRejected, match="expired"):
        lists.verifier(http).verify(token(status=lists.claim()), NOW + 90)
    assert lists.server.seen == []


def test_case_70_a_revocation_is_seen_after_the_ttl(lists: Lists, http: Http) -> None:
    verifier = lists.verifier(http)
    assert verifier.verify(token(status=lists.claim()), NOW).subject
    lists.statuses.set(7, Status.INVALID)

    lists.monotonic.now = 59
    assert verifier.verify(token(status=lists.claim()), NOW).subject
    lists.monotonic.now = 60
    with pytest.raises(TokenRejected, match="revoked"):
        verifier.verify(token(status=lists.claim()), NOW)


def test_case_70_a_list_serves_no_longer_than_the_api_allows(lists: Lists, http: Http) -> None:
    lists.answer = answering(forged(lists, ttl=10**9))
    verifier = lists.verifier(http, max_ttl=120, default_ttl=60)
    for now, asked in ((0, 1), (119, 1), (120, 2)):
        lists.monotonic.now = now
        verifier.verify(token(status=lists.claim()), NOW)
        assert len(lists.server.seen) == asked


@pytest.mark.anyio
async def test_case_70_fifty_requests_at_once_fetch_it_once(lists: Lists, http: Http) -> None:
    def late(received: Received) -> bytes:
        time.sleep(0.1)
        return reply(forged(lists), media=MEDIA)

    lists.answer = late
    verifier = lists.verifier(http)
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(verifier.verified, token(status=lists.claim()), NOW)
    await http.aclose()
    assert len(lists.server.seen) == 1


@pytest.mark.anyio
async def test_case_70_a_leader_that_is_cancelled_leaves_nobody_without_an_answer(lists: Lists, http: Http) -> None:
    gate = threading.Event()

    def held(received: Received) -> bytes:
        if len(lists.server.seen) == 1:
            gate.wait(1)
        return reply(forged(lists), media=MEDIA)

    lists.answer = held
    verifier, found = lists.verifier(http), list[VerifiedToken]()

    async def follow() -> None:
        found.append(await verifier.verified(token(status=lists.claim()), NOW))

    async with anyio.create_task_group() as group:
        with anyio.move_on_after(0.1):
            group.start_soon(follow)
            await verifier.verified(token(status=lists.claim()), NOW)
        gate.set()
    await http.aclose()
    assert len(found) == 1


@pytest.mark.anyio
async def test_case_70_a_synchronous_look_in_an_event_loop_is_refused(lists: Lists, http: Http) -> None:
    with pytest.raises(ConfigurationError, match="await"):
        verified(lists, http, lists.claim())


def test_case_70_a_list_is_signed_by_keys_of_a_cache_that_follows_a_rotation(lists: Lists, http: Http) -> None:
    published = [KeySet.of(KEY).jwks()]
    monotonic = Clock(0)

    def answer(received: Received) -> bytes:
        return reply(published[0]) if received.target == "/jwks" else reply(forged(lists), media=MEDIA)

    lists.answer = answer
    jwks = Jwks(http, f"{lists.server.url}/jwks", cooldown=1, clock=monotonic)
    unavailable(lists, http, keys=jwks)
    published[0] = KeySet.of(KEY, SIGNER).jwks()
    monotonic.now = 2

    assert verified(lists, http, lists.claim(), keys=jwks).subject


# the issuer's side


@pytest.mark.parametrize(("bits", "lst", "packed"), [(1, "eNrbuRgAAhcBXQ", "b9a3"), (2, "eNo76fITAAPfAgc", "c944f9")])
def test_case_70_vectors_of_the_draft(bits: int, lst: str, packed: str) -> None:
    """Sections 4.1 and 4.2 of the draft; the second one is of its repository."""
    data = zlib.decompress(base64.urlsafe_b64decode(lst + "=" * (-len(lst) % 4)))
    assert data.hex() == packed
    size = len(data) * 8 // bits
    made = StatusList(bits, size)
    for index in range(size):
        made.set(index, status_at(data, bits, index))

    assert made.claim() == {"bits": bits, "lst": lst}
    if bits == 1:
        assert [made.get(index) for index in range(16)] == [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1]
    else:
        assert [made.get(index) for index in range(12)] == [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_case_70_a_status_changes_no_other(bits: int) -> None:
    made = StatusList(bits, 100)
    made.set(50, (1 << bits) - 1)

    assert [index for index in range(100) if made.get(index)] == [50]
    made.set(50, 0)
    assert not any(made.get(index) for index in range(100))


@pytest.mark.control("status list: an index cannot be guessed")
def test_case_70_indexes_are_unpredictable_and_unique_until_they_are_free() -> None:
    one, two = StatusList(1, 1000), StatusList(1, 1000)
    first, second = ([made.allocate(NOW + 60, NOW) for _ in range(1000)] for made in (one, two))

    assert sorted(first) == sorted(second) == list(range(1000))
    assert first != second
    assert sum(abs(a - b) == 1 for a, b in itertools.pairwise(first)) < 50
    with pytest.raises(Unavailable, match="in use"):
        one.allocate(NOW + 60, NOW + 59)


@pytest.mark.control("status list: an index is used again after its token ended")
def test_case_70_an_index_is_valid_again_when_it_is_used_again() -> None:
    made = StatusList(1, 1)
    made.set(made.allocate(NOW + 60, NOW), Status.INVALID)

    assert made.allocate(NOW + 120, NOW + 60) == 0
    assert made.get(0) == Status.VALID


def test_case_70_threads_never_share_an_index() -> None:
    made, got = StatusList(1, 4000), list[int]()
    threads = [
        threading.Thread(target=lambda: got.extend([made.allocate(NOW + 60, NOW) for _ in range(1000)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(got) == list(range(4000))


def test_case_70_mistakes_of_whoever_issues_are_told(http: Http) -> None:
    made = StatusList(2, 10)
    for mistake in (
        lambda: StatusList(3), lambda: StatusList(True), lambda: StatusList(1, 0), lambda: StatusList(1, 1 << 25),
        lambda: made.set(10, 0), lambda: made.set(-1, 0), lambda: made.set(0, 4), lambda: made.set(0, -1),
        lambda: made.set(True, 0), lambda: made.get(10), lambda: made.allocate(float("inf"), NOW),
        lambda: made.allocate(float("nan"), NOW), lambda: made.token(KEY, "https://a.test", NOW, ttl=0),
        lambda: made.token(KEY, "https://a.test", NOW, ttl=90, lifetime=60),
        lambda: StatusListCheck(KEYS, http, uris="https://a.test"), lambda: StatusListCheck(KEYS, http, max_ttl=0),
        lambda: StatusListCheck(KEYS, http, uris=["http://a.test"]), lambda: StatusListCheck(KEYS, http, leeway=61),
        lambda: StatusListCheck(KEYS, http, max_bytes=0), lambda: StatusListCheck(KEYS, http, max_ttl=99999),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError):
            mistake()


def test_case_70_no_more_lists_are_kept_than_is_bounded(http: Http) -> None:
    made = Lists()
    with serving(lambda received: reply(b"{}", 404)) as made.server:
        check = made.check(http)
        for number in range(80):
            uri = f"{made.server.url}/{number}"
            assert drive(check.refusal({"status_list": {"idx": 0, "uri": uri}}, NOW, 2)) is not None
        assert len(check._answers) <= 64
