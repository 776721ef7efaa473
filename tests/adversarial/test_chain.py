"""Cases 47 to 52 (context and delegation) and 12 for handovers, each by its number, across two guards."""

from __future__ import annotations

import contextvars
import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentguard import Denied, Guard, Intent, current_credential, current_task, guarded, step
from agentguard._drive import drive
from agentguard.errors import ConfigurationError, TokenRejected
from agentguard.handover import Handovers
from agentguard.identity.id_token import IdTokenVerifier
from agentguard.keys import KeySet, SigningKey
from agentguard.model.principal import Agent, Proof, Subject
from agentguard.registry import RegisteredAgent, Registry
from agentguard.resource_server import TokenVerifier
from agentguard.testing import FakeClock, fake_guard
from agentguard.user import User
from tests.handing import DOMAIN, KEYS, claims_of, guard_of, pay, read, refund, refunds, signed

forged = pytest.mark.control("7 what a handover says is signed and agrees")
kinds = pytest.mark.control("7 a handover is no access token and no access token a handover")
stopped = pytest.mark.control("7 a stop anywhere in the chain refuses a handover")
bounded = pytest.mark.control("7 cycles and depth are refused across hosts")
apart = pytest.mark.control("7 environments and tenants stay apart")


@pytest.fixture
def home() -> Iterator[Guard]:
    with guard_of("home", "far", "third") as made:
        yield made


@pytest.fixture
def far() -> Iterator[Guard]:
    with guard_of("far", "home", "third") as made:
        yield made


def exported(home: Guard, to: str = "researcher", **how: Any) -> str:
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        return task.export(to, **how)


# 12 -----------------------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize(
    "typ",
    ["JWT", "at+jwt", "dpop+jwt", "secevent+jwt", "statuslist+jwt", "oauth-id-jag+jwt", "", "txntoken", "txn+jwt"],
)
def test_case_12_nothing_but_a_handover_is_redeemed(home: Guard, far: Guard, typ: str) -> None:
    token = signed(claims_of(exported(home)), KEYS["home"], typ)
    with pytest.raises(TokenRejected, match="typ"):
        far.resume(token)


@kinds
def test_case_12_a_handover_is_no_access_token_and_no_id_token(home: Guard) -> None:
    token, keys = exported(home), KeySet.of(KEYS["home"])
    with pytest.raises(TokenRejected, match="typ"):
        TokenVerifier(keys, issuer="home", audience=DOMAIN, revoked=lambda issuer, jti: False).verify(token)
    with pytest.raises(TokenRejected, match="typ"):
        drive(IdTokenVerifier(keys, "home", DOMAIN).verify(token, home.now()))


# 47 to 49: context --------------------------------------------------------------------------------------------


def test_case_47_a_thread_without_context_is_denied_and_a_bound_one_works(home: Guard, far: Guard) -> None:
    with far.resume(exported(home)) as task, ThreadPoolExecutor(1) as pool:
        with pytest.raises(Denied, match="no_task"):
            pool.submit(read, "acme").result()
        assert pool.submit(task.bind(read), "acme").result()
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(_outcome(lambda: read("acme"))))
        thread.start()
        thread.join()
        assert found == ["no_task"]


@pytest.mark.anyio
async def test_case_47_threads_that_copy_the_context_see_the_resumed_task(home: Guard, far: Guard) -> None:
    async with far.resume(exported(home)) as task:
        assert await anyio.to_thread.run_sync(current_task) is task


@pytest.mark.anyio
async def test_case_48_many_resumed_tasks_at_once_never_cross() -> None:
    seen: list[tuple[str, str]] = []

    @guarded("handed.who", effect="read")
    async def who() -> None:
        before = current_task().chain.subject.name
        await anyio.lowlevel.checkpoint()
        seen.append((before, current_task().chain.subject.name))

    async def work(far: Guard, token: str) -> None:
        async with far.resume(token) as task:
            for _ in range(5):
                await who()
                assert current_task() is task

    with guard_of("home") as home, guard_of("far", "home") as far:
        tokens = []
        for number in range(20):
            user = User.asserted(f"user{number}", tenant=f"t{number}")
            async with home.task("bot", on_behalf_of=user, intent=Intent("p", reads=["handed.who"])) as task:
                tokens.append(await task.aexport("researcher"))
        async with anyio.create_task_group() as group:
            for token in tokens:
                group.start_soon(work, far, token)
    assert len(seen) == 100
    assert all(before == after for before, after in seen)
    with pytest.raises(Denied, match="no_task"):
        current_task()


