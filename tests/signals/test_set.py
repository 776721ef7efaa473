"""Which security event tokens pass, and which do not."""

from __future__ import annotations

import json
import time
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.errors import ConfigurationError
from agentguard.keys import SigningKey
from agentguard.signals import SetProfile, SetRejected
from agentguard.signals.subjects import SubjectId, parse_subject
from agentguard.signals.token import Fault, SecurityEvent, examine_set
from tests.resource_server.forging import ABSENT, sign
from tests.signals.events import ALICE, CAEP, IDP, KEY, KEYS, ME, NOW, PROFILE, REVOKED, claims, pushed, receiver

strict = pytest.mark.control("10 one strict SET profile")


def examined(token: str, now: float = NOW, **options: Any) -> SecurityEvent | Fault:
    profile = SetProfile(**{"issuer": IDP, "audience": ME, **options}) if options else PROFILE
    return examine_set(token, profile, KEYS, now)


def refused(token: str, err: str = "invalid_request", **options: Any) -> str:
    found = examined(token, **options)
    assert isinstance(found, Fault), found
    assert err == found.err
    return found.description


def test_a_good_set_says_what_happened_to_whom() -> None:
    found = examined(pushed())

    assert isinstance(found, SecurityEvent)
    assert (IDP, "set-1", NOW, NOW - 5, REVOKED) == (
        found.issuer, found.jti, found.issued_at, found.happened_at, found.type,
    )  # fmt: skip
    assert found.subject == SubjectId("iss_sub", {"iss": IDP, "sub": "alice"})


def test_the_event_and_its_subject_show_nobody_in_a_repr() -> None:
    found = examined(pushed())

    assert "alice" not in repr(found)
    assert "canary" not in repr(found)


def test_an_event_without_a_timestamp_happened_when_it_was_issued() -> None:
    found = examined(pushed(events={REVOKED: {}}))

    assert isinstance(found, SecurityEvent)
    assert found.happened_at == NOW


_TYPES = ("JWT", "at+jwt", "dpop+jwt", "txntoken+jwt", "secevent+jwt", "statuslist+jwt", "oauth-id-jag+jwt", ABSENT, "")


@strict
@pytest.mark.parametrize("typ", _TYPES)
def test_case_12_only_a_secevent_passes_as_one(typ: Any) -> None:
    found = examined(pushed({"typ": typ}))

    assert isinstance(found, SecurityEvent) == (typ == "secevent+jwt")


@strict
def test_case_12_an_access_token_of_the_same_issuer_is_no_set() -> None:
    assert "typ" in refused(pushed({"typ": "at+jwt"}, exp=NOW + 30, sub="alice"))


@strict
@pytest.mark.parametrize(
    ("changes", "err", "why"),
    [
        ({"iss": "https://other.test"}, "invalid_issuer", "issuer"),
        ({"iss": [IDP]}, "invalid_issuer", "issuer"),
        ({"iss": ABSENT}, "invalid_issuer", "issuer"),
        ({"aud": "https://other.test"}, "invalid_audience", "audience"),
        ({"aud": [ME, "https://other.test"]}, "invalid_audience", "audience"),
        ({"aud": ABSENT}, "invalid_audience", "audience"),
        ({"aud": [ME, 1]}, "invalid_audience", "audience"),
        ({"exp": NOW + 60}, "invalid_request", "no claim exp"),
        ({"exp": None}, "invalid_request", "no claim exp"),
        ({"sub": "alice"}, "invalid_request", "no claim sub"),
        ({"jti": ABSENT}, "invalid_request", "jti"),
        ({"jti": ""}, "invalid_request", "jti"),
        ({"jti": "a\nb"}, "invalid_request", "jti"),
        ({"jti": "a" * 257}, "invalid_request", "jti"),
        ({"iat": ABSENT}, "invalid_request", "iat"),
        ({"iat": True}, "invalid_request", "iat"),
        ({"iat": str(NOW)}, "invalid_request", "iat"),
        ({"iat": NOW + 31}, "invalid_request", "not valid yet"),
        ({"nbf": NOW + 31}, "invalid_request", "not valid yet"),
        ({"iat": NOW - 86_400}, "invalid_request", "too long ago"),
        ({"sub_id": ABSENT}, "invalid_request", "malformed"),
        ({"sub_id": "alice"}, "invalid_request", "sub_id"),
        ({"sub_id": {"format": "aliases", "identifiers": [ALICE]}}, "invalid_request", "sub_id"),
        ({"events": ABSENT}, "invalid_request", "exactly one"),
        ({"events": {}}, "invalid_request", "exactly one"),
        ({"events": [REVOKED]}, "invalid_request", "exactly one"),
        ({"events": {REVOKED: {}, f"{CAEP}credential-change": {}}}, "invalid_request", "exactly one"),
        ({"events": {REVOKED: None}}, "invalid_request", "no object"),
        ({"events": {REVOKED: {"event_timestamp": NOW * 1000}}}, "invalid_request", "in seconds"),
        ({"events": {REVOKED: {"event_timestamp": "now"}}}, "invalid_request", "in seconds"),
        ({"events": {REVOKED: {"event_timestamp": True}}}, "invalid_request", "in seconds"),
    ],
)
def test_what_a_set_must_be(changes: dict[str, Any], err: str, why: str) -> None:
    assert why in refused(pushed(**changes), err)


