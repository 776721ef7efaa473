"""Credentials of wrapped tools: only where the request goes, in no message, event or exception."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tools import BaseTool, tool

from agentguard import (
    ConfigurationError,
    Credential,
    CredentialUnavailable,
    Denied,
    Guard,
    GuardAuth,
    Intent,
    any_,
    step,
)
from agentguard_langchain import create_agent, guard_tools
from agentguard_langchain.testing import ScriptedModel
from integrations.langchain.tests.samples import decisions

API = "https://tickets.test"
SPEC = {"effect": "read", "audience": API, "scopes": ["tickets:read"]}
HI = {"messages": [("user", "hi")]}


class Noting(BaseCallbackHandler):
    """Keeps everything that LangChain tells callbacks."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *args, **kwargs: self.seen.append(f"{name} {args!r} {kwargs!r}")
        return super().__getattribute__(name)


class Api:
    """A server that notes what it got and, badly, echoes it."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.tokens.append(dict(request.headers.raw)[b"Authorization"].decode().removeprefix("Bearer "))
        if request.url.path == "/broken":
            return httpx.Response(500, text=f"boom {self.tokens[-1]}")
        return httpx.Response(200, text=f"ticket, you sent {self.tokens[-1]}")


def ticket_tool(api: Api) -> BaseTool:
    @tool
    def read_ticket(path: str) -> str:
        """Read a ticket."""
        with httpx.Client(auth=GuardAuth(), transport=httpx.MockTransport(api)) as client:
            response = client.get(f"{API}/{path}")
            if response.is_error:
                raise RuntimeError(response.text)
            return response.text

    return guard_tools(read_ticket, {"read_ticket": SPEC})[0]


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return lambda agent, config: (
        agent.invoke(HI, config) if request.param == "sync" else asyncio.run(agent.ainvoke(HI, config))
    )


def test_token_reaches_the_server_and_nothing_else(guard: Guard, run: Any) -> None:
    api, noting = Api(), Noting()
    model = ScriptedModel([("read_ticket", {"path": "7"})], "done")
    agent = create_agent(model, [ticket_tool(api)])
    with guard.task("bot", on_behalf_of="alice", intent=Intent("Read", reads=["read_ticket"])):
        result = run(agent, {"callbacks": [noting]})
    [token] = api.tokens
    assert token.startswith("canary-")
    everything = str(result) + str(model.seen) + "".join(noting.seen)
    assert "ticket, you sent" in everything
    assert token not in everything


def test_token_is_in_no_exception(guard: Guard, run: Any) -> None:
    api, noting = Api(), Noting()
    agent = create_agent(ScriptedModel([("read_ticket", {"path": "broken"})], "done"), [ticket_tool(api)])
    with guard.task("bot", on_behalf_of="alice", intent=Intent("Read", reads=["read_ticket"])):
        with pytest.raises(RuntimeError, match="boom") as raised:
            run(agent, {"callbacks": [noting]})
    assert api.tokens[0] not in str(raised.value)
    assert api.tokens[0] not in "".join(noting.seen)


def test_credential_of_a_denied_call_is_never_issued(guard: Guard) -> None:
    api = Api()
    with guard.task("bot", on_behalf_of="alice", intent=Intent("Read", step("read_ticket", path="7"))):
        with pytest.raises(Denied):
            ticket_tool(api).invoke({"path": "8"})
    assert api.tokens == []
    issuer: Any = guard.issuer
    assert issuer.issued == []


# --- tools that are built with the credential -------------------------------------------------------------------------


class Client:
    """A client whose constructor takes a token, as many have."""

    def __init__(self, token: str) -> None:
        self.token = token


class Factory:
    def __init__(self) -> None:
        self.credentials: list[Credential | None] = []
        self.used: list[str] = []

    def __call__(self, credential: Credential | None) -> list[BaseTool]:
        self.credentials.append(credential)
        client = Client(credential.token if credential else "no token")

        @tool
        def read_ticket(number: int) -> str:
            """Read a ticket."""
            self.used.append(client.token)
            return f"ticket {number}"

        @tool
        async def aread_ticket(number: int) -> str:
            """Read a ticket."""
            self.used.append(client.token)
            return f"ticket {number}"

        class Close(BaseTool):
            name: str = "close_ticket"
            description: str = "Close."

            def _run(self, number: int) -> str:
                used.append(client.token)
                return f"closed {number}"

        used = self.used
        return [read_ticket, aread_ticket, Close()]


SPECS = {"read_ticket": SPEC, "aread_ticket": SPEC, "close_ticket": {**SPEC, "effect": "destructive"}}
INTENT = Intent("Close", step("close_ticket", number=any_).times(9), reads=["*"])


def test_factory_builds_the_tool_inside_the_call_with_its_credential(guard: Guard) -> None:
    factory = Factory()
    read, aread, close = guard_tools(factory, SPECS)
    assert factory.credentials == [None]
    with guard.task("bot", on_behalf_of="alice", intent=INTENT):
        assert read.invoke({"number": 1}) == "ticket 1"
        assert close.invoke({"number": 2}) == "closed 2"
        assert close._run(3) == "closed 3"
        assert asyncio.run(aread.ainvoke({"number": 4})) == "ticket 4"
        assert asyncio.run(close.ainvoke({"number": 5})) == "closed 5"
    assert len(factory.used) == 5
    assert all(token.startswith("canary-") for token in factory.used)
    assert [event for event, _ in decisions(guard)] == ["call.permitted"] * 5
    last = factory.credentials[-1]
    assert last is not None
    assert not last.live


def test_factory_is_not_called_for_a_denied_call(guard: Guard) -> None:
    factory = Factory()
    close = guard_tools(factory, SPECS)[2]
    with guard.task("bot", on_behalf_of="alice", intent=Intent("Read", reads=["*"])), pytest.raises(Denied):
        close.invoke({"number": 1})
    assert factory.credentials == [None]


def test_factory_tool_without_an_audience_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="what for"):
        guard_tools(Factory(), {**SPECS, "read_ticket": {"effect": "read"}})
    with pytest.raises(ConfigurationError, match="what for"):
        guard_tools(Factory(), {"read_ticket": SPEC, "aread_ticket": SPEC})


class Opened:
    """A factory that opens something for each call, and needs a credential for it."""

    def __init__(self) -> None:
        self.log: list[str] = []

    @contextmanager
    def __call__(self, credential: Credential) -> Iterator[list[BaseTool]]:
        self.log.append(f"open {credential.token[:6]}")
        try:
            yield Factory()(credential)
        finally:
            self.log.append("closed")


@pytest.mark.parametrize("like", [lambda: Factory()(None), Factory()(None)], ids=["callable", "tools"])
def test_factory_with_shapes_of_its_tools_is_called_inside_the_call_only(guard: Guard, like: Any) -> None:
    factory = Opened()
    read, aread, _ = guard_tools(factory, SPECS, like=like)
    assert factory.log == []
    with guard.task("bot", on_behalf_of="alice", intent=INTENT):
        assert read.invoke({"number": 1}) == "ticket 1"
        assert asyncio.run(aread.ainvoke({"number": 2})) == "ticket 2"
    assert factory.log == ["open canary", "closed"] * 2


def test_async_factory_is_closed_after_its_call_too(guard: Guard) -> None:
    log: list[str] = []

    @asynccontextmanager
    async def factory(credential: Credential) -> AsyncIterator[list[BaseTool]]:
        try:
            yield Factory()(credential)
        finally:
            log.append("closed")

    read, aread, _ = guard_tools(factory, SPECS, like=Factory()(None))
    with guard.task("bot", on_behalf_of="alice", intent=INTENT):
        assert asyncio.run(aread.ainvoke({"number": 2})) == "ticket 2"
        assert log == ["closed"]
        with pytest.raises(ConfigurationError, match="has to be awaited"):
            read.invoke({"number": 1})


def test_what_a_factory_opened_is_closed_when_its_tool_fails(guard: Guard) -> None:
    factory = Opened()

    @tool
    def read_ticket(number: int) -> str:
        """Read a ticket."""
        raise RuntimeError("boom")

    [read] = guard_tools(
        lambda credential: _opening(factory, [read_ticket], credential), {"read_ticket": SPEC}, like=[read_ticket]
    )
    with guard.task("bot", on_behalf_of="alice", intent=INTENT), pytest.raises(RuntimeError, match="boom"):
        read.invoke({"number": 1})
    assert factory.log == ["open canary", "closed"]


@contextmanager
def _opening(factory: Opened, tools: list[BaseTool], credential: Credential) -> Iterator[list[BaseTool]]:
    with factory(credential):
        yield tools


@pytest.mark.control("4 what a factory builds takes what was checked")
def test_factory_that_builds_another_tool_under_the_name_is_refused(guard: Guard) -> None:
    @tool
    def read_ticket(number: int, also: str = "everything") -> str:
        """Read a ticket, and more."""
        raise AssertionError

    [read] = guard_tools(lambda _: [read_ticket], {"read_ticket": SPEC}, like=Factory()(None)[:1])
    with guard.task("bot", on_behalf_of="alice", intent=INTENT):
        with pytest.raises(ConfigurationError, match="another tool"):
            read.invoke({"number": 1})


def test_shapes_without_a_factory_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="what a factory builds"):
        guard_tools(Factory()(None), like=Factory()(None))
    with pytest.raises(ConfigurationError, match="inside a call only"):
        guard_tools(_opens, SPECS)


@contextmanager
def _opens(credential: Credential | None) -> Iterator[list[BaseTool]]:
    yield Factory()(credential)


def test_tool_without_audience_reaches_no_credential(guard: Guard) -> None:
    api = Api()
    plain = ticket_tool(api)

    @tool
    def sneak(q: str) -> str:
        """Try."""
        return GuardAuth()(httpx.Request("GET", API)).headers["authorization"]

    [tool_] = guard_tools(sneak, {"sneak": {"effect": "read"}})
    with guard.task("bot", on_behalf_of="alice", intent=Intent("Read", reads=["*"])):
        plain.invoke({"path": "7"})
        with pytest.raises(CredentialUnavailable):
            tool_.invoke({"q": "a"})
