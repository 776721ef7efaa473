"""JWT-SVIDs (SPIFFE JWT-SVID): verified with the JWT bundle of their own trust domain, for exactly one audience."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agentguard._json import strict_json
from agentguard._jwt import MAX_LIFETIME, MAX_TOKEN
from agentguard.identity.spiffe_id import spiffe_id_problem, trust_domain_of
from agentguard.identity.workload_api import Failure, chosen
from agentguard.model.lease import Secret

if TYPE_CHECKING:
    from spiffe import JwtBundleSet, JwtSvid

LEEWAY: Final = 30  # seconds that the agent's clock may be ahead
_TYPES: Final = ("JWT", "JOSE")


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtIdentity:
    """A JWT-SVID that was verified.

    Args:
        name: its SPIFFE ID, `sub`.
        trust_domain: whose bundle verified it.
        begins_at, expires_at: seconds since the epoch.
        secret: the token.
    """

    name: str
    trust_domain: str
    begins_at: float
    expires_at: float
    secret: Secret = field(repr=False)


def verified_jwt(
    svids: Sequence[JwtSvid], bundles: JwtBundleSet, audience: str, wanted: str, now: float
) -> JwtIdentity | Failure:
    """Return the one JWT-SVID of this workload for an audience, or why there is none (JWT-SVID, sections 3 to 5).

    The package `spiffe` verifies the signature. What it lets through is refused here: a second audience, capitals in
    the SPIFFE ID, duplicate members, times that are no integers, a lifetime over a day.

    Args:
        svids: what the Workload API answered, not verified yet.
        bundles: the bundles to verify with.
        audience: the only `aud`.
        wanted: the SPIFFE ID to take, or empty where the workload has one only.
        now: seconds since the epoch.
    """
    try:
        svid = chosen([(str(svid.spiffe_id), svid) for svid in svids], wanted)
        return svid if isinstance(svid, Failure) else _verified(svid.token, bundles, audience, wanted, now)
    except Exception:  # deny by default: whatever breaks here breaks on the token, and its frames hold it
        return Failure("the JWT-SVID does not verify with the bundle of its trust domain; see the SPIFFE agent's log")


def _verified(token: str, bundles: JwtBundleSet, audience: str, wanted: str, now: float) -> JwtIdentity | Failure:
    from spiffe import JwtSvid, TrustDomain

    if len(token) > MAX_TOKEN:
        return Failure(f"the JWT-SVID is longer than {MAX_TOKEN} characters")
    header, claims = (_part(token, position) for position in (0, 1))
    problem = _problem(header, claims, audience, now)
    name = claims.get("sub")
    if problem or not isinstance(name, str) or name != (wanted or name):
        return Failure(f"the JWT-SVID is refused: {problem or 'it is for another workload'}")
    bundle = bundles.get_bundle_for_trust_domain(TrustDomain(trust_domain_of(name)))
    if bundle is None:
        return Failure(f"the SPIFFE agent has no JWT bundle of the trust domain {trust_domain_of(name)}")
    JwtSvid.parse_and_validate(token, bundle, {audience})
    return JwtIdentity(
        name=name,
        trust_domain=trust_domain_of(name),
        begins_at=float(claims.get("iat", now)),
        expires_at=float(claims["exp"]),
        secret=Secret(token),
    )


def _part(token: str, position: int) -> dict[str, Any]:
    part = token.split(".")[position]
    return strict_json(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def _problem(header: Mapping[str, Any], claims: Mapping[str, Any], audience: str, now: float) -> str:
    if header.get("typ", "JWT") not in _TYPES:
        return "its typ is not JWT"
    if problem := spiffe_id_problem(claims.get("sub")):
        return f"its subject names no workload: {problem}"
    if claims.get("aud") not in (audience, [audience]):
        return "it is not for exactly the audience that was asked for"
    times = [claims.get("iat", int(now)), claims.get("nbf", 0), claims.get("exp")]
    if any(type(value) is not int for value in times):
        return "one of its times is no whole number of seconds"
    issued, begins, expires = times
    if not (now < expires and max(issued, begins) <= now + LEEWAY):
        return "it is not valid now"
    return "" if expires - issued <= MAX_LIFETIME else "it lives longer than a day"
