"""Several sinks as one: all that are mandatory take a record, or it counts for nothing."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path

import pytest

from agentguard._drive import drive
from agentguard.audit import segment
from agentguard.audit.fan_out import FanOut
from agentguard.audit.log import FileLog
from agentguard.audit.memory import MemoryLog
from agentguard.audit.verify import verify
from agentguard.errors import AuditUnavailable, ConfigurationError
from agentguard.model.record import Position, Record
from agentguard.ports import AuditSink
from tests.audit.samples import calls, only_file, record, records_in
from tests.audit.test_fork_and_kill import in_child


class Sink:
    """A sink that refuses while it is broken."""

    suspends = False

    def __init__(self) -> None:
        self.broken: Exception | None = None
        self.records: list[Record] = []
        self.flushed: list[Position] = []
        self.closed = False

    def append(self, record: Record) -> Position:
        if self.broken is not None:
            raise self.broken
        self.records.append(record)
        return Position("s" * 32, len(self.records), "0" * 64)

    async def flush(self, position: Position) -> None:
        if self.broken is not None:
            raise self.broken
        self.flushed.append(position)

    def close(self) -> None:
        self.closed = True
        if self.broken is not None:
            raise self.broken


@pytest.fixture
def first() -> MemoryLog:
    return MemoryLog()


@pytest.fixture
def second() -> Sink:
    return Sink()


def test_fan_out_is_an_audit_sink(first: MemoryLog, second: Sink) -> None:
    sink: AuditSink = FanOut([first, second])

    assert isinstance(sink, AuditSink)
    assert sink.suspends is False


def test_record_stands_in_all_sinks_and_where_the_first_one_says(first: MemoryLog, second: Sink) -> None:
    position = FanOut([first], [second]).append(record(1))

    assert (first.kept[-1][0], 1) == (position, len(second.records))


@pytest.mark.control("all mandatory sinks")
@pytest.mark.parametrize("error", [AuditUnavailable("disk"), OSError(errno.ENOSPC, "No space left"), TypeError("x")])
def test_record_that_one_mandatory_sink_refuses_is_refused(first: MemoryLog, second: Sink, error: Exception) -> None:
    sink = FanOut([first, second])
    second.broken = error

    with pytest.raises(AuditUnavailable):
        sink.append(record(1))


def test_optional_sink_may_fail_and_that_is_logged_once(
    first: MemoryLog, second: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    sink = FanOut([first], [second])
    second.broken = OSError("host is down")
    for n in range(3):
        sink.append(record(n))
    second.broken = None
    sink.append(record(3))

    assert [4, 1] == [first.kept[-1][0].seq, len(second.records)]
    assert ["ERROR", "WARNING"] == [each.levelname for each in caplog.records]


@pytest.mark.control("all mandatory sinks")
def test_durable_means_durable_in_every_mandatory_sink(first: MemoryLog, second: Sink) -> None:
    sink = FanOut([first, second])
    position = sink.append(record(1))
    drive(sink.flush(position))
    assert [1] == [each.seq for each in second.flushed]
    second.broken = OSError("disk")

    with pytest.raises(AuditUnavailable, match="not durable"):
        drive(sink.flush(position))


def test_position_from_elsewhere_is_not_durable(first: MemoryLog, second: Sink) -> None:
    with pytest.raises(AuditUnavailable):
        drive(FanOut([first, second]).flush(Position("x" * 32, 1, "0" * 64)))


def test_closing_closes_all_and_tells_of_a_mandatory_one(
    first: MemoryLog, second: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    second.broken = OSError("disk")
    third = Sink()
    with pytest.raises(AuditUnavailable, match="disk"):
        FanOut([second, third, first]).close()
    assert third.closed
    FanOut([third], [second]).close()
    assert "did not close" in caplog.text


@pytest.mark.parametrize("mandatory", [0, 2])
def test_no_mandatory_sink_or_one_twice_is_a_mistake(first: MemoryLog, mandatory: int) -> None:
    with pytest.raises(ConfigurationError, match="sink"):
        FanOut([first] * mandatory, [first] * (1 - mandatory // 2))


def test_fan_out_is_as_far_behind_as_the_last_of_those_that_must_have_it(tmp_path: Path, first: MemoryLog) -> None:
    ahead, late = FileLog(tmp_path / "a"), FileLog(tmp_path / "b")
    with closing(FanOut([ahead, first, late], [FileLog(tmp_path / "c")])) as fan:
        positions = [fan.append(record(number)) for number in range(2)]
        found = [fan.behind()]
        drive(fan.flush(positions[-1]))
        found.append(fan.behind())
        late.append(record(2))
        found.append(fan.behind())

    assert [2, 0, 1] == found
    assert 0 == FanOut([first]).behind()


def test_two_files_have_the_same_records_in_the_same_order(tmp_path: Path) -> None:
    sink = FanOut([FileLog(tmp_path / "a"), FileLog(tmp_path / "b")])
    for n in range(5):
        drive(sink.flush(sink.append(record(n))))
    sink.close()

    one, other = (calls(records_in(only_file(tmp_path / name))) for name in "ab")
    assert one == other == [f"call-{n}" for n in range(5)]


def test_forked_child_writes_chains_of_its_own_everywhere(tmp_path: Path) -> None:
    sink = FanOut([FileLog(tmp_path / "a"), FileLog(tmp_path / "b")])

    def child() -> None:
        drive(sink.flush(sink.append(record(1))))
        sink.close()

    in_child(child)
    sink.close()

    assert [2, 2] == [verify(tmp_path / name).chains for name in "ab"]


# What a disk and a clock do to a log ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_disk_that_fails_stops_the_record_and_the_log_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    log = FileLog(tmp_path)

    def fail(fd: int, data: bytes) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(segment, "_write", fail)
        with pytest.raises(AuditUnavailable, match=os.strerror(code)):
            log.append(record(1))
    log.append(record(2))
    log.close()

    assert 3 == verify(tmp_path).records
    assert ["call-2"] == calls(records_in(only_file(tmp_path)))


def test_clock_that_goes_back_changes_no_order(tmp_path: Path) -> None:
    times = iter(range(2_000_000_000_000_000_000, 0, -60_000_000_000))
    log = FileLog(tmp_path, max_bytes=4096, clock=lambda: next(times))
    for n in range(12):
        log.append(record(n, text="x" * 900))
    log.close()

    found = verify(tmp_path)
    assert (1, True) == (found.chains, found.files > 2)
    assert found.first < found.last
    ordered = sorted((each for path in tmp_path.iterdir() for each in records_in(path)), key=lambda each: each["seq"])
    assert [f"call-{n}" for n in range(12)] == calls(ordered)
