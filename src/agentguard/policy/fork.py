"""Locks in a forked child: the threads that held them are the parent's, so each is made anew."""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol


class Renewed(Protocol):
    """Has something that a forked child makes anew."""

    def renew(self) -> None: ...


_known: Final[weakref.WeakSet[Renewed]] = weakref.WeakSet()


def renew_after_fork(holder: Renewed) -> None:
    """Have `renew` called in every forked child."""
    _known.add(holder)


def _after_fork() -> None:
    for holder in list(_known):
        holder.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
