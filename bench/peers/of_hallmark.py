"""hallmark: a client of the token exchange (RFC 8693) with a cache; one token for all calls, or one for each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from bench.peers import work
from bench.peers.serving import serve
from bench.peers.work import ALLOWED, API, DENIED, SCOPE, Facts, Variant

work.count_disk_waits()

from hallmark_identity import create_identity, oidc  # type: ignore[import-not-found]  # noqa: E402  # own environment
from hallmark_identity.errors import GrantError  # type: ignore[import-not-found]  # noqa: E402  # likewise
from langchain_core.tools import StructuredTool  # noqa: E402

CACHED: Final = "cached token"


class Hallmark:
    """The audience that is asked for is the table's; the token server refuses one of them."""

    distributions = ("hallmark-identity",)

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.server, self.numbers = folder, server, itertools.count()
        self.fresh()

    def fresh(self) -> None:
        """A cache with nothing in it."""
        made = create_identity(idp=oidc(issuer=self.server, client_id="bot", client_secret="s"))  # a fake one
        self.alice = made.on_behalf_of("user-token")

    def _cached(self, table: str) -> int:
        """Count the rows of a table."""
        return self._read(table, f"{API}/{table}")

    def _own(self, table: str) -> int:
        """Count the rows of a table."""
        return self._read(table, f"{API}/{table}/{next(self.numbers)}")  # the cache holds no such audience

    def _read(self, table: str, audience: str) -> int:
        work.note(self.alice.token(audience=audience, scopes=[SCOPE]).raw)
        return work.lookup(table)

    def variants(self) -> Mapping[str, Variant]:
        """With one token for all calls, and with one for each."""
        return {CACHED: _variant(self._cached), "exchange": _variant(self._own)}

    def facts(self, name: str) -> Facts:
        """What it does, seen from outside."""
        variant = self.variants()[name]
        return work.served(self.folder, self.server, variant, "the token server, by the audience")

    def close(self) -> None:
        """Nothing is open."""


def _variant(body: Callable[[str], int]) -> Variant:
    tool = StructuredTool.from_function(body, name="lookup")
    return Variant(lambda: tool.invoke(ALLOWED), lambda: tool.invoke(DENIED), GrantError)


if __name__ == "__main__":
    serve(Hallmark)
