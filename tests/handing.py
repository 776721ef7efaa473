"""Two guards that hand tasks to each other, and tools of their own."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

from agentguard import Guard, Intent, at_most, guarded, step
from agentguard.handover import Handovers, MemoryRedemptions
from agentguard.keys import KeySet, SigningKey
from agentguard.testing import fake_guard

DOMAIN = "bank.test"
KEYS = {name: SigningKey.generate() for name in ("home", "far", "third", "stranger")}
done: list[tuple[object, ...]] = []


@guarded("handed.refund")
def refund(account: str, amount: Decimal) -> str:
    """Refund an amount."""
    done.append(("refund", account, amount))
    return f"refunded {amount}"


@guarded("handed.read", effect="read", data={"pii"})
def read(account: str) -> dict[str, str]:
    """Read an account."""
    done.append(("read", account))
    return {"iban": f"IBAN-{account}"}


@guarded("handed.pay")
def pay(iban: str) -> str:
    """Pay to an account."""
    done.append(("pay", iban))
    return "paid"


def guard_of(name: str, *peers: str, shared: MemoryRedemptions | None = None, **rooms: Any) -> Guard:
    """A guard of fakes that takes tasks from some peers."""
    parties = Handovers(
        issuer=name, trust_domain=DOMAIN, key=KEYS[name], peers={peer: KeySet.of(KEYS[peer]) for peer in peers},
        redemptions=MemoryRedemptions() if shared is None else shared,
    )  # fmt: skip
    return fake_guard(handovers=parties, **rooms)


def refunds(times: int = 10, **rest: Any) -> Intent:
    """Some refunds to one account, and reading."""
    allowed = step("handed.refund", account="acme", amount=at_most(50)).named("refund").times(times)
    return Intent("Refund", allowed, reads=["handed.read"], **rest)


def claims_of(token: str) -> dict[str, Any]:
    """What a token says, unverified."""
    payload = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


def signed(claims: Any, key: SigningKey, typ: str = "txntoken+jwt") -> str:
    """Sign claims as the holder of a key could, whatever they say."""
    header = {"alg": key.algorithm, "typ": typ, "kid": key.kid}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, claims)]
    data = b".".join(parts)
    return (data + b"." + base64.urlsafe_b64encode(key.sign(data)).rstrip(b"=")).decode()
