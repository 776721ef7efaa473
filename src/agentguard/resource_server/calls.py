"""Checks a request against the `authorization_details` of its token: the amount is checked again where the money is.

agentguard's tokens say which call they are for (RFC 9396, type `agentguard_tool_call`): the tool, the API, the
resource, what the steps of the intent demand of the arguments, and for a single-use token the arguments themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from agentguard.errors import ConfigurationError, NotCanonical
from agentguard.intent.truth import FAIL, HOLD
from agentguard.model.call import ToolCall, ToolSpec
from agentguard.model.canonical import Canonical, canonical, digest, readable, same
from agentguard.resource_server.rejection import InsufficientScope
from agentguard.resource_server.step_bounds import steps_hold
from agentguard.resource_server.verifier import VerifiedToken

DETAILS_TYPE: Final = "agentguard_tool_call"
MOST_DETAILS: Final = 64
_MEMBERS: Final = frozenset(
    {"type", "actions", "locations", "identifier", "steps", "arguments", "arguments_hash"}
)  # `arguments_hash` is keyed by the guard: it is for its records
_NONE: Final[Mapping[str, object]] = MappingProxyType({})


def check_call(
    token: VerifiedToken,
    action: str,
    resource: str = "",
    arguments: Mapping[str, object] = _NONE,
    *,
    defaults: Mapping[str, object] = _NONE,
    unchecked: Collection[str] = (),
) -> None:
    """Return if one entry of the token's `authorization_details` covers a request wholly (RFC 9396 section 9).

    Args:
        token: verified.
        action: the tool's name, such as `refund.create`.
        resource: as the tool's template makes it, with its variable parts percent-encoded; empty if it has none.
        arguments: what the request does, by the names of the tool's arguments.
        defaults: what an argument is that was left out.
        unchecked: arguments of the tool that are no part of the request; whatever the token says of them is passed
            over.

    Raises:
        InsufficientScope: no entry covers it; the text names the first difference, and no value.
        ConfigurationError: the action is no tool's name.
    """
    if not action:
        raise ConfigurationError('check_call needs the tool\'s name: check_call(token, "refund.create", ...)')
    if isinstance(unchecked, str):
        raise ConfigurationError('unchecked is a list of arguments: unchecked=["note"]')
    call = _call(action, arguments, defaults)
    passed_over = frozenset(unchecked)
    problems: list[str] = []
    for entry in _entries(token):
        problem = _identity_problem(entry, token, action, resource)
        # The most telling difference is that of an entry which is at least about this call.
        rank = 0 if problem else 1
        problem = problem or _argument_problem(entry, call, passed_over)
        if not problem:
            return
        problems.insert(0, problem) if rank else problems.append(problem)
    why = problems[0] if problems else "the token holds no authorization_details for calls of tools"
    raise InsufficientScope("", why)


def _call(action: str, arguments: Mapping[str, object], defaults: Mapping[str, object]) -> ToolCall:
    exact: dict[str, dict[str, Canonical]] = {}
    for what, values in (("arguments", arguments), ("defaults", defaults)):
        try:
            exact[what] = {name: canonical(value, name) for name, value in values.items()}
        except NotCanonical as error:
            problem = str(error)
        else:
            continue
        raise InsufficientScope("", f"an argument of the request cannot be compared: {problem}")
    spec = ToolSpec(name=action, defaults=exact["defaults"])
    given = exact["arguments"]
    complete = {**exact["defaults"], **given}
    return ToolCall(id="", spec=spec, arguments=complete, given=frozenset(given), digest=digest(complete))


def _entries(token: VerifiedToken) -> Iterator[Mapping[str, Any]]:
    """Yield the entries that are about tools; those of other types are for other APIs."""
    if len(token.details) > MOST_DETAILS:
        raise InsufficientScope("", f"the token holds more than {MOST_DETAILS} authorization_details")
    for entry in token.details:
        if entry.get("type") == DETAILS_TYPE:
            yield entry


def _identity_problem(entry: Mapping[str, Any], token: VerifiedToken, action: str, resource: str) -> str:
    # INVARIANT: a member that is not understood may be a restriction, so such an entry covers nothing.
    if not entry.keys() <= _MEMBERS:
        return "the authorization_details hold a member that this API does not understand"
    if not _holds(entry.get("actions"), action):
        return "the token is for another action"
    if "locations" in entry and not _holds(entry["locations"], token.audience):
        return "the authorization_details are for another API"
    if entry.get("identifier", "") != resource or token.resource not in ("", resource):
        return "the token is for another resource"
    return ""


def _holds(names: object, name: str) -> bool:
    return isinstance(names, list) and all(isinstance(one, str) for one in names) and name in names


def _argument_problem(entry: Mapping[str, Any], call: ToolCall, unchecked: frozenset[str]) -> str:
    exact = "arguments" in entry
    if exact and (problem := _difference(entry["arguments"], call.arguments, unchecked)):
        return problem
    if "steps" not in entry:
        bare = exact or not call.arguments
        return "" if bare else "the token does not say which arguments it is for, so they cannot be checked"
    truth = steps_hold(entry["steps"], call, closed=not exact, unchecked=unchecked)
    if truth is HOLD or (truth is not FAIL and exact):  # the guard could tell, and decided about these very values
        return ""
    if truth is FAIL:
        return "the arguments of the request are not within what the token allows"
    return "whether the arguments are within what the token allows cannot be told here; use a single-use credential"


def _difference(said: object, given: Mapping[str, Canonical], unchecked: frozenset[str]) -> str:
    """Return in what the arguments of the request differ from those of the token, or nothing.

    A token writes numbers as text, so both sides are compared as they are written there.
    """
    if not isinstance(said, dict):
        return "the arguments in the token are malformed"
    try:
        meant = {name: canonical(value, name) for name, value in said.items() if name not in unchecked}
    except NotCanonical:
        return "the arguments in the token are malformed"
    asked = {name: canonical(readable(value)) for name, value in given.items() if name not in unchecked}
    for name in sorted(meant.keys() | asked.keys()):
        if name not in meant:
            return f"the token does not hold the argument {name}"
        if name not in asked:
            return "the token holds an argument that the request does not have, or that this API does not check"
        if not same(meant[name], asked[name]):
            return f"the argument {name} is not the one that the token is for"
    return ""
