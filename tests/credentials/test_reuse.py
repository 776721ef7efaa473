"""A kept credential that is found by its key alone is the one that its grant would have found."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agentguard import Intent, any_, current_credential, guarded, step
from agentguard._drive import drive
from agentguard.asking import _grant_for, asked_for, grant_for
from agentguard.audit.memory import MemoryLog
from agentguard.credentials.leases import Leases
from agentguard.credentials.ledger import MemoryLedger
from agentguard.facts import span_attributes
from agentguard.model.canonical import readable
from agentguard.model.decision import AccessRequest, Decision
from agentguard.model.lease import Grant, Lease
from agentguard.model.principal import Agent, Chain, Proof
from agentguard.pipeline.intercept import intercept
from agentguard.policy.decided import Answering as Says
from agentguard.policy.obligations import NOTHING, Obligations
from agentguard.refusal import Refusal
from agentguard.running import Running, undecided
from agentguard.testing import FakeClock, FakeIssuer, fake_guard

BANK = "https://bank.test"


@guarded("reuse.list", effect="read", audience=BANK, scopes=["read"])
def plain(account: str) -> Lease:
    return current_credential().lease


@guarded("reuse.read", effect="read", audience=BANK, scopes=["read"], resource="account/{account}")
def of_one(account: str) -> Lease:
    return current_credential().lease


@guarded("reuse.wipe", effect="read", audience=BANK, scopes=["read"], lease="call")
def for_one_call(account: str) -> Lease:
    return current_credential().lease


@guarded("reuse.list", effect="read", audience="https://other.test", scopes=["all"])
def namesake(account: str) -> Lease:
    return current_credential().lease


TOOLS = {"plain": plain, "of one": of_one, "for one call": for_one_call, "namesake": namesake}
OBLIGED = {"": NOTHING, "ttl": Obligations(max_ttl=9), "call": Obligations(per_call_lease=True)}


class Point:
    """Permits, with these obligations."""

    suspends = False
    name = "point"

    def __init__(self) -> None:
        self.obligations, self.version = NOTHING, "v1"

    async def decide(self, request: AccessRequest) -> Decision:
        return Says(self.name, str(request.action["name"]), version=self.version).permit(["r1"], self.obligations)


class Asked(FakeIssuer):
    """Keeps what it was asked for."""

    def __init__(self, *, details: bool = False) -> None:
        super().__init__()
        self.details, self.grants = details, list[Grant]()

    def prepare(self, grant: Grant, now: float) -> Lease:
        self.grants.append(grant)
        lease = super().prepare(grant, now)
        return replace(lease, expires_at=min(lease.expires_at, now + (grant.max_ttl or 30)))


class ByGrant(Leases):
    """Finds nothing by its key alone."""

    def reuse(self, key: object, task: str) -> None:
        return None


def intent() -> Intent:
    names = ("reuse.list", "reuse.read", "reuse.wipe")
    return Intent("Look", *(step(name, account=any_).times(99) for name in names))


Call = tuple[str, str, str, int, float]  # tool, account, obligation, task, seconds before it


def served(calls: list[Call], *, points: bool, details: bool, by_key: bool) -> list[str]:
    """The ids of the leases that calls ran with."""
    clock, issuer, point, found = FakeClock(), Asked(details=details), Point(), list[str]()
    random.seed(7)  # the jitter of the refresh
    guard = fake_guard(issuer=issuer, clock=clock, decision_points=[point] if points else [])
    if not by_key:
        guard.leases = ByGrant(issuer, MemoryLedger(), guard.records.record, clock)
    with guard, guard.task("bot", on_behalf_of="alice", intent=intent(), ttl=3600) as task:
        for tool, account, obligation, number, seconds in calls:
            clock.advance(seconds)
            point.obligations = OBLIGED[obligation]
            if number:
                with task.delegate("helper", intent=intent()):  # each one is another task of the same agents
                    found += [TOOLS[tool](account).id, TOOLS[tool](account).id]
            else:
                found.append(TOOLS[tool](account).id)
    assert not issuer.live
    return found


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(TOOLS)), st.sampled_from(["a", "b"]), st.sampled_from(sorted(OBLIGED)),
            st.integers(0, 1), st.sampled_from([0.0, 0.0, 3.0, 14.0, 16.0, 26.0, 31.0]),
        ),
        max_size=10,
    ),
    st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_calls_get_the_same_credentials_whether_those_are_looked_for_by_key_or_by_grant(
    calls: list[Call], points: bool, details: bool
) -> None:
    by_key = served(calls, points=points, details=details, by_key=True)

    assert by_key == served(calls, points=points, details=details, by_key=False)


@pytest.mark.control("8 leases are never shared")
@pytest.mark.parametrize("bound", ["ttl", "call"])
def test_credential_that_is_kept_without_a_bound_serves_no_call_under_one(bound: str) -> None:
    first, second, third = served(
        [("plain", "a", "", 0, 0.0), ("plain", "a", bound, 0, 0.0), ("plain", "a", "", 0, 0.0)],
        points=True, details=False, by_key=True,
    )  # fmt: skip

    assert first == third != second


@pytest.mark.control("8 leases are never shared")
def test_two_tasks_of_the_same_agents_under_one_root_never_share_a_lease() -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=intent()) as task:
        leases = []
        with task.delegate("helper", intent=intent()):
            leases += [plain("a"), plain("a")]
            other = task.delegate("helper", intent=intent())

            def apart() -> None:
                with other:
                    leases.extend([plain("a"), plain("a")])

            thread = threading.Thread(target=apart)  # while the first one is open
            thread.start()
            thread.join()
    first, again, second, once_more = leases

    assert first.key == second.key
    assert first.id == again.id != second.id == once_more.id


def test_credential_is_used_until_it_is_to_be_refreshed_and_not_longer() -> None:
    calls: list[Call] = [("plain", "a", "", 0, seconds) for seconds in (0.0, 13.0, 4.0, 0.0)]
    first, before, after, again = served(calls, points=False, details=False, by_key=True)

    assert first == before != after == again


@pytest.mark.control("8 leases are never shared")
def test_tool_that_is_called_like_another_has_leases_of_its_own() -> None:
    with fake_guard(issuer=Asked()) as guard, guard.task("bot", on_behalf_of="alice", intent=intent()):
        for _ in range(2):
            mine, other = plain("a"), namesake("a")
            assert (mine.key.audience, mine.key.scopes) == (BANK, ("read",))
            assert (other.key.audience, other.key.scopes) == ("https://other.test", ("all",))


@guarded("reuse.list", effect="read", audience=BANK, scopes=["read"])
def renewed(account: str) -> Lease:
    namesake(account)
    credential = current_credential()
    drive(credential.renew())
    return credential.lease


@pytest.mark.control("8 leases are never shared")
def test_credential_is_renewed_as_what_it_was_although_a_tool_is_called_like_its_own() -> None:
    with fake_guard(issuer=Asked()) as guard, guard.task("bot", on_behalf_of="alice", intent=intent()):
        lease = renewed("a")

    assert (lease.key.audience, lease.key.scopes) == (BANK, ("read",))


@pytest.mark.control("8 the whole chain is in the token")
@pytest.mark.parametrize("of", [for_one_call, of_one])
def test_grant_names_the_chain_as_it_is_now(of: Callable[[str], Lease]) -> None:
    issuer = Asked()
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=intent()) as task:
        of("a")
        proved = Chain(task.chain.subject, (Agent("bot", "spiffe://x/bot", Proof.ATTESTED),))
        task.settle_chain(proved)  # as a task that was parked does, when it is opened again
        of("b")
    assert [grant.chain is proved for grant in issuer.grants] == [False, True]


@pytest.mark.parametrize("of", [plain, for_one_call, of_one])
def test_issuer_that_puts_details_into_its_tokens_gets_the_steps_that_admitted_each_call(
    of: Callable[[str], Lease],
) -> None:
    issuer = Asked(details=True)
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=intent()):
        of("a")
    [grant] = issuer.grants

    assert grant.details_s256
    assert [sorted(said["steps"][0]) for said in grant.authorization_details] == [["args", "step"]]


def test_token_says_nothing_of_a_secret_argument_where_another_tool_has_its_name() -> None:
    def of(secret: list[str]) -> Callable[[str], Lease]:
        @guarded("reuse.list", effect="read", audience=BANK, scopes=["read"], secret=secret)
        def listed(account: str) -> Lease:
            return current_credential().lease

        return listed

    issuer = Asked(details=True)
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=intent()):
        leases = [of(secret)("a").id for secret in ([], ["account"], [])]
    said = [sorted(grant.authorization_details[0]["steps"][0]) for grant in issuer.grants]

    assert [["args", "step"], ["step"]] == said
    assert leases[0] == leases[2] != leases[1]


def test_what_is_asked_for_all_calls_is_made_once_and_says_each_calls_own_values() -> None:
    issuer = Asked()
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="alice", intent=intent()):
        leases = [for_one_call("a"), for_one_call("b"), of_one("a"), of_one("b")]
    said = [dict(grant.authorization_details[0])["arguments"] for grant in issuer.grants if grant.single_use]

    assert said == [{"account": "a"}, {"account": "b"}]
    assert [lease.key.resource for lease in leases] == ["", "", "account/a", "account/b"]
    assert issuer.grants[0].key is issuer.grants[1].key


def test_credential_that_is_kept_counts_as_issued_once() -> None:
    with fake_guard(issuer=Asked()) as guard, guard.task("bot", on_behalf_of="alice", intent=intent()) as task:
        assert plain("a") == plain("b")
        assert task.counts.issued == 1
        for_one_call("a")
        assert task.counts.issued == 2


@guarded("reuse.any", effect="read", audience=BANK, scopes=["read"], lease="call", secret=["pin"])
def of_anything(first: object, second: object = 1.5, pin: str = "0000") -> None: ...


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text() | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(min_size=1), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(_values, _values, st.sampled_from([for_one_call, plain, of_anything]))
def test_quick_way_to_a_grant_and_the_general_one_agree(first: object, second: object, of: object) -> None:
    tool, clock = of.__agentguard__, FakeClock()  # type: ignore[attr-defined]  # its declaration
    arguments = {"first": first, "second": second, "pin": "4711"} if of is of_anything else {"account": "a"}
    with (
        fake_guard(clock=clock, issuer=FakeIssuer()) as guard,
        guard.task("bot", on_behalf_of="a", intent=intent()) as task,
    ):
        call = Running(guard, task, tool, guard.next_id(), undecided(tool.spec.name))
        call.span = guard.telemetry.start_call(tool.spec.name, span_attributes(guard, task), tool.attributes)
        try:
            intercept(call, (), arguments)
        except Refusal:  # not canonical
            return
        asked = asked_for(task, tool.spec)
        grant = grant_for(call, asked)
        general = _grant_for(call, asked, NOTHING, grant.deadline - guard.now())

    assert grant == general
    assert [list(said) for said in grant.authorization_details] == [
        list(said) for said in general.authorization_details
    ]
    for said in grant.authorization_details:
        shown = {name: readable(value) for name, value in call.call.arguments.items() if name != "pin"}
        assert said["arguments"] == shown
        assert list(said["arguments"]) == list(shown)


class Renamed(Asked):
    """Calls itself otherwise from its third lease on, as a broker may whose route is configured anew."""

    def prepare(self, grant: Grant, now: float) -> Lease:
        return replace(super().prepare(grant, now), issuer="fake" if len(self.grants) < 3 else "other")


def test_record_of_a_credential_says_all_of_it_whether_it_shares_its_facts_or_not() -> None:
    log, leases = MemoryLog(), list[Lease]()
    with fake_guard(issuer=Renamed(), audit=log) as guard:
        for user in ("alice", "bob"):
            with guard.task("bot", on_behalf_of=user, intent=intent()):
                for tool in (for_one_call, for_one_call, for_one_call, plain, namesake, of_one):
                    leases.append(tool("a"))
    issued = [record for record in log.records if record["event"] == "credential.issued"]
    own = {"v", "chain", "seq", "time", "event", "prev", "hash"}

    assert len({lease.task for lease in leases}) == 2
    assert len({lease.issuer for lease in leases}) == 2
    assert [{name: said for name, said in record.items() if name not in own} for record in issued] == [
        {
            "lease": lease.id, "task": lease.task, "issuer": lease.issuer, "audience": lease.key.audience,
            "scopes": list(lease.key.scopes), "resource": lease.key.resource, "tool": lease.key.tool,
            "type": lease.type, "fingerprint": lease.fingerprint, "expires_by": int(lease.expires_by),
        }
        for lease in leases
    ]  # fmt: skip
