"""What security events do: whom they stop, what they leave alone, and what is delivered again."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

import agentguard
from agentguard import Denied, Intent, guarded, step
from agentguard._drive import drive
from agentguard._http import Response
from agentguard._jwks import Jwks
from agentguard.errors import ConfigurationError, Unavailable
from agentguard.keys import KeySet, SigningKey
from agentguard.model.record import Event
from agentguard.signals import GuardStops, Receipt, SetRejected, Stops, all_of, by_email, by_iss_sub
from tests.signals.events import ALICE, CAEP, IDP, KEY, KEYS, NOW, REVOKED, SSF, Stopped, pushed, receiver

pytestmark = pytest.mark.anyio
CHANGE = f"{CAEP}credential-change"
STREAM = {"format": "opaque", "id": "stream-1"}


def change(kind: Any, **more: Any) -> dict[str, Any]:
    return {CHANGE: {"change_type": kind, "credential_type": "password", **more}}


@pytest.mark.control("10 a security event stops its subject")
async def test_a_revoked_session_stops_its_subject_and_says_which_event_it_was() -> None:
    stops = Stopped()

    assert Receipt.STOPPED == await receiver(stops).receive(pushed())
    assert ["user:alice"] == stops.subjects
    assert [f"security event session-revoked from {IDP}, jti set-1"] == stops.why


@pytest.mark.parametrize("kind", ["revoke", "update", "delete"])
async def test_a_credential_that_changed_stops_its_subject(kind: str) -> None:
    stops = Stopped()

    assert Receipt.STOPPED == await receiver(stops).receive(pushed(events=change(kind)))
    assert ["user:alice"] == stops.subjects


async def test_a_credential_that_was_added_and_events_of_other_types_stop_nobody() -> None:
    stops = Stopped()
    mine = receiver(stops)

    assert Receipt.CREATED == await mine.receive(pushed(events=change("create")))
    assert Receipt.UNKNOWN == await mine.receive(pushed(jti="set-2", events={f"{CAEP}session-established": {}}))
    assert Receipt.UNKNOWN == await mine.receive(pushed(jti="set-3", events={REVOKED.upper(): {}}))
    assert not stops.subjects


@pytest.mark.parametrize("events", [change("steal"), change(["revoke"]), {CHANGE: {"change_type": "revoke"}}])
async def test_an_event_that_is_not_what_its_type_defines_is_refused(events: dict[str, Any]) -> None:
    with pytest.raises(SetRejected, match="invalid_request"):
        await receiver().receive(pushed(events=events))


# twice, late, in any order -------------------------------------------------------------------------------------------


async def test_the_same_set_twice_stops_once_and_another_with_its_jti_is_of_another_issuer() -> None:
    stops = Stopped()
    mine = receiver(stops)

    receipts = [await mine.receive(pushed()) for _ in range(3)]

    assert [Receipt.STOPPED, Receipt.DUPLICATE, Receipt.DUPLICATE] == receipts
    assert ["user:alice"] == stops.subjects


async def test_what_was_seen_is_bounded_and_what_was_forgotten_stops_again() -> None:
    stops = Stopped()
    mine = receiver(stops, most_seen=2)

    for jti in ("1", "2", "3", "1", "3"):
        await mine.receive(pushed(jti=jti))

    assert 4 == len(stops.subjects)
    assert 2 == len(mine._seen)


async def test_order_does_not_matter_and_an_old_event_stops_too() -> None:
    stops = Stopped()
    mine = receiver(stops)

    for jti, happened in (("1", NOW), ("2", NOW - 80_000), ("3", NOW - 400 * 86_400)):
        assert Receipt.STOPPED == await mine.receive(
            pushed(jti=jti, iat=NOW - 10, events={REVOKED: {"event_timestamp": happened}})
        )
    assert 3 == len(stops.subjects)


async def test_an_event_from_before_the_subject_proved_itself_anew_changes_nothing() -> None:
    stops = Stopped()
    mine = receiver(stops, renewed_at=lambda subject: NOW - 100)

    late = await mine.receive(pushed(events={REVOKED: {"event_timestamp": NOW - 131}}))
    near = await mine.receive(pushed(jti="2", events={REVOKED: {"event_timestamp": NOW - 129}}))

    assert [Receipt.OUTDATED, Receipt.STOPPED] == [late, near]


@pytest.mark.control("10 a security event counts only once it was acted on")
async def test_an_event_that_was_not_acted_on_is_not_seen_and_the_others_are_stopped_all_the_same() -> None:
    failing, both = Stopped("user:alice"), lambda _: ["user:alice", "user:al"]
    mine = receiver(failing, subject_of=both)

    with pytest.raises(Unavailable, match="OSError") as caught:
        await mine.receive(pushed())
    assert ["user:al"] == failing.subjects
    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None

    failing.failing = ()
    assert Receipt.STOPPED == await mine.receive(pushed())


# whom it is about ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subject",
    [
        {"format": "iss_sub", "iss": "https://other.test", "sub": "alice"},
        {"format": "email", "email": "alice@bank.test"},
        {"format": "complex", "session": {"format": "opaque", "id": "s-1"}},
    ],
)
async def test_an_event_about_nobody_who_is_known_is_acknowledged_and_logged(
    subject: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    stops = Stopped()

    assert Receipt.NOBODY == await receiver(stops).receive(pushed(sub_id=subject))
    assert not stops.subjects
    assert "nobody who is known" in caplog.text
    assert "alice" not in caplog.text


@pytest.mark.parametrize("length", [251, 252, 255, 256])
async def test_a_user_whose_sub_is_as_long_as_a_verified_one_may_be_is_stopped(length: int) -> None:
    stops, sub = Stopped(), "x" * length

    await receiver(stops).receive(pushed(sub_id={"format": "iss_sub", "iss": IDP, "sub": sub}))
    assert [f"user:{sub}"] == stops.subjects


@pytest.mark.parametrize("sub", ["Ann Lee", "a>b", "x" * 257])
async def test_an_event_about_a_sub_that_nobody_can_be_verified_by_is_about_nobody(sub: str) -> None:
    stops = Stopped()

    assert Receipt.NOBODY == await receiver(stops).receive(pushed(sub_id={"format": "iss_sub", "iss": IDP, "sub": sub}))
    assert not stops.subjects


async def test_mappings_can_be_put_together_and_a_complex_subject_stops_its_user() -> None:
    stops = Stopped()
    known = {"Ann@bank.test": ["user:ann", "user:ann.admin"]}
    mine = receiver(stops, subject_of=all_of(by_iss_sub(IDP), by_email(known.get)))

    await mine.receive(pushed(jti="1", sub_id={"format": "complex", "user": ALICE, "tenant": STREAM}))
    await mine.receive(pushed(jti="2", sub_id={"format": "email", "email": "Ann@bank.test"}))

    assert ["user:alice", "user:ann", "user:ann.admin"] == stops.subjects


@pytest.mark.parametrize("answer", ["alice", "", 7, ["user:a b"], {"user:a": 1}, b"user:a", [None], ["user:a"] * 101])
async def test_a_mapping_that_answers_something_else_has_the_event_delivered_again(answer: Any) -> None:
    stops = Stopped()

    with pytest.raises(Unavailable, match="subject_of"):
        await receiver(stops, subject_of=lambda _: answer).receive(pushed())
    assert not stops.subjects


async def test_a_mapping_or_a_proof_that_fails_has_the_event_delivered_again() -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("canary of a person")

    for options in ({"subject_of": broken}, {"renewed_at": broken}, {"renewed_at": lambda _: "yesterday"}):
        with pytest.raises(Unavailable, match="could not be told") as caught:
            await receiver(**options).receive(pushed())
        assert "canary" not in str(caught.value)


async def test_what_a_receiver_is_made_of_is_checked() -> None:
    async def asked(_: Any) -> str | None:
        return None

    for options in ({"subject_of": asked}, {"renewed_at": asked}, {"most_seen": 0}, {"most_seen": True}):
        with pytest.raises(ConfigurationError):
            receiver(**options)
    with pytest.raises(ConfigurationError, match="issuer"):
        by_iss_sub("")


# the stream ----------------------------------------------------------------------------------------------------------


async def test_a_verification_is_acknowledged_and_its_state_is_one_that_was_asked_for() -> None:
    mine = receiver()
    mine.expect("state-1")

    for jti, payload in (("1", {}), ("2", {"state": "state-1"})):
        assert Receipt.STREAM == await mine.receive(
            pushed(jti=jti, sub_id=STREAM, events={f"{SSF}verification": payload})
        )
    for state in ("state-2", 1, ["state-1"]):
        with pytest.raises(SetRejected, match="invalid_state"):
            await mine.receive(pushed(jti="3", sub_id=STREAM, events={f"{SSF}verification": {"state": state}}))


async def test_a_stream_that_is_paused_is_acknowledged_and_an_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mine = receiver()

    await mine.receive(pushed(sub_id=STREAM, events={f"{SSF}stream-updated": {"status": "paused", "reason": "why"}}))

    assert "paused" == mine.stream_status
    assert [logging.ERROR] == [record.levelno for record in caplog.records if "are missed" in record.message]
    with pytest.raises(SetRejected, match="status"):
        await mine.receive(pushed(jti="2", sub_id=STREAM, events={f"{SSF}stream-updated": {"status": "odd"}}))


# keys, logs, the guard -----------------------------------------------------------------------------------------------


class Cache:
    """A cache of remote keys: stale at first."""

    def __init__(self, *sets: KeySet) -> None:
        self.sets = list(sets)

    async def keys_for(self, token: str) -> KeySet:
        return self.sets[0]

    async def keys_after(self, keys: KeySet) -> KeySet | None:
        return self.sets[1] if len(self.sets) > 1 else None


async def test_keys_may_be_remote_and_are_asked_for_anew_where_a_kid_got_another_key() -> None:
    stale = KeySet.from_jwks({"keys": [{**SigningKey.generate().public_jwk(), "kid": KEY.kid}]})

    assert Receipt.STOPPED == await receiver(keys=Cache(stale, KEYS)).receive(pushed())
    with pytest.raises(SetRejected, match="invalid_key"):
        await receiver(keys=Cache(stale)).receive(pushed())


class Published:
    """Stands in for `Http` before a transmitter's JWK set."""

    networks = ()

    def __init__(self) -> None:
        self.keys, self.status = KEYS, 200

    async def send(self, make: Any, *, retry: bool = True) -> Response:
        body = json.dumps(self.keys.jwks()).encode()
        return Response(self.status, {"content-type": "application/json"}, body)


