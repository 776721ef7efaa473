"""The tools file that stands beside intents: what each tool declares, and the names of its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from agentguard.errors import ConfigurationError
from agentguard.intent.document import Document, Problems, nearest
from agentguard.intent.strict_file import read_strict_file
from agentguard.model.call import Effect, ToolSpec
from agentguard.model.canonical import canonical
from agentguard.tools_file import REVIEWED, SETS, TEXTS, TUPLES, field_problem

TOOLS_FILE: Final = "tools.yaml"
_TOOLS_FORM: Final = "{version: 1, tools: {refund.create: {effect: write}}}"
_FIELDS: Final = (*TEXTS, "effect", *TUPLES, *SETS, "bytes", "defaults", "args", REVIEWED)


@dataclass(frozen=True, slots=True)
class Tools:
    """What a tools file declares.

    Args:
        specs: by guard name.
        document: the file.
        keys: under which key of `tools` each stands, by guard name.
    """

    specs: Mapping[str, ToolSpec]
    document: Document
    keys: Mapping[str, str]


def tools_beside(file: Path, chosen: Path | None) -> Tools | None:
    """Return the chosen tools file, or the one beside an intent file; None where there is none."""
    beside = file.parent / TOOLS_FILE
    if chosen is None and not beside.is_file():
        return None
    return read_tools(beside if chosen is None else chosen)


def read_tools(file: Path) -> Tools:
    """Read a tools file: the ToolSpec fields of each tool, and the names of its arguments as `parameters`.

    Raises:
        ConfigurationError: with all mistakes at once.
    """
    document = read_strict_file(file)
    problems, tree = Problems(document), document.tree
    if not isinstance(tree, dict) or not isinstance(tree.get("tools"), dict) or set(tree) != {"version", "tools"}:
        raise ConfigurationError(f"{file}: a tools file has the form {_TOOLS_FORM}")
    if tree["version"] != 1 or isinstance(tree["version"], bool):
        problems.add(("version",), "write version: 1 at the top")
    specs: dict[str, ToolSpec] = {}
    keys: dict[str, str] = {}
    for tool, fields in tree["tools"].items():
        spec = _spec(tool, fields, problems)
        if spec is not None:
            specs[spec.name], keys[spec.name] = spec, tool
    problems.raise_if_any(f"{file} is no valid tools file:")
    return Tools(specs, document, keys)


def _spec(tool: str, fields: Any, problems: Problems) -> ToolSpec | None:
    path = ("tools", tool)
    if not isinstance(fields, dict):
        problems.add(path, "write the tool's fields: {effect: read}")
        return None
    before = len(problems)
    made: dict[str, Any] = {"name": tool}
    for key, value in fields.items():
        if key not in _FIELDS:
            problems.add((*path, key), f"unknown field {key!r}{nearest(key, _FIELDS)}")
        elif (why := field_problem(key, value)) != "":
            problems.add((*path, key), why)
        else:
            made |= _field(key, value)
    if len(problems) > before:
        return None
    try:
        return ToolSpec(**made)
    except ConfigurationError as error:
        problems.add(path, "; ".join(error.problems) or str(error))
        return None


def _field(key: str, value: Any) -> dict[str, Any]:
    if key == "args":
        return _field("defaults", {name: entry["default"] for name, entry in value.items()})
    if key == REVIEWED:
        return {}
    if key == "defaults":
        return {key: {name: canonical(default, name) for name, default in value.items()}}
    makers = {"effect": Effect, **dict.fromkeys(TUPLES, tuple), **dict.fromkeys(SETS, frozenset)}
    return {key: partial(makers[key], value)() if key in makers else value}
