"""The `agentguard keys` command, as a person and as a program see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentguard.cli import keys as command
from agentguard.cli import main as program
from agentguard.cli.main import main
from agentguard.keys import KeyRing, KeySet, rotate

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def wired(monkeypatch: pytest.MonkeyPatch) -> None:
    if command not in program.COMMANDS:
        monkeypatch.setattr(program, "COMMANDS", (*program.COMMANDS, command))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def listed(folder: Path, capsys: Captured) -> list[dict[str, Any]]:
    assert 0 == main(["keys", "list", "--json", str(folder)])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["keys"]
    return found


def test_rotate_makes_a_folder_then_publishes_the_next_key_then_waits(folder: Path, capsys: Captured) -> None:
    said = []
    for alg in ("ES256", "EdDSA", "ES256"):
        assert 0 == main(["keys", "rotate", str(folder), "--alg", alg])
        said.append(capsys.readouterr().out)

    assert "ES256 key" in said[0]
    assert "signs now" in said[0]
    assert "EdDSA key" in said[1]
    assert "is to be published now and signs from 2" in said[1]
    assert "nothing changed: the next key" in said[2]
    assert ["signs", "next"] == [key["state"] for key in listed(folder, capsys)]


def test_jwks_prints_the_public_keys_and_nothing_private(folder: Path, capsys: Captured) -> None:
    main(["keys", "rotate", str(folder)])
    main(["keys", "rotate", str(folder), "--alg", "EdDSA"])
    capsys.readouterr()

    assert 0 == main(["keys", "jwks", str(folder)])
    printed = json.loads(capsys.readouterr().out)

    assert KeyRing.from_folder(folder).published(0).jwks() == printed
    assert 2 == len(KeySet.from_jwks(printed))
    assert all({"d", "k", "private"}.isdisjoint(key) for key in printed["keys"])


def test_list_shows_each_key_with_its_turn_and_nothing_private(folder: Path, capsys: Captured) -> None:
    for moment in (1_000_000_000, 1_000_001_000, 1_000_002_000):
        rotate(folder, moment)

    keys = listed(folder, capsys)
    main(["keys", "list", str(folder)])
    table = capsys.readouterr().out

    assert ["retired", "retired", "signs"] == [key["state"] for key in keys]
    assert [False, True, True] == [key["private"] for key in keys]
    assert keys[-1]["signs_until"] is None
    assert "2001-09-09T01:46:40Z" in table
    assert "3 keys\n" in table
    assert "PRIVATE" not in table


def test_propagation_is_of_a_new_folder(folder: Path, capsys: Captured) -> None:
    assert 0 == main(["keys", "rotate", str(folder), "--propagation", "60"])
    assert 2 == main(["keys", "rotate", str(folder), "--propagation", "90"])
    assert "they stay" in capsys.readouterr().err
    assert 2 == main(["keys", "rotate", str(folder / "other"), "--propagation", "1"])
    assert "from 10" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["jwks", "list"])
def test_a_folder_without_keys_is_unusable_and_says_what_to_do(action: str, folder: Path, capsys: Captured) -> None:
    assert 2 == main(["keys", action, str(folder)])
    assert "agentguard keys rotate" in capsys.readouterr().err


def test_an_algorithm_that_does_not_exist_is_refused(folder: Path, capsys: Captured) -> None:
    assert 2 == main(["keys", "rotate", str(folder), "--alg", "RS256"])
    assert not folder.exists()