def test_case_48_a_pool_thread_holds_nothing_after_the_task(home: Guard, far: Guard) -> None:
    with ThreadPoolExecutor(1) as pool:
        with far.resume(exported(home)) as task:
            bound = task.bind(read)
            pool.submit(bound, "acme").result()
        assert pool.submit(_outcome, lambda: read("acme")).result() == "no_task"
        assert pool.submit(_outcome, lambda: bound("acme")).result() == "task_ended"


def test_case_49_a_task_left_in_another_context_leaks_nothing(home: Guard, far: Guard) -> None:
    task = far.resume(exported(home))
    contextvars.copy_context().run(task.__enter__)
    assert _outcome(current_task) == "no_task"
    task.__exit__(None, None, None)
    assert task.state == "ended"


# 50 -----------------------------------------------------------------------------------------------------------


def _edited(token: str, edit: Callable[[dict[str, Any]], None], key: SigningKey | None = None) -> str:
    claims = copy.deepcopy(claims_of(token))
    edit(claims)
    return signed(claims, key or KEYS["home"])


EDITS: dict[str, Callable[[dict[str, Any]], None]] = {
    "another actor": lambda c: c.update(act={"sub": "agent:admin"}),
    "a longer act": lambda c: c.update(act={"sub": "agent:bot", "act": {"sub": "agent:root"}}),
    "no act": lambda c: c.pop("act"),
    "another subject": lambda c: c.update(sub="user:root"),
    "a narrower scope": lambda c: c.update(scope="handed.read"),
    "another hash": lambda c: c["tctx"].update(intent_s256="x"),
    "an agent without a level": lambda c: c["tctx"]["agents"].append({"name": "admin"}),
    "no level": lambda c: c["tctx"].update(levels=[]),
    "a ceiling alone": lambda c: c["tctx"]["levels"][-1].update(ceiling=True),
    "a level of nobody": lambda c: c["tctx"]["levels"][0].update(agent=3),
    "an unknown member": lambda c: c["tctx"].update(admin=True),
    "another version": lambda c: c["tctx"].update(v=2),
    "a proof that is none": lambda c: c["tctx"]["subject"].update(proof="certain"),
    "no environment": lambda c: c.update(rctx={"x": 1}),
    "no tctx": lambda c: c.pop("tctx"),
    "text for tctx": lambda c: c.update(tctx="x"),
    "no jti": lambda c: c.pop("jti"),
    "no txn": lambda c: c.update(txn=""),
    "a set from a file": lambda c: c["tctx"]["levels"][0].update(
        intent="version: 1\npurpose: p\nsets: {s: {file: secrets.yaml}}\nreads: [handed.read]\n"
    ),
    "a set from the environment below": lambda c: c["tctx"]["levels"][0].update(
        intent="version: 1\npurpose: p\nreads: [a]\nagents: {x: {reads: [a], sets: {s: {env: HOME}}}}\n"
    ),
    "an intent that is none": lambda c: c["tctx"]["levels"][0].update(intent="- no"),
    "another key": lambda c: c.update(cnf={"jkt": "x"}),
    "too long a life": lambda c: c.update(exp=c["iat"] + 900),
}


@forged
@pytest.mark.parametrize("name", list(EDITS))
def test_case_50_claims_that_contradict_each_other_are_refused_even_if_signed(
    home: Guard, far: Guard, name: str
) -> None:
    token = _edited(exported(home), EDITS[name])
    with pytest.raises(TokenRejected):
        far.resume(token)


