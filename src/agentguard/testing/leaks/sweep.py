"""A sweep: keeps what a run leaves behind, and searches it for canaries once the run is over."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final

from agentguard.model.lease import Secret
from agentguard.testing.leaks.disguises import Needle, needles_for, views_of
from agentguard.testing.leaks.showing import shown_error, ways

if TYPE_CHECKING:
    from agentguard.guard import Guard

MAX_TEXT: Final = 64 << 20
MAX_KEPT: Final = 256 << 20
_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Leak:
    """A canary that was found: its name, where, and in which disguise; never its text."""

    canary: str
    where: str
    disguise: str

    def __str__(self) -> str:
        return f"{self.canary} in {self.where} ({self.disguise})"


class Sweep:
    """What a run left behind, and the canaries it is searched for. Threads may add to it at the same time.

    Args:
        canaries: secrets by a name that may be shown; at least eight characters each.
        mine: functions whose local variables may hold a canary, such as a fake server's; the one that makes the sweep
            is one of them.

    Raises:
        ValueError: a canary is too short.
    """

    def __init__(
        self, canaries: Mapping[str, str | Secret] | None = None, *, mine: Iterable[Callable[..., Any]] = ()
    ) -> None:
        self._needles: list[Needle] = []
        self._kept: list[tuple[str, str]] = []
        self._errors: list[tuple[str, BaseException]] = []
        self._size = 0
        self._mine: set[CodeType] = {function.__code__ for function in mine}
        self._mine |= _callers(sys._getframe(1))
        for name, secret in (canaries or {}).items():
            self.canary(name, secret)

    def canary(self, name: str, secret: str | Secret) -> None:
        """Add a canary, such as a token that was only issued during the run; what was kept before counts too."""
        self._needles += needles_for(name, secret.reveal() if isinstance(secret, Secret) else secret)

    def look(self, where: str, value: object) -> None:
        """Keep a value in every way it can be shown: what a model reads, a result, an object that is logged.

        Args:
            where: a name for the place, for the report.
            value: text, bytes, an exception, or any other object.

        Raises:
            ValueError: it is larger than 64 MiB, or more than 256 MiB were kept: then nobody could tell.
        """
        if isinstance(value, BaseException):
            self._errors.append((where, value))
            return
        for way, text in ways(value):
            self.keep(f"{where} by {way}" if way != "text" else where, text)

    def parts(self, where: str, parts: Iterable[object]) -> None:
        """Keep the parts of a stream, each and put together."""
        pieces = [part.decode("utf-8", "replace") if isinstance(part, bytes) else part for part in parts]
        for number, piece in enumerate(pieces):
            self.look(f"part {number} of {where}", piece)
        self.keep(f"{where}, put together", "".join(piece for piece in pieces if isinstance(piece, str)))

    def file(self, path: str | Path) -> None:
        """Keep the bytes of a file, or of all files below a folder: logs, databases and what lies beside them."""
        place = Path(path)
        for each in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if each.is_file():
                self.keep(f"the name of {each.name}", str(each.relative_to(place) if place.is_dir() else each.name))
                self.keep(f"file {each.name}", _read(each))

    def guard(self, guard: Guard) -> None:
        """Keep what a guard shows of itself: its records in memory, its explanations, and itself."""
        for position, line in getattr(guard.audit, "kept", ()):
            self.keep(f"record {position.seq} of the audit log", line)
        for number, recalled in enumerate(guard.explain()):
            self.keep(f"decision {number} of the guard's explanation", f"{recalled.chain} {recalled}")
            self.look(f"decision {number}", recalled.decision)
        self.keep("the guard", repr(guard))

    def keep(self, where: str, data: str | bytes) -> None:
        """Keep one piece of output as it is."""
        text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
        self._size += len(text)
        if len(text) > MAX_TEXT or self._size > MAX_KEPT:
            raise ValueError(f"{where} is too large to be searched ({len(text)} characters); sweep less at once")
        self._kept.append((where, text))

    @property
    def leaks(self) -> tuple[Leak, ...]:
        """Where canaries were found, each at most once in a place; frames are looked at now, once they have ended."""
        found: dict[tuple[str, str], Leak] = {}
        for where, text in [*self._kept, *self._of_errors()]:
            for leak in self._found(where, text):
                found.setdefault((leak.canary, leak.where), leak)
        return tuple(found.values())

    def _of_errors(self) -> Iterator[tuple[str, str]]:
        for where, error in list(self._errors):
            for way, data in shown_error(error, self._mine):
                yield f"{where}: {way}", data.decode("utf-8", "replace") if isinstance(data, bytes) else data

    def _found(self, where: str, text: str) -> Iterator[Leak]:
        hit: set[str] = set()
        for view in views_of(text):
            for needle in self._needles:
                if needle.canary not in hit and needle.text in view:
                    hit.add(needle.canary)
                    yield Leak(needle.canary, where, needle.disguise)

    def assert_no_leaks(self) -> None:
        """Fail where a canary was found; the text says which and where, and never shows one.

        Raises:
            AssertionError: a canary was found, or there was none to look for.
        """
        if not self._needles:
            raise AssertionError("there is no canary to look for: pass some, or add them with canary()")
        if leaks := self.leaks:
            more = [f"and {len(leaks) - _SHOWN} more"] if len(leaks) > _SHOWN else []
            raise AssertionError("\n  ".join(["canaries leaked:", *map(str, leaks[:_SHOWN]), *more]))

    def __repr__(self) -> str:
        return f"<Sweep of {len(self._kept)} pieces>"


def _callers(frame: FrameType | None) -> set[CodeType]:
    """The code that makes the sweep, outside this package."""
    while frame is not None and str(frame.f_globals.get("__name__")).startswith(("agentguard.testing.", "contextlib")):
        frame = frame.f_back
    return {frame.f_code} if frame is not None else set()


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_TEXT:
        raise ValueError(f"{path.name} is too large to be searched; sweep a smaller run")
    return path.read_bytes()


@contextmanager
def sweep(
    canaries: Mapping[str, str | Secret] | None = None, *, guards: Iterable[Guard] = (),
    files: Iterable[str | Path] = (), readers: Iterable[Any] = (), mine: Collection[Callable[..., Any]] = (),
) -> Iterator[Sweep]:  # fmt: skip
    """Keep everything that a run leaves behind, for `assert_no_leaks` afterwards.

    While the block runs, that is: log records of all loggers from DEBUG on with their tracebacks, warnings, what is
    printed, and, where the OpenTelemetry SDK's providers are set, spans, log records and baggage. When it ends: the
    guards' records and explanations, the files, the metrics, and an exception that leaves the block.

    Args:
        canaries: secrets by a name that may be shown.
        guards: whose records in memory and explanations are kept.
        files: files and folders, such as the audit log and the state.
        readers: metric readers of the SDK with `get_metrics_data`.
        mine: functions whose local variables may hold a canary; the function with the `with` is one of them.

    Raises:
        ValueError: a canary is too short, or something is too large to be searched.
    """
    from agentguard.testing.leaks.channels import CHANNELS

    found = Sweep(canaries, mine=mine)
    with ExitStack() as channels:
        channels.callback(_files, found, files)  # last: what the channels do when they end may write to them
        for channel in CHANNELS:
            channels.enter_context(channel(found))
        try:
            yield found
        except BaseException as error:
            found.look("the exception that ended the run", error)
            raise
        finally:
            for guard in guards:
                found.guard(guard)
            for reader in readers:
                found.look("metrics", reader.get_metrics_data())


def _files(found: Sweep, places: Iterable[str | Path]) -> None:
    for place in places:
        found.file(place)


def assert_no_leaks(canaries: Mapping[str, str | Secret], /, **places: object) -> None:
    """Fail where a canary stands in a value, in any disguise and in any way the value can be shown.

    Args:
        canaries: secrets by a name that may be shown.
        places: the values, by a name for the report.

    Raises:
        AssertionError: a canary was found.
        ValueError: a canary is too short.
    """
    found = Sweep(canaries)
    for where, value in places.items():
        found.look(where, value)
    found.assert_no_leaks()
