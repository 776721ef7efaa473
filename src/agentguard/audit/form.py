"""The form of a record: its line cut at what changes, made once for records whose fields are called alike.

A guarded call writes the same few kinds of record again and again. What RFC 8785 says about them (the order of members,
names, quotes) is the same each time, and so are the facts they share: that is written once. What changes is put
between. INVARIANT: what is put there is the RFC 8785 form of a value. For text that needs no escapes that is the text
itself, which the form quotes; everything else goes through `clean` and `jcs`.
"""

from __future__ import annotations

import json.encoder
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final, TypeAlias, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from agentguard.audit.fields import MAX_INT, MAX_TEXT, RESERVED, clean, name_of
from agentguard.errors import AuditUnavailable
from agentguard.model.canonical import jcs
from agentguard.model.record import Facts

VERSION: Final = 1
MARK: Final = "\x00"  # where `hash` goes; no JSON holds it
_HOLE: Final = "\x01"  # nor this
_BLANK: Final = ("",) * 5  # chain, prev, seq, the second and its part: what the record's place in its chain says
_KEPT: Final = 256  # forms of a kind; there are a few dozen
_escaped: Final[Callable[[str], str]] = json.encoder.encode_basestring_ascii
_Values: TypeAlias = Sequence[Any]
_Names: TypeAlias = tuple[str, ...]
_Key: TypeAlias = tuple[Any, ...]  # event and names, with types where those are to be told apart
_T = TypeVar("_T")


class Form(Struct, frozen=True):
    """How to write records of one event with the same facts and the same names of fields.

    Args:
        parts: what stays, and between every two of them an empty one for what changes.
        order: picks what changes, from the values of the fields and `_BLANK`.
        own: where the parts are that `_BLANK` leaves to the chain.
        texts: picks the values that are text; the parts have their quotes.
        others: places of the values that are not.
        names: of all values.
    """

    parts: Sequence[str]
    order: Callable[[_Values], Iterable[str]]
    own: tuple[int, ...]
    texts: Callable[[_Values], Iterable[str]]
    others: tuple[int, ...]
    names: _Names


Body: TypeAlias = tuple[Form, list[str]]  # a record before it is chained: its form, and the parts with all fields


class _Layout(Struct, frozen=True):
    """A form whose facts are still to be put in: text, a mark for every hole, and below zero the numbers of facts."""

    pieces: Sequence[str | int]
    form: Form

    def of(self, facts: Sequence[str]) -> Form:
        text = "".join([piece if isinstance(piece, str) else facts[~piece] for piece in self.pieces])
        fixed = text.split(_HOLE)
        parts = [""] * (2 * len(fixed) - 1)
        parts[::2] = fixed
        return replace(self.form, parts=parts)


class _Kin(Struct, frozen=True):
    """Facts of the same names: those names as they are recorded, and the layouts of records with such facts."""

    names: _Names
    layouts: dict[_Key, _Layout]


class _Shared(Struct, frozen=True):
    """Facts: their kin, their values as they are recorded, and the forms of the records that hold them."""

    kin: _Kin
    values: Sequence[str]
    forms: dict[_Key, Form]


_NO_FACTS: Final = _Shared(_Kin((), {}), (), {})
_KIN: Final[dict[_Names, _Kin]] = {}


def prepare(event: str, fields: Mapping[str, Any], facts: Facts | None = None) -> Body:
    """Return what of a record does not depend on where it will stand.

    Args:
        event: the event code.
        fields: text, whole numbers below 2^53, booleans, None, lists and mappings with text as keys.
        facts: more of them, shared by many records; they are looked at once.

    Raises:
        AuditUnavailable: a field cannot be recorded, or uses a name of the record's own.
    """
    given = [*fields.values(), *_BLANK]
    values: _Values = given
    shared = _NO_FACTS if not facts else facts.prepared or _shared(facts)
    key = (event, *fields)
    form = shared.forms.get(key) or _formed(event, (*fields,), given, shared, key)
    try:
        plain = "".join(form.texts(given))
        if form.others:
            values = filled = [*given]
            for at in form.others:
                value, kind = given[at], type(given[at])
                if kind is list or kind is tuple:
                    items = (*value,)
                    plain += "".join(items)
                    filled[at] = '["' + '","'.join(items) + '"]' if items else "[]"
                elif kind is int and -MAX_INT < value < MAX_INT:
                    filled[at] = str(value)
                else:
                    filled[at] = _json(value, form.names[at])
        # One look at all texts: quotes around them are all that is added, unless a character needs an escape.
        if len(_escaped(plain)) != len(plain) + 2 or len(plain) > MAX_TEXT:
            form, values = _strictly(event, (*fields,), given, shared)
    except TypeError:  # something else stands where there was text
        form, values = _strictly(event, (*fields,), given, shared)
    parts = [*form.parts]
    parts[1::2] = form.order(values)
    return form, parts


