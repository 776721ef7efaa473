"""The `agentguard` command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final, Protocol

from agentguard.cli import agents, approvals, audit, explain, keys, leases, lint, schema, stop
from agentguard.cli.output import UNUSABLE, complain
from agentguard.errors import AgentguardError


class Command(Protocol):
    """A subcommand: a module that adds its parser, whose default `run` takes the arguments and returns the status."""

    def add(self, commands: Any) -> None: ...


COMMANDS: Final[tuple[Command, ...]] = (audit, agents, approvals, leases, stop, keys, lint, explain, schema)


def parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    root = argparse.ArgumentParser(prog="agentguard", description="Look after guarded agents from a terminal.")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments without the program's name; those of the process by default.

    Returns:
        The exit status: 0 all is well, 1 what was checked is broken, 2 it could not be checked.
    """
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else UNUSABLE
    try:
        return int(arguments.run(arguments))
    except AgentguardError as error:
        for line in f"agentguard: {error}".split("\n"):
            complain(line)
    except OSError as error:
        complain(f"agentguard: {error.filename}: {error.strerror}" if error.strerror else f"agentguard: {error}")
    except KeyboardInterrupt:
        complain("agentguard: interrupted")
    return UNUSABLE
