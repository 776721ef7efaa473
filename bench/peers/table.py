"""The report as text: what a call does stands in the row of its figure, so that less work is not taken for speed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

_HEADS: Final = (
    "", "allowed/plain", "denied/plain", "allowed/ours", "no SDK", "denied/ours", "added/ours", "no SDK",
    "credential", "each call", "revoked", "audit", "fsyncs", "chain", "spans", "trips", "arguments", "denial in",
    "denied runs",
)  # fmt: skip
_LEGEND: Final = """
allowed, denied: processor time of a LangChain tool call, median of ratios. plain: the same tool without a guard, in the
  same process. ours: agentguard's "own credential" in the same round, with the SDK's span, and without ("no SDK").
added: the same ratio after the plain call is taken off both.
credential: its signature; "server's" comes from the loopback token server, whose own time is in no figure.
each call: has a credential of its own, or shares one. revoked: at the task's end by itself, by caller's code, never.
audit, chain: where a record of the call is, and where a changed record is found. fsyncs, spans, trips: of one allowed
  call. arguments: whether the peer's own rules see them. denied runs: the body of a refused tool that does not use its
  credential.
agent-governance-toolkit, delcred and hallmark keep what slows their later calls, or what spares them work: they begin
  each batch anew. Ours keeps one guard and one task for the whole run.
"""


def table(result: Mapping[str, Any]) -> str:
    """Return the report as a table, with the reason of every peer that did not run."""
    rows = [_HEADS, *(row for one in result["peers"] for row in _rows(one))]
    widths = [max(len(row[column]) for row in rows if len(row) > 2) for column in range(len(_HEADS))]
    lines = [_line(row, widths) for row in rows]
    ended = "valid" if result["valid"] else "VOID: the control differs from one, or ours did not run; run it again"
    return "\n".join([*lines, _LEGEND, f"{result['rounds']} rounds, {result['peers_that_ran']} peers ran; {ended}"])


def _rows(one: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    if not one["ran"]:
        yield f"{one['peer']}: ", f"did not run: {one['why']}"
        return
    noisy = " (noisy)" if one["noisy"] else ""
    for variant in one["variants"]:
        yield f"{one['peer']}: {variant['variant']}{noisy}", *_figures(variant), *_facts(variant["facts"])


def _figures(variant: Mapping[str, Any]) -> Iterator[str]:
    allowed, denied = variant["allowed"], variant["denied"]
    for figure in (allowed["over_plain"], denied["over_plain"], allowed["over_ours"], allowed["over_ours_without_sdk"]):
        yield f"{figure['value']:.2f}"
    yield f"{denied['over_ours']['value']:.2f}"
    yield f"{allowed['added_over_ours']:.2f}"
    yield f"{allowed['added_over_ours_without_sdk']:.2f}"


def _facts(facts: Mapping[str, Any]) -> Sequence[str]:
    return (
        facts["credential"], facts["each_call"], facts["revoked"], facts["audit"], f"{facts['disk_waits']:g}",
        facts["chain"], str(facts["spans"]), f"{facts['round_trips']:g}", facts["arguments"],
        facts["denial_recorded"], facts["denied_tool_runs"],
    )  # fmt: skip


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    if len(row) == 2:
        return "".join(row)
    first, *others = (
        cell.ljust(width) if not at else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *others])


__all__ = ["table"]
