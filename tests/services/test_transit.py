"""Keys of the transit engine against a real OpenBao: signatures, versions that take turns, logins, what is refused."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator

import jwt
import pytest

from agentguard import CredentialUnavailable
from agentguard._drive import drive
from agentguard._http import Http
from agentguard.credentials.local import LocalIssuer
from agentguard.credentials.openbao import JwtLogin
from agentguard.credentials.openbao.transit import TransitKeys
from agentguard.errors import Unavailable
from agentguard.identity.spiffe import SpiffeIdentity
from agentguard.keys import Signer, Signers, Times
from agentguard.model.lease import Grant, LeaseKey, Secret
from agentguard.model.principal import Agent, Chain, Subject
from agentguard.resource_server import TokenVerifier
from tests.services import bao_setup
from tests.services.endpoints import Services

AUDIENCE = "https://payments.test"
TYPES = {"ES256": "ecdsa-p256", "EdDSA": "ed25519"}


@pytest.fixture(scope="module")
def operator(services: Services) -> Iterator[bao_setup.Operator]:
    with bao_setup.Operator(services.bao) as operator:
        operator.write("sys/mounts/ag-transit", type="transit")
        yield operator
        operator._http.delete("sys/mounts/ag-transit")


@pytest.fixture
def http() -> Iterator[Http]:
    http = Http()
    yield http
    http.close()


class Clock:
    """The wall clock, set forward at will; and one for ages that runs along."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def key(operator: bao_setup.Operator) -> Callable[..., str]:
    def made(kind: str = "ecdsa-p256", **options: object) -> str:
        name = f"k-{secrets.token_hex(4)}"
        operator.write(f"ag-transit/keys/{name}", type=kind, **options)
        return name

    return made


@pytest.fixture
def transit(services: Services, http: Http, clock: Clock) -> Callable[[str], TransitKeys]:
    def opened(name: str) -> TransitKeys:
        root = Secret(services.bao.token)
        return TransitKeys(
            http, services.bao.url, name, token=lambda: root, mount="ag-transit", times=Times(propagation=60),
            monotonic=clock.monotonic, clock=clock,
        )  # fmt: skip

    return opened


def minted(issuer: LocalIssuer, now: float) -> str:
    chain = Chain(Subject("alice"), (Agent("bot"),))
    key = LeaseKey("", chain.subject.sub, "t", chain.names(), "pay", AUDIENCE, (), "")
    grant = Grant(key=key, chain=chain, task="t", intent_s256="s", deadline=now + 60)
    return drive(issuer.issue(grant, issuer.prepare(grant, now), now)).secret.reveal()


@pytest.mark.parametrize("algorithm", TYPES)
def test_the_local_issuer_signs_by_a_key_that_is_in_the_vault(
    algorithm: str, key: Callable[..., str], transit: Callable[[str], TransitKeys]
) -> None:
    keys = transit(key(TYPES[algorithm]))
    issuer, now = LocalIssuer(keys), time.time()

    token = minted(issuer, now)
    verified = TokenVerifier(issuer.keys, "agentguard", AUDIENCE).verify(token, now)

    assert verified.chain == ("user:alice", "agent:bot")
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    assert isinstance(keys, Signers)
    assert isinstance(drive(keys.current(now)), Signer)
    assert (issuer.suspends, issuer.waits, issuer.remote) == (False, True, True)


@pytest.mark.control("10 a new version is published before it signs")
def test_a_new_version_is_published_before_it_signs_and_the_old_one_after(
    operator: bao_setup.Operator, key: Callable[..., str], transit: Callable[[str], TransitKeys], clock: Clock
) -> None:
    name = key()
    keys = transit(name)
    old = drive(keys.current(clock()))
    operator.write(f"ag-transit/keys/{name}/rotate")

    clock.ahead += 61
    after_poll = drive(keys.current(clock()))
    published = keys.published(clock())
    clock.ahead += 59
    before_turn = drive(keys.current(clock()))
    clock.ahead += 2
    new = drive(keys.current(clock()))
    still = keys.published(clock())
    clock.ahead += 60 + 300 + 60
    drive(keys.current(clock()))

    assert old.kid == after_poll.kid == before_turn.kid
    assert old.kid != new.kid
    assert new.version == 2
    assert len(published) == len(still) == 2
    assert len(keys.published(clock())) == 1
    assert len(drive(before_turn.signature(b"by the old one"))) == 64


def test_versions_that_the_vault_signs_with_no_more_are_passed_over(
    operator: bao_setup.Operator, key: Callable[..., str], transit: Callable[[str], TransitKeys]
) -> None:
    name = key()
    operator.write(f"ag-transit/keys/{name}/rotate")
    operator.write(f"ag-transit/keys/{name}/config", min_encryption_version=2)
    keys = transit(name)

    signer = drive(keys.current(time.time()))

    assert signer.version == 2
    assert drive(signer.signature(b"data"))


@pytest.mark.control("10 a key that can leave the vault signs nothing")
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"exportable": True}, "exportable=false"),
        ({"allow_plaintext_backup": True}, "plain text"),
        ({"kind": "ed25519", "derived": True}, "derived=false"),
        ({"kind": "rsa-2048"}, "neither ecdsa-p256 nor ed25519"),
        ({"kind": "ecdsa-p384"}, "neither ecdsa-p256 nor ed25519"),
    ],
)
def test_a_key_that_could_leave_the_vault_or_is_of_another_kind_is_refused(
    options: dict[str, object], why: str, key: Callable[..., str], transit: Callable[[str], TransitKeys]
) -> None:
    keys = transit(key(**options))

    with pytest.raises(Unavailable, match=why):
        drive(keys.current(time.time()))
    with pytest.raises(CredentialUnavailable, match=why):
        minted(LocalIssuer(keys), time.time())


def test_a_login_gives_the_token_and_its_policy_allows_no_more_than_to_sign(
    services: Services, operator: bao_setup.Operator, key: Callable[..., str], http: Http
) -> None:
    bao_setup.configure(services)
    name, other = key(), key()
    policy = (
        f'path "ag-transit/keys/{name}" {{ capabilities = ["read"] }}\n'
        f'path "ag-transit/sign/{name}" {{ capabilities = ["update"] }}\n'
        'path "auth/token/revoke-self" { capabilities = ["update"] }'
    )
    operator.write("sys/policies/acl/ag-sign", policy=policy)
    bound = {"bound_audiences": [bao_setup.AUDIENCE], "bound_subject": services.workload_api.spiffe_id}
    bao_setup._role(operator, "spiffe", "signer", "60s", ["ag-sign"], **bound)
    identity = SpiffeIdentity(services.workload_api.socket)
    login = JwtLogin(identity, bao_setup.AUDIENCE, "signer", "spiffe")
    try:
        keys = TransitKeys(http, services.bao.url, name, token=login, mount="ag-transit")
        token = minted(LocalIssuer(keys), time.time())
        again = minted(LocalIssuer(keys), time.time())
        used = operator.tokens("signer")
        operator._http.post("auth/token/revoke", json={"token": drive(keys._login.get()).reveal()})  # type: ignore[union-attr]  # it is there
        renewed = minted(LocalIssuer(keys), time.time())
        with pytest.raises(Unavailable, match="403"):
            drive(TransitKeys(http, services.bao.url, other, token=login, mount="ag-transit").current(time.time()))
    finally:
        identity.close()

    assert used == 1
    for text in (token, again, renewed):
        TokenVerifier(keys.published(time.time()), "agentguard", AUDIENCE).verify(text)
