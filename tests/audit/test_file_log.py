"""The log in files: where records go, rotation, closing, and what a failing disk does."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentguard._drive import drive
from agentguard.audit import segment
from agentguard.audit.chain import MAX_LINE, ZEROS
from agentguard.audit.log import MIN_BYTES, FileLog
from agentguard.audit.verify import verify
from agentguard.errors import AuditUnavailable, ConfigurationError
from agentguard.model.record import Event
from agentguard.ports import AuditSink
from tests.audit.samples import NOW, calls, only_file, record, records_in

LINE = 5000  # bytes that the records of the rotation tests have, or a little more


@pytest.fixture
def log(tmp_path: Path) -> Iterator[FileLog]:
    log = FileLog(tmp_path / "audit")
    yield log
    try:
        log.close()
    except AuditUnavailable:
        pass


@pytest.fixture
def path(log: FileLog, tmp_path: Path) -> Path:
    return only_file(tmp_path / "audit")


def test_file_log_is_an_audit_sink(log: FileLog):
    sink: AuditSink = log

    assert isinstance(sink, AuditSink)
    assert sink.suspends is False


def test_directory_and_file_are_for_the_owner_only(path: Path):
    assert 0o700 == stat.S_IMODE(path.parent.stat().st_mode)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_file_is_named_for_its_time_process_and_chain(tmp_path: Path):
    FileLog(tmp_path, clock=lambda: NOW).close()

    name = re.fullmatch(r"audit-20261121T222640\.123456Z-(\d+)-([0-9a-f]{32})\.jsonl", only_file(tmp_path).name)
    assert name is not None
    assert (str(os.getpid()), records_in(only_file(tmp_path))[0]["chain"]) == name.groups()


def test_first_record_says_which_process_writes(path: Path):
    (opened,) = records_in(path)

    assert ("log.opened", 1, ZEROS, os.getpid()) == tuple(opened[name] for name in ("event", "seq", "prev", "pid"))
    assert opened["version"]


def test_record_is_in_the_file_when_append_returns(log: FileLog, path: Path):
    position = log.append(record(1))

    last = records_in(path)[-1]
    assert (position.chain, position.seq, position.hash) == (last["chain"], last["seq"], last["hash"])
    assert f"{position.chain}:2" == position.id


def test_two_logs_in_one_directory_are_two_chains(tmp_path: Path):
    first, second = FileLog(tmp_path), FileLog(tmp_path)

    first.append(record(1))
    second.append(record(2))
    first.close()
    second.close()

    assert 2 == verify(tmp_path).chains


def test_refused_record_leaves_no_gap(log: FileLog, path: Path):
    with pytest.raises(AuditUnavailable):
        log.append(record(1, amount=1.5))

    assert 2 == log.append(record(2)).seq
    assert 2 == verify(path).records


def test_close_writes_a_last_record_once_and_refuses_more(log: FileLog, path: Path):
    position = log.append(record(1))
    log.close()
    log.close()

    assert ["log.opened", "call.permitted", "log.closed"] == [each["event"] for each in records_in(path)]
    with pytest.raises(AuditUnavailable, match="closed"):
        log.append(record(2))
    drive(log.flush(position))


def test_max_bytes_that_hold_no_record_are_a_mistake(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="max_bytes"):
        FileLog(tmp_path, max_bytes=100)


def test_full_file_is_followed_by_another_one_of_the_same_chain(tmp_path: Path):
    log = FileLog(tmp_path, max_bytes=4096)
    positions = [log.append(record(n, text="x" * 2000)) for n in range(7)]
    drive(log.flush(positions[-1]))
    log.close()

    found = verify(tmp_path)
    assert (1, 4) == (found.chains, found.files)
    assert 3 == found.events["log.rotated"]
    assert list(range(7)) == sorted(int(call[5:]) for path in tmp_path.iterdir() for call in calls(records_in(path)))
    assert all(path.stat().st_size < 4096 + 2 * LINE for path in tmp_path.iterdir())


def test_rotated_file_and_its_follower_name_each_other(tmp_path: Path):
    log = FileLog(tmp_path, max_bytes=4096)
    old = only_file(tmp_path)
    log.append(record(1, text="x" * 4096))
    log.append(record(2))
    log.close()

    rotated = records_in(old)[-1]
    opened, follower = records_in(tmp_path / rotated["next"])[:2]
    assert ("log.rotated", "log.opened") == (rotated["event"], opened["event"])
    assert (old.name, rotated["seq"] + 1, rotated["hash"]) == (opened["continues"], opened["seq"], opened["prev"])
    assert "call-2" == follower["call"]


def test_threads_write_in_order_without_gaps_and_share_their_syncs(log: FileLog, path: Path, count_syncs: list[int]):
    def work() -> None:
        for n in range(200):
            drive(log.flush(log.append(record(n))))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert list(range(1, 1602)) == [each["seq"] for each in records_in(path)]
    assert 1601 == verify(path).records
    assert len(count_syncs) <= 1600 * 0.5


def test_threads_that_wait_during_one_sync_share_the_next(log: FileLog, monkeypatch: pytest.MonkeyPatch):
    syncs: list[int] = []

    def until_all_have_appended(fd: int) -> None:
        syncs.append(fd)
        deadline = time.monotonic() + 10
        while log._segment is not None and log._segment.head.seq < 33 and time.monotonic() < deadline:
            time.sleep(0.001)

    monkeypatch.setattr(segment, "_sync_file", until_all_have_appended)
    threads = [threading.Thread(target=lambda: drive(log.flush(log.append(record(1))))) for _ in range(32)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(syncs) <= 2


@pytest.fixture
def count_syncs(monkeypatch: pytest.MonkeyPatch, log: FileLog) -> list[int]:
    counted: list[int] = []
    real = segment._sync_file

    def counting(fd: int) -> None:
        counted.append(fd)
        real(fd)

    monkeypatch.setattr(segment, "_sync_file", counting)
    return counted


def test_one_caller_pays_one_sync_a_flush_and_none_for_what_is_durable(log: FileLog, count_syncs: list[int]):
    positions = [log.append(record(n)) for n in range(3)]

    for position in reversed(positions):
        drive(log.flush(position))

    assert 1 == len(count_syncs)
    drive(log.flush(log.append(record(3))))
    assert 2 == len(count_syncs)


def test_position_of_another_log_is_not_durable_here(log: FileLog, tmp_path: Path):
    other = FileLog(tmp_path / "other")
    foreign = other.append(record(1))
    other.close()

    with pytest.raises(AuditUnavailable, match="another process"):
        drive(log.flush(foreign))


# A failing disk: no record, no action; and nothing half-written stays.


def failing(error: int) -> Any:
    def fail(*arguments: object) -> None:
        raise OSError(error, os.strerror(error))

    return fail


def test_failed_write_is_an_error_and_leaves_nothing(log: FileLog, path: Path, monkeypatch: pytest.MonkeyPatch):
    before = path.read_bytes()
    monkeypatch.setattr(segment, "_write", failing(errno.EIO))

    with pytest.raises(AuditUnavailable, match="cannot write"):
        log.append(record(1))

    monkeypatch.undo()
    assert before == path.read_bytes()
    assert 2 == log.append(record(2)).seq
    assert 2 == verify(path).records


def test_short_write_is_an_error_and_leaves_nothing(log: FileLog, path: Path, monkeypatch: pytest.MonkeyPatch):
    before = path.read_bytes()
    monkeypatch.setattr(segment, "_write", lambda fd, line: os.write(fd, line[:50]))

    with pytest.raises(AuditUnavailable, match="only a part"):
        log.append(record(1))

    monkeypatch.undo()
    assert before == path.read_bytes()
    assert 2 == log.append(record(2)).seq


def test_write_that_fails_half_way_leaves_nothing(log: FileLog, path: Path, monkeypatch: pytest.MonkeyPatch):
    def half(fd: int, line: bytes) -> int:
        os.write(fd, line[:50])
        raise OSError(errno.EIO, "broken disk")

    before = path.read_bytes()
    monkeypatch.setattr(segment, "_write", half)

    with pytest.raises(AuditUnavailable, match="broken disk"):
        log.append(record(1))

    assert before == path.read_bytes()


def test_half_record_that_cannot_be_removed_stops_the_log_until_it_can(
    log: FileLog, path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(segment, "_truncate", failing(errno.EIO))
        patch.setattr(segment, "_write", lambda fd, line: os.write(fd, line[:50]))
        with pytest.raises(AuditUnavailable, match="only a part"):
            log.append(record(1))
        patch.setattr(segment, "_write", os.write)
        with pytest.raises(AuditUnavailable, match="half-written"):
            log.append(record(2))

    assert 2 == log.append(record(3)).seq
    assert ["call-3"] == calls(records_in(path))


def test_interrupted_append_is_undone_by_the_next_one(log: FileLog, path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(fd: int, line: bytes) -> int:
        os.write(fd, line)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(segment, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log.append(record(1))

    assert 2 == log.append(record(2)).seq
    assert ["call-2"] == calls(records_in(path))
    assert 2 == verify(path).records


def test_interrupted_rotation_is_undone_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = FileLog(tmp_path, max_bytes=MIN_BYTES)
    first = only_file(tmp_path)
    while first.stat().st_size < MIN_BYTES:
        log.append(record())

    def interrupted(fd: int, line: bytes) -> int:
        os.write(fd, line[:50])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(segment, "_write", interrupted)
        patch.setattr(segment, "_truncate", failing(errno.EIO))
        with pytest.raises(KeyboardInterrupt):
            log.append(record())
    log.append(record())
    log.close()

    assert "log.rotated" == records_in(first)[-1]["event"]
    assert 2 == len([*tmp_path.glob("audit-*.jsonl")])


def test_file_that_is_poisoned_during_a_failing_write_takes_no_more(
    log: FileLog, path: Path, monkeypatch: pytest.MonkeyPatch
):
    def half(fd: int, line: bytes) -> int:
        assert log._segment is not None
        with pytest.raises(AuditUnavailable):
            log._segment.sync()  # as another thread may
        return os.write(fd, line[:50])

    with monkeypatch.context() as patch:
        patch.setattr(segment, "_sync_file", failing(errno.EIO))
        patch.setattr(segment, "_write", half)
        with pytest.raises(AuditUnavailable, match="only a part"):
            log.append(record(1))
    log.append(record(2))

    assert [] == calls(records_in(path))
    assert ["call-2"] == [call for file in path.parent.glob("audit-*.jsonl") for call in calls(records_in(file))]


def test_file_that_is_continued_is_followed_by_another_one_when_it_is_full(log: FileLog, path: Path):
    log.close()
    again = FileLog.reopen(path, max_bytes=MIN_BYTES)
    while path.stat().st_size < MIN_BYTES:
        again.append(record())
    again.append(record(2))
    last = records_in(path)[-1]["event"]
    again.close()

    assert "log.rotated" == last


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_is_an_error(log: FileLog, path: Path):
    assert log._segment is not None
    fd = log._segment._fd
    kept, full = os.dup(fd), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, fd)
    try:
        with pytest.raises(AuditUnavailable, match="No space left"):
            log.append(record(1))
    finally:
        os.dup2(kept, fd)
        os.close(kept)
        os.close(full)

    assert 2 == log.append(record(2)).seq
    assert 2 == verify(path).records


def test_file_size_limit_is_an_error_and_the_half_record_is_removed(log: FileLog, path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = path.read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, hard))
    try:
        with pytest.raises(AuditUnavailable):
            log.append(record(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert before == path.read_bytes()


def test_file_that_is_closed_under_the_log_is_an_error(log: FileLog):
    assert log._segment is not None
    log._segment.close()

    with pytest.raises(AuditUnavailable, match="Bad file descriptor"):
        log.append(record(1))


def test_directory_that_is_a_file_is_an_error(tmp_path: Path):
    (tmp_path / "audit").write_text("")

    with pytest.raises(AuditUnavailable, match="cannot use this directory"):
        FileLog(tmp_path / "audit")


def test_directory_that_may_not_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = os.open

    def read_only(path: Any, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)

    with pytest.raises(AuditUnavailable, match="Read-only file system"):
        FileLog(tmp_path)


def test_removed_directory_is_found_at_the_next_flush_and_at_rotation(tmp_path: Path):
    log = FileLog(tmp_path / "audit", max_bytes=4096)
    position = log.append(record(1))
    shutil.rmtree(tmp_path / "audit")

    with pytest.raises(AuditUnavailable, match="removed"):
        drive(log.flush(position))
    with pytest.raises(AuditUnavailable, match="No such file"):
        log.append(record(2))
    with pytest.raises(AuditUnavailable):
        log.close()


def test_file_that_somebody_shortened_is_found_at_the_next_flush(log: FileLog, path: Path):
    position = log.append(record(1))
    os.truncate(path, 10)

    with pytest.raises(AuditUnavailable, match="shortened"):
        drive(log.flush(position))


def test_failed_sync_poisons_the_file_and_the_log_goes_on_in_another(
    log: FileLog, path: Path, monkeypatch: pytest.MonkeyPatch
):
    durable = log.append(record(1))
    drive(log.flush(durable))
    lost = [log.append(record(2)), log.append(record(3))]
    with monkeypatch.context() as patch:
        patch.setattr(segment, "_sync_file", failing(errno.EIO))
        with pytest.raises(AuditUnavailable, match="durable"):
            drive(log.flush(lost[0]))

    for position in lost:  # the disk works again, which proves nothing about these
        with pytest.raises(AuditUnavailable):
            drive(log.flush(position))
    after = log.append(record(4))
    drive(log.flush(after))
    drive(log.flush(durable))
    for position in lost:
        with pytest.raises(AuditUnavailable, match="may be lost"):
            drive(log.flush(position))
    log.close()

    (follower,) = set(path.parent.iterdir()) - {path}
    opened = records_in(follower)[0]
    assert (path.name, lost[0].seq) == (opened["continues"], opened["not_durable_from"])
    assert (1, 2) == (verify(path).chains, verify(follower).files)


def test_rotation_that_fails_is_tried_again_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = FileLog(tmp_path, max_bytes=4096)
    log.append(record(1, text="x" * 4096))
    with monkeypatch.context() as patch:
        patch.setattr(segment.Segment, "create", failing(errno.EMFILE))
        for n in range(3):
            with pytest.raises(OSError, match="Too many"):
                log.append(record(n))

    log.append(record(2))
    log.close()

    found = verify(tmp_path)
    assert (2, 1) == (found.files, found.events["log.rotated"])
    assert 2 == found.events[Event.CALL_PERMITTED]


def test_first_record_that_cannot_be_made_durable_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(segment, "_sync_file", failing(errno.EIO))

    with pytest.raises(AuditUnavailable):
        FileLog(tmp_path)

    assert [] == list(tmp_path.iterdir())


def test_record_longer_than_a_reader_holds_is_refused(log: FileLog, path: Path):
    with pytest.raises(AuditUnavailable, match="1 MiB"):
        log.append(record(1, texts=["x" * 4000] * (MAX_LINE // 4000 + 1)))

    assert 1 == verify(path).records


def test_clock_that_fails_stops_the_record(tmp_path: Path):
    times = [NOW, NOW]
    log = FileLog(tmp_path, clock=lambda: times.pop())

    with pytest.raises(IndexError):
        log.append(record(1))

    assert 1 == verify(tmp_path).records
