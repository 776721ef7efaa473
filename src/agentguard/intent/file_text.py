"""Writes a tree as YAML that the strict reader reads back to the same tree; needs no YAML library."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from agentguard.errors import ConfigurationError
from agentguard.intent.literal import quoted
from agentguard.model.canonical import number_text

_WIDTH: Final = 110
# Text that needs no quotes anywhere in YAML; what looks like a number, a word of YAML or punctuation gets them.
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*( [A-Za-z0-9_./-]+)*")
_WORDS: Final = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
# What the strict reader refuses even as an escape.
_UNWRITABLE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
)


def yaml_text(tree: Mapping[str, Any]) -> str:
    """Return a mapping as YAML: short parts on one line, long ones as blocks.

    Raises:
        ConfigurationError: a text holds a control or bidirectional character.
    """
    return "\n".join(_mapping(tree, "")) + "\n"


def _mapping(tree: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in tree.items():
        yield from _entry(f"{indent}{_text(key)}:", value, indent)


def _entry(head: str, value: Any, indent: str) -> Iterator[str]:
    flow = _flow(value)
    deep = isinstance(value, list | dict) and any(isinstance(item, list | dict) for item in _inside(value))
    if (
        not isinstance(value, list | dict)
        or not value
        or (len(head) + len(flow) < _WIDTH and not (deep and not indent))
    ):
        yield f"{head} {flow}"
    elif isinstance(value, dict):
        yield head
        yield from _mapping(value, indent + "  ")
    else:
        yield head
        for item in value:
            yield from _item(item, indent + "  ")


def _item(item: Any, indent: str) -> Iterator[str]:
    if isinstance(item, dict) and item:
        lines = _mapping(item, indent + "  ")
        yield f"{indent}- {next(lines).lstrip()}"
        yield from lines
    else:
        yield from _entry(f"{indent}-", item, indent + "  ")


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _flow(value: Any) -> str:
    match value:
        case dict():
            return f"{{{', '.join(f'{_text(key)}: {_flow(item)}' for key, item in value.items())}}}"
        case list():
            return f"[{', '.join(map(_flow, value))}]"
        case str():
            return _text(value)
        case bool() | None:
            return "null" if value is None else str(value).lower()
    return number_text(Decimal(value))


def _text(text: str) -> str:
    if bad := _UNWRITABLE.search(text):
        raise ConfigurationError(
            f"the character U+{ord(bad[0]):04X} cannot stand in an intent file; this intent has no YAML form"
        )
    # `$${` stands for `${`, so that no text is taken for a parameter.
    text = text.replace("${", "$${")
    return text if _PLAIN.fullmatch(text) and text.lower() not in _WORDS else quoted(text)
