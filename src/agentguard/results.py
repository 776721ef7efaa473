"""What earlier calls returned, for `from`: one store per root task, shared by its tree, bounded, and nothing else kept.

Only fields that a `from` of the tree names are recorded, at return, after live credentials were taken out. A child sees
its ancestors' results, a parent those of its children; siblings do not see each other's.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple, NoReturn

from agentguard.errors import NotCanonical
from agentguard.intent.earlier import UNTOLD, Candidate, Found, Projection, Row, Source
from agentguard.intent.field_path import FieldPath
from agentguard.intent.truth import MISSING
from agentguard.model.call import ToolCall, ToolSpec
from agentguard.model.canonical import Canonical, canonical

MAX_ENTRIES: Final = 1_000
MAX_CANDIDATES: Final = 10_000  # of one call
MAX_BYTES: Final = 4 << 20  # of all calls
_PRICE: Final = 64  # bytes that an entry, a row or a value counts for beside its text
_MAX_TEXT: Final = 1 << 18

Key = tuple[str, str]  # ("", tool) or (scope of a level, step)
Wanted = tuple[Projection, frozenset[str]]  # with the names of the arguments that are looked at


class Entry(NamedTuple):
    """What one call left: what it offers, by the number of all that was wanted of it."""

    path: tuple[str, ...]
    keys: tuple[Key, ...]
    found: Mapping[int, Found]
    size: int


class Store:
    """The results of one root task. Safe for concurrent use.

    Attributes:
        idle: nothing looks at any result.
        passed: tools of which calls ended before anything looked at them; whoever leaves a result out because the
            store is idle adds its tool, and then looks once more.
    """

    def __init__(self, *, entries: int = MAX_ENTRIES, size: int = MAX_BYTES) -> None:
        self._lock = threading.Lock()
        self._needed: dict[Key, set[Wanted]] = {}
        self._numbers: dict[Wanted, int] = {}  # hashing a projection for every entry would cost more than the rest
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._index: dict[Key, OrderedDict[int, Entry]] = {}
        self._evicted: set[Key] = set()
        self._next = self._size = 0
        self.idle, self.passed = True, set[Key]()
        self._most, self._largest = entries, size

    def need(self, sources: Iterable[Source], scope: str) -> None:
        """From now on record what these sources look at; `scope` is that of the level whose steps they name."""
        with self._lock:
            for source in sources:
                key, wanted = _key(source, scope), (source.projection, source.arguments)
                self._numbers.setdefault(wanted, len(self._numbers))
                # INVARIANT: what was not looked at is never taken for what was not there.
                if key in self.passed:
                    self._evicted.add(key)
                self._needed.setdefault(key, set()).add(wanted)
                self.idle = False

    def record(self, call: ToolCall, value: Any, path: tuple[str, ...], steps: Iterable[Key]) -> None:
        """Record what a call returned, if anything needs it; what cannot be read is recorded as lost.

        Args:
            call: the call, as it was checked.
            value: what its tool returned, without live credentials; UNTOLD where that was not kept.
            path: ids of the task and its ancestors, the root first.
            steps: at every level its scope and the step that was consumed.
        """
        tool = ("", call.spec.name)
        with self._lock:
            if tool not in self._needed:
                self.passed.add(tool)
            keys = tuple(key for key in (tool, *steps) if key in self._needed)
            wanted = {one for key in keys for one in self._needed[key]}
        if wanted:
            found, size = _projected(call, value, wanted, self._largest)
            self._add(Entry(path, keys, {self._numbers[key]: one for key, one in found.items()}, size))

    def _add(self, entry: Entry) -> None:
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._entries[number] = entry
            self._size += entry.size
            for key in entry.keys:
                self._index.setdefault(key, OrderedDict())[number] = entry
            while len(self._entries) > self._most or self._size > self._largest:
                self._evict()

    def _evict(self) -> None:
        number, entry = self._entries.popitem(last=False)
        self._size -= entry.size
        for key in entry.keys:
            self._index[key].pop(number, None)
            # INVARIANT: what was forgotten is never taken for what was not there.
            self._evicted.add(key)

    def entries(self, key: Key) -> tuple[Sequence[Entry], bool]:
        """Return what calls of a tool, or of a step, left; and whether that is all of it."""
        with self._lock:
            return tuple(self._index.get(key, {}).values()), key not in self._evicted

    def number(self, source: Source) -> int:
        """Return the number of what a source looks at in every entry; -1 if nobody said that it is needed."""
        return self._numbers.get((source.projection, source.arguments), -1)

    def dumped(self) -> tuple[list[tuple[Entry, dict[int, str]]], list[Key]]:
        """Return every entry with the names of its projections, and the keys that are not complete any more."""
        with self._lock:
            names = {number: _named(wanted) for wanted, number in self._numbers.items()}
            return [(entry, names) for entry in self._entries.values()], sorted(self._evicted | self.passed)

    def restore(self, entries: Iterable[tuple[Entry, list[tuple[str, Found]]]], lost: Iterable[Key]) -> None:
        """Take over entries of another store; a projection that nobody needs here is left out, and counts as lost."""
        with self._lock:
            numbers = {_named(wanted): number for wanted, number in self._numbers.items()}
            self._evicted |= set(lost)
        for entry, named in entries:
            found = {numbers[name]: one for name, one in named if name in numbers}
            self._add(Entry(entry.path, entry.keys, found, entry.size))

    def forget(self) -> None:
        """Drop everything: the root task ended."""
        with self._lock:
            self._evicted |= set(self._index)
            self._entries.clear()
            self._index.clear()
            self._size = 0

    def __repr__(self) -> str:
        return f"<Store of {len(self._entries)} results>"


class View:
    """What one task may see of the store, at one level of its chain."""

    __slots__ = ("_path", "_scope", "_store")

    def __init__(self, store: Store, path: tuple[str, ...], scope: str) -> None:
        self._store, self._path, self._scope = store, path, scope

    def of(self, source: Source) -> tuple[Sequence[Found], bool]:
        """Return what earlier calls offer to a source, and whether that is all of it (see `Results`)."""
        entries, complete = self._store.entries(_key(source, self._scope))
        found, number = [], self._store.number(source)
        for entry in entries:
            if entry.path == self._path or self._sees(entry.path):
                one = entry.found.get(number)
                complete = complete and one is not None
                found += [one] if one is not None else []
        return found, complete

    def _sees(self, path: tuple[str, ...]) -> bool:
        """INVARIANT: of two tasks one is below the other; siblings share results through their parent's calls only."""
        shared = min(len(path), len(self._path))
        return path[:shared] == self._path[:shared]


