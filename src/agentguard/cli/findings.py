"""Where a finding stands in its file, and how people and programs read it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentguard.cli.output import count, printable, say, say_json
from agentguard.intent.document import Document, path_text
from agentguard.intent.lint import Finding, Level

_SCALAR: Final = re.compile(r"\"[^\"]*\"|'[^']*'|[^\s,\[\]{}\"'#-][^,\]}#]*(?<! )")
_PLACE: Final = re.compile(r"(.*?):(\d+): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Placed:
    """A finding at its line of a file; `column` and `width` are 0 where only the line is known."""

    file: str
    line: int
    column: int
    width: int
    finding: Finding

    def members(self) -> dict[str, Any]:
        """What a program reads."""
        found = self.finding
        place = {"file": self.file, "line": self.line, "column": self.column, "path": path_text(found.path)}
        return {**place, "level": found.level, "message": found.text, "write": found.instead}


def placed(document: Document, finding: Finding) -> Placed:
    """Place a finding at its path in a file, or at the nearest part above it that is there."""
    path = finding.path
    while path and path not in document.lines:
        path = path[:-1]
    line, column = document.position(path)
    width = len(path[-1]) if path and isinstance(path[-1], str) else 0
    return Placed(document.file, line, column, width, finding)


def told(text: str, file: Path, document: Document | None) -> Placed:
    """Place a mistake that the loader told as `file:line: path: what; what to write`."""
    found = _PLACE.fullmatch(text)
    place, line, message = (found[1], int(found[2]), found[3]) if found else (str(file), 1, text)
    path = _path_in(message, document) if document is not None and place == document.file else None
    if document is None or path is None:
        return Placed(place, line, 0, 0, Finding(Level.ERROR, (), *_halves(message)))
    finding = Finding(Level.ERROR, path, *_halves(message.removeprefix(f"{path_text(path)}: ")))
    exact = placed(document, finding)
    return exact if exact.line == line else Placed(place, line, 0, 0, finding)


def _path_in(message: str, document: Document) -> tuple[str | int, ...] | None:
    fitting = [path for path in document.lines if path and message.startswith(f"{path_text(path)}: ")]
    return max(fitting, key=lambda path: len(path_text(path))) if fitting else None


def _halves(message: str) -> tuple[str, str]:
    what, _, instead = message.partition("; ")
    if guess := re.fullmatch(r"did you mean '(.*)'\?", instead):
        instead = guess[1]
    return what, instead.removeprefix("write ")


def report(found: list[Placed], files: int, *, as_json: bool) -> None:
    """Print what was found, by file and line, and a count."""
    found = sorted(found, key=lambda item: (item.file, item.line, item.column))
    errors = sum(item.finding.level is Level.ERROR for item in found)
    warnings = sum(item.finding.level is Level.WARNING for item in found)
    if as_json:
        findings = [item.members() for item in found]
        return say_json({"findings": findings, "files": files, "errors": errors, "warnings": warnings})
    texts: dict[str, list[str]] = {}
    for item in found:
        _show(item, texts)
    notes = len(found) - errors - warnings
    counted = f"{count(errors, 'error')}, {count(warnings, 'warning')}" + (f", {count(notes, 'note')}" if notes else "")
    return say(f"{count(files, 'file')} checked: {counted}")


def _show(item: Placed, texts: dict[str, list[str]]) -> None:
    say(f"{item.file}:{item.line}: {item.finding.level}: {item.finding.text}")
    if item.file not in texts:
        try:
            texts[item.file] = Path(item.file).read_text("utf-8-sig", "replace").split("\n")
        except OSError:
            texts[item.file] = []
    lines = texts[item.file]
    if 0 < item.line <= len(lines) and lines[item.line - 1].strip():
        _show_line(lines[item.line - 1].removesuffix("\r"), item)
    if item.finding.instead:
        say(f"    write: {item.finding.instead}")


def _show_line(line: str, item: Placed) -> None:
    column = item.column or len(line) - len(line.lstrip()) + 1
    width = item.width or (len(found[0]) if item.column and (found := _SCALAR.match(line, column - 1)) else 0)
    shown, before = printable(line), printable(line[: column - 1])
    under = len(printable(line[column - 1 : column - 1 + width])) if width else len(shown.rstrip()) - len(before)
    say(f"    {shown}")
    say(f"    {' ' * len(before)}{'^' * max(1, under)}")
