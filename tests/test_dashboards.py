"""Dashboards and rules ask only for what the registry says is measured, and the page shows what they ask."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentguard.cli.main import parser

ROOT = Path(__file__).parent.parent
DASHBOARDS = ROOT / "dashboards"
RULES = yaml.safe_load((DASHBOARDS / "agentguard.rules.yaml").read_text())
TESTS = yaml.safe_load((DASHBOARDS / "agentguard.rules.test.yaml").read_text())
GRAFANA = json.loads((DASHBOARDS / "grafana.json").read_text())
PAGE = ROOT / "docs" / "observability.md"
EVERY_RULE = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in EVERY_RULE if "alert" in rule}
RECORDED = {rule["record"]: rule for rule in EVERY_RULE if "record" in rule}
TARGETED = {"job", "instance"}  # labels that Prometheus itself, or the resource, puts on every series
SUFFIXES = {"s": "_seconds"}
WORDS = {"and", "or", "unless", "offset", "bool"}  # the other words stand before a list of labels
GROUPING = re.compile(r"\b(by|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
SELECTOR = re.compile(r"\b([a-zA-Z_:][\w:]*)\b(?!\s*\()(?:\s*\{([^}]*)\})?")


@dataclass(frozen=True)
class Asked:
    """What a query names: metrics with the labels of their selectors, and the labels it groups by."""

    selectors: tuple[tuple[str, frozenset[str]], ...]
    grouping: frozenset[str]


def translated(name: str) -> str:
    """A name of OpenTelemetry as Prometheus has it, by the compatibility specification."""
    return re.sub(r"[^a-zA-Z0-9_:]", "_", name)


@cache
def series() -> dict[str, set[str]]:
    """Every series that the registry and the recording rules make, with its labels."""
    registry = yaml.safe_load((ROOT / "semconv" / "agentguard.yaml").read_text())
    found: dict[str, set[str]] = {"ALERTS": {"alertname", "alertstate", *TARGETED}}
    for metric in registry["metrics"]:
        name = translated(metric["name"]) + SUFFIXES.get(metric["unit"], "")
        labels = {translated(attribute["ref"]) for attribute in metric["attributes"]} | TARGETED
        if metric["instrument"] == "histogram":
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            found[name + ("_total" if metric["instrument"] == "counter" else "")] = labels
    for name, rule in RECORDED.items():
        (_, kept), *_ = GROUPING.findall(rule["expr"])
        found[name] = set(re.findall(r"\w+", kept)) - {"le"}
    return found


def asked(query: str) -> Asked:
    bare = re.sub(r'"[^"]*"', '""', query)
    grouping = frozenset(label for _, labels in GROUPING.findall(bare) for label in re.findall(r"\w+", labels))
    selectors = SELECTOR.findall(re.sub(r"\[[^\]]*\]", "", GROUPING.sub(" ", bare)))
    return Asked(
        tuple(
            (name, frozenset(re.findall(r"(\w+)\s*[=!]", labels))) for name, labels in selectors if name not in WORDS
        ),
        grouping,
    )


def panels() -> Iterator[tuple[str, str]]:
    for panel in GRAFANA["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


QUERIES = [*((rule.get("alert") or rule["record"], rule["expr"]) for rule in EVERY_RULE), *panels()]


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=lambda value: value if len(value) < 60 else "")
def test_every_metric_and_label_of_a_query_is_in_the_registry(where: str, query: str) -> None:
    known, found = series(), asked(query)

    assert found.selectors
    for name, labels in found.selectors:
        assert name in known, f"{where}: {name}"
        assert labels <= known[name], f"{where}: {name} has no {sorted(labels - known[name])}"
    there = {label for name, _ in found.selectors for label in known[name]}
    assert found.grouping <= there, f"{where}: nothing has {sorted(found.grouping - there)}"


def test_a_metric_or_label_that_is_not_in_the_registry_is_seen() -> None:
    found = asked('sum by (user) (rate(agentguard_decisions_total{job="a", subject=~"b"}[5m]))')

    assert found == Asked((("agentguard_decisions_total", frozenset({"job", "subject"})),), frozenset({"user"}))
    assert not {"subject", "user"} & series()["agentguard_decisions_total"]


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_happened_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    said = rule["annotations"]

    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert set(said) == {"summary", "description", "runbook"}
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(said.values())))
    assert named <= {label for metric, _ in asked(rule["expr"]).selectors for label in series()[metric]}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_shown_to_fire_and_shown_to_stay_quiet(name: str) -> None:
    shown: list[bool] = []
    for test in TESTS["tests"]:
        shown += [bool(one.get("exp_alerts")) for one in test.get("alert_rule_test", ()) if one["alertname"] == name]
        mine = (one for one in test.get("promql_expr_test", ()) if f'alertname="{name}"' in one["expr"])
        shown += [bool(one.get("exp_samples")) for one in mine]
    quiet_beside = sum(1 for one in TESTS["tests"] if name in json.dumps(one) and len(one["input_series"]) > 1)

    assert True in shown
    assert False in shown or quiet_beside


def commands() -> set[str]:
    texts = [PAGE.read_text(), *(panel.get("description", "") for panel in GRAFANA["panels"])]
    texts += [panel["options"]["content"] for panel in GRAFANA["panels"] if panel["type"] == "text"]
    texts += [rule["annotations"]["runbook"] for rule in ALERTS.values()]
    found = {" ".join(one.split()) for text in texts for one in re.findall(r"`(agentguard [^`]+)`", text)}
    return {re.sub(r"\{\{[^}]*\}\}", "NAME", one) for one in found}


@pytest.mark.parametrize("command", sorted(commands()))
def test_a_command_that_is_recommended_exists(command: str) -> None:
    assert parser().parse_args(shlex.split(command)[1:]).run


def test_the_dashboard_can_be_imported_into_any_grafana() -> None:
    names = {variable["name"] for variable in GRAFANA["templating"]["list"]}
    ids = [panel["id"] for panel in GRAFANA["panels"]]

    assert (len(ids), "id" in GRAFANA) == (len(set(ids)), False)
    for panel in GRAFANA["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
            assert set(re.findall(r"\$([a-z]\w*)", target["expr"])) <= names


def test_no_panel_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in GRAFANA["panels"]:
        at: dict[str, Any] = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_tables_of_the_page_are_made_of_the_dashboard_and_the_rules() -> None:
    current = runpy.run_path(str(DASHBOARDS / "tables.py"))["current"]

    assert current(PAGE.read_text()) == PAGE.read_text(), "run: python dashboards/tables.py"
