"""The story on one screen: at most 100 columns, words before colour."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan

from agentguard.explanation import Recalled
from examples.support_desk.story import Story

WIDTH: Final = 98
_CODES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


class Paint:
    """Colour where a person looks at a terminal and has not said NO_COLOR (https://no-color.org)."""

    def __init__(self) -> None:
        self._on = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def __call__(self, text: str, *styles: str) -> str:
        codes = ";".join(_CODES[style] for style in styles)
        return f"\x1b[{codes}m{text}\x1b[0m" if self._on and codes else text


def show(story: Story, model: str) -> None:
    """Print the story."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    paint = Paint()
    for part in (_asked(story, model, paint), _tried(story, paint), _api(story, paint), _tree(story, paint)):
        print("\n".join(part), end="\n\n")
    print("\n".join(_left(story, paint)))


def _asked(story: Story, model: str, paint: Paint) -> Iterator[str]:
    ticket = story.ticket
    request, *injected = ticket.text.splitlines()
    yield paint("THE TICKET", "bold") + f"  {ticket.id}, opened by account {ticket.account}"
    yield f"  | {request}"
    yield from (paint(f"  ! {line}", "yellow") for line in injected)
    yield paint("THE TASK", "bold") + f"    alice asks support-bot: refund ticket {ticket.id}"
    yield (
        f"  may    read the ticket and its order, refund {ticket.account} once and at most {ticket.total}; "
        "a researcher may read"
    )
    yield "         the order; nothing else"
    yield f"  model  {model or 'scripted, and fully hijacked: it obeys whatever it reads'}"


def _tried(story: Story, paint: Paint) -> Iterator[str]:
    yield (
        paint("WHAT THE AGENTS TRIED", "bold") + ", why it was denied, and, below, all that the model reads of a denial"
    )
    chain = ""
    for recalled in story.decisions:
        if recalled.chain != chain:
            chain = recalled.chain
            yield f"  {chain}"
        yield _call(recalled, paint)
    if story.read_by_model:
        yield paint(f"  {story.read_by_model[-1]}", "dim")


def _call(recalled: Recalled, paint: Paint) -> str:
    decision = recalled.decision
    call = f"{decision.tool} {recalled.values}"
    if decision.permitted:
        return f"    {paint('✓ permit', 'green')}  {_cut(call, WIDTH - 14)}"
    return f"    {paint('✗ deny  ', 'red')}  {_cut(call, 46):<46}  {_cut(decision.miss.text, WIDTH - 62)}"


def _api(story: Story, paint: Paint) -> Iterator[str]:
    status, why = story.stolen_token
    yield paint("THE PAYMENTS API", "bold") + ", a server of its own, which accepts the guard's tokens only"
    for booking in story.booked:
        yield f"  booked   {booking.amount} to {booking.account}, for {booking.chain}"
    yield f"  refused  {paint(str(story.without_token), 'red')}  a request without a token"
    yield f"  refused  {paint(str(status), 'red')}  a token copied in flight, after its call was cancelled: {why}"


def _tree(story: Story, paint: Paint) -> Iterator[str]:
    yield paint("THE TRACE", "bold") + ", OpenTelemetry: the user is a pseudonym, and no argument or token stands in it"
    children: dict[int | None, list[ReadableSpan]] = {}
    known = {span.context.span_id for span in story.spans}
    for span in sorted(story.spans, key=lambda span: span.start_time or 0):
        parent = span.parent.span_id if span.parent and span.parent.span_id in known else None
        children.setdefault(parent, []).append(span)
    yield from _branch(children, children.get(None, ()), "", paint, top=True)


def _branch(
    children: Mapping[int | None, Sequence[ReadableSpan]], spans: Sequence[ReadableSpan], indent: str, paint: Paint,
    top: bool = False,
) -> Iterator[str]:  # fmt: skip
    for number, span in enumerate(spans, 1):
        last = number == len(spans)
        sign, below = ("", "") if top else ("└─ ", "   ") if last else ("├─ ", "│  ")
        name = f"  {indent}{sign}{span.name}"
        yield f"{name:<40}{_said(span.attributes or {}, paint)}"
        yield from _branch(children, children.get(span.context.span_id, ()), indent + below, paint)


def _said(seen: Mapping[str, Any], paint: Paint) -> str:
    outcome = seen.get("agentguard.decision.outcome")
    if outcome is None:
        return str(seen.get("agentguard.delegation.chain_text", ""))
    if outcome != "permit":
        text = f"{outcome:<7} {seen['agentguard.decision.reason']} at {seen['agentguard.decision.level']}"
        return paint(text, "red")
    life, cancelled = seen.get("agentguard.credential.life"), "; cancelled" in seen.get("output.value", "")
    if life is None:
        return f"{outcome:<7} credential none"
    status = seen["agentguard.credential.revocation.status"]
    return f"{outcome:<7} {'cancelled, ' if cancelled else ''}credential {status} after {life:.2f} s"


def _left(story: Story, paint: Paint) -> Iterator[str]:
    verified, broken = story.verified, story.broken
    records = verified.records if verified else 0
    found = f"broken at record {broken.record}" if broken else "not found"
    yield paint("WHAT IS LEFT", "bold")
    yield (
        f"  credentials  issued {story.issued} = revoked {story.revoked}, outstanding {story.outstanding}; "
        f"mails sent: {len(story.outbox.sent)}"
    )
    yield f"  audit        ok, {records} records; one byte of record {story.changed} changed in a copy: {found}"
    yield f"               agentguard audit verify {story.audit}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
