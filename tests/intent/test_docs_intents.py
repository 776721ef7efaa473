"""The page about intents shows what the code does."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest

from agentguard.intent import Facts, Intent, Truth, compile_intent
from agentguard.intent.kinds import KINDS
from agentguard.model.canonical import canonical
from tests.intent.calls import call_of

PAGE = (Path(__file__).parents[2] / "docs" / "intents.md").read_text()
EXAMPLE, SETS = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.M | re.S)
ROW = re.compile(r"^\| ([a-z_ ]+) \| `([^`]+)` \|(?: `([^`]*)`)? \|(?: `([^`]*)`)? \|(?: `([^`]*)`)? \|$", re.M)
ROWS = ROW.findall(PAGE)
HEAD = """version: 1
purpose: p
sets: {team: {values: [ann@acme.test, bo@acme.test]}}
define:
  address: {keys: {street: {text: {max: 80}}, city: {in: [Rome, Oslo]}}}
"""


def test_table_has_a_row_for_every_kind() -> None:
    assert len(ROWS) == 30
    assert {row[0] for row in ROWS} >= set(KINDS) - {"from", "said", "bind"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_row_says_what_the_code_does(row: tuple[str, ...]) -> None:
    intent = Intent.from_yaml(f"{HEAD}steps: [{{tool: pay, args: {{a: {row[1]}, other: any}}}}]\n")
    (_, (part, *more)), _ = compile_intent(intent).rules.steps["pay"][0].parts

    for text, expected in zip(row[2:], Truth, strict=True):
        if text:
            value = canonical(json.loads(text, parse_float=Decimal))
            call = call_of(other="there")
            truths = {item.test(value, call, Facts()) for item in (part, *more)}
            found = next(truth for truth in (Truth.FAIL, Truth.CANNOT_TELL, Truth.HOLD) if truth in truths)
            assert found is expected, text


def test_example_loads_and_its_examples_are_what_it_permits_and_denies() -> None:
    intent = Intent.from_yaml(EXAMPLE, account="acme", user="ann", limit=100)
    resolved = intent.resolve({"orders_of": lambda user: [{"id": f"{user}-1"}]})
    assert resolved.examples is not None

    compiled = compile_intent(resolved)

    for expected, examples in (("Admitted", resolved.examples.permit), ("Refused", resolved.examples.deny)):
        for example in examples:
            verdict = compiled.check(call_of(example.tool, **example.args), Facts())
            assert type(verdict).__name__ == expected
    assert Intent.from_yaml(resolved.to_yaml()) == resolved


def test_sets_of_the_page_load() -> None:
    assert list(Intent.from_yaml(SETS).sets) == ["team", "payees", "regions", "orders"]


def test_python_example_builds_an_intent() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S)
    names: dict[str, object] = {}

    exec(code, names)  # the page's own example

    assert isinstance(names["intent"], Intent)
