"""The kind `text`: free text without links and without characters that hide or reorder what a person reads."""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Final, Self

from msgspec.structs import force_setattr

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, Inner
from agentguard.intent.finders import without_urls
from agentguard.intent.links import find_link
from agentguard.intent.literal import count, is_list, is_text
from agentguard.intent.provenance import From
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, Facts, Test, Truth, odd
from agentguard.model.call import ToolCall
from agentguard.model.canonical import is_nfc

_HOST: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
_ASCII_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_JOINERS: Final = frozenset("\u200c\u200d")  # ZWNJ and ZWJ: scripts and emoji need them
_KEYS: Final = ("max", "urls", "hosts")


def has_hidden_characters(text: str) -> bool:
    """Tell whether text holds a control (Cc) but newline and tab, or a format character (Cf) but ZWJ and ZWNJ."""
    if _ASCII_CONTROL.search(text):
        return True
    if text.isascii():
        return False
    return any(unicodedata.category(char) in ("Cc", "Cf") for char in set(text) - _JOINERS - {"\n", "\t"})


class Text(Constraint, frozen=True):
    """`text: {max, urls: none, hosts}`: free text; with `hosts`, https links to exactly these hosts may stand in it.

    With `urls: {from: ...}` a link may stand in it that is, as a whole, one of the candidates of an earlier result.
    It stops links, not persuasion.
    """

    max: int | None = None
    hosts: tuple[str, ...] = ()
    source: From | None = None
    word = "text"

    def __post_init__(self) -> None:
        if self.max is not None:
            count(self.max, "'max' of text")
        if not is_list(self.hosts):
            raise ConfigurationError("'hosts' of text is a list of hosts: hosts: [docs.example.com]")
        for host in self.hosts:
            if not is_text(host) or not _HOST.fullmatch(host) or len(host) > 253:
                raise ConfigurationError(f"{host!r} is no exact host in lower-case ASCII; write docs.example.com")
        force_setattr(self, "hosts", tuple(self.hosts))

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        if not isinstance(node, dict) or not node:
            raise ConfigurationError("'text' takes a mapping: text: {max: 200} or text: {urls: none}")
        for key in node:
            if key not in _KEYS:
                raise ConfigurationError(f"'text' has no key {key!r}; it has {', '.join(_KEYS)}")
        urls = node.get("urls", "none")
        source = inner(urls) if isinstance(urls, dict) else None
        if not isinstance(source, From) and urls != "none":
            raise ConfigurationError(
                "'urls' of text is none, or {from: ...}; where links may stand, name their hosts: hosts: [...]"
            )
        if "hosts" in node and not node["hosts"]:
            raise ConfigurationError("'hosts' of text is empty; leave it out")
        return cls(
            count(node["max"], "'max' of text") if "max" in node else None,
            node.get("hosts", ()),
            source if isinstance(source, From) else None,
        )

    def test(self, argument: str) -> Test:
        longest, hosts = self.max, frozenset(self.hosts)
        proven = self.source.test("") if self.source is not None else None

        def judge(value: Any, call: ToolCall, facts: Facts) -> Truth:
            if type(value) is not str:
                return odd(value)
            if not is_nfc(value):
                return CANNOT_TELL
            if (longest is not None and len(value) > longest) or has_hidden_characters(value):
                return FAIL
            if proven is None:
                return FAIL if find_link(value, hosts) else HOLD
            said: dict[str, Truth] = {}
            rest = without_urls(value, lambda url: said.setdefault(url, proven(url, call, facts)) is HOLD)
            if not find_link(rest, hosts):
                return HOLD
            return CANNOT_TELL if CANNOT_TELL in said.values() else FAIL

        return judge

    def form(self) -> Any:
        inside: dict[str, Any] = {} if self.max is None else {"max": self.max}
        inside |= {"hosts": list(self.hosts)} if self.hosts else {}
        inside |= {"urls": self.source.form()} if self.source else {} if self.hosts else {"urls": "none"}
        return {"text": inside}

    def must(self) -> str:
        length = "" if self.max is None else f" of at most {self.max} characters"
        links = f"links only to {', '.join(self.hosts)}" if self.hosts else "no links"
        if self.source is not None:
            links += f", or a link that must {self.source.must()},"
        return f"be text{length} with {links} and no hidden characters"
