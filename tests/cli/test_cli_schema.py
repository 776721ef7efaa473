"""The JSON Schema that `agentguard schema` prints: what loads is valid, and what is unknown is not."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentguard import Intent
from agentguard.cli.main import main
from agentguard.intent.file_form import _AGENT, _FORBID, _STEP, _TOP
from agentguard.intent.kinds import KINDS, WORDS
from agentguard.intent.schema import intent_schema
from agentguard.intent.strict_file import read_strict, read_strict_file

REPO = Path(__file__).parents[2]
FILES = sorted((REPO / "bench" / "agentdojo" / "intents").glob("*/user_task_*.yaml"))
PAGES = {name: (REPO / "docs" / name).read_text() for name in ("quickstart.md", "intents.md")}
WRITTEN = [
    (name, text)
    for name, page in PAGES.items()
    for text in re.findall(r"^```yaml\n(version: 1\n(?:intent|purpose):.*?)^```", page, flags=re.M | re.S)
]
KINDS_OF_THE_PAGE = re.findall(r"^\| [a-z_ ]+ \| `([^`]+)` \|", PAGES["intents.md"], flags=re.M)
SCHEMA = intent_schema()
TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, Decimal), "boolean": bool,
}  # fmt: skip
ANNOTATIONS = {"$schema", "title", "description", "$defs"}


def valid(value: Any, schema: Any) -> bool:
    """The part of JSON Schema (2020-12) that our schema uses; another keyword raises."""
    return all(_RULES[word](value, said, schema) for word, said in schema.items() if word not in ANNOTATIONS)


def _properties(value: Any, said: Any, schema: Any) -> bool:
    return not isinstance(value, dict) or all(valid(item, said[key]) for key, item in value.items() if key in said)


def _others(value: Any, said: Any, schema: Any) -> bool:
    others = (
        [item for key, item in value.items() if key not in schema.get("properties", {})]
        if isinstance(value, dict)
        else []
    )
    return not others if said is False else all(valid(item, said) for item in others)


def _same(value: Any, said: Any) -> bool:
    return type(value) is type(said) and bool(value == said)


_RULES: dict[str, Any] = {
    "$ref": lambda value, said, _: valid(value, SCHEMA["$defs"][said.removeprefix("#/$defs/")]),
    "type": lambda value, said, _: isinstance(value, TYPES[said]) and (said == "boolean") >= isinstance(value, bool),
    "anyOf": lambda value, said, _: any(valid(value, item) for item in said),
    "const": lambda value, said, _: _same(value, said),
    "enum": lambda value, said, _: any(_same(value, item) for item in said),
    "pattern": lambda value, said, _: not isinstance(value, str) or re.search(said, value) is not None,
    "minLength": lambda value, said, _: not isinstance(value, str) or len(value) >= said,
    "minimum": lambda value, said, _: not isinstance(value, int) or value >= said,
    "items": lambda value, said, _: not isinstance(value, list) or all(valid(item, said) for item in value),
    "minItems": lambda value, said, _: not isinstance(value, list) or len(value) >= said,
    "minProperties": lambda value, said, _: not isinstance(value, dict) or len(value) >= said,
    "required": lambda value, said, _: not isinstance(value, dict) or set(said) <= set(value),
    "propertyNames": lambda value, said, _: not isinstance(value, dict) or all(valid(key, said) for key in value),
    "properties": _properties,
    "additionalProperties": _others,
}


def intent(body: str) -> Any:
    return read_strict(f"version: 1\npurpose: p\n{body}\n", "f").tree


def test_command_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["schema"])
    assert json.loads(capsys.readouterr().out) == SCHEMA
    assert 0 == main(["schema", "--compact"])
    out = capsys.readouterr().out
    assert (json.loads(out), out.count("\n")) == (SCHEMA, 1)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_intents_of_agentdojo_are_valid(file: Path) -> None:
    assert valid(read_strict_file(file).tree, SCHEMA)


@pytest.mark.parametrize(("page", "text"), WRITTEN, ids=lambda value: value[:20])
def test_intents_of_the_pages_are_valid(page: str, text: str) -> None:
    assert valid(read_strict(text, page).tree, SCHEMA)


def test_pages_show_intents() -> None:
    assert {name for name, _ in WRITTEN} == set(PAGES)
    assert len(KINDS_OF_THE_PAGE) >= 30


@pytest.mark.parametrize("said", KINDS_OF_THE_PAGE)
def test_every_kind_of_the_page_is_valid(said: str) -> None:
    assert valid(intent(f"steps: [{{tool: pay, args: {{a: {said}}}}}]"), SCHEMA)


def test_schema_has_every_key_and_every_kind_of_the_code() -> None:
    kinds = SCHEMA["$defs"]["constraint"]["anyOf"][2]["properties"]

    assert set(kinds) == set(KINDS) - set(WORDS) | {"fold"}
    assert set(SCHEMA["properties"]) == set(_TOP)
    for name, keys in (("step", _STEP), ("forbid", _FORBID), ("agent", _AGENT)):
        assert set(SCHEMA["$defs"][name]["properties"]) == set(keys)


def test_nothing_but_the_value_of_eq_is_left_open() -> None:
    kinds = SCHEMA["$defs"]["constraint"]["anyOf"][2]["properties"]
    keyed = {**kinds, **SCHEMA["properties"], **SCHEMA["$defs"]["step"]["properties"],
             **kinds["from"]["properties"]}  # fmt: skip

    assert {key for key, said in keyed.items() if not set(said) - ANNOTATIONS} == {"eq"}


INVALID = (
    "stepz: [{tool: pay}]",
    "steps: [{tool: pay, argz: {}}]",
    "steps: [{tool: pay, args: {a: {maxx: 5}}}]",
    "steps: [{tool: pay, args: {a: 5}}]",
    "steps: [{tool: pay, args: {a: {url: {host: a.test}}}}]",
    "steps: [{tool: pay, args: {a: {from: {tool: x, feld: y}}}}]",
    "steps: [{tool: pay, args: {a: [{each: {keys: {b: {eqq: 1}}}}]}}]",
    "steps: [{tool: Pay}]",
    "steps: [{args: {a: any}}]",
    "steps: []",
    "reads: ['ticket*']",
    "forbid: [{tag: [egress]}]",
    "sets: {s: {values: [a], field: x}}",
    "agents: {bot: {read: [a]}}",
    "agents: {bot: {version: 1, reads: [a]}}",
    "otherwise: {then: permit, tools: [a]}",
    "limits: {call: 5}",
    "limits: {rate: 10}",
    "params: {a: text}",
    "steps: [{tool: pay, then: deny}]",
    "steps: [{tool: pay, times: 0}]",
    "examples: {allow: [{tool: a}]}",
)


@pytest.mark.parametrize("body", INVALID)
def test_what_is_unknown_is_not_valid(body: str) -> None:
    assert not valid(intent(body), SCHEMA)


def test_parameter_may_stand_for_a_whole_scalar() -> None:
    assert valid(intent("params: {n: decimal}\nsteps: [{tool: pay, args: {a: {min: '${n}', eq: '${n}'}}}]"), SCHEMA)
    assert not valid(intent("params: {n: decimal}\nsteps: [{tool: pay, args: {a: {min: 'x${n}'}}}]"), SCHEMA)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("params: {x: list}\nreads: '${x}'", ["pay"]),
        ("params: {x: list}\notherwise: {tools: '${x}'}", ["pay"]),
        ("params: {x: list}\nsteps: [{tool: pay, args: {pay: any}, distinct: '${x}'}]", ["pay"]),
        ("params: {x: list}\nsteps: [{tool: pay}, {tool: send, after: '${x}'}]", ["pay"]),
        ("params: {x: bool}\nsets: {s: {env: S, may_be_empty: '${x}'}}", True),
        ("params: {x: bool}\nsteps: [{tool: pay, args: {a: {said: '${x}'}}}]", True),
        ("params: {x: string}\nsets: {s: {resolve: f, with: {}}}\neverywhere: {a: {eq: '${x}'}}", "y"),
    ],
)
def test_what_loads_with_its_parameters_is_valid(body: str, value: object) -> None:
    text = f"version: 1\npurpose: p\n{body}\n"

    Intent.from_yaml(text, x=value)
    assert valid(read_strict(text, "f").tree, SCHEMA)
