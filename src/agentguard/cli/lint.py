"""`agentguard lint`: what is wrong with intent files, each with its line and what to write instead."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentguard.cli.findings import Placed, placed, report, told
from agentguard.cli.output import FAILED, OK
from agentguard.cli.sources import (
    add_sources,
    declared_params,
    load,
    load_problems,
    pairs,
    params_of,
    set_names,
    stand_ins,
    with_members,
)
from agentguard.cli.tools_file import TOOLS_FILE, Tools, tools_beside
from agentguard.errors import ConfigurationError
from agentguard.intent.document import Document, nearest
from agentguard.intent.intent import Intent
from agentguard.intent.lint import Finding, Level, lint
from agentguard.intent.strict_file import read_strict_file
from agentguard.model.call import Effect


@dataclass(frozen=True, slots=True)
class _Names:
    """The parameters and the sets that some of the files have."""

    params: set[str]
    sets: set[str]

    def refuse_others(self, params: Mapping[str, str], members: Mapping[str, str]) -> None:
        """Refuse an option that is for none of the files: it is a wrong name."""
        for option, given, known in (("--param", params, self.params), ("--set", members, self.sets)):
            for name in given.keys() - known:
                raise ConfigurationError(f"{option} names {name!r}, which no file has{nearest(name, known)}")


def add(commands: Any) -> None:
    """Add `lint`."""
    text = "Check intent files. Errors and warnings fail, notes do not."
    parser = commands.add_parser("lint", help="check intent files", description=text)
    parser.add_argument("paths", type=Path, nargs="+", metavar="FILE", help="intent files, or folders of them")
    add_sources(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check every file, and say what was found."""
    params, members = pairs(arguments.param, "--param"), pairs(arguments.set, "--set")
    files = list(dict.fromkeys(file for path in arguments.paths for file in _intents(path)))
    if not files:
        raise ConfigurationError(f"no intent in {', '.join(map(str, arguments.paths))}: an intent file has the key "
                                 "intent")  # fmt: skip
    found: list[Placed] = []
    used: dict[Path, tuple[Tools, set[str]]] = {}
    broken: dict[Path, None] = {}
    known = _Names(set(), set())
    for file in files:
        tools = _tools_of(file, arguments.tools, used, broken, found)
        found += _file(file, tools, params, members, known)
    if not any(item.finding.level is Level.ERROR for item in found):
        known.refuse_others(params, members)
    for declared, names in used.values():
        found += _without_credential(declared, names)
    report(found, len(files), as_json=arguments.json)
    return FAILED if any(item.finding.level is not Level.NOTE for item in found) else OK


def _intents(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for file in sorted(path.rglob("*.yaml")):
        if file.name != TOOLS_FILE and re.search(r"^[\"']?intent[\"']?[ ]*:", file.read_text("utf-8", "replace"), re.M):
            yield file


def _tools_of(
    file: Path,
    chosen: Path | None,
    used: dict[Path, tuple[Tools, set[str]]],
    broken: dict[Path, None],
    found: list[Placed],
) -> tuple[Tools, set[str]] | None:
    """Return the tools of an intent file, read once; the mistakes of a tools file are found once."""
    place = chosen or file.parent / TOOLS_FILE
    if place in broken:
        return None
    if place not in used:
        try:
            tools = tools_beside(file, chosen)
        except ConfigurationError as error:
            broken[place] = None
            found += [told(text, place, None) for text in error.problems or (str(error),)]
            return None
        if tools is None:
            return None
        used[place] = (tools, set())
    return used[place]


def _file(
    file: Path,
    tools: tuple[Tools, set[str]] | None,
    params: Mapping[str, str],
    members: Mapping[str, str],
    known: _Names,
) -> Iterator[Placed]:
    try:
        document = read_strict_file(file)
    except ConfigurationError as error:
        yield from (told(text, file, None) for text in error.problems or (str(error),))
        return
    declared = declared_params(document)
    known.params.update(declared)
    given = params_of(document, {name: text for name, text in params.items() if name in declared})
    if problems := load_problems(document, given):
        yield from (told(text, file, document) for text in problems)
        return
    missing = [name for name in declared if name not in given]
    try:
        intent = load(document, stand_ins(document, given))
        known.sets.update(set_names(intent))
        own = {name: text for name, text in members.items() if name in set_names(intent)}
        intent, unresolved = with_members(intent, own, stand_in=True)
        findings = list(lint(intent, tools[0].specs if tools else None))
        if missing:
            findings = _whatever_they_are(findings, document, given, own, tools)
    except ConfigurationError as error:
        text = f"it cannot be checked with values that stand in for its parameters: {error}"
        yield placed(document, Finding(Level.ERROR, ("params",), text, f"--param {(missing or ['NAME'])[0]}=VALUE"))
        return
    if tools:
        tools[1].update(_tools_in(intent))
    yield from (placed(document, item) for item in _fair(findings, missing, unresolved))
    yield from (placed(document, item) for item in _unchecked(intent, tools is not None, missing, unresolved))


def _whatever_they_are(
    findings: list[Finding],
    document: Document,
    given: Mapping[str, Any],
    members: Mapping[str, str],
    tools: tuple[Tools, set[str]] | None,
) -> list[Finding]:
    """Return what is found also where no two of the parameters without a value are equal."""
    try:
        intent = load(document, stand_ins(document, given, apart=True))
    except ConfigurationError:
        return findings
    intent, _ = with_members(intent, members, stand_in=True)
    others = lint(intent, tools[0].specs if tools else None)
    return [item for item in findings if item in others]


def _tools_in(intent: Intent) -> Iterator[str]:
    yield from (step.tool for step in intent.steps)
    for sub in intent.agents.values():
        yield from _tools_in(sub)


def _fair(findings: Iterable[Finding], missing: list[str], unresolved: tuple[tuple[str, str], ...]) -> list[Finding]:
    """Leave out what examples show about values that only stand in."""
    return [item for item in findings if "examples" not in item.path or not (missing or unresolved)]


def _unchecked(
    intent: Intent, has_tools: bool, missing: list[str], unresolved: tuple[tuple[str, str], ...]
) -> Iterator[Finding]:
    """Yield what could not be checked, and what to give so that it is."""
    if not has_tools:
        text = f"no {TOOLS_FILE} beside it, so every tool counts as a write, and names were not checked"
        yield Finding(Level.NOTE, ("intent",), text, "--tools FILE")
    options = [*(f"--param {name}=VALUE" for name in missing), *(f"--set {name}=A,B" for name, _ in unresolved)]
    if intent.examples and options:
        yield Finding(Level.NOTE, ("examples",), "they were not run: values are missing", " ".join(options))
    for name, why in unresolved:
        level = Level.NOTE if "resolver" in why or "environment" in why else Level.ERROR
        yield Finding(level, ("sets", name), f"its members are not known here: {why}", f"--set {name}=A,B")


def _without_credential(tools: Tools, used: set[str]) -> Iterator[Placed]:
    for name in sorted(used & tools.specs.keys()):
        spec = tools.specs[name]
        if spec.effect is not Effect.READ and not spec.audience:
            text = f"{name} writes without a credential, so no API can tell which task called it"
            path = ("tools", tools.keys[name])
            yield placed(tools.document, Finding(Level.NOTE, path, text, "audience: https://api.example.com"))
