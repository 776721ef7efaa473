"""Checkpoints of a growing log: when they are written, where to, and what they never do to an append."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from agentguard.audit import places
from agentguard.audit.chain import read as read_line
from agentguard.audit.checkpoint import Checkpoint, opened, read
from agentguard.audit.checkpoints import Checkpointer, Checkpoints
from agentguard.audit.log import FileLog
from agentguard.audit.neighbours import Neighbours, last_position
from agentguard.audit.note import NoteKey
from agentguard.audit.places import CheckpointFile, log_event
from agentguard.audit.trusted import Trusted
from agentguard.audit.verify import verify
from agentguard.cli.audit_proof import beside
from agentguard.errors import AuditUnavailable, ConfigurationError
from agentguard.keys import SigningKey
from agentguard.model.record import Position
from tests.audit.samples import chained, only_file, record
from tests.audit.samples import written as written_to
from tests.audit.test_fork_and_kill import in_child

KEY = SigningKey.generate("EdDSA")
NEVER = 3600.0


def settings(**given) -> Checkpoints:
    return Checkpoints(**{"key": KEY, "seconds": NEVER, **given})


PUBLIC: NoteKey = settings().public


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen in ten seconds"
        time.sleep(0.005)  # another thread writes


@pytest.fixture
def written() -> list[str]:
    return []


def sizes(notes: list[str]) -> list[int]:
    return [opened(note.encode(), PUBLIC).size for note in notes]


def holds(directory: Path, checkpoints: Path | None = None) -> int:
    trusted = Trusted(read(checkpoints or directory.with_name(f"{directory.name}.checkpoints"), PUBLIC))
    verify(directory, trusted)
    return trusted.finish(directory).checkpoints


def test_last_checkpoint_covers_the_whole_chain(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "audit", checkpoints=settings())
    for n in range(9):
        log.append(record(n))
    log.close()

    (last,) = read(tmp_path / "audit.checkpoints", PUBLIC)
    assert (11, "agentguard/" + only_file(tmp_path / "audit").stem[-32:]) == (last.size, last.origin)
    assert 1 == holds(tmp_path / "audit")


def test_checkpoint_is_due_every_so_many_records(tmp_path: Path, written: list[str]) -> None:
    log = FileLog(tmp_path, checkpoints=settings(every=5, to=written.append))
    for n in range(4):
        log.append(record(n))
    until(lambda: written)
    log.append(record(5))
    log.close()

    assert [5, 7] == sizes(written)


def test_checkpoint_is_due_so_long_after_a_record(tmp_path: Path, written: list[str]) -> None:
    log = FileLog(tmp_path, checkpoints=settings(seconds=0.02, to=written.append))
    until(lambda: written)
    log.append(record(1))
    until(lambda: len(written) == 2)
    log.close()

    assert [1, 2, 3] == sizes(written)


def test_idle_log_writes_none_and_keeps_no_thread(tmp_path: Path, written: list[str]) -> None:
    before = threading.active_count()
    log = FileLog(tmp_path, checkpoints=settings(seconds=0.01, to=written.append))
    until(lambda: written and threading.active_count() == before)
    log.append(record(1))
    until(lambda: len(written) == 2)
    log.close()

    assert [1, 2, 3] == sizes(written)


@pytest.mark.parametrize(("directory", "expected"), [(".", "log.checkpoints"), ("..", "desk.checkpoints")])
def test_log_of_the_working_directory_has_its_checkpoints_beside_it(
    tmp_path: Path, directory: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "desk" / "log").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "desk" / "log")
    log = FileLog(directory, checkpoints=settings())
    log.append(record(1))
    log.close()
    (found,) = tmp_path.rglob("*.checkpoints/*")
    assert expected == found.parent.name
    assert beside(Path(directory)) == found.parent


def test_checkpoints_of_a_rotated_chain_go_over_all_its_files(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "audit", max_bytes=4096, checkpoints=settings(every=3))
    for n in range(30):
        log.append(record(n, text="x" * 900))
    log.close()

    assert len(list((tmp_path / "audit").iterdir())) > 4
    found = verify(tmp_path / "audit")
    assert found.records == read(tmp_path / "audit.checkpoints", PUBLIC)[-1].size
    assert holds(tmp_path / "audit") >= 1


def test_checkpoints_of_a_continued_chain_begin_at_its_first_record(tmp_path: Path, written: list[str]) -> None:
    log = FileLog(tmp_path)
    log.append(record(1))
    log.close()
    again = FileLog.reopen(only_file(tmp_path), checkpoints=settings(to=[written.append, tmp_path / "kept"]))
    again.append(record(2))
    again.close()

    assert [6] == sizes(written)
    assert 1 == holds(tmp_path, tmp_path / "kept")


def test_chains_of_other_processes_are_tied_with_what_is_on_the_disk(tmp_path: Path, written: list[str]) -> None:
    other = FileLog(tmp_path)
    head = other.append(record(1))
    log = FileLog(tmp_path, checkpoints=settings(to=written.append))
    log.close()
    end = other.append(record(2))
    other.close()

    last = opened(written[-1].encode(), PUBLIC)
    assert (head,) == last.others
    assert end.seq == head.seq + 1


@pytest.mark.control("checkpoint after disk")
def test_chain_whose_last_record_cannot_be_made_durable_is_not_tied(
    tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    other, log = FileLog(tmp_path), FileLog(tmp_path, checkpoints=settings(to=written.append))
    monkeypatch.setattr("agentguard.audit.neighbours._sync_file", fail)
    log.close()
    other.close()

    assert () == opened(written[-1].encode(), PUBLIC).others


def test_last_whole_record_is_found_behind_long_and_torn_ones(tmp_path: Path) -> None:
    lines = chained([record(n, text=["x" * 4000] * n) for n in (0, 1, 5, 60, 1)])
    positions = [read_line(line, None)[1] for line in lines]
    for count in range(1, len(lines) + 1):
        path = written_to(tmp_path, [*lines[:count], b'{"torn":' + b"x" * 50_000])
        assert positions[count - 1] == last_position(path)
    for odd in ([], [b"nonsense\n"], [b"x" * 100], [b"\n"], [lines[0].replace(b"call-0", b"call-9")]):
        assert last_position(written_to(tmp_path, odd)) is None
    assert last_position(tmp_path / "none") is None


def test_at_most_64_chains_are_tied_those_that_were_written_last(tmp_path: Path) -> None:
    for number in range(70):
        name = f"audit-20261121T222640.123456Z-1-{number:032x}.jsonl"
        path = written_to(tmp_path, chained([record(1)], f"{number:032x}"), name)
        os.utime(path, ns=(number, number))

    found = Neighbours(tmp_path, "f" * 32).look()
    assert [f"{number:032x}" for number in range(6, 70)] == [position.chain for position in found]


def test_unchanged_file_is_not_read_twice_and_the_newest_part_of_a_chain_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(tmp_path, max_bytes=4096)
    neighbours = Neighbours(tmp_path, "f" * 32)
    head = [log.append(record(n, text="x" * 900)) for n in range(9)][-1]
    assert (head,) == neighbours.look()
    monkeypatch.setattr("agentguard.audit.neighbours.last_position", None)
    assert (head,) == neighbours.look()
    log.close()


def test_forked_child_writes_checkpoints_of_its_own_chain(tmp_path: Path) -> None:
    log = FileLog(tmp_path / "audit", checkpoints=settings())

    def child() -> None:
        log.append(record(1))
        log.close()

    in_child(child)
    log.append(record(2))
    log.close()

    assert 2 == len(list((tmp_path / "audit.checkpoints").iterdir())) == holds(tmp_path / "audit")


def test_record_that_an_interrupt_kept_from_the_tree_is_read_from_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(tmp_path / "audit", checkpoints=settings())

    def interrupted(self: Checkpointer, position: Position) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpointer, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log.append(record(1))
    log.append(record(2))
    log.close()

    assert 1 == holds(tmp_path / "audit")


def test_record_that_cannot_be_read_now_is_in_the_next_checkpoint(
    tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = FileLog(tmp_path / "audit")
    log.append(record(1))
    log.close()

    def fail(*given: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("agentguard.audit.checkpoints.replay", fail)
        log = FileLog.reopen(only_file(tmp_path / "audit"), checkpoints=settings(seconds=0.02, to=written.append))
        until(lambda: "Too many open files" in caplog.text)
    log.append(record(2))
    log.close()
    (tmp_path / "kept").write_text("".join(written))

    assert 6 == sizes(written)[-1]
    assert holds(tmp_path / "audit", tmp_path / "kept") >= 1


@pytest.mark.control("checkpoint after disk")
def test_checkpoint_never_covers_a_record_that_is_not_on_the_disk(
    tmp_path: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FileLog(tmp_path, checkpoints=settings(every=2, to=written.append))

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("agentguard.audit.segment._sync_file", fail)
        log.append(record(1))
        time.sleep(0.1)  # there is nothing to wait for: it must not happen
        assert [] == written
    log.close()

    assert [4] == sizes(written)  # in another file, which says that the one before may have lost records


_WRITES_UNTIL_KILLED = """
import sys
from agentguard.audit.checkpoints import Checkpoints
from agentguard.audit.log import FileLog
from tests.audit.samples import record
log = FileLog(sys.argv[1], max_bytes=1 << 16, checkpoints=Checkpoints(key=sys.argv[2], every=20))
for n in range(10**9):
    log.append(record(n))
