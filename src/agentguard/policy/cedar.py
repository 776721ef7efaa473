"""Cedar, embedded: policies and entities from files, decided in this process by `cedarpy` (extra `cedar`)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from agentguard.model.decision import AccessRequest
from agentguard.policy.cedar_policies import SUFFIXES, CedarPolicies, build
from agentguard.policy.cedar_values import record
from agentguard.policy.decided import Answering, Decided, tool_of
from agentguard.policy.files import Loaded, PolicyFiles, refreshed
from agentguard.policy.values import NotCarried

_TYPE: Final = {"user": "User", "agent": "Agent"}


class CedarPoint:
    """Decides by Cedar policies; implements the port `DecisionPoint`. Safe for concurrent use.

    principal is `User::"alice"` or `Agent::"bot"`, action `Action::"refund.create"`, resource
    `Resource::"account/acme"`; their properties, and the request's context, stand in `context`. Entities that a file
    gives bring groups and attributes of their own.

    Only an Allow without any error permits. Unlike Cedar itself, which passes over a policy that errs, an error in any
    policy, permit or forbid, is a deny.

    Args:
        path: a folder with `*.cedar`, `*entities.json` and at most one `*.cedarschema`, or one `.cedar` file.
        name: of this decision point, in records.
        interval: seconds between two looks whether the files changed.
        clock: monotonic seconds.

    Raises:
        ConfigurationError: cedarpy is missing, or the files cannot be loaded.
    """

    suspends: bool = False
    waits: bool = True  # a look at the files is work for a thread

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        name: str = "cedar",
        interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.files: PolicyFiles[CedarPolicies] = PolicyFiles(
            path, build, suffixes=SUFFIXES, interval=interval, clock=clock
        )

    @property
    def version(self) -> str:
        """Digest of the policies in force."""
        return self.files.loaded.version

    async def refresh(self) -> None:
        """Look whether the files changed, if it is time."""
        await refreshed(self.files)

    async def decide(self, request: AccessRequest) -> Decided:
        """Decide by the policies in force."""
        return decided(self.name, await refreshed(self.files), request)


def decided(point: str, loaded: Loaded[CedarPolicies], request: AccessRequest) -> Decided:
    """Decide by these policies.

    Args:
        point: the decision point's name.
        loaded: the policies.
        request: the question.
    """
    answer = Answering(point, tool_of(request), version=loaded.version, outdated=bool(loaded.problem))
    policies = loaded.value
    try:
        question = question_of(request)
    except NotCarried as error:
        return answer.error(f"the request cannot be put to Cedar: {error}")
    found = policies.cedarpy.is_authorized(question, policies.of(answer.tool), policies.entities, policies.schema)
    rules, errors = tuple(sorted(found.diagnostics.reasons)), found.diagnostics.errors
    # INVARIANT: an error anywhere is a deny; Cedar would skip a forbid that errs.
    if errors or found.decision is policies.cedarpy.Decision.NoDecision:
        return answer.error(f"a policy, or the request, is in error: {_first(errors)}", rules)
    if found.decision is not policies.cedarpy.Decision.Allow:
        return answer.deny(f"forbidden by {', '.join(rules)}" if rules else "no policy permits it", rules)
    return policies.permit(answer, rules)


def _first(errors: list[str]) -> str:
    return errors[0][:300] if errors else "no decision"


def question_of(request: AccessRequest) -> dict[str, Any]:
    """The request as Cedar takes it.

    Raises:
        NotCarried: it holds what Cedar cannot hold.
    """
    context = record(request.context, "context")
    for name in ("subject", "action", "resource"):
        if name in context:
            raise NotCarried(f"context.{name}", "is a name that the request's own parts have")
        part = record(getattr(request, name), name)
        properties = part.pop("properties", {})
        context[name] = part | properties
    subject, action, resource = context["subject"], context["action"], context["resource"]
    return {
        "principal": {"type": _TYPE.get(subject.get("type"), "Other"), "id": str(subject.get("id", ""))},
        "action": {"type": "Action", "id": str(action.get("name", ""))},
        "resource": {"type": "Resource", "id": str(resource.get("id", ""))},
        "context": msgspec.json.encode(context).decode(),
    }
