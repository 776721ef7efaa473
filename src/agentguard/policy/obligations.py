"""Obligations: what a permit of a decision point demands besides; one that cannot be met is a deny."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from agentguard.model.call import ToolSpec

By: TypeAlias = Literal["", "operator", "subject"]
KINDS: Final = ("approve", "max_ttl", "per_call_lease", "redact", "notify", "log_arguments")
_LONGEST_TTL: Final = 3600
_MOST: Final = 50
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")


class UnknownObligation(Exception):
    """An obligation is not one of ours, or its value is none; the text names it and says what it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Obligations:
    """What has to be done for a permit to stand; together, those of several permits are at least as strict as each.

    Args:
        approve: who has to approve the call first: `operator`, `subject`, or empty for nobody.
        max_ttl: most seconds that the credential may live; 0 where nothing is demanded.
        per_call_lease: the credential serves this one call.
        redact: names of result members whose values are taken out before anybody gets the result.
        notify: names of those who are told before the tool runs.
        log_arguments: arguments that stand in clear in the audit record.
    """

    approve: By = ""
    max_ttl: int = 0
    per_call_lease: bool = False
    redact: frozenset[str] = frozenset()
    notify: frozenset[str] = frozenset()
    log_arguments: frozenset[str] = frozenset()

    def __and__(self, other: Obligations) -> Obligations:
        """Both at once: the shorter time, an operator's approval over the subject's, and all names of both."""
        ttls = [ttl for ttl in (self.max_ttl, other.max_ttl) if ttl]
        return Obligations(
            approve=max(self.approve, other.approve, key=_APPROVERS.__getitem__),
            max_ttl=min(ttls, default=0),
            per_call_lease=self.per_call_lease or other.per_call_lease,
            redact=self.redact | other.redact,
            notify=self.notify | other.notify,
            log_arguments=self.log_arguments | other.log_arguments,
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of what is demanded."""
        return tuple(kind for kind in KINDS if getattr(self, kind))

    def fields(self) -> dict[str, Any]:
        """The fields of an audit record."""
        found = {kind: getattr(self, kind) for kind in self.kinds}
        return {kind: sorted(value) if isinstance(value, frozenset) else value for kind, value in found.items()}


# One approval serves a call. An operator's holds against an agent that was misled and against the subject too.
_APPROVERS: Final[Mapping[By, int]] = {"": 0, "subject": 1, "operator": 2}
NOTHING: Final = Obligations()


def parse(said: object) -> Obligations:
    """Read obligations as a decision point writes them in JSON: `{"max_ttl": 60, "redact": ["iban"]}`.

    Raises:
        UnknownObligation: there is one that is not ours, or a value that it does not take; nothing of the value is
            in the text.
    """
    if not isinstance(said, Mapping):
        raise UnknownObligation('obligations are an object, such as {"max_ttl": 60}')
    found = NOTHING
    for name, value in said.items():
        read = _READ.get(name)
        if read is None:
            raise UnknownObligation(f"the obligation {_shown(name)} is not known; there are {', '.join(KINDS)}")
        found = found & read(value)
    return found


def from_annotation(name: str, text: str) -> Obligations:
    """Read an obligation as a Cedar annotation writes it: `@max_ttl("60")`, `@redact("iban, email")`.

    Raises:
        UnknownObligation: as `parse`.
    """
    value: object = text
    if name == "max_ttl":
        value = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else text
    elif name == "per_call_lease":
        value = {"": True, "true": True}.get(text, text)
    elif name == "approve":
        value = text or "operator"
    elif name in KINDS:
        value = [part.strip() for part in text.split(",")]
    return parse({name: value})


def _shown(name: object) -> str:
    return repr(name[:40]) if isinstance(name, str) and name.isascii() and name.isprintable() else "with that name"


def _approve(value: object) -> Obligations:
    if value is True or value == "operator":
        return Obligations(approve="operator")
    if value == "subject":
        return Obligations(approve="subject")
    raise UnknownObligation('approve takes true, "operator" or "subject"')


def _max_ttl(value: object) -> Obligations:
    if type(value) is not int or not 0 < value <= _LONGEST_TTL:
        raise UnknownObligation(f"max_ttl takes whole seconds from 1 to {_LONGEST_TTL}")
    return Obligations(max_ttl=value)


def _per_call_lease(value: object) -> Obligations:
    if value is not True:
        raise UnknownObligation("per_call_lease takes true")
    return Obligations(per_call_lease=True)


def _names(kind: str, value: object) -> frozenset[str]:
    if not isinstance(value, list) or not 0 < len(value) <= _MOST:
        raise UnknownObligation(f"{kind} takes a list of 1 to {_MOST} names")
    if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in value):
        raise UnknownObligation(f"{kind} takes names of letters, digits and . _ -")
    return frozenset(value)


_READ: Final[Mapping[str, Callable[[object], Obligations]]] = {
    "approve": _approve,
    "max_ttl": _max_ttl,
    "per_call_lease": _per_call_lease,
    "redact": lambda value: Obligations(redact=_names("redact", value)),
    "notify": lambda value: Obligations(notify=_names("notify", value)),
    "log_arguments": lambda value: Obligations(log_arguments=_names("log_arguments", value)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Discharges:
    """What can be done about obligations, for calls of one tool.

    Args:
        kinds: the obligations that whoever asks carries out.
        notify: the names that can be told.
        spec: the tool's declaration, where it is known.
    """

    kinds: frozenset[str] = frozenset({"approve"})
    notify: frozenset[str] = frozenset()
    spec: ToolSpec | None = None

    def problem(self, obligations: Obligations) -> str:
        """Say what cannot be carried out, or nothing."""
        for kind in obligations.kinds:
            if kind not in self.kinds:
                return f"the obligation {kind} cannot be carried out here"
        if unknown := sorted(obligations.notify - self.notify):
            return f"nobody is configured to be notified as {unknown[0]!r}"
        return _spec_problem(obligations, self.spec) if self.spec is not None else ""


def _spec_problem(obligations: Obligations, spec: ToolSpec) -> str:
    if hidden := sorted(obligations.log_arguments & spec.secret):
        return f"log_arguments names {hidden[0]!r}, which the tool keeps secret"
    if spec.parameters is not None and (other := sorted(obligations.log_arguments - spec.parameters)):
        return f"log_arguments names {other[0]!r}, which is no argument of the tool"
    return ""
