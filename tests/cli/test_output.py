"""What every subcommand prints: whatever its terminal can show, and whoever stopped to read."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from agentguard.cli.main import main

PROGRAM = (sys.executable, "-c", "import sys; from agentguard.cli.main import main; sys.exit(main())")


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", "Größe €: 5"), ("latin-1", r"Größe \u20ac: 5"), ("ascii", r"Gr\xf6\xdfe \u20ac: 5")],
)
def test_letters_that_a_terminal_does_not_have_are_escapes(
    encoding: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.yaml").write_text("version: 1\nintent: a-b\npurpose: x\nGröße €: 5\n", "utf-8")
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    assert main(["lint", str(tmp_path / "x.yaml")]) == 1
    assert shown in raw.getvalue().decode(encoding)


@pytest.mark.parametrize("words", [["schema"], ["schema", "record", "--compact"]])
def test_reader_that_has_read_enough_is_no_error_to_tell(words: list[str]) -> None:
    with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(30) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
@pytest.mark.parametrize("words", [["schema"], ["lint"]])
def test_result_that_cannot_be_written_is_told(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("version: 1\nintent: a-b\npurpose: x\n")
    with open("/dev/full", "wb") as full:
        file = [str(tmp_path / "x.yaml")] if words == ["lint"] else []
        done = subprocess.run([*PROGRAM, *words, *file], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (2, b"agentguard: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("closed", [(1,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("status", [0, 1])
def test_process_without_streams_ends_with_the_status_of_what_it_found(
    status: int, closed: tuple[int, ...], tmp_path: Path
) -> None:
    (tmp_path / "x.yaml").write_text("version: 1\nintent: a-b\npurpose: x\nreads: [a]\n" + "unknown: 1\n" * status)
    streams = " ".join(f"{number}>&-" for number in closed)
    command = f'exec "$@" {streams}'
    done = subprocess.run(
        ["sh", "-c", command, "sh", *PROGRAM, "lint", str(tmp_path / "x.yaml")], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, b"", b"")
