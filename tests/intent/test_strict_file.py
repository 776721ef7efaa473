"""The strict YAML reader."""

from __future__ import annotations

import json
import time
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agentguard.errors import ConfigurationError
from agentguard.intent.strict_file import Document, Problems, nearest, read_strict, read_strict_file


def refusals(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        read_strict(text, "x.yaml")
    return caught.value.problems


@pytest.mark.parametrize(
    "word",
    ["on", "off", "yes", "no", "y", "True", "FALSE", "~", "Null", "2027-03-31", "2027-03-31T10:00:00Z", "0x1f", "0o17",
     "1_000", "12:30", "007", "+49", ".5", "5.", ".inf", ".nan", "1e", "--1", "=", "10/m", "10m", "s256:abc"],
)  # fmt: skip
def test_what_yaml_1_1_would_turn_into_something_else_stays_text(word: str) -> None:
    assert read_strict(f"key: {word}", "x.yaml").tree == {"key": word}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("true", True),
        ("false", False),
        ("null", None),
        ("0", 0),
        ("-12", -12),
        ("1.10", Decimal("1.10")),
        ("1e3", Decimal("1e3")),
    ],
)
def test_core_scalars_are_read_exactly(word: str, value: object) -> None:
    read = read_strict(f"key: {word}", "x.yaml").tree["key"]

    assert (type(value), value, str(value)) == (type(read), read, str(read))


@pytest.mark.parametrize("quoted", ["'true'", '"true"', "'5'", '"null"', "'<<'", "''"])
def test_quoted_scalars_are_text(quoted: str) -> None:
    assert read_strict(f"key: {quoted}", "x.yaml").tree == {"key": quoted[1:-1]}


def test_a_block_text_and_flow_forms_are_read() -> None:
    text = 'note: |\n  two\n  lines\nhosts: [https://x.test, "*.y.test"]\ncall: {callback: bank.approvals:ask}\n'

    assert read_strict(text, "x.yaml").tree == {
        "note": "two\nlines\n",
        "hosts": ["https://x.test", "*.y.test"],
        "call": {"callback": "bank.approvals:ask"},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2", "x.yaml:2: a: the key is there twice, first on line 1"),
        ('a: 1\n"a": 2', "x.yaml:2: a: the key is there twice, first on line 1"),
        ("\u00e9: 1\ne\u0301: 2", "x.yaml:2: e\u0301: the key is there twice, first on line 1"),
        ("a: &x 1", "x.yaml:1: a: an anchor (&x)"),
        ("a: [*x]", "x.yaml:1: a[0]: an alias (*x)"),
        ("a: !!str 5", "x.yaml:1: a: a tag (tag:yaml.org,2002:str)"),
        ("a: !x {b: 1}", "x.yaml:1: a: a tag (!x)"),
        ("!x a: 1", "x.yaml:1: a tag (!x)"),
        ("a:\n  <<: {b: 1}", "x.yaml:2: a: a merge key (<<)"),
        ("a: 1\n---\nb: 2", "x.yaml:2: a second document"),
        ("%YAML 1.2\n---\na: 1", "x.yaml:1: a directive"),
        ("1: a", "x.yaml:1: the key '1' is no text; write it in quotes: \"1\""),
        ("true: a", "x.yaml:1: the key 'true' is no text"),
        ("a: {null: b}", "x.yaml:1: a: the key 'null' is no text"),
        ("? \n: a", "x.yaml:1: the key '' is no text"),
        ("? [a]\n: b", "x.yaml:1: a key that is no text"),
        ("a:", "x.yaml:1: a: an empty value; write null"),
        ("a:\n  - \n  - b", "x.yaml:2: a[0]: an empty value"),
        ("", "x.yaml:1: the file is empty"),
        ("# nothing\n", "x.yaml:1: the file is empty"),
        ("a: 1e999", "x.yaml:1: a: a number out of range"),
        ("a: 1e99999999999999999999", "x.yaml:1: a: a number out of range"),
        ("a:\tb", "x.yaml:1: a tab in the file"),
        ("a: 1\r\nb: 2\rc: 3", "x.yaml:2: the character U+000D"),
        ("a: b\x00", "x.yaml:1: the character U+0000"),
        ("a: b\x85", "x.yaml:1: the character U+0085"),
        ("a: b\u2028", "x.yaml:1: the character U+2028"),
        ("a: b\u202e", "x.yaml:1: the character U+202E"),
        ("a: b\ud800", "x.yaml:1: the character U+D800"),
        ('a: "\\0"', "x.yaml:1: a: the character U+0000 in the text"),
        ('a: "\\ud800"', "x.yaml:1: a: the character U+D800 in the text"),
        ('"\\u202e": 1', "the character U+202E in the text"),
        ('a: "\\U00110000"', "x.yaml:1: this is not YAML"),
        ("a: [1", "x.yaml:1: this is not YAML: expected ',' or ']'"),
        ("a: b: c", "x.yaml:1: this is not YAML"),
    ],
)
def test_each_mistake_is_refused_with_its_line(text: str, expected: str) -> None:
    problems = refusals(text)

    assert any(expected in problem for problem in problems), problems


def test_a_tab_as_an_escape_and_windows_line_ends_are_read() -> None:
    assert read_strict('a: "x\\ty"\r\nb: 1\r\n', "x.yaml").tree == {"a": "x\ty", "b": 1}


def test_all_mistakes_come_in_one_error_sorted_by_line() -> None:
    text = "a: 1\nb: &x 2\na: 3\nc:\n  - *x\n  - !t 4\n5: d\nf:\n"

    problems = refusals(text)

    assert [f"x.yaml:{line}:" for line in (2, 3, 5, 6, 7, 8)] == [problem.split(" ")[0] for problem in problems]


