"""agentguard, as its users have it: `@guarded` under LangChain's `@tool`, a local guard, and its audit log in files."""

from __future__ import annotations

import contextvars
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench.peers import work
from bench.peers.serving import serve
from bench.peers.work import ALLOWED, API, DENIED, SCOPE, Facts, Variant, look

work.count_disk_waits()

from langchain_core.tools import BaseTool, StructuredTool, tool  # noqa: E402
from opentelemetry import trace  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult  # noqa: E402

import agentguard  # noqa: E402
from agentguard import Denied, Guard, Intent, Task, current_credential, guarded, step  # noqa: E402
from agentguard.audit.verify import ChainBroken, verify  # noqa: E402

WITHOUT_SDK: Final = "WITHOUT_SDK"
_AT: Final[Mapping[str, Any]] = {"audience": API, "scopes": [SCOPE], "resource": "{table}"}


def _body(table: str) -> int:
    work.note(current_credential().token)
    return work.lookup(table)


@tool
@guarded("table.lookup", effect="read", lease="call", **_AT)
def lookup_own(table: str) -> int:
    """Count the rows of a table."""
    return _body(table)


@tool
@guarded("table.lookup_again", effect="read", **_AT)
def lookup_again(table: str) -> int:
    """Count the rows of a table."""
    return _body(table)


@tool
@guarded("table.touch", effect="write", lease="call", **_AT)
def touch(table: str) -> int:
    """Count the rows of a table, as a write: its record is on the disk before it runs."""
    return _body(table)


TOOLS: Final[Mapping[str, BaseTool]] = {"own credential": lookup_own, "task's credential": lookup_again, "write": touch}
NAMES: Final = ("table.lookup", "table.lookup_again", "table.touch")


class Counting(SpanExporter):
    """An exporter that does nothing but count."""

    def __init__(self) -> None:
        self.seen = 0

    def export(self, spans: Any) -> SpanExportResult:
        """Count the spans."""
        self.seen += len(spans)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is open."""


class Us:
    """One guard and one open task for all batches; nothing is emptied between them."""

    distributions = ("agentguard", "opentelemetry-sdk")

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.spans = folder, Counting()
        self.provider: TracerProvider | None = None
        self.stack = ExitStack()
        if os.environ.get(WITHOUT_SDK) != "1":
            self.provider = TracerProvider()
            self.provider.add_span_processor(BatchSpanProcessor(self.spans, max_queue_size=65_536))
            trace.set_tracer_provider(self.provider)
            self.stack.callback(self.provider.shutdown)
        guard = self.stack.enter_context(agentguard.local(audit=folder / "log"))
        self.stack.enter_context(_task(guard))

    def fresh(self) -> None:
        """Nothing grows with the calls."""

    def variants(self) -> Mapping[str, Variant]:
        """With a credential for each call, with the task's one, and as a write."""
        return {name: _variant(made) for name, made in TOOLS.items()}

    def facts(self, name: str) -> Facts:
        """What it does, seen from outside."""
        return contextvars.Context().run(self._facts, TOOLS[name])  # where no task is open yet

    def _facts(self, made: BaseTool) -> Facts:
        log = Path(tempfile.mkdtemp(dir=self.folder))
        variant, before = _variant(made), self._spans()
        with agentguard.local(audit=log) as guard:
            with _task(guard):
                allowed = look(log, variant.allowed)
                spans, credential = self._spans() - before, work.each_call()
                noted = list(work.tokens)
                denied = look(log, variant.denied, Denied)
                positional = _sees_positional(made)
            ended = guard.outstanding() == 0 and all(_revoked(guard, token) for token in noted)
        return Facts(
            credential=work.algorithm(noted[0]), each_call=credential, revoked="by itself" if ended else "never",
            audit="file" if allowed.bytes_written else "none",
            bytes_written=allowed.bytes_written, disk_waits=allowed.disk_waits,
            chain="file" if _notices(log) else "no", spans=spans // work.CALLS,
            arguments="yes" if positional else "keywords only",
            denial_recorded="file" if denied.bytes_written else "no",
            denied_tool_runs="yes" if denied.ran else "no", denied_by="the task's intent, by the argument",
        )  # fmt: skip

    def _spans(self) -> int:
        if self.provider is not None:
            self.provider.force_flush()
        return self.spans.seen

    def close(self) -> None:
        """End the task, close the guard and the provider."""
        self.stack.close()


def _task(guard: Guard) -> Task:
    steps = [step(name, table=ALLOWED["table"]).times(10**9) for name in NAMES]
    return guard.task("bot", on_behalf_of="alice", intent=Intent("Read tables", *steps), ttl=3600)


def _variant(made: BaseTool) -> Variant:
    return Variant(lambda: made.invoke(ALLOWED), lambda: made.invoke(DENIED), Denied)


def _sees_positional(made: BaseTool) -> bool:
    """Whether the same step lets the same call through when its argument has no name, and refuses the other."""
    assert isinstance(made, StructuredTool)
    assert made.func is not None
    body = made.func
    body(ALLOWED["table"])
    return work.refused(lambda: body(DENIED["table"]), Denied)


def _revoked(guard: Guard, token: str) -> bool:
    claims = work.claims(token)
    return guard.revoked(claims["iss"], claims["jti"])


def _notices(log: Path) -> bool:
    """Whether the log verifies as it is, and does not once a record says something else."""
    verify(log)
    (file,) = log.glob("audit-*.jsonl")
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace(ALLOWED["table"], "others", 1), encoding="utf-8")
    try:
        verify(log)
    except ChainBroken:
        return whole != file.read_text(encoding="utf-8")
    return False


if __name__ == "__main__":
    serve(Us)
