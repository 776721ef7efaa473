"""The other side: an API that accepts agentguard's tokens, or anybody's RFC 9068 access tokens.

`TokenVerifier` checks one token, `IntrospectionVerifier` asks its issuer. `TokenMiddleware` does it for every request
of an ASGI app (Starlette, FastAPI), `RequestVerifier` for every other framework. `require_call` holds the arguments of
a request against the token.
"""

from __future__ import annotations

from agentguard._http import Http
from agentguard._jwks import Jwks
from agentguard._jwt import Keys
from agentguard.errors import TokenRejected
from agentguard.keys import KeySet
from agentguard.resource_server.asgi import TokenMiddleware
from agentguard.resource_server.calls import check_call
from agentguard.resource_server.dpop import DpopProofs
from agentguard.resource_server.introspection import ClientSecret, IntrospectionVerifier
from agentguard.resource_server.metadata import ProtectedResource, metadata_url
from agentguard.resource_server.nonces import ServerNonces
from agentguard.resource_server.rejection import InsufficientScope, RequestRejected, VerificationUnavailable
from agentguard.resource_server.replays import MemoryReplays, Replays
from agentguard.resource_server.request import RequestVerifier, VerifiedRequest
from agentguard.resource_server.require_call import RequiredCall, body, path, query, require_call
from agentguard.resource_server.status_check import StatusListCheck
from agentguard.resource_server.status_list import Status, StatusList
from agentguard.resource_server.verifier import TokenVerifier, VerifiedToken

__all__ = [
    "ClientSecret",
    "DpopProofs",
    "Http",
    "InsufficientScope",
    "IntrospectionVerifier",
    "Jwks",
    "KeySet",
    "Keys",
    "MemoryReplays",
    "ProtectedResource",
    "Replays",
    "RequestRejected",
    "RequestVerifier",
    "RequiredCall",
    "ServerNonces",
    "Status",
    "StatusList",
    "StatusListCheck",
    "TokenMiddleware",
    "TokenRejected",
    "TokenVerifier",
    "VerificationUnavailable",
    "VerifiedRequest",
    "VerifiedToken",
    "body",
    "check_call",
    "metadata_url",
    "path",
    "query",
    "require_call",
]
