"""The `agentguard lint` command, as a person and as a program see it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agentguard.cli.main import main

Captured = pytest.CaptureFixture[str]
REPO = Path(__file__).parents[2]
INTENTS = REPO / "bench" / "agentdojo" / "intents"
QUICKSTART = re.search(r"```yaml\n(version: 1\nintent: .*?)```", (REPO / "docs/quickstart.md").read_text(), re.S)
BAD = """version: 1
intent: bad
purpose: p
reads: ["ticket.*"]
steps:
  - tool: pay
    args: {to: {eq: ann}, n: {max: 5}}
"""
TOOLS = 'version: 1\ntools:\n  pay: {effect: write, audience: "https://a.example"}\n  ticket.read: {effect: read}\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bad.yaml").write_text(BAD)
    (tmp_path / "tools.yaml").write_text(TOOLS)
    (tmp_path / "other.yaml").write_text("version: 1\npurpose: no intent\n")
    return tmp_path


def as_json(capsys: Captured) -> dict[str, object]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_intents_of_agentdojo_are_clean(capsys: Captured) -> None:
    pytest.importorskip("re2", reason="one intent has a regex, which needs the extra `re2`")

    assert 0 == main(["lint", "--json", str(INTENTS)])

    found = as_json(capsys)
    assert (found["files"], found["errors"], found["warnings"]) == (len(list(INTENTS.glob("*/user_task_*"))), 0, 0)


def test_intent_of_the_quickstart_is_clean(tmp_path: Path, capsys: Captured) -> None:
    assert QUICKSTART
    (tmp_path / "refund.yaml").write_text(QUICKSTART[1])

    assert 0 == main(["lint", str(tmp_path / "refund.yaml")])

    assert "1 file checked: 0 errors, 0 warnings, 1 note\n" in capsys.readouterr().out


def test_finding_shows_its_line_the_key_and_what_to_write(folder: Path, capsys: Captured) -> None:
    assert 1 == main(["lint", str(folder)])

    assert capsys.readouterr().out == (
        f"{folder}/bad.yaml:7: error: n has a max and no min, so a negative number passes, to a tool that writes\n"
        "        args: {to: {eq: ann}, n: {max: 5}}\n"
        "                              ^\n"
        "    write: n: {min: 0, max: 5}\n"
        "1 file checked: 1 error, 0 warnings\n"
    )


def test_item_of_a_list_is_underlined_as_a_whole(folder: Path, capsys: Captured) -> None:
    (folder / "tools.yaml").write_text(TOOLS.replace("ticket.read: {effect: read", "tiket.read: {effect: read"))

    assert 1 == main(["lint", str(folder / "bad.yaml")])

    assert '    reads: ["ticket.*"]\n            ^^^^^^^^^^\n' in capsys.readouterr().out


def test_json_is_one_object_with_the_place_of_each_finding(folder: Path, capsys: Captured) -> None:
    assert 1 == main(["lint", "--json", str(folder)])

    found = as_json(capsys)
    assert found == {
        "findings": [
            {
                "file": f"{folder}/bad.yaml",
                "line": 7,
                "column": 27,
                "path": "steps[0].args.n",
                "level": "error",
                "message": "n has a max and no min, so a negative number passes, to a tool that writes",
                "write": "n: {min: 0, max: 5}",
            }
        ],
        "files": 1,
        "errors": 1,
        "warnings": 0,
    }


def test_every_load_error_of_every_file_is_shown(folder: Path, capsys: Captured) -> None:
    (folder / "broken.yaml").write_text(
        "version: 2\nintent: x\npurpose: p\nstepz: [{tool: pay}]\nsteps:\n  - tool: pay\n    args: {n: {maxx: 5}}\n"
    )
    (folder / "syntax.yaml").write_text("version: 1\nintent: [x\n")

    assert 1 == main(["lint", str(folder)])

    out = capsys.readouterr().out
    assert f"{folder}/broken.yaml:1: error: write version: 1 at the top" in out
    assert "unknown key 'stepz'\n    stepz: [{tool: pay}]\n    ^^^^^\n    write: steps\n" in out
    assert "unknown kind 'maxx'\n        args: {n: {maxx: 5}}\n                   ^^^^\n    write: max\n" in out
    assert f"{folder}/syntax.yaml:" in out
    assert f"{folder}/bad.yaml:7" in out
    assert "3 files checked: 5 errors" in out


def test_number_of_more_digits_than_python_reads_is_a_mistake(folder: Path, capsys: Captured) -> None:
    (folder / "n.yaml").write_text(
        "version: 1\nintent: x\npurpose: p\nparams: {n: integer}\nsteps: [{tool: pay, args: {n: {eq: '${n}'}}}]\n"
    )

    assert 1 == main(["lint", str(folder / "n.yaml"), "--param", f"n={'9' * 5000}"])
    assert "n.yaml" in capsys.readouterr().out


def test_what_is_true_only_of_values_that_stand_in_is_not_said(folder: Path, capsys: Captured) -> None:
    text = (
        "version: 1\nintent: x\npurpose: p\nparams: {a: string, b: string, c: decimal, d: decimal}\nsteps:\n"
        "  - {id: one, tool: pay, args: {to: {eq: '${a}'}}}\n  - {id: two, tool: pay, args: {to: {eq: '${b}'}}}\n"
        "  - {id: three, tool: pay, args: {n: {eq: '${c}'}}}\n  - {id: four, tool: pay, args: {n: {eq: '${d}'}}}\n"
    )
    (folder / "two.yaml").write_text(text)
    assert 0 == main(["lint", str(folder / "two.yaml")])
    assert "0 warnings" in capsys.readouterr().out
    (folder / "two.yaml").write_text(text + "  - {id: five, tool: pay, args: {n: {eq: '${d}'}}}\n")
    assert 1 == main(["lint", str(folder / "two.yaml")])
    assert "four takes some of the same calls" in capsys.readouterr().out


def test_parameters_need_no_value_but_examples_do(folder: Path, capsys: Captured) -> None:
    text = (
        "version: 1\nintent: x\npurpose: p\nparams: {to: string, limit: {type: decimal, max: 100}}\nsteps:\n"
        "  - tool: pay\n    args: {to: {eq: '${to}'}, n: {min: 5, max: '${limit}'}}\n"
        "examples: {permit: [{tool: pay, args: {to: ann, n: 6}}]}\n"
    )
    (folder / "bad.yaml").write_text(text)

    assert 0 == main(["lint", str(folder)])
    assert "write: --param to=VALUE --param limit=VALUE" in capsys.readouterr().out
    assert 0 == main(["lint", str(folder), "--param", "to=ann", "--param", "limit=50"])
    assert "1 file checked: 0 errors, 0 warnings\n" == capsys.readouterr().out
    assert 1 == main(["lint", str(folder), "--param", "to=bo", "--param", "limit=50"])
    assert 'the intent denies this: to must be "bo"' in capsys.readouterr().out


def test_option_serves_the_files_that_have_it_and_is_refused_where_none_has(folder: Path, capsys: Captured) -> None:
    (folder / "bad.yaml").write_text("version: 1\nintent: x\npurpose: p\nreads: [ticket.read]\n")
    (folder / "more.yaml").write_text(
        "version: 1\nintent: x\npurpose: p\nparams: {to: string}\nsteps: [{tool: pay, args: {to: {eq: '${to}'}}}]\n"
    )

    assert 0 == main(["lint", str(folder), "--param", "to=ann"])
    assert 2 == main(["lint", str(folder), "--param", "too=ann"])
    assert "--param names 'too', which no file has; did you mean 'to'?" in capsys.readouterr().err
    assert 2 == main(["lint", str(folder), "--set", "s=a"])


def test_set_whose_members_are_not_known_is_no_mistake_but_a_missing_file_is(folder: Path, capsys: Captured) -> None:
    body = "version: 1\nintent: x\npurpose: p\nsets: {s: SOURCE}\nsteps: [{tool: pay, args: {to: {set: s}}}]\n"

    (folder / "bad.yaml").write_text(body.replace("SOURCE", "{resolve: orders_of}"))
    assert 0 == main(["lint", str(folder)])
    (folder / "bad.yaml").write_text(body.replace("SOURCE", "{file: gone.yaml}"))
    assert 1 == main(["lint", str(folder)])

    assert "its members are not known here" in capsys.readouterr().out


def test_broken_tools_file_is_told_once_for_all_its_intents(folder: Path, capsys: Captured) -> None:
    (folder / "good.yaml").write_text("version: 1\nintent: x\npurpose: p\nreads: [a]\n")
    (folder / "tools.yaml").write_text(
        "version: 1\ntools:\n  pay: {effekt: write}\n  Bad-Name: {effect: read}\n  x: {effect: reads}\n"
    )

    assert 1 == main(["lint", str(folder)])

    out = capsys.readouterr().out
    assert out.count("unknown field 'effekt'") == 1
    assert out.count("tools.yaml:4") == 1
    assert out.count("tools.yaml:5") == 1


def test_write_without_a_credential_is_noted_once_at_the_tool(folder: Path, capsys: Captured) -> None:
    (folder / "tools.yaml").write_text("version: 1\ntools:\n  pay: {effect: write}\n  ticket.read: {effect: read}\n")
    good = BAD.replace("{max: 5}", "{min: 1, max: 5}")
    (folder / "bad.yaml").write_text(good)
    (folder / "more.yaml").write_text(good)

    assert 0 == main(["lint", str(folder)])

    out = capsys.readouterr().out
    assert out.count("note: pay writes without a credential") == 1
    assert f"{folder}/tools.yaml:3: note" in out


def test_nothing_to_check_is_misuse(tmp_path: Path, capsys: Captured) -> None:
    assert 2 == main(["lint", str(tmp_path)])
    assert "no intent in" in capsys.readouterr().err
    assert 2 == main(["lint"])


def test_file_that_is_not_there_is_an_error(tmp_path: Path, capsys: Captured) -> None:
    assert 1 == main(["lint", str(tmp_path / "gone.yaml")])
    assert "cannot be read" in capsys.readouterr().out


def test_lint_runs_as_a_command(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentguard", "lint", str(folder)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (1, "")
    assert "1 error" in done.stdout
