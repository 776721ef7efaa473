"""Finding live credentials in texts: arguments, results, streamed parts, exceptions.

What counts as a leak: the payload or the signature of a live token (the header is no secret, and a payload without its
signature is one), or an opaque secret as a whole; bare, inside a longer run, base64-encoded once more at any alignment,
also where lines are wrapped or the text is percent-encoded.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import ItemsView, KeysView, Mapping, ValuesView
from decimal import Decimal
from types import BuiltinFunctionType, FunctionType, MethodType, MethodWrapperType, ModuleType, TracebackType
from typing import Any, Final
from urllib.parse import unquote

from agentguard.credentials.needles import FEW, RUN, START, Few, Many, Watch, shortest_of
from agentguard.model.credential import Issued
from agentguard.model.lease import Secret

MARK: Final = "[credential removed]"
_DEPTH: Final = 64
_MOST: Final = 100_000  # objects that one search looks into
_FEW: Final = 1_000
_PLAIN: Final = (
    int, float, complex, Decimal, FunctionType, BuiltinFunctionType, MethodType, MethodWrapperType, ModuleType, type,
)  # fmt: skip
_BARE: Final = frozenset({dict, list, tuple, set, frozenset, deque})
# A response of httpx or requests holds what its transport sent: no part of what the tool returns, and shown nowhere.
_WIRE: Final = frozenset({"httpcore", "h11", "h2", "urllib3"})
_HELD: Final = ("filename", "filename2", "object", "value", "code", "text", "msg")  # what C keeps beside `args`


class LiveSecrets:
    """The secrets of all live leases of one guard. Safe for concurrent use.

    A secret is watched at the price of one reference; what is looked for is made when the first text is looked at that
    could hold one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fresh: dict[str, Secret] = {}  # INVARIANT: each is here or in `_watch`, and here only until a search
        self._watch: Watch = Few()
        self.shortest = 0  # no text below this length can hold a secret; 0 where nothing is watched
        self._searched = False  # whether anything was ever put into `_watch`

    def add(self, issued: Issued) -> None:
        """Watch a secret."""
        secret = issued.secret
        shortest = shortest_of(secret.reveal())
        with self._lock:
            self._fresh[issued.lease.id] = secret
            if shortest < self.shortest or not self.shortest:
                self.shortest = shortest

    def fold(self, lease_id: str, secret: Secret) -> None:
        """Hold no second copy of a secret that is kept folded."""
        with self._lock:
            for known in (self._fresh, self._watch.secrets):
                if lease_id in known:
                    known[lease_id] = secret

    def discard(self, lease_id: str) -> None:
        """Stop watching: the credential is dead."""
        with self._lock:
            if self._fresh.pop(lease_id, None) is None:
                self._watch.discard(lease_id)
            if not self._fresh and not (self._searched and self._watch.secrets):
                self.shortest, self._fresh = 0, {}  # a table that was large stays large
                if self._searched:
                    self._watch, self._searched = Few(), False

    def __bool__(self) -> bool:
        return bool(self._fresh or self._watch.secrets)

    def _expanded(self) -> Watch:
        """Make what is looked for, when the first text is looked at that could hold it.

        INVARIANT: whoever reads has a watch that is whole: one of another kind is filled before it takes the place.
        """
        if not self._fresh:
            return self._watch
        with self._lock:
            watch, fresh = self._watch, self._fresh
            if isinstance(watch, Few) and len(watch.secrets) + len(fresh) > FEW:
                watch, fresh = Many(), {**watch.secrets, **fresh}
            for lease, secret in fresh.items():
                watch.add(lease, secret)
            self._watch, self._fresh, self._searched = watch, {}, True
        return watch

    def found_in(self, text: str) -> set[str]:
        """Ids of the leases whose secret stands in a text."""
        shortest = self.shortest
        if not shortest or len(text) < shortest:
            return set()
        views = [text]
        if "\n" in text:
            views.append(text.replace("\r", "").replace("\n", ""))
        views += [unquote(view) for view in views if "%" in view]
        watch = self._expanded()
        return set().union(*[watch.found(view, shortest) for view in views])

    def cleaned(self, text: str) -> tuple[str, set[str]]:
        """Return the text without secrets, and the leases that were hit; the whole text goes if nothing less helps."""
        hits = self.found_in(text)
        if not hits:
            return text, hits
        text = RUN.sub(lambda run: MARK if self.found_in(run[0]) else run[0], text)
        watch = self._expanded()
        for form in [form for lease in hits for form in watch.forms(lease)]:
            text = text.replace(form, MARK)
        return (MARK if self.found_in(text) else text), hits

    def open_end(self, text: str) -> int:
        """Length of the longest tail that may be the beginning of a secret; 0 below four characters."""
        return self._expanded().open_end(text) if self.shortest else 0


