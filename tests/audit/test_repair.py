"""What a killed process leaves, and how a chain goes on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from agentguard._drive import drive
from agentguard.audit import segment
from agentguard.audit.log import FileLog
from agentguard.audit.verify import ChainBroken, TornLine, verify
from agentguard.errors import AuditBroken, AuditUnavailable
from tests.audit.samples import chained, only_file, record, records_in, written


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    log = FileLog(tmp_path)
    log.append(record(1))
    log.close()
    return only_file(tmp_path)


def tear(path: Path, torn: bytes = b'{"call":"call-2","cha') -> bytes:
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    return whole


def test_torn_last_line_is_named_so_with_the_command_that_repairs_it(closed: Path):
    tear(closed)

    with pytest.raises(TornLine, match=r"torn last line: the process was killed .*agentguard audit repair") as caught:
        verify(closed)
    assert (4, closed) == (caught.value.record, caught.value.path)


@pytest.mark.parametrize("torn", [b"{", b'{"call":"call-2","cha', b"\x00" * 3000, b"\xff\xfe"])
def test_repair_keeps_the_torn_bytes_and_records_them(closed: Path, torn: bytes):
    whole = tear(closed, torn)

    repaired = FileLog.repair(closed)

    digest = hashlib.sha256(torn).hexdigest()
    assert repaired is not None
    assert repaired.torn is not None
    assert (torn, len(torn), digest) == (repaired.torn.read_bytes(), repaired.size, repaired.sha256)
    assert closed.read_bytes().startswith(whole)
    last = records_in(closed)[-1]
    assert ("log.repaired", len(torn), digest, repaired.torn.name) == tuple(
        last[name] for name in ("event", "bytes", "sha256", "torn")
    )
    assert 4 == verify(closed).records


def test_whole_last_record_without_its_newline_is_torn_too(closed: Path):
    closed.write_bytes(closed.read_bytes()[:-1])

    with pytest.raises(TornLine):
        verify(closed)
    FileLog.repair(closed)
    assert "log.repaired" == records_in(closed)[-1]["event"]
    assert 3 == verify(closed).records


def test_second_repair_keeps_the_first_torn_bytes(closed: Path):
    for torn in (b"{1", b"{2"):
        tear(closed, torn)
        FileLog.repair(closed)

    kept = sorted(closed.parent.glob("*.torn*"))
    assert [b"{1", b"{2"] == [path.read_bytes() for path in kept]


def test_whole_log_needs_no_repair_and_is_not_touched(closed: Path):
    before = closed.read_bytes()

    assert FileLog.repair(closed) is None
    assert before == closed.read_bytes()


def test_broken_record_cannot_be_repaired_and_nothing_is_touched(closed: Path):
    tear(closed)
    changed = closed.read_bytes().replace(b"refund", b"reFund")
    closed.write_bytes(changed)

    with pytest.raises(AuditBroken, match="hash does not match"):
        FileLog.repair(closed)
    assert changed == closed.read_bytes()


@pytest.mark.parametrize("content", [b"", b'{"chain":'])
def test_file_without_a_whole_record_is_set_aside(tmp_path: Path, content: bytes):
    path = written(tmp_path, [content])
    with pytest.raises(TornLine, match="killed"):
        verify(path)

    repaired = FileLog.repair(path)

    assert repaired is not None
    assert repaired.position is None
    assert (False, content) == (path.exists(), (tmp_path / f"{path.name}.torn").read_bytes())


def test_reopened_log_continues_its_chain(closed: Path):
    log = FileLog.reopen(closed)
    position = log.append(record(2))
    log.close()

    assert ["log.closed", "log.opened", "call.permitted", "log.closed"] == [r["event"] for r in records_in(closed)[2:]]
    assert 5 == position.seq
    assert (1, 1, 6) == (verify(closed).chains, verify(closed).files, verify(closed).records)


def test_reopening_repairs_a_torn_line_first(closed: Path):
    tear(closed)

    FileLog.reopen(closed).close()

    assert ["log.repaired", "log.opened", "log.closed"] == [each["event"] for each in records_in(closed)[3:]]
    assert 6 == verify(closed).records


def test_log_that_does_not_verify_is_not_continued(closed: Path):
    closed.write_bytes(closed.read_bytes().replace(b"refund", b"reFund"))

    with pytest.raises(AuditBroken):
        FileLog.reopen(closed)


def test_rotated_file_is_not_continued_its_follower_is(tmp_path: Path):
    log = FileLog(tmp_path, max_bytes=4096)
    old = only_file(tmp_path)
    log.append(record(1, text="x" * 4096))
    log.append(record(2))
    log.close()
    (follower,) = set(tmp_path.iterdir()) - {old}

    with pytest.raises(AuditUnavailable, match=follower.name):
        FileLog.reopen(old)
    FileLog.reopen(follower).close()

    assert (1, 2) == (verify(tmp_path).chains, verify(tmp_path).files)


@pytest.mark.parametrize("torn", [b"", b'{"torn":'])
def test_file_that_failed_on_disk_is_not_continued_where_its_chain_went_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bytes
):
    def fails(fd: int) -> None:
        raise OSError(5, "I/O error")

    log = FileLog(tmp_path)
    with monkeypatch.context() as disk:
        disk.setattr(segment, "_sync_file", fails)
        with pytest.raises(AuditUnavailable):
            drive(log.flush(log.append(record())))
    log.append(record())
    log.close()
    first = min(tmp_path.iterdir())
    first.write_bytes(first.read_bytes() + torn)
    before = first.read_bytes()

    with pytest.raises(AuditUnavailable, match="continues in"):
        FileLog.reopen(first)
    if torn:
        with pytest.raises(AuditUnavailable, match="continues in"):
            FileLog.repair(first)
    else:
        assert FileLog.repair(first) is None
        verify(tmp_path)
    assert before == first.read_bytes()


def test_file_that_was_never_begun_at_rotation_is_begun_by_a_repair(tmp_path: Path):
    log = FileLog(tmp_path, max_bytes=4096)
    old = only_file(tmp_path)
    log.append(record(1, text="x" * 4096))
    log.append(record(2))
    log.close()
    (follower,) = set(tmp_path.iterdir()) - {old}
    follower.unlink()
    with pytest.raises(ChainBroken, match=f"continues in '{follower.name}', which is missing"):
        verify(old)

    repaired = FileLog.repair(old)

    assert repaired is not None
    assert follower.name == repaired.recreated
    assert ["log.opened", "log.repaired"] == [each["event"] for each in records_in(follower)]
    assert 2 == verify(tmp_path).files


def test_file_name_that_leads_elsewhere_is_not_followed(tmp_path: Path):
    from agentguard.model.record import Event, Record

    (tmp_path / "inside").mkdir()
    path = written(tmp_path / "inside", chained([record(1), Record(Event.LOG_ROTATED, {"next": "../audit-x.jsonl"})]))
    written(tmp_path, [b"{}\n"], "audit-x.jsonl")

    with pytest.raises(ChainBroken, match="missing"):
        verify(path)
    assert FileLog.repair(path) is None


def test_missing_file_and_directory_are_clear_errors(tmp_path: Path):
    with pytest.raises(AuditUnavailable, match="No such file"):
        FileLog.repair(tmp_path / "audit-none.jsonl")
    with pytest.raises(AuditUnavailable, match="directory"):
        FileLog.repair(tmp_path)


def test_link_is_not_followed(tmp_path: Path, closed: Path):
    link = tmp_path / "audit-link.jsonl"
    link.symlink_to(closed)

    with pytest.raises(AuditUnavailable):
        FileLog.reopen(link)
