"""Finding what went past the guard: tool calls in traces without a decision in the log, and dead credentials in use.

A trace is what an application says of itself, and spans are sampled and lost; the log is the record. So a span without
its decision is a finding, and a decision without its span is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agentguard.audit.index import microseconds
from agentguard.audit.span_file import Span
from agentguard.audit.verify import TornLine, lines
from agentguard.model.record import Event

NO_DECISION: Final = "no_decision"
NOT_IN_LOG: Final = "decision_not_in_log"
OTHER_DECISION: Final = "other_decision"
AFTER_RELEASE: Final = "used_after_release"
SKEW: Final = 1_000_000  # microseconds by which the clocks of two processes may differ

# Attributes by which a span says which credential it used: ours, and what APIs and their proxies write.
CREDENTIALS: Final = ("agentguard.credential.id", "agentguard.credential.jti", "jti", "token.jti", "jwt.jti")
_DECISION: Final = "agentguard.decision.id"
_TOOLS: Final = ("gen_ai.tool.name", "tool.name")
_EXECUTE: Final = "execute_tool"
_DEAD: Final = frozenset({Event.CREDENTIAL_REVOKED, Event.CREDENTIAL_EXPIRED})
_DECISIONS: Final = {Event.CALL_PERMITTED: "permit", Event.CALL_DENIED: "deny"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that went past the guard.

    Args:
        kind: `no_decision`, `decision_not_in_log`, `other_decision` or `used_after_release`.
        span: where it shows.
        what: the tool, or the lease.
        why: a sentence for people.
    """

    kind: str
    span: Span
    what: str
    why: str


@dataclass(slots=True)
class Known:
    """What the log says that traces are held against.

    Attributes:
        decisions: tool and outcome, by the record's id.
        spans: tools that were decided about, by trace and span.
        dead: when a credential was gone, in microseconds, by lease and by `jti`.
        first: time of the earliest record, or None where there is none.
        torn: files whose last line has no end: somebody writes them, or was killed.
    """

    decisions: dict[str, tuple[str, str]] = field(default_factory=dict)
    spans: dict[tuple[str, str], str] = field(default_factory=dict)
    dead: dict[str, int] = field(default_factory=dict)
    first: int | None = None
    torn: int = 0
    _jtis: dict[str, str] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in one record."""
        at, event = microseconds(record["time"]), record["event"]
        self.first = at if self.first is None else min(self.first, at)
        if event in _DECISIONS:
            tool, outcome = str(record.get("tool", "")), str(record.get("outcome", _DECISIONS[event]))
            self.decisions[f"{record['chain']}:{record['seq']}"] = (tool, outcome)
            if record.get("trace"):
                self.spans[str(record["trace"]), str(record["span"])] = tool
        elif event == Event.CREDENTIAL_ISSUED and record.get("jti"):
            lease, jti = str(record["lease"]), str(record["jti"])
            self._jtis[lease] = jti
            if lease in self.dead:  # another process revoked it, whose file was read before
                self.dead[jti] = min(self.dead[lease], self.dead.get(jti, self.dead[lease]))
        elif event in _DEAD:
            lease = str(record["lease"])
            # An expired one is recorded late: it was dead by the time that was promised.
            gone = min(at, int(record["expires_by"]) * 1_000_000) if "expires_by" in record else at
            for name in (lease, self._jtis.get(lease, lease)):
                self.dead[name] = min(gone, self.dead.get(name, gone))


def known_from(directory: Path) -> Known:
    """Read a directory of logs; each record is verified on the way.

    Raises:
        ChainBroken: a record does not verify: then the log proves nothing about any span.
        OSError: a log cannot be read.
    """
    known = Known()
    for path in sorted(directory.glob("audit-*.jsonl")):
        try:
            for record, _ in lines(path, None):
                known.add(record)
        except TornLine:
            known.torn += 1
    return known


def is_tool(span: Span) -> bool:
    """Tell whether a span stands for the execution of a tool (OpenTelemetry GenAI conventions, OpenInference)."""
    about = span.attributes
    if about.get("gen_ai.operation.name") == _EXECUTE or about.get("openinference.span.kind") == "TOOL":
        return True
    return "gen_ai.operation.name" not in about and span.name.startswith(f"{_EXECUTE} ")


def tool_of(span: Span) -> str:
    """The tool's name, as the span says it."""
    for name in _TOOLS:
        if isinstance(found := span.attributes.get(name), str):
            return found
    return span.name.removeprefix(f"{_EXECUTE} ")


