"""Reads JSON and CSV files strictly: exact numbers, no key twice, every row as long as the header."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from agentguard.errors import ConfigurationError
from agentguard.model.canonical import MAX_BYTES


def read_json(file: Path) -> Any:
    """Return what a JSON file (RFC 8259) holds; numbers as Decimal.

    Raises:
        ConfigurationError: it cannot be read, holds a key twice, or NaN.
    """
    text = _text(file)
    try:
        return json.loads(
            text, parse_float=Decimal, parse_int=Decimal, parse_constant=_no_number, object_pairs_hook=_once
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from None
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise ConfigurationError(f"{file} is no JSON ({type(error).__name__})") from None


def read_csv(file: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file (RFC 4180) under the names of its header row; a BOM is allowed.

    Raises:
        ConfigurationError: it cannot be read, a name stands twice in the header, or a row has another length.
    """
    try:
        rows = list(csv.reader(io.StringIO(_text(file), newline=""), strict=True))
    except csv.Error:
        raise ConfigurationError(f"{file} is no CSV: a quote is not closed, or stands where none can") from None
    header = rows[0] if rows else []
    if not header or len(set(header)) != len(header) or "" in header:
        raise ConfigurationError(f"{file} has no header row with each name once")
    for number, row in enumerate(rows[1:], 2):
        if row and len(row) != len(header):
            raise ConfigurationError(f"{file}: row {number} has {len(row)} fields, the header has {len(header)}")
    return [dict(zip(header, row, strict=True)) for row in rows[1:] if row]


def _text(file: Path) -> str:
    try:
        with open(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as source:
            if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
                raise ConfigurationError(f"{file} is no regular file")
            content = source.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ConfigurationError(f"{file} is larger than 1 MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is not in UTF-8") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ConfigurationError("a key stands there twice")
    return found


def _no_number(word: str) -> NoReturn:
    raise ConfigurationError(f"{word} is no number")
