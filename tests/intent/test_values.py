"""Constraints and steps are values: what they compare, show and keep when they are copied."""

from __future__ import annotations

import copy
import os
import pickle
from decimal import Decimal
from pathlib import Path

import pytest

from agentguard import at_most, eq, in_, in_set, is_, path
from agentguard.intent import Admitted, Intent, Option, compile_intent, step
from agentguard.intent.document import Document
from agentguard.intent.paths import PathUnder
from agentguard.intent.references import InSet, Is
from agentguard.intent.values import Eq, In
from agentguard.model.decision import Outcome


@pytest.mark.control("a value is compared in its exact form")
def test_numbers_of_one_value_are_one_constraint_and_a_bool_is_another() -> None:
    assert eq(50) == eq(Decimal("50.00"))
    assert hash(eq(50)) == hash(eq(Decimal("50.00")))
    assert eq(1) != eq(True)
    assert eq("a") != in_("a")
    assert eq("a") != eq("a", fold="case")


def test_constraints_show_what_was_said_and_not_what_was_made_of_it() -> None:
    assert repr(Eq(("a",))) == "Eq(values=('a',), fold=False)"
    assert repr(In(("a", "b"))) == "In(values=('a', 'b'), fold=False)"
    assert repr(InSet("payees", members=("ann",))) == "InSet(name='payees', fold=False)"
    assert repr(Is("payee", eq("ann"))) == "Is(name='payee')"
    assert repr(path("/")) == "PathUnder(under='/')"


def test_what_a_name_stands_for_is_not_compared() -> None:
    assert in_set("payees") == InSet("payees", members=("ann",))
    assert is_("payee") == Is("payee", eq("ann"))
    assert hash(is_("payee")) == hash(Is("payee", eq("ann")))
    assert in_set("payees") != in_set("payees", fold="case")
    assert in_set("payees") != is_("payees")


@pytest.mark.control("a directory is resolved once")
def test_copied_path_keeps_the_directory_that_it_was_made_with(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "one")
    made = path(link)
    link.unlink()
    link.symlink_to(tmp_path / "two")

    copies = [copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))]

    assert isinstance(made, PathUnder)
    assert [made] * 3 == copies
    assert {os.path.realpath(tmp_path / "one")} == {made.real, *(one.real for one in copies)}
    assert path(link) == made
    assert hash(path(link)) == hash(made)


def test_values_do_not_change() -> None:
    for value, field in ((eq("a"), "values"), (step("pay"), "tool"), (Intent("p"), "name")):
        with pytest.raises(AttributeError):
            setattr(value, field, "other")
    with pytest.raises(AttributeError):
        del Intent("p").name


def test_intents_are_equal_that_say_the_same_wherever_they_came_from() -> None:
    one, other = Intent("p", step("pay", amount=at_most(50))), Intent("p", step("pay", amount=at_most("50.00")))

    assert one == other
    assert hash(one) == hash(other)
    assert one == other.from_file(["limit"], "s256:...")
    assert one != Intent("p", step("pay", amount=at_most(51)))
    assert one != "p"


def test_pickled_intent_is_the_same_and_hashes_itself_again() -> None:
    made = Intent("p", step("pay", amount=at_most(50)), sets={"s": ["ann"]}, agents={"bot": {"reads": ["a.read"]}})
    hashed = made.s256

    again = pickle.loads(pickle.dumps(made))

    assert again == made
    assert again.s256 == hashed


def test_places_and_rules_are_not_shown() -> None:
    assert repr(Document({"a": 1}, "a.yaml", {("a",): (1, 1)})) == "Document(tree={'a': 1}, file='a.yaml')"
    assert repr(compile_intent(Intent("p"))) == "CompiledIntent(intent=<Intent p: permits nothing>)"


def test_verdict_that_is_kept_equals_one_that_is_not() -> None:
    options = (Option("pay", Outcome.PERMIT),)

    assert Admitted(options) == Admitted(options, fixed=True)
    assert hash(Admitted(options)) == hash(Admitted(options, fixed=True))
    assert Admitted(options) != Admitted(())
