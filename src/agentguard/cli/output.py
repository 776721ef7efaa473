"""What every subcommand prints, and the exit statuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final, TextIO

OK: Final = 0
FAILED: Final = 1  # what was checked is not as it should be
UNUSABLE: Final = 2  # it could not be checked: wrong arguments, missing or unreadable files


def printable(text: str) -> str:
    """Text that cannot steer a terminal: control and format characters are written as escapes.

    File names and what stands in a broken log are an attacker's to choose.
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def say(text: str) -> None:
    """Print one line of result."""
    _print(text, sys.stdout)


def complain(text: str) -> None:
    """Print one line to standard error."""
    _print(text, sys.stderr)


def _print(text: str, to: TextIO) -> None:
    print(writable(printable(text), to), file=to)


def writable(text: str, to: TextIO) -> str:
    """What a stream's encoding holds as it is, and the rest as escapes: no result is lost over a letter."""
    encoding = to.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say_json(members: Mapping[str, Any]) -> None:
    """Print one JSON object; ASCII only."""
    print(json.dumps(members))


def count(number: int, singular: str, plural: str = "") -> str:
    """`1 record`, `2 records`."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
