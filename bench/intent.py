"""What one decision costs: matching a call against an intent, over a hand-written predicate that checks the same.

The baseline is what a careful engineer would write for this one tool. The ratio to it says what the language costs; the
figure with a bar says that steps of other tools cost a call nothing. Run as `python -m bench.intent [--json]`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from agentguard import Intent, between, in_, prefix, step
from agentguard.intent import Admitted, CompiledIntent, Facts, Refused, compile_intent, from_
from agentguard.intent.sources import sources_of
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.canonical import canonical, digest
from agentguard.results import Store, View
from bench.harness import Case, Ratio, compare, figure, valid, versions
from bench.report import printed

BARS: Final[Mapping[str, float]] = {"unrelated_steps_10000_over_10": 1.15}
SIZES: Final = (2, 10, 100)
ACCOUNTS: Final = ("acme", "globex", "initech")
NOTHING_SEEN: Final = Facts()


def call_of(tool: str, effect: Effect, **arguments: object) -> ToolCall:
    """A call as the guard makes it: bound, and its arguments canonical."""
    bound = {name: canonical(value) for name, value in arguments.items()}
    spec = ToolSpec(name=tool, effect=effect, parameters=frozenset(bound))
    return ToolCall(id="1", spec=spec, arguments=bound, given=frozenset(bound), digest=digest(bound))


REFUND: Final = call_of("refund.create", Effect.WRITE, account="globex", amount="25.50", note="Ticket 4711")
PAYMENT: Final = call_of("refund.create", Effect.WRITE, account="globex", amount=Decimal("25.50"), note="Ticket 4711")


def predicate(call: ToolCall) -> bool:
    """The same check, written by hand: closed arguments, a set, exact bounds and a prefix."""
    arguments = call.arguments
    if call.spec.name != "refund.create" or not arguments.keys() <= {"account", "amount", "note"}:
        return False
    account, amount, note = arguments.get("account"), arguments.get("amount"), arguments.get("note")
    return (
        account in ACCOUNTS
        and type(amount) is Decimal
        and Decimal("0.01") <= amount <= Decimal("50")
        and isinstance(note, str)
        and note.startswith("Ticket ")
    )


def intent_of(steps: int) -> CompiledIntent:
    """An intent whose last step admits the call; half of the others name the same tool and other accounts."""
    bounds = {"amount": between("0.01", "50"), "note": prefix("Ticket ")}
    others = [
        step("refund.create", account=f"other-{number}", **bounds).times(9)
        if number % 2
        else step(f"other.tool_{number}", account="x")
        for number in range(steps - 1)
    ]
    return compile_intent(Intent("Measure", *others, step("refund.create", account=in_(*ACCOUNTS), **bounds)))


def unrelated(steps: int) -> CompiledIntent:
    """An intent with one step for the tool, and so many for other tools."""
    bounds = {"amount": between("0.01", "50"), "note": prefix("Ticket ")}
    others = [step(f"other.tool_{number}", account="x") for number in range(steps)]
    return compile_intent(Intent("Measure", *others, step("refund.create", account=in_(*ACCOUNTS), **bounds)))


def checking(compiled: CompiledIntent, call: ToolCall = PAYMENT, facts: Facts = NOTHING_SEEN) -> Case:
    """A case that checks one call; what it measures is verified first."""
    admitted = isinstance(compiled.check(call, facts), Admitted)
    if admitted is not predicate(call):
        raise AssertionError("the intent and the predicate do not agree")
    return lambda: compiled.check(call, facts)


def with_provenance(results: int) -> Case:
    """A case whose account has to come from a field of earlier results; it stands in the first of them."""
    said = from_(tool="account.list", field="[].name")
    bounds = {"amount": between("0.01", "50"), "note": prefix("Ticket ")}
    intent = Intent("Measure", step("refund.create", account=said, **bounds))
    store = Store()
    store.need(sources_of(intent), "task:1")
    listing = call_of("account.list", Effect.READ)
    for number in range(results):
        names = [{"name": f"account {number} {index}"} for index in range(50)]
        store.record(listing, [{"name": "globex"}, *names], ("1",), [])
    return checking(compile_intent(intent), PAYMENT, Facts(results=View(store, ("1",), "task:1")))


def denied() -> Case:
    compiled = intent_of(10)
    if not isinstance(compiled.check(REFUND, NOTHING_SEEN), Refused):
        raise AssertionError("text was taken for a number")
    return lambda: compiled.check(REFUND, NOTHING_SEEN)


def measure(rounds: int) -> Mapping[str, Ratio]:
    """Return every ratio by name, with the two controls."""
    cases = {f"steps_{size}_over_predicate": checking(intent_of(size)) for size in SIZES}
    cases |= {"denied_over_predicate": denied()}
    cases |= {f"from_{count}_results_over_predicate": with_provenance(count) for count in (1, 100)}
    by_hand = compare(lambda: predicate(PAYMENT), cases, rounds=rounds)
    few, many = checking(unrelated(10)), checking(unrelated(10_000))
    scale = compare(few, {"unrelated_steps_10000_over_10": many}, rounds=rounds)
    return {**by_hand, **scale, "control": by_hand["control"], "control_of_scale": scale["control"]}


def report(rounds: int) -> Mapping[str, Any]:
    ratios = measure(rounds)
    figures = {name: figure(ratio, BARS.get(name)) for name, ratio in ratios.items()}
    ok = valid(ratios["control"]) and valid(ratios["control_of_scale"])
    return {"valid": ok, "figures": figures, "versions": versions()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.intent", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    return printed(report(options.rounds), json_wanted=options.json)


if __name__ == "__main__":
    sys.exit(main())
