"""From a LangChain tool object to one whose code is guarded, wherever it is called from.

The guarded tool has a class of its own, a subclass made once per class of tool. The object keeps what it had: name,
schema, callbacks, tags, and its raw functions, so it copies and pickles as before. The guard stands in the class: it
overrides `_run` and `_arun` where the tool's class does, and `func` and `coroutine` are descriptors that give the
guarded function. All of them stand below LangChain's validation: what is checked is what the code gets.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast
from weakref import WeakValueDictionary

from langchain_core.tools import BaseTool

from agentguard import ConfigurationError, guard_tool
from agentguard_langchain.bodies import bodies_of, declared, own_methods, refuse_unguardable
from agentguard_langchain.injected import filled_by_name, injected_names, state_names, without_forged

Rebuild = Callable[[str, Any], Any]
T = TypeVar("T", bound=BaseTool)
_KEY: Final = "_agentguard_policy"
_RAW: Final = "_agentguard_raw_type"
_SLOTS: Final = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


class Policy:
    """What is declared about one tool: bound when it is wrapped, shared by its copies, and never changed.

    Args:
        name: the guard name.
        fields: the other fields of the ToolSpec.
        filled: arguments that LangChain or LangGraph fills.
        state: those of them that LangGraph fills with its state.
        rebuild: makes another body out of a raw one, or None to use it as it is.
    """

    __slots__ = ("_guarded", "fields", "filled", "name", "rebuild", "state")

    def __init__(
        self,
        name: str,
        fields: Mapping[str, Any],
        filled: frozenset[str],
        state: frozenset[str],
        rebuild: Rebuild | None,
    ) -> None:
        self.name, self.fields, self.filled, self.state, self.rebuild = name, dict(fields), filled, state, rebuild
        self._guarded: dict[str, tuple[Any, Any]] = {}

    def body(self, attribute: str, raw: Any) -> Any:
        """Return the guarded form of a raw function or of an unbound method; the same one for the same function."""
        known = self._guarded.get(attribute)
        if known is None or known[0] is not raw:
            known = self._guarded[attribute] = (raw, self._guard(attribute, raw))
        return known[1]

    def _guard(self, attribute: str, raw: Any) -> Any:
        if declared(raw) is not None:
            return raw  # a guarded function was put into `func` later
        parameters = list(inspect.signature(raw).parameters)
        hidden = (self.filled | filled_by_name(attribute)) & set(parameters) | set(self.fields.get("hidden", ()))
        if attribute.startswith("_"):
            hidden |= set(parameters[:1])  # self
        body = raw if self.rebuild is None else self.rebuild(attribute, raw)
        return guard_tool(body, self.name, **{**self.fields, "hidden": hidden})

    def __reduce__(self) -> Any:
        return Policy, (self.name, self.fields, self.filled, self.state, self.rebuild)

    def __deepcopy__(self, memo: Any) -> Policy:
        return self


def wrap(tool: T, name: str, fields: Mapping[str, Any], rebuild: Rebuild | None = None) -> T:
    """Return a guarded copy of a tool; the original stays as it is.

    Args:
        tool: a tool whose code nobody guards yet.
        name: its guard name.
        fields: the other fields of its ToolSpec.
        rebuild: makes another body out of a raw one, with the same signature.

    Raises:
        ConfigurationError: the tool cannot be guarded, or its declaration is wrong.
    """
    refuse_unguardable(tool)
    bodies = bodies_of(tool)
    policy = Policy(name, fields, injected_names(tool), state_names(tool, bodies), rebuild)
    for attribute, raw in bodies.items():
        policy.body(attribute, raw)  # mistakes are found now, not at the first call
    return _dressed(tool.model_copy(), policy)


def is_wrapped(tool: object) -> bool:
    """Tell whether a tool was wrapped here."""
    return isinstance(tool, BaseTool) and _RAW in type(tool).__dict__


def _dressed(copy: T, policy: Policy) -> T:
    copy.__dict__[_KEY] = policy
    object.__setattr__(copy, "__class__", _guarded_type(type(copy)))
    return copy


def _policy_of(tool: BaseTool) -> Policy:
    policy = tool.__dict__.get(_KEY)
    if not isinstance(policy, Policy):
        raise ConfigurationError(
            f"this copy of the guarded tool {tool.name!r} lost its declaration; copy with model_copy() or copy.copy()"
        )
    return policy


# --- the class ------------------------------------------------------------------------------------------------------

_guarded_types: WeakValueDictionary[type[BaseTool], type[BaseTool]] = WeakValueDictionary()


def _guarded_type(kind: type[BaseTool]) -> type[BaseTool]:
    found = _guarded_types.get(kind)
    if found is None:
        found = _guarded_types[kind] = _made_type(kind)
    return found


def _made_type(kind: type[BaseTool]) -> type[BaseTool]:
    same = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    metaclass: Any = type(kind)
    made = cast("type[BaseTool]", metaclass(kind.__name__, (kind,), same))
    # Set after the class was made: pydantic takes an attribute in the class body that shadows a field for a mistake.
    members: dict[str, Any] = {name: _method(kind, name, raw) for name, raw in own_methods(kind).items()}
    members |= {name: _Function(name) for name in ("func", "coroutine") if name in kind.model_fields}
    members |= {"run": _entrance(kind, "run"), "arun": _entrance(kind, "arun"), "__reduce_ex__": _reduce_ex, _RAW: kind}
    for name, member in members.items():
        setattr(made, name, member)
    return made


class _Function:
    """`func` or `coroutine` of a guarded tool: the object holds the raw function, who reads it gets the guarded one."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, tool: BaseTool | None, owner: Any = None) -> Any:
        if tool is None:
            return self
        raw = tool.__dict__.get(self.name)
        return None if raw is None else _policy_of(tool).body(self.name, raw)

    def __set__(self, tool: BaseTool, value: Any) -> None:
        tool.__dict__[self.name] = value


