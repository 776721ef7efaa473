"""The Merkle tree: the vectors of Certificate Transparency, and the rules of RFC 9162 on any tree."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.audit.chain import read
from agentguard.audit.merkle import (
    EMPTY,
    Tree,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    node_hash,
    range_roots,
    verify_consistency,
    verify_inclusion,
)
from agentguard.model.canonical import jcs
from tests.audit.samples import chained, record

# The leaves and roots that the test suites of Certificate Transparency logs share.
CONTENT = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
LEAVES = [leaf_hash(bytes.fromhex(each)) for each in CONTENT]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
INCLUSION = (
    (0, 8, ("96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4")),
    (5, 8, ("bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7")),
    (2, 3, ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",)),
)  # fmt: skip
CONSISTENCY = (
    (1, 8, ("96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4")),
    (6, 8, ("0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7")),
    (2, 5, ("5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b")),
)  # fmt: skip
sizes = st.integers(1, 70)


def some(count: int) -> list[bytes]:
    return [leaf_hash(b"%d" % number) for number in range(count)]


def root_of(leaves: list[bytes]) -> bytes:
    """The definition of RFC 9162 section 2.1.1, by recursion."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return node_hash(root_of(leaves[:half]), root_of(leaves[half:]))


def test_roots_are_those_of_certificate_transparency() -> None:
    tree, found = Tree(), []
    assert hashlib.sha256().digest() == tree.root()
    for leaf in LEAVES:
        tree.append(leaf)
        found.append(tree.root().hex())

    assert list(ROOTS) == found


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_inclusion_proofs_are_those_of_certificate_transparency(index: int, size: int, proof: tuple[str, ...]) -> None:
    found = range_roots(LEAVES, inclusion_ranges(index, size))

    assert list(proof) == [each.hex() for each in found]
    assert verify_inclusion(LEAVES[index], index, size, found, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(("old", "new", "proof"), CONSISTENCY)
def test_consistency_proofs_are_those_of_certificate_transparency(old: int, new: int, proof: tuple[str, ...]) -> None:
    found = range_roots(LEAVES, consistency_ranges(old, new))

    assert list(proof) == [each.hex() for each in found]
    assert verify_consistency(old, new, bytes.fromhex(ROOTS[old - 1]), bytes.fromhex(ROOTS[new - 1]), found)


@given(size=st.integers(0, 200))
def test_incremental_root_is_the_defined_one(size: int) -> None:
    tree = Tree()
    for leaf in some(size):
        tree.append(leaf)

    assert (size, root_of(some(size))) == (tree.size, tree.root())


@given(parts=st.lists(st.integers(0, 40), max_size=8))
def test_leaves_that_come_in_heaps_make_the_same_tree(parts: list[int]) -> None:
    leaves, tree, at = some(sum(parts)), Tree(), 0
    for count in parts:
        tree.extend(b"".join(leaves[at : at + count]))
        at += count
    tree.append(EMPTY)

    assert (at + 1, root_of([*leaves, EMPTY])) == (tree.size, tree.root())


@given(size=sizes, data=st.data())
def test_every_leaf_is_proved_and_no_other_leaf_place_or_tree_is(size: int, data: st.DataObject) -> None:
    index, leaves = data.draw(st.integers(0, size - 1)), some(size)
    root, proof = root_of(leaves), range_roots(leaves, inclusion_ranges(index, size))

    assert verify_inclusion(leaves[index], index, size, proof, root)
    assert not verify_inclusion(leaf_hash(b"another"), index, size, proof, root)
    assert not verify_inclusion(leaves[index], index, size, proof, leaf_hash(b"another"))
    assert not verify_inclusion(leaves[index], index, size, [*proof, proof[0] if proof else root], root)
    other = data.draw(st.integers(0, size + 2))
    assert (other == index) == verify_inclusion(leaves[index], other, size, proof, root)
    if proof:
        assert not verify_inclusion(leaves[index], index, size, proof[:-1], root)


@given(new=sizes, data=st.data())
def test_growth_is_proved_and_a_rewritten_past_is_not(new: int, data: st.DataObject) -> None:
    old, leaves = data.draw(st.integers(1, new)), some(new)
    proof = range_roots(leaves, consistency_ranges(old, new))
    before, after = root_of(leaves[:old]), root_of(leaves)

    assert verify_consistency(old, new, before, after, proof)
    assert not verify_consistency(old, new, leaf_hash(b"another"), after, proof)
    assert not verify_consistency(old, new, before, leaf_hash(b"another"), proof)
    assert not verify_consistency(old, new, before, after, [*proof, before])
    if proof:
        assert not verify_consistency(old, new, before, after, proof[:-1])
        assert not verify_consistency(old, new, before, after, [leaf_hash(b"another"), *proof[1:]])
    rewritten = [leaf_hash(b"another"), *leaves[1:]]
    assert not verify_consistency(
        old, new, before, root_of(rewritten), range_roots(rewritten, consistency_ranges(old, new))
    )


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_leaf_that_is_not_there_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        inclusion_ranges(index, size)
    assert not verify_inclusion(LEAVES[0], index, size, [], LEAVES[0])


@pytest.mark.parametrize(("old", "new"), [(0, 3), (4, 3), (-1, 3)])
def test_tree_that_shrinks_has_no_proof(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="grows"):
        consistency_ranges(old, new)
    assert not verify_consistency(old, new, LEAVES[0], LEAVES[0], [])


def test_too_few_leaves_are_said_to_be_too_few() -> None:
    with pytest.raises(ValueError, match="fewer leaves"):
        range_roots(LEAVES[:5], inclusion_ranges(0, 8))


def test_hash_of_a_record_is_the_leaf_hash_of_its_line() -> None:
    (line,) = chained([record(1)])
    found, position = read(line, None)

    assert position.hash == leaf_hash(jcs({key: value for key, value in found.items() if key != "hash"})).hex()
    assert line == jcs(found) + b"\n"
