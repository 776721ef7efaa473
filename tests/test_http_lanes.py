"""The connections of synchronous callers: one caller a connection, bounded, and none used again that was not read."""

from __future__ import annotations

import threading
from typing import Any

import httpcore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard._http.lanes import Lanes

alone = pytest.mark.control("2 a request is not sent twice by a race of threads")


class Connection:
    """An HTTP/1.1 connection without a socket."""

    def __init__(self, origin: httpcore.Origin) -> None:
        self.origin, self.state, self.expired, self.sent = origin, "new", False, 0

    def can_handle_request(self, origin: httpcore.Origin) -> bool:
        return origin == self.origin

    def has_expired(self) -> bool:
        return self.expired

    def is_idle(self) -> bool:
        return self.state == "idle"

    def handle_request(self, request: httpcore.Request) -> Any:
        assert self.state in ("new", "idle")
        self.state, self.sent = "active", self.sent + 1
        if request.url.target == b"/broken":
            raise httpcore.ReadError
        return Answer(self, unread=request.url.target == b"/unread")

    def close(self) -> None:
        self.state = "closed"


class Answer:
    status, headers = 200, ()

    def __init__(self, connection: Connection, *, unread: bool) -> None:
        self._connection, self._unread = connection, unread

    def iter_stream(self) -> Any:
        return iter([b"ok"])

    def close(self) -> None:
        if self._connection.state == "active":
            self._connection.state = "closed" if self._unread else "idle"


class Room:
    """Lanes, and every connection they made."""

    def __init__(self, most: int = 2) -> None:
        self.made: list[Connection] = []
        self.lanes = Lanes(self._connect, most)  # type: ignore[arg-type]  # as much of a connection as is asked for

    def _connect(self, origin: httpcore.Origin) -> Connection:
        self.made.append(Connection(origin))
        return self.made[-1]

    def send(self, host: str = "a", path: str = "/") -> Any:
        url = httpcore.URL(f"https://{host}.test{path}")
        timeout = {"timeout": {"pool": 0.02}}
        return self.lanes.handle_request(httpcore.Request("GET", url, extensions=timeout))

    def open(self) -> int:
        return sum(one.state != "closed" for one in self.made)


def test_connection_is_used_again_by_the_next_caller() -> None:
    room = Room()
    for _ in range(5):
        room.send().close()

    assert [5] == [one.sent for one in room.made]


@alone
def test_connection_in_use_is_given_to_nobody_else() -> None:
    room = Room()
    first, second = room.send(), room.send()

    assert [1, 1] == [one.sent for one in room.made]
    first.close()
    second.close()


@pytest.mark.control("connections are bounded")
def test_caller_who_finds_no_room_waits_no_longer_than_its_timeout_and_takes_what_becomes_free() -> None:
    room = Room(most=1)
    first = room.send()
    with pytest.raises(httpcore.PoolTimeout):
        room.send()

    threading.Timer(0.005, first.close).start()
    room.send().close()

    assert [2] == [one.sent for one in room.made]


@pytest.mark.parametrize("path", ["/broken", "/unread"])
def test_connection_that_broke_or_was_not_read_is_not_used_again(path: str) -> None:
    room = Room(most=1)
    if path == "/broken":
        with pytest.raises(httpcore.ReadError):
            room.send(path=path)
    else:
        room.send(path=path).close()

    room.send().close()

    assert ["closed", "idle"] == [one.state for one in room.made]


def test_connection_that_its_server_closed_is_not_used_again() -> None:
    room = Room()
    room.send().close()
    room.made[0].expired = True

    room.send().close()

    assert ["closed", "idle"] == [one.state for one in room.made]


def test_nothing_is_sent_after_the_close_and_nothing_stays_open() -> None:
    room = Room()
    answer = room.send()
    room.send("b").close()
    room.lanes.close()

    with pytest.raises(httpcore.ConnectError):
        room.send()
    answer.close()

    assert (0, []) == (room.open(), room.lanes.connections)


@pytest.mark.control("connections are bounded")
@settings(max_examples=80, deadline=None)  # whoever finds no room waits
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["/", "/broken", "/unread", "back"])), max_size=30))
def test_no_order_of_requests_opens_more_connections_than_are_allowed_or_loses_room(
    plan: list[tuple[str, str]],
) -> None:
    room, answers = Room(most=3), list[Any]()
    for host, path in plan:
        if path == "back":
            if answers:
                answers.pop(0).close()
            continue
        try:
            answers.append(room.send(host, path))
        except (httpcore.ReadError, httpcore.PoolTimeout):
            pass
        assert room.open() <= 3
        assert room.open() == len(room.lanes.connections)
    for answer in answers:
        answer.close()

    last = [room.send("c") for _ in range(3)]
    assert 3 == room.open()
    for answer in last:
        answer.close()
    room.lanes.close()
    assert 0 == room.open()
