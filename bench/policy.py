"""What a decision costs: Cedar beside cedarpy alone, with 1,000 policies for other actions, combined; and AuthZEN.

`python -m bench.policy [--json]` prints ratios: to one decision with one policy, to cedarpy's own answer about the same
request, and to one bare post.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from decimal import Decimal
from typing import Any, Final

import httpx

from agentguard._drive import drive
from agentguard._http import Http
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.canonical import canonical, digest
from agentguard.model.decision import AccessRequest, Decision, Outcome, Reason
from agentguard.model.principal import Agent, Chain, Subject
from agentguard.policy.authzen import AuthZenPoint
from agentguard.policy.cache import CachedPoint
from agentguard.policy.cedar import decided, question_of
from agentguard.policy.cedar_policies import _set_of, build
from agentguard.policy.combine import decide_all
from agentguard.policy.decided import Decided
from agentguard.policy.files import Loaded, PolicyFile
from agentguard.policy.request import TaskFacts, request_for
from agentguard.policy.values import json_form
from bench.harness import Case, Ratio, compare, figure, valid, versions
from bench.report import printed

BARS: Final[Mapping[str, float]] = {
    "unrelated_1000_over_1": 1.15, "cached": 1.0, "cedar_over_cedarpy": 1.3, "cedar_over_cedarpy_1000": 1.3,
}  # fmt: skip
SERVER: Final = """
import asyncio

async def connected(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\\r\\n\\r\\n")).decode("latin-1").lower()
            said = dict(line.split(": ", 1) for line in head.split("\\r\\n") if ": " in line)
            await reader.readexactly(int(said["content-length"]))
            again = f"x-request-id: {said['x-request-id']}\\r\\n" if "x-request-id" in said else ""
            head = f"HTTP/1.1 200 OK\\r\\n{again}content-type: application/json\\r\\ncontent-length: 18\\r\\n\\r\\n"
            writer.write(head.encode() + b'{"decision": true}')
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def main():
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""
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


def beside_cedarpy(unrelated: int) -> tuple[Case, Case]:
    """Our decision, and cedarpy's own about the same request by the same policies, parsed once like ours."""
    import cedarpy

    point, asked = Point(unrelated), request()
    policies = point.loaded.value
    everything = cedarpy.PolicySet.from_json_str(_set_of(policies.rules))
    question = question_of(asked)
    question["context"] = json.loads(question["context"])

    def theirs() -> Any:
        return cedarpy.is_authorized(question, everything, policies.entities, policies.schema)

    def ours() -> Decided:
        return decided(point.name, point.loaded, asked)

    if ours().outcome is not Outcome.PERMIT or theirs().decision is not cedarpy.Decision.Allow:
        raise AssertionError("the policy does not permit what is measured")
    return theirs, ours


@contextmanager
def authzen() -> Iterator[tuple[Case, Case]]:
    """A bare post of the same size on a kept connection, and a decision over AuthZEN; a server that permits, apart."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        try:
            origin = f"http://127.0.0.1:{process.stdout.readline().strip() if process.stdout else ''}"
            with httpx.Client(trust_env=False) as client, closing(Http()) as http:
                body = json.dumps(json_form(request())).encode()
                url = f"{origin}/access/v1/evaluation"
                point, asked = AuthZenPoint(http, origin, discover=False), request()

                def post() -> object:
                    return client.post(url, content=body, headers={"content-type": "application/json"}).json()

                def decision() -> Decided:
                    return drive(point.decide(asked))

                if decision().outcome is not Outcome.PERMIT:
                    raise AssertionError("the server does not permit what is measured")
                yield post, decision
        finally:
            process.terminate()


def measured() -> Mapping[str, tuple[Ratio, Ratio]]:
    """Every figure with the control of its own baseline."""
    one = deciding(Point(0))
    cases = {
        "unrelated_1000_over_1": deciding(Point(1000)),
        "cached": deciding(CachedPoint(Point(0), ttl=300)),
        "two_points": deciding(Point(0), Point(0)),
        "building_the_request": request,
    }
    found = compare(one, cases, rounds=40)
    figures = {name: (found[name], found["control"]) for name in cases}
    for name, unrelated in (("cedar_over_cedarpy", 0), ("cedar_over_cedarpy_1000", 1000)):
        theirs, ours = beside_cedarpy(unrelated)
        beside = compare(theirs, {name: ours}, rounds=40)
        figures[name] = beside[name], beside["control"]
    with authzen() as (post, decision):
        remote = compare(post, {"authzen_over_post": decision}, rounds=40)
    return {**figures, "authzen_over_post": (remote["authzen_over_post"], remote["control"])}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.policy", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    found = measured()
    figures = {name: figure(ratio, BARS.get(name)) for name, (ratio, _) in found.items()}
    ok = all(valid(control) for _, control in found.values())
    return printed({"valid": ok, "figures": figures, "versions": versions()}, json_wanted=options.json)


if __name__ == "__main__":
    sys.exit(main())
