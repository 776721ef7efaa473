from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentguard._drive import drive
from agentguard._http import Http
from agentguard._jwks import Jwks
from agentguard._jwt import Keys
from agentguard.errors import ConfigurationError, IdentityUnavailable, Unavailable
from agentguard.identity.jwt_file import LOOK, JwtFileIdentity
from agentguard.keys import KeySet, SigningKey
from agentguard.model.principal import Identity, Proof
from agentguard.ports import Authenticator, IdentityTokens, waits
from tests.identity.shown import shown_by
from tests.resource_server.forging import ABSENT, KEY, NOW, claims, header, sign

ISSUER = "https://kubernetes.default.svc"
AUDIENCE = "https://vault.bank.test"
ACCOUNT = "system:serviceaccount:payments:support-bot"
KEYS = KeySet.of(KEY)


def workload_token(key: SigningKey = KEY, typ: object = ABSENT, **changes: Any) -> str:
    """A token as Kubernetes projects one: no `typ`, a list of one audience, claims of its own."""
    gone = {"client_id": ABSENT, "jti": ABSENT, "scope": ABSENT, "act": ABSENT}
    good = {"iss": ISSUER, "aud": [AUDIENCE], "sub": ACCOUNT, "exp": NOW + 600, "kubernetes.io": {"pod": {"name": "b"}}}
    return sign(claims(**{**gone, **good, **changes}), header(key, typ=typ), key)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def identity_of(path: Path, keys: Any = KEYS, **options: Any) -> JwtFileIdentity:
    return JwtFileIdentity(path, ISSUER, AUDIENCE, keys, **options)


def write(path: Path, text: str) -> None:
    path.write_text(text)


def refused(identity: JwtFileIdentity, now: float = NOW) -> str:
    with pytest.raises(IdentityUnavailable) as caught:
        drive(identity.identify(now))
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(workload_token() + "\n")
    return file


@pytest.fixture
def projected(tmp_path: Path) -> tuple[Path, Callable[[str], None]]:
    """A volume as the kubelet writes it: the file leads through `..data`, which is swapped in one step."""
    volume = tmp_path / "volume"
    volume.mkdir()

    def write(text: str) -> None:
        folder = volume / f"..{len(list(volume.iterdir()))}"
        folder.mkdir()
        (folder / "token").write_text(text)
        (volume / "..data_tmp").symlink_to(folder.name)
        os.replace(volume / "..data_tmp", volume / "..data")

    (volume / "token").symlink_to("..data/token")
    return volume / "token", write


@pytest.mark.anyio
async def test_the_identity_is_the_sub_of_the_token_until_its_exp(tmp_path: Path) -> None:
    path, text = tmp_path / "token", workload_token()
    write(path, text)
    identity = identity_of(path)

    assert isinstance(identity, Authenticator)
    assert isinstance(identity, IdentityTokens)
    assert waits(identity)
    assert await identity.identify(NOW) == Identity(ACCOUNT, Proof.ATTESTED, NOW + 600, ISSUER)
    assert (await identity.token(AUDIENCE, NOW)).reveal() == text


def test_a_synchronous_caller_gets_it_too(path: Path) -> None:
    assert drive(identity_of(path).identify(NOW)).name == ACCOUNT


def test_another_working_directory_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    identity = identity_of(Path(path.name))
    monkeypatch.chdir("/")
    assert drive(identity.identify(NOW)).name == ACCOUNT


@pytest.mark.control("identity the token is for one audience")
def test_the_token_is_given_for_the_audience_it_was_made_for_and_no_other(path: Path) -> None:
    with pytest.raises(IdentityUnavailable, match=r"is for 'https://vault.bank.test', not for 'https://as.bank.test'"):
        drive(identity_of(path).token("https://as.bank.test", NOW))


