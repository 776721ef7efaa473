"""Where a value has to come from, as Python writes it: an earlier call, the subject's words, or the first use."""

from __future__ import annotations

from collections.abc import Mapping

from agentguard.errors import ConfigurationError
from agentguard.intent.binds import Bind
from agentguard.intent.constraint import Constraint
from agentguard.intent.literal import FrozenMapping
from agentguard.intent.provenance import From
from agentguard.intent.said_words import Said
from agentguard.intent.values import constraint

said: Constraint = Said()


def from_(
    *, tool: str = "", step: str = "", field: str | None = None, arg: str | None = None,
    args: Mapping[str, object] | None = None, where: Mapping[str, object] | None = None,
    match: str | Mapping[str, object] = "whole", unique: bool = False,
) -> Constraint:  # fmt: skip
    """The value stood in this field of the result of an earlier permitted call, in this root task.

    Args:
        tool: of a call of this tool.
        step: or of the call that consumed this step.
        field: where in the result: `address.street`, `[].iban`, `*.id`, `accounts.~keys`, or `$` for the whole.
        arg: instead of a field, an argument of the call that consumed the step.
        args: which of the calls, by its checked arguments: `{"url": "https://intranet.example"}`.
        where: which of the fields, by their siblings: `{"sender": "ann@acme.com"}`; names resolve outward to the
            result's root, and `args.x` is the earlier call's argument.
        match: `whole`, or what is found inside a text field: `url`, `email`, `iban`, `line` or
            `{"regex": PATTERN, "group": 1}`.
        unique: more than one distinct candidate fails.

    Raises:
        ConfigurationError: it says what is wrong and what to write instead.
    """
    return From(
        tool, step, field, arg, _constraints("args", args), _constraints("where", where),  # type: ignore[arg-type]
        match, unique,  # type: ignore[arg-type]  # field paths and match are read by From itself
    )  # fmt: skip


def bind(name: str) -> Constraint:
    """The first value that is used sets this name; every later use must equal it, in any step."""
    return Bind(name)


def _constraints(what: str, entries: Mapping[str, object] | None) -> FrozenMapping[Constraint]:
    if entries is None:
        return FrozenMapping()
    if not entries or not hasattr(entries, "items"):
        raise ConfigurationError(f"{what!r} of from_ is a mapping of names and constraints, or left out")
    return FrozenMapping({name: constraint(value) for name, value in entries.items()})
