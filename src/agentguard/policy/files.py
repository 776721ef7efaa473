"""Policy files that change while the process runs: taken as a whole, or not at all.

A change is taken when the files have looked the same twice, an interval apart, so that a folder that is being written
is not read half. What cannot be loaded leaves the policies that were: said once in the log, and in every record.

INVARIANT: a policy is left out only where its file is gone. What cannot be listed, read or followed is a mistake, as it
may be the one that forbids.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

import anyio.to_thread

from agentguard._drive import driven
from agentguard.errors import ConfigurationError
from agentguard.policy.fork import renew_after_fork

T = TypeVar("T")
_log: Final = logging.getLogger("agentguard")
_MOST_FILES: Final = 1000
_MOST_BYTES: Final = 8 << 20
_Look: TypeAlias = tuple[tuple[str, int, int, int, int], ...]


class _Unread(ConfigurationError):
    """The system kept a file or folder from being read, which may pass by itself."""


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A file as it was read: its path below the folder, and its text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """Policies in force.

    Args:
        value: what was built of the files.
        version: `sha256:` and the digest over the files' names and contents.
        problem: why the files as they are now cannot be loaded, or empty.
    """

    value: T
    version: str
    problem: str = ""


class PolicyFiles(Generic[T]):
    """A folder of policies, or one file, watched by looking at it now and then. Safe for concurrent use.

    Args:
        path: the folder, or the file.
        build: makes of the files what decides; raises ConfigurationError where they are wrong.
        suffixes: of the files that count.
        interval: seconds between two looks; 0 looks every time.
        clock: monotonic seconds.

    Raises:
        ConfigurationError: there is nothing there, too much, or it cannot be loaded.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        build: Callable[[Sequence[PolicyFile]], T],
        *,
        suffixes: Sequence[str],
        interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= interval <= 3600:
            raise ConfigurationError(f"policy interval {interval!r}: write seconds from 0 to 3600")
        # Absolute, as the process may change its working directory while it is looked at.
        self._path, self._build, self._suffixes = Path(path).absolute(), build, tuple(suffixes)
        self._interval, self._clock, self._again = interval, clock, False
        self.renew()
        self._looked_at, self._seen = clock(), self._look()
        self._taken = self._seen
        self._loaded = self._load()
        renew_after_fork(self)

    @property
    def loaded(self) -> Loaded[T]:
        """The policies in force, without looking."""
        return self._loaded

    @property
    def due(self) -> bool:
        """Whether the interval has passed since the last look."""
        return not 0 <= self._clock() - self._looked_at < self._interval

    def renew(self) -> None:
        """In a forked child: a lock that another thread of the parent held stays held for ever."""
        self._lock = threading.Lock()

    def refresh(self) -> Loaded[T]:
        """Look at the files if it is time, and return the policies in force. Blocking; never raises for a bad file."""
        if self.due and self._lock.acquire(blocking=False):
            try:
                self._turn(settled=self._interval == 0)
            finally:
                self._lock.release()
        return self._loaded

    def reload(self) -> Loaded[T]:
        """Load the files now, as they are.

        Raises:
            ConfigurationError: they cannot be loaded; the policies that were stay in force.
        """
        with self._lock:
            self._turn(settled=True)
        if self._loaded.problem:
            raise ConfigurationError(self._loaded.problem)
        return self._loaded

    def _turn(self, *, settled: bool) -> None:
        look, before = self._look(), self._seen
        self._looked_at, self._seen = self._clock(), look
        if look == self._taken and not ((settled or self._again) and self._loaded.problem):
            return
        if look == before or settled:
            self._take(look)

    def _take(self, look: _Look) -> None:
        old, again = self._loaded, self._again
        self._taken, self._again = look, False
        try:
            self._loaded = self._load()
        except Exception as error:  # whatever it is, the old policies stay
            said = str(error) if isinstance(error, ConfigurationError) else type(error).__name__
            self._again = isinstance(error, _Unread | MemoryError)
            self._loaded = Loaded(old.value, old.version, f"{self._path.name}: {said}")
            if not (again and self._loaded.problem == old.problem):
                said = self._loaded.problem
                _log.error("policies were NOT reloaded, those of %s stay in force: %s", old.version, said)
        else:
            if self._loaded.version != old.version:
                _log.warning("policies were reloaded: %s, before %s", self._loaded.version, old.version)

    def _load(self) -> Loaded[T]:
        for _ in range(3):
            look = self._look()
            files = self._read()
            if look == self._look():
                return Loaded(self._build(files), version_of(files))
        raise ConfigurationError(f"{self._path.name} changes while it is read")

    def _read(self) -> list[PolicyFile]:
        files, size = [], 0
        for path in self._paths():
            try:
                data = path.read_bytes()
                text = data.decode("utf-8")
            except OSError as error:
                raise _Unread(f"{path.name} cannot be read ({type(error).__name__})") from None
            except UnicodeDecodeError:
                raise ConfigurationError(f"{path.name} cannot be read (UnicodeDecodeError)") from None
            size += len(data)
            if size > _MOST_BYTES:
                raise ConfigurationError(f"{self._path.name} holds more than {_MOST_BYTES >> 20} MiB")
            files.append(PolicyFile(self._name(path), text))
        if not files:
            raise ConfigurationError(
                f"{self._path} holds no policy: no file that ends with {', '.join(self._suffixes)}"
            )
        return files

    def _name(self, path: Path) -> str:
        return path.name if path == self._path else path.relative_to(self._path).as_posix()

    def _paths(self) -> list[Path]:
        try:
            if self._path.is_file():
                return [self._path]
            found = list(self._below(self._path, ())) if self._path.is_dir() else []
        except OSError as error:
            raise _Unread(f"{self._path.name} cannot be listed ({type(error).__name__})") from None
        if len(found) > _MOST_FILES:
            raise ConfigurationError(f"{self._path.name} holds more than {_MOST_FILES} files")
        return sorted(found)

    def _below(self, folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
        """The files below a folder; links are followed."""
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise ConfigurationError(f"{folder.name} is a link to a folder that holds it")
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".."):  # where Kubernetes keeps the versions that the links beside point to
                    continue
                if entry.is_dir():
                    yield from self._below(folder / entry.name, (*above, here))
                elif entry.name.endswith(self._suffixes):
                    if entry.is_file():
                        yield folder / entry.name
                    elif not entry.name.startswith("."):  # as editors' locks are, which are links to nowhere
                        raise _Unread(f"{entry.name} is no file, or a link to none")

    def _look(self) -> _Look:
        """What tells one state of the files from another; a file that goes while it is looked at is another state."""
        try:
            return tuple(self._stat(path) for path in self._paths())
        except (OSError, ConfigurationError):
            return ()

    def _stat(self, path: Path) -> tuple[str, int, int, int, int]:
        found = path.stat()
        return (self._name(path), found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


async def refreshed(files: PolicyFiles[T]) -> Loaded[T]:
    """Return the policies in force; a look at the disk blocks a synchronous caller, and no event loop."""
    if not files.due:
        return files.loaded
    if driven():
        return files.refresh()
    return await anyio.to_thread.run_sync(files.refresh)


def version_of(files: Sequence[PolicyFile]) -> str:
    """`sha256:` and the digest over names and contents, in the order of the names."""
    whole = hashlib.sha256()
    for file in files:
        for part in (file.name.encode("utf-8", "surrogateescape"), file.text.encode()):
            whole.update(len(part).to_bytes(8, "big") + part)
    return f"sha256:{whole.hexdigest()}"
