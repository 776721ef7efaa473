"""What every subcommand prints, and the exit statuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final

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
    print(printable(text))


def complain(text: str) -> None:
    """Print one line to standard error."""
    print(printable(text), file=sys.stderr)


def say_json(members: Mapping[str, Any]) -> None:
    """Print one JSON object; ASCII only."""
    print(json.dumps(members))


def count(number: int, singular: str, plural: str = "") -> str:
    """`1 record`, `2 records`."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"
