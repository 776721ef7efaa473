"""What a live credential looks like in a text, and which of many live credentials may stand in one."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final, Protocol

from agentguard.model.lease import Secret

SHORTEST: Final = 8  # a shorter secret would be found in texts that do not hold it
START: Final = 4  # a shorter beginning of a secret is let pass: the ends of ordinary texts would be held back
RUN: Final = re.compile(r"[A-Za-z0-9_+/=.~-]{8,}")
FEW: Final = 256  # up to so many, looking for each costs about as much as reading the text in every alignment
_LAST_RUN: Final = re.compile(r"[A-Za-z0-9_+/=.~-]*\Z")
_ENCODED: Final = re.compile(rb"[A-Za-z0-9_+/-]{8,}")
_URLSAFE: Final = str.maketrans("+/", "-_")
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_LONGEST: Final = 1 << 15
_JSON: Final = b"eyJ"  # how the base64url of a JSON object begins


def needles_of(secret: str) -> tuple[str, ...]:
    """The parts of a secret that must not be seen."""
    parts = secret.split(".")
    if len(parts) == 3 and secret.startswith("eyJ"):
        return (parts[1], parts[2])
    return (secret, *_texts_in(secret)) if secret.startswith("{") else (secret,)


def watched(secret: str) -> tuple[str, ...]:
    """The parts that are long enough to be looked for."""
    return tuple([needle for needle in needles_of(secret) if len(needle) >= SHORTEST])


def shortest_of(secret: str) -> int:
    """Length of the shortest text that gives a secret away; its own where that is too short to be looked for."""
    header, signature = secret.find("."), secret.rfind(".")
    if secret.startswith("eyJ") and -1 < header < signature == secret.find(".", header + 1):  # a token, as most are
        shortest = min(signature - header, len(secret) - signature) - 1
        if shortest >= SHORTEST:
            return shortest
    return min([len(secret), *[len(needle) for needle in watched(secret)]])


def _texts_in(secret: str) -> list[str]:
    """The texts of a secret that is a JSON object, such as a cloud's key pair: each of them is one."""
    try:
        values = json.loads(secret).values()
    except (ValueError, RecursionError):
        return []
    return [value for value in values if isinstance(value, str)]