"""


def has_written(files: Path, count: int) -> bool:
    return count == sum(path.stat().st_size > 3000 for path in files.glob("*"))


@pytest.mark.control("checkpoint after disk")
def test_checkpoints_of_a_killed_process_hold(tmp_path: Path) -> None:
    KEY.write_pem_file(tmp_path / "key.pem")
    files = tmp_path / "audit.checkpoints"
    for number in range(3):
        command = [sys.executable, "-c", _WRITES_UNTIL_KILLED, str(tmp_path / "audit"), str(tmp_path / "key.pem")]
        with subprocess.Popen(command) as process:
            until(partial(has_written, files, number + 1))
            process.kill()
    for _ in range(2):  # a file that was only begun is set aside, and then the one before it begins it anew
        for path in sorted((tmp_path / "audit").glob("*.jsonl")):
            FileLog.repair(path)

    assert 3 == len(list(files.iterdir()))
    assert holds(tmp_path / "audit") >= 3


def test_place_that_fails_fails_no_append_and_the_next_checkpoint_covers_it(
    tmp_path: Path, written: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    broken = threading.Event()
    broken.set()
    tried: list[str] = []

    def place(note: str) -> None:
        tried.append(note)
        if broken.is_set():
            raise ConnectionError("host is down")
        written.append(note)

    log = FileLog(tmp_path, checkpoints=settings(every=2, seconds=0.02, to=place))
    log.append(record(1))
    until(lambda: len(tried) > 2)
    log.append(record(2))
    broken.clear()
    until(lambda: 3 in sizes(written))
    log.close()

    assert 1 == sum("host is down" in each.message for each in caplog.records)


def test_place_that_fails_keeps_no_other_from_the_checkpoint(tmp_path: Path, written: list[str]) -> None:
    def down(note: str) -> None:
        raise ConnectionError("host is down")

    log = FileLog(tmp_path, checkpoints=settings(to=[down, written.append]))
    with pytest.raises(AuditUnavailable, match="host is down"):
        log.close()

    assert [2] == sizes(written)
    with pytest.raises(AuditUnavailable, match="closed"):
        log.append(record(1))


def test_signer_with_another_key_than_it_says_is_found_out(tmp_path: Path, written: list[str]) -> None:
    class Odd(SigningKey):
        async def signature(self, data: bytes) -> bytes:
            return KEY.sign(data)

    log = FileLog(tmp_path, checkpoints=settings(key=Odd.generate("EdDSA"), to=written.append))
    with pytest.raises(AuditUnavailable, match="forged"):
        log.close()
    assert [] == written


def test_place_that_cannot_be_used_is_said_when_the_log_opens(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditUnavailable, match="file"):
        FileLog(tmp_path / "audit", checkpoints=settings(to=tmp_path / "file"))


def test_full_disk_leaves_no_part_of_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = CheckpointFile(tmp_path, "c" * 32)
    note = settings().sign(Checkpoint("agentguard", "c" * 32, 1, b"r" * 32, "2026-11-21T22:26:40.123456Z").text())
    file(note)
    with monkeypatch.context() as patched:
        patched.setattr(places, "_write", lambda fd, data: os.write(fd, data[:40]))
        with pytest.raises(AuditUnavailable, match="disk full"):
            file(note)
        assert note == file.path.read_text()
    file(note)

    assert 2 == len(read(file.path, PUBLIC))


def test_part_of_a_checkpoint_that_a_killed_process_left_is_cut_off(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path, "c" * 32)
    note = settings().sign(Checkpoint("agentguard", "c" * 32, 1, b"r" * 32, "2026-11-21T22:26:40.123456Z").text())
    whole = f"{note}\n{note}".encode()
    for size in range(len(whole) + 1):
        file.path.write_bytes(whole[:size])
        file(note)
        assert 1 + (size >= len(note.encode())) + (size == len(whole)) == len(read(file.path, PUBLIC)), size


def test_checkpoint_is_handed_on_as_a_log_event(tmp_path: Path) -> None:
    events: list[tuple[str, Mapping[str, str]]] = []
    log = FileLog(tmp_path, checkpoints=settings(to=log_event(lambda *event: events.append(event))))
    log.close()

    ((name, attributes),) = events
    found = opened(attributes["checkpoint"].encode(), PUBLIC)
    assert ("agentguard.audit.checkpoint", "2", found.origin) == (name, attributes["size"], attributes["origin"])


@pytest.mark.parametrize("given", [{"every": 0}, {"seconds": 0}, {"seconds": float("nan")}, {"name": "a b"}])
def test_settings_of_no_use_are_a_mistake(given: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        settings(**given)


def test_key_is_an_ed25519_key_that_only_its_owner_reads(tmp_path: Path) -> None:
    KEY.write_pem_file(tmp_path / "key.pem")

    assert PUBLIC == Checkpoints(key=tmp_path / "key.pem").public
    assert "PRIVATE" not in repr(Checkpoints(key=tmp_path / "key.pem"))
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Checkpoints(key=tmp_path / "key.pem")
    with pytest.raises(ConfigurationError, match="Ed25519"):
        Checkpoints(key=SigningKey.generate("ES256"))


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    until(lambda: not any(thread.name == "agentguard-checkpoints" for thread in threading.enumerate()))
