"""The story, from the ticket to the trace: who asked, what was tried, what was decided, and what is left."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.tools import BaseTool
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import agentguard
from agentguard.audit.tally import Verified
from agentguard.audit.verify import ChainBroken, verify
from agentguard.explanation import Recalled
from agentguard.resource_server import TokenVerifier
from agentguard_langchain import GuardMiddleware, agent_tool
from examples.support_desk import data, script
from examples.support_desk.api import Booking, PaymentsApi, asking, listener, revocations, serving
from examples.support_desk.tools import Outbox, named, own_tools, refund_intent, sql_tools

Models = tuple[BaseChatModel, BaseChatModel]


@dataclass(slots=True)
class Story:
    """What happened; every field was observed, none is assumed."""

    ticket: data.Ticket
    audit: Path
    payments: str = ""
    booked: list[Booking] = field(default_factory=list)
    outbox: Outbox = field(default_factory=Outbox)
    decisions: tuple[Recalled, ...] = ()
    read_by_model: list[str] = field(default_factory=list)
    without_token: int = 0
    stolen_token: tuple[int, str] = (0, "")
    cancelled: bool = False
    outstanding: int = -1
    verified: Verified | None = None
    broken: ChainBroken | None = None
    changed: int = 0
    spans: Sequence[ReadableSpan] = ()

    @property
    def issued(self) -> int:
        """Credentials that were issued, as the audit log says."""
        return self.verified.events.get("credential.issued", 0) if self.verified else 0

    @property
    def revoked(self) -> int:
        """Credentials that were revoked, as the audit log says."""
        return self.verified.events.get("credential.revoked", 0) if self.verified else 0


def tell(folder: Path, models: Models | None = None) -> Story:
    """Run the whole story in a folder, with the scripted models or with others: the agent's and its researcher's."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)  # the application's choice, never the library's
    path = data.build(folder)
    ticket = data.read_ticket(path, 4711)
    story = Story(ticket, folder / "audit")
    asyncio.run(_run(story, path, models or script.scripted(ticket)))
    story.verified = verify(story.audit)
    story.changed, story.broken = _tampered(story.audit, folder / "audit-changed")
    story.spans = spans.get_finished_spans()
    return story


async def _run(story: Story, path: Path, models: Models) -> None:
    with ExitStack() as stack:
        guard = stack.enter_context(agentguard.local(audit=story.audit))
        (asked, asked_at), (listening, story.payments) = listener(), listener()
        stack.enter_context(serving(revocations(guard), asked))
        revoked = stack.enter_context(asking(asked_at))
        verifier = TokenVerifier(guard.keys, "agentguard", story.payments, revoked=revoked, require_details=True)
        bank = PaymentsApi(verifier)
        stack.enter_context(serving(bank.app, listening))
        database = stack.enter_context(data.read_only(path))
        tools = [*sql_tools(database, models[0]), *own_tools(story.payments, story.outbox)]
        agent = _agent(story, models, tools)
        async with guard.task("support-bot", on_behalf_of="alice", intent=refund_intent(story.ticket)):
            said = (await agent.ainvoke({"messages": [("user", "Please handle ticket 4711.")]}))["messages"]
            story.read_by_model = _denials(said)
            await _stopped(story, agent, said, bank, tools)
            story.without_token, _ = await _knock(story)
            story.stolen_token = await _knock(story, bank.stolen)
        story.booked, story.decisions = bank.booked, guard.explain().decisions
        story.outstanding = guard.outstanding()


def _agent(story: Story, models: Models, tools: list[BaseTool]) -> Any:
    """The support agent; its researcher gets the same tools, and less authority."""
    ticket, (model, researcher_model) = story.ticket, models
    researcher = create_agent(
        researcher_model, named(tools, "sql_db_query", "refund_create"), middleware=[GuardMiddleware()],
        name="researcher", system_prompt=script.RESEARCHER_PROMPT.format(order=ticket.order_query),
    )  # fmt: skip
    hands_on = agent_tool(researcher, "researcher", "Let the researcher check the order.")
    return create_agent(
        model, [*tools, hands_on], middleware=[GuardMiddleware()], name="support-bot",
        system_prompt=script.PROMPT.format(ticket=ticket.ticket_query),
    )  # fmt: skip


def _denials(messages: Sequence[BaseMessage]) -> list[str]:
    return [str(m.content) for m in messages if isinstance(m, ToolMessage) and m.status == "error"]


async def _stopped(story: Story, agent: Any, said: list[BaseMessage], bank: PaymentsApi, tools: list[BaseTool]) -> None:
    """Wait for the bank's confirmation, and lose patience while the call is in flight."""
    asked = ("user", "Wait for the bank's confirmation: refund_confirm.")
    run = asyncio.ensure_future(agent.ainvoke({"messages": [*said, asked]}))
    arrived = asyncio.ensure_future(asyncio.to_thread(bank.arrived.wait, 60))
    await asyncio.wait((run, arrived), return_when=asyncio.FIRST_COMPLETED)
    if run.done():  # a real model that did not call it: the application does
        run = asyncio.ensure_future(named(tools, "refund_confirm")[0].ainvoke({"account": story.ticket.account}))
        await arrived
    try:
        await asyncio.wait_for(run, 0.1)
    except TimeoutError:
        story.cancelled = bank.arrived.is_set()


async def _knock(story: Story, token: str = "") -> tuple[int, str]:
    """Ask the API with this token, or with none; return its status, and what it says."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with httpx.AsyncClient(base_url=story.payments, headers=headers, timeout=3, trust_env=False) as client:
            answer = await client.get(f"/refunds/{story.ticket.account}/confirmation")
        return answer.status_code, str(answer.json()["error_description"]) if answer.content else ""
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return 0, f"no refusal: {type(error).__name__}"


def _tampered(log: Path, copy: Path) -> tuple[int, ChainBroken | None]:
    """Change one byte of the attacker's denial in a copy of the log; return its number, and what `verify` says."""
    shutil.copytree(log, copy)
    file = next(copy.glob("audit-*.jsonl"))
    lines = file.read_bytes().splitlines(keepends=True)
    # A well-behaved model left no denial; then a permit is changed.
    old, new = (b"evil-corp", b"evil-cork") if b"evil-corp" in b"".join(lines) else (b"permitted", b"permittee")
    index = next(number for number, line in enumerate(lines) if old in line)
    lines[index] = lines[index].replace(old, new, 1)
    file.write_bytes(b"".join(lines))
    try:
        verify(copy)
    except ChainBroken as broken:
        return index + 1, broken
    return index + 1, None
