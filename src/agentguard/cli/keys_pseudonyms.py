"""`agentguard keys pseudonyms`: make and rotate the keys of pseudonyms."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from agentguard.audit.pseudonyms import Pseudonyms, read_file, rotate
from agentguard.cli.output import OK, count, say


def add(actions: Any) -> None:
    """Add `keys pseudonyms`."""
    text = (
        "Add a key to the file of pseudonym keys (`audit: {pseudonym_key: {file: FILE}}`), or make the file. Processes "
        "that start from now on hash with it; each hash carries its generation, and `audit query --subject NAME "
        "--pseudonym-key FILE` finds a name under all of them. No key is removed or shown."
    )
    parser = actions.add_parser("pseudonyms", help="rotate the key of pseudonyms", description=text)
    parser.add_argument("file", type=Path, metavar="FILE", help="the file of pseudonym keys")
    parser.add_argument("--list", action="store_true", help="list the generations, and change nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Rotate, or list, and say which generation is the newest."""
    keys = Pseudonyms.parse(read_file(arguments.file)) if arguments.list else rotate(arguments.file)
    newest = f"generation {keys.generation}" if keys.generation else "a key without a generation"
    say(f"{arguments.file}: {count(len(keys.generations), 'key')}, {newest} is the newest")
    return OK
