from __future__ import annotations

import gc
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agentguard
from agentguard._json import NotStrictJSON, strict_json
from agentguard._jwk import PublicKey
from agentguard._jwt import ACCESS_TOKEN, Profile, Rejection, examine, verify_jwt
from agentguard.errors import ConfigurationError, TokenRejected
from agentguard.identity.id_token import IdTokenVerifier
from agentguard.keys import KeySet
from agentguard.resource_server import TokenVerifier
from tests.resource_server.forging import AUDIENCE, ISSUER, KEY, NOW, claims, header, sign, token

KEYS = KeySet.of(KEY)
SOURCE = str(Path(agentguard.__file__).parent)
CANARY = "canary-7f3a9"


def profile(**changes: Any) -> Profile:
    good: dict[str, Any] = {"typ": ACCESS_TOKEN, "issuer": ISSUER, "audience": AUDIENCE, "required": frozenset({"sub"})}
    return Profile(**{**good, **changes})


def test_the_claims_of_a_good_token_are_returned() -> None:
    assert claims() == verify_jwt(token(), profile(), KEYS, NOW)


def test_examine_says_why_without_raising() -> None:
    assert Rejection("the token has expired") == examine(token(), profile(), KEYS, NOW + 60)


def test_extra_audiences_pass_only_where_they_are_configured() -> None:
    text = token(aud=["https://other.test", AUDIENCE])

    assert verify_jwt(text, profile(extra_audiences=True), KEYS, NOW)
    with pytest.raises(TokenRejected, match="more than one audience"):
        verify_jwt(text, profile(), KEYS, NOW)
    with pytest.raises(TokenRejected, match="another audience"):
        verify_jwt(token(aud=["a", "b"]), profile(extra_audiences=True), KEYS, NOW)


def test_a_token_without_typ_passes_only_where_the_profile_says_so() -> None:
    untyped = sign(claims(), {"alg": "ES256", "kid": KEY.kid})

    assert verify_jwt(untyped, profile(typ=frozenset({""})), KEYS, NOW)
    with pytest.raises(TokenRejected, match="typ"):
        verify_jwt(sign(claims(), header(typ="")), profile(typ=frozenset({""})), KEYS, NOW)


def test_only_ascii_letters_fold_in_a_typ() -> None:
    tokens = profile(typ=frozenset({"txntoken+jwt"}))

    assert verify_jwt(sign(claims(), header(typ="TxnToken+JWT")), tokens, KEYS, NOW)
    with pytest.raises(TokenRejected, match="typ"):
        verify_jwt(sign(claims(), header(typ="txnto\u212aen+jwt")), tokens, KEYS, NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": ""},
        {"audience": ""},
        {"typ": frozenset()},
        {"typ": frozenset({"JWT"})},
        {"leeway": 61},
        {"leeway": -1},
        {"max_lifetime": 0},
        {"max_lifetime": 86_401},
        {"max_lifetime": float("nan")},
    ],
)
def test_a_profile_out_of_bounds_is_a_configuration_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        profile(**changes)


def test_a_key_source_that_fails_refuses_the_token() -> None:
    class Broken:
        def find(self, kid: str) -> PublicKey | None:
            raise RuntimeError(kid)

    assert Rejection("the token is malformed") == examine(token(), profile(), Broken(), NOW)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"1", b"null", b'"a"', b"{", b"{}x", b"{'a':1}", b'{"a":1,}', b'{"a":"\n"}']
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(NotStrictJSON):
        strict_json(data)


# Nothing of a token stays within reach of an error (ruling 24).


