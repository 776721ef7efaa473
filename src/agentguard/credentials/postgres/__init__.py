"""PostgreSQL roles that are born for one task and dropped with it: just-in-time logins without a vault."""

from __future__ import annotations

from agentguard.credentials.postgres.issuer import PostgresRoles

__all__ = ["PostgresRoles"]