def nested(depth: int) -> str:
    return "[" * depth + "1" + "]" * depth


def test_depth_of_32_is_read_and_33_is_not() -> None:
    read_strict(nested(32), "x.yaml")

    assert [problem[-28:] for problem in refusals(nested(33))] == ["nested deeper than 32 levels"]


def test_a_million_brackets_are_refused_at_once() -> None:
    started = time.process_time()

    refusals("[" * 1_000_000)

    assert time.process_time() - started < 5


def test_an_alias_bomb_expands_to_nothing() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]

    assert len(refusals("\n".join(lines))) == 40 + 2 * 39


def test_a_file_over_one_mebibyte_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    for content in ("a: " + "x" * (1 << 20), "ab: " + "\u00e9" * (1 << 19)):
        large.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigurationError, match="larger than 1 MiB"):
            read_strict_file(large)
    assert refusals("a: " + "\u00e9" * (1 << 19)) == ("x.yaml:1: the file is larger than 1 MiB",)


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: \xe9\n")

    with pytest.raises(ConfigurationError, match=r"latin\.yaml:2: this is not UTF-8"):
        read_strict_file(latin)
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        read_strict_file(tmp_path / "absent.yaml")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        read_strict_file(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_strict_file("a\x00b")


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    file = tmp_path / "bom.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")

    assert read_strict_file(file).tree == {"a": 1}


def test_where_gives_file_line_and_path() -> None:
    document = read_strict('a:\n  b:\n    - x\n    - y\n  "c.d": 1\n', "f.yaml")

    assert document.where(("a", "b", 1)) == "f.yaml:4: a.b[1]"
    assert document.where(("a", "c.d")) == 'f.yaml:5: a."c.d"'
    assert document.where(("a", "b", 9, "z")) == "f.yaml:2: a.b[9].z"
    assert document.where(()) == "f.yaml:1"
    assert document.lines["a", "b"] == (2, 3)


def test_problems_are_sorted_by_line_and_raised_once() -> None:
    problems = Problems(read_strict("a: 1\nb: 2\n", "f.yaml"))
    problems.raise_if_any("nothing is wrong:")
    problems.add(("b",), "second")
    problems.add(("a",), "first")
    problems.add(("b", "c"), "third")

    assert problems
    assert len(problems) == 3
    with pytest.raises(ConfigurationError, match=r"^wrong:\n  f\.yaml:1: a: first\n  f") as caught:
        problems.raise_if_any("wrong:")
    assert caught.value.problems == ("f.yaml:1: a: first", "f.yaml:2: b: second", "f.yaml:2: b.c: third")


def test_another_files_mistakes_are_included() -> None:
    problems = Problems(read_strict("a: b.yaml\n", "f.yaml"))
    problems.include(("a",), ConfigurationError("b.yaml is wrong:", ("b.yaml:1: x: one", "b.yaml:2: y: two")))
    problems.include(("a",), ConfigurationError("c.yaml: cannot be read"))

    with pytest.raises(ConfigurationError) as caught:
        problems.raise_if_any("wrong:")

    assert caught.value.problems == ("f.yaml:1: a: c.yaml: cannot be read", "b.yaml:1: x: one", "b.yaml:2: y: two")


def test_the_nearest_known_word_is_offered() -> None:
    assert nearest("purpos", ["purpose", "owners"]) == "; did you mean 'purpose'?"
    assert nearest("zzz", ["purpose", "owners"]) == ""


plain = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029\ufeff\ufffe\uffff"), max_size=8
)
visible = plain.filter(
    lambda text: not set(text) & {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}
)
json_trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | visible,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(visible, inner, max_size=3),
    max_leaves=10,
)


@given(json_trees)
@settings(max_examples=200, deadline=None)
def test_every_json_text_reads_as_itself(tree: Any) -> None:
    keys = _keys(tree)
    text = json.dumps(tree, ensure_ascii=False)
    if any(len(set(group)) != len({_nfc(key) for key in group}) for group in keys):
        return

    assert read_strict(text, "x.yaml").tree == tree


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _keys(tree: Any) -> list[list[str]]:
    if isinstance(tree, dict):
        return [list(tree), *(group for item in tree.values() for group in _keys(item))]
    return [group for item in tree for group in _keys(item)] if isinstance(tree, list) else []


soup = st.lists(
    st.sampled_from(["a", "b: ", "- ", "\n", "  ", "[", "]", "{", "}", ",", "*a", "&a ", "!t ", "'", '"', "|\n", "#",
                     "? ", ": ", "---\n", "...\n", "%YAML 1.1\n", "<<: ", "\\U00110000", "\\x", "1", "null", ">", "@",
                     "`", "\ud800", "\t"]),
    max_size=30,
)  # fmt: skip


@given(soup | st.text(max_size=60).map(list))
@settings(max_examples=500, deadline=None)
def test_whatever_the_text_it_is_read_or_refused(parts: list[str]) -> None:
    found: tuple[str, ...] = ()
    document: Document | None
    try:
        document = read_strict("".join(parts), "x.yaml")
    except ConfigurationError as error:
        document, found = None, error.problems

    assert found if document is None else document.where(()).startswith("x.yaml:")


@given(soup)
@settings(max_examples=200, deadline=None)
def test_what_is_read_has_the_structure_that_pyyaml_sees(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        tree = read_strict(text, "x.yaml").tree
    except ConfigurationError:
        return

    assert yaml.load(text, Loader=yaml.BaseLoader) == _as_text(tree)


def _as_text(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _as_text(item) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_as_text(item) for item in tree]
    return tree if isinstance(tree, str) else json.dumps(tree)
