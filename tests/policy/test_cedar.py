"""Cedar: anything but an Allow without errors is a deny; policies are named, checked and cut by action."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard._drive import drive
from agentguard.errors import ConfigurationError
from agentguard.model.decision import Outcome, Reason
from agentguard.model.principal import Agent, Chain, Proof, Subject
from agentguard.policy.cedar import CedarPoint, decided, question_of
from agentguard.policy.cedar_policies import build
from agentguard.policy.combine import decide_all
from agentguard.policy.decided import Decided
from agentguard.policy.files import Loaded, PolicyFile
from agentguard.policy.obligations import Obligations
from agentguard.policy.request import TaskFacts
from tests.policy.questions import INTENT, ask

REFUNDS = """
@id("small-refunds") @owner("payments") @max_ttl("60")
permit(principal, action == Action::"refund.create", resource)
when { context.arguments.amount.lessThanOrEqual(decimal("50.0")) };
"""
FREEZE = '@id("freeze") forbid(principal, action, resource) when { context.environment == "frozen" };'
SCHEMA = """
entity User; entity Agent; entity Resource;
action "refund.create" appliesTo {
  principal: [User, Agent], resource: [Resource],
  context: { environment: String, arguments: { account: String, amount: decimal }, purpose: String, task: String,
    intent: String, intent_s256: String, steps: Set<String>, seen: Set<String>, chain: Set<String>, depth: Long,
    agent: { name: String, identity: String, proof: String }, attributes: {}, missing: Set<String>,
    subject: { id: String, "type": String, issuer: String, tenant: String, proof: String, sponsor: String },
    action: { name: String, effect: String, tags: Set<String>, scopes: Set<String> },
    resource: { id: String, "type": String, audience: String, data: Set<String>, environment: String } }
};
"""


def by(*texts: str, request: Any = None, **others: str) -> Decided:
    """Decide by some policy texts; other files by name, with `_` for the dot."""
    files = [PolicyFile(f"p{number}.cedar", text) for number, text in enumerate(texts, 1)]
    files += [PolicyFile(name.replace("_", "."), text) for name, text in others.items()]
    return decided("cedar", Loaded(build(files), "sha256:x"), request or ask(amount=Decimal("49.99")))


def test_allow_permits_with_the_rule_its_version_and_its_obligations() -> None:
    found = by(REFUNDS, FREEZE)
    assert (found.outcome, found.obligations) == (Outcome.PERMIT, Obligations(max_ttl=60))
    assert found.evidence[0].fields() == {
        "point": "cedar", "outcome": "permit", "reason": "declared", "version": "sha256:x", "rules": ["small-refunds"]
    }  # fmt: skip


@pytest.mark.parametrize("amount", ["50.01", "50.0001"])
def test_nothing_that_permits_is_a_deny(amount: str) -> None:
    found = by(REFUNDS, request=ask(amount=Decimal(amount)))
    assert (found.outcome, found.reason, found.miss.text) == (
        Outcome.DENY,
        Reason.POLICY_DENIED,
        "no policy permits it",
    )


def test_forbid_wins_and_is_named() -> None:
    found = by(REFUNDS, FREEZE, request=ask(amount=Decimal(1), facts=TaskFacts(environment="frozen")))
    assert (found.outcome, found.level, found.evidence[0].rules) == (Outcome.DENY, "cedar:freeze", ("freeze",))


@pytest.mark.control("2 an error in a Cedar policy is a deny")
@pytest.mark.parametrize(
    "wrong",
    ["forbid(principal, action, resource) when { context.attributes.risk > 3 };",
     "permit(principal, action, resource) when { context.attributes.risk > 3 };",
     "forbid(principal, action, resource) when { context.arguments.amount > 3 };",
     "permit(principal, action, resource) when { context.arguments.account };"],
)  # fmt: skip
def test_error_in_any_policy_is_a_deny_although_another_one_permits(wrong: str) -> None:
    assert by(REFUNDS).outcome is Outcome.PERMIT
    found = by(REFUNDS, wrong)
    assert (found.outcome, found.reason) == (Outcome.DENY, Reason.POLICY_ERROR)


@pytest.mark.control("2 what Cedar cannot hold is a deny")
@pytest.mark.parametrize("value", [Decimal("0.00001"), Decimal("1e15"), {"__entity": {"type": "User", "id": "root"}}])
def test_argument_that_cedar_cannot_hold_is_a_deny(value: Any) -> None:
    found = by("permit(principal, action, resource);", request=ask(amount=value))
    assert (found.outcome, found.reason) == (Outcome.DENY, Reason.POLICY_ERROR)


@pytest.mark.control("2 an argument is no part of the request")
def test_context_cannot_take_the_place_of_subject_action_or_resource() -> None:
    request = ask()
    forged = type(request)(
        subject=request.subject, action=request.action, resource=request.resource,
        context={**request.context, "subject": {"tenant": "bank"}},
    )  # fmt: skip
    assert by("permit(principal, action, resource);", request=forged).reason is Reason.POLICY_ERROR


def test_user_and_agent_are_different_principals_and_groups_come_from_a_file() -> None:
    entities = """[
      {"uid": {"type": "User", "id": "alice"}, "attrs": {}, "parents": [{"type": "Group", "id": "finance"}]},
      {"uid": {"type": "Group", "id": "finance"}, "attrs": {}, "parents": []}]"""
    policy = 'permit(principal in Group::"finance", action, resource == Resource::"account/acme");'
    itself = Chain(Subject("alice", proof=Proof.ITSELF), (Agent("alice"),))
    assert by(policy, entities_json=entities).outcome is Outcome.PERMIT
    assert by(policy, request=ask(chain=itself), entities_json=entities).outcome is Outcome.DENY
    assert by(policy, request=ask(account="evil"), entities_json=entities).outcome is Outcome.DENY


def test_policies_are_validated_against_a_schema_at_load_and_requests_at_each_call() -> None:
    request = ask(amount=Decimal("49.99"))
    assert by(REFUNDS, request=request, s_cedarschema=SCHEMA).outcome is Outcome.PERMIT
    unknown = ask("refund.other", amount=Decimal("49.99"))
    assert (
        by("permit(principal, action, resource);", request=unknown, s_cedarschema=SCHEMA).reason is Reason.POLICY_ERROR
    )
    mistyped = ask(amount="a lot")
    assert by(REFUNDS, request=mistyped, s_cedarschema=SCHEMA).reason is Reason.POLICY_ERROR
    with pytest.raises(ConfigurationError, match="do not fit the schema"):
        by('permit(principal, action == Action::"refund.craete", resource);', s_cedarschema=SCHEMA)


def test_schema_may_be_written_in_json() -> None:
    kinds: dict[str, Any] = {"User": {}, "Agent": {}, "Resource": {}}
    create = {"appliesTo": {"principalTypes": ["User"], "resourceTypes": ["Resource"]}}
    files = [
        PolicyFile("a.cedar", 'permit(principal, action == Action::"refund.create", resource);'),
        PolicyFile(
            "s.cedarschema.json", json.dumps({"": {"entityTypes": kinds, "actions": {"refund.create": create}}})
        ),
    ]
    assert build(files).schema is not None
    with pytest.raises(ConfigurationError, match="do not fit the schema"):
        build([PolicyFile("a.cedar", files[0].text.replace("create", "craete")), files[1]])


def test_entity_that_says_two_things_of_one_attribute_does_not_load() -> None:
    twice = '[{"uid": {"type": "User", "id": "alice"}, "attrs": {"ok": false, "ok": true}, "parents": []}]'
    with pytest.raises(ConfigurationError, match="entities: an object has a member twice"):
        by(REFUNDS, entities_json=twice)


@pytest.mark.control("2 a policy file that is wrong does not load")
@pytest.mark.parametrize(
    ("texts", "why"),
    [(["permit(principal, action, resource) when {"], "parse"),
     (["permit(principal == ?principal, action, resource);"], "template"),
     (["@max_tll(\"60\") permit(principal, action, resource);"], "not known"),
     (["@max_ttl(\"1h\") permit(principal, action, resource);"], "max_ttl"),
     (["@approve(\"anybody\") permit(principal, action, resource);"], "approve"),
     (["@approve forbid(principal, action, resource);"], "forbid"),
     (["@id(\"a b\") permit(principal, action, resource);"], "printable"),
     (['@id("a") permit(principal, action, resource); @id("a") forbid(principal, action, resource);'], "two"),
     (['@id("a") permit(principal, action, resource);', '@id("a") forbid(principal, action, resource);'], "another"),
     ([""], "0 policies"), ([], "no policy")],
)  # fmt: skip
def test_mistakes_are_found_when_files_are_loaded(texts: list[str], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        by(*texts)


@pytest.mark.parametrize("text", ["{}", "[1]", "[", "[" * 100_000])
def test_entities_that_are_none_do_not_load(text: str) -> None:
    with pytest.raises(ConfigurationError, match="entities"):
        by(REFUNDS, entities_json=text)
    with pytest.raises(ConfigurationError, match="schema"):
        by(REFUNDS, a_cedarschema=SCHEMA, b_cedarschema=SCHEMA)


def test_policy_without_an_id_is_known_by_its_file_and_place() -> None:
    found = by("permit(principal, action, resource);\n" * 12)
    assert set(found.evidence[0].rules) == {f"p1.cedar#{number}" for number in range(1, 13)}


def test_permits_that_hold_together_oblige_together() -> None:
    policy = '@approve @max_ttl("30") permit(principal, action, resource);'
    found = by(REFUNDS, policy)
    assert (found.outcome, found.obligations.max_ttl) == (Outcome.ASK, 30)


SCOPES = ["action", 'action == Action::"a"', 'action == Action::"b"', 'action in [Action::"a", Action::"b"]',
          'action in Action::"g"']  # fmt: skip
WHENS = ["", "when { true }", "when { false }", "when { context.nothing }", 'when { context.environment == "test" }']
policies = st.lists(st.tuples(st.sampled_from(["permit", "forbid"]), st.sampled_from(SCOPES), st.sampled_from(WHENS)),
                    min_size=1, max_size=6)  # fmt: skip
ENTITIES = '[{"uid": {"type": "Action", "id": "b"}, "attrs": {}, "parents": [{"type": "Action", "id": "g"}]}]'


@pytest.mark.control("2 a slice decides as the whole")
@settings(deadline=None)
@given(policies, st.sampled_from(["a", "b", "c"]))
def test_policies_cut_by_action_decide_as_all_of_them_do(rules: Any, action: str) -> None:
    text = "\n".join(f"{effect}(principal, {scope}, resource) {when};" for effect, scope, when in rules)
    request = ask(action)
    found = by(text, request=request, entities_json=ENTITIES)
    whole = cedarpy.is_authorized(question_of(request), text, ENTITIES)
    expected = whole.allowed and not whole.diagnostics.errors
    assert (found.outcome is Outcome.PERMIT) is expected
    assert (found.reason is Reason.POLICY_ERROR) is bool(whole.diagnostics.errors)
    assert len(found.evidence[0].rules) == len(whole.diagnostics.reasons)


@pytest.mark.anyio
async def test_point_reads_a_folder_and_decides_under_an_event_loop_and_without(tmp_path: Path) -> None:
    (tmp_path / "refunds.cedar").write_text(REFUNDS)
    point = CedarPoint(tmp_path, interval=0)
    request = ask(amount=Decimal("1"))
    with anyio.fail_after(5):
        assert (await point.decide(request)).outcome is Outcome.PERMIT
    assert drive(point.decide(request)).outcome is Outcome.PERMIT
    (tmp_path / "freeze.cedar").write_text("forbid(principal, action, resource);")
    before = point.version
    assert drive(point.decide(request)).outcome is Outcome.DENY
    assert point.version != before


def test_record_says_that_newer_policies_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "refunds.cedar").write_text(REFUNDS)
    point = CedarPoint(tmp_path, interval=0)
    (tmp_path / "refunds.cedar").write_text("permit(")
    found = drive(point.decide(ask(amount=Decimal("1"))))
    assert (found.outcome, found.evidence[0].fields()["outdated"]) == (Outcome.PERMIT, True)


def test_several_folders_all_have_to_permit(tmp_path: Path) -> None:
    points = []
    for name, text in (("a", REFUNDS), ("b", FREEZE)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.cedar").write_text(text)
        points.append(CedarPoint(tmp_path / name, name=name))
    found = drive(decide_all(points, ask(amount=Decimal("1")), INTENT))
    assert (found.outcome, found.level, [entry.point for entry in found.evidence]) == (Outcome.DENY, "b", ["a", "b"])


def test_policies_of_the_documentation_load_and_decide_as_they_read() -> None:
    page = Path(__file__).parents[2] / "docs" / "policy.md"
    text, *_ = re.findall(r"^```cedar\n(.*?)^```", page.read_text(), flags=re.M | re.S)
    found = by(text)
    assert (found.outcome, found.evidence[0].rules) == (Outcome.PERMIT, ("small-refunds",))
