from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.identity.spiffe_id import spiffe_id_problem, trust_domain_of

DOMAINS = st.from_regex(r"[a-z0-9._-]{1,255}", fullmatch=True)
SEGMENTS = st.from_regex(r"[A-Za-z0-9._-]{1,30}", fullmatch=True).filter(lambda one: one not in (".", ".."))
IDS = st.builds(
    lambda domain, path: f"spiffe://{domain}/{'/'.join(path)}", DOMAINS, st.lists(SEGMENTS, min_size=1, max_size=8)
)


@given(IDS)
def test_every_id_that_the_grammar_makes_is_one(spiffe_id: str) -> None:
    assert spiffe_id_problem(spiffe_id) == ""
    assert spiffe_id.startswith(f"spiffe://{trust_domain_of(spiffe_id)}/")


@given(IDS, st.text(max_size=8), st.integers(min_value=0), st.integers(min_value=0, max_value=4))
def test_case_71_what_is_changed_into_no_id_is_refused(spiffe_id: str, other: str, place: int, cut: int) -> None:
    at = place % (len(spiffe_id) + 1)
    changed = spiffe_id[:at] + other + spiffe_id[at + cut :]
    strict = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._-]+)+")
    fits = strict.fullmatch(changed) is not None and len(changed) <= 2048

    assert (spiffe_id_problem(changed) == "") == fits


@given(st.one_of(st.text(), st.none(), st.integers(), st.binary(), st.lists(st.text())))
def test_case_71_anything_else_is_told_what_is_wrong_and_nothing_is_raised(value: object) -> None:
    problem = spiffe_id_problem(value)

    assert problem == "" or problem[0].islower()


@pytest.mark.parametrize(
    ("spiffe_id", "why"),
    [
        ("", "begins with"),
        ("SPIFFE://bank.test/a", "begins with"),
        ("https://bank.test/a", "begins with"),
        ("spiffe:/bank.test/a", "begins with"),
        ("spiffe:///a", "trust domain"),
        ("spiffe://Bank.test/a", "trust domain"),
        ("spiffe://user@bank.test/a", "trust domain"),
        ("spiffe://bank.test:8080/a", "trust domain"),
        ("spiffe://b\u00e4nk.test/a", "trust domain"),
        ("spiffe://" + "a" * 256 + "/a", "255"),
        ("spiffe://bank.test", "names a trust domain"),
        ("spiffe://bank.test/", "empty segment"),
        ("spiffe://bank.test/a/", "empty segment"),
        ("spiffe://bank.test/a//b", "empty segment"),
        ("spiffe://bank.test/a/../b", r"\. or \.\."),
        ("spiffe://bank.test/.", r"\. or \.\."),
        ("spiffe://bank.test/a%2fb", "escapes"),
        ("spiffe://bank.test/a?b", "query"),
        ("spiffe://bank.test/a#b", "fragment"),
        ("spiffe://bank.test/a\n", "path takes"),
        ("spiffe://bank.test/" + "a" * 2048, "2048"),
    ],
)
def test_an_id_is_taken_strictly(spiffe_id: str, why: str) -> None:
    assert re.search(why, spiffe_id_problem(spiffe_id))
