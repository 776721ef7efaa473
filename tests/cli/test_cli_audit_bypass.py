"""`agentguard audit bypass`: real calls pass, what went past the guard is found, in every form that exporters write."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentguard import Denied, Guard
from agentguard.audit import span_file
from agentguard.audit.log import FileLog
from agentguard.cli.main import main
from agentguard.model.record import Event, Record
from agentguard.testing import fake_guard
from tests.tools import everything, pay, refund

Captured = pytest.CaptureFixture[str]
bypass = pytest.mark.control("the bypass detector")


class Run:
    """A guarded run with its log and its spans."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.memory, self.printed = folder, InMemorySpanExporter(), io.StringIO()
        self.provider = TracerProvider(resource=Resource({"service.name": "desk"}))
        self.provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=self.printed)))
        self.tracer = self.provider.get_tracer("framework")

    def guard(self) -> Guard:
        return fake_guard(audit=FileLog(self.folder / "audit"))

    def traces(self, form: str) -> Path:
        path = self.folder / f"{form}.json"
        spans = self.memory.get_finished_spans()
        if form == "console":
            path.write_text(f"server started\n{self.printed.getvalue()}done {{\n")
        elif form == "console lines":
            path.write_text("\n".join(json.dumps(json.loads(span.to_json())) for span in spans))
        elif form == "otlp":
            path.write_text(json.dumps(otlp(spans), indent=1))
        else:
            path.write_text("".join(json.dumps(otlp([span])) + "\n" for span in spans))
        return path

    def check(self, form: str = "otlp", *more: str) -> int:
        return main(["audit", "bypass", str(self.folder / "audit"), "--traces", str(self.traces(form)), *more])


def any_value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, tuple | list):
        return {"arrayValue": {"values": [any_value(item) for item in value]}}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def pairs(attributes: Any) -> list[dict[str, Any]]:
    return [{"key": key, "value": any_value(value)} for key, value in attributes.items()]


def otlp(spans: Any) -> dict[str, Any]:
    def one(span: ReadableSpan) -> dict[str, Any]:
        context: Any = span.context
        return {
            "traceId": f"{context.trace_id:032x}", "spanId": f"{context.span_id:016x}", "name": span.name,
            "parentSpanId": f"{span.parent.span_id:016x}" if span.parent else "", "kind": 1,
            "startTimeUnixNano": str(span.start_time), "endTimeUnixNano": str(span.end_time),
            "attributes": pairs(span.attributes),
        }  # fmt: skip

    resource = {"attributes": pairs({"service.name": "desk"})}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [one(span) for span in spans]}]}]}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    made = Run(tmp_path)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: made.provider)
    yield made
    made.provider.shutdown()


def guarded_calls(run: Run) -> None:
    with run.guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")
        with pytest.raises(Denied):
            refund("evil", Decimal(5))
        with run.tracer.start_as_current_span("execute_tool pay", attributes=tool("pay")):
            with run.tracer.start_as_current_span("its wrapper"):
                pay("acme")


def tool(name: str) -> dict[str, str]:
    return {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}


FORMS = ("otlp", "otlp lines", "console", "console lines")


@pytest.mark.parametrize("form", FORMS)
def test_guarded_calls_are_no_findings(form: str, run: Run, capsys: Captured) -> None:
    guarded_calls(run)
    assert 0 == run.check(form)
    # A framework's span of a call that is guarded below it has the decision of that one.
    assert "ok: 4 tool calls in 6 spans" in capsys.readouterr().out


@bypass
@pytest.mark.parametrize("form", FORMS)
def test_tool_call_that_no_guard_decided_about_is_found(form: str, run: Run, capsys: Captured) -> None:
    guarded_calls(run)
    run.tracer.start_span("execute_tool wire", attributes=tool("wire.money")).end()
    assert 1 == run.check(form, "--json")
    said = json.loads(capsys.readouterr().out)
    [found] = said["findings"]
    assert ("no_decision", "wire.money", "desk") == (found["kind"], found["what"], found["service"])
    assert (False, 5) == (said["ok"], said["tools"])


