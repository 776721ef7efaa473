"""Microsoft's agent-governance-toolkit: `govern` with its audit, alone, and with its CredentialManager in the body."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench.peers import work
from bench.peers.serving import serve
from bench.peers.work import ALLOWED, API, DENIED, SCOPE, Facts, Variant, look

work.count_disk_waits()
warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)

from agentmesh.governance import GovernanceDenied, govern  # type: ignore[import-not-found]  # noqa: E402  # own environment
from agentmesh.identity.credentials import CredentialManager  # type: ignore[import-not-found]  # noqa: E402  # likewise
from langchain_core.tools import StructuredTool  # noqa: E402

POLICY: Final = """
apiVersion: governance.toolkit/v1
name: tables
default_action: deny
rules:
  - name: read-users
    condition: "action.type == 'read' and table.value == 'users'"
    action: allow
"""
AGENT: Final = "did:mesh:bot"


class Agt:
    """The policy allows one table; the credential is issued, validated and revoked around the tool's body."""

    distributions = ("agent-governance-toolkit-core",)

    def __init__(self, folder: Path, server: str) -> None:
        self.folder = folder
        self.fresh()

    def fresh(self) -> None:
        """Both the audit and the credentials are kept for ever: every batch begins with none."""
        self.credentials = CredentialManager()
        self.alone = govern(lambda action, table: work.lookup(table), policy=POLICY, agent_id="bot")
        self.issuing = govern(self._with_credential, policy=POLICY, agent_id="bot")

    def _with_credential(self, action: str, table: str) -> int:
        resource = f"{API}/{table}"
        made = self.credentials.issue(
            AGENT, capabilities=[SCOPE], resources=[resource], ttl_seconds=60, issued_for="task"
        )
        try:
            valid = self.credentials.validate(made.token)
            if valid is None or not valid.has_capability(SCOPE):
                raise PermissionError("the credential is not valid")
            work.note(made.token)
            return work.lookup(table)
        finally:
            self.credentials.revoke(made.credential_id, "done")

    def variants(self) -> Mapping[str, Variant]:
        """The peer as it is called through a LangChain tool."""

        def lookup_alone(table: str) -> Any:
            """Count the rows of a table."""
            return self.alone(action="read", table=table)

        def lookup_issuing(table: str) -> Any:
            """Count the rows of a table."""
            return self.issuing(action="read", table=table)

        tools = {"govern": lookup_alone, "govern + credential": lookup_issuing}
        return {name: _variant(StructuredTool.from_function(tool)) for name, tool in tools.items()}

    def facts(self, name: str) -> Facts:
        """What it does, seen from outside."""
        self.fresh()
        variant = self.variants()[name]
        governed = self.alone if name == "govern" else self.issuing
        allowed = look(self.folder, variant.allowed)
        credential = self._credential()
        log = governed.audit_log
        entries = len(log.query(limit=1000))
        denied = look(self.folder, variant.denied, GovernanceDenied)
        recorded = len(log.query(limit=1000)) > entries
        whole = log.verify_integrity()[0]
        log.query(limit=1)[0].action = "something else"
        return Facts(
            audit="file" if allowed.bytes_written else "memory" if entries else "none",
            bytes_written=allowed.bytes_written, disk_waits=allowed.disk_waits,
            chain="memory" if whole and not log.verify_integrity()[0] else "no",
            arguments="yes" if self._sees_positional(governed) else "keywords only",
            denial_recorded="file" if denied.bytes_written else "memory" if recorded else "no",
            denied_tool_runs="yes" if denied.ran else "no", denied_by="a policy rule on the argument",
            **credential,
        )  # fmt: skip

    def _sees_positional(self, governed: Any) -> bool:
        """Whether the same rule lets the same call through when its arguments have no names, and refuses the other."""
        try:
            governed("read", ALLOWED["table"])
        except GovernanceDenied:
            return False
        return work.refused(lambda: governed("read", DENIED["table"]), GovernanceDenied)

    def _credential(self) -> dict[str, Any]:
        if not work.tokens:
            return {}
        ended = all(self.credentials.validate(token) is None for token in work.tokens)
        return {
            "credential": work.algorithm(work.tokens[0]),
            "each_call": work.each_call(),
            "revoked": "by caller" if ended else "never",
        }

    def close(self) -> None:
        """Nothing is open."""


def _variant(tool: StructuredTool) -> Variant:
    return Variant(lambda: tool.invoke(ALLOWED), lambda: tool.invoke(DENIED), GovernanceDenied)


if __name__ == "__main__":
    serve(Agt)
