"""Named sets: where members come from, and that they are fixed when the task opens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agentguard
from agentguard.errors import ConfigurationError
from agentguard.intent import EnvSet, FileSet, Intent, ResolvedSet, ValueSet, any_, compile_intent, in_set, step
from tests.intent.calls import admitted, call_of


def members(source: Any, base: Path, **resolvers: Any) -> tuple[Any, ...]:
    intent = Intent("p", step("pay", to=in_set("s")), sets={"s": source})
    found = intent.resolve(resolvers, base).sets["s"]
    assert isinstance(found, ValueSet)
    return found.values


def refusal(source: Any, base: Path, **resolvers: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        members(source, base, **resolvers)
    return str(caught.value) + "".join(caught.value.problems)


FILES: list[tuple[str, str, str, tuple[str, ...]]] = [
    ("p.yaml", "- iban: DE1\n- iban: DE2\n", "[].iban", ("DE1", "DE2")),
    ("p.yml", "a: [x, y]\n", "a[]", ("x", "y")),
    ("p.json", '{"a": {"k1": {"id": "x"}, "k2": {"id": "y"}}}', "a.*.id", ("x", "y")),
    ("p.json", '{"b": 1, "a": 2}', "~keys", ("a", "b")),
    ("p.json", '["x", "x", "y"]', "[]", ("x", "y")),
    ("p.csv", "\ufeffname,iban\nAnn,DE1\nBo,DE2\n", "[].iban", ("DE1", "DE2")),
    ("p.csv", 'name,iban\n"Ann, A.",DE1\n', "[].name", ("Ann, A.",)),
]


@pytest.mark.parametrize(("name", "content", "field", "expected"), FILES)
def test_members_come_from_a_field_of_a_file(
    tmp_path: Path, name: str, content: str, field: str, expected: tuple[str, ...]
) -> None:
    (tmp_path / name).write_text(content)

    assert members(FileSet(name, field), tmp_path) == expected


BAD_FILES: list[tuple[str, str, str, str]] = [
    ("p.json", '{"a": 1, "a": 2}', "a", "a key stands there twice"),
    ("p.json", "[NaN]", "[]", "NaN is no number"),
    ("p.json", "[1,", "[]", "is no JSON"),
    ("p.json", "[[1]]", "[]", "a member of a set is text"),
    ("p.json", '[""]', "[]", "a member of a set is text"),
    ("p.json", "[null]", "[]", "a member of a set is text"),
    ("p.json", "[]", "[]", "an empty set admits nothing"),
    ("p.json", '[{"id": 1}]', "[].iban", "an empty set admits nothing"),
    ("p.json", '["cafe\u0301"]', "[]", "not in Unicode NFC"),
    ("p.csv", "a,a\n1,2\n", "[].a", "each name once"),
    ("p.csv", "a,b\n1\n", "[].a", "row 2 has 1 fields"),
    ("p.csv", 'a\n"1\n', "[].a", "is no CSV"),
    ("p.csv", "", "[].a", "no header row"),
    ("p.yaml", "a: &x [1]\nb: *x\n", "a[]", "cannot be read"),
]


@pytest.mark.parametrize(("name", "content", "field", "expected"), BAD_FILES)
def test_file_that_is_not_exact_is_refused(tmp_path: Path, name: str, content: str, field: str, expected: str) -> None:
    (tmp_path / name).write_text(content)

    assert expected in refusal(FileSet(name, field), tmp_path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d.json").mkdir()

    assert "cannot be read" in refusal(FileSet("gone.json"), tmp_path)
    assert "sets.s" in refusal(FileSet("d.json"), tmp_path)


def test_file_is_found_beside_the_intent_file(tmp_path: Path) -> None:
    (tmp_path / "payees.json").write_text('["ann"]')
    (tmp_path / "i.yaml").write_text(
        "version: 1\npurpose: p\nsets: {s: {file: payees.json}}\nsteps: [{tool: pay, args: {to: {set: s}}}]\n"
    )
    intent = Intent.load(tmp_path / "i.yaml").resolve()

    assert admitted(intent, call_of(to="ann"))
    assert not admitted(intent, call_of(to="eve"))


def test_environment_value_is_separated_by_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYEES", "bo, ann")
    assert members(EnvSet("PAYEES"), tmp_path) == ("ann", "bo")

    monkeypatch.setenv("PAYEES", "bo,,ann")
    assert "a member of a set is text" in refusal(EnvSet("PAYEES"), tmp_path)
    monkeypatch.setenv("PAYEES", "")
    assert "an empty set" in refusal(EnvSet("PAYEES"), tmp_path)
    assert members(EnvSet("PAYEES", may_be_empty=True), tmp_path) == ()
    monkeypatch.delenv("PAYEES")
    assert "PAYEES is not set" in refusal(EnvSet("PAYEES"), tmp_path)


def test_resolver_gets_its_arguments_by_name_and_is_called_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def orders_of(user: str) -> list[dict[str, Any]]:
        asked.append(user)
        return [{"id": 7}, {"id": "B-8"}]

    source = ResolvedSet("orders_of", {"user": "alice"}, "[].id")
    intent = Intent("p", step("pay", to=in_set("a")), sets={"a": source, "b": source}, agents={"bot": {"reads": ["x"]}})
    found = intent.resolve({"orders_of": orders_of})

    assert asked == ["alice"]
    assert found.sets["a"] == found.agents["bot"].sets["b"] == ValueSet(("B-8", 7))
    assert found.resolve({}) is found


def test_resolver_that_raises_or_is_unknown_refuses_without_its_words(tmp_path: Path) -> None:
    def failing() -> None:
        raise RuntimeError("password hunter2")

    text = refusal(ResolvedSet("failing"), tmp_path, failing=failing)
    assert "the resolver 'failing' failed (RuntimeError)" in text
    assert "hunter2" not in text
    assert "no resolver 'gone' is registered; known: failing" in refusal(ResolvedSet("gone"), tmp_path, failing=failing)


def test_intent_with_open_sets_is_not_compiled() -> None:
    intent = Intent("p", step("pay", to=in_set("s")), sets={"s": EnvSet("PAYEES")})

    with pytest.raises(ConfigurationError, match="not resolved yet"):
        compile_intent(intent)


def test_hash_covers_the_members_in_any_order() -> None:
    def made(values: list[Any]) -> Intent:
        return Intent("p", step("pay", to=in_set("s")), sets={"s": values})

    assert made(["a", "b"]) == made(["b", "a", "a"])
    assert made(["a", "b"]).s256 == made(["b", "a"]).s256
    assert made(["a", "b"]).s256 != made(["a", "c"]).s256
    assert made([1]).s256 != made(["1"]).s256


def test_source_hash_stays_when_sets_are_resolved(tmp_path: Path) -> None:
    text = "version: 1\npurpose: p\nsets: {s: {env: PAYEES}}\nreads: [a]\n"
    intent = Intent.from_yaml(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAYEES", "x")
        found = intent.resolve()

    assert found.source_s256 == intent.source_s256
    assert found.s256 != intent.s256


@pytest.fixture
def guard() -> Iterator[agentguard.Guard]:
    with agentguard.local() as made:
        yield made


def test_set_is_frozen_when_the_task_opens(guard: agentguard.Guard) -> None:
    payees = ["ann"]
    guard.resolver("payees", lambda: payees)
    paid: list[str] = []

    def pay_to(to: str) -> None:
        paid.append(to)

    pay = agentguard.guard_tool(pay_to, "pay")
    intent = Intent("p", step("pay", to=in_set("s")).times(5), sets={"s": ResolvedSet("payees")})

    with guard.task("bot", on_behalf_of="alice", intent=intent):
        payees.append("eve")
        pay(to="ann")
        with pytest.raises(agentguard.Denied):
            pay(to="eve")

    assert paid == ["ann"]


def test_task_with_an_unknown_resolver_does_not_open(guard: agentguard.Guard) -> None:
    intent = Intent("p", step("pay", to=in_set("s")), sets={"s": ResolvedSet("gone")})

    with pytest.raises(ConfigurationError, match="cannot be resolved"):
        guard.task("bot", on_behalf_of="alice", intent=intent)


def test_resolver_is_registered_once_under_a_word(guard: agentguard.Guard) -> None:
    guard.resolver("orders", list)

    for name in ("orders", "os.getenv"):
        with pytest.raises(ConfigurationError, match="no free name"):
            guard.resolver(name, list)


def test_sub_agent_has_the_sets_and_defines_of_its_parent() -> None:
    text = """version: 1
