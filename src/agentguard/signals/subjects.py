"""Subject identifiers (RFC 9493, Shared Signals 1.0 section 3): whom an event is about, and who that is to us."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from agentguard._jwt import is_name
from agentguard.errors import ConfigurationError

SubjectOf: TypeAlias = Callable[["SubjectId"], str | Collection[str] | None]

_MEMBERS: Final[Mapping[str, frozenset[str]]] = {
    "account": frozenset({"uri"}),
    "did": frozenset({"url"}),
    "email": frozenset({"email"}),
    "iss_sub": frozenset({"iss", "sub"}),
    "jwt_id": frozenset({"iss", "jti"}),
    "opaque": frozenset({"id"}),
    "phone_number": frozenset({"phone_number"}),
    "saml_assertion_id": frozenset({"issuer", "assertion_id"}),
    "uri": frozenset({"uri"}),
}
_PARTS: Final = frozenset({"user", "device", "session", "application", "tenant", "org_unit", "group"})
_LONGEST: Final = 1024


@dataclass(frozen=True, slots=True)
class SubjectId:
    """Whom an event is about; its repr shows nobody.

    Args:
        format: `iss_sub`, `email`, `opaque` or another simple format; or `complex`, which is all of its parts together.
        members: of a simple format, by name: `iss` and `sub`, `email`, `id`.
        parts: of a complex one: `user`, `session`, `device`, `tenant` and so on.
    """

    format: str
    members: Mapping[str, str] = field(default_factory=dict, repr=False)
    parts: Mapping[str, SubjectId] = field(default_factory=dict, repr=False)

    def part(self, name: str) -> SubjectId | None:
        """Return a part of a complex subject; of a simple one the `user`, which it is itself."""
        if self.format == "complex":
            return self.parts.get(name)
        return self if name == "user" else None


def parse_subject(value: object, *, nested: bool = False) -> SubjectId | None:
    """Return the subject, or None for what is none: another format, members that are missing or no plain text.

    Members that a format does not know are passed over (RFC 9493 section 3).
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("format"), str):
        return None
    kind = value["format"]
    if kind == "complex":
        return None if nested else _complex(value)
    needed = _MEMBERS.get(kind)
    if needed is None or not all(_is_text(value.get(name)) for name in needed):
        return None
    return SubjectId(kind, {name: value[name] for name in sorted(needed)})


def _complex(value: Mapping[str, object]) -> SubjectId | None:
    parts = {name: parse_subject(value[name], nested=True) for name in sorted(_PARTS & value.keys())}
    known = {name: part for name, part in parts.items() if part is not None}
    return SubjectId("complex", parts=known) if parts and len(known) == len(parts) else None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable()


def by_iss_sub(issuer: str) -> SubjectOf:
    """Return a mapping for users who are verified by their ID tokens: `iss` is the issuer, `sub` is `user:SUB` here.

    Args:
        issuer: exact `iss` of those ID tokens.
    """
    if not issuer:
        raise ConfigurationError("by_iss_sub needs the issuer of the ID tokens that users are verified with")

    def subject_of(subject: SubjectId) -> str | None:
        user = subject.part("user")
        if user is None or user.format != "iss_sub" or user.members["iss"] != issuer:
            return None
        name = user.members["sub"]
        return f"user:{name}" if is_name(name) else None  # nobody is verified by a sub that is no name

    return subject_of


def by_email(subjects: Callable[[str], str | Collection[str] | None]) -> SubjectOf:
    """Return a mapping that asks the application about an email address.

    Args:
        subjects: told the address as it was sent, returns `user:NAME`, several of them, or None.
    """

    def subject_of(subject: SubjectId) -> str | Collection[str] | None:
        user = subject.part("user")
        return subjects(user.members["email"]) if user is not None and user.format == "email" else None

    return subject_of


def keys_of(found: object) -> tuple[str, ...] | None:
    """Return what a mapping answered as subject keys, without repeats; None if it is no such answer."""
    if found is None:
        return ()
    keys = (found,) if isinstance(found, str) else found
    if not isinstance(keys, Collection) or isinstance(keys, (bytes, Mapping)):
        return None
    checked = [key for key in keys if isinstance(key, str) and _is_key(key)]
    return tuple(dict.fromkeys(checked)) if len(checked) == len(keys) and len(keys) <= 100 else None


def _is_key(key: str) -> bool:
    """Whether it is `user:NAME` or `agent:NAME`; NAME is as long as that of a user who is verified may be."""
    kind, _, name = key.partition(":")
    return kind in ("user", "agent") and is_name(name)


def all_of(*mappings: SubjectOf) -> SubjectOf:
    """Return a mapping that asks several, for subjects in more than one format; all that they name are stopped."""

    def subject_of(subject: SubjectId) -> Collection[str] | None:
        found: list[str] = []
        for mapping in mappings:
            keys = keys_of(mapping(subject))
            if keys is None:
                raise TypeError
            found += keys
        return found or None

    return subject_of
