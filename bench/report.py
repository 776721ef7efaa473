"""How a bench shows what it found: one JSON object, or lines for a person."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def printed(result: Mapping[str, Any], *, json_wanted: bool) -> int:
    """Print a report; the exit code is 1 where the run is void.

    A bar that is missed once does not fail: `python -m bench` runs the bench again before it says so.
    """
    if json_wanted:
        print(json.dumps(result, indent=1))
    else:
        for name, row in result["figures"].items():
            print(line(name, row))
        print("valid" if result["valid"] else "VOID: a control failed; run it again")
    return 0 if result["valid"] else 1


def line(name: str, row: Mapping[str, Any]) -> str:
    """One figure: its value, its spread and its bar."""
    spread = f"  [{row['p10']:.2f} .. {row['p90']:.2f}]" if "p10" in row else ""
    noisy = "  noisy" * row.get("noisy", False) + "  added work was not seen" * (not row.get("detected", True))
    return f"{name:40} {amount(row['value']):>9}{spread:20}{bar_text(row):>28}{noisy}".rstrip()


def bar_text(row: Mapping[str, Any]) -> str:
    """The bar of a figure in words, with what is missed."""
    if row.get("bar") is None:
        return ""
    goal = f" (goal {amount(row['goal'])})" if row.get("goal") is not None else ""
    missed = "" if row["ok"] else "  MISSED"
    return f"  {'at least' if row.get('at_least') else 'at most'} {amount(row['bar'])}{goal}{missed}"


def amount(value: float) -> str:
    """A number as a person reads it."""
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.2f}"