def _method(kind: type[BaseTool], name: str, raw: Any) -> Any:
    """`_run` or `_arun`, with the signature that LangChain looks at for config, run_manager and injected arguments."""
    if inspect.iscoroutinefunction(raw):

        @functools.wraps(raw)
        async def guarded_async_method(self: BaseTool, *args: Any, **kwargs: Any) -> Any:
            return await _policy_of(self).body(name, raw)(_bare(self, kind), *args, **kwargs)

        return guarded_async_method

    @functools.wraps(raw)
    def guarded_method(self: BaseTool, *args: Any, **kwargs: Any) -> Any:
        return _policy_of(self).body(name, raw)(_bare(self, kind), *args, **kwargs)

    return guarded_method


def _entrance(kind: type[BaseTool], name: str) -> Any:
    plain = getattr(kind, name)

    @functools.wraps(plain)
    def entrance(self: BaseTool, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        policy = _policy_of(self)
        if policy.filled and isinstance(tool_input, dict):
            tool_input = without_forged(tool_input, policy.filled, policy.state, kwargs.get("config"))
        return plain(self, tool_input, *args, **kwargs)

    return entrance


def _bare(tool: BaseTool, kind: type[BaseTool]) -> BaseTool:
    """The tool as its own code sees itself inside a guarded call: the same state, and no second guard.

    So `_arun` may call `self._run`, and `_run` may call `self.func`, even in a thread without context: one decision.
    """
    bare = object.__new__(kind)
    object.__setattr__(bare, "__dict__", tool.__dict__)
    for slot in _SLOTS:
        object.__setattr__(bare, slot, getattr(tool, slot))
    return bare


def _reduce_ex(self: BaseTool, protocol: Any) -> Any:
    bare = _bare(self, type(self).__dict__[_RAW])
    object.__setattr__(bare, "__dict__", {key: value for key, value in self.__dict__.items() if key != _KEY})
    return _dressed, (bare, _policy_of(self))
