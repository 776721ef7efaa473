"""What a role may do: from a tool's resource and scopes to privileges on tables that the configuration lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from agentguard.errors import ConfigurationError, CredentialUnavailable

# By resource: the objects; by object: the scopes; by scope: the privileges.
GrantsForm: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]]
_SEQUENCE: Final = "sequence:"
_MAX_NAME: Final = 63  # bytes of an identifier; PostgreSQL cuts longer ones off
# TRIGGER would run code as other users, REFERENCES and TRUNCATE reach past what a tool reads or writes.
_TABLE: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")
_OF: Final = {"TABLE": _TABLE, "SEQUENCE": ("USAGE", "SELECT")}


@dataclass(frozen=True, slots=True)
class Privileges:
    """Privileges on one object.

    Args:
        kind: `TABLE` (views too) or `SEQUENCE`.
        schema, name: exact identifiers, as the catalog has them.
        privileges: SQL key words.
    """

    kind: str
    schema: str
    name: str
    privileges: tuple[str, ...]

    @property
    def reads_only(self) -> bool:
        """Whether nothing can be changed with them."""
        return self.privileges == ("SELECT",)


@dataclass(frozen=True, slots=True)
class _Object:
    kind: str
    schema: str
    name: str
    by_scope: Mapping[str, tuple[str, ...]]

    def for_scopes(self, scopes: Sequence[str]) -> Privileges:
        wanted = {privilege for scope in scopes for privilege in self.by_scope.get(scope, ())}
        return Privileges(self.kind, self.schema, self.name, tuple(name for name in _OF[self.kind] if name in wanted))


class Grants:
    """The configured privileges. A table that is not listed is out of reach, whatever a model writes.

    Args:
        form: by resource (`table/invoices`; `*` stands for one whole segment; empty for tools without one) the objects
            (`billing.invoices`, or `sequence:billing.invoices_id_seq`), by object the scopes, and by scope the
            privileges: `{"table/invoices": {"billing.invoices": {"db:read": ["SELECT"]}}}`.

    Raises:
        ConfigurationError: lists every mistake.
    """

    def __init__(self, form: GrantsForm) -> None:
        problems: list[str] = []
        if not form or not _is_mapping(form):
            raise ConfigurationError(
                'grants: no role can be made; write {"table/invoices": {"billing.invoices": {"db:read": ["SELECT"]}}}'
            )
        self._by_resource = {resource: tuple(_objects(resource, form[resource], problems)) for resource in form}
        if problems:
            raise ConfigurationError("grants: these privileges cannot be given:", tuple(problems))

    def of(self, resource: str, scopes: Sequence[str], *, reads: bool) -> tuple[Privileges, ...]:
        """Return the privileges of one grant.

        Args:
            resource: as the tool declares it, its holes filled and percent-encoded.
            scopes: what the tool asks for; each has to give something.
            reads: the tool declares that it only reads.

        Raises:
            CredentialUnavailable: nothing is configured for it, or a tool that reads would be able to write.
        """
        objects = self._by_resource[self._matching(resource)]
        known = {scope for item in objects for scope in item.by_scope}
        if not scopes or set(scopes) - known:
            asked = ", ".join(sorted(set(scopes) - known)) or "nothing"
            raise CredentialUnavailable(
                f"the tool asks for the scopes {asked}; for resource {resource!r} there are {', '.join(sorted(known))}"
            )
        found = tuple(item for item in (one.for_scopes(scopes) for one in objects) if item.privileges)
        if reads and not all(item.reads_only for item in found):
            raise CredentialUnavailable(
                f"the tool declares effect read, and its scopes {', '.join(scopes)} let it write; declare effect write"
            )
        return found

    def _matching(self, resource: str) -> str:
        if resource in self._by_resource and "*" not in resource:
            return resource
        found = [pattern for pattern in self._by_resource if _matches(pattern, resource)]
        if len(found) == 1:
            return found[0]
        raise CredentialUnavailable(
            f"resource {resource!r} fits more than one entry of the grants: {', '.join(found)}"
            if found
            else f"no table is configured for resource {resource!r}; a tool's resource is an entry of the grants"
        )


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _matches(pattern: str, resource: str) -> bool:
    parts, given = pattern.split("/"), resource.split("/")
    return (
        "*" in parts
        and len(parts) == len(given)
        and all(part == one or (part == "*" and one) for part, one in zip(parts, given, strict=True))
    )


def _objects(resource: str, objects: object, problems: list[str]) -> Iterator[_Object]:
    if any("*" in part and part != "*" for part in str(resource).split("/")):
        problems.append(f"{resource!r}: `*` stands for one whole segment, as in account/*")
    if not isinstance(objects, Mapping) or not objects:
        problems.append(f'{resource!r}: name its tables: {{"billing.invoices": {{"db:read": ["SELECT"]}}}}')
        return
    for text, scopes in objects.items():
        kind = "SEQUENCE" if str(text).startswith(_SEQUENCE) else "TABLE"
        schema, name = _identifiers(str(text).removeprefix(_SEQUENCE))
        if not name:
            problems.append(f"{resource!r}: {text!r} is no table; write schema.table, exactly as the catalog has it")
        elif not isinstance(scopes, Mapping) or not scopes:
            problems.append(f'{resource!r}: {text!r} needs its scopes: {{"db:read": ["SELECT"]}}')
        else:
            wrong = [scope for scope, privileges in scopes.items() if not _privileges_of(kind, privileges)]
            problems += [
                f"{resource!r}: {text!r}, {scope!r}: write a list out of {', '.join(_OF[kind])}" for scope in wrong
            ]
            yield _Object(kind, schema, name, {scope: _privileges_of(kind, scopes[scope]) for scope in scopes})


def _privileges_of(kind: str, given: object) -> tuple[str, ...]:
    """The privileges in one order, or nothing if one of them is unknown."""
    if isinstance(given, str) or not isinstance(given, Sequence) or set(given) - set(_OF[kind]):
        return ()
    return tuple(name for name in _OF[kind] if name in given)


def _identifiers(text: str) -> tuple[str, str]:
    schema, _, name = text.partition(".")
    fine = schema and name and "." not in name and "\0" not in text
    if not fine or any(len(part.encode()) > _MAX_NAME for part in (schema, name)):
        return "", ""
    return schema, name
