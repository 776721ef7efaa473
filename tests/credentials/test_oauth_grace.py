"""An authorization server that is down leaves reads their credential for the grace; one that refuses does not."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from agentguard import CredentialUnavailable
from agentguard._drive import drive
from agentguard._http import HttpFailure
from agentguard.errors import IdentityUnavailable
from tests.credentials.oauth_server import FakeServer, answered, exchange_at, grant
from tests.credentials.rooms import Room

down_or_not = pytest.mark.control("10 broker down: denied, and grace for reads only")


def refreshed(step: Any, *, reads: bool = True) -> str:
    """Refresh a credential after its end, at a server whose answer is this; what was recorded last."""
    server = FakeServer()
    room = Room(exchange_at(server), grace=20)
    server.clock = room.issuer._server.clock = room.clock
    asked = replace(grant(), reads=reads, task="t")
    drive(room.leases.release(drive(room.leases.obtain(asked))))
    room.clock.advance(65)
    server.script = [step]
    drive(room.leases.release(drive(room.leases.obtain(asked))))
    return room.events()[-1]


@down_or_not
@pytest.mark.parametrize(
    "step",
    [
        HttpFailure("no connection", sent=False), HttpFailure("timeout", sent=True), answered(429), answered(500),
        answered(503), answered(503, {"error": "temporarily_unavailable"}), answered(502, b"<html>"),
    ],
)  # fmt: skip
def test_reads_go_on_with_their_credential_while_the_authorization_server_is_down(step: Any) -> None:
    assert refreshed(step) == "credential.grace"
    with pytest.raises(CredentialUnavailable):
        refreshed(step, reads=False)


@down_or_not
@pytest.mark.parametrize(
    "step",
    [
        answered(400, {"error": "invalid_grant"}), answered(401, {"error": "invalid_client"}), answered(403),
        answered(503, {"error": "access_denied"}), answered(200, b"no JSON"), IdentityUnavailable("withdrawn"),
    ],
)  # fmt: skip
def test_authorization_server_that_refuses_leaves_nobody_a_credential(step: Any) -> None:
    with pytest.raises(CredentialUnavailable):
        refreshed(step)
