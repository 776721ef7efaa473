"""An environment for each peer: made once by its lock of names, versions and hashes, and kept under a folder.

The folder's name holds the lock's digest, so a changed lock makes a new one. What was left half made is made again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
LASTS: Final = 600  # seconds for one environment
_DONE: Final = ".complete"
_SHOWN: Final = 300


class Unavailable(Exception):
    """A peer that cannot be installed or run; the text says why."""


def python_of(peer: str, folder: Path, lock: Path | None = None) -> Path:
    """Return a peer's interpreter; its environment is made if it is not there yet.

    Args:
        peer: the peer's name.
        folder: where environments are kept.
        lock: its lock; by default `requirements/peers-NAME.lock`.

    Raises:
        Unavailable: it cannot be made.
    """
    lock = lock or ROOT / "requirements" / f"peers-{peer}.lock"
    if not lock.is_file():
        raise Unavailable(f"there is no {lock.name}")
    home = folder.resolve() / f"{peer}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (home / _DONE).exists():
        _make(home, python, lock)
        (home / _DONE).touch()
    return python


def _make(home: Path, python: Path, lock: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    listed = ["--quiet", "--require-hashes", "-r", str(lock)]
    uv = _uv()
    if uv is None:
        _run([sys.executable, "-m", "venv", str(home)])
        _run([str(python), "-m", "pip", "install", *listed])
        return
    _run([uv, "venv", "--quiet", "--python", sys.executable, str(home)])
    try:
        _run([uv, "pip", "install", "--python", str(python), *listed])
    except Unavailable:  # a mirror may be set up for pip alone
        _run([sys.executable, "-m", "pip", "--python", str(python), "install", *listed])


def _uv() -> str | None:
    beside = Path(sys.executable).parent / "uv"
    return str(beside) if beside.exists() else shutil.which("uv")


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LASTS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{Path(command[0]).name}: {type(error).__name__}") from None
    if done.returncode:
        raise Unavailable(f"{Path(command[0]).name}: {' '.join(done.stderr.split())[:_SHOWN]}")


__all__ = ["LASTS", "ROOT", "Unavailable", "python_of"]
