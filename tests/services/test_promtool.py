"""Rules and queries, judged by Prometheus's own promtool."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.services import install
from tests.test_dashboards import ALERTS, DASHBOARDS, RULES, panels

VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$job": "desk", "$agent": "bot", "$tool": "refund"}


@pytest.fixture(scope="module")
def promtool() -> Path:
    """The real one; skips loudly where it cannot be had, and fails in `make test` and continuous integration."""
    try:
        return install.promtool()
    except install.NotInstalled as missing:
        if os.environ.get("CI") or os.environ.get("AGENTGUARD_SERVICES") == "required":
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))


def run(promtool: Path, *words: str | Path) -> tuple[int, str]:
    done = subprocess.run([promtool, *words], cwd=DASHBOARDS, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_rules_are_rules(promtool: Path) -> None:
    status, said = run(promtool, "check", "rules", "agentguard.rules.yaml")

    assert (status, f"{sum(len(group['rules']) for group in RULES['groups'])} rules found" in said) == (0, True), said


def test_every_alert_fires_and_stays_quiet_as_the_tests_of_the_rules_say(promtool: Path) -> None:
    status, said = run(promtool, "test", "rules", "agentguard.rules.test.yaml")

    assert status == 0, said


def test_the_tests_of_the_rules_miss_every_alert_that_is_not_there(promtool: Path, tmp_path: Path) -> None:
    recorded = [{**group, "rules": [rule for rule in group["rules"] if "record" in rule]} for group in RULES["groups"]]
    (tmp_path / "agentguard.rules.yaml").write_text(yaml.safe_dump({"groups": recorded}))
    shutil.copy(DASHBOARDS / "agentguard.rules.test.yaml", tmp_path)

    status, said = run(promtool, "test", "rules", tmp_path / "agentguard.rules.test.yaml")

    assert (status, [name for name in ALERTS if name not in said]) == (1, [])


def test_every_query_of_the_dashboard_parses(promtool: Path, tmp_path: Path) -> None:
    rules = []
    for number, (_, query) in enumerate(panels()):
        for variable, value in VARIABLES.items():
            query = query.replace(variable, value)
        rules.append({"record": f"panel:{number}", "expr": query})
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))

    status, said = run(promtool, "check", "rules", tmp_path / "panels.yaml")

    assert (status, f"{len(rules)} rules found" in said) == (0, True), said