class Search:
    """One search through a value; `hits` collects the leases whose secret was found."""

    __slots__ = ("_cyclic", "_done", "_found", "_most", "_wire", "hits", "live")

    def __init__(self, live: LiveSecrets, most: int = _MOST, *, wire: bool = False) -> None:
        self.live, self._wire = live, wire
        self.hits: set[str] = set()
        self._most = most
        self._done: dict[int, tuple[Any, Any]] = {}  # INVARIANT: it keeps what it has seen, so no id is used twice
        self._cyclic = self._found = False

    def text(self, text: str) -> str:
        """Return the text without secrets."""
        if len(text) < self.live.shortest:
            return text
        cleaned, hits = self.live.cleaned(text)
        self.hits |= hits
        self._found |= bool(hits)
        return cleaned

    def value(self, value: Any) -> Any:
        """Return a value without secrets: the very same object when nothing was found.

        Texts, bytes, lists, tuples, sets and mappings are rebuilt; the fields of other objects are looked at, and
        where one holds a secret the whole object is replaced by the mark. So is what is nested too deep or too large
        to be searched, and a cycle that holds a secret.
        """
        if not self.live.shortest:
            return value
        self._done, self._cyclic, self._found = {}, False, False
        clean = self._value(value, 0)
        self._done = {}
        return MARK if self._cyclic and self._found else clean

    def _value(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, _PLAIN):
            return value
        if isinstance(value, str):
            exact = value if type(value) is str else str.__str__(value)
            return value if (clean := self.text(exact)) is exact else clean
        if isinstance(value, bytes | bytearray | memoryview):
            text = bytes(value).decode("latin-1")
            return value if (clean := self.text(text)) is text else type(value)(clean.encode("latin-1"))
        if id(value) in self._done:
            self._cyclic |= self._done[id(value)][1] is self
            return value if self._done[id(value)][1] is self else self._done[id(value)][1]
        if depth > _DEPTH or len(self._done) > self._most:
            return MARK
        if not self._wire and type(value).__module__.partition(".")[0] in _WIRE:
            return value
        self._done[id(value)] = (value, self)
        clean = self._compound(value, depth + 1)
        self._done[id(value)] = (value, clean)
        return clean

    def _compound(self, value: Any, depth: int) -> Any:
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, list | tuple | set | frozenset | deque):
            return self._sequence(value, depth)
        if isinstance(value, KeysView | ValuesView | ItemsView):
            return value if self._same(list(value), depth) else MARK
        return self._object(value, depth)

    def _same(self, items: list[Any], depth: int) -> bool:
        return all(self._value(item, depth) is item for item in items)

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        pairs = list(value.items())
        clean = [(self._value(key, depth), self._value(item, depth)) for key, item in pairs]
        unchanged = all(a is b and c is d for (a, c), (b, d) in zip(clean, pairs, strict=True))
        return value if unchanged and self._same(_fields_of(value), depth) else dict(clean)

    def _sequence(self, value: Any, depth: int) -> Any:
        old = list(value)
        items = [self._value(item, depth) for item in old]
        if all(new is item for new, item in zip(items, old, strict=True)) and self._same(_fields_of(value), depth):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)

    def _object(self, value: Any, depth: int) -> Any:
        inside = [*value.args, *_fields_of(value)] if isinstance(value, BaseException) else _fields_of(value)
        return value if self._same(inside, depth) else MARK


def _fields_of(value: Any) -> list[Any]:
    """What an object holds in its fields and slots."""
    kind = type(value)
    if kind in _BARE:
        return []
    fields = getattr(value, "__dict__", None)
    found = list(fields.values()) if isinstance(fields, dict) else []
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            hidden = slot.startswith("__") and not slot.endswith("__")
            name = f"_{base.__name__.lstrip('_')}{slot}" if hidden else slot
            if name not in ("__dict__", "__weakref__"):
                found.append(getattr(value, name, None))
    return found


