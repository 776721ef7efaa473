"""Binding a call to its tool's signature: once at decoration, cheaply at each call."""

from __future__ import annotations

import enum
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from inspect import Parameter
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from agentguard.errors import ConfigurationError, NotCanonical
from agentguard.model.canonical import IMMUTABLE, Canonical, canonical

if TYPE_CHECKING:
    from agentguard.model.credential import Credential

# Annotations that mark a parameter as filled by a framework, by the name of a class in their ancestry.
_IN_UNIONS: Final = frozenset({
    "InjectedState", "InjectedStore", "ToolRuntime", "BaseCallbackManager", "CallbackManagerForToolRun",
    "AsyncCallbackManagerForToolRun",
})  # fmt: skip
_FRAMEWORK: Final = _IN_UNIONS | {"InjectedToolArg", "RunnableConfig"}
_NAMED: Final = r"\bCredential\b"  # compiled by the first annotation that cannot be resolved


class Bound(Struct, frozen=True):
    """A call's arguments by name, as the caller gave them: `visible` to the intent, `hidden` filled by a framework."""

    visible: dict[str, Any]
    hidden: dict[str, Any]


def hints_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """Resolved annotations of any callable; unresolvable ones stay as they are written."""
    target: Any = fn.func if isinstance(fn, functools.partial) else fn
    if not (inspect.isroutine(target) or inspect.isclass(target)):
        target = type(target).__call__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception:  # one name that exists for type checkers only must not hide what the others say
        written = dict(getattr(target, "__annotations__", {}))
        return {name: _hint(name, hint, getattr(target, "__globals__", {})) for name, hint in written.items()}


def _hint(name: str, written: Any, names: dict[str, Any]) -> Any:
    try:
        alone = types.SimpleNamespace(__annotations__={name: written})
        return typing.get_type_hints(alone, globalns=names, include_extras=True)[name]
    except Exception:
        return written


