"""Very many leases: a leak of any of them is found, what has expired is forgotten, and each takes little memory."""

from __future__ import annotations

import base64
import secrets
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agentguard._drive import drive
from agentguard.credentials.leaks import MARK, LiveSecrets, Search, Stream
from agentguard.credentials.leases import FORGET
from agentguard.credentials.needles import FEW
from agentguard.model.credential import Issued
from agentguard.model.lease import Grant, Lease, LeaseKey, Secret
from agentguard.testing import FakeIssuer
from bench.live_leases import allocated
from tests.credentials.rooms import Room, Vault, grant

EXPIRED = 61.0
hidden = pytest.mark.control("6 a credential is never seen (case 66)")
KEY = LeaseKey("", "user:alice", "t", ("bot",), "pay", "https://api.test", (), "")


def text_of(size: int) -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(size)).rstrip(b"=").decode()


def jwt(number: int) -> str:
    payload = base64.urlsafe_b64encode(b'{"iss":"agentguard","jti":"%d"}' % number).rstrip(b"=").decode()
    return f"eyJhbGciOiJFUzI1NiJ9.{payload}.{text_of(64)}"


TOKENS = [jwt(number) for number in range(FEW + 10)]
PASSWORD = 'p@ss "word" $% ü!'
SECRETS = [*TOKENS, text_of(36), PASSWORD]


def watching(texts: list[str]) -> LiveSecrets:
    live = LiveSecrets()
    for number, text in enumerate(texts):
        lease = Lease(id=f"lease-{number}", issuer="i", key=KEY, task="t", issued_at=0, expires_at=30)
        live.add(Issued(lease, Secret(text)))
    return live


MANY = watching(SECRETS)
WAYS: dict[str, Any] = {
    "bare": lambda part: part,
    "inside a run": lambda part: f"abcABC_{part}-xyz09",
    "base64": lambda part: base64.b64encode(part.encode()).decode(),
    "base64 later": lambda part: base64.b64encode(b"??" + part.encode() + b"tail").decode(),
    "base64url": lambda part: base64.urlsafe_b64encode(b"~" + part.encode()).decode().rstrip("="),
    "base64 in a run": lambda part: "xyz" + base64.b64encode(b"~~~~" + part.encode()).decode() + "ab",
    "wrapped": lambda part: base64.encodebytes(part.encode()).decode(),
    "percent-encoded": lambda part: quote(part, safe=""),
}


@hidden
@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=40, deadline=None)
@given(number=st.integers(0, len(SECRETS) - 1), part=st.integers(0, 2), before=st.text(max_size=12))
def test_a_secret_among_many_is_found_as_one_among_few_is(way: str, number: int, part: int, before: str) -> None:
    pieces = SECRETS[number].split(".")
    leaked = pieces[1 + part % 2] if len(pieces) == 3 and part < 2 else SECRETS[number]
    text = before + " " + WAYS[way](leaked) + " end"
    few = watching([SECRETS[number]])

    assert {"lease-0"} == few.found_in(text)
    assert {f"lease-{number}"} == MANY.found_in(text)
    assert leaked not in Search(MANY).value(text)


@hidden
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_secret_among_many_is_found_in_a_stream_however_it_is_split(data: st.DataObject) -> None:
    leaked = data.draw(st.sampled_from([TOKENS[3], TOKENS[3].split(".")[2], PASSWORD, WAYS["base64"](TOKENS[5])]))
    text = f"The answer is {leaked} and no more."
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    stream = Stream(Search(MANY))

    ends = [part for at, to in zip([0, *cuts], [*cuts, len(text)], strict=True) for part in stream.part(text[at:to])]
    passed = "".join([*ends, *stream.end()])

    assert leaked not in passed
    assert MARK in passed
    assert passed.startswith("The answer is ")
    assert passed.endswith(" and no more.")


def test_ordinary_text_passes_among_many_as_it_is() -> None:
    text = "Nothing to see: https://api.test/a/b?c=d, 0123456789abcdef0123456789abcdef. " * 20
    assert text is Search(MANY).value(text)


