"""`GuardRequestsAuth` puts the running call's credential on one request, and obtains another one once."""

from __future__ import annotations

import base64
import io
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from agentguard import CredentialUnavailable
from agentguard.clients.requests import GuardRequestsAuth
from agentguard.model.lease import Placement
from agentguard.testing import FakeIssuer
from tests.clients.test_httpx import NONCE, SECRET, Api, Broker, Key, calling

not_shown = pytest.mark.control("6 a credential is never seen (case 66)")
AUTH = GuardRequestsAuth()


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as made:
        yield made


def sending(*requested: tuple[str, str, Any], auth: Any = None) -> Callable[[], list[int]]:
    """A tool's body that sends these one after the other over one session, and says how they were answered."""

    def body() -> list[int]:
        with requests.Session() as session:
            session.trust_env, session.auth = False, auth or GuardRequestsAuth()
            return [session.request(method, url, data=data, timeout=5).status_code for method, url, data in requested]

    return body


def authorization(api: Api) -> list[str]:
    return [headers.get("authorization", "") for _, headers in api.seen]


@not_shown
def test_token_is_on_the_wire_and_in_nothing_that_is_kept(api: Api) -> None:
    def body() -> None:
        answer = requests.post(f"{api.url}/a", b"x", auth=AUTH, headers={"x-mine": "kept"}, timeout=5)
        kept.append(dict(answer.request.headers))

    kept: list[dict[str, str]] = []
    calling(FakeIssuer(), api.url, body)
    assert authorization(api)[0].startswith("Bearer canary-lease-1")
    assert kept[0]["x-mine"] == "kept"
    assert "canary" not in str(kept)


@not_shown
def test_copy_of_a_request_that_is_being_sent_holds_no_credential(api: Api) -> None:
    class Copying(requests.adapters.HTTPAdapter):
        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
            shown.append(f"{dict(request.copy().headers)} {request.headers!r}")
            return super().send(request, *args, **kwargs)

    def body() -> None:
        with requests.Session() as session:
            session.mount("http://", Copying())
            session.get(api.url, auth=AUTH, timeout=5)

    shown: list[str] = []
    calling(FakeIssuer(), api.url, body)
    assert "canary" in authorization(api)[0]
    assert "User-Agent" in shown[0]
    assert "canary" not in shown[0]


@not_shown
def test_secret_of_a_legacy_target_goes_into_the_header_it_wants(api: Api) -> None:
    def body() -> None:
        headers = {"X-API-KEY": "what the model wrote"}
        requests.get(api.url, auth=AUTH, headers=headers, timeout=5)

    calling(Broker(Placement.HEADER, "X-Api-Key", SECRET), api.url, body)
    assert api.seen[0][1]["x-api-key"] == SECRET
    assert "authorization" not in api.seen[0][1]


def test_name_and_password_go_as_basic_authentication(api: Api) -> None:
    calling(Broker(Placement.BASIC, "svc", SECRET), api.url, sending(("GET", api.url, None)))
    assert base64.b64decode(authorization(api)[0].removeprefix("Basic ")).decode() == f"svc:{SECRET}"


