"""A Merkle tree over the hashes of records: roots, proofs and their verification (RFC 9162 section 2.1).

Pure rules. A record's `hash` is its leaf hash already, so a chain's records are the leaves of its tree, in order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

SIZE: Final = 32  # bytes of a hash
EMPTY: Final = hashlib.sha256(b"").digest()  # the root of a tree without leaves


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf's content (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node above two others (RFC 9162 section 2.1.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """The root of a growing tree; it keeps one hash for each bit of its size. Not safe for concurrent use."""

    __slots__ = ("_complete", "size")

    def __init__(self) -> None:
        self.size = 0
        # Roots of the complete subtrees, the largest first: one for each 1 in the binary form of the size.
        self._complete: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add a leaf.

        Args:
            leaf: its hash, 32 bytes.
        """
        complete, rest = self._complete, self.size
        while rest & 1:
            leaf = hashlib.sha256(b"\x01" + complete.pop() + leaf).digest()
            rest >>= 1
        complete.append(leaf)
        self.size += 1

    def extend(self, leaves: bytes) -> None:
        """Add many leaves, in half the time.

        Args:
            leaves: their hashes, one behind the other.
        """
        at, end = 0, len(leaves) // SIZE
        while at < end:
            # The largest complete subtree that fits here; its root is what `append` would have come to.
            height = (end - at).bit_length() - 1
            if self.size:
                height = min(height, (self.size & -self.size).bit_length() - 1)
            count = 1 << height
            node, rest = _complete_root(leaves[at * SIZE : (at + count) * SIZE]), self.size >> height
            while rest & 1:
                node, rest = node_hash(self._complete.pop(), node), rest >> 1
            self._complete.append(node)
            self.size += count
            at += count

    def root(self) -> bytes:
        """The root hash of the leaves so far (RFC 9162 section 2.1.1)."""
        if not self._complete:
            return EMPTY
        *larger, root = self._complete
        for left in reversed(larger):
            root = node_hash(left, root)
        return root


def _complete_root(level: bytes) -> bytes:
    digest = hashlib.sha256
    while len(level) > SIZE:
        level = b"".join([digest(b"\x01" + level[at : at + 64]).digest() for at in range(0, len(level), 64)])
    return level


def inclusion_ranges(index: int, size: int) -> list[range]:
    """The leaves under each hash of an inclusion proof, from the leaf's sibling up (RFC 9162 section 2.1.3.1).

    Raises:
        ValueError: the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    found, low, high = [], 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            found.append(range(middle, high))
            high = middle
        else:
            found.append(range(low, middle))
            low = middle
    return found[::-1]


def consistency_ranges(old: int, new: int) -> list[range]:
    """The leaves under each hash of a consistency proof (RFC 9162 section 2.1.4.1).

    Raises:
        ValueError: a tree does not grow from the old size to the new one.
    """
    if not 0 < old <= new:
        raise ValueError(f"no tree of {old} leaves grows to {new}")
    found, low, high = [], 0, new
    while old < high:
        middle = low + _split(high - low)
        if old <= middle:
            found.append(range(middle, high))
            high = middle
        else:
            found.append(range(low, middle))
            low = middle
    return [*([range(low, high)] if low else []), *found[::-1]]


def _split(size: int) -> int:
    """The largest power of two below a size."""
    return 1 << (size - 1).bit_length() - 1


class RangeRoots:
    """The root over each of some ranges that do not overlap, in one pass over the leaves, in constant memory."""

    def __init__(self, ranges: Sequence[range]) -> None:
        self._ranges, self._trees, self._index = ranges, [Tree() for _ in ranges], 0
        self._left = sorted(zip(ranges, self._trees, strict=True), key=lambda pair: pair[0].start, reverse=True)

    def append(self, leaf: bytes) -> None:
        """Add the next leaf of the tree."""
        index, self._index = self._index, self._index + 1
        while self._left and index >= self._left[-1][0].stop:
            self._left.pop()
        if self._left and index in self._left[-1][0]:
            self._left[-1][1].append(leaf)

    def roots(self) -> list[bytes]:
        """Return the roots, in the order of the ranges.

        Raises:
            ValueError: there were fewer leaves than a range needs.
        """
        if any(tree.size != len(wanted) for tree, wanted in zip(self._trees, self._ranges, strict=True)):
            raise ValueError("there are fewer leaves than the proof needs")
        return [tree.root() for tree in self._trees]


def range_roots(leaves: Iterable[bytes], ranges: Sequence[range]) -> list[bytes]:
    """Return the root over each of some ranges of leaves that do not overlap: a proof.

    Raises:
        ValueError: there are fewer leaves than a range needs.
    """
    found = RangeRoots(ranges)
    for leaf in leaves:
        found.append(leaf)
    return found.roots()


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Tell whether a leaf stands at an index of the tree with this root (RFC 9162 section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = node_hash(step, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, step)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Tell whether the tree with the new root has that with the old one as its first leaves (section 2.1.4.2)."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    below = above = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            below, above = node_hash(step, below), node_hash(step, above)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            above = node_hash(above, step)
        place, last = place >> 1, last >> 1
    return last == 0 and below == old_root and above == new_root
