"""The `agentguard` command."""

from __future__ import annotations

import argparse
import os
import sys
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


def _open_closed_streams() -> None:
    """Have a stream that the process was started without lead nowhere: the status tells what was found all the same.

    INVARIANT: before any file is opened, which would get its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # for as long as the process


def _leave_stdout() -> None:
    """Have what is left in its buffer go nowhere, else the interpreter fails on it once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments without the program's name; those of the process by default.

    Returns:
        The exit status: 0 all is well, 1 what was checked is broken, 2 it could not be checked.
    """
    _open_closed_streams()
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else UNUSABLE
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()  # what cannot be written is told here, and not when the interpreter ends
        return status
    except AgentguardError as error:
        for line in f"agentguard: {error}".split("\n"):
            complain(line)
    except BrokenPipeError:
        _leave_stdout()  # whoever read it has read enough
    except OSError as error:
        named = error.filename is not None and error.strerror
        complain(f"agentguard: {error.filename}: {error.strerror}" if named else f"agentguard: {error}")
        _leave_stdout()
    except KeyboardInterrupt:
        complain("agentguard: interrupted")
    return UNUSABLE
