"""`agentguard suspend`, `resume`, `status` and `offboard`: stop an agent everywhere, and see what is stopped."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agentguard._drive import drive
from agentguard.cli.leases import NEVER, is_local, time_text
from agentguard.cli.output import FAILED, OK, complain, count, say, say_json
from agentguard.credentials.leaks import LiveSecrets
from agentguard.credentials.revocation import Revocations
from agentguard.errors import ConfigurationError
from agentguard.model.lease import Lease

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.ports import Ledger, Stop

# Seconds in which guards that run elsewhere are left to end their credentials themselves.
_PATIENCE: Final = 3.0
_LOOKS: Final = 0.1
_NO_STATE: Final = (
    "{} has no `state`, so a stop would be known to this command only; write state: {{sqlite: FILE, key: ...}}"
)


def add(commands: Any) -> None:
    """Add `suspend`, `resume`, `status` and `offboard`."""
    text = "Stop an agent, a task, a subject or a chain: nothing starts under it any more, and its credentials end."
    suspend = commands.add_parser("suspend", help="stop an agent, a task, a subject or a chain", description=text)
    _add_who(suspend)
    suspend.add_argument("--why", required=True, help="for the records")
    suspend.set_defaults(run=run_suspend)
    resume = commands.add_parser("resume", help="let it go on", description="Let go on what was stopped.")
    _add_who(resume)
    resume.set_defaults(run=run_resume)
    status = commands.add_parser("status", help="say what is stopped", description="List what is stopped, and why.")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.set_defaults(run=run_status)
    text = "Stop an agent for good, end every credential that it holds, and say what is left until when."
    offboard = commands.add_parser("offboard", help="stop an agent for good and prove what is left", description=text)
    offboard.add_argument("agent", metavar="AGENT")
    offboard.add_argument("--why", default="offboarded", help="for the records")
    offboard.set_defaults(run=run_offboard)
    for parser in (suspend, resume, status, offboard):
        parser.add_argument("--config", type=Path, default=Path("agentguard.yaml"), metavar="FILE")


def _add_who(parser: Any) -> None:
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--agent", default="", help="its name in the registry")
    who.add_argument("--task", default="", help="its id, as in records")
    who.add_argument("--subject", default="", help="as in the chain: user:alice")
    who.add_argument("--chain", default="", help="and all below it: 'user:alice > support-bot'")
    who.add_argument("--all", action="store_true", help="everything")


def guard_of(config: Path) -> Guard:
    """Load the configuration, which also ends what dead processes left.

    Raises:
        ConfigurationError: it is wrong, or shares no state, so nobody else would hear of a stop.
    """
    from agentguard.config import load
    from agentguard.state.suspensions_memory import MemorySuspensions

    guard = load(config)
    if isinstance(guard.suspensions, MemorySuspensions):
        guard.close()
        raise ConfigurationError(_NO_STATE.format(config))
    return guard


def _key(arguments: argparse.Namespace) -> str:
    from agentguard.stopping import key_of

    if arguments.all:
        return "all"
    return key_of(arguments.agent, arguments.task, arguments.subject, arguments.chain)


def run_suspend(arguments: argparse.Namespace) -> int:
    """Stop one; when this returns, the mark is in the store."""
    key = _key(arguments)
    with guard_of(arguments.config) as guard:
        drive(guard.stopping.suspend(key, arguments.why))
        _doubt(guard, arguments.agent)
    say(f"{key} is suspended: {arguments.why}")
    return OK


def _doubt(guard: Guard, agent: str) -> None:
    """Say that a name is in no entry of this file: it may be one of another service, or a slip of the pen."""
    known = guard.registry.names()
    if agent and agent not in known:
        complain(f"agentguard: note: this configuration names no agent {agent!r}, only {', '.join(known)}")


def run_resume(arguments: argparse.Namespace) -> int:
    """Let one go on; what was revoked stays revoked."""
    key = _key(arguments)
    with guard_of(arguments.config) as guard:
        known = any(stop.key == key for stop in drive(guard.suspensions.standing()))
        drive(guard.stopping.lift(key))
    say(f"{key} may go on" if known else f"{key} was not suspended")
    return OK


def run_status(arguments: argparse.Namespace) -> int:
    """List what is stopped."""
    with guard_of(arguments.config) as guard:
        stops = drive(guard.suspensions.standing())
    if arguments.json:
        members = [{"key": stop.key, "why": stop.why, "since": stop.since, "epoch": stop.epoch} for stop in stops]
        say_json({"suspended": members})
        return OK
    for stop in stops:
        say(_line(stop))
    say(count(len(stops), "suspension") if stops else "nothing is suspended")
    return OK


def _line(stop: Stop) -> str:
    return f"{datetime.fromtimestamp(stop.since, UTC):%Y-%m-%dT%H:%M:%SZ}  {stop.key}  {stop.why}"


def run_offboard(arguments: argparse.Namespace) -> int:
    """Stop an agent for good; the status is 1 while a credential that it obtained may be alive."""
    key = _key_of_agent(arguments.agent)
    with guard_of(arguments.config) as guard:
        drive(guard.stopping.suspend(key, arguments.why))
        _doubt(guard, arguments.agent)
        left = _ended(guard, arguments.agent)
    say(f"{key} is suspended for good: {arguments.why}")
    for lease in left:
        say(f"  {lease.id} of {lease.issuer} for {lease.key.audience}: {_until(lease)}")
    say(f"{count(len(left), 'credential')} of it may be alive" if left else "no credential of it is alive")
    say(f"now write `status: retired` for {arguments.agent} in {arguments.config}, so that the registry says so too")
    return FAILED if left else OK


def _until(lease: Lease) -> str:
    if lease.lasts:
        return "it is tried again"
    ends = time_text(lease.expires_by)
    return f"it ends by {ends}" if ends != NEVER else "it ends after the year 9999"


def _key_of_agent(name: str) -> str:
    from agentguard.stopping import key_of

    return key_of(name, "", "")


def _ended(guard: Guard, agent: str) -> Sequence[Lease]:
    """End every credential in whose chain the agent stands, whoever obtained it, and return what may be alive.

    INVARIANT: a token that only its own process can revoke is never taken from a process that lives: its row stays
    until that process ended it, or until it expired.
    """
    if guard.leases is None or guard.issuer is None:
        return ()
    ledger = guard.leases.ledger
    take = getattr(ledger, "take", None)
    revocations = Revocations(guard.issuer, ledger, LiveSecrets(), guard.records.record, time.time)
    for lease in _waited_for(ledger, agent):
        if take is not None and not is_local(guard, lease):
            revocations.adopt(drive(take(lease.id, time.time())))
    drive(revocations.retry())
    return _held(ledger, agent)


def _waited_for(ledger: Ledger, agent: str) -> Sequence[Lease]:
    """What is left once the guards that run elsewhere had time to hear of the stop."""
    until = time.monotonic() + _PATIENCE
    while (held := _held(ledger, agent)) and time.monotonic() < until:
        time.sleep(_LOOKS)
    return held


def _held(ledger: Ledger, agent: str) -> Sequence[Lease]:
    return [lease for lease in drive(ledger.outstanding(time.time())) if agent in lease.key.chain[1:]]
