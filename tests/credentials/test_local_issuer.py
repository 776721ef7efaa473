from __future__ import annotations

import base64
import json
import os
import string
import threading
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwk
from joserfc import jwt as jose
from msgspec import structs

from agentguard._drive import drive
from agentguard.credentials import alive
from agentguard.credentials.alive import Alive
from agentguard.credentials.local import LocalIssuer
from agentguard.errors import ConfigurationError, CredentialUnavailable
from agentguard.keys import KeySet, SigningKey
from agentguard.model.credential import Issued
from agentguard.model.lease import Grant, LeaseKey
from agentguard.model.principal import Agent, Chain, Proof, Subject
from agentguard.ports import Issuer
from agentguard.resource_server import TokenRejected, TokenVerifier

NOW = 1_800_000_000.25
AUDIENCE = "https://payments.bank.test"
KEY = SigningKey.generate()
ALICE = Subject("alice")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def grant(
    *agents: str,
    subject: Subject = ALICE,
    scopes: tuple[str, ...] = ("refunds:write",),
    resource: str = "account/7",
    tenant: str = "",
    deadline: float = NOW + 600,
    details: tuple[Mapping[str, Any], ...] = (),
) -> Grant:
    chain = Chain(subject, tuple(Agent(name) for name in agents or ("support-bot", "researcher")))
    key = LeaseKey(tenant, subject.sub, "task-1", chain.names(), "refund.create", AUDIENCE, scopes, resource)
    return Grant(
        key=key, chain=chain, task="task-1", intent_s256="ab" * 32, deadline=deadline, authorization_details=details
    )


def minted(issuer: LocalIssuer, of: Grant, now: float = NOW) -> Issued:
    return drive(issuer.issue(of, issuer.prepare(of, now), now))


def verifier(issuer: LocalIssuer, **options: Any) -> TokenVerifier:
    return TokenVerifier(issuer.keys, "agentguard", AUDIENCE, revoked=issuer.revoked, **options)


def test_the_local_issuer_is_an_issuer_that_neither_suspends_nor_leaves_the_process() -> None:
    issuer = LocalIssuer(KEY)

    assert isinstance(issuer, Issuer)
    assert (issuer.suspends, issuer.remote) == (False, False)


def test_the_token_carries_who_acts_for_whom_with_what() -> None:
    issuer = LocalIssuer(KEY)
    issued = minted(issuer, grant(tenant="acme", details=({"type": "agentguard_call", "amount": Decimal("49.90")},)))
    text = issued.secret.reveal()

    assert jwt.get_unverified_header(text) == {"alg": "ES256", "typ": "at+jwt", "kid": KEY.kid}
    assert jwt.decode(text, options={"verify_signature": False}) == {
        "iss": "agentguard",
        "sub": "user:alice",
        "aud": AUDIENCE,
        "client_id": "agent:researcher",
        "iat": 1_800_000_000,
        "exp": 1_800_000_030,
        "jti": issued.lease.id,
        "txn": "task-1",
        "intent_s256": "ab" * 32,
        "scope": "refunds:write",
        "act": {"sub": "agent:researcher", "act": {"sub": "agent:support-bot"}},
        "agentguard_resource": "account/7",
        "tenant": "acme",
        "authorization_details": [{"type": "agentguard_call", "amount": "49.90"}],
    }


def test_claims_without_a_value_are_left_out() -> None:
    text = minted(LocalIssuer(KEY), grant(scopes=(), resource="")).secret.reveal()
    claims = jwt.decode(text, options={"verify_signature": False})

    assert {"scope", "agentguard_resource", "tenant", "authorization_details"}.isdisjoint(claims)


def test_an_agent_on_its_own_account_is_the_subject_and_no_actor() -> None:
    itself, issuer = Subject("nightly", proof=Proof.ITSELF, sponsor="ann"), LocalIssuer(KEY)

    alone = verifier(issuer).verify(minted(issuer, grant("nightly", subject=itself)).secret.reveal(), NOW)
    delegated = verifier(issuer).verify(minted(issuer, grant("nightly", "reader", subject=itself)).secret.reveal(), NOW)

    assert alone.chain == ("agent:nightly",)
    assert delegated.chain == ("agent:nightly", "agent:reader")


def test_the_lease_says_what_the_token_says() -> None:
    issuer, of = LocalIssuer(KEY), grant()
    prepared = issuer.prepare(of, NOW)

    issued = drive(issuer.issue(of, prepared, NOW + 1))

    assert structs.replace(issued.lease, fingerprint="") == prepared
    assert issued.lease.fingerprint == issued.secret.fingerprint()
    assert issued.lease.expires_by == 1_800_000_060


