"""Token exchange and client credentials: what is asked, what comes back, and that nothing broader ever gets out."""

from __future__ import annotations

import gc
import json
import types
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from agentguard import CredentialUnavailable
from agentguard._drive import drive
from agentguard._http import HttpFailure
from agentguard.credentials.leases import Leases
from agentguard.credentials.ledger import MemoryLedger
from agentguard.credentials.oauth import TokenExchange, TokenRules, WorkloadActor
from agentguard.credentials.routes import Route, Routes
from agentguard.errors import ConfigurationError, IdentityUnavailable
from agentguard.keys import SigningKey
from agentguard.model.credential import Issued
from agentguard.model.lease import Ending, Grant, Lease, Placement, Secret
from agentguard.model.principal import Agent, Chain
from agentguard.ports import Issuer
from agentguard.testing import FakeClock
from tests.credentials.oauth_server import (
    ABSENT,
    API,
    CANARY,
    CLIENT,
    ISSUER,
    URN,
    FakeServer,
    answered,
    credentials_at,
    exchange_at,
    grant,
    header,
    own_grant,
    payload,
    server_of,
    signed,
    thumbprint,
)

chain_carried = pytest.mark.control("8 the whole chain is in the token")
not_broader = pytest.mark.control("8 nothing broader than asked")
bound = pytest.mark.control("8 a bound token is bound to our key")
hidden = pytest.mark.control("8 no error holds a token")
one_target = pytest.mark.control("8 one target per exchange")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def fake(clock: FakeClock) -> FakeServer:
    return FakeServer(clock)


def issued_by(issuer: Any, asked: Grant, now: float) -> Issued:
    issued: Issued = drive(issuer.issue(asked, issuer.prepare(asked, now), now))
    return issued


def refusal_by(issuer: Any, asked: Grant, now: float) -> str:
    with pytest.raises(CredentialUnavailable) as caught:
        issued_by(issuer, asked, now)
    return str(caught.value)


# what is asked -------------------------------------------------------------------------------------------------------


def test_an_exchange_asks_for_one_target_with_the_scopes_and_details_of_the_grant(fake: FakeServer) -> None:
    details = ({"type": "agentguard_tool_call", "actions": ["pay"], "locations": [API]},)

    issued_by(exchange_at(fake), grant(scopes=("pay", "read"), authorization_details=details), fake.clock())

    [form] = fake.posts()
    assert f"{URN}grant-type:token-exchange" == form["grant_type"]
    assert (CANARY, f"{URN}token-type:id_token") == (form["subject_token"], form["subject_token_type"])
    assert f"{URN}token-type:access_token" == form["requested_token_type"]
    assert (API, "pay read") == (form["resource"], form["scope"])
    assert list(details) == json.loads(form["authorization_details"])
    assert "client_secret" not in form


@one_target
def test_the_target_can_be_an_audience_and_have_another_name(fake: FakeServer) -> None:
    issuer = exchange_at(fake, target="audience", targets={API: "urn:payments"})

    issued = issued_by(issuer, grant(), fake.clock())

    [form] = fake.posts()
    assert ("urn:payments", False) == (form["audience"], "resource" in form)
    assert "urn:payments" == payload(issued.secret.reveal())["aud"]
    assert API == issued.lease.key.audience


@chain_carried
@pytest.mark.parametrize("agents", [("a",), ("a", "b"), ("a", "b", "c", "d")])
def test_one_exchange_carries_the_whole_chain(fake: FakeServer, agents: tuple[str, ...]) -> None:
    issued = issued_by(exchange_at(fake), grant(*agents), fake.clock())

    assert 1 == len(fake.posts())
    actor = payload(fake.posts()[0]["actor_token"])
    assert (CLIENT, ISSUER, f"agent:{agents[-1]}") == (actor["iss"], actor["aud"], actor["sub"])
    assert actor["exp"] - actor["iat"] <= 60
    assert Chain(grant().chain.subject, tuple(map(Agent, agents))).act() == payload(issued.secret.reveal())["act"]


