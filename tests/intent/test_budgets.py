"""What a step charges: default uses, uses per argument, totals, windows; and what a ceiling needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentguard.errors import ConfigurationError
from agentguard.intent import (
    Admitted,
    Constraint,
    Facts,
    Intent,
    any_,
    at_most,
    between,
    compile_intent,
    date,
    each,
    email,
    eq,
    from_,
    in_,
    in_set,
    is_,
    optional,
    path,
    same_as,
    step,
    template,
    url,
)  # fmt: skip
from tests.intent.calls import admitted, call_of, charges, check, miss, options, spec_of


@pytest.mark.parametrize(
    ("effect", "tags", "expected"),
    [
        ("write", (), {"pay#times": ("1", "1")}),
        ("destructive", (), {"pay#times": ("1", "1")}),
        ("read", ("egress",), {"pay#times": ("1", "1")}),
        ("read", (), {}),
    ],
)
def test_step_may_be_used_once_by_default_and_a_read_without_limit(
    effect: str, tags: tuple[str, ...], expected: dict[str, tuple[str, str]]
) -> None:
    assert charges(Intent("p", step("pay")), call_of(spec_of("pay", effect, tags=frozenset(tags)))) == expected


def test_times_bounds_a_read_too() -> None:
    assert charges(Intent("p", step("pay").times(3)), call_of(spec_of("pay", "read"))) == {"pay#times": ("3", "1")}


def test_times_per_argument_counts_each_value_apart() -> None:
    intent = Intent("p", step("pay", order=any_, n=any_).times(2, per=["order", "n"]))

    assert charges(intent, call_of(order="a", n=1.50)) == {'pay#times[order="a",n=1.5]': ("2", "1")}


def test_values_of_different_types_are_different_counters() -> None:
    intent = Intent("p", step("pay", x=any_).times(1, per=["x"]))
    values = ["1", 1, True, None, "null", "absent", ["1"], {"a": 1}, 'a",x="b', "sha256:00", "y" * 100, "z" * 100]

    keys = {next(iter(charges(intent, call_of(x=value)))) for value in values}
    keys.add(next(iter(charges(intent, call_of()))))

    assert len(keys) == len(values) + 1
    assert all(len(key) < 100 for key in keys)


@pytest.mark.control("3 one value has one counter")
def test_value_whose_case_is_ignored_has_one_counter_however_it_is_written() -> None:
    acme = in_("acme", "ann", fold="case")
    plain, deep = step("pay", x=acme), step("pay", x=each(acme))
    shared = step("pay", x=any_).named("other").times(1, per=["x"]).budget("all")
    for intent in (
        Intent("p", plain.times(1, per=["x"])),
        Intent("p", plain.times(9).distinct("x")),
        Intent("p", step("pay", x=any_).times(1, per=["x"]), everywhere={"x": acme}),
        Intent("p", shared, plain.times(1, per=["x"]).budget("all")),
    ):
        assert charges(intent, call_of(x="ACME")) == charges(intent, call_of(x="Acme"))
        assert charges(intent, call_of(x="acme")) != charges(intent, call_of(x="ann"))
    per_list = Intent("p", deep.times(1, per=["x"]))
    assert charges(per_list, call_of(x=["ACME", "ann"])) == charges(per_list, call_of(x=["acme", "ANN"]))
    exact = Intent("p", step("pay", x=any_).times(1, per=["x"]))
    assert charges(exact, call_of(x="ACME")) != charges(exact, call_of(x="acme"))


@pytest.mark.control("3 one value has one counter")
@pytest.mark.parametrize(
    "args",
    [
        {"x": in_set("team", fold="case")},
        {"x": is_("member")},
        {"x": same_as("y"), "y": in_("acme", "ann", fold="case")},
        {"x": same_as("z"), "z": same_as("y"), "y": in_set("team", fold="case")},
    ],
)
def test_value_whose_case_is_ignored_by_name_has_one_counter(args: dict[str, Constraint]) -> None:
    sets, define = {"team": ["acme", "ann"]}, {"member": in_set("team", fold="case")}
    intent = Intent("p", step("pay", **args).times(9).distinct("x"), sets=sets, define=define)

    def counted(name: str) -> str:
        return str(charges(intent, call_of(**dict.fromkeys(args, name))))

    assert counted("ACME") == counted("acme") != counted("ann")


@pytest.mark.control("3 one value has one counter")
def test_url_has_one_counter_however_its_letters_are_encoded() -> None:
    intent = Intent("p", step("pay", x=url(["a.test"])).times(9).distinct("x"))

    def counted(written: str) -> str:
        return str(charges(intent, call_of(x=f"https://a.test/{written}")))

    assert counted("item?id=a~b") == counted("%69tem?%69d=a%7Eb") == counted("%69%74em?id=%61%7eb")
    assert counted("item%3b") == counted("item%3B") != counted("item;")
    assert len({counted("item"), counted("Item"), counted("item?"), counted("item?id=a%2526"), counted("item?id=a%26"),
                counted("item?id=a&")}) == 6  # fmt: skip


def test_default_that_can_be_written_as_null_or_empty_has_one_counter() -> None:
    spec = spec_of(defaults={"labels": None}, null_is_empty=frozenset({"labels"}))
    intent = Intent("p", step("pay", x=any_, labels=optional(each(any_))).times(1, per=["x", "labels"]))

    assert charges(intent, call_of(spec, x="a")) == charges(intent, call_of(spec, x="a", labels=[]))
    assert charges(intent, call_of(spec, x="a")) != charges(intent, call_of(spec, x="a", labels=["b"]))
    apart = spec_of(defaults={"labels": None})
    assert charges(intent, call_of(apart, x="a")) != charges(intent, call_of(apart, x="a", labels=[]))


def test_combination_is_one_in_whatever_order_the_steps_of_a_budget_name_it() -> None:
    pay = step("pay", a=any_, b=any_).times(9).distinct("a", "b").budget("all")
    send = step("send", a=any_, b=any_).times(9).distinct("b", "a").budget("all")
    intent = Intent("p", pay, send)

    assert charges(intent, call_of("pay", a=1, b=2)) == charges(intent, call_of("send", a=1, b=2))
    assert charges(intent, call_of("pay", a=1, b=2)) != charges(intent, call_of("send", a=2, b=1))


def test_file_has_one_counter_by_whichever_link_it_is_reached(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "same").symlink_to(tmp_path / "real" / "a")
    intent = Intent("p", step("pay", x=path(tmp_path / "link")).times(9).distinct("x"))
    same = [f"{tmp_path}/link/a", f"{tmp_path}/real/a", f"{tmp_path}/link/same"]

    assert len({str(charges(intent, call_of(x=text))) for text in same}) == 1
    assert charges(intent, call_of(x=same[0])) != charges(intent, call_of(x=f"{tmp_path}/link/b"))


def test_what_a_from_says_of_an_earlier_call_says_nothing_of_how_the_value_is_counted() -> None:
    said = any_ | from_(tool="order.read", field="id", where={"owner": eq("ann", fold="case")})
    intent = Intent("p", step("pay", x=said).times(9).distinct("x"))

    assert charges(intent, call_of(x="aB")) != charges(intent, call_of(x="Ab"))


@pytest.mark.control("3 one value has one counter")
@pytest.mark.parametrize(
    ("said", "same", "other"),
    [
        (path("/srv/data"), ["/srv/data/a", "/srv/data//a", "/srv/./data/a/"], "/srv/data/b"),
        (url(hosts=["a.test"]), ["https://a.test/x?q", "HTTPS://A.test:443/x?q", "https://a.test/x?q#part"],
         "https://a.test/x?r"),
        (url(hosts=["a.test"]), ["https://a.test", "https://a.test/#top"], "https://a.test/x"),
        (email(domains=["acme.com"]), ["ann@acme.com", "Ann@ACME.com"], "bob@acme.com"),
        (date(month=3), ["2027-03-31T10:00:00Z", "2027-03-31 12:00:00.000+02:00"], "2027-03-31T10:00:01Z"),
        (in_("now", fold="case") | date(month=3), ["2027-03-31T10:00Z", "2027-03-31 10:00Z"], "NOW"),
        (date(month=3), ["2027-03-31T10:00", "2027-03-31 10:00:00"], "2027-03-31"),
        (template("Pay {n} EUR to {to}", n=in_(5, 6), to=in_("ann", "bo", fold="case")),
         ["Pay 5 EUR to ann", "Pay 5.00 EUR to ANN"], "Pay 6 EUR to ann"),
        (template("See {a}", a=url(hosts=["a.test"])), ["See https://a.test", "See HTTPS://A.test/#b"],
         "See https://a.test/c"),
        (template("{a}", a=date(month=3)), ["2027-03-31T10:00Z", "2027-03-31 12:00+02:00"], "2027-03-31T10:01Z"),
        (date(min="0001-01-01"), ["0001-01-01T00:00:00+14:00"], "9999-12-31T23:59:59-14:00"),
    ],
)  # fmt: skip
def test_value_that_can_be_written_in_several_ways_has_one_counter(
    said: Constraint, same: list[str], other: str
) -> None:
    for intent in (
        Intent("p", step("pay", x=optional(said)).times(1, per=["x"])),
        Intent("p", step("pay", x=said | eq("none")).times(9).distinct("x")),
    ):
        assert all(admitted(intent, call_of(x=text)) for text in [*same, other])
        assert len({str(charges(intent, call_of(x=text))) for text in same}) == 1
        assert charges(intent, call_of(x=same[0])) != charges(intent, call_of(x=other))


def test_counter_of_a_secret_argument_does_not_show_it() -> None:
    intent = Intent("p", step("pay", pin=any_).times(1, per=["pin"]))

    assert "4711" not in str(charges(intent, call_of(spec_of(secret=frozenset({"pin"})), pin="4711")))


def test_text_that_is_not_nfc_has_no_counter_of_its_own() -> None:
    intent = Intent("p", step("pay", x=any_).times(1, per=["x"]))

    assert admitted(intent, call_of(x="caf\u00e9"))
    assert not admitted(intent, call_of(x="cafe\u0301"))


def test_total_charges_the_exact_amount_and_keeps_the_default_of_one_use() -> None:
    intent = Intent("p", step("pay", amount=at_most("100")).total(amount="150.00"))

    assert charges(intent, call_of(amount=0.1)) == {"pay#times": ("1", "1"), "pay#total.amount": ("150", "0.1")}


def test_named_step_names_its_counters() -> None:
    intent = Intent("p", step("pay", amount=any_).named("refund").times(9).total(amount=5))

    assert set(charges(intent, call_of(amount=1))) == {"refund#times", "refund#total.amount"}


@pytest.mark.parametrize("amount", [-1, "5", True, None, [5]])
def test_total_denies_what_is_not_a_number_of_at_least_0(amount: object) -> None:
    intent = Intent("p", step("pay", amount=any_).total(amount=50), step("pay", amount=any_).then_ask())

    assert options(intent, call_of(amount=amount)) == []
    assert miss(intent, call_of(amount=amount)).kind == "total"


def test_total_denies_a_missing_addend() -> None:
    assert not admitted(Intent("p", step("pay", amount=optional(at_most(5))).total(amount=50)), call_of())


def test_attempts_stand_on_the_option() -> None:
    verdict = check(Intent("p", step("pay").attempts(3)), call_of())

    assert isinstance(verdict, Admitted)
    assert verdict.options[0].attempts == 3


def test_ceiling_has_no_default_times() -> None:
    assert charges(Intent("p", step("pay")), call_of(), ceiling=True) == {}
    assert charges(Intent("p", step("pay", n=any_).total(n={"max": 5, "per": "1h"})), call_of(n=1), ceiling=True) == {
        "pay#total.n": ("5", "1")
    }


def test_ceiling_counts_in_a_window() -> None:
    intent = Intent("p", step("pay", n=any_).times(100, per="1h").total(n={"max": "1000", "per": "24h"}))

    verdict = compile_intent(intent, ceiling=True).check(call_of(n=5), Facts())

    assert isinstance(verdict, Admitted)
    assert [(charge.limit, charge.per) for charge in verdict.options[0].charges] == [("100", 3600.0), ("1000", 86400.0)]


def test_ceiling_refuses_budgets_without_a_window_and_parameters() -> None:
    text = """
version: 1
purpose: ceiling
params: {limit: decimal}
steps:
  - tool: pay
    args: {n: {min: 0, max: "${limit}"}}
    times: 5
    total: {n: 50}
"""
    intent = Intent.from_yaml(text, limit=5)

    with pytest.raises(ConfigurationError) as caught:
        compile_intent(intent, ceiling=True)

    assert len(caught.value.problems) == 3
    assert "{n: 5, per: 1h}" in str(caught.value)


def test_chain_methods_return_copies() -> None:
    plain = step("pay", n=between(1, 2))
    full = plain.named("x").times(2).total(n=5).attempts(2).then_ask()

    assert plain == step("pay", n=between(1, 2))
    assert full.args is plain.args
    assert full != plain
