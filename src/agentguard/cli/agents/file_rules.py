"""What is wrong with the files that a registry names: ceilings, and the intents that its purposes pin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Final

from agentguard.cli.agents.ceilings import Ceiling
from agentguard.cli.agents.coded import Code, Coded, at_file, coded
from agentguard.cli.agents.inventory import Entry, Inventory
from agentguard.cli.agents.rules import Terms
from agentguard.cli.agents.separation import Who, cell
from agentguard.errors import ConfigurationError
from agentguard.intent.charges import limit_charges
from agentguard.intent.constraint import AnyOf, Constraint
from agentguard.intent.document import Path, nearest
from agentguard.intent.intent import Intent
from agentguard.intent.limits import Limits
from agentguard.intent.presence import AnyValue, OptionalValue
from agentguard.intent.references import Is
from agentguard.intent.step import Step
from agentguard.intent.strict_file import read_strict_file
from agentguard.intent.tree import hash_of
from agentguard.model.call import Effect, ToolSpec
from agentguard.model.canonical import MAX_BYTES
from agentguard.model.decision import Outcome
from agentguard.registry import admits

_INTENT_KEY: Final = re.compile(rb"^[\"']?intent[\"']?[ ]*:", re.MULTILINE)
_FOLDER: Final = "ceilings"


def file_findings(inventory: Inventory, terms: Terms) -> Iterator[Coded]:
    """Yield what is wrong with ceilings, with the table of separation, and with pinned purposes."""
    yield from _missing(inventory)
    yield from _unused_files(inventory)
    for ceiling, entries in _ceilings(inventory):
        yield from _unused_steps(inventory, ceiling, entries)
    yield from _unattended(inventory)
    yield from _purposes(inventory, terms)
    if inventory.tools is None:
        text = f"which tools there are is unknown, so names and separation were not checked: {inventory.why_no_tools}"
        yield coded(inventory.document, Code.UNKNOWN, ("agents",), text)


# --- ceilings ---------------------------------------------------------------------------------------------------------


def _ceilings(inventory: Inventory) -> list[tuple[Ceiling, list[Entry]]]:
    found: dict[FilePath, tuple[Ceiling, list[Entry]]] = {}
    for entry in inventory.entries.values():
        if entry.ceiling is not None:
            found.setdefault(entry.ceiling.file, (entry.ceiling, []))[1].append(entry)
    return list(found.values())


def _missing(inventory: Inventory) -> Iterator[Coded]:
    for ceiling, entries in _ceilings(inventory):
        for entry in entries if ceiling.missing else ():
            text = f"{ceiling.file} is the ceiling of {entry.name}, and there is no such file"
            yield coded(inventory.document, Code.CEILING_MISSING, ("agents", entry.name, "ceiling"), text)


def _unused_files(inventory: Inventory) -> Iterator[Coded]:
    """Yield the intent files beside ceilings that no agent names; the configuration's own folder holds other files."""
    base = FilePath(inventory.document.file).parent
    named = {ceiling.file.resolve() for ceiling, _ in _ceilings(inventory)}
    folders = {file.parent for file in named} | {(base / _FOLDER).resolve()}
    # A ceiling whose name cannot be read may be any of them.
    if any("ceiling" in entry.unread for entry in inventory.entries.values()) or inventory.lost:
        return
    for folder in sorted(folders - {base.resolve()}):
        for file in sorted(folder.glob("*.yaml")) if folder.is_dir() else ():
            if file not in named and _is_intent(file):
                shown = base / file.relative_to(base.resolve()) if file.is_relative_to(base.resolve()) else file
                yield at_file(Code.CEILING_UNUSED, shown, "no agent names this ceiling", "ceiling: FILE at its agent")


def _is_intent(file: FilePath) -> bool:
    try:
        with file.open("rb") as source:
            return bool(_INTENT_KEY.search(source.read(MAX_BYTES)))
    except OSError:
        return False


def _unused_steps(inventory: Inventory, ceiling: Ceiling, entries: list[Entry]) -> Iterator[Coded]:
    if ceiling.intent is None or ceiling.document is None:
        return
    who = " and ".join(entry.name for entry in entries)
    for index, step in enumerate(ceiling.intent.steps):
        path = ("steps", index, "tool")
        if not any(_may_concern(entry, step) for entry in entries):
            text = f"{who} may neither call {step.tool} nor hand it on, so this step is never used"
            yield coded(ceiling.document, Code.CEILING_STEP_UNUSED, path, text)
        elif inventory.tools is not None and step.tool not in inventory.tools.specs:
            text = f"no tool is called {step.tool!r}{nearest(step.tool, inventory.tools.specs)}"
            yield coded(ceiling.document, Code.UNKNOWN_TOOL, path, text)


def _may_concern(entry: Entry, step: Step) -> bool:
    if entry.unread & {"tools", "hand_on"} or entry.agent.allows(step.tool, None):
        return True
    return any(admits(patterns, step.tool) for patterns in entry.agent.hand_on.values())


# --- separation -------------------------------------------------------------------------------------------------------