def test_a_chain_of_more_than_sixteen_agents_fits_no_token(fake: FakeServer) -> None:
    assert "16 agents" in refusal_by(exchange_at(fake), grant(*(f"a{n}" for n in range(17))), fake.clock())
    assert [] == fake.seen


def test_an_asserted_user_cannot_be_exchanged_and_the_error_says_what_to_do(fake: FakeServer) -> None:
    assert "User.verified" in refusal_by(exchange_at(fake), grant(subject_token=None), fake.clock())
    assert [] == fake.seen


class Tokens:
    """A workload's tokens, or none."""

    def __init__(self, works: bool = True) -> None:
        self.works = works

    async def token(self, audience: str, now: float) -> Secret:
        if not self.works:
            raise IdentityUnavailable("no token for this audience")
        return Secret(f"token-for-{audience}")


def workload_exchange(fake: FakeServer, works: bool = True) -> TokenExchange:
    return TokenExchange(server_of(fake), WorkloadActor(Tokens(works), ISSUER), TokenRules())


def proved(*identities: str) -> Grant:
    asked = grant()
    agents = tuple(Agent(f"agent-{n}", identity) for n, identity in enumerate(identities))
    return Grant(
        key=asked.key,
        chain=Chain(asked.chain.subject, agents),
        task="t",
        intent_s256="s",
        deadline=asked.deadline,
        subject_token=asked.subject_token,
    )


def test_a_workload_proves_one_agent_by_its_own_token(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "checked", lambda *_: {"sub": "spiffe://bank.test/bot", "iss": "x"})
    monkeypatch.setattr(fake, "_authenticated", lambda route: route)

    issued = issued_by(workload_exchange(fake), proved("spiffe://bank.test/bot"), fake.clock())

    assert f"token-for-{ISSUER}" == fake.posts()[0]["actor_token"]
    assert {"sub": "spiffe://bank.test/bot"} == payload(issued.secret.reveal())["act"]


@chain_carried
def test_a_workloads_token_carries_no_chain_and_the_error_says_so(fake: FakeServer) -> None:
    assert "actor: signed" in refusal_by(workload_exchange(fake), proved("spiffe://a", "spiffe://b"), fake.clock())
    assert "no proved identity" in refusal_by(workload_exchange(fake), proved(""), fake.clock())
    assert [] == fake.posts()


def test_a_workload_without_a_token_gets_none(fake: FakeServer) -> None:
    issuer = workload_exchange(fake, works=False)

    assert "no token for this audience" in refusal_by(issuer, proved("spiffe://a"), fake.clock())


def test_an_agent_on_its_own_account_gets_a_token_that_names_no_user(fake: FakeServer) -> None:
    for issuer in (exchange_at(fake), credentials_at(fake)):
        issued = issued_by(issuer, own_grant(), fake.clock())
        claims = payload(issued.secret.reveal())
        assert (CLIENT, False) == (claims["sub"], "act" in claims)
        assert "client_credentials" == fake.posts()[-1]["grant_type"]
        assert "subject_token" not in fake.posts()[-1]


def test_client_credentials_act_for_nobody_and_through_nobody(fake: FakeServer) -> None:
    assert "no user" in refusal_by(credentials_at(fake), grant(), fake.clock())
    for issuer in (exchange_at(fake), credentials_at(fake)):
        assert "chain of agents" in refusal_by(issuer, own_grant("support-bot", "helper"), fake.clock())
    assert [] == fake.seen


# the lease -----------------------------------------------------------------------------------------------------------


def test_the_prepared_lease_ends_no_earlier_than_any_token_that_would_be_accepted(fake: FakeServer) -> None:
    now = fake.clock()
    lease = exchange_at(fake, max_lifetime=300).prepare(grant(deadline=now + 5), now)

    # A server does not know the task's end, and may issue until the request is given up.
    assert lease.expires_by >= now + 300 + 15 + 30
    assert (ISSUER, "t", 32) == (lease.issuer, lease.task, len(lease.id))
    assert isinstance(exchange_at(fake), Issuer)


def test_a_scope_that_would_be_two_is_a_mistake(fake: FakeServer) -> None:
    with pytest.raises(ConfigurationError, match="scope"):
        exchange_at(fake).prepare(grant(scopes=("pay read",)), fake.clock())


