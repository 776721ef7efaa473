"""The leases that are kept for the next call under the same key: few of them whole, all others folded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from agentguard.credentials.folded import Fold, Folded, is_plain
from agentguard.credentials.held import Held, Key
from agentguard.model.lease import LeaseKey
from agentguard.model.record import Facts

WHOLE: Final = 256  # kept leases that are not folded: those that were used last
_LOOKS: Final = 16  # leases that are looked at, at most, to find one that nobody uses


class Home:
    """The leases of one open task: those that are whole, by their ids, and those that are folded. Its owner locks.

    Attributes:
        facts: what the records of all leases under one key say, where the key names no resource.
    """

    __slots__ = ("facts", "fold", "leases")

    def __init__(self) -> None:
        self.facts: dict[LeaseKey, Facts] = {}
        self.leases: dict[str, Held] = {}  # INVARIANT: a lease is here or in the fold, never in both
        self.fold = Fold()

    def drop(self, lease_id: str) -> None:
        self.leases.pop(lease_id, None)
        if not self.leases:
            self.leases = {}  # a table that was large stays large


class Kept:
    """Leases by their key, least recently used first; bounded. Its owner locks.

    Args:
        most: kept leases.
        whole: how many of them stay as they are; of the others, those that can be are folded.
        homes: the open tasks, by their ids; their owner changes them.
        folded: is told of each one that is folded.
    """

    def __init__(self, most: int, whole: int, homes: dict[str, Home], folded: Callable[[Folded], None]) -> None:
        self._most, self._whole, self._homes, self._tell = most, whole, homes, folded
        # Those that can be folded, and all others, which are not looked at for it again and again.
        self._plain: OrderedDict[Key, Held] = OrderedDict()
        self._others: OrderedDict[Key, Held] = OrderedDict()
        self._with_folded: dict[Home, None] = {}  # in the order in which they had the first
        self._folded = 0

    def get(self, key: Key, task: str) -> Held | None:
        """Return the lease under a key, whole; it is the last one that is folded again."""
        order = self._plain
        held = order.get(key)
        if held is None and self._others:
            order = self._others
            held = order.get(key)
        if held is not None:
            order.move_to_end(key)
            return held
        home = self._homes.get(task) if self._with_folded else None
        folded = home.fold.find(key) if home is not None else None
        if home is None or folded is None:
            return None
        held = self._whole_again(home, folded)
        self._fold_surplus()  # before it is among them, or it could be folded again at once
        self._plain[key] = held
        return held

    def put(self, held: Held) -> list[Held]:
        """Keep it, and return those that are in nobody's use and are kept no longer."""
        out = []
        older = self.get(held.key, held.issued.lease.task)
        if older is not None:
            out.append(older)
            self.drop(older)
        order = self._plain if is_plain(held) else self._others
        order[held.key] = held
        self._fold_surplus()
        out += self._surplus()
        for other in out:
            other.retired = True
        return [other for other in out if other.idle()]

    def _fold_surplus(self) -> None:
        """Fold the oldest ones that nobody uses, as many as are too many."""
        for _ in range(_LOOKS):
            if len(self._plain) <= self._whole:
                break
            key, oldest = next(iter(self._plain.items()))
            if self._fold(oldest):
                del self._plain[key]
            else:
                self._plain.move_to_end(key)

    def _fold(self, held: Held) -> bool:
        lease = held.issued.lease
        home = self._homes.get(lease.task)
        if home is None or not held.idle() or held.retired:
            return False
        # INVARIANT: what is about to end is not in its home any more, and stays whole.
        folded = home.fold.put(held) if home.leases.get(lease.id) is held else None
        if folded is None:
            return False
        home.drop(lease.id)
        self._folded += 1
        self._with_folded[home] = None
        self._tell(folded)
        return True

    def _whole_again(self, home: Home, folded: Folded) -> Held:
        """INVARIANT: it is among the whole ones before it leaves the fold: whoever is stopped here loses none."""
        held = home.leases[folded.id] = folded.held()
        self._folded -= home.fold.drop(folded)
        if not len(home.fold):
            self._with_folded.pop(home, None)
        return held

    def _surplus(self) -> list[Held]:
        """The oldest that nobody uses, as many as there are too many; what is in use is as good as new."""
        out: list[Held] = []
        for _ in range(_LOOKS):
            if len(self) <= self._most:
                break
            home = next(iter(self._with_folded), None)
            if home is not None:
                out += self._unfolded(home, home.fold.oldest())
                continue
            order = max(self._plain, self._others, key=len)
            key, oldest = next(iter(order.items()))
            if oldest.idle():
                del order[key]
                out.append(oldest)
            else:
                order.move_to_end(key)
        return out

    def _unfolded(self, home: Home, which: Iterable[Folded]) -> list[Held]:
        """Make folded leases whole again, which are kept no longer: they are about to end."""
        return [self._whole_again(home, folded) for folded in which]

    def all_of(self, home: Home) -> list[Held]:
        """Every lease of a task, whole."""
        self._unfolded(home, home.fold.listed())
        return list(home.leases.values())

    def over(self, home: Home, now: float) -> list[Held]:
        """The leases of a task that nobody uses and every verifier refuses."""
        self._unfolded(home, [folded for folded in home.fold.listed() if folded.expires_by <= now])
        return [held for held in home.leases.values() if held.over(now)]

    def find(self, home: Home, lease_id: str) -> Held | None:
        """The lease of a task by its id, to be ended."""
        self._unfolded(home, [folded for folded in home.fold.listed() if folded.id == lease_id])
        return home.leases.get(lease_id)

    def drop(self, held: Held) -> None:
        for order in (self._plain, self._others):
            if order.get(held.key) is held:
                del order[held.key]
                if not order:
                    order.clear()  # a table that was large stays large

    def __len__(self) -> int:
        return len(self._plain) + len(self._others) + self._folded
