"""Guarded tools that many tests use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal

from agentguard import Intent, at_most, current_credential, guarded, step

API = "https://payments.test"
ran: list[tuple[object, ...]] = []


@guarded
def refund(account: str, amount: Decimal) -> str:
    """Refund an amount."""
    ran.append(("refund", account, amount))
    return f"refunded {amount} to {account}"


@guarded("account.read", effect="read")
def read_account(account: str) -> dict[str, str]:
    """Read an account."""
    ran.append(("account.read", account))
    return {"account": account}


@guarded("pay", audience=API, scopes=["pay:write"], resource="account/{account}", record=["account"])
def pay(account: str, amount: int = 1) -> str:
    """Pay with a credential."""
    ran.append(("pay", account, amount))
    return current_credential().lease.id


@guarded("apay", audience=API, scopes=["pay:write"])
async def apay(account: str) -> str:
    """Pay with a credential, asynchronously."""
    ran.append(("apay", account))
    return current_credential().lease.id


@guarded("wipe", effect="destructive", audience=API, scopes=["wipe"])
def wipe(account: str) -> str:
    """Wipe with a single-use credential."""
    ran.append(("wipe", account))
    return current_credential().lease.id


@guarded("lines", effect="read", audience=API, scopes=["read"])
def lines(count: int) -> Iterator[str]:
    """Stream some lines."""
    for number in range(count):
        ran.append(("lines", number, current_credential().lease.id))
        yield f"line {number}"


@guarded("alines", effect="read", audience=API, scopes=["read"])
async def alines(count: int) -> AsyncIterator[str]:
    """Stream some lines, asynchronously."""
    for number in range(count):
        ran.append(("alines", number, current_credential().lease.id))
        yield f"line {number}"


def everything() -> Intent:
    """A permissive intent: each tool, often."""
    names = ("refund", "pay", "apay", "wipe")
    arguments = {
        "refund": {"account": "acme", "amount": at_most(50)},
        "pay": {"account": "acme", "amount": at_most(50)},
    }
    steps = [step(name, **arguments.get(name, {"account": "acme"})).times(100) for name in names]
    return Intent("Everything the tests need", *steps, reads=["account.read", "lines", "alines"])
