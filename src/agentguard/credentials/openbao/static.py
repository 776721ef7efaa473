"""Static secrets for targets that know nothing better: read for one task, never kept longer (the KV engine)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from agentguard._http import Response
from agentguard.credentials.openbao.target import Received, checked_use, is_line, unread
from agentguard.credentials.openbao.vault import Refused, checked_path, members
from agentguard.errors import ConfigurationError
from agentguard.model.lease import Placement, Secret

_SHORTEST: Final = 8  # a shorter one would not be found in what a tool returns
_LONGEST: Final = 8192
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # RFC 9110 section 5.6.2
_FRAMING: Final = frozenset({"connection", "content-length", "host", "te", "trailer", "transfer-encoding", "upgrade"})
_NAMED: Final = (Placement.HEADER, Placement.QUERY)
_LOGINS: Final = (Placement.BASIC, Placement.LOGIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticSecret:
    """A field of a KV secret, put where a legacy target wants it.

    Our copy ends with the task. The secret itself does not: nobody revokes it, and whoever saw it can use it until it
    is changed in the vault. So its lease is of the type `static`, and it is never recorded as revoked.

    Args:
        audience: the tools' audience, for example `https://legacy.test`.
        path: of the secret, below the mount.
        field: its field with the secret, a text of at least 8 characters.
        mount: where the engine is mounted.
        version: of the engine, 1 or 2.
        placement: how it is put on a request.
        name: the header's or the query parameter's name.
        user, user_field: for `basic` and `login` the user name, or the field of the same secret that holds it.
        scopes: the scopes that this secret stands for; a tool with exactly these is given it.

    Raises:
        ConfigurationError: a part is wrong.
    """

    type: ClassVar[str] = "static"
    leeway: ClassVar[int] = 0  # the end of our copy, which nobody else verifies
    repeatable: ClassVar[bool] = True

    audience: str
    path: str
    field: str
    mount: str = "secret"
    version: int = 2
    placement: Placement = Placement.BEARER
    name: str = ""
    user: str = ""
    user_field: str = ""
    scopes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checked_use(self.audience, self.scopes)
        checked_path(self.mount, "kv mount")
        checked_path(self.path, "kv path")
        if problem := self._problem():
            raise ConfigurationError(f"openbao secret for {self.audience}: {problem}")

    @property
    def reads(self) -> str:
        """What is read: `{mount}/data/{path}` of version 2, `{mount}/{path}` of version 1."""
        return f"{self.mount}/data/{self.path}" if self.version == 2 else f"{self.mount}/{self.path}"

    @property
    def label(self) -> str:
        """The lease's name before anything is read."""
        return self.name or self.user

    def _problem(self) -> str:
        named, login = self.placement in _NAMED, self.placement in _LOGINS
        if type(self.version) is not int or self.version not in (1, 2):
            return "version is 1 or 2, that of the KV engine"
        if not is_line(self.field, 256):
            return "field is missing: the name of the secret's field"
        if self.placement is Placement.DPOP:
            return "a static secret is bound to no key; choose bearer, header, query, basic or login"
        if named != bool(self.name) or (named and not _TOKEN.fullmatch(self.name)):
            return "name is for header and query alone, and is the header's or the parameter's name"
        if self.placement is Placement.HEADER and self.name.lower() in _FRAMING:
            return f"the header {self.name} says how a request is framed; no secret belongs there"
        if login != (bool(self.user) != bool(self.user_field)):
            return "basic and login take either user or user_field, and others neither"
        if self.user and (not is_line(self.user, 256) or ":" in self.user):
            return "user is a name without a colon (RFC 7617 section 2)"
        return ""

    def read(self, response: Response, ttl: int) -> Received | Refused:
        """Return the secret, and its version in the vault as `jti`."""
        data, version = self._fields(members(response))
        if data is None:
            return unread(response, self.reads, "secret")
        value, user = data.get(self.field), data.get(self.user_field) if self.user_field else self.user
        if not is_line(value, _LONGEST) or len(value) < _SHORTEST:
            return Refused(
                f"field {self.field} of {self.reads} is no text of {_SHORTEST} to {_LONGEST} plain characters"
            )
        if self.placement in (Placement.BEARER, Placement.HEADER) and not (value.isascii() and value == value.strip()):
            return Refused(f"field {self.field} of {self.reads} is no ASCII text, so it cannot be sent in a header")
        if user and (not is_line(user, 256) or ":" in user):
            user = None
        if self.placement in _LOGINS and not user:
            return Refused(f"field {self.user_field} of {self.reads} is no user name without a colon")
        return Received(Secret(value), user or self.label, version)

    def _fields(self, answer: dict[str, Any] | None) -> tuple[dict[str, Any] | None, str]:
        data = answer.get("data") if answer else None
        if not isinstance(data, dict):
            return None, ""
        if self.version == 1:
            return data, ""
        fields, metadata = data.get("data"), data.get("metadata")
        number = metadata.get("version") if isinstance(metadata, dict) else None
        return (fields if isinstance(fields, dict) else None), f"v{number}" if type(number) is int else ""
