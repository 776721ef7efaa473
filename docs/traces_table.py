"""Writes the tables of traces.md and traces_metrics.md from semconv/agentguard.yaml: `python docs/traces_table.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "semconv" / "agentguard.yaml"
BEGIN = "<!-- tables: begin (python docs/traces_table.py) -->"
END = "<!-- tables: end -->"
OURS = "agentguard."
MAIN = ("agentguard.execute_tool", "agentguard.invoke_agent", "agentguard.delegate")


def current(page: str, tables: Callable[[dict[str, Any]], str]) -> str:
    """Return the page with its tables made anew."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{tables(yaml.safe_load(SOURCE.read_text('utf-8')))}\n{END}{after}"


def spans(source: dict[str, Any]) -> str:
    """Return a table of what spans carry, one of the standard names on them, and one of the other spans."""
    main = {one["type"]: _levels(one) for one in source["spans"] if one["type"] in MAIN}
    shown = [attribute for attribute in source["attributes"] if any(attribute["key"] in on for on in main.values())]
    columns = [name.removeprefix(OURS) for name in main]
    lines = list(_head("attribute", "type", "what it says", "example", *columns))
    for attribute in shown:
        levels = [_level(on.get(attribute["key"])) for on in main.values()]
        lines.append(_row(f"`{attribute['key']}`", _type(attribute), attribute["brief"], _example(attribute), *levels))
    lines += ["", "Standard names on the same spans:", "", *_standard(main, columns)]
    lines += ["", "Other spans:", "", *_others(source)]
    return "\n".join(lines) + "\n"


def metrics_and_events(source: dict[str, Any]) -> str:
    """Return a table of the metrics, one of the events, and one of the attributes that no call's span carries."""
    lines = ["### Metrics", "", *_head("metric", "instrument", "unit", "what it measures", "attributes")]
    lines += [
        _row(f"`{one['name']}`", one["instrument"], f"`{one['unit']}`", one["brief"], _refs(one))
        for one in source["metrics"]
    ]
    lines += ["", "### Events", "", *_head("event", "severity", "what happened", "attributes")]
    lines += [
        _row(f"`{one['name']}`", one["annotations"]["severity"], one["brief"], _refs(one)) for one in source["events"]
    ]
    lines += ["", "### Attributes", "", *_head("attribute", "type", "what it says", "example")]
    main = {ref for one in source["spans"] if one["type"] in MAIN for ref in _levels(one)}
    lines += [
        _row(f"`{one['key']}`", _type(one), one["brief"], _example(one))
        for one in source["attributes"]
        if one["key"] not in main
    ]
    return "\n".join(lines) + "\n"


PAGES: Final[Mapping[Path, Callable[[dict[str, Any]], str]]] = {
    ROOT / "docs" / "traces.md": spans,
    ROOT / "docs" / "traces_metrics.md": metrics_and_events,
}


def _others(source: dict[str, Any]) -> Iterator[str]:
    yield from _head("span", "what it is", "attributes")
    for one in source["spans"]:
        if one["type"] not in MAIN:
            yield _row(one["name"]["note"], one["brief"], _refs(one))


def _standard(carried: Mapping[str, Mapping[str, Any]], columns: list[str]) -> Iterator[str]:
    yield from _head("attribute", *columns)
    for key in dict.fromkeys(key for on in carried.values() for key in on if not key.startswith(OURS)):
        yield _row(f"`{key}`", *(_level(on.get(key)) for on in carried.values()))


def _levels(carrier: Mapping[str, Any]) -> dict[str, Any]:
    return {attribute["ref"]: attribute["requirement_level"] for attribute in carrier["attributes"]}


def _refs(carrier: Mapping[str, Any]) -> str:
    return ", ".join(f"`{ref}`{'' if level == 'required' else '*'}" for ref, level in _levels(carrier).items())


def _head(*names: str) -> tuple[str, str]:
    return _row(*names), "|" + "---|" * len(names)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _example(attribute: Mapping[str, Any]) -> str:
    return "`" + json.dumps(attribute["examples"][0]).strip('"') + "`"


def _type(attribute: Mapping[str, Any]) -> str:
    kind = attribute["type"]
    return kind if isinstance(kind, str) else "one of " + ", ".join(f"`{m['value']}`" for m in kind["members"])


def _level(level: str | dict[str, str] | None) -> str:
    if level is None:
        return "-"
    return level.replace("_", " ") if isinstance(level, str) else level["conditionally_required"]


if __name__ == "__main__":
    for page, tables in PAGES.items():
        page.write_text(current(page.read_text("utf-8"), tables), "utf-8")