def test_the_lease_says_when_the_token_ends_and_how_its_server_names_it(fake: FakeServer) -> None:
    issued = issued_by(exchange_at(fake), grant(), fake.clock())
    claims = payload(issued.secret.reveal())

    assert (claims["exp"], claims["jti"], "at+jwt") == (issued.lease.expires_at, issued.lease.jti, issued.lease.type)
    assert (Placement.BEARER, None) == (issued.lease.placement, issued.prover)
    assert issued.secret.fingerprint() == issued.lease.fingerprint


def test_an_opaque_token_ends_when_the_answer_says(fake: FakeServer) -> None:
    fake.opaque = True
    issued = issued_by(exchange_at(fake), grant(), fake.clock())

    assert (fake.clock() + 60, "access_token") == (issued.lease.expires_at, issued.lease.type)


def test_after_the_tasks_end_nothing_is_asked(fake: FakeServer) -> None:
    now = fake.clock()
    issuer = exchange_at(fake)
    over = grant(deadline=now)
    late = issuer.prepare(grant(), now)

    assert "end has passed" in refusal_by(issuer, over, now)
    with pytest.raises(CredentialUnavailable, match="end has passed"):
        drive(issuer.issue(grant(deadline=now + 9e9), late, late.expires_at))
    assert [] == fake.seen
    assert Ending.REVOKED is drive(issuer.revoke(late))


@pytest.mark.parametrize(
    "rules",
    [{"max_lifetime": 0}, {"max_lifetime": 86_401}, {"default_lifetime": 121}, {"leeway": 61}, {"target": "x"},
     {"subject": "x"}],
)  # fmt: skip
def test_rules_out_of_bounds_are_a_mistake(rules: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        TokenRules(**rules)


# what comes back -----------------------------------------------------------------------------------------------------

DETAIL = {"type": "agentguard_tool_call", "actions": ["pay"], "locations": [API]}
DETAILS = (DETAIL,)
WRONG_CLAIMS: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://evil.test"},
    "another audience": {"aud": "https://other.test"},
    "another audience beside": {"aud": [API, "https://other.test"]},
    "no audience": {"aud": ABSENT},
    "another subject": {"sub": "mallory"},
    "a prefix of the subject": {"sub": "alic"},
    "another client": {"client_id": "other"},
    "expired": {"iat": 1_799_999_000, "exp": 1_799_999_060},
    "too long a life": {"exp": 1_800_000_121},
    "no end": {"exp": ABSENT},
    "no id": {"jti": ABSENT},
    "no actor": {"act": ABSENT},
    "another actor": {"act": {"sub": "agent:other"}},
    "the actor without a prefix": {"act": {"sub": "support-bot"}},
    "an actor more": {"act": {"sub": "agent:support-bot", "act": {"sub": "agent:x"}}},
    "a malformed actor": {"act": "agent:support-bot"},
    "a broader scope": {"scope": "pay admin"},
    "a scope that is no text": {"scope": ["pay"]},
    "bound to a key": {"cnf": {"jkt": "x"}},
    "no details": {"authorization_details": ABSENT},
    "broader details": {"authorization_details": [{**DETAIL, "actions": ["pay", "refund"]}]},
    "details with a restriction less": {"authorization_details": [{"type": DETAIL["type"], "actions": ["pay"]}]},
}  # fmt: skip


@not_broader
@pytest.mark.parametrize("name", list(WRONG_CLAIMS))
def test_a_jwt_that_is_not_what_was_asked_for_is_revoked_and_refused(fake: FakeServer, name: str) -> None:
    fake.claims = WRONG_CLAIMS[name]

    text = refusal_by(exchange_at(fake), grant(authorization_details=DETAILS), fake.clock())

    assert {} == fake.alive
    assert ["/revoke"] == [one.url.removeprefix(ISSUER) for one in fake.seen][-1:]
    assert "mallory" not in text
    assert "eyJ" not in text


@chain_carried
def test_a_chain_in_the_wrong_order_is_refused(fake: FakeServer) -> None:
    fake.claims = {"act": {"sub": "agent:a", "act": {"sub": "agent:b"}}}

    assert "chain of agents" in refusal_by(exchange_at(fake), grant("a", "b"), fake.clock())