@not_shown
def test_secret_for_the_query_is_refused_because_urllib3_logs_it(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(CredentialUnavailable, match="urllib3 logs"):
        calling(Broker(Placement.QUERY, "key", SECRET), api.url, sending(("GET", api.url, None)))
    assert api.seen == []
    assert "canary" not in caplog.text


def test_database_login_is_put_on_no_request(api: Api) -> None:
    with pytest.raises(CredentialUnavailable, match="database login"):
        calling(Broker(Placement.LOGIN, "role", SECRET), api.url, sending(("GET", api.url, None)))


@pytest.mark.control("5 a credential goes to its audience only")
def test_request_to_another_origin_gets_nothing(api: Api) -> None:
    with Api() as other, pytest.raises(CredentialUnavailable, match="this credential is for"):
        calling(FakeIssuer(), api.url, sending(("GET", other.url, None)))
    assert other.seen == []


def test_outside_a_call_there_is_no_credential(api: Api) -> None:
    with pytest.raises(CredentialUnavailable, match="no guarded tool"):
        sending(("GET", api.url, None))()


@pytest.mark.control("5 a credential never follows a redirect")
@pytest.mark.parametrize("placement", [Placement.BEARER, Placement.HEADER, Placement.DPOP])
def test_redirect_carries_no_credential_anywhere(api: Api, placement: Placement) -> None:
    with Api() as other:
        api.answers = [(302, {"location": f"{api.url}/next"}), (302, {"location": other.url})]
        issuer = Broker(placement, "X-Api-Key", prover=Key())
        calling(issuer, api.url, sending(("GET", f"{api.url}/first", None)))
        later = [*api.seen[1:], *other.seen]
    assert len(later) == 2
    assert "canary" in str(api.seen[0])
    assert "canary" not in str(later)


def test_redirected_request_that_is_refused_renews_nothing(api: Api) -> None:
    api.answers = [(302, {"location": f"{api.url}/next"}), (401, {})]
    issuer = FakeIssuer()
    [answer] = calling(issuer, api.url, sending(("GET", api.url, None)))
    assert (answer, issuer.issued) == (401, ["lease-1"])


def test_request_as_a_whole_is_sent_once_more_with_another_credential(api: Api) -> None:
    api.answers = [(401, {"www-authenticate": "Bearer"})]
    issuer = FakeIssuer()
    [answer] = calling(issuer, api.url, sending(("POST", api.url, io.BytesIO(b"a file"))))
    assert answer == 200
    assert ["lease-1" in authorization(api)[0], "lease-2" in authorization(api)[1]] == [True, True]
    assert [headers["content-length"] for _, headers in api.seen] == ["6", "6"]


@pytest.mark.control("9 a refused credential is renewed once")
def test_target_that_refuses_the_other_one_too_gets_no_third(api: Api) -> None:
    api.answers = [(401, {})] * 10
    issuer = FakeIssuer()
    with pytest.raises(CredentialUnavailable, match="just issued"):
        calling(issuer, api.url, sending(("GET", api.url, None)))
    assert (issuer.issued, len(api.seen), issuer.live) == (["lease-1", "lease-2"], 2, {})


def test_request_that_was_on_its_way_when_another_had_the_credential_renewed_is_sent_with_the_new_one(api: Api) -> None:
    class Meanwhile(requests.adapters.HTTPAdapter):
        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
            answer = super().send(request, *args, **kwargs)
            if str(request.url).endswith("/slow") and len(api.seen) == 1:
                answers.append(session.get(f"{api.url}/quick").status_code)
            return answer

    issuer, answers, api.answers = FakeIssuer(), list[int](), [(401, {}), (401, {})]
    with requests.Session() as session:
        session.trust_env, session.auth = False, AUTH
        session.mount("http://", Meanwhile())
        calling(issuer, api.url, lambda: answers.append(session.get(f"{api.url}/slow").status_code))
    assert (answers, issuer.issued) == ([200, 200], ["lease-1", "lease-2"])
    assert [one.split("-")[2] for one in authorization(api)] == ["1", "1", "2", "2"]


def test_stream_is_not_sent_twice(api: Api) -> None:
    api.answers = [(401, {})]
    with pytest.raises(CredentialUnavailable, match="send it as bytes"):
        calling(FakeIssuer(), api.url, sending(("POST", api.url, iter([b"part"]))))
    assert len(api.seen) == 1


def test_pipe_is_sent_once_as_requests_itself_would(api: Api) -> None:
    def body() -> list[int]:
        reads, writes = os.pipe()
        os.write(writes, b"from another process")
        os.close(writes)
        with os.fdopen(reads, "rb") as pipe:
            return sending(("POST", api.url, pipe))()

    assert calling(FakeIssuer(), api.url, body) == [200]
    api.answers = [(401, {})]
    with pytest.raises(CredentialUnavailable, match="cannot be sent again"):
        calling(FakeIssuer(), api.url, body)


def test_bound_token_goes_with_a_proof_and_the_nonce_its_target_asked_for(api: Api) -> None:
    api.answers = [(401, NONCE), (200, {"dpop-nonce": "n2"}), (200, {})]
    issuer = Broker(Placement.DPOP, prover=Key())
    answers = calling(issuer, api.url, sending(("GET", f"{api.url}/", None), ("GET", f"{api.url}/", None)))
    assert answers == [200, 200]
    assert [headers["dpop"].split(" ")[-1] for _, headers in api.seen] == ["nonce=", "nonce=n1", "nonce=n2"]
    assert issuer.issued == ["lease-1"]


@pytest.mark.control("4 a nonce loop ends")
def test_target_that_asks_for_nonces_for_ever_is_given_up_on(api: Api) -> None:
    api.answers = [(401, NONCE)] * 10
    with pytest.raises(CredentialUnavailable, match="refused"):
        calling(Broker(Placement.DPOP, prover=Key()), api.url, sending(("GET", api.url, None)))
    assert len(api.seen) == 3
