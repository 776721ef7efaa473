"""Each audience has one broker, also after a restart; a broker that is gone fails loudly."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
from msgspec.structs import replace

from agentguard import ConfigurationError, CredentialUnavailable, Intent, guard_tool, step
from agentguard._drive import drive
from agentguard.credentials.local import LocalIssuer
from agentguard.credentials.routes import Route, Routes
from agentguard.keys import SigningKey
from agentguard.model.lease import Grant, Lease
from agentguard.testing import FakeIssuer, fake_guard
from tests.credentials.rooms import Room, Vault, grant

DB, API, OTHER = "postgresql://db.test/app", "https://api.test/v1", "https://other.test"


def for_(audience: str) -> Grant:
    made = grant(tool=audience)
    return replace(made, key=replace(made.key, audience=audience))


def test_audience_decides_which_broker_issues_and_revokes() -> None:
    api, vault, rest = FakeIssuer(), Vault(), FakeIssuer()
    routes = Routes([Route("api", api, ("https://api.test",)), Route("vault", vault, (DB,)), Route("rest", rest)])
    vault._numbers, rest._numbers = itertools.count(100), itertools.count(200)
    room = Room(routes)
    for audience in (DB, API, OTHER):
        drive(room.leases.obtain(for_(audience)))
    assert (len(api.live), len(vault.live), len(rest.live)) == (1, 2, 1)
    assert {fields["issuer"] for _, fields in room.records} == {"api", "vault", "rest"}
    assert drive(room.leases.end_task("t")) == 4
    assert (api.live, vault.live, rest.live) == ({}, {}, {})
    assert len(vault.asked) == 1


def test_lease_of_another_process_finds_its_broker_by_name() -> None:
    first, second = FakeIssuer(), FakeIssuer()
    lease = Routes([Route("a", first), Route("b", second, (API,))]).prepare(for_(API), 1.0)
    second.live[lease.id] = lease
    drive(Routes([Route("b", second, (API,)), Route("a", first)]).revoke(lease))
    assert second.live == {}
    with pytest.raises(CredentialUnavailable, match="'b'"):
        drive(Routes([Route("a", first)]).revoke(lease))


def test_local_issuer_among_others_signs_revokes_and_vouches_for_its_own() -> None:
    local = LocalIssuer(SigningKey.generate(), "https://guard.test")
    routes = Routes([Route("local", local), Route("vault", Vault(), (DB,))])
    asked = for_(API)
    lease = routes.prepare(asked, 1_800_000_000.0)
    issued = drive(routes.issue(asked, lease, 1_800_000_000.0))
    assert issued.lease.issuer == "local"
    assert not routes.revoked("https://guard.test", lease.id)
    drive(routes.revoke(issued.lease))
    assert routes.revoked("https://guard.test", lease.id)
    assert len(routes.keys) == 1


def test_audience_that_no_broker_serves_is_denied_with_what_to_write() -> None:
    with pytest.raises(CredentialUnavailable, match="audiences"):
        drive(Room(Routes([Route("a", FakeIssuer(), (API,))])).leases.obtain(for_(OTHER)))


@pytest.mark.parametrize(
    "routes",
    [
        [],
        [Route("a", FakeIssuer()), Route("b", FakeIssuer())],
        [Route("a", FakeIssuer()), Route("a", FakeIssuer(), (API,))],
        [Route("a", FakeIssuer(), (API,)), Route("b", FakeIssuer(), (API,))],
    ],
)
def test_routes_that_contradict_each_other_are_refused(routes: list[Route]) -> None:
    with pytest.raises(ConfigurationError):
        Routes(routes)


class Asked(FakeIssuer):
    """Keeps what it was asked for."""

    def __init__(self, *, details: bool = False) -> None:
        super().__init__()
        self.details, self.grants = details, list[Grant]()

    def prepare(self, grant: Grant, now: float) -> Lease:
        self.grants.append(grant)
        return super().prepare(grant, now)


@pytest.mark.parametrize("lease", ["task", "call"])
def test_steps_are_asked_of_no_broker_that_does_not_ask_for_them(lease: Literal["task", "call"]) -> None:
    knows, plain = Asked(details=True), Asked()
    routes = Routes([Route("knows", knows, ("https://api.test",)), Route("plain", plain)])
    intent = Intent("x", step("pay", account="a"), step("pay", account="b"))
    with fake_guard(issuer=routes) as guard, guard.task("bot", on_behalf_of="alice", intent=intent):
        for audience in (API, OTHER):
            tool = guard_tool(lambda account: None, "pay", audience=audience, effect="read", lease=lease)
            for account in "ab":
                tool(account=account)
    first, second = [asked.authorization_details[0]["steps"] for asked in knows.grants]
    assert first != second
    said = [set(entry) for asked in plain.grants for entry in asked.authorization_details]
    once = {"type", "actions", "locations", "arguments", "arguments_hash"}
    assert (len(plain.grants), said) == ((2, [once] * 2) if lease == "call" else (1, []))
