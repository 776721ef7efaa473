"""Open Policy Agent over its Data API: `POST /v1/data/PATH`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentguard._http import Http, checked_url
from agentguard.errors import ConfigurationError
from agentguard.model.decision import AccessRequest
from agentguard.model.lease import Secret
from agentguard.policy.decided import Answering, Decided, tool_of
from agentguard.policy.obligations import NOTHING, UnknownObligation, parse
from agentguard.policy.remote import Asking, NoAnswer, new_id
from agentguard.policy.values import NotCarried, json_form

_PATH: Final = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
_MEMBERS: Final = frozenset({"allow", "obligations", "rules"})
_MOST_RULES: Final = 20


class OpaPoint:
    """Asks an Open Policy Agent; implements the port `DecisionPoint`. Safe for concurrent use.

    The result at `path` is a boolean, or an object `{"allow": BOOLEAN, "obligations": {...}, "rules": [...]}`. Only
    `true` permits. An undefined result, which OPA answers with no `result` at all, is a deny by policy; anything else
    that is no boolean is a deny with the code `policy_error`.

    Args:
        http: sends.
        url: of the agent, for example `https://opa.example`.
        path: of the rule, for example `agents/allow` for `data.agents.allow`.
        name: of this decision point, in records.
        token: bearer token for the agent.
        deadline: seconds for one decision.
        ids: makes an `X-Request-ID` for each attempt.

    Raises:
        ConfigurationError: the URL, the path or the deadline is wrong.
    """

    suspends: bool = False
    waits: bool = True
    remote: bool = True

    def __init__(
        self,
        http: Http,
        url: str,
        path: str,
        *,
        name: str = "opa",
        token: Secret | None = None,
        deadline: float = 2.0,
        ids: Callable[[], str] = new_id,
    ) -> None:
        if not 0 < deadline <= 60:
            raise ConfigurationError(f"opa deadline {deadline!r}: write seconds above 0, at most 60")
        if not _PATH.fullmatch(path) or ".." in path:
            raise ConfigurationError(f"opa path {path!r}: write package and rule, such as agents/allow")
        checked_url(url, what="policy.opa", networks=http.networks)
        if "?" in url:
            raise ConfigurationError("policy.opa: the URL has no query")
        self.name, self._url = name, f"{url.rstrip('/')}/v1/data/{path}?provenance=true"
        self._asking = Asking(http, token=token, deadline=deadline, ids=ids)

    async def decide(self, request: AccessRequest) -> Decided:
        """Ask for one decision."""
        answer = Answering(self.name, tool_of(request))
        try:
            found = await self._asking.post(self._url, {"input": json_form(request)})
        except NotCarried as error:
            return answer.error(f"the request cannot be put in JSON: {error}")
        except NoAnswer as error:
            return Answering(self.name, answer.tool, id=error.id).error(error.why)
        said = found.body.get("decision_id")
        decision = said if isinstance(said, str) and said else found.id
        version = _revision(found.body)
        return _read(Answering(self.name, answer.tool, version=version, id=decision), found.body)


def _read(answer: Answering, body: Mapping[str, Any]) -> Decided:
    if "result" not in body:
        return answer.deny("the rule is undefined for it")
    result = body["result"]
    if type(result) is bool:
        return answer.permit() if result else answer.deny("the rule denies it")
    if not isinstance(result, dict) or type(result.get("allow")) is not bool or not _are_texts(result.get("rules", [])):
        return answer.error("its result is neither a boolean nor an object with a boolean `allow`")
    rules = result.get("rules", [])[:_MOST_RULES]
    if result["allow"] is False:
        return answer.deny("the rule denies it", rules)
    try:
        if result.keys() - _MEMBERS:
            raise UnknownObligation("its result has a member that is not known")
        return answer.permit(rules, parse(result["obligations"]) if "obligations" in result else NOTHING)
    except UnknownObligation as error:
        problem = str(error)
    return answer.error(problem, rules)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _revision(body: Mapping[str, Any]) -> str:
    """The revisions of the bundles that decided, in the order of their names."""
    provenance = body.get("provenance")
    bundles = provenance.get("bundles") if isinstance(provenance, dict) else None
    if not isinstance(bundles, dict):
        return ""
    found = ((name, bundle.get("revision")) for name, bundle in sorted(bundles.items()) if isinstance(bundle, dict))
    return ",".join(f"{name}={revision}" for name, revision in found if isinstance(revision, str) and revision)
