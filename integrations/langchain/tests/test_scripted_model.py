"""The scripted model, which other tests and the examples stand on."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from agentguard_langchain.testing import ScriptedModel


def test_it_answers_by_the_number_of_answers_so_far_and_keeps_no_state() -> None:
    model = ScriptedModel([("look", {"q": "a"})], "done")
    hi = HumanMessage("hi")
    first = model.invoke([hi])
    assert first == model.invoke([hi]).model_copy(update={"id": first.id})
    assert [(c["name"], c["args"], c["id"]) for c in first.tool_calls] == [("look", {"q": "a"}, "call_1_1")]
    assert model.invoke([hi, first]).content == "done"
    assert model.seen == [[hi], [hi], [hi, first]]


def test_it_says_when_the_script_is_too_short() -> None:
    with pytest.raises(AssertionError, match="has 1 turns"):
        ScriptedModel("done").invoke([AIMessage("done")])


@pytest.mark.anyio
async def test_it_streams_the_same_answer() -> None:
    model = ScriptedModel(AIMessage("two words", tool_calls=[{"name": "t", "args": {"a": 1}, "id": "c"}]))
    sync = list(model.stream("hi"))
    parts = [part async for part in model.astream("hi")]
    assert [part.text for part in sync if part.text] == ["two ", "words"] == [p.text for p in parts if p.text]
    whole = sync[0]
    for part in sync[1:]:
        whole = whole + part
    assert [(c["name"], c["args"], c["id"]) for c in whole.tool_calls] == [("t", {"a": 1}, "c")]
    assert (await model.ainvoke("hi")).content == "two words"


def test_it_notes_the_tools_that_are_bound() -> None:
    model = ScriptedModel("done")
    assert model.bind_tools([{"type": "x"}]) is model
    assert model.bound == [[{"type": "x"}]]
