"""One audit log in several places: all that are mandatory must take a record, or nothing happens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Final

from agentguard.audit.fork import tell_of_forks
from agentguard.errors import AuditUnavailable, ConfigurationError
from agentguard.model.record import Position, Record
from agentguard.ports import AuditSink

_log: Final = logging.getLogger("agentguard")


class FanOut:
    """Appends each record to several sinks, in the same order everywhere. Safe for concurrent use.

    A record stands where its first sink says. A mandatory sink that refuses a record refuses it for all: those before
    it then hold a record of something that was not done, never the other way round. An optional sink may fail; that is
    logged when it begins and when it ends.

    Args:
        mandatory: at least one; the first gives the positions.
        optional: sinks that may fail; they are not waited for.

    Raises:
        ConfigurationError: no sink is mandatory, or one stands here twice.
    """

    def __init__(self, mandatory: Sequence[AuditSink], optional: Sequence[AuditSink] = ()) -> None:
        sinks = (*mandatory, *optional)
        if not mandatory:
            raise ConfigurationError("a fan-out needs a mandatory sink: without one a record could stand nowhere")
        if len({id(sink) for sink in sinks}) != len(sinks):
            raise ConfigurationError("the same sink stands twice in a fan-out; name each once")
        self._mandatory, self._optional = tuple(mandatory), tuple(optional)
        self.suspends = any(sink.suspends for sink in mandatory)
        self._failing: set[int] = set()
        self._latest: list[Position | None] = [None] * len(self._mandatory)
        self._lock = threading.Lock()
        tell_of_forks(self)

    def after_fork_in_child(self) -> None:
        """Take a new lock; the sinks see to their own chains."""
        self._lock = threading.Lock()

    def append(self, record: Record) -> Position:
        """Write a record everywhere.

        Raises:
            AuditUnavailable: a mandatory sink did not take it, so nothing may be done.
        """
        with self._lock:  # one order everywhere; also what makes `_latest` cover every position that was returned
            for number, sink in enumerate(self._mandatory):
                self._latest[number] = self._appended(sink, record)
            for number, sink in enumerate(self._optional):
                self._try(number, sink, record)
            first = self._latest[0]
        assert first is not None  # noqa: S101  # a mandatory sink was appended to
        return first

    @staticmethod
    def _appended(sink: AuditSink, record: Record) -> Position:
        try:
            return sink.append(record)
        except AuditUnavailable:
            raise
        except Exception as error:
            raise AuditUnavailable(f"{type(sink).__name__} took no record: {type(error).__name__}") from error

    def _try(self, number: int, sink: AuditSink, record: Record) -> None:
        try:
            sink.append(record)
        except Exception as error:
            if number not in self._failing:
                self._failing.add(number)
                _log.error("the optional audit sink %s takes no records: %s", type(sink).__name__, error)
        else:
            if number in self._failing:
                self._failing.discard(number)
                _log.warning("the optional audit sink %s takes records again; some are missing", type(sink).__name__)

    async def flush(self, position: Position) -> None:
        """Return once a record and all before it are durable in every mandatory sink.

        Args:
            position: what `append` returned.

        Raises:
            AuditUnavailable: it is not durable in one of them.
        """
        with self._lock:
            latest = list(self._latest)
        # What the others wrote last is not before the record that the first one knows by this position.
        for sink, place in zip(self._mandatory, (position, *latest[1:]), strict=True):
            if place is None:
                raise AuditUnavailable(f"record {position.id} was not written here")
            try:
                await sink.flush(place)
            except AuditUnavailable:
                raise
            except Exception as error:
                raise AuditUnavailable(f"{type(sink).__name__}: not durable: {type(error).__name__}") from error

    def behind(self) -> int:
        """How many records are not durable yet in the mandatory sink that is furthest behind."""
        told = [getattr(sink, "behind", None) for sink in self._mandatory]
        return max([behind() for behind in told if behind is not None], default=0)

    def close(self) -> None:
        """Close every sink, also when one of them fails; closing twice does what it does for the sinks.

        Raises:
            AuditUnavailable: the last records of a mandatory sink may not be durable.
        """
        failed: Exception | None = None
        for number, sink in enumerate((*self._mandatory, *self._optional)):
            try:
                sink.close()
            except Exception as error:
                if number < len(self._mandatory):
                    failed = failed or error
                else:
                    _log.error("the optional audit sink %s did not close: %s", type(sink).__name__, error)
        if failed is not None:
            raise AuditUnavailable(f"an audit sink did not close: {failed}") from failed
