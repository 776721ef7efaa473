"""Which privileges a role gets: those that the configuration lists for the tool's resource and scopes, and no other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.credentials.postgres.grants import Grants, Privileges
from agentguard.errors import ConfigurationError, CredentialUnavailable
from agentguard.model.call import ToolSpec

FORM = {
    "table/invoices": {
        "billing.invoices": {"db:read": ["SELECT"], "db:write": ["UPDATE", "INSERT"]},
        "sequence:billing.numbers": {"db:write": ["USAGE"]},
    },
    "account/*": {"billing.accounts": {"db:read": ["SELECT"]}},
    "": {"public.Rates": {"db:read": ["SELECT"]}},
}
GRANTS = Grants(FORM)
INVOICES = Privileges("TABLE", "billing", "invoices", ("SELECT",))


def test_resource_and_scope_choose_the_privileges() -> None:
    assert GRANTS.of("table/invoices", ("db:read",), reads=True) == (INVOICES,)
    assert GRANTS.of("table/invoices", ("db:read", "db:write"), reads=False) == (
        Privileges("TABLE", "billing", "invoices", ("SELECT", "INSERT", "UPDATE")),
        Privileges("SEQUENCE", "billing", "numbers", ("USAGE",)),
    )


def test_tool_without_a_resource_has_an_entry_of_its_own() -> None:
    assert GRANTS.of("", ("db:read",), reads=True)[0].name == "Rates"


@pytest.mark.control("2 a table that is not listed is out of reach")
@pytest.mark.parametrize("resource", ["table/payroll", "table/*", "account/*/x", "account/", "account", "account/a/b"])
def test_resource_that_is_not_listed_gets_nothing(resource: str) -> None:
    with pytest.raises(CredentialUnavailable, match="no table is configured"):
        GRANTS.of(resource, ("db:read",), reads=True)


@given(st.text())
def test_no_value_of_a_model_reaches_another_entry(value: str) -> None:
    spec = ToolSpec(name="query", resource="account/{account}", audience="postgresql://db.test/app")
    try:
        found = GRANTS.of(spec.resource_of({"account": value}), ("db:read",), reads=True)
    except CredentialUnavailable:
        assert value == ""
    else:
        assert [item.name for item in found] == ["accounts"]


@given(st.text())
def test_a_value_that_names_the_table_is_a_choice_among_those_listed(value: str) -> None:
    spec = ToolSpec(name="query", resource="table/{table}", audience="postgresql://db.test/app")
    try:
        found = GRANTS.of(spec.resource_of({"table": value}), ("db:read",), reads=True)
    except CredentialUnavailable:
        assert value != "invoices"
    else:
        assert (value, found) == ("invoices", (INVOICES,))


@pytest.mark.parametrize("scopes", [(), ("db:admin",), ("db:read", "db:admin"), ("SELECT",)])
def test_scope_that_is_not_listed_gets_nothing(scopes: tuple[str, ...]) -> None:
    with pytest.raises(CredentialUnavailable, match="asks for the scopes"):
        GRANTS.of("table/invoices", scopes, reads=False)


@pytest.mark.control("2 a tool that reads gets no right to write")
def test_tool_that_declares_that_it_reads_gets_no_right_to_write() -> None:
    with pytest.raises(CredentialUnavailable, match="declare effect write"):
        GRANTS.of("table/invoices", ("db:read", "db:write"), reads=True)


def test_resource_that_fits_two_entries_gets_nothing() -> None:
    entry = {"billing.a": {"r": ["SELECT"]}}
    grants = Grants({"a/*": entry, "*/b": entry, "a/c": entry})
    assert grants.of("a/c", ("r",), reads=True)
    with pytest.raises(CredentialUnavailable, match=r"more than one entry of the grants: a/\*, \*/b"):
        grants.of("a/b", ("r",), reads=True)


@pytest.mark.parametrize(
    "form",
    [
        {},
        [],
        {"a": {}},
        {"a": ["billing.a"]},
        {"a": {"billing.a": {}}},
        {"a": {"billing.a": ["SELECT"]}},
        {"a": {"billing.a": {"r": "SELECT"}}},
        {"a": {"billing.a": {"r": []}}},
        {"a": {"billing.a": {"r": ["ALL"]}}},
        {"a": {"billing.a": {"r": ["select"]}}},
        {"a": {"billing.a": {"r": ["SELECT", "TRIGGER"]}}},
        {"a": {"sequence:billing.a": {"r": ["UPDATE"]}}},
        {"a": {"a": {"r": ["SELECT"]}}},
        {"a": {"db.billing.a": {"r": ["SELECT"]}}},
        {"a": {"billing.": {"r": ["SELECT"]}}},
        {"a": {"billing." + "a" * 64: {"r": ["SELECT"]}}},
        {"a": {"billing.a\0": {"r": ["SELECT"]}}},
        {"a*": {"billing.a": {"r": ["SELECT"]}}},
    ],
)
def test_wrong_form_is_refused_at_start(form: Any) -> None:
    with pytest.raises(ConfigurationError, match="grants"):
        Grants(form)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        Grants({"a": {"x": {"r": ["SELECT"]}, "s.t": {"r": ["DROP"]}}, "b*": {"s.t": {"r": ["SELECT"]}}})
    assert len(raised.value.problems) == 3
