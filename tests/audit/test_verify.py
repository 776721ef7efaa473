"""Verification: any change inside a chain is found, and the first broken record is named."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentguard.audit import chain
from agentguard.audit.chain import FRESH, MAX_LINE, link, start
from agentguard.audit.log import FileLog
from agentguard.audit.segment import Segment
from agentguard.audit.verify import ChainBroken, TornLine, verify
from agentguard.errors import AuditBroken
from agentguard.model.record import Event, Record
from tests.audit.samples import NOW, chained, only_file, record, records_in, written

edits = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
lengths = st.integers(1, 20)


def broken_at(directory: Path, lines: list[bytes]) -> int:
    with pytest.raises(AuditBroken) as caught:
        verify(written(directory, lines))
    return caught.value.record


def chain_of(length: int) -> list[bytes]:
    return chained(record(n, shown="é\n" * (n % 3)) for n in range(length))


@given(length=lengths)
@edits
def test_untouched_chain_verifies(tmp_path: Path, length: int):
    found = verify(written(tmp_path, chain_of(length)))

    assert (length, 1, 1, length) == (found.records, found.chains, found.files, found.heads[0].seq)


@given(length=lengths, data=st.data())
@edits
def test_flipped_bit_is_found_in_its_record(tmp_path: Path, length: int, data: st.DataObject):
    lines = chain_of(length)
    n = data.draw(st.integers(0, length - 1))
    at, bit = data.draw(st.integers(0, len(lines[n]) - 1)), data.draw(st.integers(0, 7))
    lines[n] = lines[n][:at] + bytes([lines[n][at] ^ 1 << bit]) + lines[n][at + 1 :]

    assert n + 1 == broken_at(tmp_path, lines)


@given(length=st.integers(2, 20), data=st.data())
@edits
def test_dropped_record_is_found_where_it_stood(tmp_path: Path, length: int, data: st.DataObject):
    lines = chain_of(length)
    n = data.draw(st.integers(0, length - 2))  # the last one: only a checkpoint kept elsewhere can tell
    del lines[n]

    assert n + 1 == broken_at(tmp_path, lines)


@given(length=st.integers(2, 20), data=st.data())
@edits
def test_swapped_records_are_found_at_the_first_of_them(tmp_path: Path, length: int, data: st.DataObject):
    lines = chain_of(length)
    a, b = sorted(data.draw(st.lists(st.integers(0, length - 1), min_size=2, max_size=2, unique=True)))
    lines[a], lines[b] = lines[b], lines[a]

    assert a + 1 == broken_at(tmp_path, lines)


@given(length=lengths, data=st.data())
@edits
def test_repeated_record_is_found_where_it_was_put(tmp_path: Path, length: int, data: st.DataObject):
    lines = chain_of(length)
    source, at = data.draw(st.integers(0, length - 1)), data.draw(st.integers(0, length))
    # Put before itself a copy is the record; the original behind it is the one too many.
    lines.insert(at, lines[source])

    assert (at + 2 if source == at else at + 1) == broken_at(tmp_path, lines)


@given(length=lengths, data=st.data())
@edits
def test_record_spliced_in_from_another_chain_is_found(tmp_path: Path, length: int, data: st.DataObject):
    lines = chain_of(length)
    other = chained((record(n) for n in range(21)), chain="d" * 32)
    at = data.draw(st.integers(1, length))
    lines.insert(at, other[data.draw(st.sampled_from([at, 0, 20]))])

    assert at + 1 == broken_at(tmp_path, lines)


@given(length=lengths, data=st.data())
@edits
def test_inserted_bytes_are_found(tmp_path: Path, length: int, data: st.DataObject):
    lines = chain_of(length)
    n = data.draw(st.integers(0, length - 1))
    at = data.draw(st.integers(0, len(lines[n]) - 1))
    inserted = data.draw(st.binary(min_size=1, max_size=3))
    behind = lines[n][at:] == b"\n" == inserted[:1]  # the record ends as it did, and a line too many follows
    lines[n] = lines[n][:at] + inserted + lines[n][at:]

    assert n + 1 + behind == broken_at(tmp_path, lines)


@given(length=st.integers(2, 20), data=st.data())
@edits
def test_tail_cut_at_a_line_is_not_found_by_the_chain_alone(tmp_path: Path, length: int, data: st.DataObject):
    kept = data.draw(st.integers(1, length - 1))

    assert kept == verify(written(tmp_path, chain_of(length)[:kept])).records


@given(length=lengths, data=st.data())
@edits
def test_tail_cut_inside_a_line_is_a_torn_line(tmp_path: Path, length: int, data: st.DataObject):
    lines = chain_of(length)
    lines[-1] = lines[-1][: data.draw(st.integers(1, len(lines[-1]) - 1))]

    with pytest.raises(TornLine) as caught:
        verify(written(tmp_path, lines))
    assert (length, sum(map(len, lines[:-1]))) == (caught.value.record, caught.value.size)


def test_every_reason_is_said(tmp_path: Path):
    lines = chain_of(4)
    other = chained([record(1, a=1), record(2), record(3)])
    cases = {
        "hash does not match its content": [lines[0], lines[1].replace(b"refund", b"reFund")],
        "seq is 3, expected 2": [lines[0], lines[2]],
        "prev is not the hash": [lines[0], other[1]],
        "not in RFC 8785 form": [lines[0], lines[1].replace(b":", b": ", 1)],
        "not JSON": [lines[0], b"{\n"],
        "seq is 2, expected 1": lines[1:],
        "longer than any record": [lines[0], b" " * MAX_LINE + b"\n"],
        "belongs to another chain": [lines[0], chained([record(1)], chain="d" * 32)[0]],
    }
    for why, edited in cases.items():
        with pytest.raises(ChainBroken, match=why):
            verify(written(tmp_path, edited))


def test_events_times_and_heads_are_reported(tmp_path: Path):
    found = verify(
        written(tmp_path, chained([record(1), record(1, Event.CALL_COMPLETED), record(2, Event.CALL_DENIED)]))
    )

    assert {"call.completed": 1, "call.denied": 1, "call.permitted": 1} == found.events
    assert ("2026-11-21T22:26:40.123456Z",) * 2 == (found.first, found.last)
    assert (found.heads[-1].hash, 3, 1) == (found.last_hash, found.heads[-1].seq, found.unclosed)


@pytest.mark.parametrize("outcome", [Event.CALL_COMPLETED, Event.CALL_FAILED, Event.CALL_CANCELLED])
def test_call_without_outcome_is_unknown_and_the_log_is_valid(tmp_path: Path, outcome: Event):
    found = verify(written(tmp_path, chained([record(1), record(2), record(3), record(2, outcome)])))

    assert 2 == found.unknown


def test_credential_without_an_end_is_outstanding(tmp_path: Path):
    def lease(event: Event, name: str) -> Record:
        return Record(event, {"lease": name})

    issued = [lease(Event.CREDENTIAL_ISSUED, name) for name in ("a", "b", "c")]
    ended = [lease(Event.CREDENTIAL_REVOKED, "b"), lease(Event.CREDENTIAL_REVOKE_FAILED, "c")]

    assert 2 == verify(written(tmp_path, chained(issued + ended))).outstanding


@pytest.fixture
def rotated(tmp_path: Path) -> list[Path]:
    """The files of one chain, in order."""
    log = FileLog(tmp_path, max_bytes=4096)
    for n in range(3):
        log.append(record(n, text="x" * (4096 if n < 2 else 1)))
    log.close()
    files = [path for path in tmp_path.iterdir() if records_in(path)[0]["seq"] == 1]
    while records_in(files[-1])[-1]["event"] == "log.rotated":
        files.append(tmp_path / records_in(files[-1])[-1]["next"])
    return files


def test_any_file_of_a_chain_stands_for_all_of_it(rotated: list[Path]):
    assert 3 == len(rotated)
    for path in (*rotated, rotated[0].parent):
        assert (3, 1, 0) == (verify(path).files, verify(path).chains, verify(path).unclosed)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_missing_file_of_a_rotated_chain_is_found(rotated: list[Path], missing: int):
    rotated[missing].unlink()

    for path in (rotated[0].parent, *(path for path in rotated if path.exists())):
        with pytest.raises(AuditBroken, match="missing"):
            verify(path)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_change_in_a_rotated_chain_is_counted_over_all_of_it(rotated: list[Path], at: int):
    before = sum(len(records_in(path)) for path in rotated[:at])
    content = rotated[at].read_bytes()
    rotated[at].write_bytes(content.replace(b"refund", b"reFund", 1))

    with pytest.raises(ChainBroken) as caught:
        verify(rotated[0].parent)
    assert (before + 2, 2, rotated[at]) == (caught.value.record, caught.value.line, caught.value.path)


def test_first_line_of_a_later_file_is_counted_over_the_chain_too(rotated: list[Path]):
    before = len(records_in(rotated[0]))
    rotated[1].write_bytes(b"?" + rotated[1].read_bytes())

    with pytest.raises(ChainBroken) as caught:
        verify(rotated[0].parent)
    assert (before + 1, rotated[1]) == (caught.value.record, caught.value.path)


def test_file_from_another_chain_in_place_of_a_rotated_one_is_found(rotated: list[Path], tmp_path: Path):
    written(tmp_path, chain_of(3), rotated[1].name)

    with pytest.raises(AuditBroken, match="another chain"):
        verify(rotated[0])


def test_copy_of_a_later_file_under_another_name_is_found(rotated: list[Path], tmp_path: Path):
    shutil.copy(rotated[1], tmp_path / "audit-copy.jsonl")

    for path in (tmp_path, tmp_path / "audit-copy.jsonl"):
        with pytest.raises(AuditBroken, match="does not lead to it"):
            verify(path)
    assert 3 == verify(rotated[0]).files


def test_directory_is_verified_with_all_its_chains(tmp_path: Path):
    for name in "abc":
        written(tmp_path, chained([record(1), record(2)], chain=name * 32), f"audit-{name}.jsonl")
    assert (3, 6, 3) == (verify(tmp_path).chains, verify(tmp_path).records, verify(tmp_path).files)

    (tmp_path / "audit-b.jsonl").write_bytes(b"")

    with pytest.raises(TornLine, match="empty"):
        verify(tmp_path)
    assert 1 == verify(tmp_path / "audit-a.jsonl").chains


def test_nothing_to_verify_is_an_error(tmp_path: Path):
    for path in (tmp_path, tmp_path / "none", tmp_path / "none.jsonl"):
        with pytest.raises(FileNotFoundError):
            verify(path)


def test_memory_does_not_grow_with_the_log(tmp_path: Path):
    import tracemalloc

    def peak(length: int) -> int:
        pairs = (record(n // 2, Event.CALL_COMPLETED if n % 2 else Event.CALL_PERMITTED) for n in range(length))
        path = written(tmp_path, chained(pairs))
        tracemalloc.start()
        assert 0 == verify(path).unknown
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(100)
    assert peak(4000) < 1.5 * peak(400) + 100_000


def test_clock_that_goes_back_does_not_break_a_chain(tmp_path: Path):
    times = iter([NOW, NOW, NOW - 10**12, NOW - 10**12])
    log = FileLog(tmp_path, clock=lambda: next(times))
    log.append(record(1))
    log.close()

    found = verify(only_file(tmp_path))
    assert (3, True) == (found.records, found.first < found.last)


def test_two_chains_of_one_name_are_found(tmp_path: Path):
    lines = chain_of(5)
    written(tmp_path, lines, "audit-1.jsonl")
    written(tmp_path, chained([record(9)] * 5), "audit-0.jsonl")

    with pytest.raises(ChainBroken, match="in another file too") as caught:
        verify(tmp_path)
    assert "audit-1.jsonl" == caught.value.path.name


def test_line_that_a_living_process_is_writing_is_no_torn_one(tmp_path: Path):
    log = FileLog(tmp_path)
    log.append(record())
    with only_file(tmp_path).open("ab") as file:
        file.write(b'{"arg')

    found = verify(tmp_path)

    assert (2, 1) == (found.records, found.unclosed)
    log.close()
    with pytest.raises(ChainBroken):
        verify(tmp_path)


def test_first_record_that_a_living_process_is_writing_is_no_torn_one(tmp_path: Path):
    FileLog(tmp_path).close()
    file = tmp_path / "audit-20990101T000000Z-other-1.jsonl"
    writer = Segment.create(file, FRESH)
    with file.open("ab") as behind:
        behind.write(b'{"act')
    assert (1, 0) == (verify(tmp_path).chains, verify(tmp_path).unclosed)
    writer.close()
    with pytest.raises(ChainBroken, match="torn last line"):
        verify(tmp_path)


def test_file_that_a_process_has_just_made_is_waited_for(tmp_path: Path):
    file = tmp_path / "audit-1.jsonl"
    file.touch()

    def begin() -> None:
        line, _ = link(start("c" * 32), NOW, record())
        file.write_bytes(line)

    timer = threading.Timer(0.1, begin)
    timer.start()
    assert 1 == verify(tmp_path).records
    timer.join()


@pytest.mark.parametrize("begun", [False, True])
def test_file_that_a_living_process_is_about_to_begin_is_not_missing(tmp_path: Path, begun: bool):
    log = FileLog(tmp_path, max_bytes=4096)
    while len(list(tmp_path.iterdir())) == 1:
        log.append(record(shown="x" * 400))
    log.close()
    first, second = sorted(tmp_path.iterdir())
    second.unlink()
    if begun:
        second.touch()
    with pytest.raises(ChainBroken):
        verify(tmp_path)

    written_by = Segment.reopen(first, FRESH)
    assert 1 == verify(tmp_path).unclosed
    written_by.close()


@pytest.mark.parametrize(
    "time", ["soon", "2026-02-30T22:26:40.123456Z", "2026-11-21T22:26:40Z", "٢٠٢٦-11-21T22:26:40.123456Z"]
)
def test_time_that_is_none_is_found(tmp_path: Path, time: str):
    good, _ = link(start("c" * 32), NOW, record())
    members = {**json.loads(good), "time": time}
    line, _ = chain._seal(*({key: members[key] for key in members if key < "hash"},
                            {key: members[key] for key in members if key > "hash"}))  # fmt: skip
    with pytest.raises(ChainBroken, match="its time is none"):
        verify(written(tmp_path, [line]))
