"""The states of parked tasks at rest: what whoever can write the store can neither read, move nor prolong."""

from __future__ import annotations

import logging
from typing import Final

from agentguard.model.lease import Secret
from agentguard.ports import Parked
from agentguard.state.sealed import TASKS, Sealer

_log: Final = logging.getLogger("agentguard")


class SealedStates:
    """Seals and opens the states of tasks under one key.

    Args:
        key: at least 32 bytes, the same in every process that goes on with the tasks.

    Raises:
        ConfigurationError: it is shorter.
    """

    __slots__ = ("_sealer",)

    def __init__(self, key: Secret | bytes) -> None:
        self._sealer = Sealer(key, TASKS)

    @property
    def key_name(self) -> str:
        """Stands in each row, so that rows under another key are left to whoever has it."""
        return self._sealer.key_name

    def seal(self, parked: Parked) -> bytes:
        """Return its state, sealed."""
        return self._sealer.seal(parked.state, _row(parked.id, parked.expires_at))

    def open(self, id: str, sealed: bytes, expires_at: float) -> Parked | None:
        """Return what was sealed, or None, and say so, if its row is not as it was written."""
        state = self._sealer.open(sealed, _row(id, expires_at))
        if state is None:
            _log.error(
                "the row of parked task %s was damaged or changed, so nobody can go on with it; open the task anew", id
            )
            return None
        return Parked(id=id, state=state, expires_at=expires_at)


def _row(id: str, expires_at: float) -> str:
    """What a state is tied to. INVARIANT: the end is in it, so an expired task cannot be brought back."""
    return f"{float(expires_at)!r} {id}"


def say_other_key(id: str) -> None:
    """Say what to do about a task that is there and cannot be opened here."""
    _log.error("parked task %s was sealed under another key; start with that key to go on with it", id)
