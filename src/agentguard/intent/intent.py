"""An intent: what one task may do. Written by the application, before untrusted data is read, and never changed."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint
from agentguard.intent.document import Path
from agentguard.intent.file_text import yaml_text
from agentguard.intent.literal import FrozenMapping, is_text
from agentguard.intent.mistakes import Notes
from agentguard.intent.step import Forbid, Step, arguments, forbid_of, pattern_problem
from agentguard.intent.tree import hash_of, intent_tree
from agentguard.model.duration import seconds
from agentguard.model.principal import checked_name

T = TypeVar("T")
_MAX_SHOWN: Final = 8
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NO_STEP: Final = 'no step; write step("refund.create", account="acme")'
_AGENT_KEYS: Final = frozenset({"reads", "steps", "everywhere", "forbid", "agents", "ttl", "name", "purpose"})


class _Cache(dict[str, Any]):
    """What was derived from an intent; a copy derives it again."""

    def __reduce__(self) -> tuple[type[_Cache], tuple[()]]:
        return (_Cache, ())


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Intent:
    """What one task may do: with which tools, which arguments, how often, until when. Everything else is denied.

    Args:
        purpose: why, in a sentence; it stands in every record.
        steps: what may be done, each made by `step`.
        name: `[a-z0-9][a-z0-9._-]{0,63}`; by default made from the purpose.
        reads: patterns over tools with effect read: an exact name, `ticket.*` or `*`.
        everywhere: constraints that hold in every call that has the argument.
        forbid: mappings with the keys tool, tags, seen, args; a call that matches one is denied.
        agents: what a sub-agent gets on delegation, by its name: an Intent, or a mapping of these keywords and `steps`.
        ttl: how long the task may live: "10m", seconds or a timedelta.

    Raises:
        ConfigurationError: with all mistakes at once.
    """

    name: str
    purpose: str
    steps: tuple[Step, ...]
    reads: tuple[str, ...]
    everywhere: FrozenMapping[Constraint]
    forbid: tuple[Forbid, ...]
    agents: FrozenMapping[Intent]
    ttl: float | None
    params: tuple[str, ...] = field(compare=False)
    source_s256: str | None = field(compare=False)
    _cache: _Cache = field(compare=False)

    def __init__(
        self,
        purpose: str,
        *steps: Step,
        name: str | None = None,
        reads: Iterable[str] = (),
        everywhere: Mapping[str, object] | None = None,
        forbid: Iterable[object] = (),
        agents: Mapping[str, object] | None = None,
        ttl: str | float | timedelta | None = None,
    ) -> None:
        notes = Notes()
        no_patterns: tuple[str, ...] = ()
        no_forbids: tuple[Forbid, ...] = ()
        no_constraints: FrozenMapping[Constraint] = FrozenMapping()
        no_agents: FrozenMapping[Intent] = FrozenMapping()
        name = slug(purpose) if name is None else name
        self._set(
            name=name,
            purpose=purpose,
            steps=_with_ids(_only_steps(steps, notes)),
            reads=notes.take(("reads",), partial(_patterns, reads), no_patterns),
            everywhere=notes.take(("everywhere",), partial(arguments, everywhere or {}), no_constraints),
            forbid=notes.take(("forbid",), partial(_forbids, forbid), no_forbids),
            agents=notes.take(("agents",), partial(_sub_intents, name, purpose, agents or {}), no_agents),
            ttl=None if ttl is None else notes.take(("ttl",), partial(seconds, ttl), None),
            params=(),
            source_s256=None,
            _cache=_Cache(),
        )
        notes.found += self._mistakes()
        notes.raise_if_any("the intent is wrong:")

    def _set(self, **values: object) -> None:
        for key, value in values.items():
            object.__setattr__(self, key, value)

    def _mistakes(self) -> Iterator[tuple[Path, str]]:
        if not is_text(self.name) or not NAME.fullmatch(self.name):
            yield ("intent",), f"{self.name!r} is no name; write a-z 0-9 . _ - (at most 64): refund-ticket"
        if not is_text(self.purpose) or not self.purpose.strip():
            yield ("purpose",), "say in a sentence what the task is for"
        for index, pattern in enumerate(self.reads):
            if problem := pattern_problem(pattern):
                yield ("reads", index), problem
        for agent, sub in self.agents.items():
            if not sub.steps and not sub.reads:
                yield ("agents", agent), "it gets neither reads nor steps, so it could do nothing; name some"
        ids: set[str] = set()
        for index, step in enumerate(self.steps):
            if step.id in ids:
                yield ("steps", index, "id"), f"the id {step.id!r} is there twice; give each step an id of its own"
            ids.add(step.id)
            yield from ((("steps", index, *path), text) for path, text in step.unmentioned())

    @classmethod
    def load(cls, path: str | os.PathLike[str], /, **params: object) -> Intent:
        """Read an intent from a YAML file and fill its parameters.

        Args:
            path: the file.
            params: a value for every parameter that the file declares.

        Raises:
            ConfigurationError: with all mistakes at once, each with file, line, path and what to write instead.
        """
        from agentguard.intent.file_form import read_intent
        from agentguard.intent.strict_file import read_strict_file

        return read_intent(read_strict_file(path), params)

    @classmethod
    def from_yaml(cls, text: str, /, file: str = "<text>", **params: object) -> Intent:
        """Read an intent from YAML text, as `load` does from a file; `file` is the name to show in errors."""
        from agentguard.intent.file_form import read_intent
        from agentguard.intent.strict_file import read_strict

        return read_intent(read_strict(text, file), params)

    def to_yaml(self) -> str:
        """Return the intent as YAML, its parameters filled in; reading it gives an equal intent.

        Raises:
            ConfigurationError: it holds a character that no intent file may hold, such as NUL.
        """
        return yaml_text(intent_tree(self))

    @property
    def s256(self) -> str:
        """The `intent_s256`: base64url of SHA-256 over the RFC 8785 form of the resolved intent."""
        return self.derived("s256", lambda: hash_of(intent_tree(self)))

    def derived(self, key: str, make: Callable[[], T]) -> T:
        """Return what follows from this intent, made once."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]  # type: ignore[no-any-return]  # one key holds one type

    def from_file(self, params: Iterable[str], source_s256: str) -> Intent:
        """Return the intent with where it came from: its file's parameters, and the hash of that file before them."""
        copied = object.__new__(Intent)
        copied._set(**{entry.name: getattr(self, entry.name) for entry in fields(self)})
        copied._set(params=tuple(params), source_s256=source_s256, _cache=_Cache())
        return copied

    def __repr__(self) -> str:
        steps = [step.id if step.id == step.tool else f"{step.id} ({step.tool})" for step in self.steps[:_MAX_SHOWN]]
        steps += [f"{len(self.steps) - _MAX_SHOWN} more"] if len(self.steps) > _MAX_SHOWN else []
        parts = [f"steps {', '.join(steps)}"] if steps else []
        parts += [f"reads {', '.join(self.reads)}"] if self.reads else []
        parts += [f"everywhere {', '.join(self.everywhere)}"] if self.everywhere else []
        parts += [f"{len(self.forbid)} forbidden"] if self.forbid else []
        parts += [f"agents {', '.join(self.agents)}"] if self.agents else []
        return f"<Intent {self.name}: {'; '.join(parts) or 'permits nothing'}>"


