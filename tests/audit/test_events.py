"""The schema of records: what the pipeline writes is valid, what is unknown is not, and the page says the same."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentguard.audit.events import EVENTS, record_schema
from agentguard.audit.log import FileLog
from agentguard.cli.main import main
from agentguard.model.record import Event
from tests.audit.samples import chained, only_file, record, records_in
from tests.audit.validity import problems, problems_of_record

ROOT = Path(__file__).parents[2]
EXAMPLES = ("delegation", "five_minutes", "payments_api", "two_services", "fastapi_service", "support_desk")


def recorded(module: str, file: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.audit.recorded_run", str(file), module]
    subprocess.run(command, cwd=ROOT, env=os.environ, check=True, capture_output=True, timeout=120)
    return records_in(file)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_record_of_the_examples_is_valid(name: str, tmp_path: Path) -> None:
    records = recorded(f"examples.{name}", tmp_path / "lines")

    assert {"task.opened", "task.ended"} <= {each["event"] for each in records}
    assert [] == [(each["event"], found) for each in records if (found := problems_of_record(each))]
    assert all(not problems(each) for each in records)


def test_records_of_a_log_itself_are_valid(tmp_path: Path) -> None:
    log = FileLog(tmp_path, max_bytes=4096)
    log.append(record(1, text="x" * 4096))
    log.append(record(2))
    log.close()
    own = [each for path in tmp_path.iterdir() for each in records_in(path) if each["event"].startswith("log.")]

    assert {"log.opened", "log.rotated", "log.closed"} == {each["event"] for each in own}
    assert [] == [found for each in own if (found := problems_of_record(each))]


def test_repaired_log_is_valid(tmp_path: Path) -> None:
    log = FileLog(tmp_path)
    log._segment.close()  # type: ignore[union-attr]  # as a killed process leaves it
    path = only_file(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"half":')
    FileLog.repair(path)

    assert [[], []] == [problems_of_record(each) for each in records_in(path)]


def test_every_event_code_has_a_shape_and_a_schema() -> None:
    assert {str(event) for event in Event} | {"call.unknown"} == {str(event) for event in EVENTS}
    assert {str(event) for event in EVENTS} < set(record_schema()["$defs"])


@pytest.mark.parametrize(
    "change",
    [{"v": 2}, {"event": "call.dreamt"}, {"more": "x"}, {"effect": "maybe"}, {"seq": 0}, {"time": "yesterday"},
     {"prev": "0"}, {"tool": None}],
)  # fmt: skip
def test_what_is_unknown_is_not_valid(change: dict[str, object]) -> None:
    (line,) = chained([record(1, Event.CALL_COMPLETED, task="t")])
    good = json.loads(line)
    assert [] == problems(good)

    assert problems({**good, **change})


def test_command_prints_the_schema_that_the_documents_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["schema", "record"])

    assert (ROOT / "docs" / "audit" / "record.schema.json").read_text("utf-8") == capsys.readouterr().out


def test_page_documents_every_event_as_the_code_has_it() -> None:
    spec = importlib.util.spec_from_file_location("audit_table", ROOT / "docs" / "audit" / "table.py")
    assert spec is not None
    assert spec.loader is not None
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    page = (ROOT / "docs" / "audit.md").read_text("utf-8")

    assert all(f"| `{event}` |" in page for event in EVENTS)
    assert table.current(page) == page