def test_an_own_token_with_an_actor_or_another_subject_is_refused(fake: FakeServer) -> None:
    fake.claims = {"act": {"sub": "agent:x"}}
    assert "chain of agents" in refusal_by(credentials_at(fake), own_grant(), fake.clock())
    fake.claims = {"sub": "alice"}
    assert "another subject" in refusal_by(credentials_at(fake), own_grant(), fake.clock())


def test_a_server_may_map_the_subject_where_that_is_configured(fake: FakeServer) -> None:
    fake.claims = {"sub": "u-4711"}

    issued_by(exchange_at(fake, subject="any"), grant(), fake.clock())


@not_broader
def test_a_token_signed_by_nobody_we_know_is_refused(fake: FakeServer) -> None:
    forged = signed(fake._claims({"client_id": CLIENT, "resource": API, "scope": "pay"}, ""), key=SigningKey.generate())
    fake.answer = {"access_token": forged}

    assert "no known key" in refusal_by(credentials_at(fake), own_grant(), fake.clock())


def test_without_published_keys_a_jwt_is_refused(fake: FakeServer) -> None:
    fake.metadata = {"jwks_uri": ABSENT}

    assert "jwks_uri" in refusal_by(exchange_at(fake), grant(), fake.clock())


@not_broader
def test_narrower_than_asked_is_taken(fake: FakeServer) -> None:
    fake.answer = {"scope": "pay"}
    fake.claims = {"scope": "pay"}

    issued_by(exchange_at(fake), grant(scopes=("pay", "read")), fake.clock())


def test_a_server_may_enrich_details_only_where_that_is_configured(fake: FakeServer) -> None:
    enriched = [{**DETAILS[0], "limit": "50"}]
    fake.answer, fake.claims = {"authorization_details": enriched}, {"authorization_details": enriched}

    issued_by(exchange_at(fake, enrichment=True), grant(authorization_details=DETAILS), fake.clock())
    assert "details" in refusal_by(exchange_at(fake), grant(authorization_details=DETAILS), fake.clock())


@not_broader
def test_an_opaque_token_whose_details_nobody_confirms_is_refused(fake: FakeServer) -> None:
    fake.opaque, fake.answer = True, {"authorization_details": ABSENT}

    assert "details" in refusal_by(exchange_at(fake), grant(authorization_details=DETAILS), fake.clock())
    assert {} == fake.alive


def test_an_opaque_token_that_never_says_when_it_ends_needs_a_configured_lifetime(fake: FakeServer) -> None:
    fake.opaque, fake.answer = True, {"expires_in": ABSENT}

    assert "expires_in" in refusal_by(exchange_at(fake), grant(), fake.clock())
    issued = issued_by(exchange_at(fake, default_lifetime=20), grant(), fake.clock())
    assert fake.clock() + 20 == issued.lease.expires_at


def test_a_jwt_says_itself_when_it_ends(fake: FakeServer) -> None:
    fake.answer = {"expires_in": ABSENT}

    assert fake.clock() + 60 == issued_by(exchange_at(fake), grant(), fake.clock()).lease.expires_at


# DPoP ----------------------------------------------------------------------------------------------------------------


@bound
def test_a_bound_token_brings_the_key_that_it_is_bound_to(fake: FakeServer) -> None:
    issuer = exchange_at(fake, dpop=True)

    one, other = (issued_by(issuer, grant(), fake.clock()) for _ in range(2))

    assert Placement.DPOP is one.lease.placement
    assert one.prover is not None
    proof = one.prover.proof("GET", f"{API}/x", one.secret.reveal())
    jkt = payload(one.secret.reveal())["cnf"]["jkt"]
    assert jkt == thumbprint(header(proof)["jwk"])
    assert jkt != payload(other.secret.reveal())["cnf"]["jkt"]


@bound
@pytest.mark.parametrize("cnf", [ABSENT, {"jkt": "another"}, {"jkt": "x", "x5t#S256": "y"}, {}, None, "x"])
def test_a_token_bound_to_no_key_or_another_is_refused(fake: FakeServer, cnf: Any) -> None:
    fake.claims = {"cnf": cnf}

    assert "not bound" in refusal_by(exchange_at(fake, dpop=True), grant(), fake.clock())
    assert {} == fake.alive


