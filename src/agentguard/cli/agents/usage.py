"""When each agent was last used, as the audit log tells: one pass over its records, damaged or not.

What a damaged file holds behind its first broken record counts for nothing: nobody can say who wrote it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Final

from agentguard.audit.verify import ChainBroken, TornLine, lines
from agentguard.model.record import Event

# A refusal to open a task or to delegate is no use of an agent; a denied call is: its task was open.
_USES: Final = frozenset({
    Event.TASK_OPENED, Event.DELEGATED, Event.CALL_PERMITTED, Event.CALL_DENIED, Event.CALL_COMPLETED,
    Event.CALL_FAILED, Event.CALL_CANCELLED,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Usage:
    """What a log says about the use of agents.

    Args:
        last: RFC 3339 time of the last use, by agent.
        since: time of the earliest record; empty where there is none.
        records: how many were read.
        damage: what could not be read, and where.
        unknown: why nothing is known at all; empty where something is.
    """

    last: Mapping[str, str]
    since: str = ""
    records: int = 0
    damage: tuple[str, ...] = ()
    unknown: str = ""

    def shown(self, name: str) -> str:
        """The last use of an agent, for people."""
        if self.unknown:
            return "unknown"
        return self.last.get(name) or ("unknown" if self.damage else "never")


def usage_of(directory: FilePath | None, names: Collection[str]) -> Usage:
    """Read the audit log of a directory.

    Args:
        directory: the folder of the log; None where the configuration does not say.
        names: the agents to look for.
    """
    if directory is None:
        return Usage({}, unknown="the configuration does not say where the audit log is")
    try:
        files = sorted(file for file in directory.glob("audit-*.jsonl") if file.is_file())
    except OSError as error:
        return Usage({}, unknown=f"the audit log {directory} cannot be read: {error.strerror or error}")
    if not files:
        return Usage({}, unknown=f"there is no audit log (audit-*.jsonl) in {directory}")
    return _read(files, frozenset(names))


def _read(files: list[FilePath], names: frozenset[str]) -> Usage:
    last: dict[str, str] = {}
    since, records, damage = "", 0, []
    for file in files:
        try:
            for record in _records(file):
                records += 1
                time = record["time"]
                since = min(since or time, time)
                agent = record.get("agent")
                if isinstance(agent, str) and agent in names and record["event"] in _USES:
                    last[agent] = max(last.get(agent, ""), time)
        except TornLine:
            continue  # a process writes it, or was killed: what stands before was read
        except ChainBroken as broken:
            damage.append(f"{file} is damaged from line {broken.line} on: {broken.why}")
        except OSError as error:
            damage.append(f"{file} cannot be read: {error.strerror or error}")
    return Usage(last, since, records, tuple(damage))


def _records(file: FilePath) -> Iterator[Mapping[str, Any]]:
    for record, _ in lines(file, None):
        yield record
