"""The form of a record: its line cut at what changes, made once for records whose fields are called alike.

A guarded call writes the same few kinds of record again and again. What RFC 8785 says about them (the order of members,
names, quotes) is the same each time, and so are the facts they share: that is written once. What changes is put
between. INVARIANT: what is put there is the RFC 8785 form of a value. For text that needs no escapes that is the text
itself, which the form quotes; everything else goes through `clean` and `jcs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agentguard.audit.fields import MAX_TEXT, RESERVED, clean, name_of
from agentguard.errors import AuditUnavailable
from agentguard.model.canonical import jcs
from agentguard.model.record import Facts, Record

VERSION: Final = 1
MARK: Final = "\x00"  # where `hash` goes; no JSON holds it
_HOLE: Final = "\x01"  # nor this
OWN: Final = 5  # chain, prev, seq, the second and its part: what the record's place in its chain says
_KEPT: Final = 256  # forms of a kind; there are a few dozen
encoded: Final[Callable[[object], bytes]] = msgspec.json.Encoder(order="sorted").encode
_Values: TypeAlias = Sequence[Any]
_Names: TypeAlias = tuple[str, ...]
_Key: TypeAlias = tuple[Any, ...]  # event and names, with types where those are to be told apart
_T = TypeVar("_T")


class Form(Struct, frozen=True):
    """How to write records of one event with the same facts and the same names of fields.

    Args:
        fixed: what stays of the line.
        order: the line's pieces, from the values of the fields, the five of the record's own, and `fixed`.
        others: places of the values that are no text; of the others `fixed` has the quotes.
        names: of the fields.
    """

    fixed: list[str]
    order: Callable[[Sequence[str]], Iterable[str]]
    others: tuple[int, ...]
    names: _Names


_NONE: Final = Form([], tuple, (), None)  # type: ignore[arg-type]  # no record has names that equal it


class _Layout(Struct, frozen=True):
    """A form whose facts are still to be put in: text, a mark for every hole, and below zero the numbers of facts."""

    pieces: Sequence[str | int]
    form: Form

    def of(self, facts: Sequence[str]) -> Form:
        text = "".join([piece if isinstance(piece, str) else facts[~piece] for piece in self.pieces])
        return replace(self.form, fixed=text.split(_HOLE))


class _Kin(Struct, frozen=True):
    """Facts of the same names: those names as they are recorded, and the layouts of records with such facts."""

    names: _Names
    layouts: dict[_Key, _Layout]


class Shared(dict[str, Form]):
    """What is known of facts: by event, the form that the latest record of it had. Empty only before the first one.

    Attributes:
        kin: facts of the same names.
        said: what they say, as it is recorded.
        forms: of the records that hold them.
    """

    def __init__(self, kin: _Kin, said: Sequence[str]) -> None:
        self.kin, self.said = kin, said
        self.forms: dict[_Key, Form] = {}

    def __missing__(self, event: str) -> Form:
        return _NONE


NO_FACTS: Final = Shared(_Kin((), {}), ())
_KIN: Final[dict[_Names, _Kin]] = {}


def form_of(record: Record, shared: Shared) -> Form:
    """The form of records that have this one's event and names, as its values' types suggest it."""
    names, values = (*record.fields,), (*record.fields.values(),)
    key = (record.event, *names)
    form = shared.forms.get(key) or _formed(record.event, names, values, shared, key)
    return _kept(shared, record.event, form)


def strictly(record: Record, shared: Shared, own: Sequence[str]) -> tuple[Form, list[str]]:
    """Its form and its values by the rules alone: nothing is taken for what it was in another record.

    Args:
        record: what is written.
        shared: what is known of its facts.
        own: what its place in the chain says; of that the chain's name alone can need an escape.

    Raises:
        AuditUnavailable: a field cannot be recorded.
    """
    names, given = (*record.fields,), (*record.fields.values(),)
    key = (record.event, *names, *map(type, given))
    form = shared.forms.get(key) or _formed(record.event, names, given, shared, key)
    values = [json_of(value, name) for name, value in zip(names, given, strict=True)]
    for at in {*range(len(names))} - {*form.others}:
        values[at] = values[at][1:-1]
    return form, [*values, json_of(own[0], "chain")[1:-1], *own[1:]]


def json_of(value: object, name: str) -> str:
    """The RFC 8785 form of a field's value.

    Raises:
        AuditUnavailable: it cannot be recorded.
    """
    if type(value) is str and value.isascii() and len(value) <= MAX_TEXT and len(encoded(value)) == len(value) + 2:
        return f'"{value}"'
    return jcs(clean(value, name)).decode()


def shared_of(facts: Facts) -> Shared:
    """What is known of facts, which are looked at once.

    Raises:
        AuditUnavailable: they cannot be recorded, or use a name of the record's own.
    """
    names = (*facts,)
    kin = _KIN.get(names) or _kept(_KIN, names, _Kin((*map(_name, names),), {}))
    facts.prepared = Shared(kin, [json_of(value, name) for name, value in facts.items()])
    return facts.prepared  # type: ignore[no-any-return]  # any sink may keep its own form there


def _kept(kept: dict[Any, _T], key: Any, value: _T) -> _T:
    if len(kept) >= _KEPT:
        kept.clear()
    kept[key] = value
    return value


def _formed(event: str, names: _Names, values: _Values, shared: Shared, key: _Key) -> Form:
    kin = shared.kin
    layout = kin.layouts.get(key) or _kept(kin.layouts, key, _laid_out(event, names, values, kin.names))
    return _kept(shared.forms, key, layout.of(shared.said))


def _name(given: str) -> str:
    if given in RESERVED:
        raise AuditUnavailable(f"field {given!r} is a name of the record's own; call it something else")
    return name_of(given, "")


def _laid_out(event: str, names: _Names, values: _Values, facts: _Names) -> _Layout:
    texts = [at for at in range(len(names)) if type(values[at]) is str]
    first, prev, seq, second, part = range(len(names), len(names) + OWN)
    members: dict[str, tuple[str | int, ...]] = {name: (~number,) for number, name in enumerate(facts)}
    members |= {_name(name): ('"', at, '"') if at in texts else (at,) for at, name in enumerate(names)}
    members |= {
        "chain": ('"', first, '"'), "event": (json_of(str.__str__(event), "event"),),
        "prev": ('"', prev, '"'), "seq": (seq,),
        "time": ('"', second, ".", part, 'Z"'), "v": (str(VERSION),),
    }  # fmt: skip
    pieces, holes = _in_order(members)
    after = len(names) + OWN  # there `fixed` begins, which stands around every hole
    order = [after, *(at for number, hole in enumerate(holes, after + 1) for at in (hole, number))]
    form = Form([], itemgetter(*order), tuple(at for at in range(len(names)) if at not in texts), names)
    return _Layout(pieces, form)


def _in_order(members: Mapping[str, Sequence[str | int]]) -> tuple[list[str | int], list[int]]:
    """The pieces of a line, and what goes into its holes."""
    pieces: list[str | int] = ["{"]
    order: list[int] = []
    names = sorted(members, key=lambda name: name.encode("utf-16-be"))  # RFC 8785, section 3.2.3
    for number, name in enumerate(names):
        if number:
            pieces.append(MARK if names[number - 1] < "hash" < name else ",")
        pieces.append(f"{jcs(name).decode()}:")  # it is as it is recorded
        for piece in members[name]:
            if isinstance(piece, int) and piece >= 0:
                order.append(piece)
                pieces.append(_HOLE)
            else:
                pieces.append(piece)
    return [*pieces, "}"], order
