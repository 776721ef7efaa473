"""OpenBao as a broker: one token a task, and nothing that lives on after it, whatever the vault answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from agentguard import ConfigurationError, CredentialUnavailable
from agentguard._drive import drive
from agentguard._http import Http
from agentguard.credentials.held import Use
from agentguard.credentials.leases import Leases
from agentguard.credentials.ledger import MemoryLedger
from agentguard.credentials.openbao import Database, JwtLogin, OpenBaoIssuer, StaticSecret
from agentguard.credentials.routes import Route, Routes
from agentguard.errors import IdentityUnavailable, Unavailable
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Grant, LeaseKey, Placement, Secret
from agentguard.model.principal import Agent, Chain, Subject
from agentguard.model.record import Event
from agentguard.ports import ParentIssuer
from agentguard.testing import FakeClock
from tests.credentials.fake_vault import FakeVault, Tokens, fake_vault, in_reach

one_token = pytest.mark.control("10 a task's token at the vault")
nothing_left = pytest.mark.control("10 nothing at the vault outlives its task")
DB = "postgresql://db.test/app"
LEGACY = "https://legacy.test"
LOGIN, CREDS = "auth/jwt/login", "database/creds/reader"
REVOKE_SELF, LOOKUP, RENEW = "auth/token/revoke-self", "auth/token/lookup-self", "auth/token/renew-self"
TARGETS = (
    Database(DB, "reader"),
    Database(DB, "writer", scopes=("write",)),
    StaticSecret(audience=LEGACY, path="legacy/api", field="key", placement=Placement.HEADER, name="X-Api-Key"),
)


class Room:
    """Leases whose issuer is a vault."""

    def __init__(self, vault: FakeVault, http: Http, **options: Any) -> None:
        self.vault, self.tokens, self.clock, self.ledger = vault, Tokens(), FakeClock(), MemoryLedger()
        self.login = JwtLogin(self.tokens, audience="https://vault.test", role="app")
        chosen: dict[str, Any] = {"targets": TARGETS, "ttl": 30} | options
        self.issuer = OpenBaoIssuer(http, vault.url, login=self.login, **chosen)
        self.records: list[tuple[Event, Mapping[str, Any]]] = []
        self.leases = Leases(self.issuer, self.ledger, lambda *record: self.records.append(record), self.clock)
        self.leases.open_task("t")

    def grant(self, audience: str = DB, tool: str = "read", scopes: tuple[str, ...] = (), **fields: Any) -> Grant:
        chain = Chain(Subject("alice"), (Agent("bot"),))
        key = LeaseKey("", chain.subject.sub, "t", chain.names(), tool, audience, scopes, "")
        fields = {"deadline": self.clock() + 600} | fields
        return Grant(key=key, chain=chain, task="t", intent_s256="s", **fields)

    def obtain(self, *parts: Any, **fields: Any) -> Use:
        return drive(self.leases.obtain(self.grant(*parts, **fields)))

    def end(self) -> None:
        drive(self.leases.end_task("t"))

    def outstanding(self) -> int:
        return drive(self.leases.outstanding())

    def events(self, event: Event) -> list[Mapping[str, Any]]:
        return [fields for kind, fields in self.records if kind is event]

    def token(self) -> Issued:
        """A task's token, asked for without leases."""
        grant = self.issuer.parent(self.grant())
        assert grant is not None
        return drive(self.issuer.issue(grant, self.issuer.prepare(grant, self.clock()), self.clock()))


@pytest.fixture
def http() -> Iterator[Http]:
    http = Http(timeout=2.0)
    yield http
    http.close()


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    with fake_vault() as vault:
        yield vault


@pytest.fixture
def room(vault: FakeVault, http: Http) -> Room:
    return Room(vault, http)


# one token a task -----------------------------------------------------------------------------------------


def test_the_issuer_is_a_parent_issuer_that_can_be_driven_and_waits(room: Room):
    assert isinstance(room.issuer, ParentIssuer)
    assert (False, True, True) == (room.issuer.suspends, room.issuer.waits, room.issuer.remote)