def findings(spans: Sequence[Span], known: Known, credentials: Iterable[str] = (), skew: int = SKEW) -> list[Finding]:
    """Return what went past the guard, in the order of time.

    Args:
        spans: of all processes that take part.
        known: what the log says.
        credentials: further attributes that hold a lease's id or a `jti`.
        skew: microseconds by which clocks may differ.
    """
    named = (*CREDENTIALS, *credentials)
    spans = list({(span.trace, span.span): span for span in spans}.values())  # an exporter may send one twice
    found = [*_undecided(spans, known), *_mismatched(spans, known), *_late(spans, known, named, skew)]
    return sorted(found, key=lambda finding: (finding.span.start, finding.kind))


def _undecided(spans: Sequence[Span], known: Known) -> Iterator[Finding]:
    """Tool spans that neither carry a decision nor stand above or below a guarded call of the same tool."""
    by_id = {(span.trace, span.span): span for span in spans}
    decided = [span for span in spans if _is_decided(span, known)]
    covered = {(span.trace, span.span) for span in decided}
    above = {(*place, _folded(tool_of(span))) for span in decided for place in _ancestors(span, by_id)}
    for span in spans:
        if not is_tool(span) or (span.trace, span.span) in covered:
            continue
        tool = _folded(tool_of(span))
        if (span.trace, span.span, tool) in above:
            continue
        outer = (by_id[place] for place in _ancestors(span, by_id) if place in covered and place in by_id)
        if any(_folded(tool_of(other)) == tool for other in outer):
            continue
        yield Finding(NO_DECISION, span, tool_of(span), "a tool ran, and no guard decided about it")


def _is_decided(span: Span, known: Known) -> bool:
    return bool(span.attributes.get(_DECISION)) or (span.trace, span.span) in known.spans


def _ancestors(span: Span, by_id: Mapping[tuple[str, str], Span]) -> Iterator[tuple[str, str]]:
    """The places above a span, the nearest first; each once, whatever the file says."""
    seen: set[str] = set()
    at = span.parent
    while at and at not in seen:
        seen.add(at)
        yield span.trace, at
        above = by_id.get((span.trace, at))
        at = above.parent if above is not None else ""


def _mismatched(spans: Sequence[Span], known: Known) -> Iterator[Finding]:
    used: dict[str, Span] = {}
    for span in sorted(spans, key=lambda span: span.start):
        decision = span.attributes.get(_DECISION)
        if not decision or not is_tool(span):
            continue
        tool = tool_of(span)
        if not isinstance(decision, str) or decision not in known.decisions:
            yield Finding(NOT_IN_LOG, span, tool, f"the span names decision {decision}, which is not in the log")
            continue
        recorded, outcome = known.decisions[decision]
        said = span.attributes.get("agentguard.decision.outcome")
        if _folded(recorded) != _folded(tool) or said not in (None, outcome):
            why = f"the span says {said} of {tool}, and the log says {outcome} of {recorded}"
            yield Finding(OTHER_DECISION, span, tool, why)
        elif (first := used.setdefault(decision, span)) is not span:
            why = f"the decision is that of span {first.span}; each call has its own"
            yield Finding(OTHER_DECISION, span, tool, why)


def _late(spans: Sequence[Span], known: Known, named: Sequence[str], skew: int) -> Iterator[Finding]:
    for span in spans:
        for name in named:
            lease = span.attributes.get(name)
            gone = known.dead.get(lease) if isinstance(lease, str) else None
            if gone is not None and span.start // 1000 > gone + skew:
                late = (span.start // 1000 - gone) / 1_000_000
                yield Finding(AFTER_RELEASE, span, str(lease), f"the credential was gone {late:.1f} s before")
                break


def _folded(tool: str) -> str:
    """Frameworks take no dots in the names of tools."""
    return "".join(char if char.isalnum() else "_" for char in tool).lower()
