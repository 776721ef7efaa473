"""Database roles that the vault makes for one task and drops with it (the database secrets engine)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from agentguard._http import Response
from agentguard.credentials.openbao.login import whole
from agentguard.credentials.openbao.target import Received, checked_use, is_line, unread
from agentguard.credentials.openbao.vault import Refused, checked_path, members
from agentguard.model.lease import LEEWAY, Placement, Secret

_USER: Final = 256
_PASSWORD: Final = 1024


@dataclass(frozen=True, slots=True)
class Database:
    """A role of a database, made when it is needed: `GET {mount}/creds/{role}`.

    What the role may do stands in the vault's creation statements. Arguments, resource and authorization details of a
    call cannot narrow it; the scopes of the tool choose it.

    Args:
        audience: the tools' audience, for example `postgresql://db.test/app`.
        role: the role at the mount; its `default_ttl` is at most the issuer's `ttl`.
        mount: where the engine is mounted.
        scopes: the scopes that this role stands for; a tool with exactly these is given it.

    Raises:
        ConfigurationError: a part is wrong.
    """

    type: ClassVar[str] = "login"
    placement: ClassVar[Placement] = Placement.LOGIN
    leeway: ClassVar[int] = LEEWAY
    repeatable: ClassVar[bool] = False  # each read makes a role

    audience: str
    role: str
    mount: str = "database"
    scopes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checked_use(self.audience, self.scopes)
        checked_path(self.mount, "database mount")
        checked_path(self.role, "database role")

    @property
    def reads(self) -> str:
        """What is read, and what each lease's id starts with."""
        return f"{self.mount}/creds/{self.role}"

    @property
    def label(self) -> str:
        """The lease's name before anything is read: the user name is not known yet."""
        return ""

    def read(self, response: Response, ttl: int) -> Received | Refused:
        """Return the login that was made, with what is wrong with it."""
        answer = members(response)
        data = answer.get("data") if answer else None
        lease = answer.get("lease_id") if answer else None
        if not isinstance(answer, dict) or not isinstance(data, dict) or not self._is_lease(lease):
            return unread(response, self.reads, "role")
        name, password, seconds = data.get("username"), data.get("password"), whole(answer.get("lease_duration"))
        problem = ""
        if not is_line(name, _USER):
            name, problem = "", "its user name is missing or no plain text"
        if not is_line(password, _PASSWORD):
            password, problem = "", "its password is missing or no plain text"
        if not 0 < seconds <= ttl:
            lives = f"{seconds} s" if seconds else "for an unknown time"
            problem = f"it lives {lives}, more than the {ttl} s of `ttl`; set default_ttl={ttl}s"
        problem = problem and f"the login from {self.reads} was refused: {problem}"
        return Received(Secret(password), name, str(lease), seconds, problem)

    def _is_lease(self, lease: object) -> bool:
        return (
            isinstance(lease, str) and len(lease) <= 512 and lease.startswith(f"{self.reads}/") and lease.isprintable()
        )
