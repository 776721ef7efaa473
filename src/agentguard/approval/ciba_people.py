"""Whom a provider asks, by the name that it knows them under."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from agentguard._jwt import is_name
from agentguard.errors import ConfigurationError
from agentguard.ports import ApprovalRequest

_USER: Final = "user:"


@dataclass(frozen=True, slots=True)
class Person:
    """Whom the provider asks, and who then has to answer.

    Args:
        hint: the `login_hint`: how the provider finds them.
        sub: exact `sub` of the ID token; the hint itself by default.

    Raises:
        ConfigurationError: the hint or the sub is no name.
    """

    hint: str
    sub: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sub", self.sub or self.hint)
        if not is_name(self.hint) or not is_name(self.sub):
            raise ConfigurationError("a login hint is a name at the provider: printable, no spaces, at most 256")


Hints: TypeAlias = Mapping[str, str | Person] | Callable[[ApprovalRequest], str | Person | None]


def checked_hints(hints: Hints) -> Hints:
    """Return hints whose people all have names.

    Raises:
        ConfigurationError: one has none.
    """
    if callable(hints):
        return hints
    if None in [_person(hint) for hint in hints.values()]:
        raise ConfigurationError('login_hints says whom to ask: {"operator": "ann"}, or a function of the question')
    return dict(hints)


def whom(hints: Hints, request: ApprovalRequest) -> Person | None:
    """Return who is to be asked, or None where that is nobody: an agent on its own account, or nobody configured.

    An operator is never guessed; a user is asked by the name that the chain has for them, unless a hint says another.
    """
    try:
        if callable(hints):
            return _person(hints(request))
        if request.by != "subject":
            return _person(hints.get("operator"))
        user = request.subject.removeprefix(_USER) if request.subject.startswith(_USER) else None
        return _person(hints.get(request.subject, user))
    except Exception:  # the application's function, or what it returned
        return None


def _person(said: str | Person | None) -> Person | None:
    return Person(said) if isinstance(said, str) else said if isinstance(said, Person) else None