@bound
@pytest.mark.parametrize("name", list(WRONG_CLAIMS))
def test_a_bound_jwt_is_held_against_the_same_rules(fake: FakeServer, name: str) -> None:
    fake.claims = WRONG_CLAIMS[name]

    refusal_by(exchange_at(fake, dpop=True), grant(authorization_details=DETAILS), fake.clock())

    assert {} == fake.alive


# failures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [HttpFailure("reset", sent=True), HttpFailure("timeout", sent=True)])
def test_a_lost_answer_may_be_a_token_and_ends_by_itself(fake: FakeServer, failure: HttpFailure) -> None:
    issuer, now = exchange_at(fake), fake.clock()
    lease = issuer.prepare(grant(), now)
    fake.script = [failure]

    with pytest.raises(CredentialUnavailable, match="no answer"):
        drive(issuer.issue(grant(), lease, now))

    assert Ending.EXPIRES is drive(issuer.revoke(lease))


@pytest.mark.parametrize(
    "step",
    [HttpFailure("refused", sent=False), answered(400, {"error": "invalid_scope"}), answered(401, {}), answered(503)],
)
def test_where_no_token_can_exist_the_lease_is_over(fake: FakeServer, step: Any) -> None:
    issuer, now = exchange_at(fake), fake.clock()
    lease = issuer.prepare(grant(), now)
    fake.script = [step]

    with pytest.raises(CredentialUnavailable):
        drive(issuer.issue(grant(), lease, now))

    assert [Ending.REVOKED] * 2 == [drive(issuer.revoke(lease)) for _ in range(2)]
    assert Ending.EXPIRES is drive(exchange_at(fake).revoke(lease))  # another process does not know


@pytest.mark.parametrize("status", [500, 502, 504])
def test_a_server_that_failed_may_have_issued(fake: FakeServer, status: int) -> None:
    issuer, now = exchange_at(fake), fake.clock()
    lease = issuer.prepare(grant(), now)
    fake.script = [answered(status)]

    with pytest.raises(CredentialUnavailable):
        drive(issuer.issue(grant(), lease, now))

    assert Ending.EXPIRES is drive(issuer.revoke(lease))


def test_a_refusal_after_a_lost_answer_does_not_say_that_there_is_no_token(fake: FakeServer) -> None:
    issuer, now = exchange_at(fake), fake.clock()
    lease = issuer.prepare(grant(), now)
    fake.script = [replace(answered(400, {"error": "invalid_grant"}), unsure=True)]

    with pytest.raises(CredentialUnavailable, match="invalid_grant"):
        drive(issuer.issue(grant(), lease, now))

    assert Ending.EXPIRES is drive(issuer.revoke(lease))


@not_broader
def test_what_could_not_be_revoked_at_once_is_revoked_when_asked_again(fake: FakeServer) -> None:
    issuer, now = exchange_at(fake), fake.clock()
    lease = issuer.prepare(grant(), now)
    fake.claims = {"scope": "pay admin"}
    fake.script = [None, answered(503)]

    with pytest.raises(CredentialUnavailable, match="broader"):
        drive(issuer.issue(grant(), lease, now))
    assert 1 == len(fake.alive)

    assert [Ending.REVOKED] * 2 == [drive(issuer.revoke(lease)) for _ in range(2)]
    assert {} == fake.alive


@not_broader
@pytest.mark.parametrize(
    ("revoking", "ending"),
    [
        ([], Ending.REVOKED),
        ([answered(503)], Ending.EXPIRES),
        ([answered(400, {"error": "unsupported_token_type"})], Ending.EXPIRES),
        ([None, answered(503)], Ending.REVOKED),  # the access token, which is asked for again
    ],
)
def test_a_refresh_token_that_nobody_asked_for_is_revoked_too(
    fake: FakeServer, revoking: list[Any], ending: Ending
) -> None:
    issuer, now = exchange_at(fake), fake.clock()
    lease, fake.answer = issuer.prepare(grant(), now), {"refresh_token": "a refresh token"}
    fake.alive["a refresh token"] = {}
    fake.script = [None, *revoking]

    with pytest.raises(CredentialUnavailable, match="refresh token"):
        drive(issuer.issue(grant(), lease, now))

    assert ending is drive(issuer.revoke(lease))
    assert (["a refresh token"] if ending is Ending.EXPIRES else []) == list(fake.alive)


