"""The other side: an API that accepts agentguard's tokens, or anybody's RFC 9068 access tokens.

`TokenVerifier` checks one token. `TokenMiddleware` does it for every request of an ASGI app (Starlette, FastAPI).
"""

from __future__ import annotations

from agentguard._jwt import Keys
from agentguard.errors import TokenRejected
from agentguard.keys import KeySet
from agentguard.resource_server.asgi import TokenMiddleware
from agentguard.resource_server.verifier import InsufficientScope, TokenVerifier, VerifiedToken

__all__ = [
    "InsufficientScope",
    "KeySet",
    "Keys",
    "TokenMiddleware",
    "TokenRejected",
    "TokenVerifier",
    "VerifiedToken",
]
