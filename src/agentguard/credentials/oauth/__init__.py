"""Credentials from an OAuth authorization server.

`TokenExchange` (RFC 8693) for agents that act for a user, `ClientCredentials` (RFC 6749 section 4.4) for agents on
their own account, `IdJag` for an API in another domain. What comes back is verified before anybody sees it, bound to a
key with DPoP (RFC 9449) where that is configured, and revoked (RFC 7009) where its server can.
"""

from __future__ import annotations

from agentguard.credentials.oauth.actor import Actor, SignedActor, WorkloadActor
from agentguard.credentials.oauth.client_auth import ClientAuthentication, PrivateKeyJwt, WorkloadAssertion
from agentguard.credentials.oauth.client_credentials import ClientCredentials
from agentguard.credentials.oauth.id_jag import IdJag
from agentguard.credentials.oauth.metadata import ServerMetadata
from agentguard.credentials.oauth.rules import TokenRules
from agentguard.credentials.oauth.server import AuthorizationServer
from agentguard.credentials.oauth.token_exchange import TokenExchange

__all__ = [
    "Actor",
    "AuthorizationServer",
    "ClientAuthentication",
    "ClientCredentials",
    "IdJag",
    "PrivateKeyJwt",
    "ServerMetadata",
    "SignedActor",
    "TokenExchange",
    "TokenRules",
    "WorkloadActor",
    "WorkloadAssertion",
]