@pytest.mark.control("identity a workload's token passes the strict profile")
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": "https://evil.test"}, "issuer"),
        ({"aud": ["https://as.bank.test"]}, "another audience"),
        ({"aud": [AUDIENCE, "https://as.bank.test"]}, "more than one audience"),
        ({"sub": ABSENT}, "claim sub is missing"),
        ({"sub": "a > b"}, "subject"),
        ({"exp": ABSENT}, "claim exp is missing"),
        ({"exp": NOW + 360_000}, "lifetime"),
        ({"iat": NOW + 100}, "not valid yet"),
        ({"typ": "at+jwt"}, "typ"),
        ({"key": SigningKey.generate()}, "no known key"),
    ],
)
def test_a_token_that_does_not_pass_proves_nobody(path: Path, changes: dict[str, Any], why: str) -> None:
    path.write_text(workload_token(**changes))

    assert why in refused(identity_of(path))


def test_a_token_that_others_signed_under_our_kid_proves_nobody(path: Path) -> None:
    _, payload, signature = workload_token(SigningKey.generate()).split(".")
    path.write_text(".".join((workload_token().split(".")[0], payload, signature)))

    assert "signature" in refused(identity_of(path))


@pytest.mark.control("identity an expired token proves nobody")
def test_an_expired_token_is_refused_with_the_file_and_the_time_but_nothing_else_of_it(path: Path) -> None:
    text = refused(identity_of(path), NOW + 601)

    assert text == (
        f"workload token {str(path)!r}: its token was good until 2027-01-15T08:10:00+00:00 "
        "and the platform has written no newer one"
    )


def test_leeway_lengthens_no_life_of_our_own_token(path: Path) -> None:
    identity = identity_of(path, leeway=60)

    assert drive(identity.identify(NOW + 599)).name == ACCOUNT
    assert "good until" in refused(identity, NOW + 600)
    assert "good until" in refused(identity_of(path, leeway=60), NOW + 600)


@pytest.mark.anyio
async def test_a_swapped_symlink_is_followed_at_once(projected: tuple[Path, Callable[[str], None]]) -> None:
    path, write = projected
    write(workload_token())
    identity = identity_of(path)
    assert (await identity.identify(NOW)).expires_at == NOW + 600

    write(workload_token(iat=NOW + 300, exp=NOW + 900))

    assert (await identity.identify(NOW + 300)).expires_at == NOW + 900


