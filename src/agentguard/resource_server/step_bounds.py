"""The steps of an intent as a token carries them, and what they demand of the arguments of a request.

A token writes every number as text, so here text that is the one text of a number stands for that number too. What
only the agent's task knows (earlier results, the subject's words, bound names, named sets) cannot tell here.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from agentguard.intent.constraint import Constraint
from agentguard.intent.constraint_form import read_constraint
from agentguard.intent.literal import thawed
from agentguard.intent.literal_intent import mapped
from agentguard.intent.membership import membership
from agentguard.intent.mistakes import Notes
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, MISSING, Facts, Test, Truth, every, unset
from agentguard.intent.values import In
from agentguard.model.call import ToolCall
from agentguard.model.canonical import canonical, number_text, readable

MOST_STEPS: Final = 64
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,399})(?:\.[0-9]{0,400}[1-9])?")
_TASKS_OWN: Final = frozenset({"from", "said", "bind", "set", "is"})
_UNKNOWN: Final[Mapping[str, Any]] = {"said": True}  # nothing was said here, so it cannot tell
_FOLDING: Final = frozenset({"eq", "in"})
_WITH_NUMBERS: Final = frozenset({"items", "date", "text"})


def steps_hold(steps: object, call: ToolCall, *, closed: bool, unchecked: frozenset[str]) -> Truth:
    """Tell whether a request keeps within every step; one that cannot be read cannot tell.

    Args:
        steps: as `authorization_details` has them: the steps that admitted the call, at every level of the chain.
        call: the request as a call, with the defaults of its arguments.
        closed: an argument that a step does not mention has to be absent or equal its default.
        unchecked: arguments of the tool that are no part of the request.
    """
    if not isinstance(steps, list) or not 0 < len(steps) <= MOST_STEPS:
        return CANNOT_TELL
    found = {_step_holds(step, call, closed, unchecked) for step in steps}
    return FAIL if FAIL in found else CANNOT_TELL if CANNOT_TELL in found else HOLD


def _step_holds(step: object, call: ToolCall, closed: bool, unchecked: frozenset[str]) -> Truth:
    args = step.get("args", {}) if isinstance(step, dict) else None
    if not isinstance(step, dict) or not isinstance(args, dict) or not set(step) <= {"step", "args"}:
        return CANNOT_TELL
    tests = _compiled(json.dumps(args, sort_keys=True))
    if tests is None:
        return CANNOT_TELL
    if closed and not all(name in tests or unset(name, value, call) for name, value in call.arguments.items()):
        return FAIL
    given: list[Test] = [_of_argument(name, test) for name, test in tests.items() if name not in unchecked]
    return every(given)(MISSING, call, Facts())


def _of_argument(name: str, test: Test) -> Test:
    return lambda value, call, facts: test(call.arguments.get(name, MISSING), call, facts)


@functools.lru_cache(maxsize=256)
def _compiled(args: str) -> Mapping[str, Test] | None:
    notes = Notes()
    read = {name: read_constraint(_as_written(said), (name,), notes) for name, said in json.loads(args).items()}
    return None if notes.found else {name: mapped(said, _by_text).test(name) for name, said in read.items()}


class _Written(In, frozen=True):
    """One of some values as a token writes them: texts, and numbers as their text, at any depth."""

    def test(self, argument: str) -> Test:
        written = membership(canonical(readable(thawed(value))) for value in self.values)
        return lambda value, call, facts: written(
            value if value is MISSING else canonical(readable(value)), call, facts
        )


def _by_text(said: Constraint) -> Constraint:
    return _Written(said.values) if isinstance(said, In) and not said.fold else said


def _as_written(node: Any) -> Any:
    """Return a constraint as an intent file writes it."""
    if isinstance(node, list):
        return [_as_written(item) for item in node]
    if not isinstance(node, dict):
        return node
    if not _TASKS_OWN.isdisjoint(node):
        known = {word: inside for word, inside in node.items() if word not in _TASKS_OWN}
        if known.keys().isdisjoint(_FOLDING):
            known.pop("fold", None)  # it stood beside a set
        return {**_as_written(known), **_UNKNOWN} if known else dict(_UNKNOWN)
    folds = "fold" in node
    return dict(_KIND.get(word, _same)(word, inside, folds) for word, inside in node.items())


def _same(word: str, inside: Any, folds: bool) -> tuple[str, Any]:
    return word, _whole(inside) if word in _WITH_NUMBERS else inside


def _equal(word: str, inside: Any, folds: bool) -> tuple[str, Any]:
    values = inside if word == "in" and isinstance(inside, list) else [inside]
    if folds:  # only text has a case
        return word, inside
    numbers = [exact for exact in map(_exact, values) if exact is not None]
    return "in", [*values, *numbers]


def _inner(word: str, inside: Any, folds: bool) -> tuple[str, Any]:
    return word, _as_written(inside)


def _inner_values(word: str, inside: Any, folds: bool) -> tuple[str, Any]:
    if not isinstance(inside, dict):
        return word, inside
    return word, {name: said if (word, name) == ("template", "text") else _as_written(said)
                  for name, said in inside.items()}  # fmt: skip


_KIND: Final[Mapping[str, Callable[[str, Any, bool], tuple[str, Any]]]] = {
    "eq": _equal,
    "in": _equal,
    "each": _inner,
    "optional": _inner,
    "not": _inner,
    "keys": _inner_values,
    "template": _inner_values,
}


def _exact(value: Any) -> Any:
    """Return the number that a text is, for a hole of a template, or None."""
    if isinstance(value, str) and _NUMBER.fullmatch(value) and number_text(Decimal(value)) == value:
        return Decimal(value)
    return None


def _whole(inside: Any) -> Any:
    """Return counts as whole numbers: nothing else is taken there."""
    if not isinstance(inside, dict):
        return inside
    return {
        key: int(said) if isinstance(said, str) and said.isascii() and said.isdecimal() and len(said) < 7 else said
        for key, said in inside.items()
    }
