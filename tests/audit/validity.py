"""The part of JSON Schema (2020-12) that the schema of records uses; another keyword raises."""

from __future__ import annotations

import re
from typing import Any

from agentguard.audit.events import record_schema

SCHEMA = record_schema()
_TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int}
_SILENT = {"$schema", "$id", "$defs", "title", "description"}


def problems(value: Any, schema: Any = SCHEMA, path: str = "") -> list[str]:
    """What is not valid, and where; empty if all of it is."""
    found: list[str] = []
    for word, said in schema.items():
        if word not in _SILENT:
            found += _RULES[word](value, said, schema, path)
    return found


def problems_of_record(record: dict[str, Any]) -> list[str]:
    """The problems under the record's own event, which say more than `anyOf` does."""
    found = SCHEMA["$defs"].get(record["event"])
    return problems(record, found) if found is not None else [f"unknown event {record['event']}"]


def _reference(name: str) -> Any:
    found: Any = SCHEMA
    for part in name.removeprefix("#/").split("/"):
        found = found[part]
    return found


def _type(value: Any, said: str, schema: Any, path: str) -> list[str]:
    return [] if isinstance(value, _TYPES[said]) and not isinstance(value, bool) else [f"{path}: not {said}: {value!r}"]


def _properties(value: Any, said: Any, schema: Any, path: str) -> list[str]:
    return [each for key, item in value.items() if key in said for each in problems(item, said[key], f"{path}/{key}")]


def _others(value: Any, said: Any, schema: Any, path: str) -> list[str]:
    assert said is False
    return [f"{path}/{key}: unknown" for key in value if key not in schema["properties"]]


_RULES: dict[str, Any] = {
    "$ref": lambda value, said, _, path: problems(value, _reference(said), path),
    "anyOf": lambda value, said, _, path: [] if any(not problems(value, each) for each in said) else [f"{path}: none"],
    "type": _type,
    "const": lambda value, said, _, path: [] if value == said else [f"{path}: not {said!r}: {value!r}"],
    "enum": lambda value, said, _, path: [] if value in said else [f"{path}: not one of {said}: {value!r}"],
    "pattern": lambda value, said, _, path: [] if re.search(said, value) else [f"{path}: not {said}: {value!r}"],
    "minimum": lambda value, said, _, path: [] if value >= said else [f"{path}: below {said}: {value!r}"],
    "items": lambda value, said, _, path: [each for item in value for each in problems(item, said, f"{path}[]")],
    "required": lambda value, said, _, path: [f"{path}/{key}: missing" for key in said if key not in value],
    "properties": _properties,
    "additionalProperties": _others,
}
