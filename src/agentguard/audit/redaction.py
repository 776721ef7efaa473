"""Taking personal data and secrets out of values before they are kept: for records, recordings and explanations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from agentguard.audit.patterns import NAMED, Pattern
from agentguard.errors import ConfigurationError

MAX_TEXT: Final = 1 << 16  # characters; a longer text goes as a whole
MAX_NODES: Final = 100_000
MAX_DEPTH: Final = 64
_MARK: Final = "[redacted: {}]"
MEMBERS: Final = frozenset({
    "accesskey", "accesstoken", "apikey", "authorization", "bearer", "clientsecret", "cookie", "credential",
    "credentials", "cvc", "cvv", "idtoken", "passphrase", "passwd", "password", "pin", "privatekey",
    "proxyauthorization", "refreshtoken", "secret", "secretkey", "setcookie", "token",
})  # fmt: skip


class Redactor:
    """Replaces what its patterns find in texts, and the values of members whose names say that they are secret.

    It is no proof that nothing personal is left: what no pattern describes stays. Name what you know yourself.

    Args:
        patterns: names of `NAMED` (all of them by default) and patterns of your own: `expression("ticket", ...)`,
            `literal("project", ...)`.
        members: further names of members, at any depth, whose values go as a whole; case, `_` and `-` do not count.

    Raises:
        ConfigurationError: no pattern is called so, or two are called the same.
    """

    __slots__ = ("_members", "_patterns")

    def __init__(self, patterns: Iterable[str | Pattern] | None = None, *, members: Iterable[str] = ()) -> None:
        found = [_pattern(each) for each in (NAMED if patterns is None else patterns)]
        if len({pattern.name for pattern in found}) != len(found):
            raise ConfigurationError("two patterns of the redactor have one name; each is shown by it")
        self._patterns = tuple(found)
        self._members = MEMBERS | {_folded(name) for name in members}

    @property
    def names(self) -> tuple[str, ...]:
        """The patterns' names, in the order in which they are looked for."""
        return tuple(pattern.name for pattern in self._patterns)

    def text(self, text: str) -> str:
        """Return a text with everything replaced that a pattern finds; one that is too long goes as a whole."""
        if len(text) > MAX_TEXT:
            return _MARK.format("too long")
        for pattern in self._patterns:
            try:
                text = _without(text, pattern)
            except Exception:  # what cannot be searched is not kept
                return _MARK.format(pattern.name)
        return text

    def value(self, value: Any) -> Any:
        """Return a value of JSON with its texts and its keys redacted; anything else is replaced as a whole."""
        return self._value(value, [MAX_NODES], MAX_DEPTH)

    def member(self, name: str, value: Any) -> Any:
        """Return the value of a member or an argument with this name."""
        return self._member(name, value, [MAX_NODES], MAX_DEPTH)

    def _member(self, name: str, value: Any, left: list[int], depth: int) -> Any:
        if _folded(name) in self._members and value is not None:
            return _MARK.format("secret")
        return self._value(value, left, depth)

    def _value(self, value: Any, left: list[int], depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth < 0:
            return _MARK.format("too large")
        if isinstance(value, str):
            return self.text(str.__str__(value))
        if isinstance(value, bool | None):
            return value
        if isinstance(value, int | float):
            return value if (text := str(value)) == self.text(text) else self.text(text)
        if isinstance(value, list | tuple):
            return [self._value(item, left, depth - 1) for item in value]
        if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            found, numbers = dict[str, Any](), dict[str, int]()
            for name, item in value.items():
                found[_beside(found, self.text(name), numbers)] = self._member(name, item, left, depth - 1)
            return found
        return _MARK.format(f"a {type(value).__name__}")

    def __repr__(self) -> str:
        return f"<Redactor of {', '.join(self.names)}>"


def _pattern(given: str | Pattern) -> Pattern:
    if isinstance(given, Pattern):
        return given
    found = NAMED.get(given)
    if found is None:
        known = ", ".join(NAMED)
        raise ConfigurationError(f"no pattern is called {given!r}; there are {known}, or make one: expression(...)")
    return found


def _beside(taken: Mapping[str, Any], name: str, numbers: dict[str, int]) -> str:
    """INVARIANT: no member takes another's place, also where both names show alike."""
    shown = name
    while shown in taken:
        numbers[name] = numbers.get(name, 1) + 1
        shown = f"{name} ({numbers[name]})"
    return shown


def _folded(name: str) -> str:
    return name.replace("_", "").replace("-", "").casefold()


def _without(text: str, pattern: Pattern) -> str:
    parts, at = [], 0
    for start, end in pattern.spans(text):
        parts += [text[at:start], _MARK.format(pattern.name)]
        at = end
    return "".join([*parts, text[at:]]) if parts else text
