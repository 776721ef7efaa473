"""The kind `date`: the whole value is a date or a time (ISO 8601, RFC 3339) and lies where the author said."""

from __future__ import annotations

import datetime
import re
from contextlib import suppress
from typing import Any, Final, Self

from msgspec.structs import force_setattr

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, Inner
from agentguard.intent.literal import literal
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, Test, Truth
from agentguard.intent.whole_text import text_test

_DATE: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_TIME: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,6}))?)?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})?"
)
_SHAPES: Final = "{on: 2027-03-31}, {min: 2027-03-01, max: 2027-03-31} or {month: 3, day: 31}"


def moment(text: str) -> datetime.date | None:
    """Return the date or the time that a whole text is, None if it is neither."""
    try:
        if found := _DATE.fullmatch(text):
            return datetime.date(*map(int, found.groups()))
        if found := _TIME.fullmatch(text):
            year, month, day, hour, minute = map(int, found.groups()[:5])
            micro = int((found[7] or "").ljust(6, "0"))
            return datetime.datetime(year, month, day, hour, minute, int(found[6] or 0), micro, _zone(found[8]))
    except ValueError:
        pass
    return None


def _zone(text: str | None) -> datetime.timezone | None:
    if text is None:
        return None
    if text == "Z":
        return datetime.UTC
    hours, minutes = int(text[1:3]), int(text[4:6])
    if minutes > 59:
        raise ValueError("no zone")
    away = datetime.timedelta(hours=hours, minutes=minutes)
    return datetime.timezone(-away if text[0] == "-" else away)


def _day(when: datetime.date) -> datetime.date:
    """The day as it is written, in its own zone."""
    return when.date() if isinstance(when, datetime.datetime) else when


class Date(Constraint, frozen=True):
    """`date: {on}`, `{min, max}` or `{month, day}`; bounds are included, a time counts for the day it is written on.

    A bound that is a time is compared with times only: with a zone on both sides, or on neither.
    """

    on: str = ""
    min: str = ""
    max: str = ""
    month: int = 0
    day: int = 0
    word = "date"

    def __post_init__(self) -> None:
        for name in ("on", "min", "max"):
            force_setattr(self, name, _bound(name, getattr(self, name)))
        for name, most in (("month", 12), ("day", 31)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                raise ConfigurationError(f"{name!r} of date is a whole number from 1 to {most}")
        forms = [bool(self.on), bool(self.min or self.max), bool(self.month or self.day)]
        if sum(forms) != 1:
            raise ConfigurationError(f"'date' takes one of {_SHAPES}")
        low, high = moment(self.min), moment(self.max)
        if low is not None and high is not None and _compared(low, high) in (None, 1):
            raise ConfigurationError("min of date is over max, or one has a time (or a zone) and the other has not")

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        keys = {"on", "min", "max", "month", "day"}
        if (
            not isinstance(node, dict)
            or not node
            or set(node) - keys
            or any(value in ("", 0) for value in node.values())
        ):
            raise ConfigurationError(f"'date' takes one of {_SHAPES}")
        return cls(**node)

    def test(self, argument: str) -> Test:
        return text_test(self._judge, 40)

    def counted_as(self, text: str) -> str:
        when = moment(text)
        if isinstance(when, datetime.datetime) and when.tzinfo is not None:
            with suppress(OverflowError):  # in the first or the last year
                when = when.astimezone(datetime.UTC)
        return when.isoformat() if when is not None else text

    def _judge(self, value: str) -> Truth:
        when = moment(value)
        if when is None:
            return CANNOT_TELL
        day = _day(when)
        if self.month or self.day:
            holds = self.month in (0, day.month) and self.day in (0, day.day)
            return HOLD if holds else FAIL
        if self.on:
            return HOLD if day == moment(self.on) else FAIL
        return self._between(when)

    def _between(self, when: datetime.date) -> Truth:
        answers = [
            order if order is None else order in allowed
            for bound, allowed in ((moment(self.min), (-1, 0)), (moment(self.max), (0, 1)))
            if bound is not None
            for order in (_compared(bound, when),)
        ]
        if False in answers:
            return FAIL
        return CANNOT_TELL if None in answers else HOLD

    def form(self) -> Any:
        names = ("on", "min", "max", "month", "day")
        return {"date": {name: getattr(self, name) for name in names if getattr(self, name)}}

    def must(self) -> str:
        return "be a date with " + ", ".join(f"{name} {value}" for name, value in self.form()["date"].items())


def _compared(bound: datetime.date, when: datetime.date) -> int | None:
    """-1, 0 or 1 as the bound is before, at or after; None where they cannot be compared."""
    if not isinstance(bound, datetime.datetime):
        when = _day(when)
    elif not isinstance(when, datetime.datetime) or (bound.tzinfo is None) is not (when.tzinfo is None):
        return None
    return (bound > when) - (bound < when)


def _bound(name: str, value: object) -> str:
    if value == "" and isinstance(value, str):
        return ""
    text = literal(value)
    when = moment(text) if isinstance(text, str) else None
    if when is None or (name == "on" and isinstance(when, datetime.datetime)):
        example = "a date: 2027-03-31" + ("" if name == "on" else ", or a time: 2027-03-31T12:00:00Z")
        raise ConfigurationError(f"{name!r} of date is {example}")
    return str(text)
