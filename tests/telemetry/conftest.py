from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.decision import Decision, Miss, Outcome, Reason
from agentguard.model.lease import Lease, LeaseKey
from agentguard.model.principal import Agent, Chain, Proof, Subject
from agentguard.telemetry.spans import Attributes, CallSpan, start_call, task_attributes, tool_attributes
from tests.telemetry.backend import Backend

SEMCONV = Path(__file__).resolve().parents[2] / "semconv" / "agentguard.yaml"
KINDS = {"string": str, "int": int, "boolean": bool, "double": float, "string[]": tuple}


@dataclass
class Traced:
    """A provider of its own, and what it exported."""

    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    provider: TracerProvider = field(default_factory=TracerProvider)

    def __post_init__(self) -> None:
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def only(self) -> ReadableSpan:
        (span,) = self.exporter.get_finished_spans()
        return span

    def tracer(self) -> Any:
        return self.provider.get_tracer("test")


@pytest.fixture
def traced() -> Iterator[Traced]:
    traced = Traced()
    yield traced
    traced.provider.shutdown()


@pytest.fixture
def spec() -> ToolSpec:
    return ToolSpec(name="refund.create", effect=Effect.WRITE, audience="https://payments.test", scopes=("a:w", "a:r"))


@pytest.fixture
def chain() -> Chain:
    agents = tuple(Agent(name, proof=Proof.VERIFIED) for name in ("support-bot", "researcher"))
    return Chain(Subject("alice@bank.test", "https://idp.test", proof=Proof.VERIFIED), agents)


@pytest.fixture
def task(chain: Chain) -> Attributes:
    return task_attributes(chain, "task_77", "refund-ticket", "s256:uM3k", "hmac-sha256:4be1c0ffee99", "support-bot")


@pytest.fixture
def lease(spec: ToolSpec) -> Lease:
    key = LeaseKey("", "user:alice", "task_77", ("support-bot",), spec.name, spec.audience, spec.scopes, "")
    return Lease(id="jti-1", issuer="local", key=key, task="task_77", issued_at=1000.0, expires_at=1030.0,
                 fingerprint="f1f2f3f4f5f6f7f8")  # fmt: skip


@pytest.fixture
def begin(traced: Traced, spec: ToolSpec, task: Attributes) -> Callable[[], CallSpan]:
    """Begin a guarded call's span, as the guard does."""
    call = ToolCall(id="c1", spec=spec, arguments={}, given=frozenset(), digest="d", call_id="call_2")

    def begin() -> CallSpan:
        return start_call(spec.name, task, tool_attributes(spec), call, "hmac-sha256:b7e4", provider=traced.provider)

    return begin


@pytest.fixture
def permit() -> Decision:
    return Decision(
        outcome=Outcome.PERMIT, reason=Reason.DECLARED, tool="refund.create", steps=("root", "refund"), id="a1:17"
    )


@pytest.fixture
def deny() -> Callable[[Reason], Decision]:
    """A denial whose nearest miss holds a value, which no span may show."""
    miss = Miss(step="refund", argument="account", kind="eq", text='account must be "acme-secret"')

    def deny(reason: Reason) -> Decision:
        return Decision(
            outcome=Outcome.DENY, reason=reason, tool="refund.create", level="researcher", miss=miss, id="a1:18"
        )

    return deny


@pytest.fixture(scope="session")
def source() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(SEMCONV.read_text("utf-8"))
    return loaded


@pytest.fixture
def conforms(source: dict[str, Any]) -> Callable[[ReadableSpan, str], None]:
    """Hold an emitted span against the YAML: known names, types, enums, required ones."""
    defined = {attribute["key"]: attribute for attribute in source["attributes"]}
    carried = {span["type"]: {a["ref"]: a["requirement_level"] for a in span["attributes"]} for span in source["spans"]}

    def conforms(span: ReadableSpan, kind: str) -> None:
        given, allowed = dict(span.attributes or {}), carried[kind]
        assert set() == set(given) - set(allowed), "not in the YAML"
        assert set() == {key for key, level in allowed.items() if level == "required"} - set(given), "missing"
        for key in set(given) & set(defined):
            fits(defined[key], given[key])

    return conforms


def fits(attribute: dict[str, Any], value: object) -> None:
    """Hold a value against the type of its attribute."""
    kind = attribute["type"]
    if isinstance(kind, dict):
        assert value in [member["value"] for member in kind["members"]], attribute["key"]
    else:
        assert KINDS[kind] is type(value), attribute["key"]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """A back end that the application has set, for spans, metrics and events."""
    made = Backend().stand_for_all(monkeypatch)
    yield made
    made.close()
