"""`agentguard audit query`, `tail` and `export`, as a person and as a program see them."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agentguard.audit.log import FileLog
from agentguard.audit.tail import Tail
from agentguard.cli.main import main
from agentguard.model.record import Event, Record
from tests.audit.samples import chained, only_file, record, records_in, written

Captured = pytest.CaptureFixture[str]
SECOND = 1_000_000_000
START = 1_795_300_000 * SECOND


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        self.now += SECOND
        return self.now


def facts(agent: str = "support-bot", user: str = "u:4be1c0ff00000000", **more: Any) -> Mapping[str, Any]:
    return {"agent": agent, "subject": user, "delegation": [user, "support-bot", agent][: 2 + (agent != "support-bot")],
            "task": f"task-{agent}", **more}  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> FileLog:
    return FileLog(tmp_path / "audit", clock=Clock())


@pytest.fixture
def directory(log: FileLog, tmp_path: Path) -> Path:
    log.append(Record(Event.TASK_OPENED, facts()))
    log.append(Record(Event.CALL_PERMITTED, facts(call="c1", tool="refund.create", outcome="permit", effect="write")))
    log.append(Record(Event.CREDENTIAL_ISSUED, {"lease": "l1", "task": "task-support-bot", "scopes": ["refunds"]}))
    log.append(Record(Event.CALL_COMPLETED, {"call": "c1", "task": "task-support-bot", "tool": "refund.create"}))
    other = facts("researcher", "u:77777777aaaaaaaa", call="c2", tool="=cmd|'/c calc'!A1", outcome="deny")
    log.append(Record(Event.CALL_DENIED, {**other, "reason": "outside_intent"}))
    log.close()
    return tmp_path / "audit"


def asked(capsys: Captured, directory: Path, *options: str) -> list[str]:
    capsys.readouterr()
    assert 0 == main(["audit", "query", str(directory), "--json", *options])
    return [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("options", "events"),
    [
        (["--agent", "researcher"], ["call.denied"]),
        (["--agent", "support-bot"], ["task.opened", "call.permitted", "credential.issued", "call.completed"]),
        (["--subject", "u:77777777"], ["call.denied"]),
        (["--subject", "77777777"], []),
        (["--chain", "support-bot > researcher"], ["call.denied"]),
        (["--chain", "bot > researcher"], []),
        (["--tool", "refund.create"], ["call.permitted", "call.completed"]),
        (["--outcome", "completed"], ["call.completed"]),
        (["--outcome", "deny"], ["call.denied"]),
        (["--event", "credential.issued", "--agent", "support-bot"], ["credential.issued"]),
        (["--until", "2026-11-21T22:26:43Z"], ["log.opened"]),
        (["--since", "2026-11-21T22:26:46Z", "--until", "2026-11-21T22:26:47"], ["call.completed"]),
        (["--limit", "2"], ["call.denied", "log.closed"]),
        (["--agent", "nobody"], []),
        (["--since", "1s"], []),
    ],
)
def test_question_finds_what_fits(directory: Path, capsys: Captured, options: list[str], events: list[str]) -> None:
    assert events == asked(capsys, directory, *options)


def test_record_is_found_by_its_decision_id(directory: Path, capsys: Captured) -> None:
    chain = records_in(only_file(directory))[0]["chain"]

    assert ["call.permitted"] == asked(capsys, directory, "--id", f"{chain}:3")
    assert 2 == main(["audit", "query", str(directory), "--id", "nonsense"])


def test_person_reads_one_line_a_record(directory: Path, capsys: Captured) -> None:
    assert 0 == main(["audit", "query", str(directory), "--outcome", "deny"])

    out, error = capsys.readouterr()
    assert "call.denied" in out
    assert "u:77777777aaaaaaaa > support-bot > researcher  deny  outside_intent" in out
    assert error.startswith("agentguard: indexed 7 records in ")


def test_index_is_private_and_grows_with_the_log(directory: Path, capsys: Captured) -> None:
    assert 7 == len(asked(capsys, directory))
    log = FileLog(directory)
    log.append(record(1))
    assert 9 == len(asked(capsys, directory))
    log.append(record(2))
    assert ["call.permitted"] == asked(capsys, directory, "--limit", "1")
    log.close()

    assert 0o600 == stat.S_IMODE(directory.with_name("audit.index").stat().st_mode)


def test_file_that_was_replaced_or_removed_is_indexed_anew(directory: Path, capsys: Captured) -> None:
    only_file(directory).unlink()
    written(directory, chained([record(n) for n in range(3)]), "audit-a.jsonl")
    assert 3 == len(asked(capsys, directory))
    written(directory, chained([record(n) for n in range(9)], "d" * 32), "audit-a.jsonl")
    assert 9 == len(asked(capsys, directory))
    written(directory, chained([record(n) for n in range(2)], "e" * 32), "audit-a.jsonl")

    assert 2 == len(asked(capsys, directory))


@pytest.mark.control("index is not trusted")
def test_record_that_was_changed_is_not_shown(directory: Path, capsys: Captured) -> None:
    assert 7 == len(asked(capsys, directory))
    path = only_file(directory)
    path.write_bytes(path.read_bytes().replace(b"outside_intent", b"budget_exhaust"))

    assert 1 == main(["audit", "query", str(directory), "--json"])
    out, error = capsys.readouterr()
    assert 6 == len(out.splitlines())
    assert "BROKEN: 1 record of the log no longer matches its hash; see: agentguard audit verify" in error


@pytest.mark.control("index is not trusted")
@pytest.mark.parametrize(
    "change",
    [
        "update records set at = (select min(at) from records)",
        "update records set time = time + 1",
        "update texts set text = 'x' where text = 'researcher'; "
        "update texts set text = 'researcher' where text = 'support-bot'",
    ],
)
def test_index_that_lies_is_made_anew(directory: Path, capsys: Captured, change: str) -> None:
    assert ["call.denied"] == asked(capsys, directory, "--agent", "researcher")
    database = sqlite3.connect(directory.with_name("audit.index"))
    try:
        database.executescript(change)
    finally:
        database.close()

    assert ["call.denied"] == asked(capsys, directory, "--agent", "researcher")


@pytest.mark.control("index is not trusted")
@pytest.mark.parametrize(
    ("options", "change"),
    [
        (["--outcome", "deny"], ("permit", "deny")),
        (["--chain", "support-bot > researcher"], ("u:4be1c0ff00000000 > support-bot", "u:77777777aaaaaaaa > "
                                                   "support-bot > researcher")),
        (["--id", "{chain}:3"], ("{chain}", "d" * 32)),
    ],
)  # fmt: skip
def test_index_that_swaps_two_names_is_made_anew(
    directory: Path, capsys: Captured, options: list[str], change: tuple[str, str]
) -> None:
    chain = records_in(only_file(directory))[0]["chain"]
    written(directory, chained([record(n) for n in range(3)], "d" * 32), "audit-d.jsonl")
    options = [each.format(chain=chain) for each in options]
    before = asked(capsys, directory, *options)
    one, other = (each.format(chain=chain) for each in change)
    database = sqlite3.connect(directory.with_name("audit.index"))
    try:
        for was, becomes in ((one, "between"), (other, one), ("between", other)):
            assert database.execute("update texts set text = ? where text = ?", (becomes, was)).rowcount == 1
        database.commit()
    finally:
        database.close()

    assert before == asked(capsys, directory, *options)
    assert len(before) == 1


def test_log_that_was_written_anew_is_not_answered_from_what_it_was(directory: Path, capsys: Captured) -> None:
    for agent in ("support-bot", "researcher"):
        task = Record(Event.TASK_OPENED, {**facts(agent), "task": "t"})
        ended = Record(Event.CALL_COMPLETED, {"call": "c", "task": "t", "tool": "x"})
        written(directory, chained([task, ended], agent[0] * 32), "audit-x.jsonl")
        assert 2 == len(asked(capsys, directory, "--agent", agent, "--since", "2026-11-21T22:26:40", "--until",
                              "2026-11-21T22:26:41"))  # fmt: skip


@pytest.mark.parametrize("line", [b"x" * (1 << 20), b"x" * (3 << 20), b'{"chain":"a","seq":%d,"time":"2026-11-21T22:26:'
                                  b'40.123456Z","event":"x"}' % (1 << 63)])  # fmt: skip
def test_line_that_no_record_can_be_hides_none_behind_it(directory: Path, capsys: Captured, line: bytes) -> None:
    path = only_file(directory)
    first, end, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(first + end + line + end + rest)

    assert 0 == main(["audit", "query", str(directory), "--json"])
    out, error = capsys.readouterr()
    assert 7 == len(out.splitlines())
    assert "of the log are no records" in error


def test_name_that_no_log_can_hold_is_in_none(directory: Path, capsys: Captured) -> None:
    assert [] == asked(capsys, directory, "--agent", "\udcff")


def test_damaged_index_is_made_anew(directory: Path, capsys: Captured) -> None:
    assert 7 == len(asked(capsys, directory))
    index = directory.with_name("audit.index")
    index.write_bytes(index.read_bytes()[:100] + b"\xff" * 9000)

    assert 7 == len(asked(capsys, directory))
    assert 7 == len(asked(capsys, directory, "--rebuild"))


def test_file_that_is_no_index_is_never_written_over(directory: Path, tmp_path: Path, capsys: Captured) -> None:
    precious = tmp_path / "precious.db"
    database = sqlite3.connect(precious)
    database.execute("create table data (x)")
    database.close()
    before = precious.read_bytes()

    assert 2 == main(["audit", "query", str(directory), "--index", str(precious), "--rebuild"])
    assert "is no index of an audit log" in capsys.readouterr().err
    assert before == precious.read_bytes()


def test_limit_of_any_size_is_a_limit(directory: Path, capsys: Captured) -> None:
    assert 0 == main(["audit", "query", str(directory), "--limit", "9" * 300, "--json"])
    assert 7 == len(capsys.readouterr().out.splitlines())


def test_index_that_is_a_device_or_a_folder_is_never_removed(directory: Path, tmp_path: Path, capsys: Captured) -> None:
    device, folder, pipe = tmp_path / "null", tmp_path / "folder", tmp_path / "pipe"
    device.symlink_to(os.devnull)
    folder.mkdir()
    os.mkfifo(pipe)
    for place in (device, folder, pipe):
        assert 2 == main(["audit", "query", str(directory), "--index", str(place), "--rebuild"])
        assert "is a folder or a device; name a file with --index" in capsys.readouterr().err
        assert place.exists()


def test_index_that_cannot_be_written_is_kept_in_memory(directory: Path, tmp_path: Path, capsys: Captured) -> None:
    assert 0 == main(["audit", "query", str(directory), "--index", str(tmp_path / "none" / "index"), "--json"])

    out, error = capsys.readouterr()
    assert 7 == len(out.splitlines())
    assert "it is made in memory" in error


def test_line_that_is_no_record_is_said(directory: Path, capsys: Captured) -> None:
    with only_file(directory).open("ab") as file:
        file.write(b"nonsense\n")

    assert 0 == main(["audit", "query", str(directory)])
    assert "1 line of the log are no records" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--since", "yesterday"], ["--outcome", "maybe"], ["--limit", "x"]])
def test_wrong_question_is_status_2(directory: Path, capsys: Captured, options: list[str]) -> None:
    assert 2 == main(["audit", "query", str(directory), *options])
    assert 2 == main(["audit", "query", str(directory.parent)])
    assert "no audit log" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["query", "tail"])
def test_directory_that_is_not_there_is_named_and_no_other_is_read(
    directory: Path, capsys: Captured, action: str
) -> None:
    assert main(["audit", action, str(directory / "audti")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "audti: there is no such directory" in said.err


def test_question_about_a_name_that_finds_nothing_says_what_a_name_takes(directory: Path, capsys: Captured) -> None:
    assert main(["audit", "query", str(directory), "--subject", "alice"]) == 0
    assert "--pseudonym-key FILE" in capsys.readouterr().err
    assert main(["audit", "query", str(directory), "--subject", "u:0000"]) == 0
    assert "--pseudonym-key" not in capsys.readouterr().err


def test_tail_shows_the_last_records_of_all_chains_by_time(directory: Path, capsys: Captured) -> None:
    clock = Clock()
    clock.now += SECOND // 2
    FileLog(directory, clock=clock).close()

    assert 0 == main(["audit", "tail", str(directory), "-n", "5", "--json"])
    times = [json.loads(line)["time"] for line in capsys.readouterr().out.splitlines()]
    assert (5, sorted(times)) == (len(times), times)
    assert 0 == main(["audit", "tail", str(directory), "-n", "0"])
    assert "" == capsys.readouterr().out


def test_line_that_is_no_record_hides_none_from_the_tail(directory: Path, capsys: Captured) -> None:
    with only_file(directory).open("ab") as file:
        file.write(b"no\rrecord" * 20 + b"\n")

    assert 0 == main(["audit", "tail", str(directory), "-n", "3", "--json"])
    out, error = capsys.readouterr()
    assert ["call.denied", "log.closed"] == [json.loads(line)["event"] for line in out.splitlines()]
    assert 1 == error.count("BROKEN")


def test_tail_goes_on_with_whole_records_of_any_chain(tmp_path: Path, log: FileLog) -> None:
    tail = Tail(tmp_path / "audit")
    assert ["log.opened"] == [found["event"] for found, _ in tail.last(5) if found]
    log.append(record(1))
    other = FileLog(tmp_path / "audit")
    assert ["call.permitted", "log.opened"] == sorted(found["event"] for found, _ in tail.grown() if found)
    path = max((tmp_path / "audit").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    with path.open("ab") as file:
        file.write(b'{"half":')
        file.flush()
        assert [] == tail.grown()
        file.write(b"1}\n")
    assert [None] == [found for found, _ in tail.grown()]
    log.close()
    other.close()


def test_tail_follows_until_it_is_interrupted(directory: Path) -> None:
    command = [sys.executable, "-m", "agentguard", "audit", "tail", str(directory), "-f", "-n", "1", "--json"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as done:
        assert done.stdout is not None
        assert "log.closed" in done.stdout.readline()
        FileLog(directory).close()
        assert "log.opened" in done.stdout.readline()
        done.send_signal(2)
        try:
            assert 0 == done.wait(timeout=20)
        finally:
            done.kill()


def test_export_for_a_siem_maps_calls_and_credentials(directory: Path, capsys: Captured) -> None:
    assert 0 == main(["audit", "export", str(directory), "--format", "ocsf"])

    out, error = capsys.readouterr()
    events = {each["metadata"]["event_code"]: each for each in map(json.loads, out.splitlines())}
    assert "7 records exported" in error
    permitted, denied, issued = (events[code] for code in ("call.permitted", "call.denied", "credential.issued"))
    assert (600303, 1, 1, "refund.create") == (
        permitted["type_uid"], permitted["action_id"], permitted["disposition_id"], permitted["api"]["operation"]
    )  # fmt: skip
    assert (2, 2, "outside_intent", 2) == (
        denied["action_id"], denied["disposition_id"], denied["status_detail"], denied["severity_id"]
    )  # fmt: skip
    assert (300301, "u:4be1c0ff00000000", ["refunds"]) == (
        issued["type_uid"], issued["user"]["uid"], issued["privileges"]
    )  # fmt: skip
    assert ("support-bot", START // 10**6 + 6000) == (events["call.completed"]["actor"]["app_name"],
                                                      events["call.completed"]["time"])  # fmt: skip
    assert denied["unmapped"]["agentguard"] == records_in(only_file(directory))[5]


@pytest.mark.control("no formula in CSV")
def test_export_as_csv_holds_no_formula(directory: Path, capsys: Captured) -> None:
    assert 0 == main(["audit", "export", str(directory), "--format", "csv"])

    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert 7 == len(rows)
    assert "'=cmd|'/c calc'!A1" == rows[5]["tool"]
    assert "u:77777777aaaaaaaa > support-bot > researcher" == rows[5]["delegation"]
    for text in ("=1", "+1", "-1", "@x", " =1", "\t=1", "\r=1", "%0a=1", "|calc"):
        capsys.readouterr()
        written(
            directory, chained([Record(Event.CALL_DENIED, {"tool": text, "reason": f"x\n{text}"})]), "audit-x.jsonl"
        )
        assert 0 == main(["audit", "export", str(directory / "audit-x.jsonl"), "--format", "csv"])
        (found,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
        assert found["tool"].startswith("'"), text
        assert "\n" not in found["reason"]


def test_export_of_a_part_still_knows_what_came_before(directory: Path, capsys: Captured) -> None:
    since = ["--since", "2026-11-21T22:26:46Z", "--until", "2026-11-21T22:26:47Z"]
    assert 0 == main(["audit", "export", str(directory), "--format", "ocsf", *since])

    (event,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert ("call.completed", "support-bot") == (event["metadata"]["event_code"], event["actor"]["app_name"])


def test_export_of_a_broken_log_ends_before_the_broken_record(directory: Path, capsys: Captured) -> None:
    path = only_file(directory)
    path.write_bytes(path.read_bytes().replace(b'"lease":"l1"', b'"lease":"l7"'))

    assert 1 == main(["audit", "export", str(directory), "--format", "ocsf"])
    out, error = capsys.readouterr()
    assert 3 == len(out.splitlines())
    assert "BROKEN at record 4" in error
    assert "3 records exported before it; the export is not whole" in error


@pytest.mark.parametrize(
    "members",
    [
        {"event": "credential.issued"},
        {"event": "credential.issued", "lease": "l", "scopes": 7},
        {"event": "credential.issued", "lease": "l", "expires_by": "soon"},
        {"event": "credential.revoked", "lease": ["l"]},
        {"event": "call.permitted", "effect": ["read"], "outcome": {"permit": 1}},
        {"event": "log.opened", "host": {"a": 1}, "version": [1]},
        {"event": "task.opened", "task": ["t"], "agent": 7, "delegation": "x"},
    ],
)
@pytest.mark.parametrize("form", ["csv", "ocsf"])
def test_record_of_anybody_that_verifies_is_exported(
    directory: Path, capsys: Captured, members: dict[str, Any], form: str
) -> None:
    fields = {name: value for name, value in members.items() if name != "event"}
    written(directory, chained([Record(members["event"], fields), record(1)]), "audit-x.jsonl")

    assert 0 == main(["audit", "export", str(directory), "--format", form])
    assert "9 records exported" in capsys.readouterr().err


@pytest.mark.control("no formula in CSV")
def test_chain_whose_name_is_a_formula_is_exported_as_text(directory: Path, capsys: Captured) -> None:
    path = written(directory, chained([record(1)], "=cmd|'/c calc'!A1\x1b[2J"), "audit-x.jsonl")

    assert 0 == main(["audit", "export", str(path), "--format", "csv"])
    (found,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert "'=cmd|'/c calc'!A1\\x1b[2J:1" == found["id"]


def test_export_as_csv_loses_no_record_over_a_letter(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(directory, chained([record(1, agent="Größe €"), record(2)]), "audit-x.jsonl")
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    with monkeypatch.context() as terminal:
        terminal.setattr("sys.stdout", out)
        assert 0 == main(["audit", "export", str(path), "--format", "csv"])

    out.seek(0)
    one, two = csv.DictReader(out)
    assert (r"Größe \u20ac", "call-2") == (one["agent"], two["call"])
