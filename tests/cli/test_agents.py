"""`agentguard agents list`, `show`, `table` and `graph`, as a person and as a program read them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentguard
from agentguard import Intent, guarded
from agentguard.audit.log import FileLog
from agentguard.cli.agents.graph import label
from agentguard.cli.agents.table import markdown
from agentguard.cli.agents.usage import usage_of
from agentguard.cli.main import main
from agentguard.model.record import Event, Record
from tests.audit.samples import only_file, records_in

Captured = pytest.CaptureFixture[str]
REPO = Path(__file__).parents[2]
BAD = REPO / "tests" / "data" / "agents_bad.yaml"
EXAMPLE = REPO / "examples" / "agents" / "agentguard.yaml"
REGISTRY = """\
version: 1
agents:
  desk: {owners: {business: ann@bank.test}, purpose: answers, tools: [account.read, pay], ceiling: ceilings/c.yaml}
  idle: {owners: {business: bob@bank.test}, purpose: waits}
audit: {dir: audit, pseudonym_key: {env: AG_PSEUDONYM}}
"""
TOOLS = """\
version: 1
tools:
  account.read: {effect: read, parameters: [account]}
  account.close: {effect: destructive, parameters: [account]}
  pay: {effect: write, tags: [money], parameters: [to, amount, pin], secret: [pin]}
