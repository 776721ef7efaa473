"""Writes the attribute tables of traces.md from semconv/agentguard.yaml: `python docs/traces_table.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "semconv" / "agentguard.yaml"
PAGE = ROOT / "docs" / "traces.md"
BEGIN = "<!-- tables: begin (python docs/traces_table.py) -->"
END = "<!-- tables: end -->"


def current(page: str) -> str:
    """Return the page with its tables made anew."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{tables(yaml.safe_load(SOURCE.read_text('utf-8')))}\n{END}{after}"


def tables(source: dict[str, Any]) -> str:
    """Return one table of all attributes, and one of the spans that carry them."""
    carried = {span["type"]: {a["ref"]: a["requirement_level"] for a in span["attributes"]} for span in source["spans"]}
    columns = [span["type"].removeprefix("agentguard.") for span in source["spans"]]
    lines = [
        f"| attribute | type | what it says | example | {' | '.join(columns)} |",
        f"|---|---|---|---|{'---|' * len(columns)}",
    ]
    for attribute in source["attributes"]:
        levels = " | ".join(_level(on.get(attribute["key"])) for on in carried.values())
        example = json.dumps(attribute["examples"][0]).strip('"')
        lines.append(f"| `{attribute['key']}` | {_type(attribute)} | {attribute['brief']} | `{example}` | {levels} |")
    return "\n".join([*lines, "", "Standard names on the same spans:", "", *_standard(carried, columns)]) + "\n"


def _standard(carried: dict[str, dict[str, Any]], columns: list[str]) -> list[str]:
    keys = dict.fromkeys(key for on in carried.values() for key in on if not key.startswith("agentguard."))
    rows = [f"| `{key}` | {' | '.join(_level(on.get(key)) for on in carried.values())} |" for key in keys]
    return [f"| attribute | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}", *rows]


def _type(attribute: dict[str, Any]) -> str:
    kind = attribute["type"]
    return kind if isinstance(kind, str) else "one of " + ", ".join(f"`{m['value']}`" for m in kind["members"])


def _level(level: str | dict[str, str] | None) -> str:
    if level is None:
        return "-"
    return level if isinstance(level, str) else level["conditionally_required"]


if __name__ == "__main__":
    PAGE.write_text(current(PAGE.read_text("utf-8")), "utf-8")
