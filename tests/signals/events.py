"""Security event tokens, well-formed and not, and who receives them in the tests."""

from __future__ import annotations

from typing import Any, Final

from agentguard.keys import KeySet, SigningKey
from agentguard.signals import SetProfile, SetReceiver, by_iss_sub
from tests.resource_server.forging import ABSENT, sign

NOW: Final = 1_800_000_000
IDP: Final = "https://idp.bank.test"
ME: Final = "https://agents.bank.test/events"
KEY: Final = SigningKey.generate()
KEYS: Final = KeySet.of(KEY)
CAEP: Final = "https://schemas.openid.net/secevent/caep/event-type/"
SSF: Final = "https://schemas.openid.net/secevent/ssf/event-type/"
ALICE: Final = {"format": "iss_sub", "iss": IDP, "sub": "alice"}
REVOKED: Final = f"{CAEP}session-revoked"
PROFILE: Final = SetProfile(issuer=IDP, audience=ME)


def without(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not ABSENT}


def claims(**changes: Any) -> dict[str, Any]:
    """Claims of a good SET; ABSENT takes one away."""
    events = {REVOKED: {"event_timestamp": NOW - 5, "reason_admin": {"en": "canary of a reason"}}}
    good = {"iss": IDP, "aud": ME, "jti": "set-1", "iat": NOW, "sub_id": ALICE, "events": events, "txn": "t-1"}
    return without({**good, **changes})


def pushed(head: dict[str, Any] | None = None, key: SigningKey = KEY, **changes: Any) -> str:
    """Sign a SET."""
    header = without({"alg": key.algorithm, "typ": "secevent+jwt", "kid": key.kid, **(head or {})})
    return sign(claims(**changes), header, key)


class Stopped:
    """Remembers who was stopped; fails for some."""

    def __init__(self, *failing: str) -> None:
        self.subjects: list[str] = []
        self.why: list[str] = []
        self.failing = failing

    async def suspend(self, *, subject: str, why: str) -> None:
        if subject in self.failing:
            raise OSError("canary of a disk")
        self.subjects.append(subject)
        self.why.append(why)


def receiver(stops: Any = None, **options: Any) -> SetReceiver:
    given: dict[str, Any] = {
        "stops": stops or Stopped(), "keys": KEYS, "profile": PROFILE, "subject_of": by_iss_sub(IDP),
        "clock": lambda: NOW + 1.5, **options,
    }  # fmt: skip
    return SetReceiver(**given)