@one_token
def test_five_leases_of_a_task_hang_under_one_login_and_end_with_one_request(room: Room):
    logins = {room.obtain(tool=f"tool{number}").credential.username for number in range(5)}

    room.end()

    assert 5 == len(logins)
    assert (1, 5, 1) == tuple(room.vault.count(path) for path in (LOGIN, CREDS, REVOKE_SELF))
    assert 0 == room.vault.count("sys/leases/revoke")
    assert (set(), {}, 0) == (room.vault.tokens, room.vault.leases, room.outstanding())


def test_two_tasks_have_two_tokens(room: Room):
    room.leases.open_task("u")
    room.obtain()
    drive(room.leases.obtain(replace(room.grant(), task="u")))

    room.end()

    assert (2, 1, 1) == (room.vault.count(LOGIN), len(room.vault.tokens), len(room.vault.leases))
    drive(room.leases.end_task("u"))


@pytest.mark.anyio
async def test_it_works_under_an_event_loop(room: Room):
    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(room.leases.obtain, room.grant(tool=f"tool{number}"))
    await room.leases.end_task("t")

    assert (1, 1) == (room.vault.count(LOGIN), room.vault.count(REVOKE_SELF))
    assert (set(), {}) == (room.vault.tokens, room.vault.leases)


def test_the_login_proves_the_workload_for_the_vault_s_audience_and_says_who_asks(vault: FakeVault, http: Http):
    room = Room(vault, http, namespace="team/payments")

    room.obtain()

    assert ["https://vault.test"] == room.tokens.audiences
    assert {"team/payments"} == {headers["x-vault-namespace"] for headers in vault.headers}
    assert {"true"} == {headers["x-vault-request"] for headers in vault.headers}
    assert "x-vault-token" not in vault.headers[0]
    assert f"{vault.url}/team/payments" == room.issuer.name


def test_the_records_name_role_and_entity_of_the_token_and_name_and_lease_of_the_login(room: Room):
    credential = room.obtain().credential

    token, login = room.events(Event.CREDENTIAL_ISSUED)
    assert ("vault_token", "app", "76cdf46b-f41d") == (token["type"], token["name"], token["jti"])
    assert ("login", credential.username, [*room.vault.leases]) == (login["type"], login["name"], [login["jti"]])
    assert (Placement.LOGIN, 20) == (credential.lease.placement, credential.lease.expires_at - room.clock())
    assert room.leases.secrets.found_in(f"password={credential.password}")


@one_token
@pytest.mark.parametrize(
    ("auth", "why"),
    [
        ({"lease_duration": 31}, "allows 30 s"),
        ({"lease_duration": 0}, "unknown time"),
        ({"lease_duration": "30"}, "unknown time"),
        ({"lease_duration": True}, "unknown time"),
        ({"policies": ["root"]}, "policy root"),
        ({"identity_policies": ["root"]}, "policy root"),
        ({"token_policies": "root"}, "policy root"),
        ({"token_type": "batch"}, "neither revoked nor renewed"),
        ({"renewable": False}, "not renewable"),
        ({"num_uses": 3}, "number of uses"),
        ({"mfa_requirement": {"mfa_request_id": "x"}}, "second factor"),
        ({"metadata": {"role": "admin"}}, "another role"),
    ],
)
def test_case_24_a_token_that_is_more_than_was_configured_is_refused_and_revoked(
    room: Room, auth: dict[str, Any], why: str
):
    room.vault.auth = auth

    with pytest.raises(CredentialUnavailable, match=why):
        room.obtain()

    assert (set(), 0, 0) == (room.vault.tokens, room.vault.count(CREDS), room.outstanding())


@nothing_left
def test_a_refused_token_is_revoked_later_where_the_vault_fails_at_first(room: Room):
    room.vault.auth, room.vault.faults = {"lease_duration": 3600}, {REVOKE_SELF: [500, 500, 500]}

    with pytest.raises(CredentialUnavailable, match="set token_ttl=30s"):
        room.obtain()
    assert (1, 1) == (len(room.vault.tokens), room.outstanding())
    drive(room.leases.retry_failed())

    assert (set(), 0) == (room.vault.tokens, room.outstanding())


# answers that are lost, late or odd -----------------------------------------------------------------------


