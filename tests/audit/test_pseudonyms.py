"""Pseudonyms: alike in every process that has the key, each with its generation, found again after a rotation."""

from __future__ import annotations

import hmac
import json
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.audit.log import FileLog
from agentguard.audit.pseudonyms import Generation, Pseudonyms, read_file, rotate
from agentguard.cli.main import main
from agentguard.errors import ConfigurationError
from agentguard.model.lease import Secret
from agentguard.model.record import Event, Record
from agentguard.testing import fake_guard
from agentguard.testing.leaks import assert_no_leaks
from tests.tools import everything

Captured = pytest.CaptureFixture[str]
OLD = "0123456789abcdef0123456789abcdef"
generations = pytest.mark.control("pseudonyms carry their generation")


def parsed(text: str) -> Pseudonyms:
    return Pseudonyms.parse(Secret(text))


def test_single_key_makes_what_it_always_made() -> None:
    with fake_guard(pseudonym_key=OLD.encode()) as guard:
        assert guard.pseudonym("alice") == parsed(OLD).of("alice") == Pseudonyms.single(OLD.encode()).of("alice")
    assert parsed(OLD).of("alice") == "u:" + hmac.digest(OLD.encode(), b"alice", "sha256").hex()[:16]
    assert parsed(OLD).digest("ab") == "hmac-sha256:" + hmac.digest(OLD.encode(), b"ab", "sha256").hex()
    assert "" == parsed(OLD).of("")


def test_key_of_any_bytes_is_one() -> None:
    key = bytes(range(128, 160))
    assert Pseudonyms.single(key).of("alice")[2:] == hmac.digest(key, b"alice", "sha256").hex()[:16]


@given(st.binary(min_size=16, max_size=200), st.text())
def test_keyed_hash_is_that_of_rfc_2104_for_a_key_of_any_length(key: bytes, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert Pseudonyms.single(key).digest(text) == "hmac-sha256:" + hmac.digest(key, text.encode(), "sha256").hex()


@generations
def test_hashes_say_which_generation_made_them(tmp_path: Path) -> None:
    file = tmp_path / "pseudonyms"
    first = rotate(file)
    second = rotate(file)
    assert (first.of("alice")[-2:], second.of("alice")[-2:], second.digest("ab")[-2:]) == (".1", ".2", ".2")
    assert (second.of("alice"), first.of("alice")) == second.all_of("alice")
    assert first.of("alice")[:10] != second.of("alice")[:10]


@generations
def test_processes_that_read_one_file_agree(tmp_path: Path) -> None:
    made = rotate(tmp_path / "keys")
    read = Pseudonyms.parse(read_file(tmp_path / "keys"))
    assert (made.of("alice"), made.digest("ab")) == (read.of("alice"), read.digest("ab"))


@generations
def test_key_from_before_there_were_generations_stays_readable(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{OLD}\n")
    file.chmod(0o600)
    rotated = rotate(file)
    assert ("", "1") == rotated.generations
    assert parsed(OLD).of("alice") == rotated.all_of("alice")[1]
    assert rotate(file).generations == ("", "1", "2")


def test_file_is_private_and_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    rotate(file)
    before = file.stat().st_ino
    rotate(file)
    assert (0o600, True) == (stat.S_IMODE(file.stat().st_mode), before != file.stat().st_ino)
    assert ["keys"] == [each.name for each in tmp_path.iterdir()]


def test_rotation_that_another_process_is_at_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys.new").touch()
    with pytest.raises(ConfigurationError, match="another process rotates"):
        rotate(tmp_path / "keys")


@pytest.mark.parametrize(
    "text",
    ["", "short", f"1 {OLD}\n1 {OLD}", f"1 {OLD}\nx {OLD}", f"1 {OLD}\n2 short", f"0 {OLD}", f"1  {OLD} x",
     "\n".join(f"{number} {OLD}" for number in range(1, 42)), f"{OLD}\n{OLD}", "ü" * 40],
)  # fmt: skip
def test_what_is_no_list_of_keys_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parsed(text)
    assert OLD not in str(refused.value)


def test_short_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="16 bytes"):
        Pseudonyms.single(b"short")
    with pytest.raises(ConfigurationError, match="once"):
        Pseudonyms([Generation("1", Secret(OLD)), Generation("1", Secret(OLD))])


@pytest.mark.parametrize("mode", [0o644, 0o620])
def test_file_that_others_can_use_is_refused(mode: int, tmp_path: Path) -> None:
    rotate(tmp_path / "keys")
    (tmp_path / "keys").chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        rotate(tmp_path / "keys")


def test_keys_are_shown_nowhere(tmp_path: Path, capsys: Captured) -> None:
    keys = parsed(f"- {OLD}\n1 {OLD[::-1]}")
    canaries = {"old key": OLD, "new key": OLD[::-1]}
    assert_no_leaks(canaries, keys=keys, generation=keys._generations[0], hashes=[keys.of("a"), keys.digest("b")])
    with pytest.raises(TypeError):
        pickle.dumps(keys)
    assert 0 == main(["keys", "pseudonyms", str(tmp_path / "keys")])
    made = (tmp_path / "keys").read_text().split()[-1]
    assert 0 == main(["keys", "pseudonyms", str(tmp_path / "keys"), "--list"])
    said = capsys.readouterr()
    assert "generation 1 is the newest" in said.out
    assert_no_leaks({"made": made}, printed=said.out + said.err)


# audit query --------------------------------------------------------------------------------------------------


@pytest.fixture
def logged(tmp_path: Path) -> Path:
    """A log over a rotation, with a subject in it under every generation."""
    file = tmp_path / "keys"
    file.write_text(OLD)
    file.chmod(0o600)
    log = FileLog(tmp_path / "audit")
    for keys in (parsed(OLD), rotate(file), rotate(file)):
        for name in ("alice", "bob"):
            log.append(
                Record(Event.TASK_OPENED, {"agent": "bot", "subject": keys.of(f"user:{name}"), "task": keys.of(name)})
            )
    log.close()
    return tmp_path


def asked(folder: Path, capsys: Captured, *more: str) -> list[dict[str, Any]]:
    assert 0 == main(["audit", "query", str(folder / "audit"), "--json", *more])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@generations
def test_name_is_found_under_all_its_pseudonyms_in_order(logged: Path, capsys: Captured) -> None:
    found = asked(logged, capsys, "--subject", "alice", "--pseudonym-key", str(logged / "keys"))
    assert [2, 4, 6] == [record["seq"] for record in found]
    assert found == asked(logged, capsys, "--subject", "user:alice", "--pseudonym-key", str(logged / "keys"))
    newest = asked(logged, capsys, "--subject", "alice", "--pseudonym-key", str(logged / "keys"), "--limit", "2")
    assert [4, 6] == [record["seq"] for record in newest]
    assert [] == asked(logged, capsys, "--subject", "carol", "--pseudonym-key", str(logged / "keys"))


def test_pseudonym_that_a_span_cuts_short_is_found_with_its_generation(logged: Path, capsys: Captured) -> None:
    keys = Pseudonyms.parse(read_file(logged / "keys"))
    assert [6] == [record["seq"] for record in asked(logged, capsys, "--subject", keys.of("user:alice")[:10])]


@generations
def test_task_of_a_guard_is_found_by_the_name_of_its_user(tmp_path: Path, capsys: Captured) -> None:
    rotate(tmp_path / "keys")
    key = read_file(tmp_path / "keys").reveal().split()[-1]
    with fake_guard(audit=FileLog(tmp_path / "audit"), pseudonym_key=key.encode()) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=everything()):
            pass
    (tmp_path / "keys").write_text(f"- {key}\n")
    found = asked(tmp_path, capsys, "--subject", "alice", "--pseudonym-key", str(tmp_path / "keys"))
    assert ["task.opened", "task.ended"] == [record["event"] for record in found]


