"""`agentguard schema`: the JSON Schema of intent files, for editors."""

from __future__ import annotations

import argparse
import json
from typing import Any

from agentguard.cli.output import OK, say_json
from agentguard.intent.schema import intent_schema


def add(commands: Any) -> None:
    """Add `schema`."""
    text = "Print the JSON Schema (draft 2020-12) of intent files, for an editor that completes and checks them."
    parser = commands.add_parser("schema", help="print the JSON Schema of intent files", description=text)
    parser.add_argument("--compact", action="store_true", help="print it on one line")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the schema."""
    if arguments.compact:
        say_json(intent_schema())
    else:
        print(json.dumps(intent_schema(), indent=2))
    return OK
