"""Named sets: where their members come from. Resolved once, when the task opens; from then on they are values."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import Struct
from msgspec.structs import force_setattr

from agentguard.errors import ConfigurationError
from agentguard.intent.field_path import field_path
from agentguard.intent.literal import FrozenMapping, is_text, literal, thawed
from agentguard.model.canonical import canonical, canonical_bytes

if TYPE_CHECKING:
    from pathlib import Path

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ALL: Final = "[]"

# A resolver gets the entries of `with` as keyword arguments, and returns a structure; it is called once for a task.
Resolver: TypeAlias = Callable[..., Any]


class ValueSet(Struct, frozen=True):
    """A set of these texts and numbers; what every other set becomes when it is resolved.

    Args:
        values: the members; their order and repetitions say nothing.
        may_be_empty: whether a set without members is meant.
    """

    values: tuple[Any, ...] = ()
    may_be_empty: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.values, str | Mapping) or not isinstance(self.values, Iterable):
            raise ConfigurationError("the values of a set are a list: {values: [ann@acme.test, bo@acme.test]}")
        members = {canonical_bytes(thawed(member)): member for member in map(_member, self.values)}
        if not members and not self.may_be_empty:
            raise ConfigurationError("an empty set admits nothing; if that is meant, write may_be_empty: true")
        force_setattr(self, "values", tuple(members[key] for key in sorted(members)))

    def form(self) -> dict[str, Any]:
        """Return the set as it stands in a file."""
        return {"values": list(self.values)} | _empty(self.may_be_empty)

    def resolved(self, resolvers: Mapping[str, Resolver], base: Path) -> ValueSet:
        """Return the set itself."""
        return self


class FileSet(Struct, frozen=True):
    """The members stand in a file of at most 1 MiB.

    Args:
        file: YAML, JSON or CSV, by its suffix; relative to the intent file. CSV has a header row.
        field: the path of the members in it (`[].iban`).
        may_be_empty: whether a set without members is meant.
    """

    file: str
    field: str = _ALL
    may_be_empty: bool = False

    def __post_init__(self) -> None:
        from pathlib import Path

        if isinstance(self.file, os.PathLike):
            force_setattr(self, "file", os.fspath(self.file))
        if not is_text(self.file) or Path(self.file).suffix not in _READERS:
            raise ConfigurationError(f"'file' of a set ends in {', '.join(_READERS)}: {{file: payees.yaml}}")
        field_path(self.field)

    def form(self) -> dict[str, Any]:
        """Return the set as it stands in a file."""
        return {"file": self.file} | _field(self.field) | _empty(self.may_be_empty)

    def resolved(self, resolvers: Mapping[str, Resolver], base: Path) -> ValueSet:
        """Read the file, below `base` where its name is relative."""
        file = base / self.file
        return _selected(_READERS[file.suffix](file), self.field, self.may_be_empty, self.file)


class EnvSet(Struct, frozen=True):
    """The members stand in an environment variable, separated by commas."""

    env: str
    may_be_empty: bool = False

    def __post_init__(self) -> None:
        if not is_text(self.env) or not NAME.fullmatch(self.env):
            raise ConfigurationError(f"{self.env!r} is no name of an environment variable; write {{env: PAYEES}}")

    def form(self) -> dict[str, Any]:
        """Return the set as it stands in a file."""
        return {"env": self.env} | _empty(self.may_be_empty)

    def resolved(self, resolvers: Mapping[str, Resolver], base: Path) -> ValueSet:
        """Read the environment."""
        text = os.environ.get(self.env)
        if text is None:
            raise ConfigurationError(f"the environment variable {self.env} is not set")
        members = [member.strip() for member in text.split(",")] if text.strip() else []
        return ValueSet(tuple(members), self.may_be_empty)


class ResolvedSet(Struct, frozen=True):
    """A registered resolver returns the members; never an import path.

    Args:
        resolver: its name, as in `guard.resolver("orders_of", orders_of)`.
        arguments: what it is called with, by keyword (`with` in the file form).
        field: the path of the members in what it returns.
        may_be_empty: whether a set without members is meant.
    """

    resolver: str
    arguments: Mapping[str, Any] = FrozenMapping()
    field: str = _ALL
    may_be_empty: bool = False

    def __post_init__(self) -> None:
        if not is_text(self.resolver) or not NAME.fullmatch(self.resolver):
            raise ConfigurationError(
                f"{self.resolver!r} is no name of a resolver; write a word: {{resolve: orders_of}}"
            )
        given: object = self.arguments
        if not isinstance(given, Mapping) or not all(map(is_text, given)):
            raise ConfigurationError("'with' of a set is a mapping of names and values: with: {user: alice}")
        force_setattr(
            self, "arguments", FrozenMapping({name: literal(value) for name, value in self.arguments.items()})
        )
        field_path(self.field)

    def form(self) -> dict[str, Any]:
        """Return the set as it stands in a file."""
        given = {"with": {name: thawed(value) for name, value in self.arguments.items()}} if self.arguments else {}
        return {"resolve": self.resolver} | given | _field(self.field) | _empty(self.may_be_empty)

    def resolved(self, resolvers: Mapping[str, Resolver], base: Path) -> ValueSet:
        """Call the resolver."""
        if self.resolver not in resolvers:
            known = ", ".join(sorted(resolvers)) or "none"
            raise ConfigurationError(
                f"no resolver {self.resolver!r} is registered; known: {known}; use guard.resolver(name, function)"
            )
        try:
            found = resolvers[self.resolver](**{name: thawed(value) for name, value in self.arguments.items()})
            tree = canonical(list(found) if isinstance(found, set | frozenset) else found)
        except Exception as error:
            raise ConfigurationError(f"the resolver {self.resolver!r} failed ({type(error).__name__})") from None
        return _selected(tree, self.field, self.may_be_empty, f"the resolver {self.resolver!r}")


SetSource: TypeAlias = ValueSet | FileSet | EnvSet | ResolvedSet


def set_of(value: object) -> SetSource:
    """Return a set from its Python form: one of the four, or a list of its members."""
    if isinstance(value, SetSource):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return ValueSet(tuple(value))
    if isinstance(value, Mapping):
        return set_from_form(dict(value))
    raise ConfigurationError("a set is a list of its members, FileSet(...), EnvSet(...) or ResolvedSet(...)")


def set_from_form(node: object) -> SetSource:
    """Return a set from its file form: `{values}`, `{file, field}`, `{env}` or `{resolve, with, field}`."""
    shapes = "{values: [...]}, {file: payees.yaml, field: '[].iban'}, {env: PAYEES} or {resolve: orders_of}"
    if not isinstance(node, dict):
        raise ConfigurationError(f"a set is one of {shapes}")
    for word, (kind, names) in _FORMS.items():
        if word in node:
            if unknown := set(node) - set(names) - {"may_be_empty"}:
                raise ConfigurationError(f"unknown key {min(unknown)!r} beside {word!r}; a set is one of {shapes}")
            if not isinstance(node.get("may_be_empty", False), bool):
                raise ConfigurationError("'may_be_empty' is true, or left out")
            return kind(**{names.get(key, key): value for key, value in node.items()})
    raise ConfigurationError(f"a set is one of {shapes}")


_FORMS: Final[Mapping[str, tuple[Callable[..., SetSource], Mapping[str, str]]]] = MappingProxyType({
    "values": (ValueSet, {"values": "values"}),
    "file": (FileSet, {"file": "file", "field": "field"}),
    "env": (EnvSet, {"env": "env"}),
    "resolve": (ResolvedSet, {"resolve": "resolver", "with": "arguments", "field": "field"}),
})  # fmt: skip


def _selected(tree: Any, field: str, may_be_empty: bool, what: str) -> ValueSet:
    try:
        return ValueSet(tuple(field_path(field).select(tree)), may_be_empty)
    except ConfigurationError as error:
        raise ConfigurationError(f"{what}, field {field}: {error}") from None


def _member(value: object) -> Any:
    member = literal(value)
    if member == "" or not isinstance(member, str | Decimal):
        raise ConfigurationError("a member of a set is text that is not empty, or a number; name its field: '[].id'")
    return member


def _field(field: str) -> dict[str, Any]:
    return {} if field == _ALL else {"field": field}


def _empty(may_be_empty: bool) -> dict[str, Any]:
    return {"may_be_empty": True} if may_be_empty else {}


def _yaml(file: Path) -> Any:
    from agentguard.intent.strict_file import read_strict_file

    return read_strict_file(file).tree


def _json(file: Path) -> Any:
    from agentguard.intent.data_file import read_json

    return read_json(file)


def _csv(file: Path) -> Any:
    from agentguard.intent.data_file import read_csv

    return read_csv(file)


_READERS: Final = MappingProxyType({".yaml": _yaml, ".yml": _yaml, ".json": _json, ".csv": _csv})
