"""The parameters of an intent file: typed, each given, each used, put in as values and never twice."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import pytest

from agentguard.intent import Intent, eq, from_, in_, step
from tests.intent.calls import problems

PARAMS: list[tuple[Any, Any, Any]] = [
    ("string", "x", "x"),
    ("string", "", ""),
    ("integer", 5, 5),
    ("decimal", "5.50", Decimal("5.5")),
    ("decimal", 5.5, Decimal("5.5")),
    ("decimal", 5, 5),
    ("bool", True, True),
    ("bool", False, False),
    ("date", datetime.date(2027, 3, 31), "2027-03-31"),
    ("date", "2027-03-31", "2027-03-31"),
    ("list", ["a", 5], ["a", 5]),
    ("list", ("a",), ["a"]),
    ("string", "${b}", "${b}"),
    ("string", "$${b}", "$${b}"),
]


@pytest.mark.parametrize(("kind", "given", "stands"), PARAMS)
def test_parameter_stands_for_its_typed_value(kind: str, given: Any, stands: Any) -> None:
    body = f"version: 1\npurpose: p\nparams: {{a: {kind}}}\nsteps: [{{tool: pay, args: {{x: {{eq: '${{a}}'}}}}}}]\n"

    intent = Intent.from_yaml(body, a=given)

    assert intent == Intent("p", step("pay", x=eq(stands)))
    assert Intent.from_yaml(intent.to_yaml()) == intent


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("string", 5),
        ("string", None),
        ("string", "cafe\u0301"),
        ("integer", True),
        ("integer", "5"),
        ("integer", 5.0),
        ("decimal", "x"),
        ("decimal", True),
        ("decimal", float("nan")),
        ("bool", 1),
        ("date", "31.3.2027"),
        ("date", 5),
        ("list", "abc"),
        ("list", []),
        ("list", [{1}]),
        ("{type: decimal, max: 10}", 11),
        ("{type: integer, min: 1}", 0),
    ],
)
def test_parameter_of_another_type_or_out_of_bounds_is_refused_without_being_shown(kind: str, given: Any) -> None:
    (found,) = problems(f"params: {{a: {kind}}}\nsteps: [{{tool: pay, args: {{x: {{eq: '${{a}}'}}}}}}]\n", a=given)

    assert found.startswith("3: params.a: ")
    if isinstance(given, str):
        assert f"{given!r}" not in found.replace('"', "'") or kind == "decimal"


BAD_PARAMS: list[tuple[str, dict[str, object], str]] = [
    ("params: {a: string}\nreads: ['${a}']", {}, "3: params.a: no value was given"),
    ("params: {a: string}\nreads: ['${a}']", {"a": "x", "b": 1}, "3: params: a value was given for 'b'"),
    ("params: {a: string}\nreads: [x]", {"a": "x"}, "3: params.a: it is used nowhere"),
    ("reads: ['${a}']", {}, "3: reads[0]: ${a} is not declared under params"),
    ("everywhere: {u: {max: '${a}'}}", {}, "3: everywhere.u.max: ${a} is not declared under params"),
    ("params: {a: string}\nreads: ['${a}', 'x.${a}']", {"a": "x"}, "4: reads[1]: ${name} stands for a whole value"),
    ("params: {a: {type: []}}\nreads: ['${a}']", {"a": "x"}, "3: params.a: write a type"),
    ("params: {a: strng}\nreads: ['${a}']", {"a": "x"}, "3: params.a: write a type"),
    ("params: {a: {type: string, max: 5}}\nreads: ['${a}']", {"a": "x"}, "3: params.a: min and max are for"),
    (
        "params: {a: {type: decimal, min: 5, max: 1}}\neverywhere: {u: {max: '${a}'}}",
        {"a": 3},
        "params.a: min is over",
    ),
    ("params: {}\nreads: [x]", {}, "3: params: an empty mapping"),
    ("params: [a]\nreads: [x]", {}, "3: params: write a mapping"),
    ("params: {a-b: string}\nreads: [x]", {"a-b": "x"}, "no parameter name"),
]


@pytest.mark.parametrize(("body", "given", "expected"), BAD_PARAMS)
def test_parameter_mistakes(body: str, given: dict[str, object], expected: str) -> None:
    assert expected in problems(body, **given)[0]


def test_missing_parameter_causes_one_mistake_and_no_others() -> None:
    body = "params: {low: integer}\neverywhere: {u: {min: '${low}', max: 0}, v: {prefix: '${low}'}}\n"

    assert len(problems(body)) == 1


def test_parameter_stands_in_lists_patterns_and_tools() -> None:
    body = """\