@hidden
@pytest.mark.parametrize("others", [0, FEW + 5])
def test_a_secret_that_two_leases_share_is_watched_until_both_have_ended(others: int) -> None:
    shared = text_of(36)
    live = watching([shared, shared, *TOKENS[:others]])
    stream = Stream(Search(live))
    assert {"lease-0", "lease-1"} == live.found_in(f"it is {shared}")

    live.discard("lease-0")

    assert {"lease-1"} == live.found_in(f"it is {shared}")
    assert shared not in "".join([*stream.part(shared[:20]), *stream.part(shared[20:]), *stream.end()])
    live.discard("lease-1")
    assert not live.found_in(f"it is {shared}")


@hidden
def test_leases_that_come_after_a_search_are_watched_too_and_those_that_ended_are_not() -> None:
    live = watching(TOKENS)
    assert not live.found_in("x" * 500)
    late = jwt(10_000)
    live.add(Issued(Lease(id="late", issuer="i", key=KEY, task="t", issued_at=0, expires_at=30), Secret(late)))

    assert {"late"} == live.found_in(late)
    for number in range(len(TOKENS)):
        live.discard(f"lease-{number}")
    assert {"late"} == live.found_in(late)
    assert not live.found_in(TOKENS[0])
    live.discard("late")
    assert not live
    assert not live.shortest


# what has expired ------------------------------------------------------------------------------------------------


def tended(room: Room, seconds: float) -> None:
    room.clock.advance(seconds)
    drive(room.leases.tend())


@pytest.mark.control("leases that expired in an open task are forgotten")
def test_what_expired_in_a_task_that_goes_on_is_forgotten() -> None:
    room = Room()
    for number in range(3):
        drive(room.leases.release(drive(room.leases.obtain(grant(resource=f"account/{number}")))))

    tended(room, EXPIRED)

    assert room.events() == ["credential.issued"] * 3 + ["credential.expired"] * 3
    assert (room.outstanding(), bool(room.leases.secrets), room.issuer.revoked) == (0, False, [])
    assert not drive(room.leases.obtain(grant(resource="account/0"))).cached


def test_what_expired_in_use_is_forgotten_after_its_use() -> None:
    room = Room()
    use = drive(room.leases.obtain(grant()))

    tended(room, EXPIRED)
    assert bool(room.leases.secrets)
    drive(room.leases.release(use))
    tended(room, FORGET)

    assert (room.events()[-1], bool(room.leases.secrets)) == ("credential.expired", False)


class Roles(FakeIssuer):
    """Its credentials do not end by themselves."""

    def prepare(self, grant: Grant, now: float) -> Lease:
        return replace(super().prepare(grant, now), lasts=True)


def test_what_does_not_end_by_itself_is_never_forgotten() -> None:
    room = Room(Roles())
    drive(room.leases.release(drive(room.leases.obtain(grant()))))

    tended(room, 1e6)

    assert (room.outstanding(), room.events()) == (1, ["credential.issued"])
    drive(room.leases.end_task("t"))
    assert room.nothing_is_left()


def test_a_parent_is_forgotten_after_the_leases_under_it() -> None:
    room = Room(Vault())
    drive(room.leases.release(drive(room.leases.obtain(grant()))))
    room.issuer.renewable = False

    for _ in range(3):
        tended(room, EXPIRED)

    assert room.events().count("credential.expired") == 2
    assert (room.outstanding(), bool(room.leases.secrets)) == (0, False)


def test_leases_in_use_are_no_reason_to_keep_too_many_idle_ones() -> None:
    room = Room(most=20)
    uses = [drive(room.leases.obtain(grant(resource=f"used/{number}"))) for number in range(20)]
    for number in range(40):
        drive(room.leases.release(drive(room.leases.obtain(grant(resource=f"idle/{number}")))))

    assert room.outstanding() <= 22
    assert set(room.issuer.live) >= {use.held.issued.lease.id for use in uses}


def test_a_lease_takes_little_memory_and_gives_it_back() -> None:
    took = allocated(3_000)

    assert took["alive"] < 600  # some of them are whole
    assert took["searched"] < 900
    assert took["after"] < 100
