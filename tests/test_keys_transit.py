"""Transit keys against a vault that goes wrong: nothing is signed, and nothing of what was to be signed is told."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from agentguard._drive import drive
from agentguard._http import Http
from agentguard.credentials.openbao.login import JwtLogin
from agentguard.credentials.openbao.transit import POLL, TransitKeys, TransitSigner
from agentguard.errors import ConfigurationError, Unavailable
from agentguard.keys import SigningKey
from agentguard.model.lease import Secret
from tests.credentials.fake_vault import FakeVault, Tokens, fake_vault, in_reach

CANARY = b"eyJ.canary-of-a-payload"


class Transit(FakeVault):
    """A vault with one transit key of several versions."""

    def __init__(self) -> None:
        super().__init__()
        self.keys_of = [SigningKey.generate()]
        self.key: dict[str, Any] = {}
        self.signature = ""
        self.tokens.add("s.0123456789")

    def act(self, method: str, path: str, token: str, body: dict[str, Any]) -> tuple[int, Any]:
        if not path.startswith("transit/") or token not in self.tokens:
            return super().act(method, path, token, body)
        if path == "transit/keys/tokens":
            versions = {
                str(n): {"creation_time": "2026-01-01T00:00:00.123456789Z", "public_key": pem(key)}
                for n, key in enumerate(self.keys_of, 1)
            }
            told = {"type": "ecdsa-p256", "exportable": False, "allow_plaintext_backup": False, "derived": False}
            return 200, {"data": {**told, "keys": versions, "min_encryption_version": 0, **self.key}}
        number = body["key_version"]
        made = self.keys_of[number - 1].sign(base64.b64decode(body["input"]))
        text = f"vault:v{number}:{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"
        return 200, {"data": {"signature": self.signature or text, "key_version": number}}


def pem(key: SigningKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


PEM = pem(SigningKey.generate())


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[Transit]:
    monkeypatch.setattr("tests.credentials.fake_vault.FakeVault", Transit)
    with fake_vault() as made:
        assert isinstance(made, Transit)
        yield made


@pytest.fixture
def http() -> Iterator[Http]:
    http = Http(attempts=1)
    yield http
    http.close()


def transit(vault: Transit, http: Http, **options: Any) -> TransitKeys:
    given: dict[str, Any] = {"token": lambda: Secret("s.0123456789"), **options}
    return TransitKeys(http, vault.url, "tokens", **given)


def signer(vault: Transit, http: Http, **options: Any) -> TransitSigner:
    return drive(transit(vault, http, **options).current(time.time()))


def test_a_signature_is_that_of_the_key(vault: Transit, http: Http) -> None:
    made = signer(vault, http)

    assert vault.keys_of[0].kid == made.kid
    assert 64 == len(drive(made.signature(b"data")))
    assert f"<TransitSigner ES256 {made.kid}>" == repr(made)


@pytest.mark.control("10 what a vault signed is verified")
@pytest.mark.parametrize(
    "signature",
    [
        "vault:v1:" + "A" * 86,
        "vault:v2:" + "A" * 86,
        "vault:v1:" + "A" * 85,
        "vault:v1:" + "A" * 87,
        "v1:" + "A" * 86,
        "vault:v1:" + "=" * 86,
        "canary of a vault",
    ],
)
def test_what_is_not_the_keys_signature_is_refused_and_nothing_is_told(
    signature: str, vault: Transit, http: Http
) -> None:
    made = signer(vault, http)
    vault.signature = signature

    with pytest.raises(Unavailable, match=r"not the signature|not what its API") as caught:
        drive(made.signature(CANARY))

    assert not in_reach(caught.value, CANARY.decode())
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("fault", [400, 403, 404, 429, 500, 503, "drop"])
def test_a_vault_that_fails_signs_nothing_and_nothing_is_told(fault: int | str, vault: Transit, http: Http) -> None:
    made = signer(vault, http)
    vault.faults["transit/sign/tokens"] = [fault]

    with pytest.raises(Unavailable) as caught:
        drive(made.signature(CANARY))

    assert not in_reach(caught.value, CANARY.decode())
    assert "private" not in str(caught.value)
    assert drive(made.signature(CANARY))


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ({"exportable": True}, "exportable=false"),
        ({"exportable": None}, "exportable=false"),
        ({"allow_plaintext_backup": True}, "plain text"),
        ({"derived": 0}, "derived=false"),
        ({"type": "rsa-2048"}, "neither"),
        ({"type": ["ecdsa-p256"]}, "neither"),
        ({"type": {}}, "neither"),
        ({"keys": {}}, "cannot be read"),
        ({"keys": {"x": {}}}, "cannot be read"),
        ({"keys": {"1": 1_700_000_000}}, "cannot be read"),
        ({"keys": {"1": {"creation_time": "2026-01-01T00:00:00Z", "public_key": "canary"}}}, "cannot be read"),
        ({"type": "ed25519"}, "cannot be read"),
        ({"keys": {"1": {"creation_time": "0001-01-01T00:00:00+14:00", "public_key": PEM}}}, "cannot be read"),
    ],
)
def test_a_description_that_will_not_do_is_refused(key: dict[str, Any], why: str, vault: Transit, http: Http) -> None:
    vault.key = key

    with pytest.raises(Unavailable, match=why) as caught:
        signer(vault, http)
    assert "canary" not in str(caught.value)


def test_a_key_that_signed_goes_on_while_the_vault_cannot_describe_it(vault: Transit, http: Http) -> None:
    clock = [0.0]
    keys = transit(vault, http, monotonic=lambda: clock[0])
    first = drive(keys.current(time.time()))
    clock[0] = 61.0
    vault.faults["transit/keys/tokens"] = [503]

    assert first.kid == drive(keys.current(time.time())).kid
    vault.key = {"exportable": True}
    clock[0] = 63.0
    with pytest.raises(Unavailable, match="exportable"):
        drive(keys.current(time.time()))


def test_public_keys_are_there_once_it_is_ready(vault: Transit, http: Http) -> None:
    # `published` has the vault asked in a thread, which may be quicker than the look at what it brought.
    looked = threading.Event()
    keys = transit(vault, http, token=lambda: Secret("s.0123456789") if looked.wait(10) else Secret(""))

    with pytest.raises(Unavailable, match="ready"):
        keys.published(time.time())
    looked.set()
    assert 1 == len(drive(keys.ready()))
    assert 1 == len(keys.published(time.time()))


@pytest.mark.parametrize("token", [lambda: "s.0123456789", lambda: Secret("a b c d e f g h"), lambda: 1 / 0])
def test_a_token_that_is_none_is_told(token: Any, vault: Transit, http: Http) -> None:
    with pytest.raises(Unavailable, match="token"):
        signer(vault, http, token=token)
    assert not vault.requests


def test_a_login_is_shared_and_renewed_where_its_token_ended_early(vault: Transit, http: Http) -> None:
    made = signer(vault, http, token=JwtLogin(Tokens(), "https://vault.test", "signer"))
    for _ in range(3):
        drive(made.signature(b"data"))
    assert 1 == vault.count("/login")

    vault.tokens.clear()

    assert drive(made.signature(b"data"))
    assert 2 == vault.count("/login")


def test_a_login_whose_token_ended_early_is_renewed_to_read_the_key_too(vault: Transit, http: Http) -> None:
    now, vault.auth = [0.0], {"lease_duration": 600}
    keys = transit(vault, http, token=JwtLogin(Tokens(), "https://vault.test", "signer"), monotonic=lambda: now[0])
    drive(keys.ready())
    vault.tokens.clear()  # a vault that was restored, or an operator
    now[0] += POLL + 0.001  # long before the login is due again: nobody signed in between

    assert drive(drive(keys.current(time.time())).signature(b"data"))
    assert 2 == vault.count("/login")


@pytest.mark.anyio
async def test_many_whose_shared_token_ended_early_log_in_once_more(vault: Transit, http: Http) -> None:
    keys = transit(vault, http, token=JwtLogin(Tokens(), "https://vault.test", "signer"))
    made = await keys.current(time.time())
    vault.tokens.clear()
    found, heard, late = list[bytes](), anyio.Event(), anyio.Event()
    ask = keys._ask

    async def slow(method: str, path: str, token: Secret, body: Any = None) -> Any:
        answer = await ask(method, path, token, body)
        if not heard.is_set():  # the first one is answered, and goes on last
            heard.set()
            await late.wait()
        return answer

    async def first() -> None:
        found.append(await made.signature(b"data"))

    keys._ask = slow  # type: ignore[method-assign]  # the network's order
    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await heard.wait()
        found.append(await made.signature(b"data"))
        late.set()
    await http.aclose()

    assert 2 == len(found)
    assert 2 == vault.count("/login")


def test_a_policy_that_forbids_to_sign_has_nobody_log_in_again(vault: Transit, http: Http) -> None:
    made = signer(vault, http, token=JwtLogin(Tokens(), "https://vault.test", "signer"))
    vault.act = _forbidding(vault.act)  # type: ignore[method-assign]  # its policy

    for _ in range(3):
        with pytest.raises(Unavailable, match="policy"):
            drive(made.signature(b"data"))
    assert 1 == vault.count("/login")


def _forbidding(act: Any) -> Any:
    refused = 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
    return lambda method, path, *rest: refused if "/sign/" in path else act(method, path, *rest)


def test_a_login_that_gives_an_almighty_token_signs_nothing_and_is_ended(vault: Transit, http: Http) -> None:
    vault.auth = {"policies": ["root"]}

    with pytest.raises(Unavailable, match="policy root"):
        signer(vault, http, token=JwtLogin(Tokens(), "https://vault.test", "signer"))
    assert {"s.0123456789"} == vault.tokens


@pytest.mark.anyio
async def test_many_at_once_log_in_once_and_read_the_key_once(vault: Transit, http: Http) -> None:
    keys, found = transit(vault, http, token=JwtLogin(Tokens(), "https://vault.test", "signer")), list[bytes]()

    async def one() -> None:
        found.append(await (await keys.current(time.time())).signature(b"data"))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(one)
    await http.aclose()

    assert 8 == len(found)
    assert (1, 1) == (vault.count("/login"), vault.count("keys/tokens"))


@pytest.mark.parametrize("options", [{"mount": "../sys"}, {"ttl": 1}, {"namespace": "a b"}])
def test_what_it_is_made_of_is_checked(options: dict[str, Any], vault: Transit, http: Http) -> None:
    with pytest.raises(ConfigurationError):
        transit(vault, http, **options)