def forms_of(needle: str) -> tuple[str, ...]:
    """A needle, and what base64 makes of it wherever it stands in what was encoded."""
    forms = {needle}
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + needle.encode()).decode()
        # The first and last group hold bits of the neighbours.
        inner = encoded[4 if shift else 0 :][: (len(needle.encode()) + shift) // 3 * 4 - (4 if shift else 0)]
        if len(inner) >= SHORTEST:
            forms |= {inner, inner.translate(_URLSAFE)}
    return tuple(forms)


def all_forms(secret: Secret) -> tuple[str, ...]:
    """Every text that gives a secret away."""
    return tuple(chain.from_iterable(map(forms_of, watched(secret.reveal()))))


class Watch(Protocol):
    """The secrets that texts are searched for. Its owner locks what changes it; reading needs no lock."""

    secrets: dict[str, Secret]

    def add(self, lease: str, secret: Secret) -> None:
        """Watch one more."""

    def discard(self, lease: str) -> None:
        """Watch one less."""

    def found(self, text: str, shortest: int) -> set[str]:
        """Ids of the leases whose secret stands in a text."""

    def forms(self, lease: str) -> tuple[str, ...]:
        """Every text that gives one away."""

    def open_end(self, text: str) -> int:
        """Length of the longest tail that may be the beginning of a secret."""


class _Odd:
    """Secrets that are no run of letters and digits, such as a password with a blank: they are few."""

    def __init__(self) -> None:
        self._needles: dict[str, tuple[str, ...]] = {}

    def add(self, lease: str, needles: Iterable[str]) -> None:
        if odd := tuple(needle for needle in needles if not RUN.fullmatch(needle)):
            self._needles[lease] = odd

    def discard(self, lease: str) -> None:
        self._needles.pop(lease, None)

    def found(self, text: str) -> set[str]:
        return {lease for lease, odd in list(self._needles.items()) if any(needle in text for needle in odd)}

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(list(self._needles.values()))


class Few:
    """Each secret in all its forms: a text is looked at once for each of them."""

    def __init__(self) -> None:
        self.secrets: dict[str, Secret] = {}
        self._forms: dict[str, tuple[str, ...]] = {}
        self._starts: dict[str, dict[str, int]] = {}  # beginning: form: how many leases have it
        self._odd = _Odd()

    def add(self, lease: str, secret: Secret) -> None:
        """Watch one more."""
        forms = self._forms[lease] = all_forms(secret)
        self._odd.add(lease, watched(secret.reveal()))
        for form in forms:
            begun = self._starts.setdefault(form[:START], {})
            begun[form] = begun.get(form, 0) + 1
        self.secrets[lease] = secret

    def discard(self, lease: str) -> None:
        """Watch one less; what another lease has too stays watched."""
        self.secrets.pop(lease, None)
        self._odd.discard(lease)
        for form in self._forms.pop(lease, ()):
            begun = self._starts[form[:START]]
            begun[form] -= 1
            if not begun[form]:
                del begun[form]
            if not begun:
                del self._starts[form[:START]]

    def found(self, text: str, shortest: int) -> set[str]:
        """Ids of the leases whose secret stands in a text."""
        # Ordinary text has no run that is long enough, so it is read once, however many leases there are.
        runs = "\n".join([run for run in RUN.findall(text) if len(run) >= shortest])
        hits = self._odd.found(text)
        if runs:
            hits |= {lease for lease, forms in list(self._forms.items()) if any(form in runs for form in forms)}
        return hits

    def forms(self, lease: str) -> tuple[str, ...]:
        """Every text that gives one away."""
        return self._forms.get(lease, ())

    def open_end(self, text: str) -> int:
        """Length of the longest tail that is the beginning of a secret; 0 below four characters."""
        for start in range(max(0, len(text) - _LONGEST), len(text) - START + 1):
            for form in list(self._starts.get(text[start : start + START], ())):
                if form.startswith(text[start:]) and len(form) > len(text) - start:
                    return len(text) - start
        return 0


class Many:
    """Any number of secrets by their hashes: a text is read once in every alignment, whatever their number.

    A secret costs two numbers here and no copy of its text. A hash only says where to look: what it names is then
    looked for in all its forms.
    """

    def __init__(self) -> None:
        self.secrets: dict[str, Secret] = {}
        self._by_hash: dict[int, str | set[str]] = {}  # a set where leases share a secret
        self._sizes: dict[bytes, dict[int, int]] = {b"": {}, _JSON: {}}  # beginning: length: how many
        self._odd = _Odd()
        self._longest = 0

    def add(self, lease: str, secret: Secret) -> None:
        """Watch one more."""
        needles = watched(secret.reveal())
        self._odd.add(lease, needles)
        for data in [needle.encode() for needle in needles]:
            self._longest = max(self._longest, len(data))
            sizes = self._sizes[_beginning(data)]
            sizes[len(data)] = sizes.get(len(data), 0) + 1
            others = self._by_hash.setdefault(hash(data), lease)
            if isinstance(others, set):
                others.add(lease)
            elif others != lease:
                self._by_hash[hash(data)] = {others, lease}
        self.secrets[lease] = secret

    def discard(self, lease: str) -> None:
        """Watch one less; what another lease has too stays watched."""
        secret = self.secrets.pop(lease, None)
        self._odd.discard(lease)
        for data in [needle.encode() for needle in watched(secret.reveal())] if secret is not None else ():
            sizes = self._sizes[_beginning(data)]
            sizes[len(data)] -= 1
            if not sizes[len(data)]:
                del sizes[len(data)]
            others = self._by_hash.get(hash(data))
            if isinstance(others, set):
                others.discard(lease)
            if not others or others == lease:
                self._by_hash.pop(hash(data), None)

    def found(self, text: str, shortest: int) -> set[str]:
        """Ids of the leases whose secret stands in a text."""
        hits, runs = self._odd.found(text), [run for run in RUN.findall(text) if len(run) >= shortest]
        joined = "\n".join(runs)
        for lease in set().union(*[self._candidates(run.encode()) for run in runs]):
            if any(form in joined for form in self.forms(lease)):
                hits.add(lease)
        return hits

    def _candidates(self, run: bytes) -> set[str]:
        known, found = self._by_hash.get, set[str]()
        sizes = [(beginning, length) for beginning, lengths in self._sizes.items() for length in list(lengths)]
        for view in _views(run):
            for beginning, length in sizes:
                places = _places(view, beginning, length)
                hits = [hit for at in places if (hit := known(hash(view[at : at + length]))) is not None]
                found.update(*[{hit} if isinstance(hit, str) else hit.copy() for hit in hits])
        return found

    def forms(self, lease: str) -> tuple[str, ...]:
        """Every text that gives one away."""
        secret = self.secrets.get(lease)
        return all_forms(secret) if secret is not None else ()

    def open_end(self, text: str) -> int:
        """Length of the run that the text ends with, so far as it may be the beginning of any secret."""
        most = self._longest * 4 // 3 + 8
        tail = text[-most:]
        last = _LAST_RUN.search(tail)
        run = len(tail) - last.start() if last is not None else 0
        odd = (_shared(tail, needle) for needle in self._odd)
        longest = max([run, *odd])
        return longest if longest >= START else 0


def _beginning(needle: bytes) -> bytes:
    """What tells payloads from secrets that look random: payloads are of many lengths, and begin alike."""
    return _JSON if needle.startswith(_JSON) else b""


def _places(view: bytes, beginning: bytes, length: int) -> Iterable[int]:
    """Where a needle with this beginning may stand."""
    if beginning:
        return [found.start() for found in re.finditer(re.escape(beginning), view)]  # it cannot overlap with itself
    return range(len(view) - length + 1)


def _views(run: bytes) -> Iterator[bytes]:
    """A run, and what it says if parts of it are base64, in either alphabet and at every alignment."""
    yield run
    for piece in _ENCODED.findall(run):
        encoded = piece.translate(_STANDARD)
        for skipped in range(4):
            whole = encoded[skipped:]
            whole = whole[:-1] if len(whole) % 4 == 1 else whole
            yield binascii.a2b_base64(whole + b"=" * (-len(whole) % 4))


def _shared(text: str, needle: str) -> int:
    """Length of the longest tail of a text that a needle begins with, without being whole."""
    most = min(len(text), len(needle) - 1)
    return next((length for length in range(most, 0, -1) if needle.startswith(text[-length:])), 0)