def test_leases_roll_back_to_nothing_when_the_server_grants_more(fake: FakeServer, clock: FakeClock) -> None:
    fake.opaque, fake.answer = True, {"scope": "pay admin"}
    leases = Leases(exchange_at(fake), MemoryLedger(), lambda event, fields: None, clock)
    leases.open_task("t")

    with pytest.raises(CredentialUnavailable):
        drive(leases.obtain(grant()))

    assert (0, {}) == (drive(leases.outstanding()), fake.alive)


@hidden
@pytest.mark.parametrize("unsure", [False, True])
def test_a_token_is_shown_to_no_other_server_that_took_the_place_of_its_own(fake: FakeServer, unsure: bool) -> None:
    """A later process finds the lease under its broker's name, and asks another server by now."""
    if unsure:
        fake.script = [lambda sent: replace(fake._routes()["/token"](sent, dict(sent.form or ())), unsure=True)]
    other, now = FakeServer(fake.clock, "https://new-as.test"), fake.clock()
    before, after = (Routes([Route("exchange", exchange_at(one))]) for one in (fake, other))
    issued = issued_by(before, grant(), now)

    with pytest.raises(CredentialUnavailable, match=r"the token is of https://as\.test, .* https://new-as\.test now"):
        drive(after.revoke(issued.lease, issued.handle))

    assert ([], 1) == (other.seen, len(fake.alive))
    assert (Ending.EXPIRES if unsure else Ending.REVOKED) is drive(before.revoke(issued.lease, issued.handle))
    assert {} == fake.alive


@not_broader
@pytest.mark.parametrize(("differs", "before"), [({}, 0), ({}, 1), ({"scope": "pay admin"}, 0)])
def test_a_token_whose_caller_is_stopped_before_it_has_it_is_revoked(
    fake: FakeServer, clock: FakeClock, differs: dict[str, Any], before: int
) -> None:
    """Stopped while the token is introspected, while it is revoked for what introspection said, or for its scope."""
    leases = Leases(exchange_at(fake, introspect=True), MemoryLedger(), lambda event, fields: None, clock)
    leases.open_task("t")
    fake.opaque, fake.answer, fake.introspection = True, differs, {"aud": "https://other.test"} if before else {}
    fake.script = [None, *([None] * before), KeyboardInterrupt()]

    with pytest.raises(KeyboardInterrupt):
        drive(leases.obtain(grant()))

    assert (0, {}) == (drive(leases.outstanding()), fake.alive)


def errors_below(value: object, seen: set[int], depth: int = 7) -> Iterator[str]:
    if id(value) in seen or depth == 0 or isinstance(value, types.ModuleType | type | types.FrameType):
        return
    seen.add(id(value))
    if isinstance(value, str | bytes):
        yield value if isinstance(value, str) else value.decode("latin-1")
    elif not isinstance(value, types.FunctionType | types.MethodWrapperType):
        for item in gc.get_referents(value):
            yield from errors_below(item, seen, depth - 1)


def texts_of(error: BaseException) -> list[str]:
    """Every text within reach of an error and of the frames of our code that it passed."""
    found: list[str] = []
    one: BaseException | None = error
    while one is not None:
        roots: list[object] = [one.args, vars(one), str(one), repr(one)]
        trace = one.__traceback__
        while trace is not None:
            if "/src/agentguard/" in trace.tb_frame.f_code.co_filename:
                roots.extend(trace.tb_frame.f_locals.values())
            trace = trace.tb_next
        seen: set[int] = set()
        found += [text for root in roots for text in errors_below(root, seen)]
        one = one.__cause__ or one.__context__
    return found


