"""What was measured and where: versions, the commit, the machine, and how busy it was."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
PACKAGES: Final = ("agentguard", "cryptography", "opentelemetry-sdk", "msgspec")


def versions(*packages: str) -> Mapping[str, Any]:
    """Everything that a figure depends on beside the code that it measures.

    Args:
        packages: more distributions whose versions count.
    """
    return {
        "python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count(),
        "cpu": _processor(), "load": [round(one, 2) for one in os.getloadavg()], "stolen_ticks": _stolen(),
        "commit": git("rev-parse", "--short=12", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno")),
        **{package: version(package) for package in (*PACKAGES, *packages)},
    }  # fmt: skip


def git(*arguments: str, folder: Path = ROOT) -> str:
    """What git says, without its last line end; nothing where there is no repository."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _stolen() -> int:
    """Ticks since the start of the machine in which a neighbour had the processor: two reports can be subtracted."""
    first = next(iter(_lines("/proc/stat")), "").split()
    return int(first[8]) if len(first) > 8 else 0


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
