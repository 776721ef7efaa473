"""An intent: what one task may do. Written by the application, before untrusted data is read, and never changed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import partial
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Any, Final, TypeVar

from agentguard.intent.bind import misplaced_binds
from agentguard.intent.constraint import Constraint, Names
from agentguard.intent.document import Path
from agentguard.intent.file_text import yaml_text
from agentguard.intent.limits import Examples, Limits, Otherwise, examples_of, limits_of, otherwise_of
from agentguard.intent.literal import FrozenMapping, is_text
from agentguard.intent.mistakes import Notes
from agentguard.intent.naming import reference_mistakes
from agentguard.intent.parts import (
    filled_with,
    forbids_of,
    only_steps,
    patterns_of,
    sets_of,
    slug,
    sub_intents,
    with_ids,
)
from agentguard.intent.provenance import unknown_sources
from agentguard.intent.sets import Resolver, SetSource, ValueSet
from agentguard.intent.step import Forbid, Step, arguments, pattern_problem
from agentguard.intent.tree import hash_of, intent_tree
from agentguard.model.duration import seconds

T = TypeVar("T")
_MAX_SHOWN: Final = 8
_EMPTY_SET: Final = ValueSet((), may_be_empty=True)
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NO_RESOLVERS: Final[Mapping[str, Resolver]] = MappingProxyType({})


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
        sets: where the members of a named set come from: a list of them, FileSet, EnvSet or ResolvedSet. A sub-agent
            has the sets and the defines of its parent too.
        define: constraints by name, for `is_`.
        otherwise: a mapping {then: ask, tools, calls}: what no step names is asked for, never if it is destructive.
        limits: a mapping with calls, denials, asks and rate, over all calls together.
        examples: calls that it permits and denies, for lint.

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
    sets: FrozenMapping[SetSource]
    define: FrozenMapping[Constraint]
    otherwise: Otherwise | None
    limits: Limits | None
    examples: Examples | None
    params: tuple[str, ...] = field(compare=False)
    source_s256: str | None = field(compare=False)
    base: FilePath | None = field(compare=False)
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
        sets: Mapping[str, object] | None = None,
        define: Mapping[str, object] | None = None,
        otherwise: object = None,
        limits: object = None,
        examples: object = None,
    ) -> None:
        notes = Notes()
        no_patterns: tuple[str, ...] = ()
        no_forbids: tuple[Forbid, ...] = ()
        no_constraints: FrozenMapping[Constraint] = FrozenMapping()
        no_agents: FrozenMapping[Intent] = FrozenMapping()
        no_sets: FrozenMapping[SetSource] = FrozenMapping()
        name = slug(purpose) if name is None else name
        named = notes.take(("sets",), partial(sets_of, sets or {}), no_sets)
        defined = notes.take(("define",), partial(arguments, define or {}), no_constraints)
        inherited = partial(sub_intents, name, purpose, agents or {}, named, defined)
        self._set(
            name=name,
            purpose=purpose,
            steps=with_ids(only_steps(steps, notes)),
            reads=notes.take(("reads",), partial(patterns_of, reads), no_patterns),
            everywhere=notes.take(("everywhere",), partial(arguments, everywhere or {}), no_constraints),
            forbid=notes.take(("forbid",), partial(forbids_of, forbid), no_forbids),
            agents=notes.take(("agents",), inherited, no_agents),
            ttl=None if ttl is None else notes.take(("ttl",), partial(seconds, ttl), None),
            sets=named,
            define=defined,
            otherwise=notes.take(("otherwise",), partial(otherwise_of, otherwise), None),
            limits=notes.take(("limits",), partial(limits_of, limits), None),
            examples=notes.take(("examples",), partial(examples_of, examples), None),
            params=(),
            source_s256=None,
            base=None,
            _cache=_Cache(),
        )
        notes.found += self._mistakes()
        notes.found += reference_mistakes(self)
        notes.found += [*misplaced_binds(self), *unknown_sources(self)]
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

        return read_intent(read_strict_file(path), params).changed(base=FilePath(path).absolute().parent)

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

    def resolve(
        self, resolvers: Mapping[str, Resolver] = _NO_RESOLVERS, base: str | os.PathLike[str] | None = None
    ) -> Intent:
        """Return the literal intent: every named set, of its sub-agents too, holds its values. Guards call this.

        Args:
            resolvers: functions by the name that `resolve` gives them; each set calls its own once.
            base: the folder of the files of its sets; by default that of the intent's own file, else the current one.

        Raises:
            ConfigurationError: with all sets that cannot be resolved, or are empty without `may_be_empty`.
        """
        folder = FilePath(base) if base is not None else self.base or FilePath.cwd()
        return self._resolved(resolvers, folder, {})

    def _resolved(self, resolvers: Mapping[str, Resolver], base: FilePath, known: dict[SetSource, ValueSet]) -> Intent:
        notes, found = Notes(), dict[str, SetSource]()
        for name, source in self.sets.items():
            if source not in known:
                known[source] = notes.take(("sets", name), partial(source.resolved, resolvers, base), _EMPTY_SET)
            found[name] = known[source]
        notes.raise_if_any(f"the sets of intent {self.name!r} cannot be resolved:")
        agents = {name: sub._resolved(resolvers, base, known) for name, sub in self.agents.items()}
        if found == dict(self.sets) and all(agents[name] is sub for name, sub in self.agents.items()):
            return self
        return self.changed(sets=FrozenMapping(found), agents=FrozenMapping(agents))

    def with_names(self, names: Names) -> Intent:
        """Return the intent with what sets and defines stand for inside its constraints, ready to be compiled."""
        if not self.sets and not self.define:
            return self
        notes = Notes()
        filled = partial(filled_with, names, notes)
        made = self.changed(
            everywhere=filled(("everywhere",), self.everywhere),
            steps=tuple(
                replace(step, args=filled(("steps", i, "args"), step.args)) for i, step in enumerate(self.steps)
            ),
            forbid=tuple(
                replace(entry, args=filled(("forbid", i, "args"), entry.args)) for i, entry in enumerate(self.forbid)
            ),
        )
        notes.raise_if_any("the intent is wrong:")
        return made

    def changed(self, **values: object) -> Intent:
        """Return a copy with some of its fields changed; for this package only, as nothing is checked again."""
        copied = object.__new__(Intent)
        copied._set(**{entry.name: getattr(self, entry.name) for entry in fields(self)})
        copied._set(**values, _cache=_Cache())
        return copied

    def from_file(self, params: Iterable[str], source_s256: str) -> Intent:
        """Return the intent with where it came from: its file's parameters, and the hash of that file before them."""
        return self.changed(params=tuple(params), source_s256=source_s256)

    def __repr__(self) -> str:
        steps = [step.id if step.id == step.tool else f"{step.id} ({step.tool})" for step in self.steps[:_MAX_SHOWN]]
        steps += [f"{len(self.steps) - _MAX_SHOWN} more"] if len(self.steps) > _MAX_SHOWN else []
        parts = [f"steps {', '.join(steps)}"] if steps else []
        parts += [f"reads {', '.join(self.reads)}"] if self.reads else []
        parts += [f"everywhere {', '.join(self.everywhere)}"] if self.everywhere else []
        parts += [f"{len(self.forbid)} forbidden"] if self.forbid else []
        parts += [f"agents {', '.join(self.agents)}"] if self.agents else []
        return f"<Intent {self.name}: {'; '.join(parts) or 'permits nothing'}>"