def test_the_token_ends_with_the_task_to_the_second() -> None:
    assert LocalIssuer(KEY).prepare(grant(deadline=NOW + 5.5), NOW).expires_at == 1_800_000_006
    assert LocalIssuer(KEY).prepare(grant(deadline=float("inf")), NOW).expires_at == 1_800_000_030


@pytest.mark.parametrize("deadline", [NOW, NOW - 1, 0.0, float("nan")])
def test_nothing_is_issued_after_the_end_of_the_task(deadline: float) -> None:
    issuer, of = LocalIssuer(KEY), grant()
    lease = issuer.prepare(of, NOW)

    with pytest.raises(CredentialUnavailable, match="passed"):
        drive(issuer.issue(structs.replace(of, deadline=deadline), lease, NOW))
    assert issuer.revoked("agentguard", lease.id)


def test_nothing_is_issued_after_the_end_of_the_lease() -> None:
    issuer, of = LocalIssuer(KEY), grant()
    lease = issuer.prepare(of, NOW)

    with pytest.raises(CredentialUnavailable, match="passed"):
        drive(issuer.issue(of, lease, NOW + 30))


def test_a_lease_serves_its_own_grant_and_issuer_only() -> None:
    issuer, of = LocalIssuer(KEY), grant()

    with pytest.raises(CredentialUnavailable, match="another grant"):
        drive(issuer.issue(grant(resource="account/8"), issuer.prepare(of, NOW), NOW))
    with pytest.raises(CredentialUnavailable, match="another grant"):
        drive(issuer.issue(of, LocalIssuer(KEY, "other").prepare(of, NOW), NOW))
    with pytest.raises(CredentialUnavailable, match="another process"):
        drive(issuer.issue(of, LocalIssuer(KEY).prepare(of, NOW), NOW))


def test_a_revoked_token_is_refused_at_once() -> None:
    issuer = LocalIssuer(KEY)
    issued = minted(issuer, grant())
    assert verifier(issuer).verify(issued.secret.reveal(), NOW).jti == issued.lease.id

    drive(issuer.revoke(issued.lease))
    drive(issuer.revoke(issued.lease))

    with pytest.raises(TokenRejected, match="revoked"):
        verifier(issuer).verify(issued.secret.reveal(), NOW)


def test_a_lease_revoked_before_it_was_issued_is_never_issued() -> None:
    issuer, of = LocalIssuer(KEY), grant()
    lease = issuer.prepare(of, NOW)
    drive(issuer.revoke(lease))

    with pytest.raises(CredentialUnavailable, match="revoked"):
        drive(issuer.issue(of, lease, NOW))
    assert issuer.revoked("agentguard", lease.id)


def test_revoking_a_lease_of_another_issuer_changes_nothing_and_is_never_called_done() -> None:
    issuer = LocalIssuer(KEY)
    issued = minted(issuer, grant())

    with pytest.raises(CredentialUnavailable, match="issued by other, not by agentguard"):
        drive(issuer.revoke(structs.replace(issued.lease, issuer="other")))

    assert not issuer.revoked("agentguard", issued.lease.id)


def test_only_what_was_issued_here_and_lives_is_not_revoked() -> None:
    clock = Clock()
    issuer = LocalIssuer(KEY, monotonic=clock)
    prepared = issuer.prepare(grant(), NOW).id
    live = minted(issuer, grant()).lease.id

    assert issuer.revoked("agentguard", live) is False
    assert issuer.revoked("agentguard", prepared)
    assert issuer.revoked("agentguard", "unknown")
    assert issuer.revoked("other", live)
    clock.now += 59.74
    assert not issuer.revoked("agentguard", live)
    clock.now += 0.01  # exp + leeway
    assert issuer.revoked("agentguard", live)


def test_a_jump_of_the_wall_clock_revives_no_lease() -> None:
    clock = Clock()
    issuer = LocalIssuer(KEY, monotonic=clock)
    issued = minted(issuer, grant())
    clock.now += 61

    minted(issuer, grant(), NOW - 500)

    assert issuer.revoked("agentguard", issued.lease.id)


def test_memory_is_bounded_by_what_a_minute_brings() -> None:
    clock = Clock()
    issuer, of = LocalIssuer(KEY, monotonic=clock), grant(deadline=NOW + 100_000)

    for second in range(1_000):
        for _ in range(3):
            issuer.prepare(of, NOW + second)
        clock.now += 1

    assert len(issuer._alive) < 3 * 62 + 2 * 1024
    assert len(issuer._alive._blocks) <= 2


