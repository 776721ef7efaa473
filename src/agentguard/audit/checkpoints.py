"""Writes checkpoints of a growing chain beside the appending threads: every N records or T seconds, and at its end."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from agentguard._drive import drive
from agentguard.audit.chain import timestamp
from agentguard.audit.checkpoint import Checkpoint
from agentguard.audit.merkle import Tree
from agentguard.audit.neighbours import Neighbours
from agentguard.audit.note import NoteKey, checked_name, sign
from agentguard.audit.places import Callback, CheckpointFile
from agentguard.audit.verify import file_of, replay
from agentguard.errors import AuditUnavailable, ConfigurationError
from agentguard.model.record import Position

if TYPE_CHECKING:
    from agentguard.keys.signer import Signer

_log: Final = logging.getLogger("agentguard")
_AT_ONCE: Final = 512  # records that are hashed in one go, in less than a millisecond
_GAP: Final = "@"  # stands in `_pending` before the number of the record that follows
Place: TypeAlias = "str | os.PathLike[str] | Callback"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """When a log writes signed checkpoints, and where to.

    Args:
        key: signs them: a PEM file with a private Ed25519 key, or a `Signer` of algorithm EdDSA. Who holds it can
            rewrite history; keep it, or the checkpoints, where the log's writers cannot reach.
        name: names the key and the log, without spaces and '+'; the origin of a checkpoint is `name/chain`.
        every: records after which one is due.
        seconds: at most so long after a record one is due.
        to: a directory or a callback that takes the note's text, or several; empty for `<log directory>.checkpoints`.
            A callback runs on a thread of its own, must not append to the log, and says by raising that it failed.

    Raises:
        ConfigurationError: a value is of no use, or the key is no Ed25519 key that can be read.
    """

    key: str | os.PathLike[str] | Signer
    name: str = "agentguard"
    every: int = 10_000
    seconds: float = 10.0
    to: Place | Sequence[Place] = ()

    def __post_init__(self) -> None:
        checked_name(self.name)
        if self.every < 1 or not 0 < self.seconds <= 86400:
            raise ConfigurationError("checkpoints: write every from 1, and seconds up to 86400 (a day)")
        signer = self.key
        if isinstance(signer, str | os.PathLike):
            from agentguard.keys import SigningKey

            signer = SigningKey.from_pem_file(signer)
            object.__setattr__(self, "key", signer)
        if signer.algorithm != "EdDSA":
            raise ConfigurationError("checkpoints are signed with Ed25519; make a key with: openssl genpkey "
                                     "-algorithm ed25519")  # fmt: skip

    @property
    def public(self) -> NoteKey:
        """The public half, which `audit verify --key` takes; as text it is a verifier key."""
        public: Any = self.key.public.key  # type: ignore[union-attr]  # made a Signer at construction
        return NoteKey(self.name, public.public_bytes_raw())

    def sign(self, text: str) -> str:
        """Return the signed note of a text; it may wait for the signer, but needs no event loop.

        Raises:
            Unavailable: the signer is out of reach.
        """
        return sign(text, self.public, lambda data: drive(self.key.signature(data)))  # type: ignore[union-attr]  # same

    def places(self, directory: Path, chain: str) -> list[Callback]:
        """Return what takes the notes of one chain.

        Raises:
            AuditUnavailable: a directory cannot be used.
        """
        given = [self.to] if isinstance(self.to, str | os.PathLike) or callable(self.to) else list(self.to)
        beside = f"{os.path.abspath(directory)}.checkpoints"  # `.` and `..` have no name to make one of
        return [
            place if callable(place) else CheckpointFile(Path(place).absolute(), chain) for place in given or [beside]
        ]


class Checkpointer:
    """Follows one chain and writes its checkpoints, on a thread that lives while there is something to sign.

    `add` is called under the chain's lock and does next to nothing. A checkpoint never covers a record that is not on
    the disk. What fails is logged and made good by the next one; no append waits for it, or fails with it.

    Args:
        settings: when and where to.
        directory: of the log.
        chain: whose checkpoints.
        durable: makes all records so far durable, and returns how many of the chain are.
        clock: nanoseconds since the epoch.

    Raises:
        AuditUnavailable: a place cannot be used.
    """

    def __init__(
        self, settings: Checkpoints, directory: Path, chain: str, durable: Callable[[], int], clock: Callable[[], int]
    ) -> None:
        self._settings, self._directory, self._chain = settings, directory, chain
        self._durable, self._clock = durable, clock
        self._places, self._neighbours = settings.places(directory, chain), Neighbours(directory, chain)
        self._every = settings.every
        self._pending: list[str] = []
        self._next = 1
        self._tree, self._written = Tree(), 0
        self._changed, self._making = threading.Condition(), threading.Lock()
        self._running = self._failing = self._closed = False

    def add(self, position: Position) -> None:
        """Note the next record of the chain; the caller holds the chain's lock."""
        # Text only: what the garbage collector tracks would make it run at every 700th record.
        if position.seq != self._next:
            self._pending.append(f"{_GAP}{position.seq}")
        self._pending.append(position.hash)
        # INVARIANT: last, so an interrupt anywhere in here shows as a gap before the next record.
        self._next = position.seq + 1
        if not self._running or len(self._pending) == self._every:
            self._wake()

    def _wake(self) -> None:
        thread: threading.Thread | None = None
        try:
            with self._changed:
                self._changed.notify_all()
                if self._running or self._closed:
                    return
                thread = threading.Thread(target=self._run, name="agentguard-checkpoints", daemon=True)
                self._running = True
            thread.start()
        except BaseException as error:
            # The process ends, or has no thread left; the next record tries again, and so does close.
            if thread is not None and thread.ident is None:
                self._running = False
            if not isinstance(error, RuntimeError | MemoryError):
                raise

    def _run(self) -> None:
        while self._wait():
            try:
                self.write()
            except Exception as error:
                self._failed(error)

    def _wait(self) -> bool:
        """Wait until a checkpoint is due; False once there is nothing to sign, or the chain has ended."""
        with self._changed:
            # After a failure only time helps: the records that wait would have it tried again at once.
            self._changed.wait_for(
                lambda: self._closed or (not self._failing and len(self._pending) >= self._every),
                self._settings.seconds,
            )
            self._running = False
            # INVARIANT: looked at after `_running` changed, so `add` sees either the thread gone or its record taken.
            self._running = not self._closed and (bool(self._pending) or self._tree.size > self._written)
            return self._running

    def write(self) -> None:
        """Write a checkpoint of what is durable now, unless there is one already.

        Raises:
            AuditUnavailable: the records are not durable, it could not be signed, or a place did not take it.
        """
        with self._making:
            self._fold()
            if self._tree.size == self._written:
                return
            if self._durable() < self._tree.size:
                raise AuditUnavailable("the records before it are not on the disk")
            checkpoint = Checkpoint(
                self._settings.name, self._chain, self._tree.size, self._tree.root(), timestamp(self._clock()),
                self._neighbours.look(),
            )  # fmt: skip
            note = self._settings.sign(checkpoint.text())
            if not self._written:
                self._settings.public.open(note.encode())  # a signer with another key than it says is found out here
            self._hand_out(note)
            self._written, self._failing = checkpoint.size, False

    def _fold(self) -> None:
        while self._pending:
            taken = self._pending[:_AT_ONCE]
            gap = next((at for at in reversed(range(len(taken))) if taken[at][0] == _GAP), -1)
            if gap >= 0:  # what an interrupt (Ctrl-C) kept from `add`, or an earlier process wrote
                # INVARIANT: before anything is taken, so what cannot be read now is still missing next time.
                self._tree = _tree_before(int(taken[gap][1:]), file_of(self._directory, self._chain))
            del self._pending[: len(taken)]
            self._tree.extend(bytes.fromhex("".join(taken[gap + 1 :])))
            time.sleep(0)  # whoever appends may go first

    def _hand_out(self, note: str) -> None:
        """Give a note to every place, also when one of them fails."""
        failed: Exception | None = None
        for place in self._places:
            try:
                place(note)
            except Exception as error:
                failed = error
        if failed is not None:
            raise AuditUnavailable(f"a checkpoint was not taken: {_cause(failed)}") from failed

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            _log.error("no checkpoint of the audit log since record %d: %s", self._written, _cause(error))
        self._failing = True

    def close(self) -> None:
        """Write the last checkpoint, and end the thread.

        Raises:
            AuditUnavailable: it could not be written.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        try:
            self.write()
        except AuditUnavailable:
            raise
        except Exception as error:
            raise AuditUnavailable(f"no last checkpoint of the audit log: {_cause(error)}") from error


def _tree_before(seq: int, file: Path) -> Tree:
    """The tree over the records of a chain before one of them, read from its files."""
    tree = Tree()

    def take(position: Position) -> None:
        if position.seq < seq:
            tree.append(bytes.fromhex(position.hash))

    replay(file, take)
    if tree.size != seq - 1:
        raise AuditUnavailable(f"the records before number {seq} cannot be read yet")
    return tree


def _cause(error: Exception) -> str:
    return str(error) or type(error).__name__
