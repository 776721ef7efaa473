"""The kinds `url` and `email`: an address that has one reading only, at a host that the author named."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final, Self

from msgspec.structs import force_setattr

from agentguard.errors import ConfigurationError
from agentguard.intent.constraint import Constraint, Inner
from agentguard.intent.globs import escaped_glob, glob_match, unclear
from agentguard.intent.literal import is_list, is_text, shown
from agentguard.intent.params import FromParameter
from agentguard.intent.truth import CANNOT_TELL, FAIL, HOLD, Test, Truth
from agentguard.intent.whole_text import DOTS, ENCODED, text_test

_HOST: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,30}")
# RFC 3986: scheme, authority, path, query, fragment; no character that a parser drops, turns or encodes by itself.
_URL: Final = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*)://([A-Za-z0-9.-]+)(?::([1-9][0-9]{0,4}))?"
    r"(/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(?:\?[A-Za-z0-9._~!$&'()*+,;=:@%/?\[\]-]*)?"
    r"(?:#[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?"
)
# RFC 3986, section 2.3: an encoded letter, digit, `-`, `.`, `_` or `~` is that character.
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PORTS: Final = {"https": "443", "http": "80", "wss": "443", "ws": "80", "ftp": "21"}
_NUMERIC: Final = re.compile(r"(?:0[xX][0-9a-fA-F]*|[0-9]+)")
_LOCAL: Final = re.compile(r"[A-Za-z0-9#$&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9#$&'*+/=?^_`{|}~-]+)*")


class Url(Constraint, frozen=True):
    """`url: {hosts, path, schemes}`: a URL (RFC 3986) with one reading, at one of these hosts; https by default.

    Args:
        hosts: exact hosts, or `*.host` for everything below one.
        path: a glob over the path, or empty for any.
        schemes: what it may start with.
    """

    hosts: tuple[str, ...]
    path: str = ""
    schemes: tuple[str, ...] = ("https",)
    word = "url"

    def __post_init__(self) -> None:
        if not is_list(self.hosts) or not self.hosts:
            raise ConfigurationError("'hosts' of url is a list with at least one host: hosts: [docs.example.com]")
        for host in self.hosts:
            if not is_text(host) or not _is_host(host.removeprefix("*.")) or (host[0] == "*" and "." not in host[2:]):
                raise ConfigurationError(f"{host!r} is no host in lower-case ASCII; write docs.example.com or "
                                         "*.example.com")  # fmt: skip
        if not is_list(self.schemes) or not self.schemes:
            raise ConfigurationError("'schemes' of url is a list: schemes: [https]; https is the default")
        for scheme in self.schemes:
            if not is_text(scheme) or not _SCHEME.fullmatch(scheme):
                raise ConfigurationError(f"{scheme!r} is no scheme; write https")
        path: object = self.path
        if not isinstance(path, str) or (path and path[0] not in "/*"):
            raise ConfigurationError("'path' of url is a glob that starts with a slash: path: /docs/**")
        if path:
            glob_match(path)
        force_setattr(self, "hosts", tuple(self.hosts))
        force_setattr(self, "schemes", tuple(self.schemes))

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        keys = ("hosts", "path", "schemes")
        if not isinstance(node, dict) or "hosts" not in node or set(node) - set(keys) or node.get("path") == "":
            raise ConfigurationError("'url' takes a mapping: url: {hosts: [docs.example.com], path: /docs/**}")
        hosts, path = node["hosts"], node.get("path", "")
        if isinstance(hosts, list) and any(isinstance(host, FromParameter) and "*" in host for host in hosts):
            raise ConfigurationError("a parameter brings an exact host, never a pattern")
        path = escaped_glob(path) if isinstance(path, FromParameter) else path
        return cls(hosts, path, node.get("schemes", ("https",)))

    def test(self, argument: str) -> Test:
        exact = frozenset(host for host in self.hosts if host[0] != "*")
        ends = tuple(host[1:] for host in self.hosts if host[0] == "*")
        match = glob_match(_decoded(self.path)) if self.path else None

        def judge(value: str) -> Truth:
            parts = parsed_url(value)
            if parts is None or (parts[1] not in exact and _lookalike(parts[1])):
                return CANNOT_TELL
            scheme, host, path = parts
            if scheme not in self.schemes or not (host in exact or host.endswith(ends)):
                return FAIL
            if match is None or match(path):
                return HOLD
            return CANNOT_TELL if unclear(path) else FAIL

        return text_test(judge)

    def counted_as(self, text: str) -> str:
        parts = parsed_url(text)
        if parts is None:
            return text
        scheme, host, path = parts
        query = text.partition("#")[0].partition("?")
        return f"{scheme}://{host}{path}{query[1]}{_decoded(query[2])}"  # the fragment stays with who asks

    def form(self) -> Any:
        inside: dict[str, Any] = {"hosts": list(self.hosts)} | ({"path": self.path} if self.path else {})
        return {"url": inside | ({} if self.schemes == ("https",) else {"schemes": list(self.schemes)})}

    def must(self) -> str:
        where = f" with a path like {shown(self.path)}" if self.path else ""
        return f"be a URL ({', '.join(self.schemes)}) at {' or '.join(self.hosts)}{where}"


def parsed_url(text: str) -> tuple[str, str, str] | None:
    """Return scheme, host and path of a URL, each in its one spelling; None if it has more than one reading."""
    found = _URL.fullmatch(text)
    if found is None:
        return None
    scheme, host, port, path = found[1].lower(), found[2].lower(), found[3], found[4] or "/"
    if port is not None and port != _PORTS.get(scheme):
        return None
    if not _is_host(host) or ENCODED.search(path) or any(map(DOTS.fullmatch, path.split("/"))):
        return None
    return scheme, host, _decoded(path)


def _decoded(text: str) -> str:
    """Return a path or a query with what means the same written in the same way (RFC 3986, section 6.2.2)."""
    return _ESCAPE.sub(_one_spelling, text) if "%" in text else text


def _one_spelling(escape: re.Match[str]) -> str:
    char = chr(int(escape[1], 16))
    return char if char in _UNRESERVED else escape[0].upper()


def _is_host(host: str) -> bool:
    """A host name, or an IPv4 address in its one full form: 127.1 and 0x7f.1 are others."""
    if len(host) > 253 or not _HOST.fullmatch(host):
        return False
    if not _NUMERIC.fullmatch(host.rpartition(".")[2]):
        return True
    try:
        return str(ipaddress.IPv4Address(host)) == host
    except ValueError:
        return False


def _lookalike(host: str) -> bool:
    return any(label.startswith("xn--") for label in host.split("."))


class Email(Constraint, frozen=True):
    """`email: {domains}`: one address (RFC 5322 dot-atom, ASCII) in one of these domains."""

    domains: tuple[str, ...]
    word = "email"

    def __post_init__(self) -> None:
        if not is_list(self.domains) or not self.domains:
            raise ConfigurationError("'domains' of email is a list with at least one domain: domains: [acme.com]")
        for domain in self.domains:
            if not is_text(domain) or not _HOST.fullmatch(domain.lower()) or len(domain) > 253:
                raise ConfigurationError(f"{domain!r} is no domain in ASCII; write acme.com")
        force_setattr(self, "domains", tuple(str(domain).lower() for domain in self.domains))

    @classmethod
    def read(cls, node: Any, inner: Inner) -> Self:
        if not isinstance(node, dict) or set(node) != {"domains"}:
            raise ConfigurationError("'email' takes the domains: email: {domains: [acme.com]}")
        return cls(node["domains"])

    def test(self, argument: str) -> Test:
        domains = frozenset(self.domains)

        def judge(value: str) -> Truth:
            local, at, domain = value.partition("@")
            domain = domain.lower()
            if not at or len(local) > 64 or len(domain) > 253 or "=?" in local:
                return CANNOT_TELL
            if not _LOCAL.fullmatch(local) or not value.isascii() or not _HOST.fullmatch(domain):
                return CANNOT_TELL
            return HOLD if domain in domains else FAIL

        return text_test(judge)

    def counted_as(self, text: str) -> str:
        return text.lower()  # a mailbox is one in whatever case, nearly everywhere

    def form(self) -> Any:
        return {"email": {"domains": list(self.domains)}}

    def must(self) -> str:
        return f"be one address at {' or '.join(self.domains)}"
