"""Signed notes and checkpoints as text: what is read is exactly what the trusted key signed."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from agentguard.audit.checkpoint import Checkpoint, notes, opened, read
from agentguard.audit.note import NoteKey, NoteRejected, sign, unb64
from agentguard.errors import ConfigurationError
from agentguard.keys import SigningKey
from agentguard.model.record import Position

# The note and the key of the documentation of Go's golang.org/x/mod/sumdb/note.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_SIGNATURE = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
GO_NOTE = f"{GO_TEXT}\n\u2014 PeterNeumann {GO_SIGNATURE}\n".encode()
SIGNING = SigningKey.generate("EdDSA")
KEY = NoteKey("bank.test/audit", SIGNING.public.key.public_bytes_raw())  # type: ignore[union-attr]  # an Ed25519 key
CHAIN = "0123456789abcdef" * 2
TEXT = f"bank.test/audit/{CHAIN}\n3\n{base64.b64encode(b'r' * 32).decode()}\ntime 2026-11-21T22:26:40.123456Z\n"


def signed(text: str = TEXT, key: NoteKey = KEY) -> bytes:
    return sign(text, key, SIGNING.sign).encode()


def test_note_of_go_opens() -> None:
    key = NoteKey.parse(GO_KEY)

    assert GO_TEXT == key.open(GO_NOTE)
    assert GO_KEY == str(key)


def test_signed_note_opens_with_its_key() -> None:
    assert TEXT == KEY.open(signed())
    assert KEY == NoteKey.parse(str(KEY))


@pytest.mark.control("checkpoint signature")
def test_changed_text_is_rejected() -> None:
    with pytest.raises(NoteRejected, match="forged"):
        KEY.open(signed().replace(b"\n3\n", b"\n2\n"))


@pytest.mark.control("checkpoint signature")
def test_signature_of_another_key_under_the_same_name_and_id_is_rejected() -> None:
    note = signed()
    head, _, encoded = note.decode().rstrip("\n").rpartition(" ")
    forged = KEY.id + SigningKey.generate("EdDSA").sign(TEXT.encode())
    assert base64.b64decode(encoded)[:4] == KEY.id

    with pytest.raises(NoteRejected, match="forged"):
        KEY.open(f"{head} {base64.b64encode(forged).decode()}\n".encode())


def test_note_without_a_signature_of_the_trusted_key_is_rejected() -> None:
    with pytest.raises(NoteRejected, match="not signed by the trusted key"):
        NoteKey("bank.test/audit", b"k" * 32).open(signed())
    with pytest.raises(NoteRejected, match="not signed by the trusted key"):
        NoteKey("other.test", KEY.public).open(signed())


def test_signatures_of_others_beside_it_are_passed_over() -> None:
    other = "\u2014 witness.test " + base64.b64encode(b"0123" + b"x" * 80).decode() + "\n"

    assert TEXT == KEY.open(signed() + other.encode())


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note[:-1],
        lambda note: note.replace(b"\n\n", b"\n"),
        lambda note: note.replace(b"\n3\n", b"\n3\r\n"),
        lambda note: note + b"\n",
        lambda note: note + b"nonsense\n",
        lambda note: note.replace(b"=\n", b"\n"),
        lambda note: note + "\u2014 a+b AAAA\n".encode(),
        lambda note: note + "\u2014 witness.test AAAA\n".encode(),
        lambda note: b"\xff" + note,
        lambda note: b"x" * (1 << 16) + note,
        lambda note: note + "\u2014 w.test AAAAAAAA\n".encode() * 16,
    ],
)
def test_what_is_not_exactly_a_note_is_rejected(change) -> None:
    with pytest.raises(NoteRejected):
        KEY.open(change(signed()))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_rejected_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(NoteRejected):
        opened(data, KEY)


@given(place=st.integers(0, 400), bit=st.integers(0, 7))
def test_no_bit_of_a_note_can_be_flipped(place: int, bit: int) -> None:
    note = bytearray(signed())
    note[place % len(note)] ^= 1 << bit

    with pytest.raises(NoteRejected):
        opened(bytes(note), KEY)


@pytest.mark.parametrize("text", ["YQ", "YQ==\n", "YR==", "", "Y-==", " YQ=="])
def test_base64_has_one_form(text: str) -> None:
    with pytest.raises(NoteRejected):
        unb64(text)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\n", "a\u00a0b", "x" * 201])
def test_name_that_breaks_the_format_is_a_mistake(name: str, tmp_path: Path) -> None:
    SIGNING.write_pem_file(tmp_path / "key.pem")
    with pytest.raises(ConfigurationError, match="cannot name a key"):
        NoteKey.read(str(tmp_path / "key.pem"), name)


def test_key_is_read_from_pem_and_from_a_file_with_a_verifier_key(tmp_path: Path) -> None:
    public = SIGNING.public.key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "public.pem").write_bytes(public)
    (tmp_path / "a+b.vkey").write_text(f"{KEY}\n")

    assert KEY == NoteKey.read(str(tmp_path / "public.pem"), "bank.test/audit")
    assert KEY == NoteKey.read(str(tmp_path / "a+b.vkey"), "ignored")
    assert KEY == NoteKey.read(str(KEY), "ignored")


def test_other_key_or_none_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "ec.pem").write_bytes(
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    (tmp_path / "nonsense").write_text("nonsense")

    for name in ("ec.pem", "nonsense", "none"):
        with pytest.raises(ConfigurationError, match="key"):
            NoteKey.read(str(tmp_path / name), "agentguard")
    with pytest.raises(ConfigurationError, match="NAME\\+ID\\+BASE64"):
        NoteKey.parse(str(KEY)[:-4] + "AAAA")


def test_checkpoint_reads_back_as_it_was_written() -> None:
    others = (Position("f" * 32, 7, "ab" * 32), Position("e" * 32, 1, "cd" * 32))
    checkpoint = Checkpoint(KEY.name, CHAIN, 3, b"r" * 32, "2026-11-21T22:26:40.123456Z", others)

    assert checkpoint == opened(signed(checkpoint.text()), KEY)
    assert TEXT == Checkpoint(KEY.name, CHAIN, 3, b"r" * 32, "2026-11-21T22:26:40.123456Z").text()


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("\n3\n", "\n03\n"),
        TEXT.replace("\n3\n", "\n-3\n"),
        TEXT.replace("\n3\n", "\n\u0663\n"),
        TEXT.replace("\n3\n", f"\n{1 << 53}1\n"),
        TEXT.replace(CHAIN, "short"),
        TEXT.replace("bank.test/audit/", ""),
        TEXT.replace("time ", "at "),
        TEXT.replace("cnJy", "cnJ"),
        TEXT + "chain x 1 y\n",
        TEXT + "nonsense\n",
        TEXT.partition("time")[0],
    ],
)
def test_signed_text_that_is_no_checkpoint_of_ours_is_rejected(text: str) -> None:
    with pytest.raises(NoteRejected):
        opened(signed(text), KEY)


def test_checkpoint_of_another_log_is_rejected_although_the_key_signed_it() -> None:
    with pytest.raises(NoteRejected, match="another log"):
        opened(signed(TEXT.replace("bank.test/audit", "bank.test/staging")), KEY)


def test_file_of_checkpoints_is_read_up_to_a_torn_one(tmp_path: Path) -> None:
    first, second = signed(), signed(TEXT.replace("\n3\n", "\n4\n"))
    file = tmp_path / "a.checkpoints"
    whole = first + b"\n" + second
    for size in range(len(first), len(whole)):
        file.write_bytes(whole[:size])
        assert [3] == [each.size for each in read(file, KEY)]
    file.write_bytes(whole)

    assert [first, second] == list(notes(whole))
    assert [3, 4] == [each.size for each in read(tmp_path, KEY)]


def test_forged_checkpoint_in_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.checkpoints"
    file.write_bytes(signed() + b"\n" + signed().replace(b"\n3\n", b"\n9\n"))

    with pytest.raises(NoteRejected, match=r"a\.checkpoints: checkpoint 2: the signature is forged"):
        read(file, KEY)


def test_nothing_to_compare_with_is_an_error_and_never_ok(tmp_path: Path) -> None:
    (tmp_path / "a.checkpoints").write_bytes(b"")
    with pytest.raises(NoteRejected, match="holds no checkpoint"):
        read(tmp_path, KEY)
