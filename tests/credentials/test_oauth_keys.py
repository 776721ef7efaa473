"""A kid that got another key: its tokens verify with the new one, not only once the cached key set is old."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from agentguard import CredentialUnavailable
from agentguard._drive import drive
from agentguard._http import Request, Response
from agentguard.keys import KeySet, SigningKey
from agentguard.testing import FakeClock
from tests.credentials.oauth_server import (
    API,
    CLIENT,
    KEY,
    URN,
    FakeServer,
    answered,
    credentials_at,
    own_grant,
    signed,
)
from tests.credentials.test_oauth_id_jag import Pair

KID = "a kid of a server that does not hash its keys"


class Named:
    """A key under a kid of its server's choice."""

    def __init__(self, key: SigningKey) -> None:
        self.kid, self.algorithm, self.sign = KID, key.algorithm, key.sign


class Careless(FakeServer):
    """Publishes one key, always under the same kid."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.key = KEY

    def publishes(self) -> Mapping[str, Any]:
        (jwk,) = KeySet.of(self.key).jwks()["keys"]
        return {"keys": [{**jwk, "kid": KID}]}

    def _routes(self) -> Any:
        return {**super()._routes(), "/jwks": lambda request, form: answered(body=self.publishes())}

    def _token(self, request: Request, form: Any) -> Response:
        named: Any = Named(self.key)
        self.answer = {"access_token": signed(self._claims(form, ""), key=named)}
        return super()._token(request, form)


def test_token_of_a_kid_that_got_another_key_is_taken() -> None:
    server = Careless(FakeClock())
    issuer, now = credentials_at(server), server.clock()
    asked = own_grant()
    drive(issuer.issue(asked, issuer.prepare(asked, now), now))
    server.key = SigningKey.generate()
    jwks: Any = issuer._server._jwks
    with pytest.raises(CredentialUnavailable, match="signature"):  # the cool-down
        drive(issuer.issue(asked, issuer.prepare(asked, now), now))
    jwks[1]._tried_at = -math.inf
    drive(issuer.issue(asked, issuer.prepare(asked, now), now))
    jwks[1]._tried_at = -math.inf
    forged: Any = Named(SigningKey.generate())
    server.script = [
        answered(
            body={
                "access_token": signed(server._claims({"client_id": CLIENT, "resource": API}, ""), key=forged),
                "token_type": "Bearer",
            }
        )
    ]
    with pytest.raises(CredentialUnavailable, match="signature"):
        drive(issuer.issue(asked, issuer.prepare(asked, now), now))


def test_assertion_of_a_kid_that_got_another_key_is_taken() -> None:
    pair = Pair()
    key = KEY

    def jwks(request: Request, form: Any) -> Response:
        (jwk,) = KeySet.of(key).jwks()["keys"]
        return answered(body={"keys": [{**jwk, "kid": KID}]})

    def token(request: Request, form: Any) -> Response:
        named: Any = Named(key)
        claims = {**pair.provider._claims(form, ""), "aud": form["audience"], "resource": form["resource"]}
        jag, kind = signed(claims, pair.provider.typ, named), f"{URN}token-type:id-jag"
        return answered(body={"access_token": jag, "token_type": "N_A", "issued_token_type": kind})

    routes = pair.provider._routes()
    routes = {**routes, "/jwks": jwks, "/token": pair.provider._authenticated(token)}
    pair.provider._routes = lambda: routes  # type: ignore[method-assign]  # this one's
    pair.issued()
    key = SigningKey.generate()
    held: Any = pair.issuer._provider._jwks
    held[1]._tried_at = -math.inf
    pair.issued()