class Binder:
    """Binds arguments to a signature as Python would, and makes the call again from the checked copy.

    Args:
        fn: the tool.
        hidden: parameters that a framework fills, besides those recognised by their annotation.

    Attributes:
        signature: what schema builders see: annotations resolved, the credential parameter gone.
        names: visible parameters, or None where `**kwargs` takes any.
        hidden: parameters outside the intent.
        credential: the parameter that receives the Credential, or "".
        defaults: canonical defaults of visible parameters.
        as_given: the tool is called with the checked copy as it is, unless something was hidden.
    """

    def __init__(self, fn: Callable[..., Any], hidden: frozenset[str] = frozenset()) -> None:
        try:
            signature = inspect.signature(fn)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{fn!r} has no signature that could be checked: {error}") from None
        self.hints = hints_of(fn)
        parameters = _resolved(fn, signature, self.hints)
        self.credential = _credential_parameter(parameters)
        unknown = hidden - {parameter.name for parameter in parameters}
        if unknown:
            raise ConfigurationError(f"hidden names {sorted(unknown)}, which {fn!r} does not take")
        visible = [p for p in parameters if p.name != self.credential]
        self.hidden = frozenset(p.name for i, p in enumerate(visible) if p.name in hidden or _is_framework(i, p, fn))
        self.signature = signature.replace(
            parameters=visible, return_annotation=self.hints.get("return", signature.return_annotation)
        )
        self._plain = all(p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY) for p in parameters)
        self._parameters, self._order = tuple(visible), tuple(parameters)
        self._all = frozenset(p.name for p in visible)
        self._positional = tuple(p.name for p in visible if p.kind is Parameter.POSITIONAL_OR_KEYWORD)
        self._unnamed = frozenset(p.name for p in visible if p.kind is Parameter.POSITIONAL_ONLY)
        self._required = frozenset(p.name for p in visible if p.default is Parameter.empty)
        self.names = self._visible_names()
        self.defaults = self._canonical_defaults()
        mutable = {p.name: p.default for p in visible if isinstance(p.default, list | dict | set | bytearray)}
        self._fresh_defaults = {name: default for name, default in mutable.items() if name in self.defaults}
        unchecked = {name: default for name, default in mutable.items() if name not in self.defaults}
        # INVARIANT: what a tool does to a default that it was left with is never seen by another call of it.
        kept = [p for p in visible if p.name in self.defaults and p.name not in mutable and _can_change(p.default)]
        self._copied_defaults = {**unchecked, **_copies(kept)}
        self._splits = bool(self.hidden or self._fresh_defaults)
        self._by_place = not _takes_names(fn, parameters)
        self.as_given = self._plain and not self._copied_defaults and not self.credential and not self._by_place

    def _visible_names(self) -> frozenset[str] | None:
        if any(p.kind is Parameter.VAR_KEYWORD for p in self._parameters):
            return None
        return frozenset(p.name for p in self._parameters if p.name not in self.hidden)

    def _canonical_defaults(self) -> Mapping[str, Canonical]:
        found: dict[str, Canonical] = {}
        for parameter in self._parameters:
            if parameter.kind is Parameter.VAR_POSITIONAL:
                found[parameter.name] = ()
            elif parameter.default is not Parameter.empty and parameter.name not in self.hidden:
                try:
                    found[parameter.name] = canonical(parameter.default, parameter.name, bytes_allowed=True)
                except NotCanonical:
                    continue  # such a default equals nothing: a step must mention the argument
        return found

    def by_names(self, defaults: Mapping[str, Canonical]) -> tuple[str, ...] | None:
        """Return the parameters that may be passed by position, where names alone say what binds; else None.

        They do where every parameter is visible, and those that may be left out are those with a default.
        """
        optional = self._all - self._required
        return self._positional if self._plain and not self._splits and optional == defaults.keys() else None

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bound:
        """Bind a call.

        Raises:
            TypeError: where Python would raise it, for a value for the credential, and for a name in `**kwargs` that
                is another parameter's: the copy could not be told apart.
        """
        if self._plain and len(args) <= len(self._positional):
            given = {**dict(zip(self._positional, args, strict=False)), **kwargs} if args else kwargs.copy()
            # What is given twice makes fewer names than values.
            if len(given) == len(args) + len(kwargs) and given.keys() <= self._all and given.keys() >= self._required:
                return self._split(given) if self._splits else Bound(given, {})
        if taken := kwargs.keys() & self._unnamed:  # Python 3.13.0 binds one that has a default
            raise TypeError(f"{', '.join(sorted(taken))} cannot be passed by name")
        bound = self.signature.bind(*args, **kwargs)
        return self._split(self._flat(bound))

    def _flat(self, bound: inspect.BoundArguments) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            if self.signature.parameters[name].kind is Parameter.VAR_KEYWORD:
                taken = value.keys() & {parameter.name for parameter in self._order}
                if taken:
                    raise TypeError(f"{', '.join(sorted(taken))} cannot be passed by name")
                given.update(value)
            else:
                given[name] = value
        return given

    def _split(self, given: dict[str, Any]) -> Bound:
        if self._fresh_defaults:
            given = {**{name: value for name, value in self._fresh_defaults.items() if name not in given}, **given}
        if not self.hidden:
            return Bound(given, {})
        visible = {name: value for name, value in given.items() if name not in self.hidden}
        return Bound(visible, {name: value for name, value in given.items() if name in self.hidden})

    def call_arguments(self, run: dict[str, Any], hidden: dict[str, Any], credential: Credential | None) -> Any:
        """Return `(args, kwargs)` that make the call from the checked copy."""
        given = {**run, **hidden}
        for name, default in self._copied_defaults.items():
            if name not in given:
                import copy

                given[name] = copy.deepcopy(default)
        if self.credential:
            given[self.credential] = credential
        if self._plain and not self._by_place:
            return (), given
        return self._spread(given)

    def _spread(self, given: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        rest = next((p.name for p in self._parameters if p.kind is Parameter.VAR_POSITIONAL), "")
        by_position = self._by_place or bool(given.get(rest))
        for parameter in self._order:
            name = parameter.name
            if name not in given:
                by_position &= parameter.kind is not Parameter.POSITIONAL_OR_KEYWORD
                if parameter.kind is Parameter.POSITIONAL_ONLY and parameter.default is not Parameter.empty:
                    args.append(parameter.default)  # keeps its place for those that follow
                continue
            if parameter.kind is Parameter.VAR_POSITIONAL:
                args.extend(given.pop(name))
            elif parameter.kind is Parameter.POSITIONAL_ONLY or (
                by_position and parameter.kind is Parameter.POSITIONAL_OR_KEYWORD
            ):
                args.append(given.pop(name))
        return args, given


def _can_change(default: Any) -> bool:
    if isinstance(default, tuple):
        return any(map(_can_change, default))
    return default is not Parameter.empty and type(default) not in IMMUTABLE and not isinstance(default, enum.Enum)


def _copies(parameters: list[Parameter]) -> dict[str, Any]:
    """Their defaults as they are now; one that cannot be copied stays the one that all calls share."""
    found: dict[str, Any] = {}
    for parameter in parameters:
        import copy

        with suppress(Exception):
            found[parameter.name] = copy.deepcopy(parameter.default)
    return found


def _takes_names(fn: Callable[..., Any], parameters: list[Parameter]) -> bool:
    """Whether a callable takes by name what its signature names: one around another may have parameters of its own."""
    if not hasattr(fn, "__wrapped__"):
        return True
    if hasattr(fn, "dispatch") and hasattr(fn, "registry"):  # of `functools.singledispatch`: by what comes first
        return False
    by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    first = [None for parameter in parameters if parameter.kind is Parameter.POSITIONAL_ONLY]
    named = dict.fromkeys(parameter.name for parameter in parameters if parameter.kind in by_name)
    try:
        inspect.signature(fn, follow_wrapped=False).bind(*first, **named)
    except TypeError:
        return False
    except ValueError:  # it is none of Python's
        return True
    return True


def _resolved(fn: Callable[..., Any], signature: inspect.Signature, hints: Mapping[str, Any]) -> list[Parameter]:
    bound = fn.keywords if isinstance(fn, functools.partial) else {}
    return [
        parameter.replace(annotation=hints.get(name, parameter.annotation))
        for name, parameter in signature.parameters.items()
        if name not in bound  # what a partial has fixed is no argument of the model
    ]


def _credential_parameter(parameters: list[Parameter]) -> str:
    unknown = [p.name for p in parameters if isinstance(p.annotation, str) and re.search(_NAMED, p.annotation)]
    if unknown:
        raise ConfigurationError(
            f"the annotation of {', '.join(unknown)} cannot be resolved; import Credential where the tool is defined, "
            "outside `if TYPE_CHECKING`"
        )
    # INVARIANT: an annotation that is the Credential has loaded its module; where that is not loaded, none is.
    kind = getattr(sys.modules.get("agentguard.model.credential"), "Credential", None)
    found = [p.name for p in parameters if kind is not None and kind in _kinds(p.annotation)]
    if len(found) > 1:
        raise ConfigurationError(f"more than one Credential parameter: {', '.join(found)}")
    return found[0] if found else ""


def _is_framework(index: int, parameter: Parameter, fn: Callable[..., Any]) -> bool:
    bound = index == 0 and parameter.name in ("self", "cls") and _binds_first(fn, parameter)
    return bound or _is_filled(parameter.annotation, _FRAMEWORK)


def _is_filled(annotation: Any, names: frozenset[str]) -> bool:
    """INVARIANT: in a union LangChain takes most marks for nothing: a model sees the parameter, and may fill it."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_is_filled(member, _IN_UNIONS) for member in typing.get_args(annotation))
    if hasattr(annotation, "__metadata__"):
        return any(_is_filled(one, names) for one in (annotation.__origin__, *annotation.__metadata__))
    kind = typing.get_origin(annotation) or annotation
    return any(base.__name__ in names for base in (kind if isinstance(kind, type) else type(kind)).__mro__)


def _binds_first(fn: Callable[..., Any], first: Parameter) -> bool:
    """Whether a class binds its first parameter.

    INVARIANT: the class of a pupil, which a model names, is none of ours: outside of a class only a bare `self` is.
    """
    inner = inspect.unwrap(fn)  # of one that is cached, say
    if not inspect.isfunction(inner) or inspect.ismethod(fn) or not hasattr(type(fn), "__get__"):
        return False
    owner = inner.__qualname__.rpartition(".")[0]
    in_class = bool(owner) and not owner.endswith("<locals>")
    return in_class or (first.name == "self" and first.annotation is Parameter.empty)


def _kinds(annotation: Any) -> list[Any]:
    """An annotation, its metadata and the members of its union; not what a container of it holds."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [kind for member in typing.get_args(annotation) for kind in _kinds(member)]
    if hasattr(annotation, "__metadata__"):
        return [*_kinds(annotation.__origin__), *annotation.__metadata__]
    return [typing.get_origin(annotation) or annotation]
