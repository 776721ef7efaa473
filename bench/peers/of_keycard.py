"""Keycard's LangChain middleware: an exchange (RFC 8693) at the token server for every call, on a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from bench.peers import work
from bench.peers.serving import serve
from bench.peers.work import ALLOWED, API, DENIED, Facts, Variant, look

work.count_disk_waits()
logging.disable(logging.CRITICAL)

from keycardai.langchain import (  # type: ignore[import-not-found]  # noqa: E402  # it is in an environment of its own
    Access,
    KeycardGrantMiddleware,
    get_access_context,
)
from keycardai.oauth.server.exceptions import ResourceAccessError  # type: ignore[import-not-found]  # noqa: E402  # likewise
from langchain.agents.middleware.types import ToolCallRequest  # noqa: E402
from langchain_core.tools import StructuredTool  # noqa: E402

EXCHANGE: Final = "middleware"
USERS, SECRET = f"{API}/users", f"{API}/secret"


class Keycard:
    """A tool has fixed resources, so the refused call is of a tool of its own, whose resource the server refuses."""

    distributions = ("keycardai-langchain", "langchain")

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.server = folder, server
        self.middleware = KeycardGrantMiddleware(
            zone_url=server, client_id="bot", client_secret="s", resources=[USERS],
            tool_resources={"lookup_secret": [SECRET], "careless": [SECRET]},
        )  # fmt: skip

    def fresh(self) -> None:
        """It keeps a connection, and nothing else."""

    def variants(self) -> Mapping[str, Variant]:
        """The middleware around a tool that asks for its token."""
        return {
            EXCHANGE: Variant(self._call("lookup", _reads), self._call("lookup_secret", _reads), ResourceAccessError)
        }

    def _call(self, name: str, body: Any) -> Any:
        arguments = ALLOWED if name == "lookup" else DENIED
        tool = StructuredTool.from_function(body, name=name)
        request = ToolCallRequest(
            tool_call={"name": name, "args": arguments, "id": "1", "type": "tool_call"}, tool=tool, state={},
            runtime=SimpleNamespace(context=Access.on_behalf_of("user-token"), config={}),  # type: ignore[arg-type]  # what is read
        )  # fmt: skip
        return lambda: self.middleware.wrap_tool_call(request, lambda asked: tool.invoke(asked.tool_call["args"]))

    def facts(self, name: str) -> Facts:
        """What it does, seen from outside."""
        variant = self.variants()[name]
        found = work.served(self.folder, self.server, variant, "the token server, by the tool's resource")
        careless = look(self.folder, self._call("careless", work.lookup))
        return replace(found, denied_tool_runs="yes" if careless.ran else "no")

    def close(self) -> None:
        """Its thread is a daemon."""


def _reads(table: str) -> int:
    """Count the rows of a table."""
    access = get_access_context().access(SECRET if table == DENIED["table"] else USERS)
    work.note(access.access_token)
    return work.lookup(table)


if __name__ == "__main__":
    serve(Keycard)
