"""The YAML form of an intent, read into the same values that the Python form builds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint
from agentguard.intent.constraint_form import read_constraint
from agentguard.intent.document import Document, Path, Problems, nearest
from agentguard.intent.forbid import Forbid
from agentguard.intent.intent import Intent
from agentguard.intent.limits import Otherwise, examples_of, limits_of, otherwise_of
from agentguard.intent.literal import FrozenMapping
from agentguard.intent.mistakes import Notes
from agentguard.intent.params import FromParameter, MappingFromParameter, Parameters
from agentguard.intent.parts import slug, sub_intent_name
from agentguard.intent.sets import SetSource, ValueSet, set_from_form
from agentguard.intent.step import ASKED, Step, Times, Total, total_of
from agentguard.intent.tree import hash_of
from agentguard.model.decision import Outcome
from agentguard.model.duration import seconds
from agentguard.model.principal import checked_name

T = TypeVar("T")
_AGENT: Final = (
    "intent", "purpose", "ttl", "sets", "define", "everywhere", "reads", "steps", "forbid", "otherwise", "agents",
    "limits", "examples",
)  # fmt: skip
_TOP: Final = ("version", *_AGENT[:3], "params", *_AGENT[3:])
_STEP: Final = (
    "id", "tool", "args", "times", "total", "budget", "distinct", "after", "attempts", "then", "accept_untrusted",
)  # fmt: skip
_FORBID: Final = ("tool", "tags", "seen", "args")
_ANY_SET: Final = ValueSet((), may_be_empty=True)  # stands in for a set that is wrong, so that its name is known
_UNKNOWN: Final = Step("unknown")  # stands in for a step that is wrong, so that the next ones keep their numbers
# What follows: the outcome, who is asked, and whether the task ends.
_Then: TypeAlias = tuple[Outcome, str, bool]
_THEN: Final[Mapping[str, _Then]] = MappingProxyType({
    "permit": (Outcome.PERMIT, ASKED[0], False),
    "ask": (Outcome.ASK, ASKED[0], False),
    "end_task": (Outcome.PERMIT, ASKED[0], True),
})  # fmt: skip
_NO_SETS: Final[Mapping[str, SetSource]] = MappingProxyType({})
_NO_DEFINES: Final[Mapping[str, Constraint]] = MappingProxyType({})


def read_intent(document: Document, given: Mapping[str, object]) -> Intent:
    """Build an intent from a file and the values of its parameters.

    Args:
        document: what the strict reader read.
        given: a value for every declared parameter.

    Raises:
        ConfigurationError: with all mistakes at once, each with file, line, path and what to write instead.
    """
    tree, notes, in_parts = document.tree, Notes(), Notes()
    if not isinstance(tree, dict) or not tree:
        raise ConfigurationError(f"{document.file} is no intent file: it is a mapping that starts with version: 1")
    if tree.get("params") == {}:
        notes.add(("params",), "an empty mapping says nothing; leave it out")
    parameters = Parameters(tree.get("params", {}), given, notes)
    filled = parameters.replaced({key: value for key, value in tree.items() if key != "params"})
    parameters.note_unused()
    intent = _Reader(in_parts).top(filled)
    notes.found += [(path, text) for path, text in in_parts.found if not _follows(path, parameters.unfilled)]
    problems = Problems(document)
    for path, text in notes.found:
        problems.add(path, text)
    problems.raise_if_any(f"{document.file} is no valid intent:")
    if intent is None:
        raise ConfigurationError(f"{document.file} is no valid intent, or follows from a parameter without a value")
    return intent.from_file(parameters.names, hash_of(tree))


def _follows(path: Path, unfilled: Collection[Path]) -> bool:
    """Tell whether a mistake only follows from a parameter that has no value, which is noted by itself."""
    return any(
        (path == hole[: len(path)] and len(hole) - len(path) <= 1) or path[: len(hole)] == hole for hole in unfilled
    )


class _Reader:
    """Reads the parts of a tree; a mistake is noted at its path, and reading goes on."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def top(self, tree: dict[str, Any]) -> Intent | None:
        self.keys(tree, (), _TOP)
        if isinstance(tree.get("version"), bool) or tree.get("version") != 1:
            self.notes.add(("version",), "write version: 1 at the top")
        if "purpose" not in tree:
            self.notes.add((), "it has no purpose; say in a sentence what the task is for: purpose: ...")
        purpose = tree.get("purpose", "unknown")
        return self.intent(tree, (), slug(purpose), purpose, _NO_SETS, _NO_DEFINES)

    def intent(  # a sub-agent has the names of its parent too
        self, tree: dict[str, Any], path: Path, name: str, purpose: Any, sets: Mapping[str, SetSource],
        define: Mapping[str, Constraint],
    ) -> Intent | None:  # fmt: skip
        name, purpose = tree.get("intent", name), tree.get("purpose", purpose)
        if name is None:
            self.notes.add((*path, "intent"), "null says nothing; leave it out")
        sets = {**sets, **self.sets(tree, path)}
        define = {**define, **self.arguments(tree, "define", path)}
        steps = self.items(tree, "steps", path, self.step)
        make = partial(
            Intent,
            purpose,
            *steps,
            name=name,
            reads=self.words(tree, "reads", path),
            everywhere=self.arguments(tree, "everywhere", path),
            forbid=self.items(tree, "forbid", path, self.forbid),
            agents=self.agents(tree, path, name, purpose, sets, define),
            ttl=self.value(tree, "ttl", path, seconds, None),
            sets=sets,
            define=define,
            otherwise=self.otherwise(tree, path),
            limits=self.value(tree, "limits", path, _written(limits_of), None),
            examples=self.value(tree, "examples", path, _written(examples_of), None),
        )
        return self.notes.take(path, make, None)

    def sets(self, tree: dict[str, Any], path: Path) -> dict[str, SetSource]:
        found: dict[str, SetSource] = {}
        for name, entry in self.mapping(tree, "sets", path).items():
            where = (*path, "sets", name)
            if isinstance(entry, dict) and isinstance(entry.get("resolve"), FromParameter):
                self.notes.add((*where, "resolve"), "a parameter is a value, no resolver; write its name into the file")
            elif (made := self.notes.take(where, partial(set_from_form, entry), None)) is not None:
                found[name] = made
            else:
                found[name] = _ANY_SET
        return found

    def otherwise(self, tree: dict[str, Any], path: Path) -> Otherwise | None:
        node = tree.get("otherwise")
        for index, tool in enumerate(node["tools"] if isinstance(node, dict) and _is_list(node.get("tools")) else ()):
            self.no_pattern(tool, (*path, "otherwise", "tools", index))
        return self.value(tree, "otherwise", path, _written(otherwise_of), None)

    def agents(  # all of it is inherited
        self, tree: dict[str, Any], path: Path, name: Any, purpose: Any, sets: Mapping[str, SetSource],
        define: Mapping[str, Constraint],
    ) -> dict[str, Intent]:  # fmt: skip
        result: dict[str, Intent] = {}
        for agent, entry in self.mapping(tree, "agents", path).items():
            where, before = (*path, "agents", agent), len(self.notes.found)
            self.notes.take(where, partial(checked_name, agent, "agent"), "")
            if not isinstance(entry, dict) or not entry:
                self.notes.add(where, "write what this agent gets: {reads: [account.read]}")
                continue
            self.keys(entry, where, _AGENT)
            made = self.intent(entry, where, sub_intent_name(str(name), agent), purpose, sets, define)
            if made is not None and len(self.notes.found) == before:
                result[agent] = made
        return result

    def step(self, node: dict[str, Any], path: Path) -> Step:
        self.keys(node, path, _STEP)
        if "tool" not in node:
            self.notes.add(path, "a step names its tool: tool: refund.create")
        if "id" in node and not node["id"]:
            self.notes.add((*path, "id"), "an empty id; leave it out, or write a word")
        outcome, by, ends_task = self.value(node, "then", path, _then, _THEN["permit"])
        if "budget" in node and not node["budget"]:
            self.notes.add((*path, "budget"), "an empty budget; leave it out, or write a word")
        make = partial(
            Step,
            node.get("tool", _UNKNOWN.tool),
            FrozenMapping(self.arguments(node, "args", path)),
            node.get("id") or "",
            self.value(node, "times", path, _times, None),
            FrozenMapping(self.totals(node, path)),
            node.get("attempts", 1),
            outcome,
            node.get("budget") or "",
            tuple(self.sequence(node, "distinct", path)),
            tuple(self.sequence(node, "after", path)),
            ends_task,
            by,
            node.get("accept_untrusted") or "",
        )
        return self.notes.take(path, make, _UNKNOWN)

    def totals(self, node: dict[str, Any], path: Path) -> dict[str, Total]:
        entries = self.mapping(node, "total", path)
        return {name: self.value(entries, name, (*path, "total"), total_of, Total(Decimal(0))) for name in entries}

    def forbid(self, node: dict[str, Any], path: Path) -> Forbid | None:
        before = len(self.notes.found)
        self.keys(node, path, _FORBID)
        if "tool" in node and not node["tool"]:
            self.notes.add((*path, "tool"), "an empty tool says nothing; leave it out")
        self.no_pattern(node.get("tool"), (*path, "tool"))
        make = partial(
            Forbid,
            node.get("tool", ""),
            self.words(node, "tags", path),
            self.words(node, "seen", path),
            FrozenMapping(self.arguments(node, "args", path)),
        )
        return self.notes.take(path, make, None) if len(self.notes.found) == before else None

    def no_pattern(self, node: Any, path: Path) -> None:
        """Note a parameter that brings a pattern: what the application passes is a name."""
        if isinstance(node, FromParameter) and "*" in node:
            self.notes.add(path, "a parameter brings an exact name, never a pattern; write the pattern into the file")

    def arguments(self, node: dict[str, Any], key: str, path: Path) -> dict[str, Constraint]:
        entries = self.mapping(node, key, path)
        return {name: read_constraint(entry, (*path, key, name), self.notes) for name, entry in entries.items()}

    def keys(self, node: dict[str, Any], path: Path, known: tuple[str, ...]) -> None:
        """Note every key that is not known here."""
        for key in node:
            if key not in known:
                hint = nearest(key, known) or f"; known here: {', '.join(known)}"
                self.notes.add((*path, key), f"unknown key {key!r}{hint}")

    def mapping(self, node: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
        """Return the mapping behind a key; one that is there is not empty."""
        found = node.get(key, {})
        if isinstance(found, dict) and (found or key not in node):
            return found
        self.notes.add((*path, key), f"{key!r} takes a mapping with at least one entry, or is left out")
        return {}

    def sequence(self, node: dict[str, Any], key: str, path: Path) -> list[Any]:
        """Return the list behind a key; one that is there is not empty."""
        found = node.get(key, [])
        if isinstance(found, list) and (found or key not in node):
            return found
        self.notes.add((*path, key), f"{key!r} takes a list with at least one item, or is left out")
        return []

    def words(self, node: dict[str, Any], key: str, path: Path) -> tuple[Any, ...]:
        words = tuple(self.sequence(node, key, path))
        for index, word in enumerate(words):
            self.no_pattern(word, (*path, key, index))
        return words

    def items(
        self, node: dict[str, Any], key: str, path: Path, read: Callable[[dict[str, Any], Path], T | None]
    ) -> list[T]:
        """Read each mapping of a list."""
        result: list[T] = []
        for index, entry in enumerate(self.sequence(node, key, path)):
            where = (*path, key, index)
            if isinstance(entry, MappingFromParameter):
                self.notes.add(where, f"a parameter is a value; write the entries of {key} into the file")
            elif not isinstance(entry, dict) or not entry:
                self.notes.add(where, f"each entry of {key} is a mapping")
            elif (made := read(entry, where)) is not None:
                result.append(made)
        return result

    def value(self, node: dict[str, Any], key: str, path: Path, read: Callable[[Any], T], otherwise: T) -> T:
        """Read what stands behind a key, if it is there."""
        return self.notes.take((*path, key), lambda: read(node[key]), otherwise) if key in node else otherwise


def _times(node: Any) -> Times:
    if not isinstance(node, dict):
        return Times(node)
    if set(node) - {"n", "per"} or "n" not in node:
        raise ConfigurationError("'times' is a number, {n: 1, per: [order_id]} or, in a ceiling, {n: 100, per: 1h}")
    per = node.get("per", [])
    if isinstance(per, list):
        if "per" in node and not per:
            raise ConfigurationError("'per' is empty; leave it out")
        return Times(node["n"], tuple(per))
    return Times(node["n"], (), seconds(per))


def _then(node: Any) -> _Then:
    if isinstance(node, FromParameter) or (isinstance(node, dict) and isinstance(node.get("by"), FromParameter)):
        raise ConfigurationError("a parameter is a value, and never says whether anybody is asked, or who")
    if isinstance(node, dict):
        if set(node) != {"ask", "by"} or node["ask"] is not True or node["by"] not in ASKED:
            raise ConfigurationError(f"'then' says who is asked so: {{ask: true, by: {' or '.join(ASKED)}}}")
        return Outcome.ASK, str(node["by"]), False
    if not isinstance(node, str) or node not in _THEN:
        raise ConfigurationError("'then' is permit, ask or end_task; deny needs no step")
    return _THEN[node]


def _written(read: Callable[[Any], T]) -> Callable[[Any], T]:
    """Return what reads the same, and refuses null: in Python it is what was left out, in a file a mistake."""

    def of_file(node: Any) -> T:
        if node is None:
            raise ConfigurationError("null says nothing; leave it out")
        return read(node)

    return of_file


def _is_list(node: Any) -> bool:
    return isinstance(node, list)
