"""The log in memory."""

from __future__ import annotations

import threading

import pytest

from agentguard._drive import drive
from agentguard.audit.chain import ZEROS
from agentguard.audit.memory import MemoryLog
from agentguard.audit.verify import verify
from agentguard.errors import AuditUnavailable, ConfigurationError
from agentguard.ports import AuditSink
from tests.audit.samples import calls, record, written


def test_memory_log_is_an_audit_sink():
    sink: AuditSink = MemoryLog()

    assert isinstance(sink, AuditSink)
    assert sink.suspends is False


def test_records_are_chained_as_in_a_file(tmp_path):
    log = MemoryLog()
    positions = [log.append(record(n)) for n in range(3)]

    path = written(tmp_path, (line for _, line in log.kept))

    assert ZEROS == log.records[0]["prev"]
    assert [p.hash for p in positions] == [r["hash"] for r in log.records]
    assert positions[-1] == verify(path).heads[0]


def test_only_the_last_records_are_kept():
    log = MemoryLog(keep=3)

    for n in range(5):
        log.append(record(n))

    assert ["call-2", "call-3", "call-4"] == calls(log.records)
    assert [3, 4, 5] == [each["seq"] for each in log.records]


def test_changing_what_was_read_changes_nothing_in_the_log():
    log = MemoryLog()
    log.append(record(1, args={"a": [1]}))

    log.records[0]["args"]["a"].append(2)

    assert {"a": [1]} == log.records[0]["args"]


def test_record_that_cannot_be_written_leaves_no_trace():
    log = MemoryLog()

    with pytest.raises(AuditUnavailable):
        log.append(record(1, amount=1.5))

    assert () == log.records
    assert 1 == log.append(record(2)).seq


def test_flush_returns_at_once_and_close_refuses_more():
    log = MemoryLog()
    position = log.append(record(1))

    drive(log.flush(position))
    log.close()
    log.close()

    with pytest.raises(AuditUnavailable, match="closed"):
        log.append(record(2))
    assert ["call-1"] == calls(log.records)


def test_a_log_that_keeps_nothing_is_a_mistake():
    with pytest.raises(ConfigurationError, match="keep is 0"):
        MemoryLog(keep=0)


def test_threads_leave_no_gap_and_no_double():
    log = MemoryLog()
    threads = [threading.Thread(target=lambda: [log.append(record(n)) for n in range(100)]) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert list(range(1, 801)) == [each["seq"] for each in log.records]
