"""ToolSpec: a wrong declaration is an error at once, and says what to write."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.errors import ConfigurationError
from agentguard.model.call import Effect, ToolSpec

control = pytest.mark.control("5 a credential is for one origin")
TAKES = frozenset({"account", "token"})

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": "Refund"}, "@guarded"),
    ({"name": "refund create"}, "words of a-z"),
    ({"name": "refund\n"}, "words of a-z"),
    ({"name": "refund."}, "words of a-z"),
    ({"name": "r\u0435fund"}, "words of a-z"),
    ({"name": ""}, "words of a-z"),
    ({"audience": "http://api.test"}, "only on loopback"),
    ({"audience": "api.test"}, "https://api.example.com"),
    ({"audience": "https://user:pw@api.test"}, "user"),
    ({"audience": "https://api.test/?a=1"}, "query"),
    ({"audience": "https://api.test/#x"}, "fragment"),
    ({"audience": "https://"}, "user, query or fragment"),
    ({"audience": "ftp://api.test"}, "https://api.example.com"),
    ({"audience": "https://[api.test"}, "https://api.example.com"),
    ({"audience": "https://api.test:99999"}, "https://api.example.com"),
    ({"scopes": ("a",)}, "audience"),
    ({"lease": "forever"}, "'task' or 'call'"),
    ({"resource": "account/{acount}"}, "acount"),
    ({"record": ("amount",)}, "amount"),
    ({"secret": frozenset({"password"})}, "password"),
    ({"record": ("token",), "secret": frozenset({"token"})}, "secret hides it"),
    ({"resource": "key/{token}", "secret": frozenset({"token"})}, "resource shows 'token' in clear"),
]


@control
@pytest.mark.parametrize(("fields", "text"), WRONG, ids=repr)
def test_wrong_declaration_is_refused_and_says_what_to_write(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        ToolSpec(**{"name": "refund", "parameters": TAKES, **fields})
    assert text in str(refused.value)


@pytest.mark.parametrize("audience", ["", "https://api.test", "https://api.test:8443/v1", "http://127.0.0.1:8080",
                                      "http://[::1]", "http://localhost"])  # fmt: skip
def test_origin_of_an_api_is_an_audience(audience: str) -> None:
    assert ToolSpec(name="pay", audience=audience).audience == audience


@pytest.mark.parametrize(
    ("effect", "lease", "single"),
    [("read", "", False), ("write", "", False), ("destructive", "", True), ("destructive", "task", False),
     ("read", "call", True)],
)  # fmt: skip
def test_destructive_tool_gets_a_single_use_credential_unless_it_says_otherwise(
    effect: str, lease: Any, single: bool
) -> None:
    assert ToolSpec(name="pay", effect=Effect(effect), lease=lease).single_use is single


@pytest.mark.control("1 no record, no action")
@pytest.mark.parametrize(
    ("effect", "data", "waits"),
    [("read", (), False), ("read", ("pii",), True), ("write", (), True), ("destructive", (), True)],
)
def test_write_and_read_of_classified_data_wait_for_the_disk(effect: str, data: Any, waits: bool) -> None:
    assert ToolSpec(name="pay", effect=Effect(effect), data=frozenset(data)).waits_for_disk is waits


@pytest.mark.control("3 a credential is for one resource")
@given(st.text())
def test_argument_in_a_resource_stays_one_segment_and_can_be_read_back(text: str) -> None:
    spec = ToolSpec(name="pay", resource="account/{account}/x", parameters=TAKES)
    try:
        resource = spec.resource_of({"account": text})
    except UnicodeEncodeError:  # a lone surrogate
        return
    head, segment, tail = resource.split("/")
    assert (head, unquote(segment), tail) == ("account", text, "x")
    assert not set(segment) & set("?#& {}")


def test_other_values_in_a_resource_have_one_text() -> None:
    spec = ToolSpec(name="pay", resource="{account}", parameters=TAKES)
    values: list[Any] = [Decimal("1.00"), True, None, ("a",), {"a": "b"}]
    assert [spec.resource_of({"account": value}) for value in values] == ["1", "true", "-", "-", "-"]
    assert spec.resource_of({}) == "-"


def test_declarations_are_equal_whatever_their_defaults_are() -> None:
    spec = ToolSpec(name="pay", defaults={"limit": Decimal(5)})

    assert spec == ToolSpec(name="pay")
    assert hash(spec) == hash(ToolSpec(name="pay"))
    assert spec != ToolSpec(name="pay", effect=Effect.READ)
    assert spec != "pay"


def test_declaration_does_not_change() -> None:
    with pytest.raises(AttributeError):
        ToolSpec(name="pay").effect = Effect.READ  # type: ignore[misc]  # that it is refused is the test
