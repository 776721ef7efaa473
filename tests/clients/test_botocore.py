"""botocore signs with the running call's credential, for its audience only, and makes no presigned URL."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from agentguard import CredentialUnavailable
from agentguard.clients.botocore import FrozenCredentials, GuardCredentials, guard_session
from agentguard.model.lease import Placement
from tests.clients.test_httpx import Api, Broker, calling

pytestmark = pytest.mark.slow  # processes, servers that hang, deadlines that pass

KEYS = {"Version": 1, "AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "a secret key", "SessionToken": "a session"}


def broker(**changed: Any) -> Broker:
    return Broker(Placement.BEARER, secret=json.dumps({**KEYS, **changed}))


# The form ---------------------------------------------------------------------------------------------------


def test_values_are_those_of_the_running_call() -> None:
    credentials = GuardCredentials()

    def body() -> bool:
        frozen = credentials.get_frozen_credentials()
        assert frozen == ("AKIDEXAMPLE", "a secret key", "a session", "123456789012")
        assert credentials.get_deferred_property("account_id")() == "123456789012"
        return "secret" not in repr(frozen)

    assert calling(broker(AccountId="123456789012"), "https://s3.test", body)
    with pytest.raises(CredentialUnavailable, match="no guarded tool"):
        credentials.get_frozen_credentials()


@pytest.mark.parametrize(
    "secret",
    [
        "no json",
        json.dumps({**KEYS, "Version": 2}),
        json.dumps({**KEYS, "SessionToken": ""}),
        json.dumps({name: value for name, value in KEYS.items() if name != "SessionToken"}),
        json.dumps({**KEYS, "SecretAccessKey": ["a secret key"]}),
        json.dumps({**KEYS, "Padding": "x" * 20_000}),
    ],
)
def test_other_forms_are_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(CredentialUnavailable, match="credential_process") as raised:
        calling(Broker(Placement.BEARER, secret=secret), "https://s3.test", GuardCredentials().get_frozen_credentials)
    assert raised.value.__cause__ is raised.value.__context__ is None
    assert "secret key" not in str(raised.value)


def test_values_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="neither copied nor pickled"):
        pickle.dumps(FrozenCredentials("a", "b", "c"))


# botocore itself --------------------------------------------------------------------------------------------


@pytest.fixture
def client() -> Callable[[str], Any]:
    """Makes a real client of S3 whose requests go to an address."""
    session_module = pytest.importorskip("botocore.session")
    config_module = pytest.importorskip("botocore.config")

    def make(url: str, style: str = "path", service: str = "s3") -> Any:
        config = config_module.Config(s3={"addressing_style": style}, retries={"max_attempts": 0}, proxies={})
        session = guard_session(session_module.Session())
        return session.create_client(service, region_name="eu-west-1", endpoint_url=url, config=config)

    return make


@pytest.mark.control("5 a credential goes to its audience only")
def test_real_client_signs_inside_the_call_and_only_for_its_audience(client: Any) -> None:
    with Api() as api, Api() as other:
        here, there = client(api.url), client(other.url)
        calling(broker(), api.url, lambda: here.get_object(Bucket="b", Key="k")["Body"].read())
        with pytest.raises(CredentialUnavailable, match="gets none"):
            calling(broker(), api.url, lambda: there.get_object(Bucket="b", Key="k"))
        with pytest.raises(CredentialUnavailable, match="no guarded tool"):
            here.get_object(Bucket="b", Key="k")
        here.close()
        there.close()
    [(path, headers)] = api.seen
    assert (path, other.seen) == ("/b/k", [])
    assert "Credential=AKIDEXAMPLE/" in headers["authorization"]
    assert headers["x-amz-security-token"] == "a session"


def test_bucket_is_a_host_below_its_audience(client: Any) -> None:
    made = client("https://s3.test", style="virtual")
    signed: list[str] = []

    def send(request: Any, **_: Any) -> Any:
        signed.append(request.url)
        return _answer(request)

    made.meta.events.register("before-send.s3", send)
    calling(broker(), "https://s3.test", lambda: made.head_object(Bucket="bucket", Key="k")["ResponseMetadata"])
    with pytest.raises(CredentialUnavailable, match="gets none"):
        calling(broker(), "https://3.test", lambda: made.head_object(Bucket="bucket", Key="k")["ResponseMetadata"])
    assert signed == ["https://bucket.s3.test/k"]
    made.close()


def _answer(request: Any, content: bytes = b"") -> Any:
    awsrequest = pytest.importorskip("botocore.awsrequest")

    class Raw:
        def stream(self, *_: Any, **__: Any) -> Any:
            return iter([content])

    return awsrequest.AWSResponse(request.url, 200, {}, Raw())


@pytest.mark.control("5 no ambient credential")
def test_session_of_an_s3_express_bucket_is_made_for_no_later_call() -> None:
    module, config = pytest.importorskip("botocore.session"), pytest.importorskip("botocore.config")
    session, audience = guard_session(module.Session()), "https://s3express-use1-az4.us-east-1.amazonaws.com"
    sent: list[str] = []

    def send(request: Any, **_: Any) -> Any:
        sent.append(f"{request.headers['Authorization']!r} {request.url}")
        return _answer(request, _SESSION if "?session" in request.url else b"")

    def used(client: Any, key: str) -> None:
        calling(
            broker(AccessKeyId=key),
            audience,
            lambda: client.head_object(Bucket="bucket--use1-az4--x-s3", Key="k")["ResponseMetadata"],
        )

    plain = config.Config(s3={"disable_s3_express_session_auth": True})
    kept, fresh = (session.create_client("s3", region_name="us-east-1", config=one) for one in (None, plain))
    for client in (kept, fresh):
        client.meta.events.register("before-send.s3", send)
    for key in ("AKIDALICE", "AKIDBOB"):
        with pytest.raises(CredentialUnavailable, match="disable_s3_express_session_auth"):
            used(kept, key)
    assert sent == []
    used(fresh, "AKIDBOB")
    assert ["AKIDBOB" in one for one in sent] == [True]
    kept.close()
    fresh.close()


_SESSION = b"""<CreateSessionResult><Credentials><AccessKeyId>ALICES</AccessKeyId><SecretAccessKey>x</SecretAccessKey>
<SessionToken>y</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></CreateSessionResult>"""


@pytest.mark.control("5 no ambient credential")
def test_token_of_the_environment_is_not_sent_in_place_of_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    module, config = pytest.importorskip("botocore.session"), pytest.importorskip("botocore.config")
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "ambient-token")
    sent: list[str] = []

    def send(request: Any, **_: Any) -> Any:
        sent.append(str(request.headers["Authorization"]))
        return _answer(request, b"{}")

    def used(**options: Any) -> None:
        session = guard_session(module.Session())
        client = session.create_client(
            "bedrock", region_name="eu-west-1", endpoint_url="https://bedrock.test", **options
        )
        client.meta.events.register("before-send.bedrock", send)
        calling(broker(), "https://bedrock.test", lambda: client.list_custom_models()["ResponseMetadata"])
        client.close()

    with pytest.raises(CredentialUnavailable, match="bearer token of the environment"):
        used()
    assert sent == []
    used(config=config.Config(signature_version="v4"))
    assert ["AKIDEXAMPLE" in one for one in sent] == [True]


@pytest.mark.control("3 nothing presigned outlives its call")
def test_presigned_urls_are_refused(client: Any) -> None:
    made, database = client("https://s3.test"), client("https://s3.test", service="rds")
    with pytest.raises(CredentialUnavailable, match="presigned"):
        calling(
            broker(), "https://s3.test", lambda: made.generate_presigned_url("get_object", {"Bucket": "b", "Key": "k"})
        )
    with pytest.raises(CredentialUnavailable, match="presigned"):
        calling(broker(), "https://s3.test", lambda: made.generate_presigned_post("b", "k"))
    with pytest.raises(CredentialUnavailable, match="presigned"):
        calling(broker(), "https://s3.test", lambda: database.generate_db_auth_token("db.test", 5432, "me"))
    database.close()
    made.close()
