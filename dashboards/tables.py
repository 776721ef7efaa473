"""Writes the tables of docs/observability.md from the dashboard and the rules: `python dashboards/tables.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).resolve().parent
PAGE: Final = HERE.parent / "docs" / "observability.md"
BEGIN: Final = "<!-- {}: begin (python dashboards/tables.py) -->"
END: Final = "<!-- {}: end -->"


def current(page: str) -> str:
    """Return the page with its tables made anew."""
    for name, lines in (("alerts", alerts()), ("panels", panels())):
        before, _, rest = page.partition(BEGIN.format(name))
        after = rest.partition(END.format(name))[2]
        page = before + "\n\n".join((BEGIN.format(name), "\n".join(lines), END.format(name))) + after
    return page


def alerts() -> Iterator[str]:
    """Yield a row for every alert; what its labels fill in is left open."""
    yield from ("| alert | severity | means | what to do |", "|---|---|---|---|")
    rules = yaml.safe_load((HERE / "agentguard.rules.yaml").read_text("utf-8"))
    for rule in (rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule):
        said = rule["annotations"]
        yield _row(f"`{rule['alert']}`", rule["labels"]["severity"], _open(said["summary"]), _open(said["runbook"]))


def panels() -> Iterator[str]:
    """Yield a row for every query of every panel."""
    yield from ("| panel | query |", "|---|---|")
    dashboard: dict[str, Any] = json.loads((HERE / "grafana.json").read_text("utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield _row(panel["title"], f"`{target['expr']}`")


def _open(text: str) -> str:
    """Put the name of a label, in capitals, where its value would stand."""
    words = [part.partition("}}") for part in f"}}}}{text}".split("{{")]
    return "".join(_placeholder(inside) + rest for inside, _, rest in words)


def _placeholder(inside: str) -> str:
    name = inside.strip(" $").partition(" ")[0].removeprefix("labels.")
    return {"value": "N", "": ""}.get(name, name.removesuffix("_name").rpartition("_")[2].upper())


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(current(PAGE.read_text("utf-8")), encoding="utf-8")
