"""What hangs under a task's token at the vault: database roles made for it, and static secrets lent to it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from agentguard import ConfigurationError, CredentialUnavailable
from agentguard._drive import drive
from agentguard._http import Http
from agentguard.credentials.openbao import Database, StaticSecret
from agentguard.model.credential import Credential
from agentguard.model.lease import Ending, Placement
from agentguard.model.record import Event
from tests.credentials.fake_vault import FakeVault, in_reach
from tests.credentials.test_openbao import CREDS, DB, LEGACY, Room, http, nothing_left, room, vault

__all__ = ["http", "room", "vault"]  # fixtures
SECRET = "s3cr3t-of-the-legacy-api"
KV = "secret/data/legacy/api"
honest = pytest.mark.control("10 a static secret is never called revoked")


def kept(fields: Any, version: object = 3) -> dict[str, Any]:
    return {"data": fields, "metadata": {"version": version, "destroyed": False}}


# database roles -------------------------------------------------------------------------------------------


def test_the_scopes_of_a_tool_choose_the_role(room: Room):
    room.obtain(scopes=("write",))

    assert (1, 0) == (room.vault.count("database/creds/writer"), room.vault.count(CREDS))


@nothing_left
@pytest.mark.parametrize(
    ("creds", "data", "why"),
    [
        ({"lease_duration": 31}, {}, "set default_ttl=30s"),
        ({"lease_duration": 0}, {}, "unknown time"),
        ({}, {"username": ""}, "user name"),
        ({}, {"username": "a\nb"}, "user name"),
        ({}, {"password": None}, "password"),
        ({}, {"password": "a\0b"}, "password"),
    ],
)
def test_case_24_a_login_that_is_not_what_it_has_to_be_is_refused_and_revoked(
    room: Room, creds: dict[str, Any], data: dict[str, Any], why: str
):
    room.vault.creds, room.vault.data = creds, data

    with pytest.raises(CredentialUnavailable, match=why):
        room.obtain()

    assert ({}, 1) == (room.vault.leases, room.outstanding())
    room.end()
    assert 0 == room.outstanding()


@pytest.mark.parametrize(
    "creds",
    [{"lease_id": ""}, {"lease_id": "database/creds/writer/x"}, {"data": []}, {"wrap_info": {"token": "s.wrap"}}],
)
def test_case_25_an_answer_that_names_no_lease_of_the_role_is_refused(room: Room, creds: dict[str, Any]):
    room.vault.creds = creds

    with pytest.raises(CredentialUnavailable, match="not what its API describes"):
        room.obtain()
    room.end()

    assert ({}, 0) == (room.vault.leases, room.outstanding())


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (
            403,
            r'policy does not allow reading database/creds/reader \(403\): add path "database/creds/reader" with read',
        ),
        (400, "refused reading database/creds/reader as invalid"),
        (404, "check the mount"),
        (500, "failed at reading"),
        (503, "sealed"),
    ],
)
def test_a_role_that_is_refused_says_why_in_our_own_words(room: Room, status: int, why: str):
    room.vault.faults = {CREDS: [status]}

    with pytest.raises(CredentialUnavailable, match=why) as caught:
        room.obtain()

    assert "/very/private" not in str(caught.value)


def test_a_task_whose_token_an_operator_revoked_is_told_so(room: Room):
    room.obtain()
    room.vault.tokens.clear()

    with pytest.raises(CredentialUnavailable, match="knows the task's token no more"):
        room.obtain(tool="other")
    room.end()

    assert 0 == room.outstanding()


@nothing_left
def test_a_role_for_one_call_is_revoked_alone_when_the_call_ends(room: Room):
    use = room.obtain(single_use=True)

    assert "revoked" == drive(room.leases.release(use))
    assert ({}, 1, 1) == (room.vault.leases, len(room.vault.tokens), room.outstanding())
    room.end()


@nothing_left
@pytest.mark.parametrize("status", [400, 500, 503])
def test_case_30_a_role_that_the_vault_cannot_drop_now_is_owed_and_asked_for_again(room: Room, status: int):
    use = room.obtain(single_use=True)
    room.vault.faults = {"sys/leases/revoke": [status] * 3}

    assert "failed" == drive(room.leases.release(use))
    assert (1, 2) == (len(room.vault.leases), room.outstanding())
    room.vault.faults = {}
    room.clock.advance(1)
    drive(room.leases.retry_failed())

    assert ({}, 1) == (room.vault.leases, room.outstanding())
    room.end()


@nothing_left
def test_a_role_that_the_policy_does_not_let_go_alone_ends_with_the_task(room: Room):
    room.vault.forbidden = {"sys/leases/revoke"}
    use = room.obtain(single_use=True)

    assert "expires" == drive(room.leases.release(use))
    assert (1, 2) == (len(room.vault.leases), room.outstanding())
    room.end()

    assert ({}, 0) == (room.vault.leases, room.outstanding())


@nothing_left
def test_case_53_a_later_process_revokes_a_role_from_lease_and_handle_alone(room: Room, http: Http):
    issued = room.obtain().held.issued
    later = Room(room.vault, http).issuer

    assert Ending.REVOKED is drive(later.revoke(issued.lease, issued.handle))
    assert Ending.REVOKED is drive(later.revoke(issued.lease, issued.handle))  # once more changes nothing
    assert {} == room.vault.leases
    room.vault.tokens.clear()
    assert Ending.REVOKED is drive(later.revoke(issued.lease, issued.handle))  # its token is gone, and it with it


# static secrets -------------------------------------------------------------------------------------------


@honest
def test_a_static_secret_is_lent_for_the_task_and_recorded_as_static(room: Room):
    room.vault.kv = {KV: kept({"key": SECRET, "other": "x"})}

    credential = room.obtain(LEGACY, deadline=room.clock() + 12).credential

    assert (SECRET, "X-Api-Key", Placement.HEADER) == (
        credential.token,
        credential.lease.name,
        credential.lease.placement,
    )
    record = room.events(Event.CREDENTIAL_ISSUED)[-1]
    assert ("static", "v3", room.clock() + 12) == (record["type"], record["jti"], record["expires_by"])
    assert room.leases.secrets.found_in(f"the key is {SECRET}.")
    assert SECRET not in repr(credential) + repr(record)


@honest
def test_the_copy_of_a_static_secret_ends_and_the_secret_is_never_called_revoked(room: Room):
    room.vault.kv = {KV: kept({"key": SECRET})}
    use = room.obtain(LEGACY)

    assert Ending.EXPIRES is drive(room.issuer.revoke(use.held.issued.lease, use.held.issued.handle))
    assert ("", room.clock() + 30) == (use.held.issued.lease.parent, use.held.issued.lease.expires_by)
    drive(room.leases.release(use))
    with pytest.raises(CredentialUnavailable):
        use.credential.token  # noqa: B018  # reading it is what is refused


@honest
def test_the_end_of_a_task_is_not_recorded_as_the_end_of_a_static_secret(room: Room):
    room.vault.kv = {KV: kept({"key": SECRET})}
    lease = room.obtain(LEGACY).credential.lease

    room.end()

    revoked = {fields["lease"] for fields in room.events(Event.CREDENTIAL_REVOKED)}
    (expires,) = room.events(Event.CREDENTIAL_EXPIRES)
    assert (lease.id, 1) == (expires["lease"], room.outstanding())
    assert lease.id not in revoked
    assert 1 == len(revoked)  # the task's token


def test_a_read_that_changes_nothing_is_tried_again(room: Room):
    room.vault.kv, room.vault.faults = {KV: kept({"key": SECRET})}, {KV: [503, "drop"]}

    assert SECRET == room.obtain(LEGACY).credential.token


@pytest.mark.parametrize(
    ("target", "path", "data", "expected"),
    [
        ({"placement": Placement.BEARER}, KV, kept({"key": SECRET}), ("", SECRET, "v3")),
        ({"placement": Placement.QUERY, "name": "key"}, KV, kept({"key": "pass wörd"}), ("key", "pass wörd", "v3")),
        ({"placement": Placement.BASIC, "user": "svc"}, KV, kept({"key": SECRET}), ("svc", SECRET, "v3")),
        (
            {"placement": Placement.LOGIN, "user_field": "u"},
            KV,
            kept({"key": SECRET, "u": "bob"}),
            ("bob", SECRET, "v3"),
        ),
        ({"version": 1}, "secret/legacy/api", {"key": SECRET}, ("", SECRET, "")),
    ],
)
def test_a_secret_is_put_where_the_target_wants_it(
    vault: FakeVault, http: Http, target: dict[str, Any], path: str, data: Any, expected: tuple[str, str, str]
):
    room = Room(vault, http, targets=[StaticSecret(audience=LEGACY, path="legacy/api", field="key", **target)])
    vault.kv = {path: data}

    issued = room.obtain(LEGACY).held.issued

    assert expected == (issued.lease.name, issued.secret.reveal(), issued.lease.jti)
    if target.get("placement") in (Placement.BASIC, Placement.LOGIN):
        assert expected[:2] == (Credential(issued).username, Credential(issued).password)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "no text"),
        ({"key": 12345678}, "no text"),
        ({"key": "sh0rt!"}, "no text of 8"),
        ({"key": "x" * 8193}, "no text"),
        ({"key": "two\r\nlines: x"}, "no text"),
        ({"key": "pass wörd"}, "cannot be sent in a header"),
        ({"key": " padded-text"}, "cannot be sent in a header"),
        (None, "not what its API describes"),
        ("text", "not what its API describes"),
    ],
)
def test_case_25_a_secret_that_cannot_be_used_is_refused_and_kept_in_no_error(room: Room, fields: Any, why: str):
    room.vault.kv = {KV: kept(fields)}

    with pytest.raises(CredentialUnavailable, match=why) as caught:
        room.obtain(LEGACY)

    values = [str(value) for value in fields.values()] if isinstance(fields, dict) else []
    assert not [value for value in values if in_reach(caught.value, value)]


def test_a_secret_that_is_not_there_or_was_deleted_is_a_denial(room: Room):
    with pytest.raises(CredentialUnavailable, match=r"nothing at reading secret/data/legacy/api \(404\)"):
        room.obtain(LEGACY)


# configuration --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"placement": Placement.HEADER}, {"placement": Placement.HEADER, "name": "a b"}, {"name": "x"},
        {"placement": Placement.HEADER, "name": "Host"}, {"placement": Placement.DPOP}, {"placement": Placement.BASIC},
        {"placement": Placement.BASIC, "user": "a:b"}, {"placement": Placement.BASIC, "user": "a", "user_field": "b"},
        {"user": "a"}, {"version": 3}, {"version": True}, {"field": ""}, {"path": "../x"}, {"path": "/x"},
        {"path": "a/./b"}, {"path": "a?b"}, {"mount": ""}, {"audience": "legacy"}, {"scopes": ["a"]}, {"scopes": ("",)},
    ],
)  # fmt: skip
def test_a_static_secret_that_cannot_be_meant_is_refused(change: dict[str, Any]):
    with pytest.raises(ConfigurationError, match="openbao"):
        StaticSecret(**{"audience": LEGACY, "path": "legacy/api", "field": "key", **change})


@pytest.mark.parametrize("change", [{"role": ""}, {"role": "a/../b"}, {"mount": "a b"}, {"audience": "db"}])
def test_a_database_that_cannot_be_meant_is_refused(change: dict[str, str]):
    with pytest.raises(ConfigurationError, match="openbao"):
        Database(**{"audience": DB, "role": "reader", **change})  # type: ignore[arg-type]  # every value is a text


def test_a_lease_serves_the_grant_it_was_prepared_for_alone(room: Room):
    token, grant, now = room.token(), room.grant(), room.clock()
    lease = room.issuer.prepare(room.grant(scopes=("write",)), now)

    with pytest.raises(CredentialUnavailable, match="another grant"):
        drive(room.issuer.issue_under(token, grant, lease, now))
    with pytest.raises(CredentialUnavailable, match="issue_under"):
        drive(room.issuer.issue(grant, replace(lease, key=grant.key), now))
