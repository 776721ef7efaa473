"""An intent as YAML writes it: the same values as in Python, and all mistakes at once with line and path."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentguard.errors import ConfigurationError
from agentguard.intent import (
    Intent,
    absent,
    any_,
    at_most,
    between,
    eq,
    in_,
    not_,
    optional,
    prefix,
    step,
    text,
)
from tests.intent.calls import problems

FULL = """\
version: 1
intent: refund-ticket
purpose: Refund ticket 4711 to the account that opened it
ttl: 10m
params:
  account: string
  user: string
  limit: {type: decimal, max: "100.00"}
everywhere:
  user_id: {eq: "${user}"}
reads: [account.read, "ticket.*"]
steps:
  - id: refund
    tool: refund.create
    args:
      account: {eq: "${account}"}
      amount: {min: "0.01", max: "${limit}"}
      note: {text: {max: 200, urls: none}}
      city: any
      cc: absent
      kind: {in: [full, Part], fold: case}
      tag: {optional: {prefix: t-}}
      mode: {not: {eq: dry}}
      to: [{eq: ann}, {prefix: bo}]
    times: {n: 2, per: [account]}
    total: {amount: "${limit}"}
    attempts: 3
  - tool: refund.create
    args: {account: any, amount: {min: 0, max: 1000}}
    then: ask
forbid:
  - {tags: [egress], seen: [pii]}
  - {tool: "admin.*", args: {to: {eq: evil}}}
agents:
  researcher: {reads: [account.read]}
"""
PYTHON = Intent(
    "Refund ticket 4711 to the account that opened it",
    step(
        "refund.create",
        account="acme",
        amount=between("0.01", 50),
        note=text(max=200),
        city=any_,
        cc=absent,
        kind=in_("full", "Part", fold="case"),
        tag=optional(prefix("t-")),
        mode=not_("dry"),
        to=eq("ann") | prefix("bo"),
    )
    .named("refund")
    .times(2, per=["account"])
    .total(amount=50)
    .attempts(3),
    step("refund.create", account=any_, amount=at_most(1000)).then_ask(),
    name="refund-ticket",
    everywhere={"user_id": "ann"},
    reads=["account.read", "ticket.*"],
    forbid=[{"tags": ["egress"], "seen": ["pii"]}, {"tool": "admin.*", "args": {"to": "evil"}}],
    agents={"researcher": {"reads": ["account.read"]}},
    ttl="10m",
)
GIVEN: dict[str, Any] = {"account": "acme", "user": "ann", "limit": "50.00"}


def test_yaml_and_python_build_the_same_intent() -> None:
    intent = Intent.from_yaml(FULL, **GIVEN)

    assert intent == PYTHON
    assert intent.s256 == PYTHON.s256


def test_round_trip_gives_an_equal_intent() -> None:
    again = Intent.from_yaml(PYTHON.to_yaml())

    assert again == PYTHON
    assert again.s256 == PYTHON.s256
    assert again.to_yaml() == PYTHON.to_yaml()


def test_source_hash_is_of_the_file_before_its_parameters() -> None:
    one, other = Intent.from_yaml(FULL, **GIVEN), Intent.from_yaml(FULL, **(GIVEN | {"account": "evil"}))

    assert one.source_s256 == other.source_s256
    assert one.s256 != other.s256
    assert Intent.from_yaml(FULL.replace("4711", "4712"), **GIVEN).source_s256 != one.source_s256
    assert Intent.from_yaml(f"# a comment\n{FULL}", **GIVEN).source_s256 == one.source_s256
    assert PYTHON.source_s256 is None


def test_file_is_read_from_disk(tmp_path: Path) -> None:
    file = tmp_path / "refund.yaml"
    file.write_text(FULL)

    assert Intent.load(file, **GIVEN) == PYTHON
    assert Intent.load(str(file), **GIVEN) == PYTHON


def test_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml"):
        Intent.load(tmp_path / "none.yaml")


SURVIVORS: list[Any] = [
    "", " ", "50", "true", "null", "~", "no", "a: b", "- a", "#x", "${x}", "$${x}", "$$${x}", "x${y",
    "a\nb\tc", '"', "\\",
    "\u4f60\u597d", "\U0001f600", "\u00a0", "2027-03-31", "0x1f", "1e3", ".5", "a,b", "[a]", "{a}", "*", "&a", "!a",
    "%", "@", 0, -1, 50.5, Decimal("0.00001"), 10**30, True, False, None, [], [[]], {}, [1, "1"],
    {"a b": {"${x}": [None]}},
]  # fmt: skip


@pytest.mark.parametrize("value", SURVIVORS)
def test_every_value_survives_the_round_trip(value: Any) -> None:
    intent = Intent("p", step("pay", **{"x": eq(value), "odd name: ${y}": any_}))

    assert Intent.from_yaml(intent.to_yaml()) == intent


@pytest.mark.parametrize("value", ["a\x00", "a\r", "\u202e", "\ufeff", "\u2028"])
def test_character_that_no_file_may_hold_has_no_yaml_form(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"U\+"):
        Intent("p", step("pay", x=value)).to_yaml()


def test_windows_of_a_ceiling_survive_the_round_trip() -> None:
    intent = Intent("p", step("pay", n=any_).times(100, per="90s").total(n={"max": "5.5", "per": "24h"}), ttl=1.5)

    assert Intent.from_yaml(intent.to_yaml()) == intent
    assert "{n: 100, per: 90s}" in intent.to_yaml().replace('"', "")


def test_ten_mistakes_give_ten_lines_in_the_order_of_the_file() -> None:
    found = problems("""\