@forged
@pytest.mark.parametrize("name", ["another actor", "another subject", "no level"])
def test_case_50_edited_tokens_are_refused_by_their_signature(home: Guard, far: Guard, name: str) -> None:
    token = exported(home)
    head, _, signature = token.split(".")
    body = _edited(token, EDITS[name]).split(".")[1]
    with pytest.raises(TokenRejected, match="signature"):
        far.resume(f"{head}.{body}.{signature}")


@forged
@pytest.mark.parametrize("source", ["env: HOME", "file: secrets.yaml", "resolve: orders_of"])
@pytest.mark.parametrize("below", [True, False])
def test_case_50_what_a_peer_writes_makes_this_process_read_nothing(
    home: Guard, far: Guard, source: str, below: bool
) -> None:
    sets = f"sets: {{s: {{{source}}}}}"
    inside = f"agents: {{x: {{reads: [handed.read], {sets}}}}}" if below else sets
    text = f"version: 1\npurpose: p\nreads: [handed.read]\n{inside}\n"
    named = {"intent": text, "intent_s256": Intent.from_yaml(text).s256}
    with pytest.raises(TokenRejected, match="intent"):
        far.resume(_edited(exported(home), lambda c: c["tctx"].update(named)))


@forged
@pytest.mark.parametrize("name", ["limit", "amount"])
@pytest.mark.parametrize("number", ["", " ", "x", "NaN", "1e999", "0x10", "1_0", "5\n", "\u0665"])
def test_case_50_budgets_that_are_no_numbers_are_refused_before_the_handover_is_used_up(
    home: Guard, far: Guard, name: str, number: str
) -> None:
    with pytest.raises(TokenRejected, match="malformed"):
        far.resume(_edited(exported(home), lambda c: c["tctx"]["levels"][0]["spent"][0].update({name: number})))


@forged
def test_case_50_a_task_that_would_name_another_scope_of_counters_is_refused(home: Guard, far: Guard) -> None:
    with pytest.raises(TokenRejected, match="malformed"):
        far.resume(_edited(exported(home), lambda c: c["tctx"]["levels"][0].update(task="a/b")))


@forged
@pytest.mark.parametrize("spent", [True, False])
def test_case_50_another_peer_that_repeats_an_id_touches_no_counters_of_the_first(home: Guard, spent: bool) -> None:
    def change(said: Any) -> None:
        said["iss"] = "third"
        if not spent:
            said["tctx"]["levels"][0]["spent"] = []

    with guard_of("far", "home", "third") as far:
        token = exported(home, share="0.2")  # two of ten

        def open_the_other() -> None:
            with far.resume(_edited(token, change, KEYS["third"])):
                pass

        with far.resume(token):
            refund("acme", Decimal(1))
            contextvars.Context().run(open_the_other)
            refund("acme", Decimal(1))
            with pytest.raises(Denied, match="budget_exhausted"):
                refund("acme", Decimal(1))


@forged
def test_case_50_an_agent_whose_only_level_is_a_ceiling_does_not_pass_the_registry_by(home: Guard) -> None:
    def hide(claims: dict[str, Any]) -> None:
        only_reads = {"intent": Intent("c", reads=["handed.read"]).to_yaml(), "spent": [], "ceiling": True}
        claims["tctx"]["levels"][0].update(only_reads)

    agents = [RegisteredAgent(agent=Agent("bot", registered=True), status="retired")]
    agents += [RegisteredAgent(agent=Agent("auditor", registered=True))]
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        with task.delegate("clerk", reads=["handed.read"]) as sub:
            token = _edited(sub.export("auditor"), hide)
    with guard_of("far", "home", registry=Registry(agents)) as far:
        with pytest.raises(TokenRejected, match="malformed"), far.resume(token):
            read("acme")