def _key(source: Source, scope: str) -> Key:
    return ("", source.tool) if source.tool else (scope, source.step)


def _named(wanted: Wanted) -> str:
    projection, arguments = wanted
    return f"{projection!r} {sorted(arguments)}"


def whole_of(parts: Sequence[Any]) -> Any:
    """Return the parts of a stream as one result: one text if all of them are, else a list; UNTOLD if too many."""
    if len(parts) > MAX_CANDIDATES:
        return UNTOLD
    return "".join(parts) if all(isinstance(part, str) for part in parts) else list(parts)


# --- from a result to candidates --------------------------------------------------------------------------------------


def _projected(call: ToolCall, value: Any, wanted: Collection[Wanted], largest: int) -> tuple[dict[Wanted, Found], int]:
    found: dict[Wanted, Found] = {}
    size = _PRICE
    result = _structured(value, call.spec) if any(not projection.of_arguments for projection, _ in wanted) else None
    for one in wanted:
        projection, names = one
        arguments = {name: call.arguments[name] for name in names if name in call.arguments}
        rows = _rows(projection, dict(call.arguments) if projection.of_arguments else result)
        taken = _size_of(rows, arguments)
        if size + taken > largest:
            rows, taken = None, 0
        size += taken
        values = frozenset(row.value for row in rows or ())
        found[one] = Found(call.spec, arguments, rows, values, call.id)
    return found, size


