"""The JSON Schema (draft 2020-12) of the YAML form, made from the registries that read it.

It says which keys and kinds there are and what stands behind them. What only the loader can tell (names that stand for
something, a parameter that is used, an expression that is linear) is the loader's, and lint's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from agentguard.intent.file_form import _AGENT, _FORBID, _STEP, _THEN, _TOP
from agentguard.intent.finders import _WORDS as _MATCHES
from agentguard.intent.kinds import KINDS, WORDS
from agentguard.intent.limits import _RATE
from agentguard.intent.making import NAME
from agentguard.intent.params import _NAME, _TYPES, HOLE
from agentguard.intent.provenance import _KEYS
from agentguard.intent.sets import _FORMS
from agentguard.intent.step import ASKED
from agentguard.model.call import TOOL_NAME

Schema: TypeAlias = dict[str, Any]
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of, "minItems": 1}


def _closed(entries: Mapping[str, Schema], *required: str) -> Schema:
    found: Schema = {"type": "object", "properties": dict(entries), "additionalProperties": False, "minProperties": 1}
    return found | ({"required": list(required)} if required else {})


def _named(of: Schema) -> Schema:
    return {"type": "object", "additionalProperties": of, "minProperties": 1}


def _or_hole(schema: Schema) -> Schema:
    return {"anyOf": [schema, _ref("parameter")]}


def _exactly(expression: str) -> str:
    return f"^(?:{expression})$"


_TEXT: Final[Schema] = {"type": "string", "minLength": 1}
_COUNT: Final = _or_hole({"type": "integer", "minimum": 1})
_SIZE: Final = _or_hole({"type": "integer", "minimum": 0})
_FLAG: Final = _or_hole({"type": "boolean"})
_DURATION: Final = _or_hole({"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[0-9.]+(ms|s|m|h|d)$"}]})
_NUMBER: Final = _or_hole(
    {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]{1,4})?$"}]}
)
_TOOL: Final = _or_hole({"type": "string", "pattern": _exactly(TOOL_NAME.pattern)})
_PATTERN: Final = _or_hole({"type": "string", "pattern": _exactly(rf"\*|{TOOL_NAME.pattern}(\.\*)?")})
_PATTERNS: Final = _or_hole(_list(_PATTERN))
_CONSTRAINT: Final = _ref("constraint")
_CONSTRAINTS: Final = _named(_CONSTRAINT)
_ANYTHING: Final[Schema] = {}
_TEXTS: Final = _or_hole(_list(_TEXT))
_DAY: Final = _or_hole({"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"})
_LIMIT: Final = {"anyOf": [_COUNT, _closed({"n": _COUNT, "per": _DURATION}, "n", "per")]}
_EXAMPLE: Final = _closed({"tool": _TOOL, "args": {"type": "object"}}, "tool")
_MATCH: Final = {"anyOf": [{"enum": ["whole", *sorted(_MATCHES)]}, _closed({"regex": _TEXT, "group": _SIZE}, "regex")]}

# What stands behind each key of `from`, and behind each kind. A kind that is not here takes anything.
_FROM: Final[Mapping[str, Schema]] = MappingProxyType({
    "tool": _TOOL, "step": _TEXT, "args": _CONSTRAINTS, "field": _TEXT, "arg": _TEXT, "where": _CONSTRAINTS,
    "match": _MATCH, "unique": _FLAG,
})  # fmt: skip
_BEHIND: Final[Mapping[str, Schema]] = MappingProxyType({
    "eq": _ANYTHING,
    "in": _or_hole({"type": "array", "minItems": 1}),
    "set": _TEXT,
    "min": _NUMBER,
    "max": _NUMBER,
    "date": {"anyOf": [
        _closed({"on": _DAY}, "on"),
        _closed({"min": _DAY, "max": _DAY}),
        _closed({"month": _COUNT, "day": _COUNT}),
    ]},
    "prefix": _TEXT,
    "glob": _TEXT,
    "regex": _TEXT,
    "path": _closed({"under": _TEXT}, "under"),
    "url": _closed({"hosts": _TEXTS, "path": _TEXT, "schemes": _TEXTS}, "hosts"),
    "email": _closed({"domains": _TEXTS}, "domains"),
    "template": {"type": "object", "properties": {"text": _TEXT}, "required": ["text"],
                 "additionalProperties": _CONSTRAINT},
    "each": _CONSTRAINT,
    "items": _closed({"min": _SIZE, "max": _SIZE}),
    "keys": _CONSTRAINTS,
    "same_as": _TEXT,
    "is": _TEXT,
    "said": _or_hole({"const": True}),
    "bind": _TEXT,
    "optional": _CONSTRAINT,
    "not": _CONSTRAINT,
})  # fmt: skip


def _from() -> Schema:
    return _closed({key: _FROM.get(key, _ANYTHING) for key in _KEYS})


def _text() -> Schema:
    return _closed(
        {"max": _COUNT, "hosts": _TEXTS, "urls": {"anyOf": [{"enum": ["none"]}, _closed({"from": _from()})]}}
    )


_MADE: Final[Mapping[str, Callable[[], Schema]]] = MappingProxyType({"from": _from, "text": _text})


def _constraint() -> Schema:
    """A word, a list (any of) or a mapping of kinds (all of)."""
    kinds = {word: _kind(word) for word in KINDS if word not in WORDS}
    return {
        "anyOf": [
            {"enum": sorted(WORDS)},
            _list(_CONSTRAINT),
            _closed({**kinds, "fold": {"const": "case"}}),
        ]
    }


def _kind(word: str) -> Schema:
    behind = _MADE[word]() if word in _MADE else _BEHIND.get(word, _ANYTHING)
    return {"description": " ".join((KINDS[word].__doc__ or "").split("\n\n")[0].split()), **behind}


# What stands behind each key of an intent, of a step and of a forbid.
_STEP_KEYS: Final[Mapping[str, Schema]] = MappingProxyType({
    "id": _TEXT,
    "tool": _TOOL,
    "args": _CONSTRAINTS,
    "times": {"anyOf": [_COUNT, _closed({"n": _COUNT, "per": {"anyOf": [_TEXTS, _DURATION]}}, "n")]},
    "total": _named({"anyOf": [_NUMBER, _closed({"max": _NUMBER, "per": _DURATION}, "max")]}),
    "budget": _TEXT,
    "distinct": _TEXTS,
    "after": _TEXTS,
    "attempts": _COUNT,
    "accept_untrusted": _TEXT,
    "then": {"anyOf": [{"enum": list(_THEN)}, _closed({"ask": {"const": True}, "by": {"enum": list(ASKED)}},
                                                      "ask", "by")]},
})  # fmt: skip
_FORBID_KEYS: Final[Mapping[str, Schema]] = MappingProxyType(
    {"tool": _PATTERN, "tags": _TEXTS, "seen": _TEXTS, "args": _CONSTRAINTS}
)
_TOP_KEYS: Final[Mapping[str, Schema]] = MappingProxyType({
    "version": {"const": 1},
    "intent": _or_hole({"type": "string", "pattern": _exactly(NAME.pattern)}),
    "purpose": _TEXT,
    "ttl": _DURATION,
    "params": {"type": "object", "propertyNames": {"pattern": _exactly(_NAME.pattern)}, "minProperties": 1,
               "additionalProperties": {"anyOf": [
                   {"enum": list(_TYPES)},
                   _closed({"type": {"enum": list(_TYPES)}, "min": _NUMBER, "max": _NUMBER}, "type"),
               ]}},
    "sets": _named(_ref("set")),
    "define": _CONSTRAINTS,
    "everywhere": _CONSTRAINTS,
    "reads": _PATTERNS,
    "steps": _list(_ref("step")),
    "forbid": _list(_ref("forbid")),
    "otherwise": _closed({"then": {"const": "ask"}, "tools": _PATTERNS, "calls": _LIMIT}, "tools"),
    "agents": _named(_ref("agent")),
    "limits": _closed({"calls": _LIMIT, "denials": _LIMIT, "asks": _LIMIT,
                       "rate": _or_hole({"type": "string", "pattern": rf"{_exactly(_RATE.pattern)}|^[0-9]+/[0-9]"})}),
    "examples": _closed({"permit": _list(_EXAMPLE), "deny": _list(_EXAMPLE)}),
})  # fmt: skip


def intent_schema() -> Schema:
    """Return the JSON Schema of an intent file."""
    top = {key: _TOP_KEYS.get(key, _ANYTHING) for key in _TOP}
    agent = {key: _TOP_KEYS.get(key, _ANYTHING) for key in _AGENT}
    return {
        "$schema": DRAFT,
        "title": "An agentguard intent",
        "description": "What one task may do: with which tools, which arguments, how often. All else is denied.",
        **_closed(top, "version", "purpose"),
        "$defs": {
            "parameter": {"type": "string", "pattern": _exactly(HOLE.pattern)},
            "constraint": _constraint(),
            "step": _closed({key: _STEP_KEYS.get(key, _ANYTHING) for key in _STEP}, "tool"),
            "forbid": _closed({key: _FORBID_KEYS.get(key, _ANYTHING) for key in _FORBID}),
            "agent": _closed(agent),
            "set": {"anyOf": [_set(word, tuple(names)) for word, (_, names) in _FORMS.items()]},
        },
    }


def _set(word: str, names: tuple[str, ...]) -> Schema:
    behind = {"values": _or_hole({"type": "array"}), "with": {"type": "object"}}
    entries = {name: behind.get(name, _TEXT) for name in (word, *names)}
    return _closed({**entries, "may_be_empty": _FLAG}, word)
