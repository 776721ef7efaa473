"""The question is built of what the guard knows, and it is the same for all."""

from __future__ import annotations

from decimal import Decimal

from agentguard.model.call import ToolCall, ToolSpec
from agentguard.model.principal import Agent, Chain, Proof, Subject
from agentguard.policy.request import TaskFacts, request_for, resource_type
from agentguard.policy.values import json_form
from tests.policy.questions import ask


def test_question_holds_subject_action_resource_and_context() -> None:
    chain = Chain(
        Subject("alice", "https://idp.test", "bank", Proof.VERIFIED), (Agent("bot"), Agent("sub", "spiffe://x/sub"))
    )
    facts = TaskFacts(
        environment="prod", task="t1", purpose="Refund", intent="i", intent_s256="s256:x", steps=("s1", "s2"),
        seen=frozenset({"pii"}), attributes={"risk": 3}, missing=("posture",),
    )  # fmt: skip
    found = json_form(ask(chain=chain, facts=facts, amount=Decimal("49.99")))
    assert found["subject"] == {
        "type": "user", "id": "alice",
        "properties": {"issuer": "https://idp.test", "tenant": "bank", "proof": "verified", "sponsor": ""},
    }  # fmt: skip
    assert found["action"]["name"] == "refund.create"
    assert found["action"]["properties"]["effect"] == "write"
    assert (found["resource"]["type"], found["resource"]["id"]) == ("account", "account/acme")
    assert found["resource"]["properties"] == {"audience": "https://pay.test", "data": ["pii"], "environment": "prod"}
    context = found["context"]
    assert context["arguments"] == {"account": "acme", "amount": 49.99}
    assert context["chain"] == ["user:alice", "bot", "sub"]
    assert context["agent"] == {"name": "sub", "identity": "spiffe://x/sub", "proof": "in_process"}
    assert (context["depth"], context["attributes"], context["missing"]) == (1, {"risk": 3}, ["posture"])
    assert (context["seen"], context["steps"], context["purpose"]) == (["pii"], ["s1", "s2"], "Refund")


def test_agent_that_works_for_itself_is_no_user() -> None:
    chain = Chain(Subject("nightly", proof=Proof.ITSELF, sponsor="ann"), (Agent("nightly"),))
    assert ask(chain=chain).subject["type"] == "agent"


def test_argument_that_the_tool_does_not_record_is_not_in_the_question() -> None:
    spec = ToolSpec(name="t", parameters=frozenset({"pin", "a"}), secret=frozenset({"pin"}), record=("a",))
    call = ToolCall(id="1", spec=spec, arguments={"pin": "1234", "a": "x"}, given=frozenset(), digest="")
    request = request_for(call, Chain(Subject("alice"), (Agent("bot"),)), TaskFacts(environment="test"))
    assert "1234" not in repr(request)
    assert (request.resource["type"], request.resource["id"]) == ("tool", "t")


def test_resource_type_is_the_literal_first_segment_of_the_template() -> None:
    types = {template: resource_type(ToolSpec(name="t", resource=template)) for template in
             ("account/{a}", "{kind}/{a}", "pre{x}/{a}", "{a}", "", "/x")}  # fmt: skip
    assert types == {
        "account/{a}": "account",
        "{kind}/{a}": "tool",
        "pre{x}/{a}": "tool",
        "{a}": "tool",
        "": "tool",
        "/x": "tool",
    }
