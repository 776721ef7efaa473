"""`agentguard keys`: rotate the keys that sign tokens, and publish their public halves."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agentguard.cli import keys_pseudonyms
from agentguard.cli.output import OK, count, say, say_json
from agentguard.errors import ConfigurationError
from agentguard.keys import Rotated, Times, rotate
from agentguard.keys.folder import Ring, read
from agentguard.keys.timetable import Turn

_COLUMNS: Final = ("kid", "alg", "state", "signs from", "signs until", "published until")


def add(commands: Any) -> None:
    """Add `keys rotate`, `keys jwks`, `keys list` and `keys pseudonyms`."""
    text = "Rotate the keys that sign tokens (`tokens: {local: {keys: DIR}}`), and publish their public halves."
    keys = commands.add_parser("keys", help="rotate and publish signing keys", description=text)
    actions = keys.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_rotate(actions)
    _add_jwks(actions)
    _add_list(actions)
    keys_pseudonyms.add(actions)


def _add_rotate(actions: Any) -> None:
    text = (
        "Publish the next key; it signs once every verifier has had the time to fetch it. Running processes see it "
        "without a restart. Until it signs, another rotation changes nothing. A new DIR gets its first key, which "
        "signs at once."
    )
    parser = actions.add_parser("rotate", help="publish the next key", description=text)
    _add_folder(parser)
    parser.add_argument("--alg", choices=("ES256", "EdDSA"), default="ES256", help="of the new key; default ES256")
    parser.add_argument(
        "--propagation", type=int, metavar="SECONDS",
        help="for a new DIR: how long verifiers may take to fetch the published keys anew; default 600",
    )  # fmt: skip
    parser.set_defaults(run=run_rotate)


def _add_jwks(actions: Any) -> None:
    text = "Print the JWK set to publish: public keys only. Publish it anew after each rotation, and after each turn."
    parser = actions.add_parser("jwks", help="print the public keys", description=text)
    _add_folder(parser)
    parser.set_defaults(run=run_jwks)


def _add_list(actions: Any) -> None:
    text = "List the keys with their turns; no private key is shown."
    parser = actions.add_parser("list", help="list the keys", description=text)
    _add_folder(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run_list)


def _add_folder(parser: Any) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of keys")


def run_rotate(arguments: argparse.Namespace) -> int:
    """Rotate, and say from when which key signs."""
    times = None if arguments.propagation is None else Times(propagation=arguments.propagation)
    now = time.time()
    say(_rotated(rotate(arguments.folder, now, arguments.alg, times), now))
    return OK


def _rotated(done: Rotated, now: float) -> str:
    table, last = done.ring.timetable, done.ring.timetable.turns[-1]
    name = f"{last.public.algorithm} key {last.public.kid}"
    if done.new is None:
        return f"nothing changed: the next key, {last.public.kid}, is published already and signs from {_time(last)}"
    if last.signs_from <= now:
        return f"{name} signs now; publish it with: agentguard keys jwks DIR"
    until = _moment(table.published_until(table.signing(now)))
    return f"{name} is to be published now and signs from {_time(last)}; the key before it is published until {until}"


def run_jwks(arguments: argparse.Namespace) -> int:
    """Print the public keys that verifiers need now."""
    from agentguard.keys import KeySet

    table = _ring(arguments.folder).timetable
    say_json(KeySet(turn.public for turn in table.published(time.time())).jwks())
    return OK


def run_list(arguments: argparse.Namespace) -> int:
    """List the keys and their turns."""
    ring, now = _ring(arguments.folder), time.time()
    if arguments.json:
        say_json({"keys": [_members(ring, turn, now) for turn in ring.timetable.turns]})
        return OK
    rows = [_COLUMNS, *(_cells(ring, turn, now) for turn in ring.timetable.turns)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    say(count(len(rows) - 1, "key"))
    return OK


def _ring(folder: Path) -> Ring:
    found = read(folder)
    if isinstance(found, str):
        raise ConfigurationError(f"key folder {str(folder)!r}: {found}")
    return found


def _state(ring: Ring, turn: Turn, now: float) -> str:
    table = ring.timetable
    if table.signing(now) == turn:
        return "signs"
    if turn.signs_from > now:
        return "next"
    return "published" if turn in table.published(now) else "retired"


def _members(ring: Ring, turn: Turn, now: float) -> Mapping[str, Any]:
    table = ring.timetable
    ends = {"signs_until": table.signs_until(turn), "published_until": table.published_until(turn)}
    return {
        "kid": turn.public.kid, "alg": turn.public.algorithm, "state": _state(ring, turn, now),
        "signs_from": int(turn.signs_from),
        **{name: int(end) if math.isfinite(end) else None for name, end in ends.items()},
        "private": turn.public.kid in ring.private,
    }  # fmt: skip


def _cells(ring: Ring, turn: Turn, now: float) -> Sequence[str]:
    table = ring.timetable
    return (
        turn.public.kid, turn.public.algorithm, _state(ring, turn, now), _time(turn),
        _moment(table.signs_until(turn)), _moment(table.published_until(turn)),
    )  # fmt: skip


def _time(turn: Turn) -> str:
    return _moment(turn.signs_from)


def _moment(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}" if math.isfinite(moment) else "the next"