async def test_an_event_whose_key_cannot_be_looked_for_is_delivered_again_and_not_lost() -> None:
    stops, http, now, new = Stopped(), Published(), [0.0], SigningKey.generate()
    sends: Any = http
    mine = receiver(stops, keys=Jwks(sends, "https://idp.test/jwks", clock=lambda: now[0]))
    assert Receipt.STOPPED == await mine.receive(pushed(jti="1"))

    http.keys = KeySet.of(KEY, new)  # rotated, within the cool-down
    with pytest.raises(Unavailable, match="could not be fetched"):
        await mine.receive(pushed(jti="2", key=new))
    for later in (61.0, 301.0):  # its endpoint fails
        now[0], http.status = now[0] + later, 500
        with pytest.raises(Unavailable, match="could not be fetched"):
            await mine.receive(pushed(jti="2", key=new))
    now[0], http.status = now[0] + 61, 200
    assert Receipt.STOPPED == await mine.receive(pushed(jti="2", key=new))
    assert 2 == len(stops.subjects)

    now[0] += 61
    with pytest.raises(SetRejected, match="invalid_key"):  # it was looked for, and is nobody's
        await mine.receive(pushed(jti="3", key=SigningKey.generate()))


async def test_neither_reasons_nor_people_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    await receiver().receive(pushed(events={REVOKED: {"reason_user": {"en": "canary"}}}))
    await receiver().receive(pushed(events={"https://x.test/\x1b[2Jcanary of a type": {}}))

    assert "session-revoked" in caplog.text
    assert "of another type" in caplog.text
    assert "canary" not in caplog.text
    assert "alice" not in caplog.text


@guarded(effect="read")
def look(customer: str) -> str:
    return customer


@pytest.mark.control("10 a security event stops a running task")
async def test_a_security_event_stops_a_running_task_and_is_recorded() -> None:
    with agentguard.local() as guard:
        mine = receiver(GuardStops(guard))
        assert isinstance(GuardStops(guard), Stops)
        async with guard.task("bot", on_behalf_of="alice", intent=Intent("Look", step("look", customer="acme"))):
            look("acme")

            assert Receipt.STOPPED == await mine.receive(pushed())

            with pytest.raises(Denied) as caught:
                look("acme")
        recorded = [record for record in guard.audit.records if record["event"] == Event.SUSPENDED]  # type: ignore[attr-defined]  # the memory log's

    assert "suspended" == caught.value.reason
    assert [f"security event session-revoked from {IDP}, jti set-1"] == [record["why"] for record in recorded]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_synchronous_caller_drives_it_too(anyio_backend: str) -> None:
    stops = Stopped()

    assert Receipt.STOPPED == drive(receiver(stops).receive(pushed()))
    assert ["user:alice"] == stops.subjects
