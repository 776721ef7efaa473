"""The kind `from`: the value stood in a named field of the result, or in an argument, of a named earlier call.

The results themselves are kept by whoever runs the calls; here is what is asked of them, and what the answer means.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, Self, TypeAlias

from msgspec import Struct
from msgspec.structs import force_setattr, replace

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, Inner
from agentguard.intent.field_path import FieldPath, field_path
from agentguard.intent.finders import WHOLE, Match, match_of
from agentguard.intent.literal import FrozenMapping, is_text
from agentguard.intent.params import FromParameter
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, MISSING, Facts, Test, Truth, every, odd
from agentguard.model.call import TOOL_NAME, ToolCall, ToolSpec
from agentguard.model.canonical import Canonical, is_nfc

if TYPE_CHECKING:
    from agentguard.intent.document import Path
    from agentguard.intent.intent import Intent

Candidate: TypeAlias = "str | Decimal"
_KEYS: Final = ("tool", "step", "args", "field", "arg", "where", "match", "unique")
_ARGS: Final = "args"
_NOTHING: Final[FrozenMapping[Any]] = FrozenMapping()


class Projection(Struct, frozen=True):
    """What is kept of a call: the candidates of one field, each with the values beside it.

    Args:
        field: where the candidates stand.
        match: what is found inside a text field.
        beside: the siblings that `where` names.
        of_arguments: it is a field of the call's arguments, not of its result.
    """

    field: FieldPath
    match: Match = WHOLE
    beside: tuple[FieldPath, ...] = ()
    of_arguments: bool = False


class Source(Struct, frozen=True):
    """Whose result: every call of a tool, or the calls that consumed a step; and what is kept of them.

    Args:
        tool, step: exactly one of them.
        projection: the candidates.
        arguments: names of the call's arguments that are looked at.
    """

    tool: str
    step: str
    projection: Projection
    arguments: frozenset[str]


class Row(NamedTuple):
    """A candidate with the values beside it, in the order of the projection: canonical, MISSING or UNTOLD."""

    value: Candidate
    beside: tuple[Any, ...] = ()


class Untold:
    """Stands for a value that has no canonical form: no constraint can tell anything about it."""


UNTOLD: Final = Untold()


class Found(Struct, frozen=True, eq=False):
    """What one earlier call offers.

    Args:
        spec: the tool.
        arguments: those of its checked arguments that a source looks at, canonical.
        rows: the candidates; None where they could not be kept.
        values: the candidates alone.
        call: the call's id, as in the records.
    """

    spec: ToolSpec
    arguments: Mapping[str, Canonical]
    rows: tuple[Row, ...] | None
    values: frozenset[Candidate]
    call: str = ""


class Results(Protocol):
    """The results that a task may see, at one level of its chain."""

    def of(self, source: Source) -> tuple[Sequence[Found], bool]:
        """Return what earlier calls offer, the oldest first, and whether that is all of it."""


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


def constraints_of(intent: Intent) -> Iterator[Constraint]:
    """Yield every constraint of an intent, at any depth; not those of what its sub-agents get."""
    said = [*intent.everywhere.values(), *getattr(intent, "define", {}).values()]
    said += [item for step in intent.steps for item in step.args.values()]
    said += [item for entry in intent.forbid for item in entry.args.values()]
    for item in said:
        yield from item.walk()


def sources_of(intent: Intent) -> frozenset[Source]:
    """Return what the results of a task's calls must be kept for: its own `from`, and those of its sub-agents.

    A sub-agent that is named in the intent may use what was read before it was called.
    """
    own = {item.source for item in constraints_of(intent) if isinstance(item, From)}
    return frozenset(own.union(*(_by_tool(sources_of(sub)) for sub in intent.agents.values())))


def _by_tool(sources: Iterable[Source]) -> set[Source]:
    return {source for source in sources if source.tool}


def unknown_sources(intent: Intent) -> Iterator[tuple[Path, str]]:
    """Yield every `from` that names a step which the intent does not have."""
    known = {step.id for step in intent.steps}
    places: list[tuple[Path, Mapping[str, Constraint]]] = [(("everywhere",), intent.everywhere)]
    places += [(("steps", index, "args"), step.args) for index, step in enumerate(intent.steps)]
    places += [(("forbid", index, "args"), entry.args) for index, entry in enumerate(intent.forbid)]
    places += [(("define",), getattr(intent, "define", {}))]
    for path, entries in places:
        for name, said in entries.items():
            for item in said.walk():
                if isinstance(item, From) and item.step and item.step not in known:
                    yield (*path, name), f"'from' names the step {item.step!r}, which is not there; give a step this id"
