"""ResumeTask: the task of a request's handover is open around the app, and ends with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentguard import Denied, Guard, current_task
from agentguard.errors import ConfigurationError
from agentguard.transports.asgi import ResumeTask
from tests.handing import guard_of, refund, refunds

around = pytest.mark.control("7 no request reaches the app without a handover")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def home() -> Iterator[Guard]:
    with guard_of("home", "far") as made:
        yield made


@pytest.fixture
def far() -> Iterator[Guard]:
    with guard_of("far", "home") as made:
        yield made


class App:
    """Does a refund, then streams; remembers what it saw."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.chains, self.headers, self.tasks = error, list[str](), list[Any](), list[Any]()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            self.chains.append("lifespan")
            return
        task = current_task()
        self.tasks.append(task)
        self.chains.append(task.chain.text())
        self.headers += scope["headers"]
        refund("acme", Decimal(1))
        if self.error is not None:
            raise self.error
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
            assert task.is_open()
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def ask(app: Any, *headers: tuple[str, str], kind: str = "http") -> tuple[int, Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": kind, "path": "/", "headers": [(name.encode(), value.encode()) for name, value in headers]}
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return (sent[0].get("status", sent[0].get("code", 0)), body) if sent else (0, b"")


def exported(home: Guard) -> str:
    with home.task("bot", on_behalf_of="alice", intent=refunds()) as task:
        return task.export("researcher", share="0.5")


@pytest.mark.anyio
async def test_app_runs_inside_the_task_which_ends_after_the_stream(home: Guard, far: Guard) -> None:
    app = App()
    token = exported(home)
    status, body = await ask(ResumeTask(app, far, agent="researcher"), ("Txn-Token", token), ("X-Other", "1"))
    assert (status, body) == (200, b"xxx")
    assert app.chains == ["user:alice > bot > researcher"]
    assert app.headers == [(b"X-Other", b"1")]
    assert app.tasks[0].state == "ended"


@around
@pytest.mark.anyio
async def test_requests_without_a_good_handover_are_answered_with_clear_json(home: Guard, far: Guard) -> None:
    app, token = App(), exported(home)
    guarded_app = ResumeTask(app, far, agent="researcher")
    assert (await ask(guarded_app))[0] == 401
    assert (await ask(guarded_app, ("Txn-Token", token), ("Txn-Token", token)))[0] == 400
    status, body = await ask(guarded_app, ("Txn-Token", token[:-4] + "AAAA"))
    assert status == 401
    assert json.loads(body)["error"] == "invalid_token"
    assert (await ask(ResumeTask(app, far, agent="other"), ("Txn-Token", token)))[0] == 401
    far.suspend(agent="bot", why="test")
    status, body = await ask(guarded_app, ("Txn-Token", token))
    assert (status, json.loads(body)["error"]) == (403, "suspended")
    far.lift("agent:bot")
    assert not app.chains
    assert (await ask(guarded_app, ("Txn-Token", token)))[0] == 200
    status, body = await ask(guarded_app, ("Txn-Token", token))
    assert (status, "redeemed" in json.loads(body)["error_description"]) == (401, True)


@pytest.mark.anyio
@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyError("x")])
async def test_exception_of_the_app_passes_and_ends_the_task(home: Guard, far: Guard, error: Exception) -> None:
    app = App(error)
    with pytest.raises(type(error)):
        await ask(ResumeTask(app, far, agent="researcher"), ("Txn-Token", exported(home)))
    assert app.tasks[0].state == "ended"


@pytest.mark.anyio
async def test_client_that_goes_away_ends_the_task(home: Guard, far: Guard) -> None:
    started, tasks = anyio.Event(), []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(current_task())
        started.set()
        await anyio.sleep(60)

    token = exported(home)
    async with anyio.create_task_group() as group:
        group.start_soon(ask, ResumeTask(endless, far, agent="researcher"), ("Txn-Token", token))
        await started.wait()
        group.cancel_scope.cancel()
    assert tasks[0].state == "ended"
    with pytest.raises(Denied):
        current_task()


@pytest.mark.anyio
async def test_websockets_are_refused_lifespan_passes_and_others_are_an_error(far: Guard) -> None:
    app = App()
    guarded_app = ResumeTask(app, far, agent="researcher")
    assert (await ask(guarded_app, kind="websocket"))[0] == 1008
    await ask(guarded_app, kind="lifespan")
    assert app.chains == ["lifespan"]
    with pytest.raises(ConfigurationError):
        await ask(guarded_app, kind="mqtt")


def test_trusted_names_peers(far: Guard) -> None:
    with pytest.raises(ConfigurationError, match="stranger"):
        ResumeTask(App(), far, agent="researcher", trusted=["stranger"])
    with guard_of("home") as none, pytest.raises(ConfigurationError, match="peers"):
        ResumeTask(App(), none, agent="researcher")


@pytest.mark.control("7 a stranger's trace is linked, not continued")
@pytest.mark.parametrize("trusted", [(), ("home",)])
def test_traces_of_trusted_peers_go_on_and_others_are_linked(
    home: Guard, far: Guard, trusted: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    token = exported(home)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    app = ResumeTask(App(), far, agent="researcher", trusted=trusted)
    anyio.run(lambda: ask(app, ("Txn-Token", token), ("traceparent", PARENT)))
    provider.shutdown()
    spans = {span.name.split(" ")[0]: span for span in exporter.get_finished_spans()}
    arrived, remote = spans["resume"], 0x0AF7651916CD43DD8448EB211C80319C
    assert (arrived.context.trace_id == remote) is bool(trusted)
    assert [link.context.trace_id for link in arrived.links] == ([] if trusted else [remote])
    assert spans["invoke_agent"].context.trace_id == arrived.context.trace_id
