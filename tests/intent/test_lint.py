"""What lint finds in an intent that loads, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest

from agentguard.intent import Intent
from agentguard.intent.document import path_text
from agentguard.intent.effective import effective
from agentguard.intent.lint import Level, lint
from agentguard.model.call import ToolSpec
from tests.intent.calls import spec_of

HEAD = "version: 1\nintent: t\npurpose: p\n"
SPECS = {
    spec.name: spec
    for spec in (
        spec_of("pay", audience="https://api.example"),
        spec_of("send", tags=frozenset({"egress"})),
        spec_of("account.read", "read", resource="account/{account}"),
        spec_of("ticket.read", "read", data=frozenset({"pii"}), untrusted=("body", "[].subject")),
        spec_of("ticket.list", "read"),
        spec_of("dossier.read", "read", data=frozenset({"health"})),
        spec_of("owner.read", "read", defaults={"b": "me", "l": None}, null_is_empty=frozenset({"l"})),
        spec_of("close", parameters=frozenset({"id", "n"}), hidden=frozenset({"runtime"})),
    )
}


def found(body: str, specs: Any = SPECS) -> list[tuple[str, str, str]]:
    intent = Intent.from_yaml(HEAD + body).resolve()
    return [(str(item.level), path_text(item.path), item.text) for item in lint(intent, specs)]


def places(body: str, specs: Any = SPECS) -> list[tuple[str, str]]:
    return [(level, path) for level, path, _ in found(body, specs)]


SHARED = "steps: [{tool: pay, args: {to: {in: [a, b]}}}, {id: x, tool: pay, args: {to: {in: [b, c]}}}]"
CLEAN = (
    "steps: [{tool: pay, args: {to: {eq: ann}, n: {min: 1, max: 5}}}]",
    "steps: [{tool: pay, args: {n: {max: 5, min: 0}}}]",
    "steps: [{tool: ticket.list, args: {n: {max: 5}}}]",
    "steps: [{tool: pay, args: {n: {not: {max: 5}}}}]",
    "steps: [{tool: pay, args: {to: {eq: a}}}, {tool: pay, args: {to: {eq: b}}}]",
    "steps: [{tool: pay, args: {to: {eq: a}}, budget: b, times: 2}, "
    "{id: x, tool: pay, args: {to: {eq: a}}, budget: b, times: 2}]",
    "steps: [{tool: pay, args: {to: {eq: a}}}, {tool: pay, args: {to: {eq: a}}, then: ask}]",
    "everywhere: {account: {eq: acme}}\nreads: [account.read]",
    "reads: [ticket.read, ticket.list]",
    "reads: ['ticket.*', ticket.read]",
    "steps: [{tool: pay, args: {to: {from: {tool: ticket.read, field: body}}}, then: ask}]",
    "steps: [{tool: pay, args: {to: {from: {tool: ticket.read, field: owner}}}}]",
    "steps: [{tool: ticket.list, args: {to: {from: {tool: ticket.read, field: body}}}}]",
    "steps: [{tool: pay, args: {to: {from: {tool: ticket.read, field: body}, in: [ann, bo]}}}]",
    "steps: [{tool: pay, args: {to: {not: {from: {tool: ticket.read, field: body}}}}}]",
    "steps: [{tool: pay, args: {n: {max: 5}}, total: {n: 10}}]",
    "steps: [{tool: owner.read, args: {a: {same_as: b}, b: any}}, "
    "{id: x, tool: owner.read, args: {a: {eq: me}, b: any}}]",
    "steps: [{tool: owner.read, args: {a: {bind: who}, b: any}, times: 9}, "
    "{id: x, tool: owner.read, args: {a: {eq: me}, b: {eq: c}}, then: ask}]",
    "steps: [{tool: owner.read, args: {a: {bind: who}}}, {id: x, tool: owner.read, args: {a: {eq: me}}, then: ask}]",
    "steps: [{tool: owner.read, args: {l: {eq: null}}}, {id: x, tool: owner.read, then: ask}]",
    "steps: [{tool: pay, args: {a: {same_as: b}, b: {eq: x}}}, {id: x, tool: pay, args: {a: {eq: y}, b: {eq: x}}}]",
    "steps: [{tool: pay, args: {n: {eq: 1}}, total: {n: 9}, budget: b}, "
    "{tool: close, args: {n: {eq: 1}}, total: {n: 9}, budget: b}]",
    f"{SHARED}\nforbid: [{{tool: pay, args: {{to: {{eq: b}}}}}}]",
    f"{SHARED}\nforbid: [{{tool: pay}}]",
    f"{SHARED}\neverywhere: {{to: {{in: [a, c]}}}}",
    "everywhere: {b: {eq: you}}\nsteps: [{tool: owner.read, args: {a: {eq: x}}, times: 1}, "
    "{id: x, tool: owner.read, args: {a: {eq: x}, l: {eq: [1]}}}, {id: y, tool: owner.read, args: {a: {in: [x]}}}]",
    "steps: [{tool: pay, args: {to: {eq: ann}}}]\nexamples: {permit: [{tool: pay, args: {to: ann}}], "
    "deny: [{tool: pay, args: {to: eve}}]}",
)


@pytest.mark.parametrize("body", CLEAN)
def test_what_is_well_said_is_left_alone(body: str) -> None:
    assert found(body) == []


WRONG = (
    ("steps: [{tool: pai}]", ("error", "steps[0].tool"), "did you mean 'pay'"),
    ("steps: [{tool: close, args: {idd: {eq: 1}}}]", ("error", "steps[0].args.idd"), "did you mean 'id'"),
    ("steps: [{tool: close, args: {runtime: {eq: 1}}}]", ("error", "steps[0].args.runtime"), "filled by"),
    ("steps: [{tool: pay, args: {n: {max: 5}}}]", ("error", "steps[0].args.n"), "no min"),
    ("steps: [{tool: pay, args: {n: [{eq: a}, {optional: {max: 5}}]}}]", ("error", "steps[0].args.n"), "no min"),
    ("define: {d: {max: 5}}\nsteps: [{tool: pay, args: {n: {is: d}}}]", ("error", "steps[0].args.n"), "no min"),
    (
        "steps: [{tool: pay, args: {to: {in: [a, b]}}}, {id: x, tool: pay, args: {to: {in: [b, c]}}}]",
        ("warning", "steps[1].tool"),
        "add up",
    ),
    *(
        (f"{SHARED}\n{rest}", ("warning", "steps[1].tool"), "add up")
        for rest in (
            "forbid: [{tool: pay, args: {to: {eq: a}}}, {tool: pay, seen: [pii]}, {tool: pay, args: {n: any}}]",
            "forbid: [{tool: pay, args: {to: {eq: b}, n: {min: 5}}}]",
            "everywhere: {to: {in: [b, d]}, account: {eq: acme}}",
        )
    ),
    (
        "steps: [{tool: ticket.list, args: {q: {prefix: a}}}, {id: x, tool: ticket.list, args: {q: {eq: ab}}}]",
        ("warning", "steps[1].tool"),
        "never used: ticket.list",
    ),
    (
        "steps: [{tool: ticket.list, args: {q: {eq: a}}, then: ask}, {id: x, tool: ticket.list, args: {q: any}}]",
        ("warning", "steps[0].tool"),
        "never used: x",
    ),
    ("reads: [account.read]", ("warning", "reads[0]"), "which account"),
    ("reads: ['account.*']", ("warning", "reads[0]"), "which account"),
    ("reads: ['ticket.*']", ("warning", "reads[0]"), "ticket.read, which returns pii"),
    (
        "reads: ['*']\neverywhere: {account: {eq: a}, dossier: {eq: b}}",
        ("warning", "reads[0]"),
        "does not admit dossier.read, ticket.read, which return classes of data",
    ),
    ("reads: [acount.read]", ("warning", "reads[0]"), "matches no declared tool"),
    ("reads: [pay]", ("warning", "reads[0]"), "never admits"),
    ("reads: [ticket.list]\nsteps: [{tool: ticket.list}]", ("note", "reads[0]"), "closes reads"),
    (
        "steps: [{tool: pay, args: {to: {from: {tool: ticket.read, field: body}}}}]",
        ("error", "steps[0].args.to"),
        "outsiders can write body of ticket.read",
    ),
    (
        "steps: [{tool: pay, args: {to: {each: [{eq: a}, {from: {tool: ticket.read, field: '[].subject'}}]}}}]",
        ("error", "steps[0].args.to"),
        "outsiders",
    ),
    (
        "steps: [{id: r, tool: ticket.read}, {tool: pay, args: {to: {from: {step: r, field: $, match: iban}}}}]",
        ("error", "steps[1].args.to"),
        "outsiders",
    ),
    ("steps: [{tool: pay, args: {to: any}}]", ("note", "steps[0].args.to"), "chooses to"),
    (
        "steps: [{tool: pay, args: {to: {eq: a}}}]\nexamples: {permit: [{tool: pay, args: {to: b}}]}",
        ("error", "examples.permit[0]"),
        'to must be "a"',
    ),
    (
        "steps: [{tool: pay, args: {to: {eq: a}}, then: ask}]\nexamples: {deny: [{tool: pay, args: {to: a}}]}",
        ("error", "examples.deny[0]"),
        "pay says ask",
    ),
    ("reads: [ticket.list]\nexamples: {deny: [{tool: nope}]}", ("error", "examples.deny[0]"), "no tool is called"),
    (
        "steps: [{tool: pay, args: {to: {from: {tool: ticket.list, field: x}}}}]\n"
        "examples: {permit: [{tool: pay, args: {to: b}}]}",
        ("note", "examples.permit[0]"),
        "not run",
    ),
    *(
        (
            f"{more}\nreads: [ticket.list]\nsteps: [{{tool: pay, args: {{to: {said}}}}}]\n"
            "examples: {permit: [{tool: pay, args: {to: b}}]}",
            ("note", "examples.permit[0]"),
            "not run",
        )
        for said, more in (
            ("[{eq: a}, {from: {tool: ticket.list, field: x}}]", ""),
            ("{optional: {said: true}}", ""),
            ("{is: d}", "define: {d: {from: {tool: ticket.list, field: x}}}"),
            ("{eq: b}", "everywhere: {to: [{eq: a}, {said: true}]}"),
            ("{eq: b}", "forbid: [{tool: pay, args: {to: {from: {tool: ticket.list, field: x}}}}]"),
        )
    ),
    (
        "steps: [{tool: pay, args: {to: {prefix: a, said: true}}}]\nexamples: {permit: [{tool: pay, args: {to: b}}]}",
        ("error", "examples.permit[0]"),
        "start with",
    ),
    (
        "steps: [{tool: pay, args: {n: {eq: 1}}, total: {n: 9}, budget: b}, "
        "{tool: send, args: {sum: {eq: 1}}, total: {sum: 9}, budget: b}]",
        ("warning", "steps[1].total"),
        "sum is summed apart from n of pay",
    ),
    (
        "reads: [ticket.list]\nagents: {bot: {steps: [{tool: pay, args: {n: {max: 5}}}]}}",
        ("error", "agents.bot.steps[0].args.n"),
        "no min",
    ),
)


@pytest.mark.parametrize(("body", "place", "text"), WRONG)
def test_what_is_wrong_is_found_where_it_stands(body: str, place: tuple[str, str], text: str) -> None:
    (item,) = found(body)

    assert item[:2] == place
    assert text in item[2]


def test_reason_for_taking_an_outsiders_field_is_enough() -> None:
    (one,) = Intent.from_yaml(
        HEAD + "steps: [{tool: pay, args: {to: {from: {tool: ticket.read, field: body}}}, accept_untrusted: we look}]"
    ).steps

    assert lint(Intent("p", one), SPECS) == ()


def test_tool_that_nobody_declared_counts_as_a_write() -> None:
    assert places("steps: [{tool: x, args: {n: {max: 5}}}]", None) == [("error", "steps[0].args.n")]
    assert places("reads: ['*']\nsteps: [{tool: x, args: {q: any}}]", None) == [("note", "steps[0].args.q")]


def test_every_finding_says_what_to_write() -> None:
    for body, _, _ in WRONG:
        for item in lint(Intent.from_yaml(HEAD + body).resolve(), SPECS):
            assert item.instead
            assert isinstance(item.level, Level)


def test_effective_is_what_every_level_admits() -> None:
    intent = Intent.from_yaml(
        HEAD
        + """
