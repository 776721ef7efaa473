"""The YAML form of a constraint: a word, a list (any of) or a mapping of kinds (all of)."""

from __future__ import annotations

from functools import partial
from typing import Any

from msgspec.structs import replace

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, all_of, any_of
from agentguard.intent.document import Path, nearest
from agentguard.intent.kinds import KINDS, WORDS
from agentguard.intent.mistakes import Notes
from agentguard.intent.params import FromParameter, MappingFromParameter
from agentguard.intent.presence import ANY
from agentguard.intent.references import InSet
from agentguard.intent.values import In


def read_constraint(node: Any, path: Path, notes: Notes) -> Constraint:
    """Return the constraint that stands at a path; a mistake is noted there, and `any` stands in for it."""
    otherwise: Constraint = ANY
    return notes.take(path, partial(_constraint, node, path, notes), otherwise)


def _constraint(node: Any, path: Path, notes: Notes) -> Constraint:
    # INVARIANT: what the application passes is a value: an account named "any" does not admit every account.
    if isinstance(node, FromParameter | MappingFromParameter):
        raise ConfigurationError("a parameter is a value, no constraint; write {eq: ${name}}")
    if isinstance(node, str) and node in WORDS:
        return WORDS[node]()
    if isinstance(node, list) and node:
        return any_of([read_constraint(item, (*path, index), notes) for index, item in enumerate(node)])
    if isinstance(node, dict) and node:
        return _kinds(node, path, notes)
    if isinstance(node, list | dict):
        raise ConfigurationError("an empty constraint says nothing; write any, or absent")
    raise ConfigurationError("a bare value is no constraint; write {eq: VALUE}, or any")


def _kinds(node: dict[str, Any], path: Path, notes: Notes) -> Constraint:
    before = len(notes.found)
    fold = _fold(node, path, notes)
    found = [_kind(word, inside, (*path, word), fold, notes) for word, inside in node.items() if word != "fold"]
    return all_of([made for made in found if made is not None]) if len(notes.found) == before else ANY


def _kind(word: str, inside: Any, path: Path, fold: bool, notes: Notes) -> Constraint | None:
    if word not in KINDS or word in WORDS:
        notes.add(path, _unknown_kind(word))
        return None

    def make() -> Constraint | None:
        made = KINDS[word].read(inside, lambda node: read_constraint(node, path, notes))
        return replace(made, fold=True) if fold and isinstance(made, In | InSet) else made

    return notes.take(path, make, None)


def _fold(node: dict[str, Any], path: Path, notes: Notes) -> bool:
    if "fold" not in node:
        return False
    if node["fold"] != "case":
        notes.add((*path, "fold"), "write fold: case, or leave it out")
    elif not any(word in KINDS and KINDS[word].folds for word in node):
        notes.add((*path, "fold"), "fold: case stands beside eq, in or set; write it there")
    return True


def _unknown_kind(word: str) -> str:
    if word in WORDS:
        return f"{word!r} stands alone, as one word: write {word} instead of a mapping"
    return f"unknown kind {word!r}" + (nearest(word, KINDS) or f"; the kinds are {', '.join(KINDS)}")
