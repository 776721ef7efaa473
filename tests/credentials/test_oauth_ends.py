"""A token that may not be used and cannot be revoked: its records and its row name no end before its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agentguard import CredentialUnavailable
from agentguard._drive import drive
from agentguard.model.credential import Issued
from agentguard.model.lease import Grant, Lease
from agentguard.state.sqlite import SqliteLedger
from tests.credentials.oauth_server import ABSENT, FakeServer, answered, exchange_at, grant
from tests.credentials.rooms import Room, Stateless
from tests.credentials.rooms import grant as room_grant

YEAR = 365 * 86400


def at(server: FakeServer, **rules: Any) -> Room:
    room = Room(exchange_at(server, **rules))
    server.clock = room.clock
    room.issuer._server.clock = room.clock
    return room


def left(room: Room) -> tuple[list[Lease], dict[str, Any]]:
    """The rows that may be alive after a refused request, and what was recorded of its lease."""
    with pytest.raises(CredentialUnavailable):
        drive(room.leases.obtain(grant()))
    (fields,) = [dict(fields) for event, fields in room.records if event == "credential.expires"]
    return list(drive(room.ledger.outstanding(room.clock()))), fields


@pytest.mark.parametrize("opaque", [True, False])
def test_token_that_lives_too_long_and_cannot_be_revoked_is_recorded_until_it_ends(opaque: bool) -> None:
    server = FakeServer()
    room = at(server)
    now = room.clock()
    server.opaque, server.metadata = opaque, {"revocation_endpoint": ABSENT}
    server.answer, server.claims = {"expires_in": YEAR if opaque else ABSENT}, {"exp": int(now) + YEAR}
    rows, recorded = left(room)
    assert recorded["expires_by"] >= now + YEAR
    assert [row.expires_by >= now + YEAR for row in rows] == [True]


@pytest.mark.parametrize("said", [str(YEAR), float(YEAR), YEAR - 0.5])
def test_end_that_is_said_in_a_form_that_is_refused_is_recorded_all_the_same(said: Any) -> None:
    server = FakeServer()
    room = at(server)
    server.opaque, server.metadata, server.answer = True, {"revocation_endpoint": ABSENT}, {"expires_in": said}
    rows, recorded = left(room)
    assert recorded["expires_by"] >= room.clock() + YEAR
    assert [row.expires_by >= room.clock() + YEAR for row in rows] == [True]


@pytest.mark.parametrize("said", ["soon", "", "1e9", "-5", -5, 0, True, [60], "9" * 400])
def test_lifetime_that_says_nothing_leaves_the_end_that_was_prepared(said: Any) -> None:
    server = FakeServer()
    room = at(server)
    server.opaque, server.metadata, server.answer = True, {"revocation_endpoint": ABSENT}, {"expires_in": said}
    _, recorded = left(room)
    assert recorded["expires_by"] < room.clock() + 300


def test_token_that_no_header_can_carry_is_revoked() -> None:
    server = FakeServer()
    room = at(server)
    odd = "17|Zm9v:YmFy"
    server.alive[odd], server.answer = {}, {"access_token": odd}
    with pytest.raises(CredentialUnavailable, match="cannot be sent"):
        drive(room.leases.obtain(grant()))
    assert odd not in server.alive
    assert "credential.revoked" in room.events()


def test_end_that_only_introspection_names_is_recorded() -> None:
    server = FakeServer()
    room = at(server, introspect=True)
    server.opaque, server.metadata = True, {"revocation_endpoint": ABSENT}
    server.introspection = {"exp": int(room.clock()) + YEAR}
    _, recorded = left(room)
    assert recorded["expires_by"] >= room.clock() + YEAR


def test_token_whose_server_is_away_is_asked_for_as_long_as_it_lives() -> None:
    server = FakeServer()
    room = at(server)
    server.answer = {"expires_in": 3600}
    server.script = [None, answered(503), answered(503)]
    with pytest.raises(CredentialUnavailable):
        drive(room.leases.obtain(grant()))
    room.clock.advance(600)
    assert (len(server.alive), room.outstanding()) == (1, 1)
    drive(room.leases.retry_failed())
    assert (server.alive, room.outstanding()) == ({}, 0)
    assert "credential.expired" not in room.events()


def test_token_that_was_revoked_is_recorded_as_that_however_long_it_would_have_lived() -> None:
    server = FakeServer()
    room = at(server)
    server.answer = {"expires_in": YEAR}
    with pytest.raises(CredentialUnavailable):
        drive(room.leases.obtain(grant()))
    assert (server.alive, room.outstanding(), "credential.revoked" in room.events()) == ({}, 0, True)


@pytest.mark.parametrize("exp", [10**30, 1e300, True, "soon", -5, ABSENT])
def test_end_that_is_no_time_says_nothing_or_that_it_lasts(exp: Any) -> None:
    server = FakeServer()
    room = at(server)
    server.metadata, server.claims, server.answer = (
        {"revocation_endpoint": ABSENT},
        {"exp": exp},
        {"expires_in": ABSENT},
    )
    rows, recorded = left(room)
    assert [int(row.expires_by) for row in rows] == [recorded["expires_by"]]


class Careless(Stateless):
    """Makes what lives longer than it said, and cannot revoke it."""

    def prepare(self, grant: Grant, now: float) -> Lease:
        return replace(super().prepare(grant, now), expires_at=now + grant.max_ttl)

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        issued = await super().issue(grant, lease, now)
        return replace(issued, lease=replace(issued.lease, expires_at=now + YEAR))


def test_token_that_a_policy_refuses_as_too_long_stands_in_the_ledger_until_it_ends(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "state.db", b"a key of the tests, 32 bytes long")
    room = Room(Careless(), ledger)
    with pytest.raises(CredentialUnavailable, match="a policy lets"):
        drive(room.leases.obtain(room_grant(max_ttl=60)))
    (row,) = drive(ledger.outstanding(room.clock()))
    ledger.close()
    (recorded,) = [fields for event, fields in room.records if event == "credential.expires"]
    assert recorded["expires_by"] == row.expires_by >= room.clock() + YEAR
