"""What an API says about itself, so that clients find where its tokens come from (RFC 9728; MCP authorization)."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from agentguard._http import checked_url
from agentguard.errors import ConfigurationError

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_URLS: Final = ("jwks_uri", "resource_documentation", "resource_policy_uri", "resource_tos_uri")
_NO_MORE: Final[Mapping[str, object]] = MappingProxyType({})
_MAX_AGE: Final = 300


class ProtectedResource:
    """The protected resource metadata of one API, and the ASGI app that serves it. Everybody may read it.

    Args:
        resource: the API's identifier, the same text as the audience of its tokens (RFC 8707 section 2).
        authorization_servers: identifiers of the issuers whose tokens it takes.
        scopes: that it uses.
        details_types: types of `authorization_details` that it understands (RFC 9396).
        dpop_algorithms: what DPoP proofs may be signed with, `DpopProofs.algorithms`.
        dpop_required: it takes only tokens that are bound to a key.
        name: for people.
        more: other members of RFC 9728 section 2, such as `resource_documentation`.
        networks: as in `Http`, for identifiers that are no public addresses.

    Raises:
        ConfigurationError: a URL that is no https URL, no issuer, a scope that is none, or a member said twice.
    """

    def __init__(
        self,
        resource: str,
        authorization_servers: Collection[str],
        *,
        scopes: Collection[str] = (),
        details_types: Collection[str] = (),
        dpop_algorithms: Collection[str] = (),
        dpop_required: bool = False,
        name: str = "",
        more: Mapping[str, object] = _NO_MORE,
        networks: Collection[str] = (),
    ) -> None:
        allowed = tuple(networks)
        self.resource = checked_url(resource, what="resource", networks=allowed)
        self.url = metadata_url(resource)
        self.path = unquote(urlsplit(self.url).path)
        if isinstance(authorization_servers, str) or not authorization_servers:
            raise ConfigurationError("authorization_servers is a list of issuers: ['https://as.bank.test']")
        for issuer in authorization_servers:
            if "?" in checked_url(issuer, what="authorization_servers", networks=allowed):
                raise ConfigurationError(f"authorization_servers {issuer!r}: an issuer has no query (RFC 8414)")
        for scope in scopes:
            if not _SCOPE.fullmatch(scope):
                raise ConfigurationError(f"scope {scope!r} is no scope: no spaces, quotes or backslashes")
        members: dict[str, object] = {
            "resource": resource,
            "authorization_servers": list(authorization_servers),
            "scopes_supported": list(scopes),
            "bearer_methods_supported": ["header"],
            "resource_name": name,
            "authorization_details_types_supported": list(details_types),
            "dpop_signing_alg_values_supported": list(dpop_algorithms),
            "dpop_bound_access_tokens_required": dpop_required or None,
        }
        if twice := sorted(members.keys() & more.keys()):
            raise ConfigurationError(f"{', '.join(twice)}: said by its own parameter; leave it out of more=")
        for member in _URLS:
            if member in more:
                checked_url(str(more[member]), what=member, networks=allowed)
        # RFC 9728 section 3.2: what has no value is left out.
        self._document = {key: value for key, value in {**members, **more}.items() if value not in (None, "", [])}
        self._body = json.dumps(self._document).encode()

    def document(self) -> dict[str, object]:
        """Return the metadata as JSON data (RFC 9728 section 2)."""
        loaded: dict[str, object] = json.loads(self._body)
        return loaded

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer GET and HEAD, as an ASGI app of its own or inside `TokenMiddleware`."""
        if scope["type"] != "http":
            raise ConfigurationError(f"the metadata answers http, not {scope['type']!r}")
        reads = scope["method"] in ("GET", "HEAD")
        body = self._body if reads else b""
        headers = [(b"content-length", str(len(body)).encode())]
        if reads:
            headers += [
                (b"content-type", b"application/json"),
                (b"cache-control", f"max-age={_MAX_AGE}".encode()),
                (b"access-control-allow-origin", b"*"),  # clients in a browser have to find the issuer too
            ]
        else:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": 200 if reads else 405, "headers": headers})
        await send({"type": "http.response.body", "body": body if scope["method"] == "GET" else b""})

    def __repr__(self) -> str:
        return f"<ProtectedResource {self.resource}>"


def metadata_url(resource: str) -> str:
    """Return where the metadata of a resource stands: between its host and its path (RFC 9728 section 3.1)."""
    parts = urlsplit(resource)
    path = "" if parts.path == "/" else parts.path
    return f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}{path}" + (f"?{parts.query}" if parts.query else "")
