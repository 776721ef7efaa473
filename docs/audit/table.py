"""Writes the table of events of docs/audit.md from the code: `python docs/audit/table.py`."""

from __future__ import annotations

from pathlib import Path

from agentguard.audit.events import ALWAYS, EVENTS

PAGE = Path(__file__).resolve().parent.parent / "audit.md"
BEGIN = "<!-- table: begin (python docs/audit/table.py) -->"
END = "<!-- table: end -->"


def current(page: str) -> str:
    """Return the page with its table made anew."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n{END}{rest.partition(END)[2]}"


def table() -> str:
    """Return the table: each event, what it means, and what its records hold beside the members of all records."""
    lines = ["| event | what happened | always | sometimes |", "|---|---|---|---|"]
    for event, shape in EVENTS.items():
        lines.append(f"| `{event}` | {shape.what} | {_names(shape.always)} | {_names(shape.sometimes)} |")
    return "\n".join([*lines, "", f"All records have {_names(ALWAYS)}.", ""])


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "-"


if __name__ == "__main__":
    PAGE.write_text(current(PAGE.read_text("utf-8")), "utf-8")