version: 1
purpose: p
params: {names: list, tool: string, reads: list}
reads: "${reads}"
steps: [{tool: "${tool}", args: {to: {in: "${names}"}}}]
"""
    intent = Intent.from_yaml(body, names=["ann", "bo"], tool="pay", reads=["a.read"])

    assert intent == Intent("p", step("pay", to=in_("ann", "bo")), reads=["a.read"])
    assert Intent.from_yaml(intent.to_yaml()) == intent


def test_whole_number_of_a_parameter_counts_as_one_of_the_file_does() -> None:
    body = """\
version: 1
purpose: p
params: {n: integer}
steps:
  - tool: pay
    args: {to: {items: {max: "${n}"}}, body: {text: {max: "${n}"}}}
    times: "${n}"
    attempts: "${n}"
limits: {calls: "${n}"}
"""
    assert Intent.from_yaml(body, n=3) == Intent.from_yaml(body.replace("params: {n: integer}\n", "")
                                                           .replace('"${n}"', "3"))  # fmt: skip


def test_parameter_brings_a_value_never_a_word_or_a_pattern() -> None:
    body = """\
params: {a: string, b: string, c: list, d: string}
everywhere: {u: "${a}", v: [{eq: x}, "${a}"], w: {not: "${a}"}, x: {optional: "${a}"}}
reads: ["${b}"]
steps: [{tool: pay, args: {to: "${c}"}}]
forbid: [{tool: "${d}"}]
"""
    found = problems(body, a="any", b="*", c=["any", "absent"], d="mail.*")

    assert len(found) == 8
    assert all("a parameter is a value" in line or "never a pattern" in line for line in found)


@pytest.mark.parametrize(
    ("body", "given"),
    [
        ("steps: [{tool: pay, args: {to: '${a}'}}]", [{"prefix": "a"}]),
        ("steps: '${a}'", [{"tool": "pay", "args": {"to": "x"}}]),
        ("reads: [a.b]\nforbid: '${a}'", [{"tool": "nothing"}]),
        ("steps: [{tool: pay, args: {to: any}, then: '${a}'}]", "permit"),
        ("steps: [{tool: pay, args: {to: any}, then: {ask: true, by: '${a}'}}]", "subject"),
        ("steps: [{tool: pay, args: {to: {from: {tool: a.read, field: '${a}'}}}}]", "*"),
    ],
)
def test_parameter_never_brings_a_part_of_the_language(body: str, given: Any) -> None:
    kind = "list" if isinstance(given, list) else "string"
    found = problems(f"params: {{a: {kind}}}\n{body}\n", a=given)

    assert "a parameter is a value" in found[0], found


def test_mapping_in_a_list_that_a_parameter_brings_is_a_value() -> None:
    body = "version: 1\npurpose: p\nparams: {a: list}\nsteps: [{tool: pay, args: {to: {in: '${a}'}}}]\n"

    assert Intent.from_yaml(body, a=[{"k": ["x"]}]) == Intent("p", step("pay", to=in_({"k": ["x"]})))


def test_parameter_is_escaped_in_the_expression_of_a_match() -> None:
    pytest.importorskip("re2")
    found = "{from: {tool: a.read, field: text, match: {regex: '${a}'}}}"
    body = f"version: 1\npurpose: p\nparams: {{a: string}}\nsteps: [{{tool: pay, args: {{to: {found}}}}}]\n"
    intent = Intent.from_yaml(body, a="a.*")
    pattern = {"regex": r"a\.\*"}

    assert intent == Intent("p", step("pay", to=from_(tool="a.read", field="text", match=pattern)))


def test_value_of_a_parameter_is_never_replaced_again() -> None:
    body = "version: 1\npurpose: p\nparams: {a: string, b: string}\neverywhere: {u: {eq: '${a}'}, v: {eq: '${b}'}}\n"

    assert dict(Intent.from_yaml(body, a="${b}", b="x").everywhere) == {"u": eq("${b}"), "v": eq("x")}
