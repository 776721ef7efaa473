"""The one HTTP client: every request that agentguard sends goes through here, with bounds that nobody can forget.

Time, size and count are bounded, redirects are never followed, and a connection goes to exactly the address that was
checked. The wire is httpcore's, the layer below httpx: no cookies, no authentication and no log of URLs stand above it.
"""

from __future__ import annotations

from agentguard._http.address import checked_url
from agentguard._http.client import Http
from agentguard._http.message import HttpFailure, Request, Response

__all__ = ["Http", "HttpFailure", "Request", "Response", "checked_url"]
