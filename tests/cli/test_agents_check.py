"""The `agentguard agents check` command: every finding at its line, and what makes it fail."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agentguard.cli.agents.coded import LEVELS, Code
from agentguard.cli.main import main
from agentguard.intent import Intent
from agentguard.intent.lint import Level

Captured = pytest.CaptureFixture[str]
REPO = Path(__file__).parents[2]
BAD = REPO / "tests" / "data" / "agents_bad.yaml"
EXAMPLE = REPO / "examples" / "agents" / "agentguard.yaml"
HEAD = "version: 1\nenvironment: prod\nagents:\n"
TAIL = 'identity: {spiffe: {socket: "unix:///a"}}\naudit: {dir: audit, pseudonym_key: {env: AG_PSEUDONYM}}\n'
BOT = "owners: {business: ann@bank.test}, purpose: p, identity: spiffe://bank.test/bot"
TOOLS = "version: 1\ntools:\n  pay: {effect: write, tags: [money], parameters: [to, amount]}\n  look: {effect: read}\n"
ANY = "{tool: pay, args: {to: any, amount: any}"
INTENT = "version: 1\nintent: refund-ticket\npurpose: p\nreads: [look]\n"


def registry(folder: Path, *agents: str, tools: str = "", **files: str) -> Path:
    """A configuration with these agents, and beside it the tools and the ceilings."""
    file = folder / "agentguard.yaml"
    file.write_text(HEAD + "".join(f"  {agent}\n" for agent in agents) + TAIL)
    if tools:
        (folder / "tools.yaml").write_text(tools)
    (folder / "ceilings").mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / "ceilings" / f"{name}.yaml").write_text(text)
    return file


def ceiling(body: str) -> str:
    return f"version: 1\nintent: c\npurpose: p\n{body}\n"


def checked(capsys: Captured, *arguments: object) -> tuple[int, list[dict[str, Any]]]:
    status = main(["agents", "check", "--json", *map(str, arguments)])
    found = json.loads(capsys.readouterr().out)
    assert found["errors"] == sum(item["level"] == "error" for item in found["findings"])
    return status, found["findings"]


def codes(found: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(item["code"], item["line"]) for item in found if item["code"] != "unknown"]


# --- the two files ----------------------------------------------------------------------------------------------------


def test_every_mistake_of_the_bad_registry_is_found_at_its_line(capsys: Captured) -> None:
    status, found = checked(capsys, BAD)

    lines = BAD.read_text().splitlines()
    at = {(item["code"], lines[item["line"] - 1].strip()) for item in found if item["file"] == str(BAD)}
    elsewhere = {(item["code"], Path(item["file"]).name, item["line"]) for item in found if item["file"] != str(BAD)}
    assert status == 1
    assert at - {item for item in at if item[0] == "unknown"} == {
        ("ownerless", "ownerless:"),
        ("ownerless", "owners: {identity: iam@bank.test}"),
        ("expired", "expires: 2020-03-31"),
        ("suspended", "status: suspended"),
        ("retired", "status: retired"),
        ("hand-on-unregistered", "nobody: [account.read]"),
        ("hand-on-stopped", "lapsed: [account.read]"),
        ("hand-on-cycle", "reader: [payment.send]"),
        ("hand-on-useless", "reader: [payment.send]"),
        ("hand-on-cycle", "hand_on: {handing-on: [ticket.read]}"),
        ("no-identity", "unbounded:"),
        ("no-tools-limit", "unbounded:"),
        ("ceiling-missing", "ceiling: agents_bad/missing.yaml"),
        ("invalid", "tols: [account.read]"),
        ("invalid", 'tools: ["*.read"]'),
    }
    assert elsewhere == {
        ("ceiling-step-unused", "reader.yaml", 6),
        ("ceiling-unused", "unused.yaml", 1),
        ("ceiling-wrong", "wrong.yaml", 7),
    }


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ("approval: later\n", ["approval-unshared"]),
        ("approval: {later: true, expires: 1h}\n", ["approval-unshared"]),
        ("approval: {later: true}\nstate: {sqlite: s.db, key: {env: K}}\n", []),
        ("approval: later\nstate: {sqlit: s.db, key: {env: K}}\n", ["invalid", "invalid"]),
        ("approval: prompt\n", []),
    ],
)
def test_questions_that_end_with_their_process_are_a_warning(
    top: str, expected: list[str], tmp_path: Path, capsys: Captured
) -> None:
    file = registry(tmp_path, f"bot: {{{BOT}, tools: [look]}}", tools=TOOLS)
    file.write_text(file.read_text() + top)

    _, found = checked(capsys, file)
    assert expected == [item["code"] for item in found]
    assert all(item["path"] == "approval" for item in found if item["code"] == "approval-unshared")


def test_agent_that_is_retired_is_not_found_expired_too(capsys: Captured) -> None:
    _, found = checked(capsys, BAD)

    assert ["expired"] == [item["code"] for item in found if item["code"] in ("expired", "expiring")]


def test_bad_registry_fails_as_a_command_and_shows_the_lines() -> None:
    command = [sys.executable, "-m", "agentguard", "agents", "check", str(BAD)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert (done.returncode, done.stderr) == (1, "")
    assert (
        f"{BAD}:5: error: nobody answers for ownerless [ownerless]\n      ownerless:\n      ^^^^^^^^^\n" in done.stdout
    )
    assert f"{BAD}:18: error: lapsed expired at 2020-03-31, so it may do nothing [expired]\n" in done.stdout


def test_example_is_clean_even_when_warnings_count(capsys: Captured) -> None:
    assert 0 == main(["agents", "check", "--strict", str(EXAMPLE)])

    assert "4 files checked: 0 errors, 0 warnings\n" == capsys.readouterr().out


# --- what fails -------------------------------------------------------------------------------------------------------


def test_warnings_fail_only_where_they_are_told_to(tmp_path: Path, capsys: Captured) -> None:
    file = registry(tmp_path, f"bot: {{{BOT}, tools: [look], status: suspended}}")

    assert (0, [("suspended", 4)]) == ((told := checked(capsys, file))[0], codes(told[1]))
    assert 1 == checked(capsys, file, "--strict")[0]


@pytest.mark.parametrize("text", ["agents: [", "a: 1\na: 2\n", "\tagents:\n"])
def test_file_that_cannot_be_read_at_all_is_no_finding(text: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "agentguard.yaml").write_text(text)

    assert 2 == main(["agents", "check", str(tmp_path / "agentguard.yaml")])
    assert 2 == main(["agents", "check", str(tmp_path / "gone.yaml")])

    told = capsys.readouterr()
    assert "" == told.out
    assert "gone.yaml: the file cannot be read" in told.err


@pytest.mark.parametrize("text", ["5", "[]", "{}", "agents: 5", "agents: {a: 5}", "agents: {a: {owners: 5}}"])
def test_whatever_stands_in_the_file_is_told_and_nothing_breaks(text: str, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "agentguard.yaml"
    file.write_text(text)

    status, found = checked(capsys, file)

    assert status == 1
    assert any(item["code"] == "invalid" for item in found)
    for action in (["list"], ["graph"], ["list", "--json"], ["show", "a"]):
        assert main(["agents", *action, str(file)]) in (1, 2)


@pytest.mark.parametrize("days", ["-1", "x", "1.5", "99999999"])
def test_days_are_whole_and_bounded(days: str, capsys: Captured) -> None:
    assert 2 == main(["agents", "check", "--within", days, str(BAD)])
    assert "write whole days" in capsys.readouterr().err


# --- the controls -----------------------------------------------------------------------------------------------------


@pytest.mark.control("an agent that nobody answers for fails the check")
@pytest.mark.parametrize("owners", ["", "owners: {}, ", "owners: {identity: a@b.test}, ", "owners: {business: ''}, "])
def test_agent_without_a_business_owner_is_an_error(owners: str, tmp_path: Path, capsys: Captured) -> None:
    file = registry(tmp_path, f"bot: {{{owners}purpose: p, identity: x, tools: [look]}}")

    assert (1, [("ownerless", 4)]) == ((told := checked(capsys, file))[0], codes(told[1]))


@pytest.mark.control("an agent whose term is over fails the check")
def test_expired_agent_is_an_error_and_one_that_expires_soon_a_warning(tmp_path: Path, capsys: Captured) -> None:
    soon = datetime.fromtimestamp(time.time(), UTC).date() + timedelta(days=20)
    file = registry(tmp_path, f"bot: {{{BOT}, tools: [look], expires: {soon}}}")

    assert (0, [("expiring", 4)]) == ((told := checked(capsys, file))[0], codes(told[1]))
    assert (0, []) == ((told := checked(capsys, file, "--within", 10))[0], codes(told[1]))
    file.write_text(file.read_text().replace(str(soon), "2026-01-01"))
    assert (1, [("expired", 4)]) == ((told := checked(capsys, file))[0], codes(told[1]))


@pytest.mark.control("a purpose that is not the pinned file any more fails the check")
def test_pinned_purpose_whose_file_changed_is_an_error(tmp_path: Path, capsys: Captured) -> None:
    pin = Intent.from_yaml(INTENT).source_s256
    file = registry(tmp_path, f'bot: {{{BOT}, tools: [look], purposes: [other, {{refund-ticket: "s256:{pin}"}}]}}')
    intents = tmp_path / "intents"
    intents.mkdir()
    (intents / "refund.yaml").write_text(INTENT)
    (intents / "other.yaml").write_text(INTENT.replace("refund-ticket", "other"))

    assert (0, []) == ((told := checked(capsys, file, "--intents", intents))[0], codes(told[1]))
    (intents / "refund.yaml").write_text(INTENT.replace("[look]", '["*"]'))
    status, found = checked(capsys, file, "--intents", intents)

    changed = Intent.load(intents / "refund.yaml").source_s256
    assert (1, [("purpose-changed", 4)]) == (status, codes(found))
    (about,) = (item for item in found if item["code"] == "purpose-changed")
    assert "agents.bot.purposes[1]" == about["path"]
    assert f's256:{changed}", once it was looked at' in about["write"]


def test_pin_that_cannot_be_compared_is_said_to_be_unknown(tmp_path: Path, capsys: Captured) -> None:
    file = registry(tmp_path, f'bot: {{{BOT}, tools: [look], purposes: [{{gone: "s256:{"A" * 43}"}}]}}', tools=TOOLS)
    (tmp_path / "intents").mkdir()

    status, found = checked(capsys, file)
    assert (0, ["unknown"]) == (status, [item["code"] for item in found])
    assert "give --intents DIR" in found[0]["message"]
    assert [("purpose-unknown", 4)] == codes(checked(capsys, file, "--intents", tmp_path / "intents")[1])
    assert 2 == main(["agents", "check", str(file), "--intents", str(tmp_path / "nowhere")])


@pytest.mark.control("a write that no ceiling bounds and no person sees is found")
@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("steps: [{tool: pay, args: {to: any, amount: any}}]", 4),
        ("steps: [{tool: pay, args: {to: {optional: any}, amount: any}}]", 4),
        (f"steps:\n  - {ANY}, then: ask}}\n  - {ANY}}}", 6),
        ("define: {d: any}\nsteps: [{tool: pay, args: {to: {is: d}, amount: {optional: {is: d}}}}]", 5),
        ("steps: [{tool: pay, args: {to: [{eq: ann}, any], amount: any}}]", 4),
    ],
)  # fmt: skip
def test_write_that_an_agent_may_do_alone_without_a_bound_is_a_warning(
    body: str, line: int, tmp_path: Path, capsys: Captured
) -> None:
    file = registry(tmp_path, f"bot: {{{BOT}, tools: [pay], ceiling: ceilings/c.yaml}}", tools=TOOLS, c=ceiling(body))

    _, found = checked(capsys, file)

    assert [("unattended-write", line)] == codes(found)
    assert found[0]["file"].endswith("c.yaml")


@pytest.mark.parametrize(
    "body",
    [
        "steps: [{tool: pay, args: {to: any, amount: {min: 0, max: 5}}}]",
        "steps: [{tool: pay, args: {to: any, amount: any}, times: {n: 5, per: 1h}}]",
        "steps: [{tool: pay, args: {to: any, amount: any}, total: {amount: {max: 5, per: 1h}}}]",
        "define: {d: {min: 0, max: 5}}\nsteps: [{tool: pay, args: {to: any, amount: {is: d}}}]",
        "steps: [{tool: pay, args: {to: any, amount: any}, then: ask}]",
        "steps: [{tool: pay}]",
        "steps: [{tool: pay, args: {to: any, amount: any}}]\neverywhere: {to: {eq: ann}}",
        "steps: [{tool: pay, args: {to: any, amount: any}}]\nlimits: {rate: 5/h}",
        "steps: [{tool: pay, args: {to: any, amount: any}}]\nforbid: [{tags: [money]}]",
        "reads: [look]\notherwise: {then: ask, tools: [pay]}",
        "reads: [look]",
    ],
)
def test_bound_or_a_person_is_enough(body: str, tmp_path: Path, capsys: Captured) -> None:
    agent = f"bot: {{{BOT}, tools: [pay, look], ceiling: ceilings/c.yaml}}"
    file = registry(tmp_path, agent, tools=TOOLS, c=ceiling(body))

    assert [] == codes(checked(capsys, file)[1])


def test_write_without_any_ceiling_is_unattended_and_so_is_a_read_that_moves_money(
    tmp_path: Path, capsys: Captured
) -> None:
    tools = TOOLS.replace("look: {effect: read}", "look: {effect: read, tags: [money]}")
    bare = registry(tmp_path, f"bot: {{{BOT}, tools: [pay]}}", tools=tools)
    assert [("unattended-write", 4)] == codes(checked(capsys, bare)[1])

    agent = f"bot: {{{BOT}, tools: [look], ceiling: ceilings/c.yaml}}"
    file = registry(tmp_path, agent, tools=tools, c=ceiling("reads: [look]"))
    assert [("unattended-write", 4)] == codes(checked(capsys, file)[1])


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_names_that_no_tool_has_are_found(tmp_path: Path, capsys: Captured) -> None:
    steps = "steps: [{tool: look}, {tool: lok}]"
    file = registry(
        tmp_path,
        f'bot: {{{BOT}, tools: [look, lok, "crm.*"], hand_on: {{other: [payy]}}, ceiling: ceilings/c.yaml}}',
        f"other: {{{BOT}, tools: [payy, look]}}",
        tools=TOOLS,
        c=ceiling(steps),
    )

    status, found = checked(capsys, file)

    paths = [item["path"] for item in found if item["code"] == "unknown-tool"]
    assert (0, {"unknown-tool"}) == (status, {item["code"] for item in found})
    assert paths == [
        "agents.bot.tools[1]", "agents.bot.tools[2]", "agents.bot.hand_on.other[0]", "agents.other.tools[0]",
        "steps[1].tool",
    ]  # fmt: skip


def test_identity_that_nothing_proves_is_found(tmp_path: Path, capsys: Captured) -> None:
    file = registry(tmp_path, f"bot: {{{BOT}, tools: [look]}}")
    file.write_text(file.read_text().replace('identity: {spiffe: {socket: "unix:///a"}}', "identity: static"))

    assert [("identity-unprovable", 4)] == codes(checked(capsys, file)[1])


def test_hand_on_that_can_never_be_used_is_found(tmp_path: Path, capsys: Captured) -> None:
    file = registry(
        tmp_path,
        f"a: {{{BOT}, tools: [look], hand_on: {{b: [pay]}}, limits: {{max_depth: 0}}}}",
        f"b: {{{BOT}, tools: [pay], hand_on: {{c: [look]}}, ceiling: ceilings/b.yaml}}",
        f"c: {{{BOT}, tools: [look], ceiling: ceilings/c.yaml}}",
        tools=TOOLS,
        b=ceiling("steps: [{tool: pay}]"),
        c=ceiling("reads: [look]"),
    )

    _, found = checked(capsys, file)

    # `a` can never delegate; the ceiling of `b` does not admit what it hands on.
    assert [("hand-on-useless", 4), ("hand-on-useless", 5)] == codes(found)


def test_ceiling_that_two_agents_share_is_used_where_one_of_them_uses_it(tmp_path: Path, capsys: Captured) -> None:
    file = registry(
        tmp_path,
        f"a: {{{BOT}, tools: [look], ceiling: ceilings/c.yaml}}",
        f"b: {{{BOT}, tools: [pay], ceiling: ceilings/c.yaml}}",
        tools=TOOLS,
        c=ceiling("steps: [{tool: pay}, {tool: look}]"),
    )

    assert [] == codes(checked(capsys, file)[1])


def test_broken_ceiling_and_broken_tools_file_are_found_in_their_own_lines(tmp_path: Path, capsys: Captured) -> None:
    agent = f"bot: {{{BOT}, tools: [look], ceiling: ceilings/c.yaml}}"
    file = registry(tmp_path, agent, tools="version: 1\ntools:\n  look: {effekt: read}\n", c=ceiling("stepz: []"))

    status, found = checked(capsys, file)

    assert status == 1
    assert {("ceiling-wrong", "c.yaml", 4), ("invalid", "tools.yaml", 3)} <= {
        (item["code"], Path(item["file"]).name, item["line"]) for item in found
    }
    assert any("tools.yaml is wrong" in item["message"] for item in found if item["code"] == "unknown")


def test_set_that_only_the_agents_environment_knows_is_no_mistake(tmp_path: Path, capsys: Captured) -> None:
    body = "sets: {payees: {env: AG_NO_SUCH_PAYEES}}\nsteps: [{tool: pay, args: {to: {set: payees}, amount: {eq: 1}}}]"
    file = registry(tmp_path, f"bot: {{{BOT}, tools: [pay], ceiling: ceilings/c.yaml}}", tools=TOOLS, c=ceiling(body))

    status, found = checked(capsys, file)

    assert (0, ["unknown"]) == (status, [item["code"] for item in found])
    file = registry(tmp_path, f"bot: {{{BOT}, tools: [pay], ceiling: ceilings/c.yaml}}", tools=TOOLS,
                    c=ceiling(body.replace("env: AG_NO_SUCH_PAYEES", "file: gone.yaml")))  # fmt: skip
    assert [("ceiling-wrong", 4)] == codes(checked(capsys, file)[1])


def test_every_code_has_one_level() -> None:
    assert set(LEVELS) == set(Code)
    assert {code for code, level in LEVELS.items() if level is Level.NOTE} == {Code.UNKNOWN}