version: 2
purpose: p
ttl: soon
readz: [a]
reads: ["a*"]
everywhere: {u: ann}
steps:
  - {tool: pay, args: {n: {min: 5, max: 1}}}
  - {tool: "Pay", args: {n: {maxx: 5}}}
  - {tool: pay, after: 5, args: {n: {glob: ""}}}
  - {tool: pay, times: 0}
""")

    assert [line.split(": ")[0] for line in found] == ["1", "3", "4", "5", "6", "8", "9", "9", "10", "10", "11"]
    assert "did you mean 'reads'?" in found[2]
    assert "a pattern of 1 to" in found[9]
    assert all(line.split(": ")[1] for line in found)


MISTAKES: list[tuple[str, str]] = [
    ("sets: {}", "3: sets: 'sets' takes a mapping with at least one entry"),
    ("sets: {a: [x]}", "sets.a: a set is one of {values: [...]}"),
    ("sets: {a: {values: []}}", "sets.a: an empty set admits nothing"),
    ("sets: {a: {values: [true]}}", "sets.a: a member of a set is text"),
    ("sets: {a: {values: [x], field: y}}", "unknown key 'field' beside 'values'"),
    ("sets: {a: {file: null}}", "sets.a: 'file' of a set ends in .yaml"),
    ("sets: {a: {file: payees.txt}}", "sets.a: 'file' of a set ends in .yaml"),
    ("sets: {a: {resolve: os.getenv}}", "sets.a: 'os.getenv' is no name of a resolver"),
    ("sets: {a: {file: a.csv, field: '[.x'}}", "is no field path"),
    ("sets: {'a b': {values: [x]}}", "'a b' is no name of a set"),
    ("define: {}", "3: define: 'define' takes a mapping"),
    ("define: {a: {is: b}, b: {is: a}}", "define: a, b stand for each other in a circle"),
    ("define: {a: {is: a}}", "define: a stand"),
    ("everywhere: {u: {set: payees}}", "everywhere.u: no set is called 'payees'"),
    ("everywhere: {u: {each: {is: x}}}", "everywhere.u: nothing is defined as 'x'"),
    ("otherwise: {then: ask}", "otherwise: otherwise is a mapping"),
    ("otherwise: {then: permit, tools: [a]}", "'then' of otherwise is ask"),
    ("otherwise: {tools: [a*]}", "'a*' is no pattern"),
    ("limits: {}", "limits: limits are a mapping"),
    ("limits: {calls: 0}", "limits: 'calls' is a whole number of at least 1"),
    ("limits: {rate: 10}", "limits: 'rate' is so many calls in a time"),
    ("limits: {rate: 0/m}", "limits: "),
    ("limits: {ask: 5}", "limits: limits are a mapping with some of"),
    ("examples: {}", "examples: examples are a mapping"),
    ("examples: {permit: [{args: {a: 1}}]}", "examples: an example is {tool"),
    ("examples: {permit: [{tool: 'A b'}]}", "examples: 'A b' is no tool name"),
    ("step: []", "3: step: unknown key 'step'; did you mean 'steps'?"),
    ("qqq: 1", "known here: version, intent"),
    ("steps: [{tool: pay, budget: x}]", "steps[0].budget: it counts nothing"),
    ("steps: [{tool: pay, times: 1, budget: 'x y'}]", "steps[0].budget: 'x y' is no name of a budget"),
    ("steps: [{tool: pay, times: 1, budget: x}, {tool: b, times: 2, budget: x}]", "steps[1].times: the budget 'x'"),
    ("steps: [{tool: pay, distinct: [x]}]", "steps[0].distinct: 'x' is not among args"),
    ("steps: [{tool: pay, after: [x]}]", "steps[0].after: no step has the id 'x'"),
    ("steps: [{tool: pay, id: x, after: [y]}, {tool: b, id: y, after: [x]}]", "steps[0].after: x, y wait in a circle"),
    ("steps: [{tool: pay, id: x, after: [x]}]", "steps[0].after: x wait in a circle"),
    ("steps: [{tool: pay, by: subject}]", "steps[0].by: unknown key"),
    ("steps: [{tool: pay, then: {ask: true, by: ann}}]", "{ask: true, by: operator or subject}"),
    ("steps: [{tool: pay, then: {by: subject}}]", "'then' says who is asked so"),
    ("steps: [{tool: pay, args: {a: {same_as: b}}}]", "steps[0].args.a: same_as names 'b', which is not among args"),
    ("steps: [{tool: pay, then: deny}]", "deny needs no step"),
    ("steps: [{tool: pay, then: [ask]}]", "'then' is permit, ask or end_task"),
    ("steps: [{args: {a: any}}]", "steps[0]: a step names its tool"),
    ("steps: [{tool: pay, id: reads}]", "steps[0].id"),
    ("steps: [{tool: pay, id: ''}]", "steps[0].id: an empty id"),
    ("steps: [{tool: pay, id: 5}]", "steps[0].id"),
    ("steps: [{tool: pay, attempts: 0}]", "steps[0].attempts"),
    ("steps: [{tool: pay, times: '1'}]", "steps[0].times: 'times' is a whole number"),
    ("steps: [{tool: pay, times: {per: [a]}}]", "steps[0].times"),
    ("steps: [{tool: pay, args: {a: any}, times: {n: 1, per: [[a]]}}]", "steps[0].times: 'per' of times is a list"),
    ("steps: [{tool: pay, args: {a: any}, times: {n: 1, per: []}}]", "'per' is empty"),
    ("steps: [{tool: pay, times: {n: 1, per: [a]}}]", "steps[0].times.per: 'a' is not among args"),
    ("steps: [{tool: pay, total: {a: 5}}]", "steps[0].total.a: 'a' is not among args"),
    ("steps: [{tool: pay, args: {a: any}, total: {a: x}}]", 'steps[0].total.a: "x" is no number'),
    ("steps: [{tool: pay, args: {a: any}, total: 5}]", "steps[0].total: 'total' takes a mapping"),
    ("steps: [{tool: pay, id: x}, {tool: b, id: x}]", "steps[1].id: the id 'x' is there twice"),
    ("steps: [pay]", "steps[0]: each entry of steps is a mapping"),
    ("steps: {tool: pay}", "steps: 'steps' takes a list"),
    ("steps: []", "steps: 'steps' takes a list with at least one item"),
    ("reads: account.read", "reads: 'reads' takes a list"),
    ("reads: [5]", "reads[0]: 5 is no pattern"),
    ("forbid: [{}]", "forbid[0]: each entry"),
    ("forbid: [{effect: write}]", "forbid[0].effect: unknown key"),
    ("forbid: [{tool: ''}]", "forbid[0].tool"),
    ("forbid: [{tags: egress}]", "forbid[0].tags: 'tags' takes a list"),
    ("forbid: [{args: {a: absent}}]", "forbid[0].args.a: a missing argument"),
    ("agents: {bot: {}}", "agents.bot: write what this agent gets"),
    ("agents: {bot: {reads: ['x*']}}", "agents.bot.reads[0]"),
    ("agents: {bot: {params: {a: string}, reads: [a]}}", "agents.bot.params: unknown key"),
    ("agents: {bot: {forbid: [{tool: a}]}}", "agents.bot: it gets neither"),
    ("agents: {'a b': {reads: [a]}}", "is no name"),
    ("intent: 'A b'", "intent: 'A b' is no name"),
    ("ttl: -5", "ttl: no duration"),
    ("ttl: true", "ttl: no duration"),
    ("everywhere: {u: {}}", "everywhere.u: an empty constraint"),
    ("everywhere: {u: []}", "everywhere.u: an empty constraint"),
    ("everywhere: {}", "everywhere: 'everywhere' takes a mapping"),
    ("everywhere: {u: ann}", "everywhere.u: a bare value is no constraint; write {eq: VALUE}"),
    ("everywhere: {u: 5}", "a bare value is no constraint"),
    ("everywhere: {u: [{eq: a}, b]}", "everywhere.u[1]: a bare value"),
    ("everywhere: {u: {any: true}}", "everywhere.u.any: 'any' stands alone"),
    (
        "everywhere: {u: {regex: 'a(?=b)'}}",
        "everywhere.u.regex: RE2 refuses the expression",
    ),
    ("everywhere: {u: {equals: x}}", "everywhere.u.equals: unknown kind 'equals'"),
    ("everywhere: {u: {prefx: x}}", "did you mean 'prefix'?"),
    ("everywhere: {u: {prefix: ''}}", "everywhere.u.prefix: 'prefix' takes text"),
    ("everywhere: {u: {in: []}}", "everywhere.u.in: 'in' takes a list"),
    ("everywhere: {u: {in: a}}", "everywhere.u.in: 'in' takes a list"),
    ("everywhere: {u: {min: true}}", "everywhere.u.min: a value of type bool is no number"),
    ("everywhere: {u: {min: .inf}}", "everywhere.u.min"),
    ("everywhere: {u: {min: 5, max: 1}}", "everywhere.u: min is over max"),
    ("everywhere: {u: {eq: a, fold: yes}}", "everywhere.u.fold: write fold: case"),
    ("everywhere: {u: {eq: 5, fold: case}}", "everywhere.u.eq: fold: case is for text only"),
    ("everywhere: {u: {min: 5, fold: case}}", "everywhere.u.fold: fold: case stands beside eq, in or set"),
    ("everywhere: {u: {not: {min: x}}}", "everywhere.u.not.min"),
    ("everywhere: {u: {optional: {optional: 5}}}", "everywhere.u.optional.optional: a bare value"),
    ("everywhere: {u: {text: {}}}", "everywhere.u.text: 'text' takes a mapping"),
    ("everywhere: {u: {text: {len: 5}}}", "'text' has no key 'len'"),
    ("everywhere: {u: {text: {urls: any}}}", "'urls' of text is none"),
    ("everywhere: {u: {text: {hosts: []}}}", "'hosts' of text is empty"),
    ("everywhere: {u: {text: {max: null}}}", "'max' of text is a whole number"),
    ("limits: null", "null says nothing"),
    ("examples: null", "null says nothing"),
    ("otherwise: null", "null says nothing"),
    ("intent: null", "null says nothing"),
]


@pytest.mark.parametrize(("body", "expected"), MISTAKES)
def test_mistake_has_line_path_and_what_to_write_instead(body: str, expected: str) -> None:
    (found,) = problems(body)

    assert found.startswith("3: ")
    assert expected in found


def test_wrong_step_does_not_renumber_the_others() -> None:
    found = problems("steps:\n  - {tool: P}\n  - {tool: b, id: y}\n  - {tool: c, id: y}\n")

    assert [line.split(":")[:2] for line in found] == [["4", " steps[0].tool"], ["6", " steps[2].id"]]


@pytest.mark.parametrize("body", ["[]", "text", "5", "{}"])
def test_file_that_is_no_mapping_is_refused(body: str) -> None:
    with pytest.raises(ConfigurationError, match="no intent file"):
        Intent.from_yaml(body)


def test_head_of_the_file_is_needed() -> None:
    assert (
        problems("version: true\nreads: [a]\n")
        == [
            "1: version: write version: 1 at the top",
            "1: it has no purpose; say in a sentence what the task is for: purpose: ...",
        ]
        or len(problems("version: true\nreads: [a]\n")) == 2
    )


def test_name_is_made_from_the_purpose_where_the_file_has_none() -> None:
    assert Intent.from_yaml("version: 1\npurpose: Read mail\nreads: [mail.read]\n").name == "read-mail"


def test_reason_to_accept_untrusted_values_is_kept_and_goes_round() -> None:
    text = (
        "version: 1\nintent: x\npurpose: p\nsteps:\n  - tool: pay\n    args: {to: any}\n"
        "    accept_untrusted: the address is checked by the bank\n"
    )
    intent = Intent.from_yaml(text)
    assert intent.steps[0].accepted == "the address is checked by the bank"
    assert Intent.from_yaml(intent.to_yaml()) == intent
    assert intent == Intent("p", step("pay", to=any_).accept_untrusted("the address is checked by the bank"), name="x")
    with pytest.raises(ConfigurationError, match="accept_untrusted"):
        Intent.from_yaml(text.replace("the address is checked by the bank", "7"))