@bypass
@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("execute_tool wire", {}),
        ("tools/call wire", tool("wire")),
        ("wire", {"openinference.span.kind": "TOOL", "tool.name": "wire"}),
    ],
)
def test_spans_of_tools_are_known_in_every_convention(
    name: str, attributes: dict[str, str], run: Run, capsys: Captured
) -> None:
    guarded_calls(run)
    run.tracer.start_span(name, attributes=attributes).end()
    assert 1 == run.check()
    assert "no_decision           wire" in capsys.readouterr().out


@bypass
def test_unguarded_tool_is_not_covered_by_another_guarded_one_inside_or_around_it(run: Run, capsys: Captured) -> None:
    with run.guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        with run.tracer.start_as_current_span("execute_tool outer", attributes=tool("outer")):
            pay("acme")
        with run.tracer.start_as_current_span("execute_tool pay", attributes=tool("pay")):
            run.tracer.start_span("execute_tool pay", attributes=tool("pay")).end()
    assert 1 == run.check("otlp", "--json")
    found = json.loads(capsys.readouterr().out)["findings"]
    assert ["outer", "pay", "pay"] == sorted(each["what"] for each in found)


@bypass
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"agentguard.decision.id": f"{'a' * 32}:7"}, "decision_not_in_log"),
        ({"agentguard.decision.id": ["a", "b"]}, "decision_not_in_log"),
        ({"gen_ai.tool.name": "other"}, "other_decision"),
        ({"agentguard.decision.outcome": "deny"}, "other_decision"),
        ({}, "each call has its own"),
    ],
)
def test_span_that_says_something_else_than_the_log_is_found(
    change: dict[str, Any], kind: str, run: Run, capsys: Captured
) -> None:
    with run.guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        pay("acme")
    [real] = [span for span in run.memory.get_finished_spans() if span.name == "execute_tool pay"]
    run.tracer.start_span(real.name, attributes={**(real.attributes or {}), **change}).end()
    assert 1 == run.check()
    assert kind in capsys.readouterr().out


@bypass
@pytest.mark.parametrize("attribute", ["agentguard.credential.id", "jti", "api.token_id"])
def test_credential_that_was_used_after_its_release_is_found(attribute: str, run: Run, capsys: Captured) -> None:
    leases: list[str] = []
    with run.guard() as guard, guard.task("bot", on_behalf_of="alice", intent=everything()):
        leases.append(pay("acme"))
        run.tracer.start_span("GET /refunds", attributes={attribute: leases[0]}).end()
    released = max(span.end_time or 0 for span in run.memory.get_finished_spans())
    late = run.tracer.start_span("GET /refunds", attributes={attribute: leases[0]}, start_time=released + 3 * 10**9)
    late.end()
    assert 1 == run.check("otlp", "--credential", "api.token_id", "--json")
    [found] = json.loads(capsys.readouterr().out)["findings"]
    assert ("used_after_release", leases[0]) == (found["kind"], found["what"])
    assert 0 == run.check("otlp", "--credential", "api.token_id", "--skew", "5s")


@bypass
@pytest.mark.parametrize("used", ["l1", "j1"])
def test_credential_that_another_process_revoked_is_found_in_whatever_order_their_logs_are_read(
    used: str, run: Run, capsys: Captured
) -> None:
    now = iter(range(1_795_300_000 * 10**9, 1_795_400_000 * 10**9, 10**9)).__next__
    watcher, worker = FileLog(run.folder / "audit", clock=now), FileLog(run.folder / "audit", clock=now)
    worker.append(Record(Event.CREDENTIAL_ISSUED, {"lease": "l1", "task": "t", "jti": "j1"}))
    watcher.append(Record(Event.CREDENTIAL_REVOKED, {"lease": "l1", "task": "t", "why": "recovered"}))
    run.tracer.start_span("GET /refunds", attributes={"jti": used}, start_time=1_795_400_000 * 10**9).end()
    assert 1 == run.check("otlp", "--json")
    assert [used] == [each["what"] for each in json.loads(capsys.readouterr().out)["findings"]]


