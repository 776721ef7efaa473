"""An intent: what one task may do. Written by the application, before untrusted data is read, and never changed."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from agentguard.intent.mistakes import Notes

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping
    from datetime import timedelta
    from pathlib import Path

    from agentguard.intent.constraint import Constraint, Names
    from agentguard.intent.forbid import Forbid
    from agentguard.intent.limits import Examples, Limits, Otherwise
    from agentguard.intent.literal import FrozenMapping
    from agentguard.intent.sets import Resolver, SetSource
    from agentguard.intent.step import Step

T = TypeVar("T")
_MAX_SHOWN: Final = 8
_NO_RESOLVERS: Final[Mapping[str, Resolver]] = MappingProxyType({})

_MEANT: Final = (
    "name", "purpose", "steps", "reads", "everywhere", "forbid", "agents", "ttl", "sets", "define", "otherwise",
    "limits", "examples",
)  # fmt: skip
_ORIGIN: Final = ("params", "source_s256", "base")  # two intents are equal that say the same, wherever they came from


class _Cache(dict[str, Any]):
    """What was derived from an intent; a copy derives it again."""

    def __reduce__(self) -> tuple[type[_Cache], tuple[()]]:
        return (_Cache, ())


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

    # Written out: its constructor takes other arguments than its fields, which a struct cannot have.
    __slots__ = (*_MEANT, *_ORIGIN, "_cache")
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
    params: tuple[str, ...]
    source_s256: str | None
    base: Path | None
    _cache: _Cache

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
        from agentguard.intent.making import mistakes_of, parts_of

        notes = Notes()
        parts = parts_of(
            notes, purpose, steps, name=name, reads=reads, everywhere=everywhere, forbid=forbid, agents=agents, ttl=ttl,
            sets=sets, define=define, otherwise=otherwise, limits=limits, examples=examples,
        )  # fmt: skip
        self._set(**parts, params=(), source_s256=None, base=None, _cache=_Cache())
        notes.found += mistakes_of(self)
        notes.raise_if_any("the intent is wrong:")

    def _set(self, **values: object) -> None:
        for key, value in values.items():
            object.__setattr__(self, key, value)

    @classmethod
    def load(cls, path: str | os.PathLike[str], /, **params: object) -> Intent:
        """Read an intent from a YAML file and fill its parameters.

        Args:
            path: the file.
            params: a value for every parameter that the file declares.

        Raises:
            ConfigurationError: with all mistakes at once, each with file, line, path and what to write instead.
        """
        from pathlib import Path

        from agentguard.intent.file_form import read_intent
        from agentguard.intent.strict_file import read_strict_file

        return read_intent(read_strict_file(path), params).changed(base=Path(path).absolute().parent)

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
        from agentguard.intent.file_text import yaml_text
        from agentguard.intent.tree import intent_tree

        return yaml_text(intent_tree(self))

    @property
    def s256(self) -> str:
        """The `intent_s256`: base64url of SHA-256 over the RFC 8785 form of the resolved intent."""
        return self.derived("s256", self._hash)

    def _hash(self) -> str:
        from agentguard.intent.tree import hash_of, intent_tree

        return hash_of(intent_tree(self))

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
        from pathlib import Path

        from agentguard.intent.resolving import resolved

        folder = Path(base) if base is not None else self.base or Path.cwd()
        return resolved(self, resolvers, folder, {})

    def with_names(self, names: Names) -> Intent:
        """Return the intent with what sets and defines stand for inside its constraints, ready to be compiled."""
        if not self.sets and not self.define:
            return self
        from agentguard.intent.resolving import with_names

        return with_names(self, names)

    def changed(self, **values: object) -> Intent:
        """Return a copy with some of its fields changed; for this package only, as nothing is checked again."""
        copied = object.__new__(Intent)
        copied._set(**{field: getattr(self, field) for field in Intent.__slots__})
        copied._set(**values, _cache=_Cache())
        return copied

    def from_file(self, params: Iterable[str], source_s256: str) -> Intent:
        """Return the intent with where it came from: its file's parameters, and the hash of that file before them."""
        return self.changed(params=tuple(params), source_s256=source_s256)

    def _meaning(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field) for field in _MEANT)

    def __eq__(self, other: object) -> bool:
        return self._meaning() == other._meaning() if isinstance(other, Intent) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._meaning())

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an intent does not change; it has its {name} from its making")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"an intent does not change; it keeps its {name}")

    def __getstate__(self) -> dict[str, Any]:
        return {field: getattr(self, field) for field in Intent.__slots__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set(**state)

    def __repr__(self) -> str:
        steps = [step.id if step.id == step.tool else f"{step.id} ({step.tool})" for step in self.steps[:_MAX_SHOWN]]
        steps += [f"{len(self.steps) - _MAX_SHOWN} more"] if len(self.steps) > _MAX_SHOWN else []
        parts = [f"steps {', '.join(steps)}"] if steps else []
        parts += [f"reads {', '.join(self.reads)}"] if self.reads else []
        parts += [f"everywhere {', '.join(self.everywhere)}"] if self.everywhere else []
        parts += [f"{len(self.forbid)} forbidden"] if self.forbid else []
        parts += [f"agents {', '.join(self.agents)}"] if self.agents else []
        return f"<Intent {self.name}: {'; '.join(parts) or 'permits nothing'}>"
