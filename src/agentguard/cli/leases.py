"""`agentguard leases`: what credentials may be alive, and their end by hand or after a crash."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agentguard._drive import drive
from agentguard.cli.ledgers import NO_STATE, of_config, of_file
from agentguard.cli.output import FAILED, OK, UNUSABLE, complain, count, say, say_json
from agentguard.credentials.leaks import LiveSecrets
from agentguard.credentials.revocation import Revocations
from agentguard.errors import ConfigurationError
from agentguard.model.lease import LeaseState

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.model.lease import Lease
    from agentguard.state.ledger_postgres import PostgresLedger
    from agentguard.state.rows import Row
    from agentguard.state.sqlite import SqliteLedger

TIMEOUT: Final = 30.0
_MOST_SECONDS: Final = 86_400
_PAUSE: Final = 0.5
NEVER: Final = "never"
_CONFIG: Final = Path("agentguard.yaml")
_COLUMNS: Final = ("id", "state", "broker", "task", "tool", "audience", "age", "ends by", "owner")


def add(commands: Any) -> None:
    """Add `leases list`, `leases revoke` and `leases recover`."""
    text = "Look at the ledger of credentials, and end what is left in it."
    leases = commands.add_parser("leases", help="list and end credentials that may be alive", description=text)
    actions = leases.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_list(actions)
    _add_revoke(actions)
    _add_recover(actions)


def _add_list(actions: Any) -> None:
    text = (
        "List every credential that may be alive. The status is 1 if one of them has no living owner, or could not be "
        "revoked in many attempts: then run `agentguard leases recover`."
    )
    parser = actions.add_parser("list", help="list what may be alive", description=text)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("file", type=Path, nargs="?", metavar="FILE", help="the ledger: `state: {sqlite: FILE}`")
    what.add_argument(
        "--config", type=Path, default=_CONFIG, metavar="CONFIG",
        help="without FILE: the ledger that this names, also in PostgreSQL; agentguard.yaml",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_list)


def _add_revoke(actions: Any) -> None:
    text = "End credentials now, also those that a living process uses. The status is 1 if one of them lives on."
    parser = actions.add_parser("revoke", help="end credentials now", description=text)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("id", nargs="?", metavar="ID", help="of one credential, and of those under it")
    what.add_argument("--task", help="all of one task")
    what.add_argument("--all", action="store_true", help="all there are")
    _add_common(parser)
    parser.set_defaults(run=run_revoke)


def _add_recover(actions: Any) -> None:
    text = "End what dead processes left behind. The status is 1 if something of it lives on."
    parser = actions.add_parser("recover", help="end what dead processes left behind", description=text)
    _add_common(parser)
    parser.set_defaults(run=run_recover)


def _add_common(parser: Any) -> None:
    parser.add_argument("--config", type=Path, default=_CONFIG, metavar="FILE")
    parser.add_argument(
        "--timeout", type=_seconds, default=TIMEOUT, metavar="SECONDS", help="for all of it; default 30"
    )


# list -----------------------------------------------------------------------------------------------------------


def run_list(arguments: argparse.Namespace) -> int:
    """List what may be alive; no handle and no key is needed for that, and none is shown."""
    now = time.time()
    given = arguments.file is not None
    rows, living = of_file(arguments.file, now) if given else of_config(arguments.config, now)
    members = [_members(row, row.instance in living) for row in rows]
    healthy = all(row.instance in living and row.state is not LeaseState.IRREVOCABLE for row in rows)
    if arguments.json:
        say_json({"ok": healthy, "outstanding": len(members), "leases": members})
    else:
        _say_table([_cells(row, row.instance in living, now) for row in rows])
    return OK if healthy else FAILED


def _members(row: Row, alive: bool) -> dict[str, Any]:
    lease, key = row.lease, row.lease.key
    return {
        "id": lease.id, "state": str(row.state), "broker": lease.issuer, "task": lease.task, "tool": key.tool,
        "audience": key.audience, "type": lease.type, "parent": lease.parent, "since": row.since,
        "expires_by": None if lease.lasts else lease.expires_by, "attempts": row.attempts,
        "owner": "alive" if alive else "dead",
    }  # fmt: skip


def _cells(row: Row, alive: bool, now: float) -> Sequence[str]:
    lease, key = row.lease, row.lease.key
    age = f"{max(0.0, now - row.since):.0f} s"
    return (
        lease.id, str(row.state), lease.issuer, lease.task, key.tool, key.audience, age,
        time_text(lease.expires_by), "alive" if alive else "dead",
    )  # fmt: skip


def time_text(moment: float) -> str:
    """A time as people read it, or `never` for one that no calendar has."""
    try:
        return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return NEVER


def _say_table(rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        say("no credential is outstanding")
        return
    widths = [max(len(row[column]) for row in (_COLUMNS, *rows)) for column in range(len(_COLUMNS))]
    for row in (_COLUMNS, *rows):
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    say(count(len(rows), "credential") + " outstanding")


# revoke and recover -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Room:
    """A guard of the configuration, with its durable ledger."""

    guard: Guard
    ledger: SqliteLedger | PostgresLedger


def room_of(config: Path) -> Room:
    """Load the configuration, which ends what dead processes left.

    Raises:
        ConfigurationError: it is wrong, or has no durable ledger.
    """
    from agentguard.config import load

    guard = load(config)
    ledger: Any = guard.leases.ledger if guard.leases is not None else None
    if not hasattr(ledger, "take"):  # which a ledger has that others share; the one in PostgreSQL loads its driver
        guard.close()
        raise ConfigurationError(NO_STATE.format(config))
    return Room(guard, ledger)


def run_revoke(arguments: argparse.Namespace) -> int:
    """End what was named, whoever owns it."""
    if not (arguments.all or arguments.task or arguments.id):  # an empty id is the parent of all that have none
        raise ConfigurationError("name a credential by its ID, or write --task TASK or --all; the name is empty")
    room = room_of(arguments.config)
    try:
        rows = [row for row in drive(room.ledger.rows(time.time())) if _named(arguments, row)]
        if not rows and arguments.id:
            complain(f"no credential {arguments.id!r} is outstanding; `agentguard leases list` shows those that are")
            return UNUSABLE
        return _revoke(room, [row.lease for row in rows], arguments.timeout)
    finally:
        room.guard.close()


def _named(arguments: argparse.Namespace, row: Row) -> bool:
    if arguments.all:
        return True
    if arguments.task is not None:
        return bool(row.lease.task == arguments.task)
    return arguments.id in (row.lease.id, row.lease.parent)


def is_local(guard: Guard, lease: Lease) -> bool:
    """Whether only the process that issued the credential can revoke it."""
    from agentguard.credentials.local import LocalIssuer

    return isinstance(guard.issuer, LocalIssuer) or lease.issuer == "local"


def _revoke(room: Room, leases: Sequence[Lease], timeout: float) -> int:
    """End them.

    INVARIANT: a token that only its own process can revoke is never taken from it, nor called revoked here.
    """
    guard = room.guard
    assert guard.issuer is not None  # noqa: S101  # a guard with leases has one
    revocations = Revocations(guard.issuer, room.ledger, LiveSecrets(), guard.records.record, time.time)
    mine = [lease.id for lease in leases if not is_local(guard, lease)]
    for lease in mine:
        revocations.adopt(drive(room.ledger.take(lease, time.time())))
    _until(lambda: not _unsettled(room, mine), lambda: drive(revocations.retry()), timeout)
    return _said(room, [lease.id for lease in leases])


def run_recover(arguments: argparse.Namespace) -> int:
    """End what dead processes left; `load` has begun with it."""
    room = room_of(arguments.config)
    try:
        leases = room.guard.leases
        assert leases is not None  # noqa: S101  # `room_of` saw its ledger
        mine = [lease.id for lease in drive(room.ledger.outstanding(time.time(), instance=room.ledger.instance))]
        _until(lambda: not _unsettled(room, mine), lambda: drive(leases.tend()), arguments.timeout)
        say(f"{count(room.ledger.adopted, 'credential')} of dead processes found")
        return _said(room, mine)
    finally:
        room.guard.close()


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text}: write seconds from 0 to {_MOST_SECONDS}")
    return seconds


def _until(done: Callable[[], bool], work: Callable[[], object], timeout: float) -> None:
    """Work until it is done, bounded."""
    until = time.monotonic() + timeout
    while True:
        work()
        if done() or time.monotonic() >= until:
            return
        time.sleep(_PAUSE)


def _left(room: Room, leases: Iterable[str]) -> Sequence[Row]:
    wanted = frozenset(leases)
    return [row for row in drive(room.ledger.rows(time.time())) if row.lease.id in wanted]


def _unsettled(room: Room, leases: Iterable[str]) -> bool:
    """Whether something can still be done about one of them; what expires by itself can only be waited for."""
    return any(row.state is not LeaseState.EXPIRES for row in _left(room, leases))


def _said(room: Room, leases: Sequence[str]) -> int:
    left = _left(room, leases)
    for row in left:
        lease = row.lease
        if row.state is LeaseState.EXPIRES:
            say(f"{lease.id} of {lease.issuer} cannot be revoked; it ends by {time_text(lease.expires_by)}")
        elif is_local(room.guard, lease):
            say(f"{lease.id}: only the process that issued it can revoke it; it ends by {time_text(lease.expires_by)}")
            say(f"have it do so: agentguard suspend --task {lease.task} --why ...")
        else:
            complain(f"{lease.id} of {lease.issuer} is not revoked yet; it stays in the ledger: recover again")
    say(f"{len(leases) - len(left)} of {count(len(leases), 'credential')} revoked")
    return FAILED if left else OK
