"""Handing a task on: what travels, what it can do at the far side, and what both sides together can use up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from decimal import ROUND_DOWN, Context, Decimal, Inexact, localcontext
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentguard import (
    ITSELF,
    ConfigurationError,
    Denied,
    Guard,
    Intent,
    any_,
    at_most,
    bind,
    eq,
    from_,
    handover,
    in_,
    in_set,
    not_,
    prefix,
    said,
    step,
    text,
)
from agentguard._drive import drive
from agentguard.audit.memory import MemoryLog
from agentguard.errors import AgentguardError, TokenRejected, Unavailable
from agentguard.handover import Handovers, MemoryRedemptions
from agentguard.handover.patterns import both
from agentguard.handover.shares import counters_of, fraction_of, share_of
from agentguard.intent import Admitted, Constraint, Facts, compile_intent, keys
from agentguard.intent.literal_intent import literal_intent
from agentguard.keys import KeySet
from agentguard.model.principal import Agent, Proof, Subject
from agentguard.model.record import Record
from agentguard.ports import Candidate, Exhausted, Reservation
from agentguard.registry import RegisteredAgent, Registry, admits
from agentguard.results import Store, View
from agentguard.state.approvals_memory import MemoryApprovals
from agentguard.state.budgets_memory import MemoryBudgets
from agentguard.state.budgets_sqlite import SqliteBudgets
from agentguard.state.suspensions_memory import MemorySuspensions
from agentguard.task_state import TaskState
from agentguard.testing import FakeClock, FakeIssuer, fake_guard
from agentguard.user import User
from tests.handing import DOMAIN, KEYS, claims_of, done, guard_of, pay, read, refund, refunds
from tests.intent.calls import call_of, spec_of
from tests.state.far import FarBudgets
from tests.test_approvals import Durable as DurableTasks

narrowing = pytest.mark.control("7 a handover only narrows")
budget = pytest.mark.control("7 both sides never exceed a budget")
once = pytest.mark.control("7 a handover is good once")
recorded = pytest.mark.control("6 no record, no handover")


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    done.clear()


@pytest.fixture
def home() -> Iterator[Guard]:
    with guard_of("home", "far", "third") as made:
        yield made


@pytest.fixture
def far() -> Iterator[Guard]:
    with guard_of("far", "home", "third") as made:
        yield made


def records(guard: Guard) -> list[dict[str, Any]]:
    assert isinstance(guard.audit, MemoryLog)
    return [dict(record) for record in guard.audit.records]


# what travels -------------------------------------------------------------------------------------------------


def test_token_has_the_shape_of_a_transaction_token_with_the_whole_chain(home: Guard) -> None:
    with (
        home.task("bot", on_behalf_of="alice", intent=refunds()) as task,
        task.delegate("clerk", reads=["handed.read"]) as sub,
    ):
        claims = claims_of(sub.export("researcher"))
    assert (claims["iss"], claims["aud"], claims["sub"]) == ("home", DOMAIN, "user:alice")
    assert claims["txn"] == task.id
    assert claims["act"] == {"sub": "agent:clerk", "act": {"sub": "agent:bot"}}
    assert claims["scope"] == "handed.read"
    assert claims["req_wl"] == "agent:clerk"
    assert claims["rctx"] == {"environment": "test"}
    assert claims["exp"] - claims["iat"] == 60
    assert claims["tctx"]["to"] == "researcher"
    assert len(claims["tctx"]["levels"]) == 2


def test_far_task_carries_the_chain_into_records_and_leases(home: Guard) -> None:
    issuer = FakeIssuer()
    with guard_of("far", "home", issuer=issuer) as far:
        with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
            token = task.export("researcher")
        with far.resume(token) as resumed:
            assert resumed.chain.text() == "user:alice > bot > researcher"
            assert refund("acme", Decimal(5)) == "refunded 5"
            with resumed.delegate("helper-bot", reads=["handed.read"]) as sub:
                assert sub.chain.text() == "user:alice > bot > researcher > helper-bot"
                read("acme")
        opened = next(one for one in records(far) if one["event"] == "task.opened")
        jti = claims_of(token)["jti"]
        assert opened["from"] == {"issuer": "home", "jti": jti}
        assert opened["delegation"][1:] == ["bot", "researcher"]
        assert all(one["root"] == task.id for one in records(far) if "root" in one)
    made = next(one for one in records(home) if one["event"] == "delegation.created")
    assert (made["handover"], made["to"]) == (jti, "researcher")
    assert token not in str(records(home)) + str(records(far))


def test_subject_proof_tenant_and_seen_classes_travel(home: Guard, far: Guard) -> None:
    user = User(subject=Subject("alice", "https://idp.test", "acme-corp", Proof.VERIFIED))
    forbidden = [{"tool": "handed.refund", "seen": ["pii"]}]
    refunding = step("handed.refund", account="acme", amount=at_most(9))
    intent = Intent("Read, then refund", refunding, reads=["handed.read"], forbid=forbidden)
    with home.task("bot", on_behalf_of=user, intent=intent) as task:
        read("acme")
        token = task.export("researcher")
    with far.resume(token) as resumed:
        assert resumed.chain.subject == user.subject
        with pytest.raises(Denied):
            refund("acme", Decimal(1))


def test_agent_that_works_for_itself_is_the_subject_and_no_actor(home: Guard, far: Guard) -> None:
    with home.task("nightly", on_behalf_of=ITSELF, intent=refunds()) as task:
        token = task.export("researcher")
    assert claims_of(token)["sub"] == "agent:nightly"
    assert "act" not in claims_of(token)
    with far.resume(token) as resumed:
        assert resumed.chain.names() == ("agent:nightly", "nightly", "researcher")


@narrowing
def test_narrowing_and_every_level_above_hold_at_the_far_side(home: Guard, far: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        token = task.export("researcher", steps=[step("handed.refund", account=any_, amount=at_most(500)).times(5)])
    with far.resume(token):
        assert refund("acme", Decimal(50))
        for account, amount in (("evil", 1), ("acme", 51)):
            with pytest.raises(Denied, match="argument_violation"):
                refund(account, Decimal(amount))
        with pytest.raises(Denied):  # the narrowing names no read
            read("acme")


@narrowing
def test_far_task_ends_no_later_than_the_one_at_home(home: Guard, far: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds(), ttl=90) as task:
        tokens = [task.export("researcher"), task.export("researcher", ttl="20s")]
    with far.resume(tokens[0]) as resumed:
        assert 80 < resumed.remaining() <= 90
    with far.resume(tokens[1]) as resumed:
        assert resumed.remaining() <= 20


def test_far_task_ends_no_later_also_where_the_store_took_long_to_hand_it_on() -> None:
    clock = FakeClock()

    class SlowBudgets(MemoryBudgets):
        async def reserve(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted:
            clock.advance(4)
            return await super().reserve(levels, now)

    with guard_of("home", "far", budgets=SlowBudgets(), clock=clock, monotonic=clock) as home:
        with home.task("bot", on_behalf_of="alice", intent=refunds(), ttl=90) as task:
            token = task.export("researcher")
            assert claims_of(token)["tctx"]["until"] <= clock.now + task.remaining()


@narrowing
def test_intent_under_agents_narrows_a_handover_too(home: Guard, far: Guard) -> None:
    intent = refunds(agents={"researcher": {"reads": ["handed.read"]}})
    with home.task("bot", on_behalf_of="alice", intent=intent) as task:
        token = task.export("researcher")
    with far.resume(token):
        assert read("acme")
        with pytest.raises(Denied):
            refund("acme", Decimal(1))


# the literal intent -------------------------------------------------------------------------------------------


@narrowing
def test_from_said_and_bind_stand_for_what_they_stood_for_when_it_was_handed_on(home: Guard, far: Guard) -> None:
    paying = step("handed.pay", iban=from_(tool="handed.read", field="iban") | said).times(9)
    bound = step("handed.refund", account=bind("account"), amount=at_most(9)).times(9)
    intent = Intent("Pay", paying, bound, reads=["handed.read"])
    with home.task("bot", on_behalf_of="alice", intent=intent) as task:
        task.heard("please pay IBAN-said, too")
        read("acme")
        refund("acme", Decimal(1))
        token = task.export("researcher")
    with far.resume(token) as resumed:
        resumed.heard("and IBAN-later")
        read("other")
        assert pay("IBAN-acme") == pay("IBAN-said") == "paid"
        assert refund("acme", Decimal(2))
        for iban in ("IBAN-other", "IBAN-later", "IBAN-evil"):
            with pytest.raises(Denied):
                pay(iban)
        with pytest.raises(Denied):
            refund("evil", Decimal(1))


@narrowing
@pytest.mark.parametrize(
    ("intent", "why"),
    [
        (Intent("p", step("handed.refund", account="a", amount=1).named("one"),
                step("handed.pay", iban="x").after("one")), "waits for one"),
        (Intent("p", step("handed.pay", iban=bind("iban"))), "not set yet"),
        (Intent("p", step("handed.pay", iban=text(urls=from_(tool="handed.read", field="iban")))), "links come from"),
        (Intent("p", step("handed.pay", iban=any_).times(3, per=["iban"])), "each value"),
        (Intent("p", step("handed.pay", iban=any_).times(3).distinct("iban")), "each value"),
        (Intent("p", step("handed.pay", iban=any_),
                forbid=[{"args": {"iban": keys(a=any_) & from_(tool="handed.read", field="iban")}}]), "beside keys"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_literally_refuses_the_handover(home: Guard, intent: Intent, why: str) -> None:
    with home.task("bot", on_behalf_of="alice", intent=intent) as task:
        with pytest.raises(Denied, match=why):
            task.export("researcher")
    assert "delegation.denied" in [one["event"] for one in records(home)]


def test_text_whose_links_come_from_a_call_narrows_a_handover(home: Guard, far: Guard) -> None:
    linked = step("handed.pay", iban=text(urls=from_(tool="handed.read", field="iban"))).times(3)
    wide = Intent("p", step("handed.pay", iban=any_).times(9), reads=["handed.read"])
    with home.task("bot", on_behalf_of="alice", intent=wide) as task:
        read("acme")
        token = task.export("researcher", intent=Intent("n", linked, reads=["handed.read"]))
    with far.resume(token):
        assert pay("no link") == "paid"
        with pytest.raises(Denied):
            pay("see www.evil.test")


def test_tools_out_of_reach_refuse_nothing(home: Guard, far: Guard) -> None:
    waiting = Intent("p", step("handed.pay", iban=bind("iban")), reads=["handed.read"])
    with home.task("bot", on_behalf_of="alice", intent=waiting) as task:
        token = task.export("researcher", reads=["handed.read"])
    assert "handed.pay" not in claims_of(token)["tctx"]["levels"][0]["intent"]
    with far.resume(token):
        assert read("acme")


def test_step_that_happened_is_waited_for_no_more(home: Guard, far: Guard) -> None:
    intent = Intent("p", step("handed.refund", account="a", amount=1).named("one"),
                    step("handed.pay", iban="x").after("one"))  # fmt: skip
    with home.task("bot", on_behalf_of="alice", intent=intent) as task:
        refund("a", Decimal(1))
        token = task.export("researcher")
    with far.resume(token):
        assert pay("x") == "paid"


TEXTS = st.sampled_from(["", "a", "ab", "acme", "IBAN-1", "two words", "caf\u00e9", "cafe\u0301", "a\nb", "evil"])
SCALARS = st.one_of(TEXTS, st.integers(-2, 5), st.decimals(-1, 5, places=1), st.booleans(), st.none())
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("k"), inner), max_leaves=3
)
PLAIN = SCALARS.filter(lambda value: value not in ("cafe\u0301",))
SOURCE = st.builds(
    lambda unique, where: from_(tool="r", field="x", unique=unique, where={"y": where} if where is not None else None),
    st.booleans(), st.none() | st.builds(eq, PLAIN),
)  # fmt: skip
LEAVES: st.SearchStrategy[Constraint] = st.one_of(
    SOURCE, SOURCE, st.just(said), st.builds(eq, PLAIN), st.just(in_set("s")), st.just(any_),
    st.builds(at_most, st.integers(0, 4)), st.builds(prefix, st.sampled_from(["a", "I"])),
    st.builds(lambda one: in_(one, "acme"), PLAIN),
)  # fmt: skip


def _and(one: Constraint, other: Constraint) -> Constraint:
    try:
        return one & other
    except ConfigurationError:
        return one


SAID = st.recursive(
    LEAVES,
    lambda inner: st.builds(not_, inner) | st.builds(lambda a, b: a | b, inner, inner) | st.builds(_and, inner, inner),
    max_leaves=4,
)
ROWS = st.lists(st.fixed_dictionaries({"x": SCALARS, "y": SCALARS}), max_size=3)


def _intent(
    steps: list[tuple[Constraint, bool]], forbidden: Constraint | None, everywhere: Constraint | None
) -> Intent | None:
    made = [step("t", a=one, b=any_).then_ask() if asks else step("t", a=one, b=any_) for one, asks in steps]
    forbid = [{"tool": "t", "args": {"b": forbidden}}] if forbidden is not None else []
    try:
        return Intent(
            "p", *made, forbid=forbid, sets={"s": ["acme", 3]}, everywhere={"b": everywhere} if everywhere else {}
        )
    except ConfigurationError:
        return None


@narrowing
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.tuples(SAID, st.booleans()), min_size=1, max_size=3), forbidden=st.none() | SAID,
    everywhere=st.none() | SAID, results=st.lists(ROWS, max_size=2), evicted=st.booleans(),
    heard=st.lists(st.sampled_from(["pay acme now", "two words, 'ab'"]), max_size=2),
    calls=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=4),
)  # fmt: skip
def test_whatever_is_admitted_at_the_far_side_was_admitted_at_home(
    steps: Any, forbidden: Any, everywhere: Any, results: Any, heard: Any, evicted: bool, calls: Any
) -> None:
    intent = _intent(steps, forbidden, everywhere)
    if intent is None:
        return
    from agentguard.intent.sources import sources_of

    store = Store(entries=1 if evicted else 100)
    sources = sources_of(intent.resolve())
    store.need(sources, "task:1")
    reader = spec_of("r", "read")
    for rows in results:
        store.record(call_of(reader), list(rows) or {"x": "a", "y": 1}, ("1",), [("task:1", "reads")])
    facts = Facts(results=View(store, ("1",), "task:1"), heard=tuple(heard))
    home = compile_intent(intent.resolve())
    try:
        literal = literal_intent(home.intent, facts, lambda tool: True)
    except ConfigurationError:
        return
    far = compile_intent(Intent.from_yaml(literal.to_yaml()))
    assert far.s256 == literal.s256
    assert not sources_of(far.intent)
    named = (
        "agentguard:nothing-begins-like-this:x",
        -(10**18),
    )  # what a literal intent names to say that it cannot tell
    calls = [*calls, *[(row["x"], "acme") for rows in results for row in rows], ("two words", 3), ("acme", "ab"), named]
    for a, b in [*calls, tuple(reversed(named))]:
        call = call_of(spec_of("t"), a=a, b=b)
        there = far.check(call, Facts(heard=("everything a ab acme evil",)))
        if isinstance(there, Admitted):
            here = home.check(call, facts)
            assert isinstance(here, Admitted), (intent.to_yaml(), literal.to_yaml(), a, b)
            assert here.options[0].step == there.options[0].step


@pytest.mark.parametrize("value", ["agentguard:nothing-begins-like-this: all of it", -(10**18), -(10**30), "bob", 5])
@pytest.mark.parametrize("proven", [said, from_(tool="r", field="x"), from_(tool="r", field="x", unique=True)])
def test_nothing_is_admitted_by_the_words_with_which_a_literal_intent_says_that_it_cannot_tell(
    value: object, proven: Constraint
) -> None:
    intent = Intent("p", step("r"), step("pay", to=proven))
    literal = literal_intent(intent, Facts(heard=("pay ann",)), lambda tool: True)
    far = compile_intent(Intent.from_yaml(literal.to_yaml()))
    assert not isinstance(far.check(call_of("pay", to=value), Facts()), Admitted)


# budgets ------------------------------------------------------------------------------------------------------


@budget
def test_what_is_handed_on_is_spent_here_and_the_rest_stays(home: Guard, far: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds(4)) as task:
        refund("acme", Decimal(1))
        token = task.export("researcher", share="0.5")  # 2 of the 3 that are left
        refund("acme", Decimal(1))
        with pytest.raises(Denied, match="budget_exhausted"):
            refund("acme", Decimal(1))
    with far.resume(token):
        refund("acme", Decimal(1))
        refund("acme", Decimal(1))
        with pytest.raises(Denied, match="budget_exhausted"):
            refund("acme", Decimal(1))
    assert len(done) == 4


@budget
def test_a_step_of_one_use_moves_to_the_far_side(home: Guard, far: Guard) -> None:
    intent = Intent("p", step("handed.pay", iban="x"))
    with home.task("bot", on_behalf_of="alice", intent=intent) as task:
        token = task.export("researcher")
        with pytest.raises(Denied, match="budget_exhausted"):
            pay("x")
        second = task.export("researcher")
    with far.resume(second), pytest.raises(Denied, match="budget_exhausted"):
        pay("x")
    with far.resume(token):
        assert pay("x") == "paid"


@budget
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    ops=st.lists(
        st.one_of(
            st.tuples(st.just("home"), st.integers(1, 9)), st.tuples(st.just("far"), st.integers(1, 9)),
            st.tuples(st.just("export"), st.sampled_from([None, "0.3", 1])),
            st.tuples(st.just("wait"), st.sampled_from([7, 31, 70])),
        ),
        min_size=4, max_size=16,
    ),
    window=st.booleans(),
)  # fmt: skip
def test_both_sides_together_never_exceed_a_budget(ops: list[tuple[str, Any]], window: bool) -> None:
    done.clear()
    clock, ran = FakeClock(), []
    limits = {"calls": 7, "rate": "5/1m"} if window else {"calls": 7}
    intent = Intent("p", step("handed.refund", account="acme", amount=any_).times(6).total(amount=30), limits=limits)
    ceiling = compile_intent(
        Intent("c", step("handed.refund", account=any_, amount=any_).times(4, "1m")), ceiling=True
    )  # fmt: skip
    registry = Registry([
        RegisteredAgent(agent=Agent("bot", registered=True), calls=(6, 60.0), ceiling=ceiling),
        RegisteredAgent(agent=Agent("researcher", registered=True)),
    ])  # fmt: skip
    clocks: dict[str, Any] = {"clock": clock, "monotonic": clock}
    with guard_of("home", registry=registry, **clocks) as home, guard_of("far", "home", **clocks) as far:
        with home.task("bot", on_behalf_of="alice", intent=intent) as task:
            tokens: list[Any] = []
            for what, value in ops:
                if what == "wait":
                    clock.advance(value)
                elif what == "export":
                    tokens.append(far.resume(task.export("researcher", share=value, redeem_within=300)))
                elif what == "home":
                    ran += [(clock.now, value)] if _ran(value) else []
                elif tokens:
                    ran += [(clock.now, value)] if _far(tokens, value) else []
    assert len(ran) <= 6
    assert sum(amount for _, amount in ran) <= 30
    for at, _ in ran:
        inside = [amount for time, amount in ran if at <= time < at + 60]
        assert len(inside) <= 4  # of the ceiling, in a minute


@budget
@pytest.mark.parametrize("prec", [2, 28])
@pytest.mark.parametrize("share", [None, "0.3", "0.33333333333333333333333333333333333333333"])
@pytest.mark.parametrize(
    "limit", [Decimal(10) ** 40 + 1, Decimal("99.99"), Decimal("99999999999999999999999999999.99")]
)
def test_shares_are_exact_whatever_the_decimal_context_of_the_application(
    limit: Decimal, share: str | None, prec: int
) -> None:
    intent = Intent("p", step("handed.refund", account="acme", amount=any_).times(6).total(amount=limit))
    (counter,) = [one for one in counters_of(intent, "here", ceiling=False) if not one.whole]
    used = Decimal("1.55")

    with localcontext(Context(prec=prec, rounding=ROUND_DOWN)):
        found = share_of(counter, {counter.holds[0].key: used}, fraction_of(share))
        begins = Decimal(found.spent().amount)

    with localcontext(Context(prec=4000, traps=[Inexact])):
        assert used + found.amount <= limit  # what is taken at home
        assert begins + found.amount == limit  # what the far side can use up


def _ran(amount: int) -> bool:
    try:
        refund("acme", Decimal(amount))
    except Denied:
        return False
    return True


def _far(tasks: list[Any], amount: int) -> bool:
    import contextvars

    def work() -> bool:
        for task in list(tasks):
            try:
                if task.state == "new":
                    task.__enter__()
                else:
                    task._activate()
            except (Denied, TokenRejected):
                continue
            if _ran(amount):
                return True
        return False

    from agentguard.access import _task

    context = contextvars.copy_context()
    context.run(_task.set, None)
    return context.run(work)


@budget
def test_share_comes_back_only_when_it_is_proved_that_nobody_redeemed_it() -> None:
    shared = MemoryRedemptions(shared=True)
    intent = Intent("p", step("handed.pay", iban="x"))
    with guard_of("home", shared=shared) as home, guard_of("far", "home", shared=shared) as far:
        with home.task("bot", on_behalf_of="alice", intent=intent) as task:
            token = task.export("researcher")
            task.reclaim(token)
            assert pay("x") == "paid"
            with pytest.raises(TokenRejected, match="redeemed"):
                with far_context(far, token):
                    pass
            with pytest.raises(ConfigurationError):
                task.reclaim(token)
        with home.task("bot", on_behalf_of="alice", intent=intent) as task:
            token = task.export("researcher")
            with far_context(far, token):
                pass
            with pytest.raises(Denied, match="redeemed"):
                task.reclaim(token)


@pytest.mark.parametrize("stop", ["end", "suspend"])
def test_task_that_ends_or_is_stopped_while_it_is_handed_on_hands_nothing_on(stop: str) -> None:
    async def work() -> None:
        budgets = FarBudgets()
        with guard_of("home", "far", budgets=budgets) as guard:
            task = guard.task("bot", on_behalf_of="alice", intent=refunds())
            async with task:
                running = asyncio.ensure_future(task.aexport("researcher"))
                await budgets.taken.wait()
                if stop == "suspend":
                    await guard.asuspend(task=task.id, why="it misbehaves")
                else:
                    await guard.close_task(task, TaskState.ENDED, "done")
                budgets.answers.set()
                with pytest.raises(Denied, match="task_ended" if stop == "end" else "suspended"):
                    await running
            assert not any(record["event"] == "delegation.created" for record in records(guard))

    asyncio.run(work())


def far_context(far: Guard, token: str) -> Any:
    """Open a far task in this process, where another one is active."""
    from contextlib import contextmanager

    from agentguard.access import _task

    @contextmanager
    def opened() -> Iterator[Any]:
        outer = _task.set(None)
        try:
            with far.resume(token) as task:
                yield task
        finally:
            _task.reset(outer)

    return opened()


def test_unshared_memory_proves_nothing(home: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        token = task.export("researcher")
        with pytest.raises(ConfigurationError, match="stays spent"):
            task.reclaim(token)


@recorded
@budget
def test_handover_that_is_not_recorded_is_not_made_and_takes_nothing() -> None:
    class Full(MemoryLog):
        def append(self, record: Record) -> Any:
            if "handover" in record.fields:
                raise OSError("no space left")
            return super().append(record)

    with guard_of("home", audit=Full()) as home:
        with home.task("bot", on_behalf_of="alice", intent=Intent("p", step("handed.pay", iban="x"))) as task:
            with pytest.raises(Denied, match="not recorded") as caught:
                task.export("researcher")
            assert pay("x") == "paid"
    frames, trace = [], caught.value.__traceback__
    while trace is not None:
        frames.append(repr(list(trace.tb_frame.f_locals.values())))
        trace = trace.tb_next
    assert "eyJ" not in "".join(frames)


@pytest.mark.parametrize("share", [0, -1, 2, "x", True, "NaN", float("inf")])
def test_share_is_a_part(home: Guard, share: object) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        with pytest.raises(ConfigurationError, match="share"):
            task.export("researcher", share=share)


@budget
def test_ceilings_and_registered_call_limits_of_home_hold_two_hosts_away(home: Guard) -> None:
    allowed = step("handed.refund", account=any_, amount=at_most(5)).times(4, "1h")
    ceiling = compile_intent(Intent("c", allowed), ceiling=True)
    entry = RegisteredAgent(agent=Agent("bot", registered=True), ceiling=ceiling, calls=(6, 3600.0))
    with guard_of("home", registry=Registry([entry])) as strict, guard_of("far", "home", registry=Registry([
        RegisteredAgent(agent=Agent("clerk", registered=True), calls=(5, 60.0)), entry,
    ])) as far, guard_of("third", "far") as third:  # fmt: skip
        with strict.task("bot", on_behalf_of="alice", intent=refunds(100)) as task:
            token = task.export("clerk")  # half of the ceiling's 4
        with far.resume(token) as resumed:
            with pytest.raises(Denied, match="argument_violation"):
                refund("acme", Decimal(6))
            second = resumed.export("auditor", share=1)
            with pytest.raises(Denied, match="budget_exhausted"):
                refund("acme", Decimal(5))
        with third.resume(second) as last:
            assert last.chain.text() == "user:alice > bot > clerk > auditor"
            with pytest.raises(Denied, match="argument_violation"):
                refund("acme", Decimal(6))
            assert [_ran(5) for _ in range(3)] == [True, True, False]
        with strict.task("bot", on_behalf_of="alice", intent=refunds(100)):
            assert [_ran(5) for _ in range(3)] == [True, True, False]


@budget
def test_what_was_handed_on_is_counted_once_also_where_all_hosts_share_the_state_and_the_registry() -> None:
    allowed = step("handed.refund", account=any_, amount=any_).times(4, "1h")
    ceiling = compile_intent(Intent("c", allowed), ceiling=True)
    limits: list[dict[str, Any]] = [{"ceiling": ceiling}, {"calls": (4, 3600.0)}]
    for limit in limits:
        names = ("bot", "clerk", "auditor")
        rooms: dict[str, Any] = {
            "budgets": MemoryBudgets(),
            "registry": Registry([RegisteredAgent(agent=Agent(name, registered=True), **limit) for name in names]),
        }
        with guard_of("home", **rooms) as home, guard_of("far", "home", **rooms) as far:
            with guard_of("third", "far", **rooms) as third:
                with home.task("bot", on_behalf_of="alice", intent=refunds(100)) as task:
                    first, second = task.export("clerk", share="0.25"), task.export("clerk", share=1)
                    assert not _ran(5)
                with far.resume(first):
                    assert [_ran(5) for _ in range(2)] == [True, False]
                with far.resume(second) as resumed:
                    assert _ran(5)
                    last = resumed.export("auditor", share=1)
                    assert not _ran(5)
                with third.resume(last):
                    assert [_ran(5) for _ in range(3)] == [True, True, False]
                with third.task("auditor", on_behalf_of="alice", intent=refunds(100)):
                    assert [_ran(5) for _ in range(3)] == [True, True, False]


@budget
def test_limit_of_the_far_registry_holds_for_all_that_is_handed_to_it_together(home: Guard) -> None:
    entry = RegisteredAgent(agent=Agent("bot", registered=True), calls=(3, 3600.0))
    heir = RegisteredAgent(agent=Agent("clerk", registered=True))
    with guard_of("far", "home", registry=Registry([entry, heir])) as far:
        with home.task("bot", on_behalf_of="alice", intent=refunds(100)) as task:
            tokens = [task.export("clerk", share="0.5") for _ in range(2)]
        for token, ran in zip(tokens, ([True, True], [True, False]), strict=True):
            with far.resume(token):
                assert [_ran(5) for _ in range(2)] == ran


@budget
def test_share_of_a_window_is_held_for_as_long_as_the_far_side_may_use_it() -> None:
    clock = FakeClock()
    clocks: dict[str, Any] = {"clock": clock, "monotonic": clock}
    ceiling = compile_intent(Intent("c", step("handed.refund", account=any_, amount=any_).times(2, "1m")), ceiling=True)
    registry = Registry([RegisteredAgent(agent=Agent("bot", registered=True), ceiling=ceiling)])
    with guard_of("home", registry=registry, **clocks) as home, guard_of("far", "home", **clocks) as far:
        with home.task("bot", on_behalf_of="alice", intent=refunds(), ttl=90) as task:
            resumed = far.resume(task.export("researcher", share=1))
        with resumed:
            clock.advance(59)
            assert _ran(5)
            assert _ran(5)
        clock.advance(2)
        with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
            assert not _ran(5)  # the two of the far side are two seconds old
            clock.advance(100)  # 90 of the task, 10 of the leeway and the minute's window are over
            assert _ran(5)


@budget
def test_share_of_a_window_comes_back_by_time_also_where_the_process_ended_and_nobody_hands_on_again(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    registry = Registry([RegisteredAgent(agent=Agent("bot", registered=True), calls=(4, 60.0))])

    def started() -> Guard:
        budgets = SqliteBudgets(tmp_path / "state.db", clock=clock)
        return guard_of("home", registry=registry, budgets=budgets, clock=clock, monotonic=clock)

    with started() as home, home.task("bot", on_behalf_of="alice", intent=refunds(), ttl=90) as task:
        task.export("researcher", share=1)
    clock.advance(159)  # 90 of the task, 10 of the leeway and 59 of the window
    with started() as home:
        with home.task("bot", on_behalf_of="alice", intent=refunds()):
            assert not _ran(5)
            clock.advance(2)
            assert [_ran(5) for _ in range(5)] == [True, True, True, True, False]


@budget
def test_what_has_left_its_window_is_no_part_of_what_is_left_to_hand_on() -> None:
    clock = FakeClock()
    clocks: dict[str, Any] = {"clock": clock, "monotonic": clock}
    registry = Registry([RegisteredAgent(agent=Agent("bot", registered=True), calls=(4, 60.0))])
    with guard_of("home", registry=registry, **clocks) as home, guard_of("far", "home", **clocks) as far:
        with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
            assert [_ran(5) for _ in range(4)] == [True] * 4
            clock.advance(61)
            token = task.export("researcher", share=1)
        with far.resume(token):
            assert [_ran(5) for _ in range(5)] == [True, True, True, True, False]


def test_as_many_handovers_as_a_busy_service_makes_are_made(
    home: Guard, far: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentguard.handover.exporting.MAX_MADE", 3)
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        tokens = [task.export("researcher", reads=["handed.read"]) for _ in range(5)]
        with pytest.raises(ConfigurationError, match="3 others were made since"):
            task.reclaim(tokens[0])
    with far.resume(tokens[0]):
        read("acme")


def test_step_that_ends_the_task_at_home_ends_it_at_the_far_side(home: Guard, far: Guard) -> None:
    intent = Intent("p", step("handed.pay", iban="x").then_end_task(), reads=["handed.read"])
    with home.task("bot", on_behalf_of="alice", intent=intent) as task:
        token = task.export("researcher", steps=[step("handed.pay", iban="x")], share=1)
    with far.resume(token) as resumed:
        pay("x")
        assert resumed.state == "ended"


def test_as_many_denials_as_the_intent_lets_stop_the_far_task(home: Guard, far: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds(limits={"denials": 3})) as task:
        with pytest.raises(Denied):
            refund("evil", Decimal(1))
        token = task.export("researcher")
    with far.resume(token):
        assert [_why("evil") for _ in range(3)] == ["argument_violation", "argument_violation", "suspended"]


def test_task_that_stopped_itself_at_home_stays_stopped_at_the_far_side(home: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds(limits={"denials": 2})) as task:
        task.export("researcher", share="0.5")
        assert [_why("evil") for _ in range(3)][-1] == "suspended"
    assert [stop.key for stop in drive(home.suspensions.standing())] == [f"task:{task.id}"]


def test_task_that_the_level_above_its_handover_stops_stops_whoever_it_was_handed_on_to_and_can_be_lifted() -> None:
    rooms: dict[str, Any] = {"suspensions": MemorySuspensions()}
    with guard_of("home", **rooms) as home, guard_of("far", "home", **rooms) as far:
        with guard_of("third", "far", **rooms) as third:
            with home.task("bot", on_behalf_of="alice", intent=refunds(limits={"denials": 2})) as task:
                token = task.export("clerk", steps=refunds(5).steps, share="0.5")
            with far.resume(token) as resumed:
                last = third.resume(resumed.export("auditor", share="0.5"))
                assert [_why("evil") for _ in range(3)][-1] == "suspended"
            with pytest.raises(Denied, match="suspended"), last:
                pass
            assert [stop.key for stop in drive(far.suspensions.standing())] == [f"task:{resumed.id}"]


def test_stop_of_a_task_by_the_level_above_its_handover_is_lifted_and_gone_with_it(home: Guard, far: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds(limits={"denials": 2})) as task:
        tokens = [task.export("clerk", steps=refunds(3).steps, share="0.3") for _ in range(2)]
    with far.resume(tokens[0]) as resumed:
        assert [_why("evil") for _ in range(3)][-1] == "suspended"
        far.lift(f"task:{resumed.id}")
        assert _why("acme") == "refunded 1"
    with far.resume(tokens[1]):
        assert [_why("evil") for _ in range(3)][-1] == "suspended"
    assert not drive(far.suspensions.standing())


def test_task_that_was_handed_on_and_then_parked_stays_stopped_too() -> None:
    rooms: dict[str, Any] = {"approvals": MemoryApprovals(), "parked": DurableTasks(), "budgets": MemoryBudgets()}
    with guard_of("home", "far", **rooms) as home:
        with home.task("bot", on_behalf_of="alice", intent=refunds(limits={"denials": 2})) as task:
            task.export("researcher", share="0.5")
            task.park()
        with home.resume(task.id, on_behalf_of="alice"):
            assert [_why("evil") for _ in range(3)][-1] == "suspended"
        assert [stop.key for stop in drive(home.suspensions.standing())] == [f"task:{task.id}"]


def _why(account: str) -> str:
    try:
        return refund(account, Decimal(1))
    except Denied as denied:
        return denied.reason


# refusing -----------------------------------------------------------------------------------------------------


def test_guard_without_handovers_or_key_or_peers_says_what_to_configure(home: Guard) -> None:
    with fake_guard() as plain, plain.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        with pytest.raises(ConfigurationError, match="Handovers"):
            task.export("researcher")
        with pytest.raises(ConfigurationError, match="peers"):
            plain.resume("a.b.c")
    keyless = Handovers(issuer="x", trust_domain=DOMAIN)
    with fake_guard(handovers=keyless) as plain, plain.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        with pytest.raises(ConfigurationError, match="key"):
            task.export("researcher")


@once
def test_a_handover_is_good_once(home: Guard, far: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        token = task.export("researcher")
    first, second = far.resume(token), far.resume(token)
    with first:
        pass
    with pytest.raises(TokenRejected, match="redeemed before"), second:
        pass
    assert [one["reason"] for one in records(far) if one["event"] == "task.denied"] == ["token_rejected"]


@once
def test_memory_that_cannot_be_asked_refuses(home: Guard) -> None:
    class Gone(MemoryRedemptions):
        async def redeem(self, key: str, until: float, now: float) -> bool:
            raise ConnectionError("secret text")

    with guard_of("far", "home", shared=Gone()) as far:
        with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
            token = task.export("researcher")
        with pytest.raises(TokenRejected, match="cannot be told") as caught, far.resume(token):
            pass
    assert "secret text" not in str(caught.value)


@once
def test_handover_whose_opening_is_not_recorded_is_used_up_and_leaves_nothing(home: Guard) -> None:
    class Full(MemoryLog):
        def append(self, record: Record) -> Any:
            if "from" in record.fields:
                raise OSError("no space left")
            return super().append(record)

    with guard_of("far", "home", audit=Full()) as far:
        with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
            token = task.export("researcher")
        with pytest.raises(Denied, match="not recorded"), far.resume(token):
            pass
        assert not far.budgets._scopes  # type: ignore[attr-defined]  # the memory of the fake
        with pytest.raises(TokenRejected, match="redeemed"), far.resume(token):
            pass


@once
def test_state_that_is_out_of_reach_refuses_a_handover_on_either_side_and_that_is_recorded(home: Guard) -> None:
    class Down(MemorySuspensions):
        async def suspended(self, keys: Sequence[str]) -> str:
            raise Unavailable("the database does not answer")

    class DownBudgets(MemoryBudgets):
        async def reserve(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted:
            raise Unavailable("the database does not answer")

    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        tokens = [task.export("clerk", share="0.1") for _ in range(2)]
        home.suspensions = Down()
        with pytest.raises(Denied, match="suspensions cannot be read"):
            task.export("clerk")
    with guard_of("far", "home", suspensions=Down()) as far:
        with pytest.raises(Denied, match="suspensions cannot be read"), far.resume(tokens[0]):
            pass
        assert [record["event"] for record in records(far)] == ["task.denied"]
    with guard_of("far", "home", budgets=DownBudgets()) as far:
        with pytest.raises(TokenRejected, match="cannot be counted"), far.resume(tokens[1]):
            pass
        assert [record["event"] for record in records(far)] == ["task.denied"]


def test_memory_that_is_full_refuses(home: Guard) -> None:
    with guard_of("far", "home", shared=MemoryRedemptions(most=1)) as far:
        with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
            tokens = [task.export("researcher", share="0.1") for _ in range(2)]
        with far.resume(tokens[0]):
            pass
        with pytest.raises(TokenRejected), far.resume(tokens[1]):
            pass


def test_nothing_is_redeemed_by_a_task_that_is_refused(home: Guard, far: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        token = task.export("researcher")
    far.suspend(agent="bot", why="test")
    with pytest.raises(Denied, match="suspended"), far.resume(token):
        pass
    far.lift("agent:bot")
    with far.resume(token):
        assert read("acme")


def test_registry_of_the_far_side_holds_too(home: Guard) -> None:
    ceiling = compile_intent(Intent("c", step("handed.refund", account=any_, amount=at_most(3))), ceiling=True)
    entries = [
        RegisteredAgent(
            agent=Agent("researcher", registered=True), ceiling=ceiling, task_ttl=30, purposes={"refund": None}
        ),
        RegisteredAgent(agent=Agent("bot", registered=True), tools=frozenset({"handed.refund"})),
        RegisteredAgent(agent=Agent("other", registered=True), purposes={"something-else": None}),
    ]  # fmt: skip
    with guard_of("far", "home", registry=Registry(entries)) as far:
        with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
            token, other, unknown = (task.export(to, share="0.2") for to in ("researcher", "other", "nobody"))
        with far.resume(token) as resumed:
            assert resumed.remaining() <= 30
            assert refund("acme", Decimal(3))
            with pytest.raises(Denied, match="argument_violation"):
                refund("acme", Decimal(4))
            with pytest.raises(Denied):  # what the agent above may not use here, nobody below it may
                read("acme")
        with pytest.raises(Denied, match="purposes"):
            far.resume(other)
        with pytest.raises(Denied, match="not registered"):
            far.resume(unknown)


def test_registered_tools_of_home_travel(home: Guard, far: Guard) -> None:
    entries = [
        RegisteredAgent(
            agent=Agent("bot", registered=True), tools=frozenset({"handed.pay"}),
            hand_on={"researcher": frozenset({"handed.read"})},
        ),
        RegisteredAgent(agent=Agent("researcher", registered=True)),
    ]  # fmt: skip
    with guard_of("home", registry=Registry(entries)) as strict:
        with strict.task("bot", on_behalf_of="alice", intent=refunds()) as task:
            token = task.export("researcher")
    with far.resume(token):
        assert read("acme")
        with pytest.raises(Denied, match="not_allowed"):
            refund("acme", Decimal(1))


NAMES = st.sampled_from(["a", "a.b", "a.b.c", "b", "ab.c"])
PATTERNS = st.none() | st.frozensets(NAMES | st.just("*") | NAMES.map(lambda name: f"{name}.*"), max_size=4)


@given(PATTERNS, PATTERNS, NAMES)
def test_two_registries_admit_what_each_of_them_admits(one: Any, other: Any, tool: str) -> None:
    def allows(patterns: Any) -> bool:
        return patterns is None or admits(patterns, tool)

    assert allows(both(one, other)) == (allows(one) and allows(other))


def test_intent_too_large_for_a_token_is_refused_with_what_to_do(home: Guard) -> None:
    big = Intent("p", *(step("handed.pay", iban=f"{n}{'x' * 90}") for n in range(200)))
    with home.task("bot", on_behalf_of="alice", intent=big) as task:
        with pytest.raises(Denied, match="fewer tools"):
            task.export("researcher")
        assert pay("0" + "x" * 90) == "paid"  # nothing was kept of it


@pytest.mark.control("3 what a call that never ran has reserved is given back")
def test_what_a_store_takes_for_an_export_that_is_cancelled_meanwhile_is_given_back(far: Guard) -> None:
    async def work() -> int:
        budgets = FarBudgets()
        with guard_of("home", "far", budgets=budgets) as guard:
            async with guard.task("bot", on_behalf_of="alice", intent=refunds(times=4)) as task:
                await budgets.cancelled(task.aexport("researcher"))
                token = await task.aexport("researcher")
                with far_context(far, token):
                    return len([refund("acme", Decimal(1)) for _ in range(4)])

    assert asyncio.run(work()) == 4


@pytest.mark.control("3 what a call that never ran has reserved is given back")
def test_export_whose_shares_cannot_be_taken_takes_nothing() -> None:
    class FailingBudgets(MemoryBudgets):
        fails_in = 0

        async def reserve(self, levels: Sequence[Sequence[Candidate]], now: float) -> Reservation | Exhausted:
            self.fails_in -= 1
            if self.fails_in == 0:
                raise Unavailable("the store is down")
            return await super().reserve(levels, now)

    budgets = FailingBudgets()
    intent = refunds(2, limits={"rate": "5/1m"})
    with guard_of("home", "far", budgets=budgets) as home:
        with home.task("bot", on_behalf_of="alice", intent=intent) as task:
            budgets.fails_in = 2  # what has left its window is let go first, then all shares are taken
            with pytest.raises(Unavailable):
                task.export("researcher", share=1)
            assert [_ran(5), _ran(5)] == [True, True]


@pytest.mark.anyio
async def test_export_and_resume_under_an_event_loop(home: Guard, far: Guard) -> None:
    async with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        token = await task.aexport("researcher", reads=["handed.read"])
        with pytest.raises(ConfigurationError):
            await task.areclaim(token)
    async with far.resume(token, agent="researcher"):
        assert read("acme")


@pytest.mark.anyio
async def test_an_event_loop_goes_on_while_the_keys_of_a_peer_are_fetched_for_a_handover(home: Guard) -> None:
    asked, goes_on = threading.Event(), threading.Event()

    class Slow:
        async def keys_for(self, token: str) -> KeySet:
            asked.set()
            assert goes_on.wait(10)
            return KeySet.of(KEYS["home"])

    async def open_the_gate() -> None:
        while not asked.is_set():  # noqa: ASYNC110  # by another thread
            await anyio.sleep(0.01)
        goes_on.set()

    parties = Handovers(issuer="far", trust_domain=DOMAIN, peers={"home": Slow()})
    with fake_guard(handovers=parties) as far:
        async with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
            token = await task.aexport("researcher", reads=["handed.read"])
        async with anyio.create_task_group() as group:
            group.start_soon(open_the_gate)
            resumed = await far.aresume(token, agent="researcher")
        async with resumed:
            assert read("acme")


@pytest.mark.anyio
async def test_error_of_a_token_that_is_refused_under_an_event_loop_holds_nothing_of_it(
    home: Guard, far: Guard
) -> None:
    async with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        token = await task.aexport("researcher")
    with pytest.raises(TokenRejected) as caught:
        await far.aresume(token[:-8] + "AAAAAAAA")
    trace = caught.value.__traceback__.tb_next if caught.value.__traceback__ else None
    while trace is not None:
        assert token[:40] not in repr(list(trace.tb_frame.f_locals.values()))
        trace = trace.tb_next


def test_handover_is_refused_for_the_keys_that_cannot_be_had_and_not_as_a_strangers(home: Guard) -> None:
    class Down:
        async def keys_for(self, token: str) -> KeySet:
            raise Unavailable("the server does not answer")

    parties = Handovers(issuer="far", trust_domain=DOMAIN, peers={"home": Down(), "third": KeySet.of(KEYS["third"])})
    with fake_guard(handovers=parties) as far:
        with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
            token = task.export("researcher")
        with pytest.raises(TokenRejected, match="keys of a peer cannot be had"):
            far.resume(token)
        assert "keys of a peer cannot be had" in records(far)[-1]["why"]


def test_every_name_that_the_package_says_is_there() -> None:
    assert all(hasattr(handover, name) for name in handover.__all__)


def test_error_of_a_refused_token_holds_nothing_of_it(home: Guard, far: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        token = task.export("researcher")
    try:
        far.resume(token[:-8] + "AAAAAAAA")
    except AgentguardError as error:
        trace = error.__traceback__.tb_next if error.__traceback__ else None  # past this test's own frame
        while trace is not None:
            assert token[:40] not in repr(list(trace.tb_frame.f_locals.values()))
            trace = trace.tb_next
        assert error.__context__ is None
        assert token[:20] not in str(error)


def test_state_of_a_resumed_task_is_gone_when_it_ended(home: Guard, far: Guard) -> None:
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        token = task.export("researcher")
    with far.resume(token) as resumed:
        refund("acme", Decimal(1))
    assert not far.budgets._scopes  # type: ignore[attr-defined]  # the memory of the fake
    with pytest.raises(Denied, match="task_ended"):
        resumed.delegate("sub", reads=["handed.read"])


# three hops over real processes -------------------------------------------------------------------------------

PROGRAM = Path(__file__).with_name("handing_program.py")


def test_three_hops_over_real_processes(tmp_path: Path) -> None:
    for name in ("home", "far", "third"):
        KEYS[name].write_pem_file(tmp_path / f"{name}.pem")

    def run(name: str, to: str, token: str) -> list[str]:
        found = subprocess.run(  # this test's own program
            [sys.executable, str(PROGRAM), name, to, str(tmp_path)], input=token, capture_output=True, text=True,
            timeout=60, check=False, cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        return found.stdout.splitlines()

    first = run("home", "clerk", "")
    assert first[0] == "user:alice > bot: refunded 1"
    second = run("far", "auditor", first[-1])
    assert second[0] == "user:alice > bot > clerk: refunded 1"
    third = run("third", "", second[-1])
    assert third[0] == "user:alice > bot > clerk > auditor: refunded 1"
    assert third[1] == "budget_exhausted"
    assert claims_of(second[-1])["txn"] == claims_of(first[-1])["txn"]
    assert claims_of(second[-1])["act"] == {"sub": "agent:clerk", "act": {"sub": "agent:bot"}}
    assert [hop.partition("#")[0] for hop in claims_of(second[-1])["tctx"]["path"]] == ["home", "far"]
