"""The three outcomes; a module of its own, because a step of an intent needs nothing else of a decision."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What is decided about a call; the strictest of several wins, in this order: permit, ask, deny."""

    PERMIT = "permit"
    ASK = "ask"
    DENY = "deny"