def test_key_without_a_name_is_a_mistake(logged: Path, capsys: Captured) -> None:
    for subject in ([], ["--subject", "u:12345678"]):
        arguments = ["audit", "query", str(logged / "audit"), "--pseudonym-key", str(logged / "keys"), *subject]
        assert 2 == main(arguments)
    assert "--subject NAME" in capsys.readouterr().err


def test_key_of_several_words_is_one_key_as_it_was_before_there_were_generations() -> None:
    words = "a key of several words, 32 letters long"
    assert Pseudonyms.parse(Secret(words)).of("user:ann") == Pseudonyms.single(words.encode()).of("user:ann")


@generations
@pytest.mark.parametrize(
    "words", ["a key of several words, 32 letters long", "two  spaces and\ta tab, 32 letters long"]
)
def test_key_of_several_words_stays_readable_when_it_is_rotated(words: str, tmp_path: Path) -> None:
    file = tmp_path / "pseudonyms"
    file.touch(mode=0o600)
    file.write_text(f"{words}\n")
    rotate(file)
    rotate(file)
    found = Pseudonyms.parse(read_file(file))
    assert ("", "1", "2") == found.generations
    assert Pseudonyms.single(words.encode()).of("user:ann") == found.all_of("user:ann")[-1]


@generations
@pytest.mark.parametrize("text", [f"9999 {OLD}\n", "".join(f"{n} {OLD * 31}\n" for n in range(1, 5))])
def test_file_without_room_for_another_key_is_left_as_it_was(text: str, tmp_path: Path) -> None:
    file = tmp_path / "pseudonyms"
    file.touch(mode=0o600)
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="no room"):
        rotate(file)
    assert text == file.read_text()
