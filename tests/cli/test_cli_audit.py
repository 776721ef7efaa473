"""The `agentguard audit` command, as a person and as a program see it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentguard.audit.log import FileLog
from agentguard.cli.main import main
from agentguard.model.record import Event, Record
from tests.audit.samples import chained, only_file, record, written

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    sink = FileLog(tmp_path)
    for n in range(2):
        sink.append(record(n))
        sink.append(Record(Event.CREDENTIAL_ISSUED, {"lease": f"lease-{n}"}))
        sink.append(Record(Event.CREDENTIAL_REVOKED, {"lease": f"lease-{n}"}))
        sink.append(record(n, Event.CALL_COMPLETED))
    sink.append(record(9, Event.CALL_DENIED))
    sink.close()
    return only_file(tmp_path)


def test_whole_log_is_summed_up_in_one_line(log: Path, capsys: Captured):
    assert 0 == main(["audit", "verify", str(log)])

    expected = "ok: 11 records in 1 chain, 2 calls permitted, 1 denied, 2 credentials issued = 2 revoked\n"
    assert (expected, "") == tuple(capsys.readouterr())


def test_what_was_left_open_is_said(tmp_path: Path, capsys: Captured):
    written(tmp_path, chained([record(1), Record(Event.CREDENTIAL_ISSUED, {"lease": "a"})]))

    assert 0 == main(["audit", "verify", str(tmp_path)])

    out = capsys.readouterr().out
    assert "1 credential issued, 0 revoked, 1 without a record of their end, 1 call with unknown outcome" in out
    assert "1 chain not closed" in out


def test_broken_record_is_named_on_standard_error(log: Path, capsys: Captured):
    log.write_bytes(log.read_bytes().replace(b"call-1", b"call-7", 1))

    assert 1 == main(["audit", "verify", str(log.parent)])

    assert ("", f"BROKEN at record 6 of {log}: hash does not match its content\n") == tuple(capsys.readouterr())


def test_json_is_one_object(log: Path, capsys: Captured):
    assert 0 == main(["audit", "verify", "--json", str(log)])

    found = json.loads(capsys.readouterr().out)
    assert (True, 11, 1, 0, 0) == tuple(found[name] for name in ("ok", "records", "chains", "unknown", "outstanding"))
    assert (2, 11) == (found["events"]["call.permitted"], found["heads"][0]["seq"])


def test_json_of_a_broken_log_says_where_and_why(log: Path, capsys: Captured):
    log.write_bytes(log.read_bytes().replace(b"call-1", b"call-7", 1))

    assert 1 == main(["audit", "verify", "--json", str(log)])

    expected = {"ok": False, "file": str(log), "record": 6, "line": 6, "why": "hash does not match its content"}
    assert expected == json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("action", ["verify", "repair"])
def test_missing_file_is_status_2(tmp_path: Path, capsys: Captured, action: str):
    assert 2 == main(["audit", action, str(tmp_path / "none.jsonl")])

    assert "none.jsonl" in capsys.readouterr().err


def test_missing_file_in_json_is_status_2_and_an_object(tmp_path: Path, capsys: Captured):
    assert 2 == main(["audit", "verify", "--json", str(tmp_path / "none.jsonl")])

    found = json.loads(capsys.readouterr().out)
    assert (False, True) == (found["ok"], "No such file" in found["why"])


def test_directory_without_logs_is_status_2_and_never_ok(tmp_path: Path, capsys: Captured):
    assert 2 == main(["audit", "verify", str(tmp_path)])

    assert f"no audit log (audit-*.jsonl) in {tmp_path}" in capsys.readouterr().err


def test_unreadable_file_is_status_2(log: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch):
    def refuse(path: Path, *arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)

    assert 2 == main(["audit", "verify", str(log)])
    assert f"agentguard: {log}: Permission denied\n" == capsys.readouterr().err


def test_torn_log_is_repaired_by_the_command_it_names(log: Path, capsys: Captured):
    with log.open("ab") as file:
        file.write(b'{"half":')
    assert 1 == main(["audit", "verify", str(log)])
    command = capsys.readouterr().err.rpartition("agentguard ")[2].split()

    assert 0 == main(command)
    assert f"8 torn bytes kept in {log}.torn" in capsys.readouterr().out
    assert 0 == main(["audit", "verify", str(log)])
    assert 0 == main(command)
    assert "nothing to repair" in capsys.readouterr().out


def test_broken_log_is_not_repaired(log: Path, capsys: Captured):
    log.write_bytes(log.read_bytes().replace(b"call-1", b"call-7", 1))

    assert 1 == main(["audit", "repair", str(log)])
    assert "BROKEN at record 6" in capsys.readouterr().err


def test_name_with_control_characters_cannot_steer_the_terminal(tmp_path: Path, capsys: Captured):
    rotated = Record(Event.LOG_ROTATED, {"next": "\x1b]0;pwned\x07\u202e.jsonl"})
    written(tmp_path, chained([rotated]), "audit-\x1b[2J.jsonl")

    assert 1 == main(["audit", "verify", str(tmp_path)])

    error = capsys.readouterr().err
    assert not {"\x1b", "\x07", "\u202e"} & set(error)
    assert "audit-\\x1b[2J.jsonl" in error


@pytest.mark.parametrize("arguments", [[], ["audit"], ["audit", "verify"], ["audit", "nonsense"], ["nonsense"]])
def test_wrong_arguments_are_status_2_with_the_usage(capsys: Captured, arguments: list[str]):
    assert 2 == main(arguments)
    assert "usage: agentguard" in capsys.readouterr().err


def test_help_is_status_0(capsys: Captured):
    assert 0 == main(["audit", "--help"])
    assert "verify" in capsys.readouterr().out


def test_package_can_be_run_as_a_module(log: Path):
    result = subprocess.run(
        [sys.executable, "-m", "agentguard", "audit", "verify", str(log)], capture_output=True, text=True, check=False
    )

    assert (0, True, "") == (result.returncode, result.stdout.startswith("ok: 11 records"), result.stderr)
