"""How a handover travels between processes: in headers, on HTTP requests, into ASGI apps, and over MCP.

Authority is in the signed token alone. Trace context travels beside it and says nothing about authority; baggage does
not travel at all unless it is named.
"""
