"""The researcher: a web service that works under the task of each request. `two_services.py` starts it."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

import agentguard
from agentguard import Denied, current_call, guarded
from agentguard.transports.asgi import ResumeTask


@guarded("account.read", effect="read")
async def read_account(account: str) -> str:
    return f"{' > '.join(current_call().chain)} read {account}"


async def read(request: Request) -> PlainTextResponse:
    """One call, for an account of the caller's choice."""
    try:
        return PlainTextResponse(await read_account(request.path_params["account"]))
    except Denied as denied:
        return PlainTextResponse(denied.decision.message, 403)


async def read_on(request: Request) -> StreamingResponse:
    """One call after the other until one is refused; each line begins with the time."""

    async def lines() -> AsyncIterator[str]:
        try:
            while True:
                yield f"{time.monotonic_ns()} {await read_account('acme')}\n"
        except Denied as denied:
            yield f"{time.monotonic_ns()} {denied.decision.message}\n"

    return StreamingResponse(lines())


def serve(folder: Path) -> None:
    """Answer on a free port, which is printed, until standard input is closed."""
    app = Starlette(routes=[Route("/accounts/{account}", read), Route("/on", read_on)])
    with agentguard.load(folder / "researcher.yaml") as guard, socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(
            uvicorn.Config(ResumeTask(app, guard, agent="researcher"), log_level="warning", timeout_graceful_shutdown=5)
        )

        def stop() -> None:
            sys.stdin.read()
            server.should_exit = True

        threading.Thread(target=stop, daemon=True).start()
        print(listening.getsockname()[1], flush=True)
        server.run(sockets=[listening])


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