@hidden
@pytest.mark.parametrize("name", [*WRONG_CLAIMS, "error body", "html", "lost", "duplicate", "workload"])
def test_no_error_holds_a_token_or_what_the_server_said(fake: FakeServer, name: str) -> None:
    secret = "canary-in-the-body-of-the-answer"
    fake.claims = WRONG_CLAIMS.get(name, {})
    bodies: dict[str, list[Any]] = {
        "error body": [answered(400, {"error": secret, "error_description": secret})],
        "html": [answered(200, f"<p>{secret}</p>".encode(), content_type="text/html")],
        "lost": [HttpFailure("reset", sent=True)],
        "duplicate": [answered(200, f'{{"access_token": "{secret}", "access_token": "{secret}"}}'.encode())],
    }
    fake.script = bodies.get(name, [])
    issuer: Any = workload_exchange(fake, works=False) if name == "workload" else exchange_at(fake)
    asked, now = grant(authorization_details=DETAILS), fake.clock()
    lease = issuer.prepare(asked, now)

    with pytest.raises(CredentialUnavailable) as caught:
        drive(issuer.issue(asked, lease, now))

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    del fake.alive, fake.seen[:]
    texts = texts_of(caught.value)
    assert not [
        text for text in texts if CANARY in text or secret in text or (text.startswith("eyJ") and "." in text)
    ]  # a header alone is none


@hidden
def test_nothing_shows_a_token_in_its_repr(fake: FakeServer) -> None:
    issuer = exchange_at(fake)
    issued = issued_by(issuer, grant(), fake.clock())

    shown = " ".join(map(repr, (issuer, issued, server_of(fake), grant())))

    assert "eyJ" not in shown
    assert CANARY not in shown


# sync, async, fork ---------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_same_core_serves_an_event_loop(fake: FakeServer) -> None:
    issuer, now = exchange_at(fake), fake.clock()
    lease: Lease = issuer.prepare(grant(), now)

    issued = await issuer.issue(grant(), lease, now)

    assert Ending.REVOKED is await issuer.revoke(issued.lease, issued.handle)
    assert (False, True, True) == (issuer.suspends, issuer.waits, issuer.remote)


def test_after_a_fork_the_child_knows_nothing_of_its_parents_leases(fake: FakeServer) -> None:
    issuer, now = exchange_at(fake), fake.clock()
    lease = issuer.prepare(grant(), now)
    fake.script = [answered(400, {"error": "invalid_scope"})]
    with pytest.raises(CredentialUnavailable):
        drive(issuer.issue(grant(), lease, now))

    issuer.after_fork()

    assert Ending.EXPIRES is drive(issuer.revoke(lease))
    issued_by(issuer, grant(), now)


def test_another_token_may_exist_after_a_retry_so_the_lease_is_never_called_revoked(fake: FakeServer) -> None:
    issuer, now = exchange_at(fake), fake.clock()
    fake.script = [lambda request: replace(fake._routes()["/token"](request, dict(request.form or ())), unsure=True)]
    lease = issuer.prepare(grant(), now)

    issued = drive(issuer.issue(grant(), lease, now))

    assert issued.lease.expires_by >= lease.expires_by
    assert Ending.EXPIRES is drive(issuer.revoke(issued.lease, issued.handle))
    assert {} == fake.alive


@pytest.mark.parametrize(
    "last", [None, answered(400, {"error": "invalid_grant"}), HttpFailure("no connection", sent=False)]
)
def test_what_a_lost_answer_may_have_left_is_not_forgotten_when_a_nonce_is_asked_for(
    fake: FakeServer, last: Any
) -> None:
    issuer, now = exchange_at(fake, dpop=True), fake.clock()
    lease = issuer.prepare(grant(), now)
    wants = answered(400, {"error": "use_dpop_nonce"}, dpop_nonce="next")
    fake.script = [replace(wants, unsure=True), last]  # the answer to the attempt before it was lost

    try:
        issued = drive(issuer.issue(grant(), lease, now))
        ended = drive(issuer.revoke(issued.lease, issued.handle))
    except CredentialUnavailable:
        ended = drive(issuer.revoke(lease))

    assert Ending.EXPIRES is ended
    assert {} == fake.alive
