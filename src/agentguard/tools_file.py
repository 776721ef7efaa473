"""`tools.yaml`: what is declared about tools that others wrote."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

from agentguard.intent.document import Problems, nearest
from agentguard.model.call import Effect, ToolSpec

_FORM: Final = "{version: 1, tools: {NAME: {effect: read}}}"
_EXAMPLES: Final = {"args": "{limit: {default: 10}}", "defaults": "{limit: 10}"}
TUPLES: Final = ("scopes", "untrusted", "record")
SETS: Final = ("data", "tags", "secret", "hidden", "null_is_empty", "parameters")
TEXTS: Final = ("name", "audience", "resource", "lease", "returns", "credential")
REVIEWED: Final = "reviewed_s256"  # of the tool as a model sees it; looked at where tools are wrapped
_FIELDS: Final = frozenset(ToolSpec.__struct_fields__) - {"credential"} | {"args", "reviewed_s256"}


def load_tools(path: str | os.PathLike[str]) -> Mapping[str, Mapping[str, Any]]:
    """Read a tools.yaml: for each tool the fields of its ToolSpec, as `guard_tool` and `guard_tools` take them.

    Args:
        path: the file, `{version: 1, tools: {NAME: {effect, audience, scopes, ...}}}`.

    Raises:
        ConfigurationError: with all mistakes at once, each with file, line and path.
    """
    from agentguard.intent.strict_file import read_strict_file

    document = read_strict_file(path)
    problems, tree = Problems(document), document.tree
    if not isinstance(tree, dict) or set(tree) != {"version", "tools"} or not isinstance(tree["tools"], dict):
        problems.add((), f"a tools file has the form {_FORM}")
    elif tree["version"] != 1:
        problems.add(("version",), f"version {tree['version']}; this release reads version 1")
    else:
        for tool, fields in tree["tools"].items():
            _look(tool, fields, problems)
    problems.raise_if_any(f"{document.file} is wrong:")
    assert isinstance(tree, dict)  # noqa: S101  # anything else was a problem
    return {tool: _declared(fields) for tool, fields in tree["tools"].items()}


def _declared(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields for a tool whose signature is there: `parameters` and `defaults` stand in for one where it is not."""
    args = {name: {"default": value} for name, value in fields.get("defaults", {}).items()} | fields.get("args", {})
    kept = {name: value for name, value in fields.items() if name not in ("parameters", "defaults", "args")}
    return {**kept, **({"args": args} if args else {})}


def _look(tool: str, fields: object, problems: Problems) -> None:
    if not isinstance(fields, dict):
        problems.add(("tools", tool), "write a mapping of fields, such as {effect: read}")
        return
    for name in fields:
        if name not in _FIELDS:
            problems.add(("tools", tool, name), f"no field of a tool{nearest(name, _FIELDS)}")
        elif name in _EXAMPLES and not isinstance(fields[name], dict):
            problems.add(("tools", tool, name), f"write a mapping of arguments, such as {_EXAMPLES[name]}")
        elif (why := field_problem(name, fields[name])) != "":
            problems.add(("tools", tool, name), why)


def field_problem(key: str, value: Any) -> str:
    """Return what to write in place of a value that a field of a tool does not take, or nothing."""
    if key == "effect" and value not in tuple(Effect):
        return f"write {', '.join(Effect)}"
    if key in (*TUPLES, *SETS) and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return f"write a list of names: {key}: [a, b]"
    if key in TEXTS and not isinstance(value, str):
        return "write text"
    if key == REVIEWED:
        found = re.fullmatch(r"[0-9a-f]{64}", value, re.ASCII) if isinstance(value, str) else None
        return "" if found else "write the 64 digits that tool_s256(tool) gives, in quotes"
    if key == "bytes" and not isinstance(value, bool):
        return "write true or false"
    if key == "args":
        fits = isinstance(value, dict) and all(isinstance(e, dict) and set(e) == {"default"} for e in value.values())
        return "" if fits else "write each argument's default: args: {limit: {default: 10}}"
    return "write a mapping of argument and value" if key == "defaults" and not isinstance(value, dict) else ""
