"""The kind `path`: a path below a directory, also after every symbolic link was followed."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, Self

from msgspec.structs import force_setattr

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, Inner
from agentguard.intent.literal import is_text, literal, shown
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, Test, Truth
from agentguard.intent.whole_text import CONTROL, ENCODED, LONGEST, text_test


class PathUnder(Constraint, frozen=True):
    """`path: {under: dir}`: an absolute path below dir; the directory itself is not below it.

    The directory is resolved when the intent is made. The links of a value are followed when it is checked: what they
    are by then is the tool's to keep, so a directory that an outsider can write is no boundary.
    """

    under: str
    real: str = ""  # what `under` was when it was made; not compared, and kept by a copy
    word = "path"

    def __post_init__(self) -> None:
        under = os.fspath(self.under) if isinstance(self.under, os.PathLike) else self.under
        if not is_text(under) or folded_path(under) is None:
            raise ConfigurationError("'under' of path is an absolute directory without '..': path: {under: /srv/data}")
        literal(under)
        force_setattr(self, "under", folded_path(under))
        if not self.real:
            force_setattr(self, "real", os.path.realpath(under))

    def __eq__(self, other: object) -> bool:
        return self.under == other.under if isinstance(other, PathUnder) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.under)

    def __repr__(self) -> str:
        return f"PathUnder(under={self.under!r})"

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        if not isinstance(node, dict) or set(node) != {"under"}:
            raise ConfigurationError("'path' takes the directory: path: {under: /srv/data}")
        return cls(node["under"])

    def test(self, argument: str) -> Test:
        return text_test(self._judge)

    def counted_as(self, text: str) -> str:
        plain = folded_path(text)
        if plain is None:
            return text
        with suppress(OSError, ValueError):  # one file is one, by whichever link it is reached
            return os.path.realpath(plain)
        return plain

    def _judge(self, value: str) -> Truth:
        plain = folded_path(value)
        if plain is None:
            return CANNOT_TELL
        stated = below(plain, self.under) or below(plain, self.real)
        try:
            followed = below(os.path.realpath(plain), self.real)
        except (OSError, ValueError):
            return CANNOT_TELL
        if stated is not followed:  # a link leads out, or in
            return CANNOT_TELL
        return HOLD if stated else FAIL

    def form(self) -> Any:
        return {"path": {"under": self.under}}

    def must(self) -> str:
        return f"be a path below {shown(self.under)}"


def folded_path(text: str) -> str | None:
    """Return an absolute path with `//` and `/./` folded; None for what could be read in another way."""
    if not text.startswith("/") or len(text) > LONGEST or "\\" in text or CONTROL.search(text) or ENCODED.search(text):
        return None
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/" + "/".join(parts)


def below(path: str, directory: str) -> bool:
    """Tell whether a folded path is below a directory, and not the directory itself."""
    return path.startswith(directory.rstrip("/") + "/") and path != "/"
