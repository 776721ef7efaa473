"""What `agentguard.yaml` says about agents, read as far as it can be read: a mistake is noted, and reading goes on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Final

from agentguard.cli.agents.ceilings import Ceiling, read_ceiling
from agentguard.cli.agents.coded import Code, Coded, coded, told_as
from agentguard.cli.tools_file import TOOLS_FILE, Tools, tools_beside
from agentguard.config_file import Settings, read_settings
from agentguard.errors import ConfigurationError
from agentguard.intent.document import Document, Path, Problems
from agentguard.intent.strict_file import read_strict_file
from agentguard.model.call import ToolSpec
from agentguard.registry import RegisteredAgent

_TOP: Final = 2  # agents.NAME
KEYS: Final = frozenset({
    "owners", "purpose", "identity", "environments", "not_before", "expires", "status", "purposes", "tools", "hand_on",
    "ceiling", "limits",
})  # fmt: skip


class Noted(Problems):
    """Keeps the path of every mistake, so that its code and the part that cannot be known follow from it."""

    def __init__(self, document: Document) -> None:
        super().__init__(document)
        self.at: list[tuple[Path, str]] = []

    def add_at(self, position: tuple[int, int], path: Path, text: str) -> None:
        super().add_at(position, path, text)
        self.at.append((path, text))

    def include(self, path: Path, error: ConfigurationError) -> None:
        for text in error.problems or (str(error),):
            self.add(path, text)

    def hides(self, part: Path) -> bool:
        """Whether a mistake at a part, or above it, keeps the part from being known."""
        return any(part[: len(path)] == path for path, _ in self.at)


@dataclass(frozen=True, slots=True)
class Entry:
    """One agent of the registry.

    Args:
        agent: what could be read of it.
        ceiling: its ceiling file, or None where it names none.
        unread: keys with a mistake; what stands there is not known.
    """

    agent: RegisteredAgent
    ceiling: Ceiling | None
    unread: frozenset[str]

    @property
    def name(self) -> str:
        return self.agent.agent.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The registry with the files that it names.

    Args:
        document: the configuration.
        settings: what it says.
        entries: the agents that could be read, by name.
        lost: names under `agents` of which no agent could be made.
        tools: what the tools declare; None where nobody knows.
        why_no_tools: why not.
        audit: the folder of the audit log; None where that cannot be read.
        unread: keys at the top with a mistake.
        found: mistakes of the configuration, the ceilings and the tools file.
    """

    document: Document
    settings: Settings
    entries: Mapping[str, Entry]
    lost: tuple[str, ...]
    tools: Tools | None
    why_no_tools: str
    audit: FilePath | None
    unread: frozenset[str]
    found: tuple[Coded, ...]

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """The declared tools by name; none where nobody knows them."""
        return tuple(spec for _, spec in sorted(self.tools.specs.items())) if self.tools else ()

    @property
    def files(self) -> int:
        """How many files were looked at."""
        return 1 + len({entry.ceiling.file for entry in self.entries.values() if entry.ceiling}) + bool(self.tools)

    def said(self, name: str, key: str) -> Any:
        """What the file says under a key of an agent, as it stands there."""
        return self.document.tree["agents"][name].get(key)

    def place(self, name: str, *path: str) -> Path:
        """The path of an item of a list under an agent: the last part is the item, the rest leads to the list."""
        at, items = ("agents", name, *path[:-1]), self.document.tree["agents"][name]
        for part in path[:-1]:
            items = items[part]
        return (*at, items.index(path[-1]))


def read_inventory(file: FilePath, tools: FilePath | None) -> Inventory:
    """Read a configuration, the ceilings that it names and the tools file.

    Args:
        file: the configuration; relative paths in it are relative to it.
        tools: the tools file; None for `tools.yaml` beside the configuration.

    Raises:
        ConfigurationError: the configuration is no file of strict YAML.
    """
    document = read_strict_file(file)
    noted = Noted(document)
    settings = read_settings(document, noted)
    unread = _unread(document, noted)
    made: dict[FilePath | None, Ceiling] = {file: read_ceiling(file) for file in settings.ceilings.values()}
    entries = {
        agent.agent.name: Entry(
            agent, made.get(_ceiling_of(settings, agent)), unread.get(agent.agent.name, frozenset())
        )
        for agent in settings.agents
        if _entries(document).get(agent.agent.name)
    }
    declared, why, wrong = _tools(file, tools)
    found = [_mistake(document, path, text) for path, text in noted.at]
    found += [item for ceiling in made.values() for item in ceiling.found]
    return Inventory(
        document=document,
        settings=settings,
        entries=entries,
        lost=tuple(name for name in _entries(document) if name not in entries),
        tools=declared,
        why_no_tools=why,
        audit=None if noted.hides(("audit", "dir")) else settings.audit.directory,
        unread=frozenset(str(path[0]) for path, _ in noted.at if path),
        found=(*found, *wrong),
    )


def _entries(document: Document) -> dict[str, dict[str, Any]]:
    """The agents as the file says them; one that is no mapping says nothing."""
    agents = document.tree.get("agents") if isinstance(document.tree, dict) else None
    entries = agents if isinstance(agents, dict) else {}
    return {name: said if isinstance(said, dict) else {} for name, said in entries.items()}


def _ceiling_of(settings: Settings, agent: RegisteredAgent) -> FilePath | None:
    return settings.ceilings.get(agent.agent.name)


def _tools(file: FilePath, chosen: FilePath | None) -> tuple[Tools | None, str, list[Coded]]:
    place = chosen or file.parent / TOOLS_FILE
    try:
        found = tools_beside(file, chosen)
    except ConfigurationError as error:
        return None, f"{place} is wrong", [told_as(Code.INVALID, text, place, None) for text in _texts(error)]
    return found, "" if found else f"there is no {TOOLS_FILE} beside the configuration: give --tools FILE", []


def _texts(error: ConfigurationError) -> tuple[str, ...]:
    return error.problems or (str(error),)


def _mistake(document: Document, path: Path, text: str) -> Coded:
    code = _code(document, path)
    if code is Code.OWNERLESS:
        return coded(document, code, path, f"nobody answers for {path[1]}", "owners: {business: ann@bank.test}")
    return told_as(code, f"{document.where(path)}: {text}", FilePath(document.file), document)


def _code(document: Document, path: Path) -> Code:
    match path:
        case ("agents", _, "owners") | ("agents", _, "owners", "business"):
            return Code.OWNERLESS
        case ("agents", _, "hand_on", heir) if heir not in _entries(document):
            return Code.HAND_ON_UNREGISTERED
    return Code.INVALID


def _unread(document: Document, noted: Noted) -> dict[str, frozenset[str]]:
    """The keys of each agent of which nobody can say what is meant."""
    found: dict[str, set[str]] = {}
    for path, _ in noted.at:
        said = _code(document, path) is Code.HAND_ON_UNREGISTERED or (path not in document.lines and "owners" in path)
        if len(path) > _TOP and path[0] == "agents" and not said:
            found.setdefault(str(path[1]), set()).update(_meant(str(path[2]), _entries(document)[str(path[1])]))
    return {name: frozenset(keys) for name, keys in found.items()}


def _meant(key: str, said: Mapping[str, Any]) -> frozenset[str]:
    """The keys that a mistaken one may stand for: itself, the known one most like it, or else any that is not there."""
    if key in KEYS:
        return frozenset({key})
    return frozenset(difflib.get_close_matches(key, KEYS, 1)) or KEYS - said.keys()
