"""A parked task as text, and back: everything that decides about its calls, and no credential."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from agentguard.errors import ConfigurationError, Unavailable
from agentguard.intent import CompiledIntent, Intent, ValueSet, compile_intent
from agentguard.model.lease import Secret
from agentguard.model.principal import Proof, Subject
from agentguard.parked_results import ResultState, kept, read_kept
from agentguard.ports import Parked, Reservation
from agentguard.results import Key, Store
from agentguard.waiting import CallKey, Waiting

if TYPE_CHECKING:
    from agentguard.task import Task

_log: Final = logging.getLogger("agentguard")
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


class ParkedState(_Strict, frozen=True):
    """A root task that waits. `intent` is resolved and literal: it reads no file, environment or resolver.

    `identity` is what its agent's workload proved to be, and how.
    """

    v: Literal[1]
    agent: str
    environment: str
    identity: tuple[str, str]
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
    trace: str = ""  # of the agent's span, which the next one links to
    handed_on: bool = False

    def calls(self) -> Iterator[tuple[CallKey, Waiting]]:
        """The calls that wait."""
        for one in self.waiting:
            yield one.key, Waiting(one.question, one.binding, one.expires_at, one.reservation)


def written(task: Task, environment: str, most: int) -> str:
    """Return a task as text of at most `most` bytes, where it fits without the results of earlier calls."""
    text = state_of(task, environment)
    if len(text.encode()) <= most:
        return text
    _log.warning("task %s is parked without what it has read: that is too long", task.id)
    return state_of(task, environment, results=False)


def digest_of(state: Secret) -> str:
    """Tells one state from another."""
    return hashlib.sha256(state.reveal().encode()).hexdigest()


def state_of(task: Task, environment: str, *, results: bool = True) -> str:
    """Return a task as text.

    INVARIANT: what is left out of the results, and what calls that run now are going to return, is said to be lost.
    """
    subject, actor, tree = task.chain.subject, task.chain.actor, task.tree
    entries, lost = tree.results.dumped()
    left_out = [] if results else [key for entry, _ in entries for key in entry.keys]
    state = ParkedState(
        v=1, agent=task.agent.agent.name, environment=environment, identity=(actor.identity, actor.proof.value),
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
        results=[kept(entry, names) for entry, names in entries] if results else [],
        lost=sorted({*lost, *left_out, *_pending(task)}), trace=getattr(task.span, "traceparent", ""),
        handed_on=task.handed_on,
    )  # fmt: skip
    return msgspec.json.encode(state).decode()


def _pending(task: Task) -> list[Key]:
    with task.tree.lock:
        return [key for keys in task.tree.pending.values() for key in keys]


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


def restore_into(task: Task, state: ParkedState, need: Callable[[Task], None]) -> None:
    """Give a task what it knew, in place of what it knows.

    Args:
        task: not open yet.
        state: what it knew.
        need: says what its intent looks at.
    """
    tree = task.tree
    tree.results = Store()
    task.cache.pop("levels", None)  # they look at the results that were there before
    need(task)
    tree.seen, tree.heard, task.handed_on = frozenset(state.seen), tuple(state.heard), state.handed_on
    for name, value in state.counts.items():
        if name in _COUNTS:
            setattr(task.counts, name, value)
    tree.waiting.restore(state.calls())
    tree.results.restore((read_kept(one) for one in state.results), state.lost)


def readable(parked: Parked | None) -> ParkedState | None:
    """Return what a task knew, or None; why it cannot be read is logged."""
    return _read(parked, read_state)


def restorable(parked: Parked | None) -> ParkedState | None:
    """Return what a task knew, or None; INVARIANT: nothing of it is found to be unreadable once it was taken."""
    return _read(parked, _read_whole)


def _read_whole(text: str) -> ParkedState:
    state = read_state(text)
    try:
        for one in state.results:
            read_kept(one)
        return state
    except Exception:  # noqa: S110  # its text holds values
        pass
    raise Unavailable("what a parked task has read cannot be read: it was damaged, or written by another version")


def _read(parked: Parked | None, read: Callable[[str], ParkedState]) -> ParkedState | None:
    if parked is None:
        return None
    try:
        return read(parked.state.reveal())
    except Exception as error:
        _log.error("task %s cannot be gone on with: %s", parked.id, error)
        return None


def intent_of(state: ParkedState) -> CompiledIntent | None:
    """Return its intent, or None.

    INVARIANT: what was kept reads no file, no environment and no resolver, and is what its hash names.
    """
    try:
        intent = Intent.from_yaml(state.intent, file="<parked task>")
        compiled = compile_intent(intent) if _literal(intent) else None
    except ConfigurationError:
        return None
    return compiled if compiled is not None and compiled.s256 == state.intent_s256 else None


def _literal(intent: Intent) -> bool:
    own = all(isinstance(source, ValueSet) for source in intent.sets.values())
    return own and all(map(_literal, intent.agents.values()))
