"""Where a request may go: which URLs, and which addresses behind a name (server-side request forgery, CWE-918).

A name is judged by the addresses it resolves to, at the moment of connecting; see `network`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, TypeAlias

from agentguard._http.message import shown
from agentguard.errors import ConfigurationError

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_PORTS: Final = {"http": 80, "https": 443}
_URL: Final = re.compile(
    r"(https?)://([^/?#]*)((?:/[!\x22\x24-\x3e\x40-\x5b\x5d-\x7e]*)?(?:\?[!\x22\x24-\x5b\x5d-\x7e]*)?)", re.ASCII
)
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?", re.ASCII)
# What the URL standard takes for an IPv4 number, and getaddrinfo too: 127.1, 2130706433, 0177.0.0.1, 0x7f.1
_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?", re.ASCII)
# Cloud metadata and the link itself: no wider network admits them, only one that names them. An IPv4 address is reached
# by its mapped form too, and through a NAT64.
_METADATA: Final[tuple[Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::254/128",
        "fd20:ce::254/128",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "::ffff:169.254.0.0/112",
        "::ffff:100.100.100.200/128",
        "::ffff:168.63.129.16/128",
        "64:ff9b::169.254.0.0/112",
        "64:ff9b::100.100.100.200/128",
        "64:ff9b::168.63.129.16/128",
    )
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_UNICAST: Final = IPv6Network("2000::/3")
# Not public either, although some versions of `ipaddress` say so: protocol assignments, 6to4, Teredo, documentation.
_ASSIGNED: Final = tuple(
    ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20")
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a URL; `host` has no brackets, `authority` is what the Host header says."""

    scheme: str
    host: str
    port: int
    authority: str

    @property
    def loopback(self) -> bool:
        """Whether the URL itself says that it stays on this machine."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def checked_url(url: str, *, what: str, networks: Sequence[str] = ()) -> str:
    """Return a URL that credentials may be sent to: https, or http to a literal loopback host.

    Args:
        url: absolute, in ASCII, without user information and fragment.
        what: names it in the error, for example `tokens.exchange.issuer`.
        networks: addresses that are no public ones and still allowed, for example `10.0.0.0/8`.

    Raises:
        ConfigurationError: it is another kind of URL, or its host is an address that is refused.
    """
    origin = split(url)
    problem = origin if isinstance(origin, str) else _literal_problem(origin, parsed_networks(networks))
    if problem:
        raise ConfigurationError(f"{what} {shown(str(url))!r}: {problem}")
    return url


def split(url: object) -> Origin | str:
    """Return the origin of a URL, or what is wrong with it."""
    found = _URL.fullmatch(url) if isinstance(url, str) and len(url) <= 8192 else None
    if found is None:
        return "write an absolute https URL in printable ASCII, without a fragment"
    return _origin(found[1], found[2])


def target(url: str) -> str:
    """Return path and query of a URL that `split` accepts, as they are sent."""
    found = _URL.fullmatch(url)
    rest = found[3] if found else ""
    return rest if rest.startswith("/") else f"/{rest}"


@functools.lru_cache(maxsize=256)
def _origin(scheme: str, authority: str) -> Origin | str:
    if "@" in authority:
        return "user information (user:password@) does not belong into a URL"
    found = _AUTHORITY.fullmatch(authority)
    port = int(found[2]) if found and found[2] else _PORTS[scheme]
    if found is None or not 0 < port <= 65_535:
        return (
            "its host is no name or address in ASCII (write an international name in its xn-- form), or its port none"
        )
    host = found[1].strip("[]").lower()
    if parsed_address(host) is None and (":" in host or _NUMBER.fullmatch(host)):
        return "its host is a number that reads as an address; write the address in its usual form"
    origin = Origin(scheme, host, port, found[0].lower())
    if scheme == "http" and not origin.loopback:
        return "write https; http is for 127.0.0.1, [::1] and localhost only"
    return origin


def _literal_problem(origin: Origin, networks: Sequence[Network]) -> str:
    address = parsed_address(origin.host)
    return refusal(origin.host, [address], networks) if address is not None else ""


def parsed_networks(networks: Iterable[str]) -> tuple[Network, ...]:
    """Parse networks as written in a configuration.

    Raises:
        ConfigurationError: one is no network, or has bits beyond its prefix.
    """
    if isinstance(networks, str):
        raise ConfigurationError("networks is a list of texts, for example ['10.0.0.0/8']")
    parsed = []
    for text in networks:
        try:
            parsed.append(ip_network(text))
        except ValueError:
            raise ConfigurationError(f"network {text!r}: write it as address/prefix, for example 10.0.0.0/8") from None
    return tuple(parsed)


def parsed_address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Tell whether a URL's host says by itself that it is this machine."""
    address = parsed_address(host)
    return host == "localhost" if address is None else address.is_loopback and _mapped(address) is None


def refusal(host: str, addresses: Sequence[Address], networks: Sequence[Network]) -> str:
    """Return why a host with these addresses is refused, or nothing; one bad address spoils all.

    Args:
        host: as the URL says.
        addresses: all that it resolves to.
        networks: what the configuration allows beyond public addresses.
    """
    if not addresses:
        return "its name has no address"
    loopback = is_loopback(host)
    for address in addresses:
        if not (address.is_loopback if loopback else _is_admitted(address, networks)):
            return f"it is or resolves to {address}, which is no public address and in no network that is allowed"
    return ""


def _is_admitted(address: Address, networks: Sequence[Network]) -> bool:
    written = [network for network in networks if network.version == address.version and address in network]
    for special in _METADATA:
        if special.version == address.version and address in special:
            return any(network.subnet_of(special) for network in written)  # type: ignore[arg-type]  # one version
    return bool(written) or _is_public(address)


def _is_public(address: Address) -> bool:
    """Written as what is public, so that a range nobody thought of is refused."""
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            embedded = IPv4Address(int(address) & 0xFFFF_FFFF)
            return _is_admitted(embedded, ())
        if address not in _UNICAST or address.scope_id is not None:
            return False
    if any(address in network for network in _ASSIGNED if network.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _mapped(address: Address) -> IPv4Address | None:
    return address.ipv4_mapped if isinstance(address, IPv6Address) else None