def rejected_tokens() -> dict[str, str]:
    good = {"sub": f"user:{CANARY}", "jti": CANARY}
    head, _, signature = token(**good).split(".")
    return {
        "expired": token(**good, iat=NOW - 600, exp=NOW - 500),
        "bad signature": f"{token(**good, x=1).rpartition('.')[0]}.{signature}",
        "unknown key": sign(claims(**good), header(kid=CANARY)),
        "duplicate": sign(f'{{"sub": "{CANARY}", "sub": "{CANARY}"}}'.encode()),
        "not JSON": sign(f'{{"sub": "{CANARY}"'.encode()),
        "not UTF-8": sign(CANARY.encode() + b"\xff"),
        "bad name": token(sub=f"user:{CANARY} > x"),
        "bad actor": token(**good, act={"sub": f"a {CANARY}"}),
        "bad typ": sign(claims(**good), header(typ=CANARY)),
        "issuer": token(**good, iss=CANARY),
        "padding": f"{head}.{CANARY}=.{signature}",
        "too long": CANARY * 2_000,
        "not text": [CANARY],  # type: ignore[dict-item]  # what a caller might pass by mistake
    }


def errors_of(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if error.__cause__ is not None:
            yield from errors_of(error.__cause__)
        error = error.__context__


def everything_below(value: object, seen: set[int], depth: int = 6) -> Iterator[object]:
    if id(value) in seen or depth == 0 or isinstance(value, types.ModuleType | type):
        return
    seen.add(id(value))
    yield value
    if not isinstance(value, types.FunctionType | types.FrameType):
        for item in gc.get_referents(value):
            yield from everything_below(item, seen, depth - 1)


def locals_of(error: BaseException) -> Iterator[object]:
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith(SOURCE):
            yield from trace.tb_frame.f_locals.values()
        trace = trace.tb_next


def traces_of(error: BaseException, text: Any) -> list[object]:
    parts = {part for part in str(text).split(".") if len(part) > 20} if isinstance(text, str) else set()
    found: list[object] = []
    for one in errors_of(error):
        roots = [one.args, vars(one), str(one), repr(one), *locals_of(one)]
        seen: set[int] = set()
        for value in (inner for root in roots for inner in everything_below(root, seen)):
            shown = value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""
            if CANARY in shown or any(part in shown for part in parts):
                found.append(shown)
    return found


@pytest.mark.parametrize("name", list(rejected_tokens()))
def test_no_frame_cause_or_context_of_the_error_holds_the_token(name: str) -> None:
    text: Any = rejected_tokens()[name]

    with pytest.raises(TokenRejected) as by_profile:
        verify_jwt(text, profile(), KEYS, NOW)
    with pytest.raises(TokenRejected) as by_verifier:
        TokenVerifier(KEYS, ISSUER, AUDIENCE).verify(text, NOW)
    with pytest.raises(TokenRejected) as by_revocation:
        TokenVerifier(KEYS, ISSUER, AUDIENCE, revoked=leaking).verify(token(sub=f"user:{CANARY}", jti=CANARY), NOW)

    for caught in (by_profile, by_verifier, by_revocation):
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        assert [] == traces_of(caught.value, text)


def leaking(iss: str, jti: str) -> bool:
    raise RuntimeError(f"{iss} {jti}")


@pytest.mark.anyio
@pytest.mark.parametrize("name", list(rejected_tokens()))
async def test_no_frame_of_an_id_token_error_holds_the_token(name: str) -> None:
    text: Any = rejected_tokens()[name]

    with pytest.raises(TokenRejected) as caught:
        await IdTokenVerifier(KEYS, ISSUER, AUDIENCE).verify(text, NOW)

    assert caught.value.__context__ is None
    assert [] == traces_of(caught.value, text)


def test_the_search_for_traces_finds_one_that_is_there() -> None:
    namespace: dict[str, Any] = {"TokenRejected": TokenRejected}
    code = compile(
        "def careless(token):\n    raise TokenRejected('invalid_token', 'no')", f"{SOURCE}/careless.py", "exec"
    )
    exec(code, namespace)

    with pytest.raises(TokenRejected) as caught:
        namespace["careless"]({"nested": [CANARY]})

    assert [CANARY] == traces_of(caught.value, "")
