"""What the author's tools read: intent files with values for their parameters and sets."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from agentguard.cli.tools_file import TOOLS_FILE
from agentguard.errors import ConfigurationError
from agentguard.intent.document import Document, nearest
from agentguard.intent.file_form import read_intent
from agentguard.intent.intent import Intent
from agentguard.intent.literal import FrozenMapping
from agentguard.intent.params import HOLE
from agentguard.intent.sets import ResolvedSet, SetSource, ValueSet

_DIGITS: Final = 1000  # more than any number of an intent has; Python reads no more than 4300
_NOT_GIVEN: Final = "no value was given; give one when you load the file"
_STAND_INS: Final[Mapping[str, Any]] = {
    "string": "unknown", "integer": 1, "decimal": 1, "bool": False, "date": "2000-01-01", "list": ["unknown"],
}  # fmt: skip


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that both lint and explain take."""
    parser.add_argument("--tools", type=Path, metavar="FILE", help=f"declared tools (default: {TOOLS_FILE} beside it)")
    parser.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="a parameter's value; a list with commas"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=A,B", help="the members of a set, instead of its source"
    )


def pairs(entries: Iterable[str], option: str) -> dict[str, str]:
    """Return `name=value` options as a mapping."""
    found: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name:
            raise ConfigurationError(f"{option} takes NAME=VALUE, such as {option} account=acme; not {entry!r}")
        if name in found:
            raise ConfigurationError(f"{option} gives {name!r} twice; give it once")
        found[name] = value
    return found


def params_of(document: Document, entries: Mapping[str, str]) -> dict[str, Any]:
    """Return parameters as the file's types want them; text that is none of its type is left for the file to refuse."""
    declared = declared_params(document)
    return {name: _typed(text, _type_of(declared.get(name))) for name, text in entries.items()}


def declared_params(document: Document) -> Mapping[str, Any]:
    """Return the parameters that a file declares, as they stand in it."""
    declared = document.tree.get("params") if isinstance(document.tree, dict) else None
    return declared if isinstance(declared, dict) else {}


def _type_of(said: Any) -> str:
    return str(said.get("type") if isinstance(said, dict) else said)


def _typed(text: str, kind: str) -> Any:
    if kind == "list":
        return _members(text)
    if kind == "bool" and text in ("true", "false"):
        return text == "true"
    if kind == "integer" and text.removeprefix("-").isdecimal() and text.isascii() and len(text) <= _DIGITS:
        return int(text)
    return text


def _members(text: str) -> list[str]:
    return [member.strip() for member in text.split(",")] if text.strip() else []


def stand_ins(document: Document, given: Mapping[str, Any], *, apart: bool = False) -> dict[str, Any]:
    """Return a value for every declared parameter: the given one, or one that its type and bounds allow.

    Args:
        document: the file.
        given: by name.
        apart: no two of them are equal, as far as their bounds are not.
    """
    made = dict(given)
    for number, (name, said) in enumerate(declared_params(document).items(), 2):
        bounds = [said[key] for key in ("max", "min") if key in said] if isinstance(said, dict) else []
        kind = _type_of(said)
        alone: Mapping[str, Any] = {
            "string": f"unknown{number}", "integer": number, "decimal": number, "list": [f"unknown{number}"],
        } if apart else {}  # fmt: skip
        made.setdefault(name, bounds[0] if bounds else alone.get(kind, _STAND_INS.get(kind, "unknown")))
    return made


def load_problems(document: Document, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return every mistake of an intent file; that a parameter has no value is none."""
    try:
        read_intent(document, given)
    except ConfigurationError as error:
        return tuple(text for text in error.problems or (str(error),) if _NOT_GIVEN not in text)
    return ()


def load(document: Document, given: Mapping[str, Any]) -> Intent:
    """Build an intent from a file and the values of its parameters; it knows its folder."""
    missing = [name for name in _holes(document.tree) if name not in given]
    declared = declared_params(document)
    wanted = [f"--param {name}=VALUE" for name in dict.fromkeys(missing) if name in declared]
    if wanted and not load_problems(document, given):
        raise ConfigurationError(f"{document.file} has parameters without a value; give {' '.join(wanted)}")
    return read_intent(document, given).changed(base=Path(document.file).absolute().parent)


def _holes(node: Any) -> list[str]:
    if isinstance(node, str):
        hole = HOLE.fullmatch(node)
        return [hole[1]] if hole else []
    items = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [name for item in items for name in _holes(item)]


def with_members(
    intent: Intent, members: Mapping[str, str], *, stand_in: bool
) -> tuple[Intent, tuple[tuple[str, str], ...]]:
    """Return the intent with the members of its sets, and what could not be had: the set's name, and why.

    Args:
        intent: what was loaded.
        members: given by the author, by the name of the set.
        stand_in: whether a set without members gets one that nothing is equal to; else that is a mistake.
    """
    missing: dict[str, str] = {}
    made = _with_members(intent, members, missing)
    if unknown := sorted(set(members) - set_names(intent)):
        raise ConfigurationError(f"--set names {unknown[0]!r}, which is no set of this intent"
                                 f"{nearest(unknown[0], set_names(intent))}")  # fmt: skip
    if missing and not stand_in:
        options = " ".join(f"--set {name}=A,B" for name in missing)
        why = "; ".join(f"{name}: {text}" for name, text in missing.items())
        raise ConfigurationError(f"sets without members ({why}); give them: {options}")
    return made, tuple(missing.items())


def _with_members(intent: Intent, members: Mapping[str, str], missing: dict[str, str]) -> Intent:
    sets = {name: _resolved(name, source, intent, members, missing) for name, source in intent.sets.items()}
    agents = {
        name: _with_members(sub.changed(base=intent.base), members, missing) for name, sub in intent.agents.items()
    }
    return intent.changed(sets=FrozenMapping(sets), agents=FrozenMapping(agents))


def _resolved(
    name: str, source: SetSource, intent: Intent, members: Mapping[str, str], missing: dict[str, str]
) -> ValueSet:
    if name in members:
        return ValueSet(tuple(_members(members[name])), may_be_empty=True)
    try:
        if isinstance(source, ResolvedSet):
            raise ConfigurationError(f"the application's resolver {source.resolver!r} makes it")
        return source.resolved({}, intent.base or Path.cwd())
    except ConfigurationError as error:
        missing[name] = str(error)
        return ValueSet((f"a member of {name} that is not known here",))


def set_names(intent: Intent) -> set[str]:
    """Return the names of the sets of an intent and of what its sub-agents get."""
    return set(intent.sets).union(*(set_names(sub) for sub in intent.agents.values()))
