"""`agentguard audit verify --checkpoint`, `prove` and `verify-proof`, as a person and as a program see them."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from agentguard.audit.checkpoints import Checkpoints
from agentguard.audit.log import FileLog
from agentguard.cli.main import main
from agentguard.keys import SigningKey
from tests.audit.samples import only_file, record, records_in

Captured = pytest.CaptureFixture[str]
SIGNING = SigningKey.generate("EdDSA")
SETTINGS = Checkpoints(key=SIGNING, name="bank.test/audit")
KEY = str(SETTINGS.public)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    sink = FileLog(tmp_path / "audit", checkpoints=SETTINGS)
    for n in range(3):
        sink.append(record(n))
    sink.close()
    return only_file(tmp_path / "audit")


@pytest.fixture
def pem(tmp_path: Path) -> str:
    path = tmp_path / "audit.pub"
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.write_bytes(SIGNING.public.key.public_bytes(*form))
    return str(path)


def test_log_that_holds_is_said_to_hold(log: Path, pem: str, tmp_path: Path, capsys: Captured) -> None:
    beside = str(tmp_path / "audit.checkpoints")
    for checkpoint in ([], ["--checkpoint", beside], ["--checkpoint", str(next(Path(beside).iterdir()))]):
        for key in (["--key", KEY], ["--key", pem, "--name", "bank.test/audit"]):
            assert 0 == main(["audit", "verify", str(log.parent), *checkpoint, *key])
            assert "ok: 1 checkpoint held, the latest of 20" in capsys.readouterr().out


@pytest.mark.control("checkpoint truncation")
def test_truncated_log_says_what_is_gone_and_what_to_do(log: Path, capsys: Captured) -> None:
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:3]))
    assert 0 == main(["audit", "verify", str(log.parent)])
    capsys.readouterr()

    assert 1 == main(["audit", "verify", str(log.parent), "--key", KEY])
    out, error = capsys.readouterr()
    assert not out
    assert error.startswith(f"BROKEN at record 4 of {log}: the log ends here, but a checkpoint of 20")
    assert "proves 5 records: records 4 to 5 were removed; keep the files as they are" in error


def test_json_says_the_same(log: Path, capsys: Captured) -> None:
    assert 0 == main(["audit", "verify", str(log.parent), "--key", KEY, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (1, 0, 0) == tuple(found["checkpoint"][name] for name in ("checkpoints", "chained_only", "uncovered"))
    log.unlink()
    FileLog(log.parent).close()

    assert 1 == main(["audit", "verify", str(log.parent), "--key", KEY, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (False, str(log.parent)) == (found["ok"], found["file"])
    assert "is missing: a checkpoint of" in found["why"]


@pytest.mark.control("checkpoint signature")
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_forged_checkpoint_compares_nothing(log: Path, tmp_path: Path, capsys: Captured, as_json: list[str]) -> None:
    (file,) = (tmp_path / "audit.checkpoints").iterdir()
    file.write_bytes(file.read_bytes().replace(b"\n5\n", b"\n4\n"))

    assert 1 == main(["audit", "verify", str(log.parent), "--key", KEY, *as_json])
    assert "checkpoint 1: the signature is forged" in "".join(capsys.readouterr())


def test_key_of_another_name_is_not_the_key(log: Path, pem: str, capsys: Captured) -> None:
    assert 1 == main(["audit", "verify", str(log.parent), "--key", pem])
    assert "not signed by the trusted key agentguard" in capsys.readouterr().err


def test_checkpoint_without_a_key_is_status_2(log: Path, tmp_path: Path, capsys: Captured) -> None:
    assert 2 == main(["audit", "verify", str(log.parent), "--checkpoint", str(tmp_path)])
    assert "--checkpoint needs --key" in capsys.readouterr().err
    assert 2 == main(["audit", "verify", str(log.parent), "--key", str(tmp_path / "none.pem")])
    assert "cannot be opened" in capsys.readouterr().err


def test_missing_checkpoints_are_never_ok(log: Path, tmp_path: Path, capsys: Captured) -> None:
    assert 2 == main(["audit", "verify", str(log.parent), "--key", KEY, "--checkpoint", str(tmp_path / "none")])
    assert 1 == main(["audit", "verify", str(log.parent), "--key", KEY, "--checkpoint", str(tmp_path / "audit")])
    assert "holds no checkpoint" in capsys.readouterr().err


def test_record_is_proved_to_who_has_no_log(
    log: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision = records_in(log)[2]
    assert 0 == main(["audit", "prove", f"{decision['chain']}:3", str(log.parent)])
    proof = tmp_path / "record.tlog-proof"
    proof.write_text(capsys.readouterr().out)
    log.unlink()

    assert 0 == main(["audit", "verify-proof", str(proof), "--key", KEY])
    out, error = capsys.readouterr()
    assert decision == json.loads(out)
    assert f"record {decision['chain']}:3 stands in bank.test/audit/{decision['chain']}, which had 5 records" in error
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(proof.read_bytes())))
    assert 0 == main(["audit", "verify-proof", "-", "--key", KEY])


def test_proof_that_proves_nothing_is_status_1(log: Path, tmp_path: Path, capsys: Captured) -> None:
    proof = tmp_path / "record.tlog-proof"
    proof.write_text("nonsense")

    assert 1 == main(["audit", "verify-proof", str(proof), "--key", KEY])
    assert "REJECTED not a proof" in capsys.readouterr().err
    assert 2 == main(["audit", "verify-proof", str(tmp_path / "none"), "--key", KEY])


def test_record_that_cannot_be_proved_says_why(log: Path, capsys: Captured) -> None:
    chain = records_in(log)[0]["chain"]
    assert 1 == main(["audit", "prove", f"{chain}:9", str(log.parent)])
    assert "no checkpoint covers record" in capsys.readouterr().err
    assert 2 == main(["audit", "prove", "9", str(log.parent)])
    assert "no record's id" in capsys.readouterr().err