def _unattended(inventory: Inventory) -> Iterator[Coded]:
    """Yield the acts that an agent may do alone, as often as it likes, with whatever arguments it likes."""
    for entry in inventory.entries.values():
        for spec in inventory.specs:
            found = cell(entry, spec) if spec.effect is not Effect.READ or "money" in spec.tags else None
            if found is None or Who.ALONE not in found.outcomes:
                continue
            what = f"{entry.name} may call {spec.name} ({', '.join((spec.effect, *sorted(spec.tags)))}) alone"
            instead = "then: ask, or a bound: arguments, times or total in the ceiling"
            if entry.ceiling is None:
                text, path = f"{what}: no ceiling bounds it and no person is asked", ("agents", entry.name)
                yield coded(inventory.document, Code.UNATTENDED_WRITE, path, text, f"ceiling: FILE, with {instead}")
            elif entry.ceiling.intent is not None and entry.ceiling.document is not None:
                text = f"{what}: the ceiling bounds neither its arguments nor how often"
                for where in _open_places(entry.ceiling.intent, spec):
                    yield coded(entry.ceiling.document, Code.UNATTENDED_WRITE, where, text, instead)


def _open_places(ceiling: Intent, spec: ToolSpec) -> Iterator[Path]:
    """Yield where a ceiling lets a tool be called without any bound."""
    takes = [said for name, said in ceiling.everywhere.items() if spec.parameters is None or name in spec.parameters]
    if limit_charges(ceiling.limits or Limits()) or any(_bounds(said, ceiling) for said in takes):
        return
    steps = [(index, step) for index, step in enumerate(ceiling.steps) if step.tool == spec.name]
    for index, step in steps:
        if step.outcome is Outcome.PERMIT and not _bounded(step, spec, ceiling):
            yield ("steps", index, "tool")
    if not steps:
        yield ("reads",)


def _bounded(step: Step, spec: ToolSpec, ceiling: Intent) -> bool:
    """Whether a step says anything about its arguments or its number; arguments it leaves out have to be absent."""
    if step.uses or step.totals or any(_bounds(said, ceiling) for said in step.args.values()):
        return True
    return (spec.parameters is None and not step.args) or bool((spec.parameters or frozenset()) - step.args.keys())


def _bounds(said: Constraint, ceiling: Intent) -> bool:
    """Whether a constraint takes less than any value; one that stands under a name is looked up."""
    if isinstance(said, AnyOf):
        return all(_bounds(item, ceiling) for item in said.alternatives)
    if isinstance(said, OptionalValue | Is):
        return _bounds(said.constraint if isinstance(said, OptionalValue) else ceiling.define[said.name], ceiling)
    return not isinstance(said, AnyValue)


# --- purposes ---------------------------------------------------------------------------------------------------------


def _purposes(inventory: Inventory, terms: Terms) -> Iterator[Coded]:
    pinned = [entry for entry in inventory.entries.values() if any(entry.agent.purposes.values())]
    if terms.intents is None:
        for entry in pinned:
            text = (
                f"whether the pinned purposes of {entry.name} still are what was pinned is unknown: give --intents DIR"
            )
            yield coded(inventory.document, Code.UNKNOWN, ("agents", entry.name, "purposes"), text)
        return
    hashes, unread = _sources(terms.intents)
    yield from (at_file(Code.INVALID, file, why) for file, why in unread.items())
    for entry in inventory.entries.values():
        for name, pin in entry.agent.purposes.items() if "purposes" not in entry.unread else ():
            yield from _purpose(inventory, entry, name, pin, hashes)


def _purpose(
    inventory: Inventory, entry: Entry, name: str, pin: str | None, hashes: Mapping[str, frozenset[str]]
) -> Iterator[Coded]:
    said = [
        item if isinstance(item, str) else next(iter(item), None) for item in inventory.said(entry.name, "purposes")
    ]
    path = ("agents", entry.name, "purposes", said.index(name))
    if name not in hashes:
        text = f"no intent in the folder is called {name!r}{nearest(name, hashes)}"
        yield coded(inventory.document, Code.PURPOSE_UNKNOWN, path, text)
    elif pin is not None and pin not in hashes[name]:
        text = f"the intent {name} is not the file that was pinned, so {entry.name} cannot open it"
        found = " or ".join(f"s256:{value}" for value in sorted(hashes[name]))
        yield coded(inventory.document, Code.PURPOSE_CHANGED, path, text, f'{name}: "{found}", once it was looked at')


def _sources(folder: FilePath) -> tuple[dict[str, frozenset[str]], dict[FilePath, str]]:
    """The `source_s256` of every intent file below a folder, by the intent's name; and what cannot be read."""
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: there is no such folder; --intents names the folder of intent files")
    hashes: dict[str, frozenset[str]] = {}
    unread: dict[FilePath, str] = {}
    for file in sorted(folder.rglob("*.yaml")):
        if not _is_intent(file):
            continue
        try:
            tree = read_strict_file(file).tree
            name = tree.get("intent") if isinstance(tree, dict) else None
            if isinstance(name, str):
                hashes[name] = hashes.get(name, frozenset()) | {hash_of(tree)}
        except ConfigurationError as error:
            unread[file] = f"this intent cannot be read: {'; '.join(error.problems) or error}"
    return hashes, unread
