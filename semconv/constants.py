"""Makes src/agentguard/telemetry/semconv.py from agentguard.yaml: `python semconv/constants.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "agentguard.yaml"
MODULE = HERE.parent / "src" / "agentguard" / "telemetry" / "semconv.py"
OURS = "agentguard."
WIDTH = 120

HEAD = '''"""The names in spans, metrics and events. Made by `python semconv/constants.py` from semconv/agentguard.yaml.

The standard names stand here as text, because the GenAI conventions are in development and their constants move between
packages. INVARIANT: no name is also the namespace of another, or back ends that nest names lose one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from agentguard.telemetry.kinds import Copy, Instrument
'''


def module(source: dict[str, Any]) -> str:
    """Return the module's text."""
    parts = [HEAD, *_names(source), *_metrics(source["metrics"]), *_events(source["events"])]
    return "\n".join(parts) + "\n"


def _names(source: dict[str, Any]) -> Iterator[str]:
    carriers = [*source["spans"], *source["metrics"], *source["events"]]
    standard = {a["ref"] for one in carriers for a in one["attributes"] if not a["ref"].startswith(OURS)}
    yield "# Standard: OpenTelemetry GenAI conventions, general conventions, OpenInference."
    yield from (_constant(_word(name), name) for name in sorted(standard))
    yield "\n# What the spans' names begin with; also values of gen_ai.operation.name."
    for span in source["spans"]:
        name = span["name"]["note"].strip("`").split(" ")[0]
        yield _constant(_word(span["type"].removeprefix(OURS)), name)
    yield "\n# Values of error.type."
    for value in dict.fromkeys(_error_types(source["spans"])):
        yield _constant("ERROR_" + _word(value.removeprefix(OURS)).removesuffix("_ERROR"), value)
    yield "\n# Attributes."
    yield from (_constant(_word(attribute["key"]), attribute["key"]) for attribute in source["attributes"])


def _error_types(spans: Iterable[dict[str, Any]]) -> Iterator[str]:
    for span in spans:
        for attribute in span["attributes"]:
            if attribute["ref"] == "error.type":
                yield from attribute.get("examples", ())


def _metrics(metrics: list[dict[str, Any]]) -> Iterator[str]:
    yield "\n# Metrics."
    yield from (_constant("METRIC_" + _word(metric["name"]), metric["name"]) for metric in metrics)
    yield "\nINSTRUMENTS: Final[Mapping[str, Instrument]] = MappingProxyType({"
    for metric in metrics:
        yield f"    METRIC_{_word(metric['name'])}: Instrument("
        yield f"        kind={_text(metric['instrument'])},"
        yield f"        unit={_text(metric['unit'])},"
        yield f"        brief={_text(metric['brief'])},"
        yield from _attributes(metric["attributes"])
        buckets = metric.get("annotations", {}).get("buckets", ())
        if buckets:
            yield f"        buckets=({', '.join(format(float(bound), 'g') for bound in buckets)}),"
        yield "    ),"
    yield "})  # fmt: skip"


def _events(events: list[dict[str, Any]]) -> Iterator[str]:
    yield "\n# By the event code of the audit record that is copied."
    yield "COPIES: Final[Mapping[str, Copy]] = MappingProxyType({"
    for event in events:
        yield f"    {_text(event['name'].removeprefix(OURS))}: Copy("
        yield f"        name={_text(event['name'])},"
        yield f"        severity={_text(event['annotations']['severity'])},"
        yield from _attributes(event["attributes"])
        yield "    ),"
    yield "})  # fmt: skip"


def _attributes(attributes: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not attributes:
        yield "        attributes=frozenset(),"
        return
    yield "        attributes=frozenset({"
    line = "           "
    for name in [_word(attribute["ref"]) for attribute in attributes]:
        if len(line) + len(name) + 2 > WIDTH:
            yield line
            line = "           "
        line += f" {name},"
    yield line
    yield "        }),"


def _constant(name: str, value: str) -> str:
    return f"{name}: Final = {_text(value)}"


def _word(name: str) -> str:
    return name.upper().replace(".", "_")


def _text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


if __name__ == "__main__":
    MODULE.write_text(module(yaml.safe_load(SOURCE.read_text("utf-8"))), "utf-8")