@nothing_left
def test_case_53_a_login_whose_answer_was_lost_is_not_repeated_and_is_outstanding_until_it_expires(room: Room):
    room.vault.faults = {LOGIN: ["drop"]}

    with pytest.raises(CredentialUnavailable, match="out of reach"):
        room.obtain()
    room.end()

    assert (1, 1) == (room.vault.count(LOGIN), room.outstanding())
    (left,) = room.events(Event.CREDENTIAL_EXPIRES)
    assert ("expires", room.clock() + 30 + 30) == (left["ends"], left["expires_by"])
    room.clock.advance(61)
    assert 0 == room.outstanding()


@nothing_left
def test_case_53_a_database_role_whose_answer_was_lost_ends_with_the_task(room: Room):
    room.vault.faults = {CREDS: ["drop"]}

    with pytest.raises(CredentialUnavailable, match="out of reach"):
        room.obtain()
    assert (1, 1, 2) == (room.vault.count(CREDS), len(room.vault.leases), room.outstanding())
    room.end()

    assert (set(), {}, 0) == (room.vault.tokens, room.vault.leases, room.outstanding())


@nothing_left
def test_case_30_a_revocation_whose_answer_was_lost_counts_as_done_once_the_vault_proves_it(room: Room):
    room.obtain()
    room.vault.faults = {REVOKE_SELF: ["drop"]}

    room.end()

    assert (set(), 0) == (room.vault.tokens, room.outstanding())
    assert 2 == len(room.events(Event.CREDENTIAL_REVOKED))


@nothing_left
@pytest.mark.parametrize(
    ("says", "bound", "ending"),
    [
        (["permission denied"], None, Ending.REVOKED),
        (["permission denied"], ["10.0.0.0/8"], Ending.EXPIRES),
        (["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"], ["10.0.0.0/8"], Ending.REVOKED),
        (["bad token"], None, Ending.REVOKED),
    ],
)
def test_case_60_a_token_that_is_gone_is_called_revoked_only_where_the_answer_proves_it(
    room: Room, says: list[str], bound: list[str] | None, ending: Ending
):
    room.vault.lookup, room.vault.dead_says = ({"bound_cidrs": bound} if bound else {}), says
    issued = room.token()
    room.vault.tokens.clear()

    assert ending is drive(room.issuer.revoke(issued.lease, issued.handle))


@nothing_left
@pytest.mark.parametrize("also", [set(), {LOOKUP}])
def test_a_token_that_may_not_revoke_itself_is_never_called_revoked(room: Room, also: set[str]):
    issued = room.token()
    room.vault.forbidden = {REVOKE_SELF} | also

    with pytest.raises(CredentialUnavailable, match='add path "auth/token/revoke-self" with update') as caught:
        drive(room.issuer.revoke(issued.lease, issued.handle))
    assert not in_reach(caught.value, issued.secret.reveal())

    room.vault.forbidden = set()
    assert Ending.REVOKED is drive(room.issuer.revoke(issued.lease, issued.handle))


@nothing_left
@pytest.mark.parametrize("status", [429, 472, 473, 500, 502, 503])
def test_case_30_a_vault_that_cannot_revoke_now_is_asked_again(room: Room, status: int):
    issued = room.token()
    room.vault.faults = {REVOKE_SELF: [status] * 3}

    with pytest.raises(Unavailable, match=f"{status}"):
        drive(room.issuer.revoke(issued.lease, issued.handle))

    room.vault.faults = {}
    assert Ending.REVOKED is drive(room.issuer.revoke(issued.lease, issued.handle))


@nothing_left
def test_case_53_a_later_process_revokes_from_lease_and_handle_alone(room: Room, http: Http):
    issued = room.token()
    assert issued.handle is not None

    other = OpenBaoIssuer(http, room.vault.url, login=room.login, targets=TARGETS, ttl=30)

    assert Ending.REVOKED is drive(other.revoke(issued.lease, Secret(issued.handle.reveal())))
    assert set() == room.vault.tokens


@pytest.mark.parametrize("parent", [True, False])
def test_a_token_is_shown_to_no_other_vault_that_took_the_place_of_its_own(room: Room, http: Http, parent: bool):
    """A later process finds the lease under its broker's name, and asks another vault by now."""
    with fake_vault() as vault:
        other = Room(vault, http)
        use = room.obtain()
        issued = use.held.parent.issued if parent and use.held.parent is not None else use.held.issued
        lease = replace(issued.lease, issuer="openbao")

        with pytest.raises(CredentialUnavailable, match="the token is of the vault"):
            drive(Routes([Route("openbao", other.issuer)]).revoke(lease, issued.handle))

        assert ([], 1) == (vault.requests, len(room.vault.tokens))
        assert Ending.REVOKED is drive(Routes([Route("openbao", room.issuer)]).revoke(lease, issued.handle))


