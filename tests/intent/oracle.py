"""A second, plain evaluator of the intent language, to compare the real one with. It reads the file form only.

Truth is True, False, or None for cannot tell. It knows the kinds below, and values made of text, numbers and lists.
"""

from __future__ import annotations

from decimal import Decimal
from fnmatch import fnmatchcase
from typing import Any

GONE: Any = object()


def truth(said: Any, value: Any, tree: dict[str, Any], call: dict[str, Any]) -> bool | None:
    """Judge a constraint in its file form."""
    if said == "any":
        return True
    if said == "absent":
        return value is GONE
    if isinstance(said, list):
        found = [truth(item, value, tree, call) for item in said]
        return True if True in found else None if None in found else False
    found = [kind(word, inside, value, tree, call) for word, inside in said.items()]
    return False if False in found else None if None in found else True


def kind(word: str, inside: Any, value: Any, tree: dict[str, Any], call: dict[str, Any]) -> bool | None:
    """Judge one kind."""
    if word == "optional":
        return value is GONE or truth(inside, value, tree, call)
    if word == "is":
        return truth(tree["define"][inside], value, tree, call)
    if value is GONE:
        return False
    if word == "not":
        opposite = truth(inside, value, tree, call)
        return None if opposite is None else not opposite
    if word in ("eq", "in", "set"):
        wanted = [inside] if word == "eq" else inside if word == "in" else tree["sets"][inside]["values"]
        return any(type(value) is type(item) and value == item for item in map(number, wanted))
    if word == "same_as":
        other = call.get(inside, GONE)
        return None if other is GONE else type(other) is type(value) and bool(other == value)
    if word in ("each", "items"):
        if not isinstance(value, tuple):
            return None
        if word == "items":
            return bool(inside.get("min", 0) <= len(value) <= inside.get("max", 10**9))
        found = [truth(inside, item, tree, call) for item in value]
        return None if None in found else False not in found
    if word in ("min", "max"):
        if not isinstance(value, Decimal):
            return None
        return value >= Decimal(inside) if word == "min" else value <= Decimal(inside)
    if not isinstance(value, str):
        return None
    if word == "prefix":
        return value.startswith(inside)
    assert word == "glob", word
    if value.count("/") == inside.count("/") and all(map(fnmatchcase, value.split("/"), inside.split("/"))):
        return not any(part in ("", ".", "..") for part in value.split("/")) or None
    return None if any(part in (".", "..") for part in value.split("/")) or "//" in value else False


def number(value: Any) -> Any:
    """Return a literal of the file as a call holds it."""
    return Decimal(value) if type(value) in (int, Decimal) else value


def admits(tree: dict[str, Any], tool: str, call: dict[str, Any], happened: frozenset[str]) -> list[str]:
    """Return the steps that admit a call of a write, in order; none if it is denied."""
    for entry in tree.get("forbid", ()):
        found = [truth(said, call.get(name, GONE), tree, call) for name, said in entry.get("args", {}).items()]
        if entry.get("tool", tool) == tool and False not in found:
            return []
    for name, said in tree.get("everywhere", {}).items():
        if name in call and truth(said, call[name], tree, call) is not True:
            return []
    steps: list[str] = []
    named = [step for step in tree.get("steps", ()) if step["tool"] == tool]
    for step in sorted(named, key=lambda step: step.get("then") == "ask"):
        args = step.get("args", {})
        found = [truth(said, call.get(name, GONE), tree, call) for name, said in args.items()]
        if not happened.issuperset(step.get("after", ())) or False in found or set(call) - set(args):
            continue
        if None in found:
            break
        steps.append(step["id"])
    return steps or ([] if named or tool not in tree.get("otherwise", {}).get("tools", ()) else ["otherwise"])