def clean_exception(error: BaseException, search: Search) -> BaseException:
    """Return the exception, in place and unchanged unless it, its notes, its causes or its group held a secret.

    An exception that still shows a secret after its arguments and fields were cleaned is replaced. The locals of
    finished frames that hold one are cleared, so that no traceback shows them.
    """
    if not search.live.shortest:
        return error
    seen: set[int] = set()
    waiting: list[Any] = [error]
    clean = True
    while waiting:
        link = waiting.pop()
        if not isinstance(link, BaseException) or id(link) in seen:
            continue
        seen.add(id(link))
        try:
            clean = _clean_one(link, search) and clean
            waiting += [link.__cause__, link.__context__]
            waiting += getattr(link, "exceptions", ()) if isinstance(link, BaseExceptionGroup) else ()
        except Exception:
            clean = False
        _forget_locals(link.__traceback__, search.live)
    return error if clean else _replacement(error)


def _replacement(error: BaseException) -> BaseException:
    """A cancellation or an exit stays one."""
    text = f"{type(error).__name__}: {MARK}"
    made = RuntimeError(text) if isinstance(error, Exception) else type(error)(text)
    return made.with_traceback(error.__traceback__)


def _clean_one(error: BaseException, search: Search) -> bool:
    clean = search.value(error.args)
    if clean is not error.args:
        error.args = clean
    for name, item in list(vars(error).items()):
        new = search.value(item)
        if new is not item:
            setattr(error, name, new)
    if any(search.value(held) is not held for held in [getattr(error, name, None) for name in _HELD]):
        return False
    hits = search.live.found_in(str(error))
    search.hits |= hits
    return not hits


def _forget_locals(trace: TracebackType | None, live: LiveSecrets) -> None:
    """A local variable of a tool is no leak, but what shows the locals of a traceback would make it one."""
    while trace is not None:
        frame, trace = trace.tb_frame, trace.tb_next
        if str(frame.f_globals.get("__name__")).startswith("agentguard."):
            continue  # it still runs
        search = Search(live, _FEW, wire=True)
        try:
            search.value(list(frame.f_locals.values()))
            if search.hits:
                frame.clear()
        except Exception:  # noqa: S110  # it still runs too, or cannot be looked at
            pass


class Stream:
    """Streamed text without secrets, also where one is split over several parts.

    A tail of four characters or more that may be the beginning of a secret is held back until the next part shows
    what it is; all other parts pass as they are. A secret that is split inside structured parts is not put together.
    """

    __slots__ = ("_held", "_passed", "search")

    def __init__(self, search: Search) -> None:
        self.search = search
        self._held: Any = ""
        self._passed: Any = ""  # the last characters that were passed on: a secret may begin there

    def part(self, part: Any) -> list[Any]:
        """Return what may be passed on now."""
        if not isinstance(part, str | bytes):
            return [*self.end(), self.search.value(part)]
        # INVARIANT: what is put together and compared is plain: a type of its own may do both in ways of its own.
        exact: Any = str.__str__(part) if isinstance(part, str) else bytes.__add__(b"", part)
        if type(exact) is not type(self._passed):
            before, self._passed = self.end(), type(exact)()
            self._held = type(exact)()
            return [*before, *self.part(part)]
        if not exact:
            return [part]
        context, joined = self._passed, self._held + exact
        whole = context + joined
        clean = self.search.value(whole)
        free = joined if clean is whole else clean[_common(context, clean) :]
        tail = clean.decode("latin-1") if isinstance(clean, bytes) else clean
        cut = len(free) - min(self.search.live.open_end(tail), len(free))
        passed, self._held = free[:cut], free[cut:]
        self._passed = (context + passed)[1 - START :]
        return [part if passed == exact else passed] if passed else []

    def end(self) -> list[Any]:
        """Return what is still held back."""
        held, self._held, self._passed = self._held, "", ""
        return [held] if held else []


def _common(left: Any, right: Any) -> int:
    """Length of what two texts begin with."""
    pairs = zip(left, right, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
