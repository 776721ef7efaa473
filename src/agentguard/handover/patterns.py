"""Patterns over tool names that two registries name: what both admit."""

from __future__ import annotations

from collections.abc import Collection

from agentguard.registry import admits


def both(one: Collection[str] | None, other: Collection[str] | None) -> frozenset[str] | None:
    """Return the patterns of what both admit; None stands for every tool."""
    if one is None or other is None:
        rest = other if one is None else one
        return None if rest is None else frozenset(rest)
    found = {pattern for pattern in one if _within(pattern, other)}
    return frozenset(found | {pattern for pattern in other if _within(pattern, one)})


def _within(pattern: str, others: Collection[str]) -> bool:
    """Whether one of the others admits all that a pattern does."""
    if pattern == "*":
        return "*" in others
    if not pattern.endswith(".*"):
        return admits(others, pattern)
    return any(other == "*" or (other.endswith(".*") and pattern.startswith(other[:-1])) for other in others)
