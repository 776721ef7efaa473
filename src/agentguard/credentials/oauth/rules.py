"""What a configuration accepts of an authorization server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agentguard._jwt import MAX_LEEWAY, MAX_LIFETIME
from agentguard.errors import ConfigurationError
from agentguard.model.lease import LEEWAY


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """What this configuration accepts of an authorization server.

    Args:
        max_lifetime: most seconds a token may live; until an answer is known, a lease that may exist ends by it.
        default_lifetime: seconds an opaque token lives where the server does not say; 0 refuses such a token.
        dpop: bind every token to a key of its own (RFC 9449).
        target: the parameter that names the audience, `resource` (RFC 8707) or `audience` (RFC 8693 section 2.1).
        targets: what the server calls an audience, where that is another text; it is also the `aud` expected.
        subject: `same`: the token's `sub` is the subject's name at its issuer; `any`: the server maps it.
        details: ask for the steps of the intent and their bounds too, in authorization details; the server has to know
            such members.
        enrichment: the server may add members to authorization details (RFC 9396 section 7.1).
        introspect: opaque tokens are introspected before use (RFC 7662).
        revocable: ask the server to revoke JWTs too; without, they end by themselves.
        leeway: seconds that clocks may differ, at most 60.

    Raises:
        ConfigurationError: a bound is out of range.
    """

    max_lifetime: int = 120
    default_lifetime: int = 0
    dpop: bool = False
    target: Literal["resource", "audience"] = "resource"
    targets: Mapping[str, str] = field(default_factory=dict)
    subject: Literal["same", "any"] = "same"
    details: bool = False
    enrichment: bool = False
    introspect: bool = False
    revocable: bool = True
    leeway: int = LEEWAY

    def __post_init__(self) -> None:
        if not 0 < self.max_lifetime <= MAX_LIFETIME:
            raise ConfigurationError(f"max_lifetime {self.max_lifetime!r}: write seconds from 1 to {MAX_LIFETIME}")
        if not 0 <= self.default_lifetime <= self.max_lifetime:
            raise ConfigurationError(f"default_lifetime {self.default_lifetime!r}: write seconds up to max_lifetime")
        if not 0 <= self.leeway <= MAX_LEEWAY:
            raise ConfigurationError(f"leeway {self.leeway!r}: write seconds from 0 to {MAX_LEEWAY}")
        if self.target not in ("resource", "audience") or self.subject not in ("same", "any"):
            raise ConfigurationError("target is 'resource' or 'audience'; subject is 'same' or 'any'")
