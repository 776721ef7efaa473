from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from agentguard.model.call import Effect
from agentguard.model.decision import Outcome, Reason
from agentguard.model.lease import LeaseState
from agentguard.model.record import Event
from agentguard.ports import Answer
from agentguard.telemetry import semconv

DOCS = Path(__file__).resolve().parents[2] / "docs"


ROOT = DOCS.parent


def constants() -> dict[str, str]:
    return {name: value for name, value in vars(semconv).items() if isinstance(value, str) and name.isupper()}


def carriers(source: dict[str, Any]) -> list[dict[str, Any]]:
    return [*source["spans"], *source["metrics"], *source["events"]]


def values_of(source: dict[str, Any], key: str) -> set[str]:
    (attribute,) = [attribute for attribute in source["attributes"] if attribute["key"] == key]
    return {member["value"] for member in attribute["type"]["members"]}


def test_the_module_of_constants_is_current(source: dict[str, Any]) -> None:
    script = runpy.run_path(str(ROOT / "semconv" / "constants.py"))

    assert script["module"](source) == script["MODULE"].read_text("utf-8"), "run: python semconv/constants.py"


def test_the_constants_are_the_names_of_the_yaml(source: dict[str, Any]) -> None:
    expected = {key.upper().replace(".", "_"): key for key in (a["key"] for a in source["attributes"])}

    assert expected == {name: value for name, value in constants().items() if name.startswith("AGENTGUARD_")}


def test_no_name_is_the_namespace_of_another(source: dict[str, Any]) -> None:
    names = {a["key"] for a in source["attributes"]} | {a["ref"] for s in carriers(source) for a in s["attributes"]}

    assert set() == {name for name in names if any(other.startswith(f"{name}.") for other in names)}


def test_every_attribute_has_a_type_a_brief_and_an_example_and_is_carried(source: dict[str, Any]) -> None:
    carried = {attribute["ref"] for carrier in carriers(source) for attribute in carrier["attributes"]}

    for attribute in source["attributes"]:
        assert all(attribute[part] for part in ("type", "brief", "examples")), attribute["key"]
        assert attribute["key"] in carried


def test_every_name_that_is_carried_is_a_constant_and_ours_are_defined(source: dict[str, Any]) -> None:
    carried = {attribute["ref"] for carrier in carriers(source) for attribute in carrier["attributes"]}
    ours = {name for name in carried if name.startswith("agentguard.")}

    assert set() == carried - set(constants().values())
    assert set() == ours - {attribute["key"] for attribute in source["attributes"]}


def test_a_level_is_a_word_or_one_condition(source: dict[str, Any]) -> None:
    levels = [attribute["requirement_level"] for carrier in carriers(source) for attribute in carrier["attributes"]]

    assert {"required", "recommended", "opt_in"} >= {level for level in levels if isinstance(level, str)}
    assert all(list(level) == ["conditionally_required"] for level in levels if not isinstance(level, str))


def test_every_event_is_named_after_the_code_of_the_record_that_it_copies(source: dict[str, Any]) -> None:
    assert {event["name"].removeprefix("agentguard.") for event in source["events"]} <= set(Event)


def test_the_enums_are_those_of_the_model(source: dict[str, Any]) -> None:
    assert set(Outcome) == values_of(source, semconv.AGENTGUARD_DECISION_OUTCOME)
    assert set(Reason) == values_of(source, semconv.AGENTGUARD_DECISION_REASON)
    assert set(Effect) == values_of(source, semconv.AGENTGUARD_TOOL_EFFECT)
    assert {*Answer, "expired"} == values_of(source, semconv.AGENTGUARD_APPROVAL_ANSWER)
    assert {*LeaseState, "failed"} == values_of(source, semconv.AGENTGUARD_CREDENTIAL_REVOCATION_STATUS)


def test_the_tables_of_the_pages_are_current() -> None:
    script = runpy.run_path(str(DOCS / "traces_table.py"))
    for page, tables in script["PAGES"].items():
        text = page.read_text("utf-8")

        assert script["current"](text, tables) == text, "run: python docs/traces_table.py"
