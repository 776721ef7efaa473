"""AWS credentials of the running call for botocore and boto3, by duck typing: nothing of botocore is imported here.

The broker's secret is the JSON text that `credential_process` of the AWS SDKs prints: `{"Version": 1, "AccessKeyId":
..., "SecretAccessKey": ..., "SessionToken": ...}`. `SessionToken` is required: a key without one never ends by itself.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, NoReturn, TypeVar

import msgspec

from agentguard.access import current_credential
from agentguard.clients.placing import origin
from agentguard.errors import CredentialUnavailable
from agentguard.model.credential import Credential

S = TypeVar("S")
_LARGEST: Final = 16_384
_PRESIGNED: Final = ("-query", "-presign-post")
# What signs otherwise than with this session's credentials, and why that is refused.
_SIGNED_OTHERWISE: Final = {
    "v4-s3express": "botocore keeps the session of an S3 Express bucket for whoever uses the client next; write "
    "Config(s3={'disable_s3_express_session_auth': True})",
    "bearer": "botocore would send a bearer token of the environment or of a login (AWS_BEARER_TOKEN_..., SSO); write "
    "Config(signature_version='v4'), or take the token away",
}


class FrozenCredentials(NamedTuple):
    """What one signature is made with; its fields are botocore's."""

    access_key: str
    secret_key: str
    token: str
    account_id: str | None = None

    def __repr__(self) -> str:
        return "<FrozenCredentials>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a credential can be neither copied nor pickled")


class GuardCredentials:
    """Credentials in botocore's form whose values are those of the running call, read at each signature."""

    method = "agentguard"

    def get_frozen_credentials(self) -> FrozenCredentials:
        """Return what the next request is signed with.

        Raises:
            CredentialUnavailable: no guarded call runs here, or its credential is not of AWS's form.
        """
        return _frozen(current_credential())

    @property
    def access_key(self) -> str:
        """The access key id."""
        return self.get_frozen_credentials().access_key

    @property
    def secret_key(self) -> str:
        """The secret access key."""
        return self.get_frozen_credentials().secret_key

    @property
    def token(self) -> str:
        """The session token."""
        return self.get_frozen_credentials().token

    @property
    def account_id(self) -> str | None:
        """The account, where the broker says it."""
        return self.get_frozen_credentials().account_id

    def get_deferred_property(self, name: str) -> Any:
        """Return what botocore calls when it needs the value, as its own credentials do."""
        return lambda: getattr(self, name, None)

    def load_credentials(self) -> GuardCredentials:
        """Stand for botocore's chain of credential providers."""
        return self


def guard_session(session: S) -> S:
    """Make a botocore session, and every client made of it, sign with the running call's credential; return it.

    A request is signed only if it goes to the origin of the tool's audience or to a host below it, as S3's buckets are.
    Presigned URLs are refused: they would outlive the call. So is what botocore would sign otherwise than with these
    values, by a bearer token or an S3 Express session: there is no other way to a credential in this session.

    Args:
        session: a `botocore.session.Session`, new; for boto3 `boto3.Session(botocore_session=session)`.
    """
    found: Any = session
    found.register_component("credential_provider", GuardCredentials())
    found.register("before-sign", _check_request)
    found.register("before-parameter-build", _check_operation)
    found.register("choose-signer", _check_signer)
    return session


def _check_request(request: Any, signature_version: Any = "", **_: Any) -> None:
    audience = current_credential().audience
    scheme, host, port = origin(audience)
    to_scheme, to_host, to_port = origin(request.url)
    if (to_scheme, to_port) != (scheme, port) or not (to_host == host or to_host.endswith(f".{host}")):
        raise CredentialUnavailable(f"this credential is for {audience}; the request goes to {to_host!r}: it gets none")
    if why := _SIGNED_OTHERWISE.get(str(signature_version)):
        raise CredentialUnavailable(f"this request would not be signed with the call's credential: {why}")


def _check_operation(context: Any = None, **_: Any) -> None:
    if (context or {}).get("is_presign_request"):
        raise _presigned()


def _check_signer(signature_version: Any, **_: Any) -> None:
    """Tokens that are presigned URLs, such as those of databases, pass no other event; S3's own choice hides this."""
    if str(signature_version).endswith(_PRESIGNED):
        raise _presigned()


def _presigned() -> CredentialUnavailable:
    return CredentialUnavailable("a presigned URL would outlive the call it was made in, so none is made")


class _Form(msgspec.Struct):
    """What `credential_process` prints; other fields are let pass."""

    Version: int
    AccessKeyId: str
    SecretAccessKey: str
    SessionToken: str
    AccountId: str | None = None


def _frozen(credential: Credential) -> FrozenCredentials:
    form = _read(credential)
    if form is None:
        raise CredentialUnavailable(
            f"the credential for {credential.audience} is not in the form of AWS's credential_process: JSON with "
            "Version 1, AccessKeyId, SecretAccessKey and SessionToken"
        )
    return FrozenCredentials(form.AccessKeyId, form.SecretAccessKey, form.SessionToken, form.AccountId)


def _read(credential: Credential) -> _Form | None:
    """The decoder's error holds parts of the text, so it ends here."""
    if len(credential.token) > _LARGEST:
        return None
    try:
        form = msgspec.json.decode(credential.token, type=_Form)
    except msgspec.DecodeError:
        return None
    whole = form.Version == 1 and form.AccessKeyId and form.SecretAccessKey and form.SessionToken
    return form if whole else None
