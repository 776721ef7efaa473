"""`agentguard agents`: the registry as an inventory, and what is wrong with it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Final

from agentguard.cli.agents.coded import Coded
from agentguard.cli.agents.file_rules import file_findings
from agentguard.cli.agents.graph import edges, mermaid
from agentguard.cli.agents.inventory import Inventory, read_inventory
from agentguard.cli.agents.listing import (
    log_members,
    members,
    reach_members,
    reaches,
    say_agent,
    say_list,
)
from agentguard.cli.agents.rules import DAY, Terms, agent_findings, approval_findings
from agentguard.cli.agents.table import cell_members, say_table, table
from agentguard.cli.agents.usage import Usage, usage_of
from agentguard.cli.findings import report
from agentguard.cli.output import FAILED, OK, UNUSABLE, complain, count, say, say_json
from agentguard.cli.tools_file import TOOLS_FILE
from agentguard.intent.document import nearest
from agentguard.intent.lint import Level

_CONFIG: Final = Path("agentguard.yaml")
_WITHIN: Final = 30
_MOST_DAYS: Final = 36_500


def add(commands: Any) -> None:
    """Add `agents list`, `agents show`, `agents check`, `agents table` and `agents graph`."""
    text = "Look at the registry: agents, owners, who hands what on to whom, what each can reach, and what is wrong."
    agents = commands.add_parser("agents", help="list and check registered agents", description=text)
    actions = agents.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_one(actions, "list", run_list, "one line an agent", "List the agents, with the last use that the log tells.")
    _add_show(actions)
    _add_check(actions)
    text = "Print which tools each agent may call alone, which need a person, and which it may never call."
    _add_one(actions, "table", run_table, "print who needs a person for what", text)
    _add_one(actions, "graph", run_graph, "print a Mermaid flowchart", "Print owners, agents and what they hand on.")


def _add_one(actions: Any, name: str, run: Any, help: str, text: str) -> Any:
    parser = actions.add_parser(name, help=help, description=text)
    if name == "show":
        parser.add_argument("name", metavar="NAME", help="the agent")
    parser.add_argument(
        "file", type=Path, nargs="?", default=_CONFIG, metavar="FILE", help="the configuration; agentguard.yaml"
    )
    parser.add_argument("--tools", type=Path, metavar="FILE", help=f"declared tools (default: {TOOLS_FILE} beside it)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)
    return parser


def _add_show(actions: Any) -> None:
    text = "Print everything about one agent, with what it can reach itself and through others."
    _add_one(actions, "show", run_show, "print everything about one agent", text)


def _add_check(actions: Any) -> None:
    text = "Check the registry and the files that it names. Errors fail, warnings do with --strict, notes do not."
    parser = _add_one(actions, "check", run_check, "check the registry", text)
    parser.add_argument(
        "--within", type=_days, default=_WITHIN, metavar="DAYS", help="warn of agents that expire in so many; 30"
    )
    parser.add_argument("--intents", type=Path, metavar="DIR", help="the folder of the intents that purposes name")
    parser.add_argument("--strict", action="store_true", help="warnings fail too")


def _days(text: str) -> int:
    days = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(_MOST_DAYS)) else -1
    if not 0 <= days <= _MOST_DAYS:
        raise argparse.ArgumentTypeError(f"write whole days from 0 to {_MOST_DAYS}")
    return days


# check ----------------------------------------------------------------------------------------------------------------


def run_check(arguments: argparse.Namespace) -> int:
    """Say everything that is wrong, each at its line."""
    inventory = read_inventory(arguments.file, arguments.tools)
    found = findings(inventory, Terms(time.time(), arguments.within * DAY, arguments.intents))
    report(list(found), inventory.files, as_json=arguments.json)
    failing = (Level.ERROR, Level.WARNING) if arguments.strict else (Level.ERROR,)
    return FAILED if any(item.finding.level in failing for item in found) else OK


def findings(inventory: Inventory, terms: Terms) -> tuple[Coded, ...]:
    """Everything that is found in a registry: mistakes of its files, and what the rules say."""
    found = (*agent_findings(inventory, terms), *approval_findings(inventory), *file_findings(inventory, terms))
    return (*inventory.found, *found)


# list, show, table, graph ---------------------------------------------------------------------------------------------


def run_list(arguments: argparse.Namespace) -> int:
    """List the agents."""
    inventory, now = read_inventory(arguments.file, arguments.tools), time.time()
    usage = usage_of(inventory.audit, inventory.entries)
    if arguments.json:
        listed = [members(inventory, entry, usage, now) for entry in inventory.entries.values()]
        say_json({**_head(inventory), "log": log_members(usage), "agents": listed})
    else:
        say_list(inventory, usage, now)
        _say_log(usage)
    return _status(inventory)


def run_show(arguments: argparse.Namespace) -> int:
    """Show one agent."""
    inventory, now = read_inventory(arguments.file, arguments.tools), time.time()
    entry = inventory.entries.get(arguments.name)
    if entry is None:
        lost = arguments.name in inventory.lost
        known = nearest(arguments.name, inventory.entries) or f"; known are {', '.join(inventory.entries) or 'none'}"
        why = "cannot be read: run `agentguard agents check`" if lost else f"is not registered{known}"
        complain(f"agentguard: agent {arguments.name!r} {why}")
        return UNUSABLE
    usage = usage_of(inventory.audit, (entry.name,))
    if arguments.json:
        reached = {key: reach_members(reach, inventory.why_no_tools) for key, reach in reaches(inventory, entry)}
        said = {**members(inventory, entry, usage, now), **reached}
        say_json({**_head(inventory), "log": log_members(usage), "agent": said})
    else:
        say_agent(inventory, entry, usage, now)
        _say_log(usage)
    return _status(inventory)


def run_table(arguments: argparse.Namespace) -> int:
    """Print the table of separation; without the tools nobody can tell."""
    inventory = read_inventory(arguments.file, arguments.tools)
    if inventory.tools is None:
        complain(f"agentguard: which tools there are is unknown: {inventory.why_no_tools}")
        return UNUSABLE
    cells = table(inventory)
    if arguments.json:
        say_json({**_head(inventory), "table": [cell_members(found) for found in cells]})
    else:
        say_table(cells)
    return _status(inventory)


def run_graph(arguments: argparse.Namespace) -> int:
    """Print the flowchart."""
    inventory, now = read_inventory(arguments.file, arguments.tools), time.time()
    if arguments.json:
        say_json({**_head(inventory), **edges(inventory, now)})
    else:
        for line in mermaid(inventory, now):
            say(line)
    return _status(inventory)


def _head(inventory: Inventory) -> dict[str, Any]:
    mistakes = sum(item.finding.level is Level.ERROR for item in inventory.found)
    environment = inventory.settings.environment or None
    said = {"file": inventory.document.file, "environment": environment, "mistakes": mistakes}
    return {**said, "unreadable": list(inventory.lost)}


def _status(inventory: Inventory) -> int:
    """What is shown of a file with mistakes may not be what is meant, and says so."""
    mistakes = sum(item.finding.level is Level.ERROR for item in inventory.found)
    if mistakes:
        complain(f"note: {count(mistakes, 'mistake')}; what they hide is unknown: run `agentguard agents check`")
    return FAILED if mistakes else OK


def _say_log(usage: Usage) -> None:
    if usage.unknown:
        complain(f"note: last use is unknown: {usage.unknown}")
    elif usage.records:
        complain(f"note: last use is as of the audit log, which begins at {usage.since}")
    for text in usage.damage:
        complain(f"note: what was used since is unknown: {text}")
