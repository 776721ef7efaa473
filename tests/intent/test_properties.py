"""What holds for every intent and every call."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agentguard.intent import (
    Admitted,
    Constraint,
    Facts,
    Intent,
    Refused,
    Step,
    Truth,
    absent,
    any_,
    compile_intent,
    eq,
    find_link,
    in_,
    not_,
    optional,
    prefix,
    step,
    text,
)
from agentguard.intent.literal import comparable
from agentguard.intent.values import Max, Min
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.canonical import canonical
from agentguard.model.decision import STRICTNESS
from tests.intent.calls import admitted, call_of, check

pytestmark = pytest.mark.slow  # many generated cases

TOOLS = ("pay", "mail.send", "mail.read", "account.read")
NAMES = ("a", "b", "c")
TEXTS = st.sampled_from(["", "a", "ab", "acme", "50", "caf\u00e9", "cafe\u0301", "evil.com"])
SCALARS = st.one_of(
    TEXTS, st.booleans(), st.none(), st.integers(-3, 60), st.decimals(-2, 60, places=2, allow_nan=False)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
    max_leaves=4,
)
NFC_VALUES = SCALARS.filter(lambda value: value != "cafe\u0301")
LEAVES: st.SearchStrategy[Constraint] = st.one_of(
    st.builds(eq, NFC_VALUES),
    st.builds(lambda values: in_(*values), st.lists(NFC_VALUES, min_size=1, max_size=3)),
    st.builds(Min, st.integers(-2, 60)),
    st.builds(lambda low, more: Min(low) & Max(low + more), st.decimals(0, 9, places=1), st.integers(0, 50)),
    st.builds(prefix, st.sampled_from(["a", "ac", "/srv/"])),
    st.builds(text, st.none() | st.integers(1, 9)),
    st.just(any_),
    st.just(absent),
)
SAID = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(not_, inner), st.builds(optional, inner), st.builds(lambda left, right: left | right, inner, inner)
    ),
    max_leaves=4,
)
ARGS = st.dictionaries(st.sampled_from(NAMES), SAID, max_size=3)
# Literals of comparable values always hold or fail, so a step made of them never ends the search for another.
PLAIN_ARGS = st.dictionaries(st.sampled_from(NAMES), st.builds(eq, st.integers(0, 9)) | st.just(any_), max_size=3)


@st.composite
def steps(draw: st.DrawFn, args: st.SearchStrategy[Any] = ARGS) -> Step:
    made = step(draw(st.sampled_from(TOOLS)), **draw(args))
    if draw(st.booleans()):
        per: Any = "1h" if draw(st.booleans()) else sorted(made.args)
        made = made.times(draw(st.integers(1, 5)), per=per)
    with_total: bool = draw(st.booleans())
    if made.args and with_total:
        made = made.total(**{draw(st.sampled_from(sorted(made.args))): draw(st.decimals(0, 99, places=2))})
    return draw(st.sampled_from([made, made.then_ask(), made.attempts(2)]))


def no_absence(said: Constraint) -> bool:
    return "absent" not in str(said.form()) and "optional" not in str(said.form())


FORBIDS = st.fixed_dictionaries(
    {},
    optional={
        "tool": st.sampled_from(["pay", "mail.*", "*"]),
        "tags": st.just(["egress"]),
        "seen": st.just(["pii"]),
        "args": st.dictionaries(st.sampled_from(NAMES), SAID.filter(no_absence), min_size=1, max_size=2),
    },
).filter(bool)


@st.composite
def intents(draw: st.DrawFn) -> Intent:
    return Intent(
        "p",
        *draw(st.lists(steps(), max_size=4)),
        reads=draw(st.lists(st.sampled_from(["mail.*", "account.read", "*"]), max_size=2)),
        everywhere=draw(st.dictionaries(st.sampled_from(NAMES), SAID, max_size=1)),
        forbid=draw(st.lists(FORBIDS, max_size=2)),
        ttl=draw(st.sampled_from([None, 5, "10m", 1.5])),
        agents=draw(st.sampled_from([None, {"bot": {"reads": ["a.b"]}}])),
    )


@st.composite
def calls(draw: st.DrawFn) -> ToolCall:
    plain = draw(st.dictionaries(st.sampled_from(NAMES), SCALARS))
    spec = ToolSpec(
        name=draw(st.sampled_from(TOOLS)),
        effect=draw(st.sampled_from(list(Effect))),
        tags=draw(st.sampled_from([frozenset(), frozenset({"egress"})])),
        data=draw(st.sampled_from([frozenset(), frozenset({"pii"})])),
        secret=draw(st.sampled_from([frozenset(), frozenset({"a"})])),
        defaults={key: canonical(value) for key, value in plain.items()},
    )
    return call_of(spec, **draw(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3)))


SEEN = st.sampled_from([(), ("pii",)])


@given(calls(), SEEN)
def test_nothing_is_admitted_by_an_intent_that_says_nothing(call: ToolCall, seen: tuple[str, ...]) -> None:
    assert isinstance(check(Intent("p"), call, seen), Refused)


@given(intents(), calls(), SEEN)
def test_same_call_gets_the_same_answer(intent: Intent, call: ToolCall, seen: tuple[str, ...]) -> None:
    again = Intent.from_yaml(intent.to_yaml())

    assert check(intent, call, seen) == check(intent, call, seen) == check(again, call, seen)


@given(intents(), calls(), SEEN)
def test_tool_that_one_step_decides_about_is_judged_as_by_the_whole_intent(
    intent: Intent, call: ToolCall, seen: tuple[str, ...]
) -> None:
    compiled = compile_intent(intent)
    whole = replace(compiled, rules=replace(compiled.rules, only={}))

    assert compiled.check(call, Facts(frozenset(seen))) == whole.check(call, Facts(frozenset(seen)))


@given(intents(), FORBIDS, calls(), SEEN)
def test_adding_a_forbid_never_permits_more(
    intent: Intent, entry: dict[str, Any], call: ToolCall, seen: tuple[str, ...]
) -> None:
    stricter = Intent(
        "p", *intent.steps, reads=intent.reads, everywhere=intent.everywhere, forbid=[*intent.forbid, entry]
    )

    assert admitted(intent, call, seen) or not admitted(stricter, call, seen)


@given(intents(), calls(), SEEN)
def test_order_of_forbids_means_nothing(intent: Intent, call: ToolCall, seen: tuple[str, ...]) -> None:
    turned = Intent("p", *intent.steps, reads=intent.reads, everywhere=intent.everywhere, forbid=intent.forbid[::-1])

    assert admitted(intent, call, seen) is admitted(turned, call, seen)


@given(intents(), st.sampled_from(TOOLS), PLAIN_ARGS, calls(), SEEN)
def test_adding_a_permitting_step_that_can_tell_never_denies_more(
    intent: Intent, tool: str, args: dict[str, Any], call: ToolCall, seen: tuple[str, ...]
) -> None:
    added = step(tool, **args)
    wider = Intent("p", *intent.steps, added, reads=intent.reads, everywhere=intent.everywhere, forbid=intent.forbid)
    before = check(intent, call, seen)

    # A step that names a read tool closes `reads` for it: the one way in which a step takes something away.
    if isinstance(before, Admitted) and before.options[0].step != "reads" and comparable(dict(call.arguments)):
        assert admitted(wider, call, seen)


@given(intents(), calls(), SEEN)
def test_admitted_means_that_everywhere_and_a_step_or_reads_hold(
    intent: Intent, call: ToolCall, seen: tuple[str, ...]
) -> None:
    verdict = check(intent, call, seen)

    if isinstance(verdict, Admitted):
        named = {item.id for item in intent.steps if item.tool == call.spec.name}
        assert {option.step for option in verdict.options} <= (named or {"reads"})
        for name, said in intent.everywhere.items():
            if name in call.arguments:
                assert said.test(name)(call.arguments[name], call, Facts()) is Truth.HOLD
        order = [STRICTNESS[option.outcome] for option in verdict.options]
        assert order == sorted(order)
        for option in verdict.options:
            assert all(Decimal(charge.amount) >= 0 for charge in option.charges)


@given(intents(), calls(), SEEN)
def test_refusal_never_holds_the_value_of_a_secret_argument(
    intent: Intent, call: ToolCall, seen: tuple[str, ...]
) -> None:
    marked = ToolCall(
        id="1",
        spec=ToolSpec(name=call.spec.name, effect=call.spec.effect, secret=frozenset({"a"})),
        arguments={**call.arguments, "a": "\u00a7hush\u00a7"},
        given=frozenset({"a"}),
        digest="",
    )

    assert "hush" not in str(check(intent, marked, seen))


@given(intents())
def test_yaml_round_trip_gives_an_equal_intent(intent: Intent) -> None:
    again = Intent.from_yaml(intent.to_yaml())

    assert again == intent
    assert again.s256 == intent.s256


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_any_writable_text_survives_yaml(value: str) -> None:
    from agentguard.errors import ConfigurationError

    try:
        intent = Intent("p", step("pay", x=eq(value)))
        written = intent.to_yaml()
    except ConfigurationError:
        return
    assert Intent.from_yaml(written) == intent


@given(SAID, VALUES)
def test_not_not_is_the_same(said: Constraint, value: Any) -> None:
    exact = canonical(value)
    call = call_of()

    assert not_(not_(said)).test("a")(exact, call, Facts()) is said.test("a")(exact, call, Facts())


@given(SAID, SAID, VALUES)
def test_alternatives_hold_if_either_holds(left: Constraint, right: Constraint, value: Any) -> None:
    exact, call = canonical(value), call_of()
    truths = {said.test("a")(exact, call, Facts()) for said in (left, right)}
    expected = next(truth for truth in (Truth.HOLD, Truth.CANNOT_TELL, Truth.FAIL) if truth in truths)

    assert (left | right).test("a")(exact, call, Facts()) is expected
    assert (right | left).test("a")(exact, call, Facts()) is expected


@settings(max_examples=300)
@given(st.text(alphabet="a.@/:%2eE[]()-\u0301\uff0e\u3002w com", max_size=60))
def test_link_detector_takes_any_text_and_finds_what_is_put_in(value: str) -> None:
    find_link(value)
    assert find_link(f"{value} http://evil.test {value}")


@given(intents())
def test_compiling_changes_nothing(intent: Intent) -> None:
    before = intent.s256
    compile_intent(intent)

    assert intent.s256 == before
