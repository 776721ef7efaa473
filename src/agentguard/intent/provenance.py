"""The kind `from`: the value stood in a named field of the result, or in an argument, of a named earlier call.

The results themselves are kept by whoever runs the calls; here is what their answer (`earlier.Results`) means.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from msgspec import Struct
from msgspec.structs import force_setattr, replace

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, Inner
from agentguard.intent.earlier import Candidate, Found, Projection, Row, Source
from agentguard.intent.field_path import FieldPath, field_path
from agentguard.intent.finders import WHOLE, Match, match_of
from agentguard.intent.literal import FrozenMapping, is_text
from agentguard.intent.params import FromParameter
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, MISSING, Facts, Test, Truth, every, odd
from agentguard.model.call import TOOL_NAME, ToolCall
from agentguard.model.canonical import is_nfc

if TYPE_CHECKING:
    pass

_KEYS: Final = ("tool", "step", "args", "field", "arg", "where", "match", "unique")
_ARGS: Final = "args"
_NOTHING: Final[FrozenMapping[Any]] = FrozenMapping()


class From(Constraint, frozen=True):
    """`from: {tool or step, args, field or arg, where, match, unique}`.

    Args:
        tool, step: exactly one of them.
        field: a field path into the result.
        arg: instead of a field, a field path into the arguments of the call that consumed the step.
        args: constraints on the earlier call's checked arguments.
        where: constraints on the siblings of the field; names resolve outward to the result's root, `args.x` is the
            earlier call's argument.
        match: the whole field, or what is found inside it.
        unique: more than one distinct candidate fails.
    """

    tool: str = ""
    step: str = ""
    field: FieldPath | None = None
    arg: FieldPath | None = None
    args: FrozenMapping[Constraint] = _NOTHING
    where: FrozenMapping[Constraint] = _NOTHING
    match: Match = WHOLE
    unique: bool = False
    word = "from"

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ConfigurationError(f"'from': {problem}")
        for name in ("field", "arg"):
            if getattr(self, name) is not None:
                force_setattr(self, name, field_path(getattr(self, name)))
        force_setattr(self, "match", match_of(self.match))
        force_setattr(self, "where", FrozenMapping({_where(name): said for name, said in self.where.items()}))
        if self.arg is not None and (not self.arg.parts or not isinstance(self.arg.parts[0], str)):
            raise ConfigurationError("'from': 'arg' starts with the name of an argument: arg: user")

    def _problems(self) -> Iterator[str]:
        if bool(self.tool) == bool(self.step):
            yield "name a tool, or a step of this intent: from: {tool: account.read, field: iban}"
        if self.tool and (not is_text(self.tool) or not TOOL_NAME.fullmatch(self.tool)):
            yield f"{self.tool!r} is no tool name; a pattern cannot stand here"
        if (self.field is None) == (self.arg is None):
            yield "say which field of the result (field: iban), or which argument of a step's call (arg: user)"
        if self.arg is not None and (self.tool or self.where):
            yield "'arg' is an argument of the call that consumed a step; it takes 'step', and no 'where'"
        if type(self.unique) is not bool:
            yield "'unique' is true, or left out"

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        if not isinstance(node, dict) or not node:
            raise ConfigurationError("'from' takes a mapping: from: {tool: account.read, field: iban}")
        for key in node:
            if key not in _KEYS:
                raise ConfigurationError(f"'from' has no key {key!r}; it has {', '.join(_KEYS)}")
            if key in ("tool", "step", "arg", "field") and not is_text(node[key]):
                raise ConfigurationError(f"'from': {key!r} is empty, or no text")
            if key in ("arg", "field") and isinstance(node[key], FromParameter):
                raise ConfigurationError(f"'from': a parameter is a value, no path; write {key!r} into the file")
        constraints = {key: _read_each(node[key], key, inner) for key in ("args", "where") if key in node}
        return cls(**{**node, **constraints})

    @property
    def source(self) -> Source:
        """What has to be kept of which calls."""
        beside = [field_path(name) for name in self.where]
        path, of_arguments = (self.field, False) if self.field is not None else (self.arg, True)
        assert path is not None  # noqa: S101  # one of the two is there
        siblings = tuple(path for path in beside if path.parts[0] != _ARGS)
        names = {str(path.parts[1]) for path in beside if path.parts[0] == _ARGS}
        projection = Projection(path, self.match, siblings, of_arguments)
        return Source(self.tool, self.step, projection, frozenset(names | set(self.args)))

    def test(self, argument: str) -> Test:
        source, unique = self.source, self.unique
        select = self._selector()

        def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
            if type(value) is not Decimal:
                if type(value) is not str:
                    return odd(value)
                if not value.isascii() and not is_nfc(value):
                    return CANNOT_TELL
                if not value:
                    return FAIL  # empty text proves nothing
            if facts.results is None:
                return CANNOT_TELL
            found, complete = facts.results.of(source)
            if select is None and not unique:
                if any(value in call.values for call in found):
                    return HOLD
                return FAIL if complete and all(call.rows is not None for call in found) else CANNOT_TELL
            return _judged(value, _offered(found, complete, select, value, call, facts, unique), unique)

        return judge

    def spellings(self) -> Iterator[Callable[[str], str]]:
        """Yield nothing: what `args` and `where` say is said of the earlier call, not of the value."""
        return iter(())

    def _selector(self) -> _Selector | None:
        if not self.args and not self.where:
            return None
        siblings, from_arguments, beside = [], [], 0
        for name, said in self.where.items():
            path = field_path(name)
            if path.parts[0] == _ARGS:
                from_arguments.append((FieldPath(path.parts[1:]), said.test("")))
            else:
                siblings.append((beside, said.test("")))
                beside += 1
        own = tuple((name, said.test(name)) for name, said in self.args.items())
        return _Selector(own, tuple(from_arguments), tuple(siblings))

    def form(self) -> Any:
        inside: dict[str, Any] = {"tool": self.tool} if self.tool else {"step": self.step}
        for name in ("args", "where"):
            if said := getattr(self, name):
                inside[name] = {key: item.form() for key, item in said.items()}
        inside |= {"field": str(self.field)} if self.field is not None else {"arg": str(self.arg)}
        if self.match != WHOLE:
            inside["match"] = self.match.form()
        return {"from": inside | ({"unique": True} if self.unique else {})}

    def must(self) -> str:
        whose = f"an earlier call of {self.tool}" if self.tool else f"the call that used step {self.step}"
        what = f"argument {self.arg}" if self.field is None else f"field {self.field}"
        inside = "" if self.match == WHOLE else f" ({self.match})"
        alone = ", the only one there" if self.unique else ""
        where = f" where {' and '.join(f'{name} must {said.must()}' for name, said in self.where.items())}"
        return f"have stood in {what}{inside} of {whose}{where if self.where else ''}{alone}"


class _Selector(Struct, frozen=True):
    """The tests of `args` and `where`, built once."""

    own: tuple[tuple[str, Test], ...]
    arguments: tuple[tuple[FieldPath, Test], ...]
    siblings: tuple[tuple[int, Test], ...]

    def of_call(self, found: Found, call: ToolCall, facts: Facts) -> Truth:
        producing = replace(call, spec=found.spec)  # `absent` and `optional` ask for the earlier tool's defaults
        tests = [_bound(test, found.arguments.get(name, MISSING), producing) for name, test in self.own]
        for path, test in self.arguments:
            value: Any = next(path.select(dict(found.arguments)), MISSING)
            tests.append(_bound(test, value, call))
        return every(tests)(None, call, facts)

    def of_row(self, row: Row, call: ToolCall, facts: Facts) -> Truth:
        tests = [_bound(test, row.beside[index], call) for index, test in self.siblings]
        return every(tests)(None, call, facts)


def _bound(test: Test, value: Any, call: ToolCall) -> Test:
    return lambda _value, _call, facts: test(value, call, facts)


class _Offered(NamedTuple):
    held: Collection[Candidate]
    unsure: Collection[Candidate]
    complete: bool


def _offered(
    found: Iterable[Found], complete: bool, select: _Selector | None, value: Any, call: ToolCall, facts: Facts,
    unique: bool,
) -> _Offered:  # fmt: skip
    """Collect the candidates that args and where select; without `unique` only the value itself is looked at."""
    held: set[Candidate] = set()
    unsure: set[Candidate] = set()
    for one in found:
        of_call = HOLD if select is None else select.of_call(one, call, facts)
        if of_call is FAIL:
            continue
        if one.rows is None:
            complete = False
        for row in one.rows or ():
            if not unique and row.value != value:
                continue
            of_row = HOLD if select is None else select.of_row(row, call, facts)
            if of_row is not FAIL:
                (held if of_call is HOLD and of_row is HOLD else unsure).add(row.value)
    return _Offered(held, unsure, complete)


def _judged(value: Any, offered: _Offered, unique: bool) -> Truth:
    held, unsure, complete = offered
    if unique and len(held) > 1:
        return FAIL
    sure = complete and not (unique and any(other != value for other in unsure))
    if value in held:
        return HOLD if sure or not unique else CANNOT_TELL
    return FAIL if complete and value not in unsure else CANNOT_TELL


def _where(name: object) -> str:
    path = field_path(name)
    if not path.parts or not path.keys_only or str(name).startswith("$"):
        raise ConfigurationError(
            f"'from': 'where' names a sibling by its keys, such as sender or account.owner, or args.x; not {name!r}"
        )
    if path.parts == (_ARGS,):
        raise ConfigurationError("'from': 'where' names an argument of the earlier call as args.NAME")
    return str(path)


def _read_each(node: Any, key: str, inner: Inner) -> FrozenMapping[Constraint]:
    if not isinstance(node, dict) or not node:
        raise ConfigurationError(f"'from': {key!r} takes a mapping of names and constraints, or is left out")
    return FrozenMapping({name: inner(said) for name, said in node.items()})
