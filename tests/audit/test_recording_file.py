"""The opt-in recording: full values, redacted, bounded and private, never a secret, and never in a call's way."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agentguard.audit.log import FileLog
from agentguard.audit.patterns import literal
from agentguard.audit.recording_file import MIN_BYTES, Recorded, Recording
from agentguard.audit.redaction import Redactor
from agentguard.errors import ConfigurationError

apart = pytest.mark.control("the recording is apart, private and bounded")
hidden = pytest.mark.control("the recording holds no secret")


def call(**fields: Any) -> Recorded:
    said: dict[str, Any] = {
        "tool": "refund", "call": "c1", "task": "t1", "agent": "bot", "intent": "Refund", "intent_s256": "s256:x",
        "decision": "chain:7", "outcome": "permit", "reason": "declared", "ended": "completed",
    }  # fmt: skip
    return Recorded(**{**said, **fields})


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_call_is_recorded_with_its_values(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "calls.jsonl", results=True)
    recording.take(call(arguments={"account": "acme", "amount": Decimal("1.50")}, result={"ok": Decimal(1), "x": (1,)}))
    recording.close()
    head, line = lines(tmp_path / "calls.jsonl")
    assert "not the audit log" in head["note"]
    assert ({"account": "acme", "amount": "1.5"}, {"ok": "1", "x": ["1"]}) == (line["args"], line["result"])
    assert ("refund", "chain:7", "permit", "completed") == tuple(
        line[name] for name in ("tool", "decision", "outcome", "ended")
    )


@hidden
def test_secret_arguments_and_personal_data_are_not_in_it(tmp_path: Path) -> None:
    redactor = Redactor(["email", literal("project", "Heron")], members=["note"])
    recording = Recording(tmp_path / "calls.jsonl", redactor=redactor, results=True)
    arguments = {
        "answer": "answer-canary",
        "to": "ann@bank.test",
        "password": "pw-canary",
        "deep": {"note": "note-canary"},
    }
    recording.take(call(arguments=arguments, secret=("answer",), result="for Heron, ann@bank.test"))
    recording.close()
    text = (tmp_path / "calls.jsonl").read_text()
    assert not [word for word in ("canary", "ann@", "Heron") if word in text]
    assert ["answer"] == lines(tmp_path / "calls.jsonl")[1]["secret"]


def test_results_are_left_out_unless_they_are_asked_for(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "calls.jsonl")
    recording.take(call(result="result-canary"))
    recording.take(call(ended="failed", error="ValueError"))
    recording.close()
    assert "canary" not in (tmp_path / "calls.jsonl").read_text()
    assert "ValueError" == lines(tmp_path / "calls.jsonl")[2]["error"]


@pytest.mark.parametrize(
    ("result", "shown"), [(object(), "[a object]"), ({1, 2}, "[a set]"), (float("nan"), "[a float]")]
)
def test_result_that_has_no_form_is_named_by_its_type(result: object, shown: str, tmp_path: Path) -> None:
    recording = Recording(tmp_path / "calls.jsonl", results=True)
    recording.take(call(result=result))
    recording.close()
    assert shown == lines(tmp_path / "calls.jsonl")[1]["result"]


@apart
def test_file_is_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Recording(tmp_path / "calls.jsonl").close()
    finally:
        os.umask(before)
    assert 0o600 == stat.S_IMODE((tmp_path / "calls.jsonl").stat().st_mode)
    (tmp_path / "calls.jsonl").chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Recording(tmp_path / "calls.jsonl")


@apart
def test_link_pipe_and_audit_log_are_refused(tmp_path: Path) -> None:
    (tmp_path / "real").touch(mode=0o600)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe", "audit-x.jsonl"):
        with pytest.raises(ConfigurationError):
            Recording(tmp_path / name)
    FileLog(tmp_path / "audit").close()
    with pytest.raises(ConfigurationError, match="a place of its own"):
        Recording(tmp_path / "audit" / "calls.jsonl")


@apart
def test_lines_files_and_their_number_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    recording = Recording(path, max_bytes=MIN_BYTES, keep=2, results=True)
    for number in range(40):
        recording.take(call(call=f"c{number}", arguments={"text": "x y " * 10_000}, result=["z " * 20_000] * 2))
    recording.close()
    assert ["calls.jsonl", "calls.jsonl.1", "calls.jsonl.2"] == sorted(each.name for each in tmp_path.iterdir())
    assert all(each.stat().st_size <= MIN_BYTES for each in tmp_path.iterdir())
    assert ("c39", "[too large]") == (lines(path)[-1]["call"], lines(path)[-1]["result"])
    assert (0, "recording") == (recording.dropped, next(iter(lines(path)[0])))


def test_without_older_files_the_recording_begins_anew(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "calls.jsonl", max_bytes=MIN_BYTES, keep=0)
    for number in range(10):
        recording.take(call(call=f"c{number}", arguments={"text": "x y " * 10_000}))
    recording.close()
    assert ["calls.jsonl"] == [each.name for each in tmp_path.iterdir()]


def test_several_writers_share_one_file_over_its_rotations(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    writers = [Recording(path, max_bytes=MIN_BYTES, keep=100) for _ in range(3)]

    def write(writer: int) -> None:
        for number in range(30):
            writers[writer].take(call(call=f"{writer}-{number}", arguments={"text": "x y " * 5000}))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for writer in writers:
        writer.close()
    found = [line["call"] for each in tmp_path.iterdir() for line in lines(each) if "call" in line]
    assert sorted(found) == sorted(f"{writer}-{number}" for writer in range(3) for number in range(30))


def test_deleted_file_is_begun_anew(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "calls.jsonl")
    (tmp_path / "calls.jsonl").unlink()
    recording.take(call())
    recording.close()
    assert 2 == len(lines(tmp_path / "calls.jsonl"))


@apart
def test_failure_reaches_no_call_and_is_said_once_without_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recording = Recording(tmp_path / "calls.jsonl")

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
        patched.setattr(os, "write", full)
        recording.take(call(arguments={"account": "acme-canary"}))
        recording.take(call())
    recording.take(call(arguments={"a": object()}))
    recording.take(call())
    recording.close()
    recording.take(call())
    assert (2, 1) == (recording.dropped, len(caplog.records))
    assert "canary" not in caplog.text


def test_impossible_bounds_are_refused(tmp_path: Path) -> None:
    refused: list[dict[str, Any]] = [{"max_bytes": 10}, {"keep": -1}, {"keep": 101}]
    for said in refused:
        with pytest.raises(ConfigurationError):
            Recording(tmp_path / "calls.jsonl", **said)


def test_child_of_a_fork_writes_whole_lines_too(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "calls.jsonl")
    recording._lock.acquire()
    child = os.fork()
    if not child:
        recording.take(call(call="child"))
        os._exit(0)
    assert 0 == os.waitpid(child, 0)[1]
    recording._lock.release()
    recording.take(call(call="parent"))
    recording.close()
    assert ["child", "parent"] == [line["call"] for line in lines(tmp_path / "calls.jsonl")[1:]]


def test_child_of_a_fork_rotates_after_the_parent_and_not_with_it(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "calls.jsonl", max_bytes=MIN_BYTES)
    for number in range(3):
        recording.take(call(call=f"c{number}", arguments={"text": "x y " * 10_000}))
    fcntl.flock(recording._fd, fcntl.LOCK_EX)  # the parent is about to rotate
    child = os.fork()
    if not child:
        recording.take(call(call="child", arguments={"text": "x y " * 10_000}))
        os._exit(0)
    time.sleep(0.3)
    assert ["calls.jsonl"] == [each.name for each in tmp_path.iterdir()]
    fcntl.flock(recording._fd, fcntl.LOCK_UN)
    assert 0 == os.waitpid(child, 0)[1]
    assert "child" == lines(tmp_path / "calls.jsonl")[-1]["call"]
    recording.close()


@pytest.mark.parametrize("more", [{}, {"outcome": "deny", "ended": ""}])
def test_arguments_that_are_too_large_make_no_result(tmp_path: Path, more: dict[str, Any]) -> None:
    recording = Recording(tmp_path / "calls.jsonl", results=bool(more))
    recording.take(call(arguments={"a": "x y " * 10_000, "b": "x y " * 10_000}, **more))
    recording.close()
    said = lines(tmp_path / "calls.jsonl")[-1]
    assert "[too large]" == said["args"]
    assert "result" not in said
