"""OpenBao or Vault as a broker: database roles made for one task, static secrets lent to it, one token a task.

`issuer.OpenBaoIssuer` is the port; `login.JwtLogin` says how a task's token is had, `database.Database` and
`static.StaticSecret` what it is used for.
"""

from __future__ import annotations

from agentguard.credentials.openbao.database import Database
from agentguard.credentials.openbao.issuer import OpenBaoIssuer
from agentguard.credentials.openbao.login import JwtLogin
from agentguard.credentials.openbao.static import StaticSecret

__all__ = ["Database", "JwtLogin", "OpenBaoIssuer", "StaticSecret"]
