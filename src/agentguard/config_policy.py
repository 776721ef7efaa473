"""The parts of `agentguard.yaml` that decide: `policy`, `attributes` and `notify`; read first, made later.

Each mistake is noted where it stands; each room is imported only where it is named.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Final

from agentguard.config_fields import Fields, flag, part, seconds, secret_of, text, texts, whole
from agentguard.config_secrets import kept, text_of
from agentguard.errors import ConfigurationError
from agentguard.intent.document import Path, Problems
from agentguard.intent.node import Node
from agentguard.model.lease import Secret

if TYPE_CHECKING:
    from agentguard._http import Http
    from agentguard.policy.attributes import AttributeSource
    from agentguard.ports import DecisionPoint

POLICY: Final = ("policy", "attributes", "notify")
REFERENCE: Final = "module:function, such as bank.risk:score"


@dataclass(frozen=True, slots=True)
class Said:
    """One entry: its kind or name, what the file says about it, and its place there."""

    kind: str
    said: Mapping[str, Any]
    where: Path


@dataclass(frozen=True, slots=True)
class Policy:
    """What `policy`, `attributes` and `notify` say."""

    points: tuple[Said, ...] = ()
    attributes: tuple[Said, ...] = ()
    notify: tuple[Said, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """What was made of it, by keyword of `Guard`."""

    decision_points: tuple[DecisionPoint, ...] = ()
    attributes: tuple[AttributeSource, ...] = ()
    notify: Mapping[str, Callable[..., object]] = field(default_factory=dict)


_CACHE: Final[Fields] = {"ttl": seconds(300.0), "size": whole(1, 1 << 20)}
_REMOTE: Final[Fields] = {
    "name": text("a name for records"), "token": secret_of, "deadline": seconds(60.0), "cache": part({}, _CACHE),
}  # fmt: skip
# For each kind what it needs, what it takes beside, and the key that a text alone stands for.
_KINDS: Final[Mapping[str, tuple[Fields, Fields, str]]] = {
    "cedar": (
        {"path": text("a folder of policies, or a file")},
        {"name": text("a name for records"), "interval": seconds(3600.0)},
        "path",
    ),
    "authzen": (
        {"url": text("the decision point's URL")},
        {**_REMOTE, "discover": flag, "advice": texts("names of members")},
        "url",
    ),
    "opa": ({"url": text("the agent's URL"), "path": text("the rule, such as agents/allow")}, _REMOTE, ""),
}
_SOURCE: Final[tuple[Fields, Fields]] = (
    {"call": text(REFERENCE)},
    {"deadline": seconds(30.0), "ttl": seconds(86_400.0), "required": flag},
)


def read_policy(found: Mapping[str, Node], base: FilePath) -> Policy:
    """Read `policy`, `attributes` and `notify`.

    Args:
        found: those that the file has, by key.
        base: the folder of the file.
    """
    points = found["policy"].items("decision points", empty="leave the key out") if "policy" in found else []
    sources = found["attributes"].named("{risk: {call: bank.risk:score}}") if "attributes" in found else {}
    told = found["notify"].named("{duty: bank.alerts:page}") if "notify" in found else {}
    return Policy(
        tuple(one for node in points if (one := _point(node, base)) is not None),
        tuple(one for name, node in sources.items() if (one := _source(name, node, base)) is not None),
        tuple(Said(name, {"call": node.text(REFERENCE)}, node.path) for name, node in told.items()),
    )


def _source(name: str, node: Node, base: FilePath) -> Said | None:
    before = len(node.problems)
    said = part(*_SOURCE)(node, base)
    return Said(name, said, node.path) if len(node.problems) == before else None


def _point(node: Node, base: FilePath) -> Said | None:
    if not isinstance(node.value, dict) or len(node.value) != 1:
        node.refuse(f"write one decision point, such as cedar: policy/; known are {', '.join(_KINDS)}")
        return None
    before = len(node.problems)
    for kind, entry in node.fields(optional=tuple(_KINDS)).items():
        needed, optional, short = _KINDS[kind]
        if short and isinstance(entry.value, str):
            said = {short: entry.text()}
        else:
            said = part(needed, optional)(entry, base)
        if len(node.problems) == before:
            return Said(kind, said, entry.path)
    return None


def make_policy(policy: Policy, base: FilePath, http: Callable[[], Http], problems: Problems) -> Made:
    """Make the decision points, the attribute sources and whoever can be told; mistakes are noted.

    Args:
        policy: what was read.
        base: the folder of the file.
        http: the client of this configuration, made when it is needed.
        problems: receives the mistakes.
    """
    names: set[str] = set()
    points = [kept(problems, one.where, partial(_made_point, one, base, http, names)) for one in policy.points]
    sources = [kept(problems, one.where, partial(_made_source, one)) for one in policy.attributes]
    told = {one.kind: kept(problems, one.where, partial(_told, one)) for one in policy.notify}
    return Made(
        tuple(point for point in points if point is not None),
        tuple(source for source in sources if source is not None),
        {name: call for name, call in told.items() if call is not None},
    )


def _made_point(one: Said, base: FilePath, http: Callable[[], Http], names: set[str]) -> DecisionPoint:
    said = dict(one.said)
    name = said.setdefault("name", one.kind)
    if name in names:
        raise ConfigurationError(f"two decision points are called {name!r}; give one another name: NAME")
    names.add(name)
    cache = said.pop("cache", None)
    if "token" in said:
        said["token"] = Secret(text_of(said["token"]))
    make = {"cedar": _cedar, "authzen": _authzen, "opa": _opa}[one.kind]
    point = make(said, base, http)
    if cache is None:
        return point
    from agentguard.policy.cache import CachedPoint

    if "ttl" not in cache:
        raise ConfigurationError("cache: write for how long: {ttl: 5s}")
    return CachedPoint(point, **cache)


def _cedar(said: dict[str, Any], base: FilePath, http: Callable[[], Http]) -> DecisionPoint:
    from agentguard.policy.cedar import CedarPoint

    return CedarPoint(base / said.pop("path"), **said)


def _authzen(said: dict[str, Any], base: FilePath, http: Callable[[], Http]) -> DecisionPoint:
    from agentguard.policy.authzen import AuthZenPoint

    return AuthZenPoint(http(), said.pop("url"), **said)


def _opa(said: dict[str, Any], base: FilePath, http: Callable[[], Http]) -> DecisionPoint:
    from agentguard.policy.opa import OpaPoint

    return OpaPoint(http(), said.pop("url"), said.pop("path"), **said)


def _made_source(one: Said) -> AttributeSource:
    from agentguard.policy.attributes import AttributeSource

    said = dict(one.said)
    return AttributeSource(one.kind, referred(said.pop("call")), **said)


def _told(one: Said) -> Callable[..., object]:
    from agentguard.policy.notices import Notified

    call = referred(one.said["call"])
    Notified(one.kind, call)  # a wrong name is a mistake of the file, said now
    return call


def referred(name: str) -> Callable[..., Any]:
    """Return what `module:function` names.

    Raises:
        ConfigurationError: there is no such module or name, it cannot be imported, or it cannot be called.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigurationError(f"{name!r}: write {REFERENCE}")
    problem = ""
    try:
        found: Any = importlib.import_module(module)
        for step in attribute.split("."):
            found = getattr(found, step)
    except Exception as error:  # what is imported may raise anything
        problem = f"{name!r} cannot be imported ({type(error).__name__}: {error})"
    if problem:
        raise ConfigurationError(problem)
    if not callable(found):
        raise ConfigurationError(f"{name!r} cannot be called; name a function")
    return found  # type: ignore[no-any-return]  # callable, as looked at