@forged
def test_case_50_levels_stand_in_the_order_of_the_chain(home: Guard, far: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        with task.delegate("clerk", reads=["handed.read"]) as sub:
            token = sub.export("researcher", reads=["handed.read"])
    with pytest.raises(TokenRejected, match="malformed"):
        far.resume(_edited(token, lambda c: c["tctx"]["levels"].reverse()))


@forged
def test_case_50_unknown_issuers_and_keys_of_another_issuer_are_refused(home: Guard, far: Guard) -> None:
    token = exported(home)
    with pytest.raises(TokenRejected, match="no issuer"):
        far.resume(_edited(token, lambda c: c.update(iss="stranger"), KEYS["stranger"]))
    with pytest.raises(TokenRejected, match="no issuer"):
        far.resume(_edited(token, lambda c: None, KEYS["stranger"]))
    with pytest.raises(TokenRejected, match="issuer"):  # a peer says what only another one may
        far.resume(_edited(token, lambda c: None, KEYS["third"]))
    for junk in ("", "x", "a.b.c", token[:-1], f"{token} ", token + "=", "x" * 20_000, None):
        with pytest.raises(TokenRejected):
            far.resume(junk)  # type: ignore[arg-type]  # on purpose


@forged
def test_case_50_wrong_audience_other_agent_and_late_tokens_are_refused(home: Guard) -> None:
    clock = FakeClock()
    with guard_of("home", clock=clock) as exporter, guard_of("far", "home", clock=clock) as far:
        token = exported(exporter)
        with pytest.raises(TokenRejected, match="audience"):
            far.resume(_edited(token, lambda c: c.update(aud="other.test")))
        with pytest.raises(TokenRejected, match="audience"):
            far.resume(_edited(token, lambda c: c.update(aud=[DOMAIN, "other.test"])))
        with pytest.raises(TokenRejected, match="another agent"):
            far.resume(token, agent="admin")
        resumed = far.resume(token)
        clock.advance(71)
        with pytest.raises(TokenRejected, match="expired"), resumed:
            pass
        with pytest.raises(TokenRejected, match="expired"):
            far.resume(token)


@bounded
def test_case_50_loops_and_long_chains_are_refused_across_hosts(home: Guard, far: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        with pytest.raises(Denied, match="cycle"):
            task.export("bot")
        tokens = [task.export("researcher", share="0.3") for _ in range(2)]
    with far.resume(tokens[0]) as resumed:
        with pytest.raises(Denied, match="cycle"):
            resumed.delegate("bot", reads=["handed.read"])
        with pytest.raises(Denied, match="cycle"):
            resumed.export("bot")
        back = resumed.export("clerk")
    with pytest.raises(Denied, match="passed this process"):
        home.resume(back)
    with guard_of("third", "far") as third, third.resume(back) as last:
        with last.delegate("fourth", reads=["handed.read"]) as deepest:
            with pytest.raises(Denied, match="depth_exceeded"):
                deepest.export("fifth")
    loop = _edited(tokens[1], lambda c: c["tctx"].update(to="bot"))
    with pytest.raises(Denied, match="cycle"):
        far.resume(loop)


@bounded
def test_case_50_depth_of_every_registry_counts(home: Guard) -> None:
    entries = [RegisteredAgent(agent=Agent("bot", registered=True), max_depth=0), RegisteredAgent(agent=Agent("x"))]
    with guard_of("far", "home", registry=Registry(entries)) as far, pytest.raises(Denied, match="depth_exceeded"):
        far.resume(exported(home, "x"))


@stopped
@pytest.mark.parametrize("how", [{"agent": "bot"}, {"agent": "researcher"}, {"subject": "user:alice"}])
def test_case_50_a_suspended_link_refuses_the_task_and_stops_its_calls(
    home: Guard, far: Guard, how: dict[str, str]
) -> None:
    token, second = exported(home), exported(home)
    far.suspend(**how, why="test")
    with pytest.raises(Denied, match="suspended"), far.resume(token):
        pass
    far.lift(next(f"{kind}:{name}" for kind, name in how.items()))
    with far.resume(second):
        assert read("acme")
        far.suspend(**how, why="test")
        with pytest.raises(Denied, match="suspended"):
            read("acme")


@stopped
def test_case_50_a_stop_of_the_task_at_home_is_seen_through_a_shared_store(home: Guard) -> None:
    with guard_of("far", "home", suspensions=home.suspensions) as far:
        task = home.task("bot", on_behalf_of="alice", intent=refunds())
        with task:
            token = task.export("researcher")
        with far.resume(token) as resumed, resumed.delegate("sub", reads=["handed.read"]):
            assert read("acme")
            home.suspend(task=task.id, why="test")
            with pytest.raises(Denied, match="suspended"):
                read("acme")


@stopped
@pytest.mark.parametrize("status", ["suspended", "retired"])
def test_case_50_an_agent_that_this_registry_suspended_is_refused_anywhere_in_the_chain(
    home: Guard, status: Any
) -> None:
    entries = [
        RegisteredAgent(agent=Agent("bot", registered=True), status=status),
        RegisteredAgent(agent=Agent("researcher")),
    ]
    with guard_of("far", "home", registry=Registry(entries)) as far:
        with pytest.raises(Denied, match="suspended"), far.resume(exported(home)):
            pass


@stopped
def test_case_50_an_ended_or_suspended_task_hands_nothing_on(home: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        home.suspend(task=task.id, why="test")
        with pytest.raises(Denied, match="suspended"):
            task.export("researcher")
    with pytest.raises(Denied, match="task_ended"):
        task.export("researcher")


# 51 -----------------------------------------------------------------------------------------------------------


def test_case_51_a_strong_agent_does_not_lend_its_power_to_a_weak_one(home: Guard) -> None:
    strong = RegisteredAgent(
        agent=Agent("researcher", registered=True), tools=frozenset({"handed.pay", "handed.refund"})
    )
    with guard_of("far", "home", registry=Registry([strong])) as far, far.resume(exported(home)):
        with pytest.raises(Denied, match="outside_intent"):  # the chain above may refund, not pay
            pay("x")
        with pytest.raises(Denied, match="not_allowed"):
            read("acme")
        assert refund("acme", Decimal(1))


def test_case_51_how_well_somebody_is_known_does_not_rise(home: Guard, far: Guard) -> None:
    with far.resume(exported(home)) as task:
        assert task.chain.subject.proof is Proof.ASSERTED
        assert [agent.proof for agent in task.chain.agents] == [Proof.IN_PROCESS, Proof.IN_PROCESS]
    known = RegisteredAgent(agent=Agent("bot", "spiffe://bank.test/bot", registered=True))
    entries = Registry([known, RegisteredAgent(agent=Agent("researcher", registered=True))])
    with guard_of("far", "home", registry=entries) as strict, pytest.raises(Denied, match="another identity"):
        strict.resume(exported(home))


def test_case_51_purposes_are_those_of_the_task_at_home(home: Guard) -> None:
    entry = RegisteredAgent(agent=Agent("researcher", registered=True), purposes={"refund": "another-file"})
    with guard_of("far", "home", registry=Registry([entry])) as far, pytest.raises(Denied, match="purposes"):
        far.resume(exported(home))


# 52 -----------------------------------------------------------------------------------------------------------


@apart
def test_case_52_a_task_of_another_environment_is_refused(home: Guard) -> None:
    with guard_of("far", "home", environment="prod") as far, pytest.raises(Denied, match="environment"):
        far.resume(exported(home))


@apart
def test_case_52_the_tenant_is_the_one_of_home(home: Guard) -> None:
    issuer_keys: list[str] = []

    @guarded("handed.lease", audience="https://api.test", scopes=["x"])
    def lease() -> None:
        issuer_keys.append(current_credential().lease.key.tenant)

    user = User(subject=Subject("alice", tenant="acme", proof=Proof.VERIFIED))
    with guard_of("far", "home") as far:
        with home.task("bot", on_behalf_of=user, intent=Intent("p", step("handed.lease"))) as task:
            token = task.export("researcher")
        with far.resume(token):
            lease()
    assert issuer_keys == ["acme"]


@apart
def test_case_52_a_trust_domain_is_one_text(home: Guard) -> None:
    other = Handovers(issuer="far", trust_domain="other.test", peers={"home": KeySet.of(KEYS["home"])})
    with fake_guard(handovers=other) as far, pytest.raises(TokenRejected, match="audience"):
        far.resume(exported(home))
    with pytest.raises(ConfigurationError):
        Handovers(issuer="no name", trust_domain=DOMAIN)


def _outcome(work: Callable[[], object]) -> object:
    try:
        return work()
    except Denied as denied:
        return denied.reason