def test_ids_are_unique_across_threads() -> None:
    issuer, of, ids = LocalIssuer(KEY), grant(), set[str]()
    threads = [
        threading.Thread(target=lambda: ids.update(issuer.prepare(of, NOW).id for _ in range(500))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ids) == 2_000


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_has_ids_of_its_own_and_vouches_for_nothing_of_its_parent() -> None:
    issuer, of = LocalIssuer(KEY), grant()
    lease = minted(issuer, of).lease
    reading, writing = os.pipe()

    if (child := os.fork()) == 0:
        os.write(writing, f"{issuer.prepare(of, NOW).id} {issuer.revoked('agentguard', lease.id)}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    identifier, revoked = os.read(reading, 200).decode().split()
    os.close(reading)
    os.close(writing)

    assert revoked == "True"
    assert identifier.partition("-")[0] != lease.id.partition("-")[0]
    assert not issuer.revoked("agentguard", lease.id)


@pytest.mark.parametrize("scope", ["a b", "", 'a"', "a\\", "a\n", "é"])
def test_a_scope_that_would_be_two_or_none_is_refused(scope: str) -> None:
    with pytest.raises(ConfigurationError, match="scope"):
        LocalIssuer(KEY).prepare(grant(scopes=("refunds:read", scope)), NOW)


@pytest.mark.parametrize(
    "of",
    [
        grant(details=({"type": "x", "values": "v" * 20_000},)),
        grant(details=({"type": "x", "value": object()},)),
        grant(details=({"type": "x", "value": "\ud800"},)),
        grant(*(f"agent-{n}" for n in range(17))),
    ],
    ids=["too large", "no JSON", "lone surrogate", "too many actors"],
)
def test_a_token_that_no_verifier_accepts_is_not_minted(of: Grant) -> None:
    issuer = LocalIssuer(KEY)
    lease = issuer.prepare(of, NOW)

    with pytest.raises(CredentialUnavailable, match="no token could be made") as caught:
        drive(issuer.issue(of, lease, NOW))
    assert caught.value.__context__ is None
    assert issuer.revoked("agentguard", lease.id)


@pytest.mark.parametrize(("issuer", "lifetime"), [("", 30), ("a b", 30), ("x", 0), ("x", 31), ("x", True), ("x", 1.5)])
def test_a_wrong_issuer_name_or_lifetime_is_a_configuration_error(issuer: str, lifetime: Any) -> None:
    with pytest.raises(ConfigurationError):
        LocalIssuer(KEY, issuer, lifetime)


def test_the_token_shows_neither_in_the_issuer_nor_in_what_it_returns() -> None:
    issuer = LocalIssuer(KEY)
    issued = minted(issuer, grant())

    assert issued.secret.reveal().split(".")[1] not in repr(issued) + repr(issuer) + repr(vars(issuer))


def test_frozen_mappings_are_details_too() -> None:
    issuer = LocalIssuer(KEY)
    text = minted(issuer, grant(details=(MappingProxyType({"type": "x", "n": 1}),))).secret.reveal()

    assert verifier(issuer, require_details=True).verify(text, NOW).details == ({"type": "x", "n": 1},)


NAMES = st.text(string.ascii_letters + string.digits + "._:/@-", min_size=1, max_size=40).filter(
    lambda n: n[0].isalnum()
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864")
@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
@given(
    subject=NAMES,
    agents=st.lists(NAMES, min_size=1, max_size=8, unique=True),
    scopes=st.lists(st.text(string.ascii_letters + ":./", min_size=1, max_size=20), max_size=4, unique=True),
    resource=st.text(max_size=60).filter(lambda text: text.isprintable()),
    details=st.lists(st.fixed_dictionaries({"type": NAMES, "values": VALUES}), max_size=2),
)
def test_pyjwt_joserfc_and_our_verifier_read_the_same_token(
    algorithm: str, subject: str, agents: list[str], scopes: list[str], resource: str, details: list[dict[str, Any]]
) -> None:
    issuer = LocalIssuer(SigningKey.generate(algorithm))
    of = grant(
        *agents,
        subject=Subject(subject),
        scopes=tuple(scopes),
        resource=resource,
        details=tuple(details),
        tenant="acme",
    )
    text = minted(issuer, of).secret.reveal()
    public: dict[str, Any] = dict(issuer.keys.jwks()["keys"][0])

    by_pyjwt = jwt.decode(
        text, jwt.PyJWK(public), [algorithm], {"verify_exp": False, "verify_iat": False}, audience=AUDIENCE
    )
    by_joserfc = jose.decode(text, jwk.import_key(public), algorithms=[algorithm]).claims
    ours = verifier(issuer).verify(text, NOW)

    assert by_pyjwt == by_joserfc
    assert ours.chain_text == of.chain.text()
    assert (ours.scopes, ours.resource, list(ours.details)) == (frozenset(scopes), resource, details)
    assert by_pyjwt["act"] == of.chain.act()
    assert (ours.jti, ours.expires_at) == (by_pyjwt["jti"], by_pyjwt["exp"])


# what tokens share is encoded once ---------------------------------------------------------------------------------


def said(issued: Issued) -> dict[str, Any]:
    return dict(jwt.decode(issued.secret.reveal(), options={"verify_signature": False}))


@pytest.mark.control("4 what was checked is what the token says")
def test_token_says_its_own_grant_although_another_one_under_its_key_came_before() -> None:
    issuer, first = LocalIssuer(KEY), grant(resource="", details=({"type": "one"},))
    other_intent = structs.replace(first, intent_s256="cd" * 32)
    attested = Chain(
        first.chain.subject,
        tuple(Agent(agent.name, f"spiffe://x/{agent.name}", Proof.ATTESTED) for agent in first.chain.agents),
    )
    other_user = structs.replace(first, chain=Chain(Subject("bob"), first.chain.agents))

    for of in (first, other_intent, structs.replace(first, chain=attested), other_user, first, first):
        fresh = said(minted(LocalIssuer(KEY), of))
        mine = said(minted(issuer, of))
        assert {**mine, "jti": ""} == {**fresh, "jti": ""}


@given(
    st.lists(
        st.tuples(st.sampled_from(["", "account/7", 'a"b\\']), st.sampled_from(["alice", 'é"']), st.booleans()),
        max_size=8,
    )
)
def test_tokens_one_after_the_other_say_what_each_would_say_alone(calls: list[tuple[str, str, bool]]) -> None:
    issuer = LocalIssuer(KEY)
    for resource, sub, detailed in calls:
        of = grant(resource=resource, subject=Subject(sub), details=({"type": "t", "n": 1},) if detailed else ())
        assert {**said(minted(issuer, of)), "jti": ""} == {**said(minted(LocalIssuer(KEY), of)), "jti": ""}


@given(
    issuer=NAMES,
    tool=NAMES,
    details=st.lists(st.fixed_dictionaries({"type": NAMES, "values": VALUES}), max_size=2),
)
def test_token_is_the_compact_form_of_its_claims_in_one_order_wherever_it_was_cut(
    issuer: str, tool: str, details: list[dict[str, Any]]
) -> None:
    local, of = LocalIssuer(KEY, issuer), grant(tool, resource="", details=tuple(details))
    names = ["iss", "sub", "aud", "client_id", "txn", "intent_s256", "scope", "act", "iat", "exp", "jti"]

    for issued in (minted(local, of), minted(local, of)):  # the first is encoded as a whole, the second is put together
        payload = base64.urlsafe_b64decode(issued.secret.reveal().split(".")[1] + "==").decode()
        claims = json.loads(payload)

        assert list(claims) == [*names, *(["authorization_details"] if details else [])]
        assert payload == json.dumps(claims, separators=(",", ":"), ensure_ascii=False)


class Turns:
    """Keys that take turns, as a ring's do."""

    suspends = waits = False

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = list(keys)

    async def current(self, now: float) -> SigningKey:
        return self.keys[0]

    def published(self, now: float) -> KeySet:
        return KeySet.of(self.keys[0])


@pytest.mark.control("10 keys overlap")
def test_token_is_signed_and_headed_by_the_key_whose_turn_it_is() -> None:
    turns = Turns(SigningKey.generate(), SigningKey.generate())
    issuer, of = LocalIssuer(turns), grant(resource="")

    for _ in range(3):
        issued = minted(issuer, of)
        assert jwt.get_unverified_header(issued.secret.reveal())["kid"] == turns.keys[0].kid
        assert verifier(issuer).verify(issued.secret.reveal(), NOW).jti == issued.lease.id
        turns.keys.reverse()


class Interrupted(LocalIssuer):
    """Whenever it has looked at what the last lease ended with, another thread prepares one that ends later."""

    @property
    def _second(self) -> Any:
        found = self.__dict__["second"]
        self.__dict__["second"] = 4_000_000_000
        return found

    @_second.setter
    def _second(self, ends: int) -> None:
        self.__dict__["second"] = ends


def test_lease_ends_with_its_own_task_although_others_are_prepared_meanwhile() -> None:
    issuer, now = Interrupted(SigningKey.generate()), 1_800_000_000.0
    for _ in range(2):
        issuer._second = 1_800_000_005
        assert issuer.prepare(grant(deadline=now + 5), now).expires_at == now + 5


def test_ids_go_on_after_one_for_which_there_was_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Alive(lambda: 1.0)
    first = known.prepare(30)

    def no_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(alive, "array", no_memory)
        for _ in range(255):
            known.prepare(30)
        with pytest.raises(MemoryError):
            known.prepare(30)
    assert known.issue(known.prepare(30))
    assert known.issue(first)
