"""A parked task as text, and back: everything that decides about its calls, and no credential."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from agentguard.errors import Unavailable
from agentguard.intent.provenance import UNTOLD, Found, Row
from agentguard.intent.truth import MISSING
from agentguard.model.call import Effect, ToolSpec
from agentguard.model.canonical import Digest
from agentguard.model.principal import Proof, Subject
from agentguard.ports import Reservation
from agentguard.results import Entry
from agentguard.waiting import CallKey, Waiting

if TYPE_CHECKING:
    from agentguard.task import Task

_SETS: Final = frozenset({"data", "tags", "secret", "hidden", "null_is_empty"})
_LISTS: Final = frozenset({"scopes", "untrusted", "record"})
_COUNTS: Final = ("permitted", "denied", "asked", "issued", "revoked")


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    pass


class SubjectState(_Strict, frozen=True):
    """Whom it acts for, and how that was proved."""

    name: str
    proof: str
    issuer: str = ""
    tenant: str = ""
    sponsor: str = ""

    def subject(self) -> Subject:
        """The subject."""
        return Subject(self.name, self.issuer, self.tenant, Proof(self.proof), self.sponsor)


class WaitingState(_Strict, frozen=True):
    """A call that waits for a person."""

    key: tuple[str, str, str]
    question: str
    binding: str
    expires_at: float
    reservation: Reservation | None = None


class ResultState(_Strict, frozen=True):
    """What one earlier call left for `from`."""

    path: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]
    found: list[Any]
    size: int


class ParkedState(_Strict, frozen=True):
    """A root task that waits. `intent` is resolved and literal: it reads no file, environment or resolver."""

    v: Literal[1]
    agent: str
    environment: str
    subject: SubjectState
    intent: str
    intent_s256: str
    source_s256: str = ""
    seen: list[str] = []
    heard: list[str] = []
    counts: dict[str, int] = {}
    waiting: list[WaitingState] = []
    results: list[ResultState] = []
    lost: list[tuple[str, str]] = []

    def calls(self) -> Iterator[tuple[CallKey, Waiting]]:
        """The calls that wait."""
        for one in self.waiting:
            yield one.key, Waiting(one.question, one.binding, one.expires_at, one.reservation)


def state_of(task: Task, environment: str) -> str:
    """Return a task as text."""
    subject, tree = task.chain.subject, task.tree
    entries, lost = tree.results.dumped()
    state = ParkedState(
        v=1, agent=task.agent.agent.name, environment=environment,
        subject=SubjectState(
            name=subject.name, proof=subject.proof.value, issuer=subject.issuer, tenant=subject.tenant,
            sponsor=subject.sponsor,
        ),
        intent=task.intent.intent.to_yaml(), intent_s256=task.intent.s256,
        source_s256=task.source_s256 or task.intent.source_s256 or "", seen=sorted(tree.seen), heard=list(tree.heard),
        counts={name: getattr(task.counts, name) for name in _COUNTS},
        waiting=[
            WaitingState(key=key, question=one.question, binding=one.binding, expires_at=one.expires_at,
                         reservation=one.reservation)
            for key, one in tree.waiting.items()
        ],
        results=[_entry(entry, names) for entry, names in entries], lost=list(lost),
    )  # fmt: skip
    return msgspec.json.encode(state).decode()


def read_state(text: str) -> ParkedState:
    """Return the state that was written.

    Raises:
        Unavailable: it cannot be read: it was damaged, or written by another version.
    """
    try:
        state = msgspec.json.decode(text, type=ParkedState)
        state.subject.subject()
        return state
    except (msgspec.DecodeError, ValueError):
        pass
    raise Unavailable("a parked task cannot be read: it was damaged, or written by another version")


def restore_into(task: Task, state: ParkedState) -> None:
    """Give a task what it knew; called once what its intent looks at is known."""
    tree = task.tree
    tree.seen, tree.heard = frozenset(state.seen), tuple(state.heard)
    for name, value in state.counts.items():
        if name in _COUNTS:
            setattr(task.counts, name, value)
    tree.waiting.restore(state.calls())
    tree.results.restore((_read_entry(one) for one in state.results), state.lost)


def _entry(entry: Entry, names: Mapping[int, str]) -> ResultState:
    found = [
        [names[number], _spec(one.spec), _written(dict(one.arguments)), None if one.rows is None else
         [[_written(row.value), [_written(item) for item in row.beside]] for row in one.rows]]
        for number, one in entry.found.items()
    ]  # fmt: skip
    return ResultState(path=entry.path, keys=entry.keys, found=found, size=entry.size)


def _read_entry(state: ResultState) -> tuple[Entry, list[tuple[str, Found]]]:
    named = [(name, _found(spec, arguments, rows)) for name, spec, arguments, rows in state.found]
    return Entry(state.path, state.keys, {}, state.size), named


def _found(spec: Mapping[str, Any], arguments: Any, rows: Iterable[Any] | None) -> Found:
    made = None if rows is None else tuple(Row(_read(value), tuple(map(_read, beside))) for value, beside in rows)
    return Found(_read_spec(spec), _read(arguments), made, frozenset(row.value for row in made or ()))


def _spec(spec: ToolSpec) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in fields(spec):
        value = getattr(spec, one.name)
        if one.name == "parameters":
            found[one.name] = None if value is None else sorted(value)
        elif one.name == "defaults":
            found[one.name] = _written(dict(value))
        else:
            found[one.name] = sorted(value) if one.name in _SETS else list(value) if one.name in _LISTS else value
    return found


def _read_spec(said: Mapping[str, Any]) -> ToolSpec:
    values = dict(said)
    for name in _SETS:
        values[name] = frozenset(values[name])
    for name in _LISTS:
        values[name] = tuple(values[name])
    parameters = values["parameters"]
    values["parameters"] = None if parameters is None else frozenset(parameters)
    return ToolSpec(**{**values, "effect": Effect(values["effect"]), "defaults": _read(values["defaults"])})


def _written(value: Any) -> Any:
    """A canonical value in JSON, with what JSON cannot tell apart marked by one letter."""
    if isinstance(value, Decimal):
        return {"n": str(value)}
    if isinstance(value, Digest):
        return {"d": value.sha256}
    if isinstance(value, tuple):
        return [_written(item) for item in value]
    if isinstance(value, dict):
        return {"m": {key: _written(item) for key, item in value.items()}}
    if value is MISSING or value is UNTOLD:
        return {"u": value is UNTOLD}
    return value


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_read, value))
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "n":
            return Decimal(inner)
        case "d":
            return Digest(inner)
        case "m":
            return {key: _read(item) for key, item in inner.items()}
    return UNTOLD if inner else MISSING
