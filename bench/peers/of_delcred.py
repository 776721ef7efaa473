"""delcred: a signed delegation token for each call, from an issuer in the process whose state is in files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from bench.peers import work
from bench.peers.serving import serve
from bench.peers.work import ALLOWED, API, DENIED, SCOPE, Facts, Variant, look

work.count_disk_waits()

import delcred  # type: ignore[import-not-found]  # noqa: E402  # it is in an environment of its own
from langchain_core.tools import StructuredTool  # noqa: E402

RESOURCE: Final = f"{API}/users"
POLICY: Final = f"""
agents: {{bot: {{}}}}
users: {{alice: {{}}}}
grants:
  - {{user: alice, agent: bot, scopes: ["{SCOPE}"], resources: ["{API}/users"], max_ttl: 900, single_use: false}}
"""


class Delcred:
    """The resource that is asked for is the table; the grant names one."""

    distributions = ("delcred",)

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.homes = folder, 0
        self.fresh()

    def fresh(self) -> None:
        """Every call appends to files that every call reads whole: each batch begins with new ones."""
        self.homes += 1
        self.base = self.folder / f"home-{self.homes}"
        self.base.mkdir(mode=0o700)
        delcred.init(base=self.base)
        (self.base / "policy.yaml").write_text(POLICY, encoding="utf-8")
        self.user = delcred.user_token("alice", base=self.base)
        self.agent = delcred.agent_token("bot", base=self.base)
        self.kept = self._delegated("users")

    def _delegated(self, table: str) -> str:
        token: str = delcred.delegate(
            scope=SCOPE, resource=f"{API}/{table}", user_token=self.user, agent_token=self.agent, ttl=60, base=self.base
        )
        return token

    def _own(self, table: str) -> int:
        """Count the rows of a table."""
        token = self._delegated(table)
        claims = delcred.verify(token, expected_resource=f"{API}/{table}", base=self.base)
        try:
            return self._read(table, token)
        finally:
            delcred.revoke_token(claims["jti"], "done", base=self.base)

    def _reused(self, table: str) -> int:
        """Count the rows of a table."""
        delcred.verify(self.kept, expected_resource=f"{API}/{table}", base=self.base)
        return self._read(table, self.kept)

    def _read(self, table: str, token: str) -> int:
        work.note(token)
        return work.lookup(table)

    def variants(self) -> Mapping[str, Variant]:
        """With a token for each call, or one that is verified at each."""
        return {
            "issue, verify, revoke": _variant(self._own, delcred.PolicyError),
            "verify one token": _variant(self._reused, delcred.InvalidToken),
        }

    def facts(self, name: str) -> Facts:
        """What it does, seen from outside."""
        variant = self.variants()[name]
        allowed = look(self.folder, variant.allowed)
        credential: dict[str, Any] = {"credential": work.algorithm(work.tokens[0]), "each_call": work.each_call()}
        token = work.tokens[-1]
        denied = look(self.folder, variant.denied, variant.refusal)
        log = (self.base / "audit.jsonl").read_text(encoding="utf-8").splitlines()
        return Facts(
            **credential, revoked="by caller" if self._ended(token) else "never",
            audit="file" if allowed.bytes_written else "none",
            bytes_written=allowed.bytes_written, disk_waits=allowed.disk_waits,
            chain="file" if work.linked(log) else "no",
            denial_recorded="file" if denied.bytes_written else "no",
            denied_tool_runs="yes" if denied.ran else "no", denied_by="the grant, by the resource asked for",
        )  # fmt: skip

    def _ended(self, token: str) -> bool:
        """Whether a token is of no use once it was revoked; nothing revokes the one that is kept."""
        if token == self.kept:
            delcred.revoke_token(
                delcred.verify(token, expected_resource=RESOURCE, base=self.base)["jti"], base=self.base
            )
        ended = work.refused(
            lambda: delcred.verify(token, expected_resource=RESOURCE, base=self.base), delcred.ExchangeError
        )
        self.fresh()
        return ended

    def close(self) -> None:
        """Nothing is open."""


def _variant(body: Callable[[str], int], refusal: type[Exception]) -> Variant:
    tool = StructuredTool.from_function(body, name="lookup")
    return Variant(lambda: tool.invoke(ALLOWED), lambda: tool.invoke(DENIED), refusal)


if __name__ == "__main__":
    serve(Delcred)
