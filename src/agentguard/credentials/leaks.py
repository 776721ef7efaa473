"""Finding live credentials in texts: arguments, results, streamed parts, exceptions.

What counts as a leak: the payload or the signature of a live token (the header is no secret, and a payload without its
signature is one), or an opaque secret as a whole; bare, inside a longer run, or once more base64-encoded.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Final

from agentguard.model.lease import Issued

MARK: Final = "[credential removed]"
_SHORTEST: Final = 20
_RUN: Final = re.compile(r"[A-Za-z0-9_+/=.-]{20,}")
_DEPTH: Final = 16


def needles_of(secret: str) -> tuple[str, ...]:
    """The parts of a secret that must not be seen."""
    parts = secret.split(".")
    if len(parts) == 3 and secret.startswith("eyJ"):
        return (parts[1], parts[2])
    return (secret,)


class LiveSecrets:
    """The secrets of all live leases of one guard. Safe for concurrent use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._needles: dict[str, tuple[str, ...]] = {}

    def add(self, issued: Issued) -> None:
        """Watch a secret."""
        with self._lock:
            self._needles[issued.lease.id] = needles_of(issued.secret.reveal())

    def discard(self, lease_id: str) -> None:
        """Stop watching: the credential is dead."""
        with self._lock:
            self._needles.pop(lease_id, None)

    def __bool__(self) -> bool:
        return bool(self._needles)

    def prefixes(self) -> Iterable[str]:
        """Every needle that is watched now."""
        return [needle for needles in list(self._needles.values()) for needle in needles]

    def found_in(self, text: str) -> set[str]:
        """Ids of the leases whose secret stands in a text."""
        if len(text) < _SHORTEST or not self._needles:
            return set()
        hits: set[str] = set()
        for run in _RUN.findall(text):
            views = (run, *_decoded(run))
            for lease, needles in list(self._needles.items()):
                if any(needle in view for needle in needles for view in views):
                    hits.add(lease)
        return hits

    def cleaned(self, text: str) -> tuple[str, set[str]]:
        """Return the text without secrets, and the leases that were hit."""
        hits = self.found_in(text)
        if hits:
            text = _RUN.sub(lambda run: MARK if self.found_in(run[0]) else run[0], text)
        return text, hits


def _decoded(run: str) -> list[str]:
    """What a run says when it is base64, at each of the four alignments."""
    if len(run) < 2 * _SHORTEST:
        return []
    plain = run.translate(_TO_STANDARD).replace("=", "").replace(".", "")
    views = []
    for start in range(4):
        body = plain[start:]
        try:
            views.append(base64.b64decode(body[: len(body) // 4 * 4]).decode("latin-1"))
        except (binascii.Error, ValueError):
            continue
    return views


_TO_STANDARD: Final = str.maketrans("-_", "+/")


class Search:
    """One search through a value; `hits` collects the leases whose secret was found."""

    __slots__ = ("hits", "live")

    def __init__(self, live: LiveSecrets) -> None:
        self.live = live
        self.hits: set[str] = set()

    def text(self, text: str) -> str:
        """Return the text without secrets."""
        if len(text) < _SHORTEST:
            return text
        cleaned, hits = self.live.cleaned(text)
        self.hits |= hits
        return cleaned

    def value(self, value: Any, depth: int = 0) -> Any:
        """Return a value without secrets: the very same object when nothing was found.

        Texts, bytes, lists, tuples, sets and mappings are rebuilt; the fields of other objects are looked at, and
        where one holds a secret the whole object is replaced by the mark.
        """
        if not self.live or value is None or isinstance(value, int | float | complex):
            return value
        if depth > _DEPTH:
            return value
        if isinstance(value, str):
            return value if (clean := self.text(value)) == value else clean
        if isinstance(value, bytes | bytearray):
            text = value.decode("latin-1")
            return value if (clean := self.text(text)) == text else type(value)(clean.encode("latin-1"))
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, list | tuple | set | frozenset):
            return self._sequence(value, depth)
        return self._object(value, depth)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        items = {self.value(key, depth + 1): self.value(item, depth + 1) for key, item in value.items()}
        unchanged = len(items) == len(value) and all(
            a is b and c is d for (a, c), (b, d) in zip(items.items(), value.items(), strict=True)
        )
        return value if unchanged else items

    def _sequence(self, value: Any, depth: int) -> Any:
        items = [self.value(item, depth + 1) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)

    def _object(self, value: Any, depth: int) -> Any:
        fields = getattr(value, "__dict__", None)
        names = [
            name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if isinstance(name, str)
        ]
        seen = list(fields.values()) if isinstance(fields, dict) else []
        seen += [getattr(value, name, None) for name in names if not name.startswith("__")]
        before = len(self.hits)
        changed = any(self.value(item, depth + 1) is not item for item in seen)
        return MARK if changed or len(self.hits) > before else value


def clean_exception(error: BaseException, search: Search) -> BaseException:
    """Return the exception, in place and unchanged unless it, its notes or its causes held a secret.

    An exception whose text still shows a secret after its arguments and fields were cleaned is replaced.
    """
    if not search.live:
        return error
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if not _clean_one(link, search):
            replacement = RuntimeError(f"{type(error).__name__}: {MARK}")
            return replacement.with_traceback(error.__traceback__)
        for inner in getattr(link, "exceptions", ()):
            clean_exception(inner, search)
        link = link.__cause__ or link.__context__
    return error


def _clean_one(error: BaseException, search: Search) -> bool:
    clean = search.value(error.args)
    if clean is not error.args:
        error.args = clean
    for name, item in list(vars(error).items()):
        new = search.value(item)
        if new is not item:
            try:
                setattr(error, name, new)
            except Exception:
                return False
    try:
        return not search.live.found_in(str(error))
    except Exception:
        return True


class Stream:
    """Streamed text without secrets, also where one is split over several parts.

    A tail that may be the beginning of a secret is held back until the next part shows what it is.
    """

    __slots__ = ("_held", "search")

    def __init__(self, search: Search) -> None:
        self.search = search
        self._held: str | bytes = ""

    def part(self, part: Any) -> list[Any]:
        """Return what may be passed on now."""
        if not isinstance(part, str | bytes) or (self._held and type(part) is not type(self._held)):
            return [*self.end(), self.search.value(part)]
        joined = self._held + part if self._held else part  # type: ignore[operator]  # same type, checked above
        clean = self.search.value(joined)
        cut = self._open_end(clean)
        self._held = clean[len(clean) - cut :] if cut else type(part)()
        passed = clean[: len(clean) - cut] if cut else clean
        return [passed] if passed or not part else []

    def end(self) -> list[Any]:
        """Return what is still held back."""
        held, self._held = self._held, ""
        return [held] if held else []

    def _open_end(self, text: str | bytes) -> int:
        """Length of the longest tail that is the beginning of a secret."""
        tail = text.decode("latin-1") if isinstance(text, bytes) else text
        longest = 0
        for needle in self.search.live.prefixes():
            for length in range(min(len(needle) - 1, len(tail)), longest, -1):
                if tail.endswith(needle[:length]):
                    longest = length
                    break
        return longest