def _rows(projection: Projection, value: Any) -> tuple[Row, ...] | None:
    """The candidates, or None where they cannot be had: there are too many, or the result cannot be read."""
    rows: list[Row] = []
    if value is UNTOLD:
        return None
    try:
        for item, around in projection.field.places(value, shown):
            beside = tuple(_sibling(path, around) for path in projection.beside)
            for candidate in _candidates(item, projection):
                rows.append(Row(candidate, beside))
                if len(rows) > MAX_CANDIDATES:
                    return None
    except Exception:  # a property of the tool's own class may raise anything
        return None
    return tuple(rows)


def _candidates(item: Any, projection: Projection) -> Iterator[Candidate]:
    """INVARIANT: text stays text and a number stays a number; empty text, null and bool prove nothing."""
    if item is None or isinstance(item, bool | Mapping | list | tuple):
        return
    if isinstance(item, str) and len(item) > _MAX_TEXT:
        raise ValueError("a text that is too long to be kept")
    try:
        value = canonical(item)
    except NotCanonical:
        return  # it could not be compared with any argument
    finder = projection.match.finder()
    if finder is None:
        yield from (value,) if isinstance(value, Decimal) or (isinstance(value, str) and value) else ()
    elif isinstance(value, str):
        yield from finder(value)


def _sibling(path: FieldPath, around: Sequence[Mapping[Any, Any]]) -> Any:
    """The field of the nearest mapping around that has its first key; canonical, or MISSING, or UNTOLD."""
    for mapping in reversed(around):
        if path.parts[0] in mapping:
            value = next(path.select(mapping, shown), MISSING)
            if value is MISSING:
                return MISSING
            try:
                return canonical(value)
            except NotCanonical:
                return UNTOLD
    return MISSING


def _size_of(rows: Collection[Row] | None, arguments: Mapping[str, Canonical]) -> int:
    size = sum(_price(value) for value in arguments.values())
    for row in rows or ():
        size += _price(row.value) + sum(map(_price, row.beside))
    return size


def _price(value: Any) -> int:
    if isinstance(value, tuple):
        return _PRICE + sum(map(_price, value))
    if isinstance(value, dict):
        return _PRICE + sum(len(key) + _price(item) for key, item in value.items())
    return _PRICE + (len(value) if isinstance(value, str) else 0)


# --- what is structure ------------------------------------------------------------------------------------------------


def _structured(value: Any, spec: ToolSpec) -> Any:
    """The result as structure: as the tool returned it, or read from JSON text where the tool says so.

    INVARIANT: text is text. What only looks like JSON stays one text, and so does JSON with a key that is there twice,
    or with a number that JSON does not have.
    """
    if spec.returns == "json" and isinstance(value, str) and len(value) <= MAX_BYTES:
        try:
            return json.loads(
                value, object_pairs_hook=_once, parse_float=Decimal, parse_int=Decimal, parse_constant=_refused
            )
        except (ValueError, ArithmeticError, RecursionError):
            return value
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _refused(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def shown(value: Any) -> Any:
    """Return a value whose fields have names as a mapping, everything else as it is: one level, nothing is copied."""
    if isinstance(value, str | int | float | Decimal | list | Mapping) or value is None:
        return value
    if isinstance(value, enum.Enum):
        return shown(value.value)
    if isinstance(value, tuple):
        return value._asdict() if hasattr(value, "_asdict") else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    names = getattr(type(value), "model_fields", None)
    if isinstance(names, Mapping):
        return {name: getattr(value, name) for name in names} | (getattr(value, "model_extra", None) or {})
    return value
