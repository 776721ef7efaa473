"""The `agentguard explain` command: what an intent says about a call, and what its sub-agents can ever do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentguard.cli.main import main

Captured = pytest.CaptureFixture[str]
BANKING = Path(__file__).parents[2] / "bench" / "agentdojo" / "intents" / "banking"
INTENT = """version: 1
intent: refund
purpose: p
params: {account: string}
sets: {team: {resolve: team_of}}
reads: [ticket.read]
steps:
  - tool: pay
    args: {account: {eq: "${account}"}, iban: {from: {tool: ticket.read, field: iban}}}
  - tool: send
    args: {to: {set: team}}
    then: {ask: true, by: subject}
  - tool: say
    args: {name: {said: true}}
    after: [pay]
forbid:
  - {tool: send, seen: [pii]}
agents:
  bot: {reads: [ticket.read], steps: [{tool: pay, args: {account: any, iban: any}}, {tool: close}]}
"""
TOOLS = """version: 1
tools:
  pay: {effect: write}
  send: {effect: write, tags: [egress], parameters: [to, cc], defaults: {cc: null}}
  say: {effect: write}
  close: {effect: write}
  ticket.read: {effect: read, data: [pii]}
"""
ALL = ["--param", "account=acme", "--set", "team=ann,bo"]


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "tools.yaml").write_text(TOOLS)
    (tmp_path / "refund.yaml").write_text(INTENT)
    return str(tmp_path / "refund.yaml")


@pytest.fixture
def results(tmp_path: Path) -> str:
    (tmp_path / "past.json").write_text('[{"tool": "ticket.read", "args": {}, "result": {"iban": "DE1"}}]')
    return str(tmp_path / "past.json")


def answer(capsys: Captured, *arguments: str) -> tuple[int, Any]:
    status = main(["explain", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_step_argument_and_constraint_that_did_not_hold_are_named(capsys: Captured) -> None:
    file = BANKING / "user_task_3.yaml"

    assert 1 == main(["explain", str(file), "--call", "send_money", '{"recipient": "X", "amount": 5}'])

    assert capsys.readouterr().out == (
        "deny: send_money (argument_violation)\n"
        "  step send_money (permit): fail\n"
        '    argument recipient, eq: recipient must be "GB29NWBK60161331926819"\n'
        f"    at {file}:11: steps[0].args.recipient\n"
    )


def test_read_that_reads_admits_is_permitted(file: str, capsys: Captured) -> None:
    status, found = answer(capsys, file, *ALL, "--call", "ticket.read", '{"id": 7}')

    assert (status, found["outcome"], found["step"]) == (0, "permit", "reads")


def test_what_lacks_earlier_results_cannot_be_told(file: str, capsys: Captured) -> None:
    call = ("--call", "pay", '{"account": "acme", "iban": "DE1"}')

    status, found = answer(capsys, file, *ALL, *call)

    assert (status, found["outcome"]) == (1, "deny")
    assert found["steps"][0]["truth"] == "cannot tell"
    assert "earlier results are not known: give --results FILE" in found["miss"]["text"]


def test_results_of_earlier_calls_are_used(file: str, results: str, capsys: Captured) -> None:
    good = ("--call", "pay", '{"account": "acme", "iban": "DE1"}')
    bad = ("--call", "pay", '{"account": "acme", "iban": "DE2"}')

    assert answer(capsys, file, *ALL, *good, "--results", results)[0] == 0
    status, found = answer(capsys, file, *ALL, *bad, "--results", results)

    assert (status, found["miss"]["kind"], found["steps"][0]["truth"]) == (1, "from", "fail")


def test_earlier_call_that_is_not_admitted_counts_for_nothing(file: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "past.yaml").write_text("- {tool: close, result: {iban: DE1}}\n")

    call = ("--call", "pay", '{"account": "acme", "iban": "DE1"}')
    status, found = answer(capsys, file, *ALL, *call, "--results", str(tmp_path / "past.yaml"))

    assert status == 1
    assert "earlier call 1 (close) is not admitted" in found["notes"][0]


def test_budget_that_earlier_calls_used_up_denies(file: str, tmp_path: Path, capsys: Captured) -> None:
    pay = {"tool": "pay", "args": {"account": "acme", "iban": "DE1"}}
    past = [{"tool": "ticket.read", "result": {"iban": "DE1"}}, pay]
    (tmp_path / "past.json").write_text(json.dumps(past))

    call = ("--call", "pay", json.dumps(pay["args"]))
    status, found = answer(capsys, file, *ALL, *call, "--results", str(tmp_path / "past.json"))

    assert (status, found["reason"]) == (1, "budget_exhausted")


def test_order_and_words_are_told(file: str, results: str, tmp_path: Path, capsys: Captured) -> None:
    call = ("--call", "say", '{"name": "Ann"}')
    (tmp_path / "paid.yaml").write_text(
        "- {tool: ticket.read, result: {iban: DE1}}\n- {tool: pay, args: {account: acme, iban: DE1}}\n"
    )
    paid = ("--results", str(tmp_path / "paid.yaml"))

    assert "pay, which has not happened" in answer(capsys, file, *ALL, *call, "--heard", "Tell Ann")[1]["miss"]["text"]
    assert "give --heard TEXT" in answer(capsys, file, *ALL, *call, *paid)[1]["miss"]["text"]
    assert answer(capsys, file, *ALL, *call, *paid, "--heard", "Tell Ann")[0] == 0


def test_call_that_a_person_has_to_approve_says_who(file: str, results: str, capsys: Captured) -> None:
    call = ["explain", file, *ALL, "--call", "send", '{"to": "ann"}', "--seen", "nothing"]

    assert 1 == main(call)

    assert "ask: send (step send, the subject has to approve)\n" in capsys.readouterr().out


def test_forbid_that_asks_what_was_read_cannot_be_told_without_it(file: str, results: str, capsys: Captured) -> None:
    call = ("--call", "send", '{"to": "ann"}')

    status, unknown = answer(capsys, file, *ALL, *call)
    seen = answer(capsys, file, *ALL, *call, "--results", results)[1]

    assert (status, unknown["outcome"]) == (1, "deny")
    assert "cannot tell, as it is not known what was read" in unknown["miss"]["text"]
    assert (seen["outcome"], seen["miss"]["step"]) == ("deny", "forbid[0]")
    assert "cannot tell" not in seen["miss"]["text"]


def test_effective_prints_every_level(file: str, capsys: Captured) -> None:
    assert 0 == main(["explain", file, *ALL, "--effective"])

    out = capsys.readouterr().out
    assert "bot: what every level admits\n" in out
    assert '    refund: pay (permit): account must be "acme"; iban must have stood in field iban' in out
    assert "    refund.bot: pay (permit): account must be anything; iban must be anything\n" in out
    assert "  never close: refund does not admit it\n" in out


def test_effective_as_json(file: str, capsys: Captured) -> None:
    status, found = answer(capsys, file, *ALL, "--effective")

    assert status == 0
    (bot,) = found["effective"]
    assert [tool["tool"] for tool in bot["tools"]] == ["pay", "ticket.read"]
    assert bot["refused"] == [{"tool": "close", "level": "refund"}]


def test_effective_shows_no_constraint_on_a_secret_argument_wherever_it_stands(
    tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "tools.yaml").write_text("version: 1\ntools:\n  pay: {parameters: [pin, code], secret: [pin, code]}\n")
    (tmp_path / "p.yaml").write_text(
        "version: 1\npurpose: p\neverywhere: {pin: {eq: canary-1}}\nforbid:\n  - {args: {code: {eq: canary-2}}}\n"
        "steps:\n  - {tool: pay, args: {pin: {eq: canary-3}, code: any}}\n"
        "agents:\n  bot: {steps: [{tool: pay, args: {pin: any, code: any}}]}\n"
    )
    assert 0 == main(["explain", str(tmp_path / "p.yaml"), "--effective"])

    out = capsys.readouterr().out
    assert "canary" not in out
    assert out.count("as it is secret") == 6


MISUSE: tuple[tuple[list[str], str], ...] = (
    (["--call", "pay", "{"], "this is no JSON"),
    (["--call", "pay", "[]"], "as a JSON object"),
    (["--call", "pay", '{"a": 1, "a": 2}'], "a key is there twice"),
    (["--call", "pay", '{"a": NaN}'], "NaN is no number"),
    (["--call", "pai", "{}"], "no tool is called 'pai'; did you mean 'pay'?"),
    (["--call", "Pay!", "{}"], "is no tool name"),
    (["--call", "send", '{"too": 1}'], "send has no argument 'too'; did you mean 'to'?"),
    (["--call", "pay", "{}", "--results", "RESULTS"], "earlier calls are a list"),
    ([], "say which call"),
    (["--call", "pay", "{}", "--param", "x"], "--param takes NAME=VALUE"),
    (["--call", "pay", "{}", "--param", "acount=x"], "did you mean 'account'?"),
    (["--call", "pay", "{}", "--set", "teem=x"], "did you mean 'team'?"),
)


@pytest.mark.parametrize(("arguments", "text"), MISUSE, ids=lambda value: str(value)[:40])
def test_misuse_is_told_and_ends_with_2(
    file: str, tmp_path: Path, capsys: Captured, arguments: list[str], text: str
) -> None:
    (tmp_path / "RESULTS.yaml").write_text("tool: pay\n")
    arguments = [str(tmp_path / "RESULTS.yaml") if word == "RESULTS" else word for word in arguments]

    assert 2 == main(["explain", file, *ALL, *arguments])

    assert text in capsys.readouterr().err


def test_missing_parameter_and_missing_set_are_named(file: str, capsys: Captured) -> None:
    call = ["--call", "ticket.read", "{}"]

    assert 2 == main(["explain", file, *call])
    assert "give --param account=VALUE" in capsys.readouterr().err
    assert 2 == main(["explain", file, *call, "--param", "account=acme"])
    assert "give them: --set team=A,B" in capsys.readouterr().err


def test_every_mistake_of_the_file_has_a_line_of_its_own(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "i.yaml").write_text("version: 2\nintent: i\npurpose: p\nstepz: [a]\n")

    assert 2 == main(["explain", str(tmp_path / "i.yaml"), "--call", "x", "{}"])

    lines = capsys.readouterr().err.split("\n")
    assert [line.strip().removeprefix(f"{tmp_path}/") for line in lines[1:3]] == [
        "i.yaml:1: version: write version: 1 at the top",
        "i.yaml:4: stepz: unknown key 'stepz'; did you mean 'steps'?",
    ]


def test_value_of_a_secret_argument_is_never_shown(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "i.yaml").write_text(
        "version: 1\nintent: i\npurpose: p\nsteps: [{tool: login, args: {pin: {eq: '1234'}}}]\n"
    )
    (tmp_path / "tools.yaml").write_text("version: 1\ntools: {login: {effect: write, secret: [pin]}}\n")

    assert 1 == main(["explain", str(tmp_path / "i.yaml"), "--call", "login", '{"pin": "9876"}'])

    out = "".join(capsys.readouterr())
    assert "1234" not in out
    assert "9876" not in out


def test_without_a_tools_file_a_tool_counts_as_a_write(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "i.yaml").write_text("version: 1\nintent: i\npurpose: p\nreads: ['*']\n")

    assert 1 == main(["explain", str(tmp_path / "i.yaml"), "--call", "x", "{}"])

    captured = capsys.readouterr()
    assert "reads never admits a tool with effect write" in captured.out
    assert "x counts as a write" in captured.err


def test_value_that_an_earlier_call_bound_is_the_only_one(tmp_path: Path, capsys: Captured) -> None:
    file, past = tmp_path / "bound.yaml", tmp_path / "past.json"
    file.write_text(
        "version: 1\nintent: b\npurpose: p\nsteps:\n"
        "  - {tool: pay, args: {account: {bind: who}}, times: 9}\n"
        "  - {tool: send, args: {to: {bind: who}, cc: {optional: {bind: who}}}, times: 9}\n"
    )
    past.write_text('[{"tool": "pay", "args": {"account": "acme"}}]')

    def outcome(args: str, *more: str) -> tuple[int, str]:
        status, found = answer(capsys, str(file), "--call", "send", args, *more)
        return status, found["reason"]

    earlier = "--results", str(past)
    assert outcome('{"to": "acme"}', *earlier) == (0, "")
    assert outcome('{"to": "evil"}', *earlier) == (1, "argument_violation")
    assert outcome('{"to": "evil"}') == (0, "")
    assert outcome('{"to": "evil", "cc": "acme"}') == (1, "argument_violation")
