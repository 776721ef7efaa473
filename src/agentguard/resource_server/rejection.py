"""How a request is refused: the status, and the challenges that say what would be accepted (RFC 6750, RFC 9449)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentguard._jwt import Rejection
from agentguard.errors import ConfigurationError, TokenRejected

UNAVAILABLE: Final = "temporarily_unavailable"
BAD_PROOF: Final = "invalid_dpop_proof"
WANTS_NONCE: Final = "use_dpop_nonce"
STATUSES: Final[Mapping[str, int]] = {**TokenRejected.statuses, BAD_PROOF: 401, WANTS_NONCE: 401, UNAVAILABLE: 503}
_UNQUOTABLE: Final = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")
_OF_PROOFS: Final = frozenset({BAD_PROOF, WANTS_NONCE})


class InsufficientScope(TokenRejected):
    """The token is good, but not for this: `insufficient_scope` (RFC 6750 section 3.1), answered with 403.

    Args:
        scope: what the request needs, for the challenge; space-separated.
        why: a short description, safe to send to the caller.
    """

    def __init__(self, scope: str, why: str) -> None:
        self.scope = scope
        super().__init__("insufficient_scope", why)


class VerificationUnavailable(TokenRejected):
    """Whether the token is good could not be found out: a server did not answer. Refused, with 503 instead of 401.

    Args:
        why: a short description, safe to send to the caller.
    """

    def __init__(self, why: str) -> None:
        super().__init__(UNAVAILABLE, why)
        self.status = 503


def rejected(rejection: Rejection) -> TokenRejected:
    """Return the error to raise, once the token itself is out of reach."""
    return VerificationUnavailable(rejection.why) if rejection.error == UNAVAILABLE else rejection.raised()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused.

    Args:
        error: the code, or empty where no token was sent.
        why: a short description that holds nothing of the request.
        scope: what is needed, for `insufficient_scope`.
        scheme: what the request used, in lower case; empty where it used nothing that is accepted.
        nonce: what the next proof has to hold, or empty.
    """

    error: str = ""
    why: str = ""
    scope: str = ""
    scheme: str = ""
    nonce: str = ""

    @property
    def status(self) -> int:
        """400, 401, 403 or 503."""
        return STATUSES.get(self.error, 401)

    @property
    def body(self) -> bytes:
        """What an API answers with, in JSON; empty where no token was sent."""
        return json.dumps({"error": self.error, "error_description": self.why}).encode() if self.error else b""


class RequestRejected(TokenRejected):
    """A request does not pass; `status`, `headers` and `body` are the answer, and hold nothing of its token.

    Args:
        refusal: why.
        challenge: the value of `WWW-Authenticate`, all schemes in one.
        headers: names and values of the answer's headers.
    """

    def __init__(self, refusal: Refusal, challenge: str, headers: Sequence[tuple[str, str]]) -> None:
        super().__init__(refusal.error or "invalid_token", refusal.why or "the request has no token")
        self.status, self.body = refusal.status, refusal.body
        self.challenge, self.headers = challenge, tuple(headers)

    @property
    def header_map(self) -> dict[str, str]:
        """The headers with each name once, for frameworks whose responses take a mapping."""
        joined = {"WWW-Authenticate": self.challenge} if self.challenge else {}
        return {**dict(self.headers), **joined}


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenges:
    """Makes the `WWW-Authenticate` values of one API (RFC 9110 section 11.6.1): one for each scheme it takes.

    Args:
        realm: its name for people, or empty.
        resource_metadata: URL of its protected resource metadata, or empty (RFC 9728 section 5.1).
        bearer: it takes Bearer tokens.
        algorithms: what DPoP proofs may be signed with; empty where it takes none.

    Raises:
        ConfigurationError: a value that cannot stand in a header, or no scheme at all.
    """

    realm: str = ""
    resource_metadata: str = ""
    bearer: bool = True
    algorithms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("realm", "resource_metadata"):
            value: str = getattr(self, name)
            if _UNQUOTABLE.search(value):
                raise ConfigurationError(f"{name} {value!r}: use printable ASCII without quotes and backslashes")
        if not self.bearer and not self.algorithms:
            raise ConfigurationError("this API would take no token at all: give dpop=, or leave require_dpop out")

    def of(self, refusal: Refusal) -> list[str]:
        """Return the challenges, the one that says what went wrong first; none where no other token would help."""
        if refusal.status == 503:
            return []
        schemes = [name for name, taken in (("Bearer", self.bearer), ("DPoP", bool(self.algorithms))) if taken]
        at_fault = "DPoP" if refusal.error in _OF_PROOFS else refusal.scheme
        schemes.sort(key=lambda name: name.lower() != at_fault.lower())
        return [self._one(name, refusal, tells=index == 0) for index, name in enumerate(schemes)]

    def headers(self, refusal: Refusal) -> list[tuple[str, str]]:
        """Return the headers of the answer."""
        nonce = [("DPoP-Nonce", refusal.nonce)] if refusal.nonce else []
        body = [("Content-Type", "application/json"), ("Content-Length", str(len(refusal.body)))]
        return [*(("WWW-Authenticate", one) for one in self.of(refusal)), *nonce, *body, ("Cache-Control", "no-store")]

    def _one(self, scheme: str, refusal: Refusal, *, tells: bool) -> str:
        said = dict(self._said(refusal)) if tells else {}
        parameters = {
            "realm": self.realm,
            **said,
            "algs": " ".join(self.algorithms) if scheme == "DPoP" else "",
            "resource_metadata": self.resource_metadata,
        }
        given = (f'{name}="{_UNQUOTABLE.sub("?", value)}"' for name, value in parameters.items() if value)
        return f"{scheme} {', '.join(given)}".rstrip()

    @staticmethod
    def _said(refusal: Refusal) -> Iterator[tuple[str, str]]:
        yield "error", refusal.error
        yield "error_description", refusal.why
        yield "scope", refusal.scope


def refusal_of(error: TokenRejected, scheme: str = "") -> Refusal:
    """Return how an error is answered that an application raised; a code that nobody knows is `invalid_token`."""
    code = error.error if error.error in STATUSES else "invalid_token"
    return Refusal(code, error.why, error.scope if isinstance(error, InsufficientScope) else "", scheme)
