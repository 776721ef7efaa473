"""A FastAPI service: one guard, many users at once, a task for each request.

Run it: `python -m examples.fastapi_service`. It calls itself in-process, as alice and as bob at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse

import agentguard
from agentguard import Denied, Intent, Task, current_credential, guarded, step
from agentguard.resource_server import TokenVerifier

DESK = "https://desk.test"
guard = agentguard.local()
accounts = TokenVerifier(guard.keys, "agentguard", DESK, revoked=guard.revoked)  # what the accounts API would do
app, responded, jobs = FastAPI(), asyncio.Event(), set[asyncio.Task[str]]()


@guarded("account.read", effect="read", audience=DESK, resource="account/{account}")
async def read_account(account: str) -> str:
    await asyncio.sleep(0.01)  # meanwhile the other user's call runs
    seen = accounts.verify(current_credential().token)
    return f"{seen.chain_text} read {seen.resource}"


@guarded("account.export", effect="read", audience=DESK, resource="account/{account}")
async def export(account: str) -> AsyncIterator[str]:
    for line in range(1, 4):  # the credential is good until the stream is closed
        await asyncio.sleep(0.01)
        yield f"{accounts.verify(current_credential().token).chain_text}: line {line} of {account}; "


async def user_task(x_user: Annotated[str, Header()]) -> AsyncIterator[Task]:
    """The task of one request; it ends after the response, a streamed one included."""
    intent = Intent("Answer a request", step("account.read", account=x_user), step("account.export", account=x_user))
    async with guard.task("desk", on_behalf_of=x_user, intent=intent) as task:  # in earnest: User.verified(ID token)
        yield task


@app.get("/{account}", dependencies=[Depends(user_task)])
async def read(account: str) -> str:
    async def later() -> str:  # a job that outlives the request
        await responded.wait()
        return await read_account(account)

    jobs.add(asyncio.create_task(later()))
    try:
        return await read_account(account)
    except Denied as denied:
        raise HTTPException(403, denied.public) from None


@app.get("/{account}/export", dependencies=[Depends(user_task)])
async def stream(account: str) -> StreamingResponse:
    return StreamingResponse(export(account), media_type="text/plain")


async def main() -> None:
    wanted = [(user, path) for path in ("/alice", "/bob", "/{}/export") for user in ("alice", "bob")]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=DESK) as client:
        calls = (client.get(path.format(user), headers={"x-user": user}) for user, path in wanted)
        for (user, path), answer in zip(wanted, await asyncio.gather(*calls), strict=True):
            print(f"{user:5} GET {path.format(user):13} {answer.status_code} {answer.text.strip()}")
    responded.set()
    late = await asyncio.gather(*jobs, return_exceptions=True)
    print("jobs left behind:", {getattr(denied, "reason", denied) for denied in late})
    print("outstanding credentials:", guard.outstanding())


if __name__ == "__main__":
    asyncio.run(main())