"""
CEILING = "version: 1\nintent: c\npurpose: p\n"


@guarded("account.read", effect="read")
def read_account(account: str) -> str:
    return account


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "agentguard.yaml").write_text(REGISTRY)
    (tmp_path / "tools.yaml").write_text(TOOLS)
    with_ceiling(tmp_path, "reads: [account.read]")
    return tmp_path / "agentguard.yaml"


def with_ceiling(folder: Path, body: str) -> None:
    (folder / "ceilings").mkdir(exist_ok=True)
    (folder / "ceilings" / "c.yaml").write_text(f"{CEILING}{body}\n")


def as_json(capsys: Captured, *arguments: object) -> dict[str, Any]:
    main(["agents", *map(str, arguments), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# --- list -------------------------------------------------------------------------------------------------------------


def test_list_has_one_line_an_agent(capsys: Captured) -> None:
    assert 0 == main(["agents", "list", str(EXAMPLE)])

    head, *lines = capsys.readouterr().out.splitlines()
    assert ["name", "status", "owner", "expires", "tools", "hands on to", "last used"] == re.split(r"  +", head)
    assert [re.split(r"  +", line) for line in lines] == [
        ["support-bot", "active", "ann@bank.test", "2035-12-31", "mail.send, refund.create, ticket.read", "researcher",
         "unknown"],
        ["researcher", "active", "bob@bank.test", "2035-12-31", "account.read, ticket.read", "-", "unknown"],
    ]  # fmt: skip


@pytest.mark.control("what cannot be read is unknown in the inventory, never guessed")
def test_what_a_mistake_hides_is_unknown(file: Path, capsys: Captured) -> None:
    body = "owners: {business: ann@bank.test}, purpose: p"
    file.write_text(
        "version: 1\nagents:\n"
        f"  a: {{{body}, tols: [pay]}}\n"
        f"  b: {{{body}, expires: soon}}\n"
        f"  c: {{{body}, zzz: 1}}\n"
        "  d: 5\n"
        '  "no name": {owners: {business: x}, purpose: p}\n'
        "audit: {pseudonym_key: {env: A}}\n"
    )

    assert 1 == main(["agents", "list", str(file)])
    told = capsys.readouterr()
    found = as_json(capsys, "list", file)

    a, b, c = found["agents"]
    assert ("unknown", "active") == (a["tools"], a["status"])
    assert ("unknown", "unknown", None) == (b["expires"], b["status"], b["tools"])
    assert {"unknown"} == {c[key] for key in ("tools", "hand_on", "expires", "status", "ceiling")}
    assert (["d", "no name"], "unknown") == (found["unreadable"], a["last_used"])
    assert "the configuration does not say where the audit log is" in found["log"]["unknown"]
    assert "6 mistakes; what they hide is unknown" in told.err
    assert re.search(r"^d +unknown +\?", told.out, re.M)


def test_terminal_is_safe_from_what_a_registry_says(file: Path, capsys: Captured) -> None:
    file.write_text(
        REGISTRY.replace("ann@bank.test", '"a\\e[2J"').replace("{business: bob@bank.test}", "{business: é}")
    )

    main(["agents", "list", str(file)])

    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err


# --- last used --------------------------------------------------------------------------------------------------------


def test_last_use_is_that_of_the_log(file: Path, capsys: Captured) -> None:
    with agentguard.local(audit=file.parent / "audit") as guard:
        with guard.task("desk", on_behalf_of="alice", intent=Intent("Look", reads=["account.read"])):
            read_account("acme")
        with guard.task("stranger", on_behalf_of="alice", intent=Intent("Look", reads=["account.read"])):
            read_account("acme")

    found = as_json(capsys, "list", file)
    main(["agents", "list", str(file)])

    used = {agent["name"]: agent["last_used"] for agent in found["agents"]}
    last = records_in(only_file(file.parent / "audit"))
    assert used == {
        "desk": max(each["time"] for each in last if each.get("agent") == "desk" and each["event"] != "task.ended"),
        "idle": None,
    }
    assert (found["log"]["since"], found["log"]["records"]) == (last[0]["time"], len(last))
    assert re.search(r"^idle .* never$", capsys.readouterr().out, re.M)


def test_refused_agent_was_not_used(tmp_path: Path) -> None:
    log = FileLog(tmp_path)
    log.append(Record(Event.TASK_DENIED, {"agent": "bot"}))
    log.append(Record(Event.DELEGATION_DENIED, {"agent": "bot"}))
    log.append(Record(Event.CALL_DENIED, {"agent": ["bot"]}))
    log.close()

    assert "never" == usage_of(tmp_path, ["bot"]).shown("bot")


@pytest.mark.control("a damaged log is said to be damaged, and what stands behind the damage counts for nothing")
def test_damaged_log_is_said_and_its_whole_part_counts(tmp_path: Path) -> None:
    for _ in range(2):
        log = FileLog(tmp_path)
        log.append(Record(Event.TASK_OPENED, {"agent": "first"}))
        log.append(Record(Event.CALL_PERMITTED, {"agent": "second"}))
        log.append(Record(Event.CALL_PERMITTED, {"agent": "third"}))
        log.close()
    for path in tmp_path.glob("*.jsonl"):
        path.write_bytes(path.read_bytes().replace(b'"second"', b'"zecond"'))

    usage = usage_of(tmp_path, ["first", "second", "zecond", "third"])

    assert {"first"} == set(usage.last)
    assert ("unknown", "unknown") == (usage.shown("third"), usage.shown("zecond"))
    assert 2 == len(usage.damage)
    assert all("is damaged from line 3 on: hash does not match its content" in text for text in usage.damage)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n", b"{}\n", b"[" * 5000 + b"\n", b'{"torn'])
def test_no_file_of_a_log_can_break_the_list(content: bytes, file: Path, capsys: Captured) -> None:
    (file.parent / "audit").mkdir()
    (file.parent / "audit" / "audit-x.jsonl").write_bytes(content)
    (file.parent / "audit" / "audit-y.jsonl").mkdir()

    assert 0 == main(["agents", "list", str(file)])

    assert "desk" in capsys.readouterr().out


def test_torn_last_line_is_no_damage(tmp_path: Path) -> None:
    log = FileLog(tmp_path)
    log.append(Record(Event.TASK_OPENED, {"agent": "bot"}))
    log.close()
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes() + b'{"agent":"bot"')

    usage = usage_of(tmp_path, ["bot", "other"])

    assert ((), "never", True) == (usage.damage, usage.shown("other"), "bot" in usage.last)


# --- show -------------------------------------------------------------------------------------------------------------


def test_show_tells_what_is_reached_apart_for_the_agent_and_for_others(capsys: Captured) -> None:
    agent = as_json(capsys, "show", "support-bot", EXAMPLE)["agent"]

    own, handed = agent["reaches"], agent["reaches_through_others"]
    assert ["mail.send", "refund.create", "ticket.read"] == [tool["tool"] for tool in own["tools"]]
    assert own["audiences"] == {
        "https://mail.bank.test": ["mail:send"],
        "https://payments.bank.test": ["refunds:write"],
        "https://tickets.bank.test": ["tickets:read"],
    }
    assert (["payments"], ["pii"]) == (own["data"], handed["data"])
    assert [("account.read", ["researcher"])] == [(tool["tool"], tool["by"]) for tool in handed["tools"]]
    assert {"https://crm.bank.test": ["accounts:read"]} == handed["audiences"]


def test_show_prints_every_fact_of_the_registry(capsys: Captured) -> None:
    assert 0 == main(["agents", "show", "support-bot", str(EXAMPLE)])

    out = capsys.readouterr().out
    for line in (
        "owners:       business: ann@bank.test; identity: iam@bank.test; control: payments@bank.test",
        "identity:     spiffe://bank.test/support-bot",
        "environments: prod",
        "purposes:     refund-ticket",
        "hand on:      researcher: account.read",
        "limits:       tasks of at most 30m, 1 hop, 1000 calls per 1h",
        "reaches through others:",
        "  account.read (read) by researcher",
        "  data: pii",
    ):
        assert f"{line}\n" in out


def test_without_tools_the_reach_is_unknown_and_says_why(file: Path, capsys: Captured) -> None:
    (file.parent / "tools.yaml").unlink()

    agent = as_json(capsys, "show", "desk", file)["agent"]

    why = "there is no tools.yaml beside the configuration: give --tools FILE"
    assert agent["reaches"] == agent["reaches_through_others"] == {"unknown": [why]}
    assert 2 == main(["agents", "table", str(file)])
    assert why in capsys.readouterr().err


def test_agent_that_is_not_there_is_misuse(capsys: Captured) -> None:
    assert 2 == main(["agents", "show", "suport-bot", str(EXAMPLE)])
    assert "is not registered; did you mean 'support-bot'?" in capsys.readouterr().err


# --- table ------------------------------------------------------------------------------------------------------------


def who(capsys: Captured, file: Path, body: str) -> dict[str, tuple[list[str], bool]]:
    with_ceiling(file.parent, body)
    cells = as_json(capsys, "table", file)["table"]
    return {cell["tool"]: (cell["outcomes"], cell["conditional"]) for cell in cells if cell["agent"] == "desk"}


@pytest.mark.control("the table of separation says of each tool who decides")
@pytest.mark.parametrize(
    ("body", "pay", "read"),
    [
        ("reads: [account.read]", (["never"], False), (["alone"], False)),
        ('reads: ["*"]', (["never"], False), (["alone"], False)),
        ("steps: [{tool: pay, args: {to: {eq: ann}}}]", (["alone"], True), (["never"], False)),
        ("steps: [{tool: pay, args: {to: any}, then: ask}]", (["person"], True), (["never"], False)),
        (
            "steps: [{tool: pay, id: a, args: {to: any}, then: ask}, {tool: pay, id: b, args: {to: {eq: ann}}}]",
            (["alone", "person"], True),
            (["never"], False),
        ),
        ('otherwise: {then: ask, tools: ["*"]}\nreads: [x]', (["person"], False), (["person"], False)),
        ("reads: [account.read]\nforbid: [{tool: account.read}]", (["never"], False), (["never"], False)),
        ("reads: [account.read]\nforbid: [{seen: [pii]}]", (["never"], False), (["alone"], True)),
        ("reads: [account.read]\neverywhere: {account: {eq: a}}", (["never"], False), (["alone"], True)),
        ("reads: [account.read]\nlimits: {rate: 5/m}", (["never"], False), (["alone"], True)),
        ("reads: [account.read]\nstepz: []", (["unknown"], False), (["unknown"], False)),
    ],
)
def test_table_says_who_decides(body: str, pay: object, read: object, file: Path, capsys: Captured) -> None:
    found = who(capsys, file, body)

    assert (pay, read, (["never"], False)) == (found["pay"], found["account.read"], found["account.close"])


def test_agent_without_a_ceiling_is_alone_with_what_it_may_call(file: Path, capsys: Captured) -> None:
    cells = as_json(capsys, "table", file)["table"]

    assert {("idle", "alone")} == {(cell["agent"], *cell["outcomes"]) for cell in cells if cell["agent"] == "idle"}


def test_table_is_markdown_and_says_when(file: Path, capsys: Captured) -> None:
    with_ceiling(
        file.parent,
        "steps:\n"
        "  - {id: small, tool: pay, args: {to: any, amount: {min: 1, max: 5}}, total: {amount: {max: 20, per: 1h}}}\n"
        "  - {id: large, tool: pay, args: {to: {eq: 'a|b'}, amount: {min: 1, max: 9}}, times: {n: 2, per: 1d},"
        " then: {ask: true, by: subject}}\n",
    )

    assert 0 == main(["agents", "table", str(file)])

    lines = capsys.readouterr().out.splitlines()
    assert ["| agent | tool | effect | who | when |", "|---|---|---|---|---|"] == lines[:2]
    assert (
        "| desk | pay | write, money | alone or person, if | alone (small): to must be anything; amount must be at "
        "least 1 and be at most 5; amount at most 20 in all in 1h. person (large), the subject is asked: to must be "
        '"a&#124;b"; amount must be at least 1 and be at most 9; at most 2 times in 24h |'
    ) in lines


@pytest.mark.control("a constraint on a secret argument is not printed")
@pytest.mark.parametrize(
    "body",
    [
        "steps: [{tool: pay, args: {pin: {eq: CANARY}}}]",
        "steps: [{tool: pay, args: {pin: any}}]\neverywhere: {pin: {eq: CANARY}}",
        "steps: [{tool: pay, args: {pin: any}}]\nforbid: [{args: {pin: {eq: CANARY}}}]",
    ],
)
def test_constraint_on_a_secret_argument_is_not_shown(body: str, file: Path, capsys: Captured) -> None:
    with_ceiling(file.parent, body)

    main(["agents", "table", str(file)])
    main(["agents", "table", str(file), "--json"])
    main(["agents", "check", str(file), "--json"])

    told = capsys.readouterr()
    assert "as it is secret" in told.out
    assert "CANARY" not in told.out + told.err


@given(st.text())
def test_no_text_leaves_its_cell(text: str) -> None:
    found = markdown(text)

    assert not set(found) & set("|<>`\n")


# --- graph ------------------------------------------------------------------------------------------------------------


def test_graph_of_the_example(capsys: Captured) -> None:
    assert 0 == main(["agents", "graph", str(EXAMPLE)])

    assert capsys.readouterr().out.splitlines() == [
        "flowchart LR",
        '    a0["support-bot"]',
        '    a1["researcher"]',
        '    o0(["ann@bank.test"])',
        '    o1(["bob@bank.test"])',
        '    o2(["iam@bank.test"])',
        '    o3(["payments@bank.test"])',
        '    o4(["privacy@bank.test"])',
        '    o0 -.->|"business"| a0',
        '    o2 -.->|"identity"| a0',
        '    o3 -.->|"control"| a0',
        '    a0 -->|"account.read"| a1',
        '    o1 -.->|"business"| a1',
        '    o2 -.->|"identity"| a1',
        '    o4 -.->|"control"| a1',
        "    classDef stopped stroke-dasharray: 5 5",
    ]


def test_graph_marks_who_may_not_act(capsys: Captured) -> None:
    main(["agents", "graph", str(BAD)])

    out = capsys.readouterr().out
    assert '    a2["lapsed: expired"]\n    class a2 stopped\n' in out


@pytest.mark.control("no name can write Mermaid")
@given(st.text() | st.text(alphabet='"];%-><|`#&{}()\n end', max_size=20))
def test_no_name_leaves_its_label(text: str) -> None:
    found = label(text)

    assert re.fullmatch(r'"([A-Za-z0-9 .,:/@-]|#\d+;)*"', found)
    if len(text) <= 120:
        assert text == re.sub(r"#(\d+);", lambda code: chr(int(code[1])), found[1:-1])


def test_edges_are_there_for_programs(capsys: Captured) -> None:
    found = as_json(capsys, "graph", EXAMPLE)

    assert [{"from": "support-bot", "to": "researcher", "tools": ["account.read"]}] == found["edges"]
    assert "active" == found["agents"][0]["state"]