def test_a_lease_of_another_vault_is_nothing_of_ours(room: Room):
    issued = room.token()

    with pytest.raises(CredentialUnavailable, match="not of"):
        drive(room.issuer.revoke(replace(issued.lease, issuer="https://other.test"), issued.handle))


@one_token
@pytest.mark.parametrize(
    ("status", "why"),
    [
        (400, "role app, and its bound issuer, audience"),
        (403, "policy does not allow the login"),
        (404, "check the mount"),
        (429, "limits requests"),
        (500, r"failed at the login at auth/jwt/login \(500\)"),
        (503, "sealed"),
    ],
)
def test_a_login_that_is_refused_says_why_in_our_own_words(room: Room, status: int, why: str):
    room.vault.faults = {LOGIN: [status]}

    with pytest.raises(CredentialUnavailable, match=why) as caught:
        room.obtain()

    assert "/very/private" not in str(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        b"[]", b"<html>", b'{"auth": null}', b'{"auth": {"client_token": 5}}', b'{"auth": {}, "auth": {}}',
        b'{"auth": {"client_token": "a b"}}', b'{"wrap_info": {"token": "s.wrapping-token"}, "auth": null}',
        b'{"data": "' + b"x" * 100_000 + b'"}',
    ],
)  # fmt: skip
def test_case_25_an_answer_that_is_no_login_is_refused(room: Room, raw: bytes):
    room.vault.raw = raw

    with pytest.raises(CredentialUnavailable, match="not what its API describes"):
        room.obtain()


def test_case_25_an_answer_that_is_too_large_is_refused(room: Room):
    room.vault.auth = {"display_name": "x" * 70_000}

    with pytest.raises(CredentialUnavailable, match="not what its API describes"):
        room.obtain()


def test_an_audience_or_scopes_without_a_target_are_denied_before_anybody_logs_in(room: Room):
    for parts in (("https://unknown.test",), (DB, "read", ("admin",)), (DB, "read", ("write", "admin"))):
        with pytest.raises(CredentialUnavailable, match="add a target"):
            room.obtain(*parts)

    assert [] == room.vault.requests


def test_nothing_is_asked_for_after_the_task_s_end_or_without_an_identity(room: Room):
    with pytest.raises(CredentialUnavailable, match="has passed"):
        room.obtain(deadline=room.clock())

    async def nobody(audience: str, now: float) -> Secret:
        raise IdentityUnavailable("the SPIFFE agent gave no JWT-SVID")

    room.tokens.token = nobody  # type: ignore[method-assign]  # a workload that lost its identity
    with pytest.raises(CredentialUnavailable, match="no JWT-SVID"):
        room.obtain()
    assert [] == room.vault.requests


@pytest.mark.control("6 no credential in an error")
@pytest.mark.parametrize("auth", [{"lease_duration": 3600}, {"client_token": "s.with space"}])
def test_case_66_no_error_keeps_a_token_or_a_proof_in_reach(room: Room, auth: dict[str, Any]):
    room.vault.auth = auth
    grant = room.issuer.parent(room.grant())
    assert grant is not None

    with pytest.raises(CredentialUnavailable) as caught:
        drive(room.issuer.issue(grant, room.issuer.prepare(grant, room.clock()), room.clock()))

    assert not [text for text in (*room.vault.tokens, "with space", room.tokens.text) if in_reach(caught.value, text)]
    assert not [token for token in room.vault.tokens if token in repr(room.issuer)]


@pytest.mark.control("6 no credential in an error")
def test_case_66_a_lost_answer_keeps_neither_token_nor_proof_in_reach(room: Room):
    issued, grant = room.token(), room.grant()
    room.vault.faults = {LOGIN: ["drop"], CREDS: ["drop"]}

    with pytest.raises(Unavailable) as login:
        room.token()
    with pytest.raises(Unavailable) as creds:
        drive(room.issuer.issue_under(issued, grant, room.issuer.prepare(grant, room.clock()), room.clock()))

    assert not in_reach(login.value, room.tokens.text)
    assert not in_reach(creds.value, issued.secret.reveal())