@strict
def test_the_signature_is_of_the_transmitters_key_and_by_its_algorithm() -> None:
    other = SigningKey.generate()
    good = pushed()

    assert "no known key" in refused(pushed(key=other), "invalid_key")
    assert "does not verify" in refused(pushed({"kid": KEY.kid}, key=other), "invalid_key")
    assert "algorithm" in refused(pushed({"alg": "none"}), "invalid_key")
    assert "algorithm" in refused(pushed({"alg": "HS256"}), "invalid_key")
    assert "critical" in refused(pushed({"crit": ["x"]}))
    assert "base64url" in refused(good.rpartition(".")[0] + ".")
    assert "base64url" in refused(good + "=")


@strict
def test_what_parsers_read_differently_is_refused() -> None:
    header = {"alg": "ES256", "typ": "secevent+jwt", "kid": KEY.kid}
    text = json.dumps(claims())

    assert "strict JSON" in refused(sign(text.replace('"jti"', '"jti": "set-0", "jti"').encode(), header, KEY))
    assert "strict JSON" in refused(sign(text.encode("utf-16"), header, KEY))
    assert "strict JSON" in refused(sign(b'{"a":' * 50 + b"1" + b"}" * 50, header, KEY))
    assert "at most" in refused("a" * 20_000)


def test_the_profile_can_admit_more_audiences_and_older_sets() -> None:
    assert isinstance(examined(pushed(aud=[ME, "https://other.test"]), extra_audiences=True), SecurityEvent)
    assert isinstance(examined(pushed(iat=NOW - 86_400), max_age=100_000), SecurityEvent)
    assert isinstance(examined(pushed(aud=[ME])), SecurityEvent)


@pytest.mark.parametrize(
    "wrong", [{"issuer": ""}, {"audience": ""}, {"leeway": 61}, {"leeway": 1.5}, {"max_age": 59}, {"max_age": 10**8}]
)
def test_a_profile_has_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SetProfile(**{"issuer": IDP, "audience": ME, **wrong})


@pytest.mark.anyio
@pytest.mark.parametrize("changes", [{"jti": ABSENT}, {"events": {f"{CAEP}credential-change": {}}}])
async def test_a_rejection_holds_nothing_of_the_token(changes: dict[str, Any]) -> None:
    token = pushed(**changes)
    with pytest.raises(SetRejected) as caught:
        await receiver().receive(token)

    error: BaseException = caught.value
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if "signals" in frame.f_code.co_filename]
    held = [frame.f_locals for frame in frames if "/tests/" not in frame.f_code.co_filename]
    assert held
    assert token not in repr(held)
    assert "canary" not in f"{held}{error}"
    assert error.__context__ is None
    assert error.__cause__ is None


# subjects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subject",
    [
        ALICE,
        {"format": "email", "email": "alice@bank.test"},
        {"format": "opaque", "id": "11112222"},
        {"format": "complex", "user": ALICE, "session": {"format": "opaque", "id": "s-1"}, "note": "passed over"},
        {"format": "account", "uri": "acct:alice@bank.test", "more": 1},
    ],
)
def test_subjects_of_known_formats_are_read(subject: dict[str, Any]) -> None:
    found = parse_subject(subject)

    assert found is not None
    assert found.format == subject["format"]


@pytest.mark.parametrize(
    "subject",
    [
        {},
        {"format": 1},
        {"format": "iss_sub", "iss": IDP},
        {"format": "iss_sub", "iss": IDP, "sub": ""},
        {"format": "iss_sub", "iss": IDP, "sub": ["alice"]},
        {"format": "email", "email": "a\nb"},
        {"format": "opaque", "id": "a" * 1025},
        {"format": "complex"},
        {"format": "complex", "user": {"format": "complex", "user": ALICE}},
        {"format": "complex", "user": ALICE, "device": {"format": "unknown"}},
        {"format": "ISS_SUB", "iss": IDP, "sub": "alice"},
    ],
)
def test_what_is_no_subject_is_refused_whole(subject: dict[str, Any]) -> None:
    assert parse_subject(subject) is None


# fuzz ------------------------------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)
_NAMES = st.sampled_from(["iss", "aud", "jti", "iat", "nbf", "exp", "sub", "sub_id", "events", "txn"])
_WITH_FORMAT = st.fixed_dictionaries(
    {"format": st.sampled_from(["iss_sub", "email", "opaque", "complex", "aliases"])},
    optional=dict.fromkeys(("iss", "sub", "email", "id", "user", "session", "identifiers"), _JSON),
)


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("latin-1")) | _JSON)
def test_case_71_whatever_is_pushed_is_told_and_nothing_is_raised(token: Any) -> None:
    assert isinstance(examine_set(token, PROFILE, KEYS, NOW), Fault)


@given(st.dictionaries(_NAMES, _JSON | _WITH_FORMAT, max_size=5), st.booleans())
def test_case_71_whatever_is_signed_is_an_event_or_told_and_takes_no_time(changes: dict[str, Any], alone: bool) -> None:
    header = {"alg": "ES256", "typ": "secevent+jwt", "kid": KEY.kid}
    began = time.thread_time()

    found = examined(sign(changes if alone else {**claims(), **changes}, header, KEY))

    assert time.thread_time() - began < 1
    assert isinstance(found, Fault) or (found.issuer == IDP and found.subject.format)


@given(_WITH_FORMAT | _JSON)
def test_case_71_whatever_a_subject_is_it_is_read_or_refused(value: Any) -> None:
    found = parse_subject(value)

    assert found is None or found.members or found.parts
