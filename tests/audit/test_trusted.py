"""A log against trusted checkpoints: what a hash chain alone cannot show, and proofs for who has no log."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentguard.audit.chain import link, start
from agentguard.audit.checkpoint import read, read_notes
from agentguard.audit.checkpoints import Checkpoints
from agentguard.audit.fields import RESERVED
from agentguard.audit.log import FileLog
from agentguard.audit.note import NoteRejected, b64
from agentguard.audit.proof import prove, verify_proof
from agentguard.audit.trusted import Held, Trusted
from agentguard.audit.verify import ChainBroken, verify
from agentguard.errors import ConfigurationError
from agentguard.keys import SigningKey
from agentguard.model.record import Position, Record
from tests.audit.samples import NOW, record, records_in

SETTINGS = Checkpoints(key=SigningKey.generate("EdDSA"), every=4, seconds=3600)
KEY = SETTINGS.public


def write(directory: Path, count: int = 10, **given) -> Path:
    before = set(directory.glob("*.jsonl"))
    log = FileLog(directory, checkpoints=SETTINGS, **given)
    for n in range(count):
        log.append(record(n))
    log.close()
    (path,) = set(directory.glob("*.jsonl")) - before
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def path(directory: Path) -> Path:
    return write(directory)


def compared(path: Path) -> Held:
    directory = path if path.is_dir() else path.parent
    trusted = Trusted(read(directory.with_name("audit.checkpoints"), KEY))
    verify(path, trusted)
    return trusted.finish(path)


def rewritten(path: Path, change: Callable[[dict[str, Any]], object], first: int = 1) -> None:
    """What an attacker without the key can do: write the chain anew, with all its hashes."""
    lines = path.read_bytes().splitlines(keepends=True)
    records = records_in(path)
    head = start(records[0]["chain"])
    if first > 1:
        head = Position(head.chain, first - 1, records[first - 2]["hash"])
    for number, each in enumerate(records[first - 1 :], first - 1):
        change(each)
        fields = {name: value for name, value in each.items() if name not in RESERVED}
        lines[number], head = link(head, NOW + number, Record(each["event"], fields))
    path.write_bytes(b"".join(lines))


def test_log_that_was_left_alone_holds(path: Path, directory: Path) -> None:
    found = compared(directory)

    assert (0, 0) == (found.chained_only, found.uncovered)
    assert found.checkpoints >= 1
    assert found == compared(path)


def test_records_behind_the_last_checkpoint_are_counted(path: Path, directory: Path) -> None:
    with FileLogAgain(path) as log:
        log.append(record(11))

    assert 3 == compared(directory).chained_only


@pytest.mark.control("checkpoint truncation")
@pytest.mark.parametrize("kept", [11, 5, 1])
def test_truncated_tail_is_found(path: Path, directory: Path, kept: int) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))
    verify(directory)

    with pytest.raises(ChainBroken, match=f"records {kept + 1} to 12 were removed") as broken:
        compared(directory)
    assert (kept + 1, path) == (broken.value.record, broken.value.path)


@pytest.mark.control("checkpoint rewrite")
def test_log_that_was_written_anew_with_all_its_hashes_is_found(path: Path, directory: Path) -> None:
    rewritten(path, lambda each: each.update(tool="refund.list") if each.get("call") == "call-7" else None)
    verify(directory)

    with pytest.raises(ChainBroken, match=r"records \d+ to \d+ are not those"):
        compared(directory)


def test_rewrite_is_narrowed_down_by_the_checkpoint_before_it(directory: Path) -> None:
    path = write(directory, 0)
    with FileLogAgain(path, checkpoints=SETTINGS) as log:
        for n in range(5):
            log.append(record(n))
    rewritten(path, lambda each: each.pop("tool", None), first=3)

    with pytest.raises(ChainBroken, match="records 3 to"):
        compared(directory)


@pytest.mark.control("checkpoint missing chain")
def test_missing_chain_of_a_process_is_found(directory: Path) -> None:
    gone = write(directory)
    write(directory)
    gone.unlink()
    verify(directory)

    with pytest.raises(ChainBroken, match=f"chain {gone.stem[-32:]} is missing"):
        compared(directory)


@pytest.mark.control("checkpoint ties chains")
@pytest.mark.parametrize("cut", [True, False])
def test_chain_of_a_process_that_signed_nothing_is_tied_by_the_others(directory: Path, cut: bool) -> None:
    other = FileLog(directory)
    chain = ""
    for n in range(5):
        chain = other.append(record(n)).chain
    write(directory)
    other.close()
    (path,) = directory.glob(f"audit-*{chain}.jsonl")
    assert 1 == compared(directory).chained_only

    if cut:
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    else:
        rewritten(path, lambda each: each.update(more="x"))
    verify(directory)
    with pytest.raises(ChainBroken, match="records 4 to 6 were removed" if cut else "records 1 to 6 are not those"):
        compared(directory)


def test_chain_that_nobody_signed_is_counted(directory: Path) -> None:
    write(directory)
    FileLog(directory).close()

    assert 1 == compared(directory).uncovered


def test_log_under_another_name_is_a_missing_chain(path: Path, directory: Path) -> None:
    shutil.copytree(directory, directory.with_name("other"))
    records = records_in(path)
    lines, head = [], start("d" * 32)
    for each in records:
        line, head = link(head, NOW, Record(each["event"], {}))
        lines.append(line)
    path.write_bytes(b"".join(lines))

    with pytest.raises(ChainBroken, match="is missing"):
        compared(directory)


def test_second_chain_of_the_same_name_is_not_vouched_for(path: Path, directory: Path) -> None:
    forged = directory / "audit-z.jsonl"
    shutil.copy(path, forged)
    rewritten(forged, lambda each: each.update(tool="other"))

    with pytest.raises(ChainBroken, match="in another file too"):
        compared(directory)


def test_checkpoints_of_another_log_are_not_taken_for_this_one(path: Path, directory: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "audit")
    trusted = Trusted(read(tmp_path / "elsewhere" / "audit.checkpoints", KEY))
    verify(path, trusted)

    with pytest.raises(ChainBroken, match="no checkpoint is about this chain"):
        trusted.finish(path)


@pytest.fixture
def notes(path: Path, directory: Path) -> list[bytes]:
    (file,) = directory.with_name("audit.checkpoints").iterdir()
    return read_notes(file)


def test_every_record_can_be_proved_without_the_log(path: Path, directory: Path, notes: list[bytes]) -> None:
    for each in records_in(path):
        proof = prove(directory, f"{each['chain']}:{each['seq']}", notes)
        found, under = verify_proof(proof.encode(), KEY)
        assert each == found
        assert under.size >= each["seq"]


@pytest.mark.control("inclusion proof")
def test_proof_of_a_record_that_was_changed_is_rejected(path: Path, directory: Path, notes: list[bytes]) -> None:
    real = records_in(path)[4]
    proof = prove(directory, f"{real['chain']}:5", notes)
    rewritten(path, lambda each: each.update(tool="refund.list"))
    with pytest.raises(NoteRejected, match="not what the checkpoint was signed over"):
        prove(directory, f"{real['chain']}:5", notes)
    forged = path.read_bytes().splitlines(keepends=True)[4]
    lines = proof.split("\n")
    lines[1] = "extra " + b64(forged)

    with pytest.raises(NoteRejected, match="do not lead to the checkpoint"):
        verify_proof("\n".join(lines).encode(), KEY)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("index 4", "index 5", "another place"),
        ("index 4", "index 04", "whole number"),
        ("c2sp.org/tlog-proof@v1", "c2sp.org/tlog-proof@v2", "not a proof"),
        ("extra ", "more ", "not a line"),
        ("\n\nagentguard/", "\nagentguard/", "base64"),
        ("\n12\n", "\n13\n", "forged"),
    ],
)
def test_changed_proof_is_rejected(path: Path, directory: Path, notes: list[bytes], old, new, why) -> None:
    proof = prove(directory, f"{records_in(path)[0]['chain']}:5", notes[-1:])
    assert old in proof

    with pytest.raises(NoteRejected, match=why):
        verify_proof(proof.replace(old, new, 1).encode(), KEY)


def test_record_that_no_checkpoint_covers_has_no_proof(path: Path, directory: Path, notes: list[bytes]) -> None:
    chain = records_in(path)[0]["chain"]
    with pytest.raises(NoteRejected, match="no checkpoint covers"):
        prove(directory, f"{chain}:13", notes)
    with pytest.raises(ConfigurationError, match="no record's id"):
        prove(directory, "nonsense", notes)


class FileLogAgain:
    """The log of a file whose process has ended, continued."""

    def __init__(self, path: Path, **given) -> None:
        self.log = FileLog.reopen(path, **given)

    def __enter__(self) -> FileLog:
        return self.log

    def __exit__(self, *error: object) -> None:
        self.log.close()
