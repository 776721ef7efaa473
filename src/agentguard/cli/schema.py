"""`agentguard schema`: the JSON Schemas of intent files and of audit records."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from agentguard.audit.events import record_schema
from agentguard.cli.output import OK, say_json
from agentguard.intent.schema import intent_schema

_SCHEMAS: Final[Mapping[str, Callable[[], dict[str, Any]]]] = {"intent": intent_schema, "record": record_schema}


def add(commands: Any) -> None:
    """Add `schema`."""
    text = (
        "Print a JSON Schema (draft 2020-12): of intent files, for an editor that completes and checks them; or of the "
        "records in an audit log."
    )
    parser = commands.add_parser("schema", help="print the JSON Schema of intent files or records", description=text)
    parser.add_argument("what", nargs="?", choices=sorted(_SCHEMAS), default="intent", help="of what; default intent")
    parser.add_argument("--compact", action="store_true", help="print it on one line")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the schema."""
    schema = _SCHEMAS[arguments.what]()
    if arguments.compact:
        say_json(schema)
    else:
        print(json.dumps(schema, indent=2))
    return OK
