"""A log must not be shared with a forked child: whoever asks is told, in the child, right after the fork."""

from __future__ import annotations

import os
from typing import Final, Protocol
from weakref import WeakSet


class Forked(Protocol):
    """Something that starts anew in a forked child; no other thread runs there yet."""

    def after_fork_in_child(self) -> None: ...


_all: Final[WeakSet[Forked]] = WeakSet()


def tell_of_forks(log: Forked) -> None:
    """Call `log.after_fork_in_child()` in every child forked from here on, for as long as the log is referenced."""
    _all.add(log)


def _in_child() -> None:
    for log in list(_all):
        log.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
