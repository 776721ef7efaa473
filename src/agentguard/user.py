"""Whom a task acts for: a verified user, one that the application names, or the agent itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from agentguard.model.lease import Secret, SubjectToken
from agentguard.model.principal import Proof, Subject, checked_name

# Token type identifiers of RFC 8693 section 3.
_ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105  # a type, no token
_ID_TOKEN: Final = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105  # a type, no token


@dataclass(frozen=True, slots=True)
class User:
    """Whom a task acts for. Make one with `User.verified(token)` or `User.asserted("alice")`."""

    subject: Subject | None = None
    token: Secret | None = field(default=None, repr=False)
    subject_token: SubjectToken | None = field(default=None, repr=False)

    @classmethod
    def verified(cls, id_token: str, *, access_token: str = "") -> User:
        """The subject of an OpenID Connect ID token, verified when the task opens.

        Args:
            id_token: the signed token, as the login gave it (OpenID Connect Core section 2).
            access_token: the access token of the same login, for an authorization server that exchanges only those: it
                is the subject token of a token exchange (RFC 8693 section 2.1) in place of the ID token.
        """
        subject_token = SubjectToken(Secret(access_token or id_token), _ACCESS_TOKEN if access_token else _ID_TOKEN)
        return cls(token=Secret(id_token), subject_token=subject_token)

    @classmethod
    def asserted(cls, name: str, tenant: str = "") -> User:
        """A user the application names and nobody proves; every record says `asserted`."""
        return cls(subject=Subject(checked_name(name, "user"), tenant=tenant, proof=Proof.ASSERTED))


class Itself:
    """The agent works on its own account; its business owner is recorded as sponsor."""

    def __repr__(self) -> str:
        return "ITSELF"


ITSELF: Final = Itself()
OnBehalfOf = User | str | Itself
