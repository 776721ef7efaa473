"""What a Cedar decision costs: alone, beside 1,000 policies for other actions, and combined as the guard does it.

`python -m bench.policy` prints ratios to one decision with one policy, and exits with 1 where a bar is broken.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from agentguard._drive import drive
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.canonical import canonical, digest
from agentguard.model.decision import AccessRequest, Decision, Outcome, Reason
from agentguard.model.principal import Agent, Chain, Subject
from agentguard.policy.cache import CachedPoint
from agentguard.policy.cedar import decided
from agentguard.policy.cedar_policies import build
from agentguard.policy.combine import decide_all
from agentguard.policy.decided import Decided
from agentguard.policy.files import Loaded, PolicyFile
from agentguard.policy.request import TaskFacts, request_for
from bench.harness import Case, compare, figure, valid, versions

BARS: Final[Mapping[str, float]] = {"unrelated_1000_over_1": 1.15, "cached": 1.0}
RULE: Final = """
@id("small-refunds")
permit(principal, action == Action::"refund.create", resource)
when { context.arguments.amount.lessThanOrEqual(decimal("50.0")) && context.arguments.account == "acme" };
"""
INTENT: Final = Decision(outcome=Outcome.PERMIT, reason=Reason.DECLARED, tool="refund.create")


def request() -> AccessRequest:
    """The question as the guard builds it."""
    bound: dict[str, Any] = {"account": canonical("acme"), "amount": canonical(Decimal("49.99"))}
    spec = ToolSpec(
        name="refund.create", effect=Effect.WRITE, audience="https://pay.test", resource="account/{account}",
        data=frozenset({"payments"}), parameters=frozenset(bound), record=tuple(bound),
    )  # fmt: skip
    call = ToolCall(id="1", spec=spec, arguments=bound, given=frozenset(bound), digest=digest(bound))
    chain = Chain(Subject("alice"), (Agent("support-bot"), Agent("researcher")))
    return request_for(call, chain, TaskFacts(environment="bench", purpose="Measure", steps=("s1", "s2")))


class Point:
    """Cedar without the look at the files, which is once a second."""

    suspends = False
    name = "cedar"

    def __init__(self, unrelated: int) -> None:
        others = "\n".join(
            f'@id("other-{number}") permit(principal, action == Action::"other.tool_{number}", resource) '
            f'when {{ context.arguments.account == "a{number}" }};'
            for number in range(unrelated)
        )
        self.loaded = Loaded(build([PolicyFile("p.cedar", RULE + others)]), "sha256:bench")

    async def decide(self, request: AccessRequest) -> Decided:
        """Decide."""
        return decided(self.name, self.loaded, request)


def deciding(*points: Any) -> Case:
    """A case that asks and combines; what it measures is verified first."""
    asked = request()

    def case() -> Decided:
        return drive(decide_all(points, asked, INTENT))

    if case().outcome is not Outcome.PERMIT:
        raise AssertionError("the policy does not permit what is measured")
    return case


def main() -> int:
    """Measure and print."""
    one = deciding(Point(0))
    cases = {
        "unrelated_1000_over_1": deciding(Point(1000)),
        "cached": deciding(CachedPoint(Point(0), ttl=300)),
        "two_points": deciding(Point(0), Point(0)),
        "building_the_request": request,
    }
    found = compare(one, cases, rounds=40)
    figures = {name: figure(found[name], BARS.get(name)) for name in cases}
    report = {"valid": valid(found["control"]), "microseconds": round(found["control"].microseconds, 1), **versions()}
    print(json.dumps({**report, "figures": figures}, indent=2))
    return 0 if report["valid"] and all(each["ok"] for each in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
