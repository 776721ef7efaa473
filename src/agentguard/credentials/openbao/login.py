"""A task's own token: the login that gives it, and what it must be before anything hangs under it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentguard._http import Response
from agentguard.credentials.openbao.target import is_line
from agentguard.credentials.openbao.vault import ASKING, Refused, Vault, checked_path, members, refusal
from agentguard.errors import ConfigurationError
from agentguard.model.lease import Secret
from agentguard.ports import IdentityTokens

TOKEN: Final = re.compile(r"[\x21-\x7e]{8,4096}")
_NAME: Final = re.compile(r"[\x20-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class JwtLogin:
    """Logs in with a token that proves this workload: a SPIFFE JWT-SVID, or a platform's projected JWT.

    Args:
        tokens: gives that token.
        audience: its audience; the role's `bound_audiences` holds exactly this.
        role: the role at the mount, whose `token_ttl` is at most the issuer's `ttl`.
        mount: where the method `jwt` (or `kubernetes`, which takes the same login) is mounted, below `auth/`.

    Raises:
        ConfigurationError: a part is missing or is no path.
    """

    tokens: IdentityTokens = field(repr=False)
    audience: str
    role: str
    mount: str = "jwt"

    def __post_init__(self) -> None:
        checked_path(self.mount, "login mount")
        checked_path(self.role, "login role")
        if not is_line(self.audience, 256):
            raise ConfigurationError(
                f"openbao login audience {self.audience!r}: write that of the role's bound_audiences"
            )

    @property
    def path(self) -> str:
        """Where the login is posted."""
        return f"auth/{self.mount}/login"


@dataclass(frozen=True, slots=True)
class TaskToken:
    """A token that the vault made.

    Args:
        secret: the token.
        seconds: it lives, from the login on.
        role: the role it was made by.
        entity: the vault's id of who logged in, as in the vault's own audit log.
        problem: why it must not be used, or empty; it exists all the same.
    """

    secret: Secret
    seconds: int
    role: str
    entity: str
    problem: str


async def log_in(vault: Vault, login: JwtLogin, ttl: int, *, seconds: float, now: float) -> TaskToken:
    """Return a new token, with what is wrong with it. It is asked for once: a second one would be nobody's.

    Raises:
        CredentialUnavailable: the vault refused the login.
        Unavailable: the vault or the workload's identity is out of reach.
    """
    proof = await login.tokens.token(login.audience, now)
    token = read_token(
        await vault.ask("POST", login.path, seconds=seconds, body=lambda: {"role": login.role, "jwt": proof.reveal()}),
        login,
        ttl,
    )
    if isinstance(token, Refused):
        raise token.error()
    return token


def read_token(response: Response, login: JwtLogin, ttl: int) -> TaskToken | Refused:
    """Return the token of a login's answer, with what is wrong with it."""
    answer = members(response)
    auth = answer.get("auth") if answer else None
    token = auth.get("client_token") if isinstance(auth, dict) else None
    if not isinstance(auth, dict) or not isinstance(token, str) or not TOKEN.fullmatch(token):
        allow = f"the role {login.role}, and its bound issuer, audience, subject and claims"
        return refusal(response.status, f"the login at {login.path}", allow)
    seconds = whole(auth.get("lease_duration"))
    metadata = auth.get("metadata")
    role = metadata.get("role") if isinstance(metadata, dict) else None
    problem = token_problem(auth, ttl) or ("" if role in (None, login.role) else "it was made by another role")
    if problem:
        problem = f"the vault's token for role {login.role} at {login.path} was refused: {problem}"
    return TaskToken(Secret(token), seconds, login.role, shown(auth.get("entity_id")), problem)


def token_problem(auth: Mapping[str, Any], ttl: int) -> str:
    """Say why a token may not be a task's token, or return "".

    It has to end by itself, soon; to be renewable for a longer task; to carry leases; and never to be almighty.
    """
    seconds = whole(auth.get("lease_duration"))
    policies = [auth.get(name) or [] for name in ("policies", "token_policies", "identity_policies")]
    if not all(isinstance(names, list) for names in policies) or any("root" in names for names in policies):
        return "it carries the policy root; give the role policies of its own"
    if auth.get("token_type") != "service":
        return "it is not of the type service, so it can be neither revoked nor renewed; set token_type=service"
    if not 0 < seconds <= ttl:
        lives = f"{seconds} s" if seconds else "for an unknown time"
        return f"it lives {lives}, and `ttl` allows {ttl} s; set token_ttl={ttl}s"
    if auth.get("renewable") is not True:
        return "it is not renewable; take the restriction off the role"
    if auth.get("num_uses") not in (None, 0) or auth.get("mfa_requirement"):
        return "its number of uses is limited, or it waits for a second factor; set token_num_uses=0"
    return ""


async def prolong(vault: Vault, token: Secret, seconds: int) -> int | None:
    """Ask for more time for a token, and return how long it lives then; None if the vault refuses.

    Raises:
        Unavailable: the vault is out of reach.
    """
    lives = _renewed(
        await vault.ask(
            "POST", "auth/token/renew-self", token=token, seconds=ASKING, retry=True,
            body=lambda: {"increment": f"{seconds}s"},
        )
    )  # fmt: skip
    if isinstance(lives, Refused) and lives.outage:
        raise lives.error()
    return lives if isinstance(lives, int) else None


def _renewed(response: Response) -> int | Refused:
    answer = members(response)
    auth = answer.get("auth") if answer else None
    seconds = whole(auth.get("lease_duration")) if isinstance(auth, dict) else 0
    return seconds or refusal(response.status, "auth/token/renew-self", 'path "auth/token/renew-self" with update')


def whole(value: object) -> int:
    """Return a number of seconds; 0 for what is none."""
    return value if type(value) is int and value > 0 else 0


def shown(value: object) -> str:
    """Return a text that may stand in a record, or ""."""
    return value if isinstance(value, str) and _NAME.fullmatch(value) else ""