def test_an_unchanged_file_is_read_again_after_a_few_seconds(path: Path) -> None:
    clock = Clock()
    identity = identity_of(path, monotonic=clock)
    drive(identity.identify(NOW))
    before = path.stat()
    path.write_text(workload_token(sub=ACCOUNT[:-3] + "foe") + "\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = path.stat()
    assert (changed.st_size, changed.st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    assert drive(identity.identify(NOW)).name == ACCOUNT
    clock.now = LOOK
    assert drive(identity.identify(NOW)).name.endswith("foe")


@pytest.mark.parametrize(
    "content",
    ["", "\n", "half", workload_token()[:90], "\udcff", workload_token() + "x"],
    ids=["empty", "a line", "a word", "half a token", "not UTF-8", "more than a token"],
)
def test_a_half_written_file_leaves_the_token_before_in_force_until_it_expires(path: Path, content: str) -> None:
    identity = identity_of(path)
    drive(identity.identify(NOW))

    path.write_bytes(content.encode("utf-8", errors="surrogateescape"))

    assert drive(identity.identify(NOW + 599)).name == ACCOUNT
    refused(identity, NOW + 600)
    refused(identity_of(path))


def test_a_newer_file_with_an_older_token_takes_no_life_from_the_one_held(path: Path) -> None:
    identity = identity_of(path, leeway=60)
    drive(identity.identify(NOW))

    path.write_text(workload_token(exp=NOW + 100))

    assert drive(identity.identify(NOW + 110)).expires_at == NOW + 600


@pytest.mark.control("identity a withdrawn token file proves nobody")
def test_a_file_that_is_gone_proves_nobody_from_then_on(path: Path) -> None:
    identity = identity_of(path)
    drive(identity.identify(NOW))

    path.unlink()

    assert "no such file" in refused(identity)


def test_a_path_that_is_no_regular_small_file_proves_nobody(tmp_path: Path) -> None:
    large, fifo = tmp_path / "large", tmp_path / "fifo"
    large.write_text(workload_token() + " " * 20_000)
    os.mkfifo(fifo)

    assert "larger" in refused(identity_of(large))
    assert "it is no regular file" in refused(identity_of(fifo))
    assert "it is no regular file" in refused(identity_of(tmp_path))
    assert "no path" in refused(identity_of(Path("nul\0")))
    with pytest.raises(ConfigurationError):
        JwtFileIdentity("", ISSUER, AUDIENCE, KEYS)


class Fetched:
    """A cache of a remote key set, which may be out of reach."""

    def __init__(self) -> None:
        self.reachable = True

    async def keys_for(self, token: str) -> Keys:
        if not self.reachable:
            raise Unavailable("no answer to " + token)
        return KEYS


@pytest.mark.anyio
async def test_keys_may_be_fetched_for_the_token(path: Path) -> None:
    assert (await identity_of(path, Fetched()).identify(NOW)).name == ACCOUNT


def test_keys_out_of_reach_prove_nobody_and_leave_the_token_before_in_force(path: Path) -> None:
    keys, clock = Fetched(), Clock()
    identity = identity_of(path, keys, monotonic=clock)
    drive(identity.identify(NOW))

    keys.reachable, clock.now = False, LOOK

    assert drive(identity.identify(NOW)).name == ACCOUNT
    assert "out of reach" in refused(identity_of(path, keys))


def test_a_kid_that_got_another_key_keeps_nobody_from_proving_itself(path: Path) -> None:
    class Rotated(Fetched):
        async def keys_for(self, token: str) -> Keys:
            return KeySet([replace(SigningKey.generate().public, kid=KEY.kid)])

        async def keys_after(self, keys: Keys) -> Keys | None:
            if not self.reachable:
                raise Unavailable("no answer")
            return KEYS

    keys = Rotated()
    assert drive(identity_of(path, keys).identify(NOW)).name == ACCOUNT
    keys.reachable = False
    assert "signature" in refused(identity_of(path, keys))


@pytest.mark.parametrize("content", ["no token", "a.b.c"])
def test_a_file_without_a_token_is_said_to_hold_none_also_where_keys_are_fetched(path: Path, content: str) -> None:
    write(path, content)
    why = refused(identity_of(path, Jwks(Http(), "https://issuer.test/jwks")))
    assert "malformed" in why
    assert "out of reach" not in why


@pytest.mark.control("identity no token in an error")
@pytest.mark.parametrize("reachable", [True, False])
def test_no_error_holds_the_token_or_its_claims(path: Path, reachable: bool) -> None:
    path.write_text(workload_token(aud="https://else.test", sub="secret-sub"))
    parts = [*path.read_text().split("."), "secret-sub", "else.test"]
    keys = Fetched()
    keys.reachable = reachable

    with pytest.raises(IdentityUnavailable) as caught:
        drive(identity_of(path, keys).identify(NOW))

    assert [part for part in parts if part in shown_by(caught.value)] == []


def test_a_token_file_that_others_can_write_is_warned_of_and_one_that_all_can_read_is_not(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.chmod(0o644)
    with caplog.at_level(logging.WARNING, logger="agentguard"):
        identity_of(path)
        assert caplog.records == []
        path.chmod(0o666)
        identity_of(path)

    assert "can be replaced by others" in caplog.text


def test_the_repr_names_the_file_only(path: Path) -> None:
    identity = identity_of(path)
    drive(identity.identify(NOW))

    assert repr(identity) == f"<JwtFileIdentity {path}>"
    assert "Secret>" in repr(drive(identity.token(AUDIENCE, NOW)))
