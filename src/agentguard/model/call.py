"""What a tool declares (ToolSpec) and what one call of it is (ToolCall)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, Literal

from msgspec import Struct

from agentguard.errors import ConfigurationError
from agentguard.model.canonical import Canonical, number_text

TOOL_NAME: Final = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_HOLE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SCOPE: Final = r"[\x21\x23-\x5b\x5d-\x7e]+"  # compiled by the first tool that has scopes
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})


class Effect(StrEnum):
    """What a tool does to the world; undeclared means write."""

    READ = "read"
    WRITE = "write"
    DESTRUCTIVE = "destructive"


class ToolSpec(Struct, frozen=True, kw_only=True):
    """What a tool declares about itself; the keywords of `@guarded` and the fields of `tools.yaml`.

    Args:
        name: `[a-z0-9_]+(.[a-z0-9_]+)*`.
        effect: read, write or destructive.
        audience: the API's origin, or the database (`postgresql://db.example.com/app`), that the credential is for;
            empty for a tool that needs none.
        scopes: scopes the credential carries.
        resource: a template such as `account/{account}`; its holes are percent-encoded arguments.
        data: classes of data the tool returns or takes.
        tags: `egress`, `execute`, `admin`, `money`, or your own.
        lease: `task` (reused within the lease key) or `call` (single use, values in `authorization_details`);
            default `call` for a destructive tool.
        returns: `json` when the tool returns JSON as text.
        untrusted: result fields that an outsider can write.
        secret: arguments whose values never appear in a record or an explanation.
        hidden: parameters that the framework or the guard fills, outside the intent.
        credential: the hidden parameter that receives the Credential, or empty.
        null_is_empty: arguments for which null and an empty collection are equal.
        bytes: bytes are taken as arguments, compared by digest.
        record: arguments that stand in clear in the audit record.
        defaults: canonical defaults, by argument.
        parameters: names of all visible parameters; None when unknown (a remote tool without a signature).
    """

    name: str
    effect: Effect = Effect.WRITE
    audience: str = ""
    scopes: tuple[str, ...] = ()
    resource: str = ""
    data: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    lease: Literal["", "task", "call"] = ""
    returns: Literal["", "json"] = ""
    untrusted: tuple[str, ...] = ()
    secret: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()
    credential: str = ""
    null_is_empty: frozenset[str] = frozenset()
    bytes: bool = False
    record: tuple[str, ...] = ()
    defaults: Mapping[str, Canonical] = _NONE  # not compared
    parameters: frozenset[str] | None = None

    def __post_init__(self) -> None:
        problems = [problem for problem in self._problems() if problem]
        if problems:
            raise ConfigurationError(f"tool {self.name!r} is declared wrongly:", tuple(problems))

    def __eq__(self, other: object) -> bool:
        return _compared(self) == _compared(other) if isinstance(other, ToolSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(_compared(self))

    def _problems(self) -> list[str]:
        found = [
            ""
            if TOOL_NAME.fullmatch(self.name)
            else 'its name must be words of a-z 0-9 _ joined by dots: @guarded("refund.create")',
            _audience_problem(self.audience),
            "scopes without an audience: a credential needs a place to be used"
            if self.scopes and not self.audience
            else "",
            *(
                f"scope {scope!r} is no scope: no spaces, quotes or backslashes (RFC 6749 section 3.3)"
                for scope in self.scopes
                if not re.fullmatch(_SCOPE, scope)
            ),
            f"lease {self.lease!r}: write 'task' or 'call'" if self.lease not in ("", "task", "call") else "",
        ]
        if self.parameters is not None:
            found += [
                f"{what} names {name!r}, which is no argument of it; it takes {', '.join(sorted(self.parameters))}"
                for what, names in (("resource", self.holes), ("record", self.record), ("secret", self.secret))
                for name in sorted(set(names) - self.parameters)
            ]
        found += [f"record shows {name!r} in clear, and secret hides it" for name in self.record if name in self.secret]
        found += [
            f"resource shows {name!r} in clear, and secret hides it" for name in self.holes if name in self.secret
        ]
        return found

    @property
    def single_use(self) -> bool:
        """Whether a lease serves one call only."""
        return self.lease == "call" or (not self.lease and self.effect is Effect.DESTRUCTIVE)

    @property
    def holes(self) -> tuple[str, ...]:
        """Arguments named by the resource template."""
        return tuple(_HOLE.findall(self.resource))

    @property
    def waits_for_disk(self) -> bool:
        """Whether the decision must be on disk before the tool runs: writes, and reads that return classified data."""
        return self.effect is not Effect.READ or bool(self.data)

    def resource_of(self, arguments: Mapping[str, Canonical]) -> str:
        """Fill the resource template; each hole is percent-encoded (RFC 3986 section 2.1), so it stays one segment."""
        if not self.resource:
            return ""
        from urllib.parse import quote

        return _HOLE.sub(
            lambda hole: quote(_segment(arguments.get(hole[1])), safe="", errors="surrogatepass"), self.resource
        )


_compared: Final = attrgetter(*(name for name in ToolSpec.__struct_fields__ if name != "defaults"))


def _segment(value: Canonical) -> str:
    if isinstance(value, Decimal):
        return number_text(value)
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else "-"


def _audience_problem(audience: str) -> str:
    if not audience:
        return ""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(audience)
        _ = parts.port
    except ValueError:  # a bracket that is no address, a port that is none
        parts = urlsplit("")
    local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if parts.scheme in ("https", "postgresql") or (parts.scheme == "http" and local):
        bad = parts.username or parts.query or parts.fragment or not parts.hostname
        return f"audience {audience!r} holds a user, query or fragment" if bad else ""
    return (
        f"audience {audience!r}: write the API's origin, https://api.example.com (http only on loopback), "
        "or a database, postgresql://db.example.com/app"
    )


class ToolCall(Struct, frozen=True, kw_only=True):
    """One call of a tool, bound: what is compared, digested and recorded.

    Args:
        id: unique in this process and after a fork.
        spec: the tool's declaration.
        arguments: canonical, by name; an argument that was left out stands with its default, if it has one.
        given: names the caller passed.
        digest: SHA-256 over the canonical arguments.
        call_id, agent, run_id: what the framework says about this call; for traces only, never for a decision.
    """

    id: str
    spec: ToolSpec
    arguments: Mapping[str, Canonical]
    given: frozenset[str]
    digest: str
    call_id: str = ""
    agent: str = ""
    run_id: str = ""
