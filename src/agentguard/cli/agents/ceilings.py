"""Ceiling files, each read once: the intent that bounds an agent, with where each part of it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath

from agentguard.cli.agents.coded import Code, Coded, coded, told_as
from agentguard.cli.sources import with_members
from agentguard.errors import ConfigurationError
from agentguard.intent.check import compile_intent
from agentguard.intent.document import Document
from agentguard.intent.file_form import read_intent
from agentguard.intent.intent import Intent
from agentguard.intent.mistakes import Mistakes
from agentguard.intent.sets import EnvSet
from agentguard.intent.strict_file import read_strict_file


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A ceiling file; its intent is None where no guard could load it, and then what it admits is not known."""

    file: FilePath
    document: Document | None
    intent: Intent | None
    found: tuple[Coded, ...]

    @property
    def missing(self) -> bool:
        """Whether there is no such file."""
        return self.document is None and not self.found

    @property
    def why_unknown(self) -> str:
        """Why nobody can say what it admits, or nothing."""
        if self.intent is not None:
            return ""
        return f"the ceiling {self.file} is missing" if self.missing else f"the ceiling {self.file} is wrong"


def read_ceiling(file: FilePath) -> Ceiling:
    """Read a ceiling file as a guard does; its mistakes are findings at its own lines."""
    if not file.is_file():
        return Ceiling(file, None, None, ())
    document: Document | None = None
    try:
        document = read_strict_file(file)
        intent = read_intent(document, {}).changed(base=file.absolute().parent)
        literal, missing = with_members(intent, {}, stand_in=True)
        compile_intent(literal, ceiling=True)
    except ConfigurationError as error:
        return Ceiling(file, document, None, tuple(_wrong(error, file, document)))
    found = tuple(_without_members(document, intent, *entry) for entry in missing)
    usable = all(item.code is Code.UNKNOWN for item in found)
    return Ceiling(file, document, literal if usable else None, found)


def _wrong(error: ConfigurationError, file: FilePath, document: Document | None) -> Iterator[Coded]:
    if isinstance(error, Mistakes) and document is not None:
        yield from (coded(document, Code.CEILING_WRONG, path, text) for path, text in error.found)
    else:
        yield from (told_as(Code.CEILING_WRONG, text, file, document) for text in error.problems or (str(error),))


def _without_members(document: Document, intent: Intent, name: str, why: str) -> Coded:
    """A set whose members only the agent's own environment knows is no mistake of the file; any other is."""
    code = Code.UNKNOWN if isinstance(intent.sets.get(name), EnvSet) else Code.CEILING_WRONG
    return coded(document, code, ("sets", name), f"its members are not known here: {why}")
