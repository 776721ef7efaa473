"""What is forbidden whatever the steps say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import AllOf, AnyOf, Constraint
from agentguard.intent.literal import FrozenMapping, is_list, is_text
from agentguard.intent.mistakes import Mistakes
from agentguard.intent.step import arguments, pattern_problem

if TYPE_CHECKING:
    from agentguard.intent.document import Path

_NOTHING: Final[FrozenMapping[Any]] = FrozenMapping()


class Forbid(Struct, frozen=True):
    """What is denied whatever the steps say; only what it names is looked at, and all of that must match.

    Args:
        tool: a pattern over tool names, or empty for every tool.
        tags: any of these tags is on the tool.
        seen: any of these classes of data was read by the task.
        args: each of these arguments is there and matches.
    """

    tool: str = ""
    tags: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    args: FrozenMapping[Constraint] = _NOTHING

    def __post_init__(self) -> None:
        if found := list(self._mistakes()):
            raise Mistakes("a forbid is wrong:", found)

    def _mistakes(self) -> Iterator[tuple[Path, str]]:
        if not (self.tool or self.tags or self.seen or self.args):
            yield (), "it names nothing; write tool, tags, seen or args (tool: '*' forbids every tool)"
        if self.tool and (problem := pattern_problem(self.tool)):
            yield ("tool",), problem
        for key, words in (("tags", self.tags), ("seen", self.seen)):
            if not is_list(words) or not all(map(is_text, words)):
                yield (key,), f"write a list of words: {key}: [{'egress' if key == 'tags' else 'pii'}]"
        for name, said in self.args.items():
            if _says_absent(said):
                yield (
                    ("args", name),
                    "a missing argument never matches a forbid, so absent and optional say nothing here",
                )


def _says_absent(said: Constraint) -> bool:
    from agentguard.intent.presence import Absent, OptionalValue

    parts = said.alternatives if isinstance(said, AnyOf) else said.constraints if isinstance(said, AllOf) else ()
    return isinstance(said, Absent | OptionalValue) or any(map(_says_absent, parts))


def forbid_of(entry: object) -> Forbid:
    """Return a forbid from its Python form: a mapping with the keys of the file form."""
    if isinstance(entry, Forbid):
        return entry
    known = ("tool", "tags", "seen", "args")
    if not isinstance(entry, Mapping) or set(entry) - set(known):
        raise ConfigurationError(f"a forbid is a mapping with some of {', '.join(known)}")
    words = {key: _words(key, entry[key]) for key in ("tags", "seen") if key in entry}
    args = entry.get("args", {})
    if not isinstance(args, Mapping) or ("args" in entry and not args) or entry.get("tool") == "":
        raise ConfigurationError("an empty key of a forbid says nothing; leave it out")
    return Forbid(entry.get("tool", ""), args=arguments(args), **words)


def _words(key: str, value: object) -> tuple[str, ...]:
    value = sorted(value, key=str) if isinstance(value, set | frozenset) else value
    if isinstance(value, str) or not isinstance(value, Iterable) or not (words := tuple(value)):
        raise ConfigurationError(f"{key!r} of a forbid is a list with at least one word")
    return words