def sub_intent_name(parent: str, agent: str) -> str:
    """Return the name of what a sub-agent gets, unless it has one of its own."""
    return f"{parent}.{slug(agent)}"[:64]


def slug(text: object) -> str:
    """Return a name made from a text, at most 64 characters of a-z 0-9 -."""
    plain = unicodedata.normalize("NFKD", str(text)[:200]).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:64].strip("-") or "task"


def _only_steps(steps: Iterable[object], notes: Notes) -> Iterator[Step]:
    for index, item in enumerate(steps):
        if isinstance(item, Step):
            yield item
        else:
            notes.add(("steps", index), f"a value of type {type(item).__name__} is {_NO_STEP}")


def _with_ids(steps: Iterable[Step]) -> tuple[Step, ...]:
    """Give steps without an id the tool's name, and `-2`, `-3` where that is taken."""
    steps = tuple(steps)
    taken = {step.id for step in steps if step.id}
    result = []
    for step in steps:
        if not step.id:
            names = (f"{step.tool}-{n}" if n > 1 else step.tool for n in range(1, len(steps) + len(taken) + 2))
            step = step.named(next(name for name in names if name not in taken))
            taken.add(step.id)
        result.append(step)
    return tuple(result)


def _patterns(patterns: object) -> tuple[str, ...]:
    if isinstance(patterns, str) or not isinstance(patterns, Iterable):
        raise ConfigurationError('reads is a list: ["account.read", "ticket.*"]')
    return tuple(sorted(patterns, key=str) if isinstance(patterns, set | frozenset) else patterns)


def _forbids(entries: Iterable[object]) -> tuple[Forbid, ...]:
    if isinstance(entries, Mapping | str):
        raise ConfigurationError('forbid is a list: [{"tags": ["egress"], "seen": ["pii"]}]')
    notes = Notes()
    found = [notes.take((index,), partial(forbid_of, entry), None) for index, entry in enumerate(entries)]
    notes.raise_if_any("forbid is wrong:")
    return tuple(entry for entry in found if entry is not None)


def _sub_intents(parent: str, purpose: str, agents: Mapping[str, object]) -> FrozenMapping[Intent]:
    notes = Notes()
    result: dict[str, Intent] = {}
    for agent, entry in agents.items():
        made = notes.take((str(agent),), partial(_sub_intent, parent, purpose, agent, entry), None)
        if made is not None:
            result[agent] = made
    notes.raise_if_any("agents are wrong:")
    return FrozenMapping(result)


def _sub_intent(parent: str, purpose: str, agent: str, entry: object) -> Intent:
    checked_name(agent, "agent")
    if isinstance(entry, Intent):
        return entry
    if not isinstance(entry, Mapping) or not entry or set(entry) - _AGENT_KEYS:
        raise ConfigurationError(f"write an Intent, or a mapping with some of {', '.join(sorted(_AGENT_KEYS))}")
    words = {"name": sub_intent_name(parent, agent), "purpose": purpose} | dict(entry)
    return Intent(words.pop("purpose"), *words.pop("steps", ()), **words)
