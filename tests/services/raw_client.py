"""A client of the authorization server from httpx and PyJWT alone: the server is proven without our own code."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from tests.services.endpoints import AuthorizationServer

URN = "urn:ietf:params:oauth:"
TOKEN_EXCHANGE = f"{URN}grant-type:token-exchange"
JWT_BEARER = f"{URN}grant-type:jwt-bearer"
ACCESS_TOKEN, ID_TOKEN, JWT, ID_JAG = (
    f"{URN}token-type:{name}" for name in ("access_token", "id_token", "jwt", "id-jag")
)
JWT_RESOURCE = "https://api.test/jwt/payments"
OPAQUE_RESOURCE = "https://api.test/opaque/payments"


class RawClient:
    """One registered client, with one connection pool for the time of a `with`."""

    def __init__(self, server: AuthorizationServer, client_id: str = "support-bot") -> None:
        self.server, self.issuer, self.client_id = server, server.issuer, client_id
        self._registered = server.clients[client_id]
        self._key = self._registered.pem.read_bytes()
        self._http = httpx.Client(base_url=server.issuer, trust_env=False, timeout=5)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def signed(self, claims: Mapping[str, Any], typ: str = "JWT") -> str:
        """A JWT of this client: `iss`, `iat`, `exp` and `jti` are filled in, `aud` is the issuer."""
        now = int(time.time())
        defaults = {
            "iss": self.client_id,
            "aud": self.issuer,
            "iat": now,
            "exp": now + 30,
            "jti": secrets.token_hex(16),
        }
        headers = {"kid": self._registered.kid, "typ": typ}
        return jwt.encode({**defaults, **claims}, self._key, algorithm="ES256", headers=headers)

    def post(self, path: str, form: Mapping[str, Any], *, aud: Any = None, headers: Any = None) -> httpx.Response:
        """Send a form, authenticated with private_key_jwt."""
        assertion = self.signed({"sub": self.client_id, "aud": aud or self.issuer}, "client-authentication+jwt")
        authentication = {
            "client_assertion_type": f"{URN}client-assertion-type:jwt-bearer",
            "client_assertion": assertion,
        }
        return self._http.post(path, data={**form, **authentication}, headers=headers)

    def token(self, grant_type: str, *, aud: Any = None, headers: Any = None, **form: Any) -> httpx.Response:
        """A token request; `authorization_details` may be given as a list."""
        if "authorization_details" in form:
            form["authorization_details"] = json.dumps(form["authorization_details"])
        return self.post("/token", {"grant_type": grant_type, **form}, aud=aud, headers=headers)

    def exchange(self, subject_token: str, subject_token_type: str = ACCESS_TOKEN, **form: Any) -> httpx.Response:
        """A token exchange (RFC 8693), by default for `JWT_RESOURCE`."""
        target = {} if {"resource", "audience"} & form.keys() else {"resource": JWT_RESOURCE}
        subject = {"subject_token": subject_token, "subject_token_type": subject_token_type}
        return self.token(TOKEN_EXCHANGE, **subject, **target, **form)

    def actor(self, sub: str, **claims: Any) -> dict[str, str]:
        """The two parameters of an actor token that this client signs itself."""
        return {"actor_token": self.signed({"sub": sub, **claims}), "actor_token_type": JWT}

    def minted(self, **body: Any) -> str:
        """A token of a user who has logged in, by the server's test route."""
        answer = self._http.post("/test/tokens", json={"client_id": self.client_id, "type": "access_token", **body})
        answer.raise_for_status()
        return str(answer.json()["token"])

    def introspect(self, token: str) -> dict[str, Any]:
        """What the resource server's client is told about a token."""
        verifier = self.server.resource_server
        credentials = (verifier.client_id, verifier.client_secret)
        answer = self._http.post("/token/introspection", data={"token": token}, auth=credentials)
        return {"status": answer.status_code, **answer.json()}

    def get(self, path: str) -> Any:
        """JSON of a public or test route."""
        return self._http.get(path).raise_for_status().json()

    def fault(self, **body: Any) -> None:
        """Let the next request to a path go wrong."""
        self._http.post("/test/fault", json=body).raise_for_status()

    def claims(self, token: str, audience: str | None = None) -> dict[str, Any]:
        """The verified claims of a JWT of the server."""
        kid = jwt.get_unverified_header(token)["kid"]
        key = next(key for key in self.get("/jwks")["keys"] if key["kid"] == kid)
        public = ECAlgorithm.from_jwk(key)
        options: Any = {"verify_aud": audience is not None}
        return jwt.decode(token, public, algorithms=["ES256"], issuer=self.issuer, audience=audience, options=options)  # type: ignore[arg-type]  # from_jwk's type allows a private key


def dpop_proof(key: ec.EllipticCurvePrivateKey, url: str, nonce: str | None = None) -> dict[str, str]:
    """The header of a DPoP proof (RFC 9449, section 4.2)."""
    claims = {"htm": "POST", "htu": url, "iat": int(time.time()), "jti": secrets.token_hex(16)}
    headers = {"typ": "dpop+jwt", "jwk": _public_jwk(key)}
    return {
        "DPoP": jwt.encode({**claims, **({"nonce": nonce} if nonce else {})}, key, algorithm="ES256", headers=headers)
    }


def thumbprint(key: ec.EllipticCurvePrivateKey) -> str:
    """The JWK thumbprint (RFC 7638)."""
    members = json.dumps(_public_jwk(key), sort_keys=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(members.encode()).digest()).rstrip(b"=").decode()


def _public_jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {name: jwk[name] for name in ("crv", "kty", "x", "y")}