def _strictly(event: str, names: _Names, given: _Values, shared: _Shared) -> tuple[Form, _Values]:
    """The same by the rules alone: nothing is taken for what it was in another record."""
    key = (event, *names, *map(type, given))
    form = shared.forms.get(key) or _formed(event, names, given, shared, key)
    values = [_json(value, name) for name, value in zip(names, given, strict=False)]
    for at in {*range(len(names))} - {*form.others}:
        values[at] = values[at][1:-1]
    return form, [*values, *_BLANK]


def _json(value: object, name: str) -> str:
    if type(value) is str and len(value) <= MAX_TEXT and len(_escaped(value)) == len(value) + 2:
        return f'"{value}"'
    return jcs(clean(value, name)).decode()


def _shared(facts: Facts) -> _Shared:
    names = (*facts,)
    kin = _KIN.get(names) or _kept(_KIN, names, _Kin((*map(_name, names),), {}))
    facts.prepared = _Shared(kin, [_json(value, name) for name, value in facts.items()], {})
    return facts.prepared  # type: ignore[no-any-return]  # any sink may keep its own form there


def _kept(kept: dict[Any, _T], key: Any, value: _T) -> _T:
    if len(kept) >= _KEPT:
        kept.clear()
    kept[key] = value
    return value


def _formed(event: str, names: _Names, values: _Values, shared: _Shared, key: _Key) -> Form:
    kin = shared.kin
    layout = kin.layouts.get(key) or _kept(kin.layouts, key, _laid_out(event, names, values, kin.names))
    return _kept(shared.forms, key, layout.of(shared.values))


def _name(given: str) -> str:
    if given in RESERVED:
        raise AuditUnavailable(f"field {given!r} is a name of the record's own; call it something else")
    return name_of(given, "")


def _laid_out(event: str, names: _Names, values: _Values, facts: _Names) -> _Layout:
    texts = [at for at in range(len(names)) if type(values[at]) is str]
    first, prev, seq, second, part = own = range(len(names), len(names) + len(_BLANK))
    members: dict[str, tuple[str | int, ...]] = {name: (~number,) for number, name in enumerate(facts)}
    members |= {_name(name): ('"', at, '"') if at in texts else (at,) for at, name in enumerate(names)}
    members |= {
        "chain": (first,), "event": (_json(str.__str__(event), "event"),), "prev": ('"', prev, '"'), "seq": (seq,),
        "time": ('"', second, ".", part, 'Z"'), "v": (str(VERSION),),
    }  # fmt: skip
    pieces, order = _in_order(members)
    form = Form(
        (), itemgetter(*order), tuple(2 * order.index(at) + 1 for at in own), _picking(texts, len(names)),
        tuple(at for at in range(len(names)) if at not in texts), names,
    )  # fmt: skip
    return _Layout(pieces, form)


def _in_order(members: Mapping[str, Sequence[str | int]]) -> tuple[list[str | int], list[int]]:
    """The pieces of a line, and what goes into its holes."""
    pieces: list[str | int] = ["{"]
    order: list[int] = []
    names = sorted(members, key=lambda name: name.encode("utf-16-be"))  # RFC 8785, section 3.2.3
    for number, name in enumerate(names):
        if number:
            pieces.append(MARK if names[number - 1] < "hash" < name else ",")
        pieces.append(f"{_json(name, name)}:")
        for piece in members[name]:
            if isinstance(piece, int) and piece >= 0:
                order.append(piece)
                pieces.append(_HOLE)
            else:
                pieces.append(piece)
    return [*pieces, "}"], order


def _picking(places: list[int], of: int) -> Callable[[_Values], Iterable[str]]:
    if len(places) == of:
        return itemgetter(slice(of))
    if len(places) > 1:
        return itemgetter(*places)
    # Never one value by itself: a list of texts in its place would pass for texts.
    first = places[0] if places else 0
    return itemgetter(slice(first, first + len(places)))


@lru_cache(maxsize=64)
def quoted(text: str) -> str:
    """The RFC 8785 form of a text that many records hold."""
    return jcs(text).decode()