reads: [ticket.list]
steps: [{tool: pay, args: {to: {eq: ann}}}, {tool: send}]
forbid: [{tool: send}]
agents:
  bot:
    reads: [ticket.list, account.read]
    steps: [{tool: pay, args: {to: {in: [ann, bo]}}, then: ask}, {tool: send}]
    agents: {sub: {reads: [ticket.list]}}
"""
    )

    bot, sub = effective(intent, SPECS)

    assert [reach.tool for reach in bot.reaches] == ["pay", "ticket.list"]
    assert [[way.text for way in level.ways] for level in bot.reaches[0].levels] == [
        ['to must be "ann"'],
        ['to must be one of "ann", "bo"'],
    ]
    assert bot.refused == (("account.read", "t"), ("send", "t"))
    assert (sub.agents, [reach.tool for reach in sub.reaches]) == (("bot", "sub"), ["ticket.list"])
    assert len(sub.reaches[0].levels) == 3


def test_effective_never_shows_the_constraint_on_a_secret() -> None:
    spec = ToolSpec(name="pay", secret=frozenset({"pin"}))
    intent = Intent.from_yaml(
        HEAD + "steps: [{tool: pay, args: {pin: {eq: '1234'}}}]\nagents: {b: {steps: [{tool: pay}]}}"
    )

    assert "1234" not in repr(effective(intent, {"pay": spec}))