def test_span_that_was_exported_twice_is_one(run: Run) -> None:
    guarded_calls(run)
    again = ["--traces", str(run.traces("console"))]
    assert 0 == run.check("otlp", *again)


def test_traces_that_hold_nothing_prove_nothing(run: Run, capsys: Captured) -> None:
    guarded_calls(run)
    empty = run.folder / "empty.json"
    empty.write_text('a log line\n{"no": "span"}\n{ broken\n')
    assert 2 == main(["audit", "bypass", str(run.folder / "audit"), "--traces", str(empty)])
    said = capsys.readouterr().err
    assert "1 part of the traces could not be read" in said
    assert "nothing was compared" in said


def test_broken_log_proves_nothing(run: Run, capsys: Captured) -> None:
    guarded_calls(run)
    [file] = (run.folder / "audit").glob("audit-*.jsonl")
    file.write_bytes(file.read_bytes().replace(b"alice", b"alicf").replace(b'"permit"', b'"permiT"', 1))
    assert 2 == run.check()
    assert "BROKEN at record" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda span: span.update(traceId="zz"),
        lambda span: span.update(startTimeUnixNano="soon"),
        lambda span: span.pop("spanId"),
        lambda span: span.update(attributes=[{"value": 1}]),
        lambda span: span.update(attributes=7),
        lambda span: span.update(startTimeUnixNano="9" * 30),
        lambda span: span.update(startTimeUnixNano="-1"),
        lambda span: span.update(endTimeUnixNano=str(1 << 64)),
    ],
)
def test_span_that_cannot_be_read_is_counted_and_the_others_are_read(
    damage: Callable[[Any], Any], run: Run, capsys: Captured
) -> None:
    guarded_calls(run)
    tree = otlp(run.memory.get_finished_spans())
    damage(tree["resourceSpans"][0]["scopeSpans"][0]["spans"][0])
    path = run.folder / "damaged.json"
    path.write_text(json.dumps(tree))
    assert 0 == main(["audit", "bypass", str(run.folder / "audit"), "--traces", str(path)])
    said = capsys.readouterr()
    assert "1 part of the traces" in said.err
    assert "in 5 spans" in said.out


def renamed(holder: dict[str, Any], name: str, other: str) -> None:
    holder[other] = holder.pop(name)


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: renamed(tree, "resourceSpans", "resource_spans"),
        lambda tree: renamed(tree["resourceSpans"][0], "scopeSpans", "instrumentationLibrarySpans"),
        lambda tree: renamed(tree["resourceSpans"][0]["scopeSpans"][0], "spans", "span"),
        lambda tree: tree["resourceSpans"][0].update(scopeSpans={}),
        lambda tree: tree["resourceSpans"][0]["scopeSpans"].append(7),
        lambda tree: tree["resourceSpans"].append(None),
    ],
)
def test_form_of_otlp_that_is_not_known_is_counted(damage: Callable[[Any], Any], run: Run, capsys: Captured) -> None:
    guarded_calls(run)
    tree = otlp(run.memory.get_finished_spans())
    damage(tree)
    path = run.folder / "other.json"
    path.write_text(json.dumps(tree))
    assert 0 == run.check("otlp", "--traces", str(path))
    assert "1 part of the traces could not be read" in capsys.readouterr().err


def test_traces_beyond_all_bounds_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    guarded_calls(run)
    monkeypatch.setattr(span_file, "MAX_SPANS", 3)
    assert 2 == run.check()
    monkeypatch.setattr(span_file, "MAX_BYTES", 10)
    assert 2 == run.check()
    assert "split it by time" in capsys.readouterr().err


def test_span_that_names_itself_as_its_parent_ends_the_walk(run: Run) -> None:
    guarded_calls(run)
    tree = otlp(run.memory.get_finished_spans())
    for span in tree["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        span["parentSpanId"] = span["spanId"]
    path = run.folder / "loop.json"
    path.write_text(json.dumps(tree))
    assert 1 == main(["audit", "bypass", str(run.folder / "audit"), "--traces", str(path)])
