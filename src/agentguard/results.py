"""What earlier calls returned, for `from`: one store per root task, shared by its tree, bounded, and nothing else kept.

Only fields that a `from` of the tree names are recorded, at return, after live credentials were taken out. A child sees
its ancestors' results, a parent those of its children; siblings do not see each other's.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from agentguard.candidates import MAX_BYTES, Wanted, projected
from agentguard.intent.earlier import Found, Source
from agentguard.model.call import ToolCall

MAX_ENTRIES: Final = 1_000

Key = tuple[str, str]  # ("", tool) or (scope of a level, step)


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
            found, size = projected(call, value, wanted, self._largest)
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