# renewal --------------------------------------------------------------------------------------------------


@one_token
def test_a_task_s_token_is_prolonged_while_its_leases_are_in_use(room: Room):
    room.obtain()

    for _ in range(6):
        room.clock.advance(18)
        drive(room.leases.tend())

    assert (6, 1) == (room.vault.count(RENEW), room.vault.count(LOGIN))
    assert {room.clock() + 30 + 30} == {lease.expires_by for lease in drive(room.ledger.outstanding(room.clock()))}
    room.end()
    assert (set(), {}) == (room.vault.tokens, room.vault.leases)


def test_a_token_is_never_prolonged_past_the_end_of_its_task_nor_made_shorter(room: Room):
    room.obtain(deadline=room.clock() + 40)
    room.clock.advance(18)
    drive(room.leases.tend())
    (renewed,) = room.events(Event.CREDENTIAL_RENEWED)
    room.clock.advance(17)
    drive(room.leases.tend())

    assert room.clock() - 35 + 40 + 30 == renewed["expires_by"]
    assert 1 == room.vault.count(RENEW)
    room.end()


@pytest.mark.parametrize(("lives", "left"), [(5, 1), (3600, 0)])
def test_a_token_at_its_maximum_is_not_prolonged_and_a_periodic_one_is_revoked(room: Room, lives: int, left: int):
    issued = room.token()
    room.vault.renews_to = lives

    assert drive(room.issuer.renew(issued, room.clock() + 60, room.clock() + 20)) is None
    assert left == len(room.vault.tokens)


def test_a_token_that_the_vault_does_not_renew_is_replaced_and_one_that_cannot_be_reached_raises(room: Room):
    issued = room.token()
    room.vault.faults = {RENEW: [403, 503, 503, 503]}

    assert drive(room.issuer.renew(issued, room.clock() + 60, room.clock() + 20)) is None
    with pytest.raises(Unavailable, match="sealed"):
        drive(room.issuer.renew(issued, room.clock() + 60, room.clock() + 20))


# operators ------------------------------------------------------------------------------------------------


def test_a_sweep_ends_every_lease_of_a_role_and_its_own_login(room: Room):
    room.obtain()
    sweeper = JwtLogin(room.tokens, audience="https://vault.test", role="sweeper")

    drive(room.issuer.sweep(DB, login=sweeper, now=room.clock()))

    assert ({}, 1) == (room.vault.leases, len(room.vault.tokens))
    room.vault.forbidden = {"sys/leases/revoke-prefix"}
    with pytest.raises(CredentialUnavailable, match="with sudo and update"):
        drive(room.issuer.sweep(DB, login=sweeper, now=room.clock()))
    with pytest.raises(CredentialUnavailable, match="no database"):
        drive(room.issuer.sweep(LEGACY, login=sweeper, now=room.clock()))
    assert 1 == len(room.vault.tokens)
    room.end()


# configuration --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 4}, {"ttl": 3601}, {"ttl": 30.0}, {"targets": ()}, {"targets": (TARGETS[0], TARGETS[0])},
        {"namespace": "a/../b"}, {"namespace": "a b"}, {"namespace": "/a"}, {"namespace": "a\r\nx: y"},
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_meant_is_refused(vault: FakeVault, http: Http, options: dict[str, Any]):
    with pytest.raises(ConfigurationError):
        Room(vault, http, **options)


@pytest.mark.parametrize("address", ["http://vault.test", "https://u:p@vault.test", "https://vault.test?x=1", "vault"])
def test_an_address_that_a_token_must_not_be_sent_to_is_refused(http: Http, address: str):
    with pytest.raises(ConfigurationError):
        OpenBaoIssuer(http, address, login=JwtLogin(Tokens(), "https://vault.test", "app"), targets=TARGETS)


@pytest.mark.parametrize("parts", [("", "app"), ("a\n", "app"), ("aud", ""), ("aud", "../x"), ("aud", "a b")])
def test_a_login_without_audience_or_role_is_refused(parts: tuple[str, str]):
    with pytest.raises(ConfigurationError, match="login"):
        JwtLogin(Tokens(), *parts)