purpose: p
sets: {s: {values: [ann]}}
define: {payee: {set: s}}
steps: [{tool: pay, args: {to: {is: payee}}}]
agents:
  bot: {steps: [{tool: pay, args: {to: [{set: s}, {is: payee}]}}]}
"""
    intent = Intent.from_yaml(text)
    sub = intent.agents["bot"]

    assert admitted(sub, call_of(to="ann"))
    assert not admitted(sub, call_of(to="eve"))
    assert Intent.from_yaml(intent.to_yaml()) == intent
    by_hand = Intent("p", step("pay", to=in_set("s")), sets={"s": ["ann"]}, agents={"bot": Intent("p", reads=["a"])})
    assert by_hand.agents["bot"].sets == by_hand.sets
    assert Intent.from_yaml(by_hand.to_yaml()) == by_hand
    deep = Intent("p", sets={"s": ["ann"]}, define={"payee": in_set("s")},
                  agents={"bot": Intent("p", reads=["a"], agents={"sub": Intent("p", reads=["a"])})})  # fmt: skip
    assert deep.agents["bot"].agents["sub"].sets == deep.sets
    assert Intent.from_yaml(deep.to_yaml()) == deep


def test_ceiling_resolves_its_files() -> None:
    intent = Intent("p", step("pay", to=in_set("s")), step("b", to=any_), sets={"s": ["ann"]})

    assert compile_intent(intent.resolve(), ceiling=True).rules.steps


def test_delegated_steps_may_use_the_sets_of_the_task(guard: agentguard.Guard) -> None:
    def pay_to(to: str) -> str:
        return to

    pay = agentguard.guard_tool(pay_to, "pay")
    guard.resolver("payees", lambda: ["ann", "bo"])
    intent = Intent("p", step("pay", to=any_).times(5), sets={"s": ResolvedSet("payees")})

    with (
        guard.task("bot", on_behalf_of="alice", intent=intent) as task,
        task.delegate("helper", steps=[step("pay", to=in_set("s"))]),
    ):
        with pytest.raises(agentguard.Denied):
            pay(to="eve")
        assert pay(to="ann") == "ann"
