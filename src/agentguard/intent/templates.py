"""The kind `template`: a whole text is a sentence of the author's, with holes that hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final, Self

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, Inner
from agentguard.intent.literal import FrozenMapping, is_text, literal, shown
from agentguard.intent.params import FromParameter
from agentguard.intent.provenance import From
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, Facts, Test, Truth, odd
from agentguard.intent.whole_text import LONGEST
from agentguard.model.call import ToolCall
from agentguard.model.canonical import is_nfc, number_text

_PARTS: Final = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}|[{}]|[^{}]+")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
# How many splits are tried before a text cannot be told.
_TRIES: Final = 500
_MAX_HOLES: Final = 16


class Template(Constraint, frozen=True):
    """`template: {text: "Dinner at {place}", place: c}`: the whole text is the sentence, and its holes hold.

    A hole is not empty; one that stands twice has one value. A hole whose constraint is about numbers is judged as a
    number where it is written as one. One split that satisfies all holes is enough.
    """

    text: str
    holes: FrozenMapping[Constraint]
    word = "template"

    def __post_init__(self) -> None:
        _, holes = _split(self.text)
        literal(self.text)
        for name in self.holes:
            if name not in holes:
                raise ConfigurationError(f"the text of the template has no hole {name!r}; write {{{name}}} into it")
        for name in holes:
            if name not in self.holes:
                raise ConfigurationError(f"the hole {name!r} has no constraint; say what it may be, if need be any")

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        if not isinstance(node, dict) or "text" not in node:
            raise ConfigurationError('\'template\' takes text and holes: template: {text: "Dinner at {place}", '
                                     "place: {eq: Roma}}")  # fmt: skip
        text = node["text"]
        if isinstance(text, FromParameter):  # a parameter's text brings no holes
            text = text.replace("{", "{{").replace("}", "}}")
        return cls(text, FrozenMapping({name: inner(said) for name, said in node.items() if name != "text"}))

    def test(self, argument: str) -> Test:
        fixed, names = _split(self.text)
        holes = {name: (said.test(""), _about_numbers(said)) for name, said in self.holes.items()}

        def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
            if type(value) is not str:
                return odd(value)
            if len(value) > LONGEST or not is_nfc(value):
                return CANNOT_TELL

            def holds(name: str, text: str) -> Truth:
                test, about_numbers = holes[name]
                number = _number(text) if about_numbers else None
                return test(text if number is None else number, call, facts)

            return _Search(value, fixed, names, holds).truth()

        return judge

    def spellings(self) -> Iterator[Callable[[str], str]]:
        """Yield how the whole text is counted: each of its holes as it is counted by itself."""
        yield self.counted_as

    def counted_as(self, text: str) -> str:
        fixed, names = _split(self.text)
        if not text.startswith(fixed[0]) or not text.endswith(fixed[-1]):
            return text
        found, at, end = [fixed[0]], len(fixed[0]), len(text) - len(fixed[-1])
        for index, name in enumerate(names):  # the leftmost split: where there is any, this is one
            after = fixed[index + 1]
            stop = end if index == len(names) - 1 else text.find(after, at + 1, end)
            if stop < at:
                return text
            found += _counted(self.holes[name], text[at:stop]), after
            at = stop + len(after)
        return "".join(found)

    def form(self) -> Any:
        return {"template": {"text": self.text, **{name: said.form() for name, said in self.holes.items()}}}

    def must(self) -> str:
        holes = ", ".join(f"{name} must {said.must()}" for name, said in self.holes.items())
        return f"be the text {shown(self.text)}" + (f" in which {holes}" if holes else "")


class _Search:
    """Tries the splits of one text, at most so many; INVARIANT: when it gives up the text cannot be told."""

    def __init__(self, text: str, fixed: list[str], names: list[str], holds: Callable[[str, str], Truth]) -> None:
        self.text, self.fixed, self.names, self.holds = text, fixed, names, holds
        self.end = len(text) - len(fixed[-1])
        self.left = _TRIES
        self.judged: dict[tuple[str, str], Truth] = {}

    def truth(self) -> Truth:
        first, last = self.fixed[0], self.fixed[-1]
        if not self.names:
            return HOLD if self.text == first else FAIL
        if self.end < len(first) or not self.text.startswith(first) or not self.text.endswith(last):
            return FAIL
        found = self._from(0, len(first), {})
        return CANNOT_TELL if self.left < 0 and found is not HOLD else found

    def _from(self, hole: int, start: int, given: dict[str, str]) -> Truth:
        """The best of all splits of the rest: it holds, else it cannot tell, else it fails."""
        truth = FAIL
        for end in self._ends(hole, start):
            name, text = self.names[hole], self.text[start:end]
            if given.get(name, text) != text:
                continue
            own = self._judged(name, text)
            if own is FAIL:
                continue
            last = hole == len(self.names) - 1
            rest = HOLD if last else self._from(hole + 1, end + len(self.fixed[hole + 1]), {**given, name: text})
            if own is HOLD and rest is HOLD:
                return HOLD
            if rest is not FAIL:
                truth = CANNOT_TELL
        return truth

    def _ends(self, hole: int, start: int) -> Any:
        if hole == len(self.names) - 1:
            self.left -= 1
            yield from (self.end,) if self.end > start else ()
            return
        fixed, end = self.fixed[hole + 1], start
        while self.left >= 0:
            self.left -= 1
            end = self.text.find(fixed, end + 1, self.end)
            if end < 0:
                return
            yield end

    def _judged(self, name: str, text: str) -> Truth:
        key = (name, text)
        if key not in self.judged:
            self.judged[key] = self.holds(name, text)
        return self.judged[key]


def _split(text: object) -> tuple[list[str], list[str]]:
    """Return the fixed parts, and the names of the holes between them."""
    if not is_text(text) or not isinstance(text, str) or len(text) > LONGEST:
        raise ConfigurationError("'text' of template is a sentence with holes: Dinner at {place}")
    fixed, names = [""], list[str]()
    for part in _PARTS.finditer(text):
        if part[1]:
            if names and not fixed[-1]:
                raise ConfigurationError(
                    "two holes touch, so nobody could tell where one ends; write text between them"
                )
            names.append(part[1])
            fixed.append("")
        elif part[0] in "{}":
            raise ConfigurationError("a brace that is no hole is written twice: {{ or }}; a hole is {name}")
        else:
            fixed[-1] += part[0][0] if part[0] in ("{{", "}}") else part[0]
    if "text" in names or len(names) > _MAX_HOLES:
        raise ConfigurationError(f"a template has at most {_MAX_HOLES} holes, and none is called text")
    return fixed, names


def _counted(said: Constraint, text: str) -> str:
    number = _number(text) if _about_numbers(said) else None
    if number is not None:
        return number_text(number)
    for spelling in said.spellings():
        text = spelling(text)
    return text


def _number(text: str) -> Decimal | None:
    return Decimal(text) if len(text) <= 64 and _NUMBER.fullmatch(text) else None


def _about_numbers(said: Constraint) -> bool:
    """Tell whether a constraint compares numbers, so that a hole that is written as one is judged as one."""
    if isinstance(said, From):  # its `args` and `where` are about an earlier call
        return False
    values = getattr(said, "values", getattr(said, "members", None)) or ()
    if hasattr(said, "bound") or any(isinstance(value, Decimal) for value in values):
        return True
    return any(map(_about_numbers, said.inside()))
