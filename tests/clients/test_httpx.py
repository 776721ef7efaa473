"""`GuardAuth` puts each kind of credential where its broker says, on the wire only, and obtains another one once."""

from __future__ import annotations

import base64
import logging
import os
import signal
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest

from agentguard import (
    CredentialUnavailable,
    GuardAuth,
    Intent,
    current_credential,
    current_task,
    guard_tool,
    step,
)  # fmt: skip
from agentguard._drive import drive
from agentguard.model.credential import Issued
from agentguard.model.lease import Grant, Lease, Placement, Secret
from agentguard.task_state import TaskState
from agentguard.testing import FakeIssuer, fake_guard

not_shown = pytest.mark.control("6 a credential is never seen (case 66)")
SECRET = "canary/of a legacy system+"


class Api:
    """A loopback API that notes what arrives and answers as it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.do_GET()

            def do_GET(self) -> None:
                api.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                status, headers = api.answers.pop(0) if api.answers else (200, {})
                self.send_response(status)
                for name, value in {"content-length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Api:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as made:
        yield made


class Key:
    """A key that only notes what it proves."""

    def proof(self, method: str, url: str, token: str = "", nonce: str = "") -> str:
        return f"{method} {url} {token[:6]} nonce={nonce}"


class Broker(FakeIssuer):
    """Issues one kind of credential."""

    def __init__(self, placement: Placement, name: str = "", secret: str = "", prover: Any = None) -> None:
        super().__init__()
        self.placement, self.name, self.secret, self.prover = placement, name, secret, prover

    def prepare(self, grant: Grant, now: float) -> Lease:
        plain = super().prepare(grant, now)
        fields = {"issuer": "fake", "key": plain.key, "task": plain.task, "issued_at": now}
        return Lease(id=plain.id, expires_at=now + 30, placement=self.placement, name=self.name, **fields)  # type: ignore[arg-type]  # of this one type

    async def issue(self, grant: Grant, lease: Lease, now: float) -> Issued:
        issued = await super().issue(grant, lease, now)
        return Issued(lease, Secret(self.secret) if self.secret else issued.secret, prover=self.prover)


def calling(issuer: FakeIssuer, audience: str, body: Callable[[], Any]) -> Any:
    with fake_guard(issuer=issuer) as guard, guard.task("bot", on_behalf_of="ann", intent=Intent("x", step("call"))):
        return guard_tool(body, "call", audience=audience)()


def client() -> httpx.Client:
    return httpx.Client(auth=GuardAuth(), trust_env=False)


@not_shown
def test_secret_of_a_legacy_target_goes_into_the_header_it_wants_and_into_no_other(api: Api) -> None:
    def body() -> str:
        with client() as http:
            answer = http.get(api.url, headers={"x-api-key": "what the model wrote"})
        return f"{vars(answer.request)} {answer.request.headers!r}"

    shown = calling(Broker(Placement.HEADER, "X-Api-Key", SECRET), api.url, body)
    assert api.seen[0][1]["x-api-key"] == SECRET
    assert "authorization" not in api.seen[0][1]
    assert "canary" not in shown


@not_shown
def test_secret_in_the_query_is_sent_and_neither_shown_nor_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    def body() -> str:
        with client() as http:
            answer = http.get(f"{api.url}/find?q=a")
            http.get(f"{api.url}/all")
        return f"{answer.url} {answer.request.url!r} {vars(answer.request)}"

    shown = calling(Broker(Placement.QUERY, "api key", SECRET), api.url, body)
    assert [path for path, _ in api.seen] == [
        "/find?q=a&api%20key=canary%2Fof%20a%20legacy%20system%2B",
        "/all?api%20key=canary%2Fof%20a%20legacy%20system%2B",
    ]
    assert "canary" not in shown + caplog.text


@not_shown
def test_name_and_password_go_as_basic_authentication(api: Api) -> None:
    def body() -> None:
        with client() as http:
            http.get(api.url)

    calling(Broker(Placement.BASIC, "svc", SECRET), api.url, body)
    assert base64.b64decode(api.seen[0][1]["authorization"].removeprefix("Basic ")).decode() == f"svc:{SECRET}"


def test_database_login_is_put_on_no_request(api: Api) -> None:
    def body() -> None:
        with client() as http:
            http.get(api.url)

    with pytest.raises(CredentialUnavailable, match="database login"):
        calling(Broker(Placement.LOGIN, "role", SECRET), api.url, body)
    assert api.seen == []


# DPoP -------------------------------------------------------------------------------------------------------


def test_token_bound_to_a_key_goes_with_a_proof_for_each_request(api: Api) -> None:
    def body() -> None:
        with client() as http:
            http.get(f"{api.url}/a?q=1")
            http.post(f"{api.url}/b", content=b"x")

    calling(Broker(Placement.DPOP, prover=Key()), api.url, body)
    assert [headers["dpop"] for _, headers in api.seen] == [
        f"GET {api.url}/a?q=1 canary nonce=",
        f"POST {api.url}/b canary nonce=",
    ]
    assert all(headers["authorization"].startswith("DPoP canary-lease-1") for _, headers in api.seen)


NONCE = {"www-authenticate": 'DPoP error="use_dpop_nonce", algs="ES256"', "dpop-nonce": "n1"}


def test_nonce_that_the_target_asks_for_is_sent_once_more_and_remembered(api: Api) -> None:
    api.answers = [(401, NONCE), (200, {"dpop-nonce": "n2"}), (200, {})]

    def body() -> list[int]:
        with client() as http:
            return [http.get(api.url).status_code for _ in range(2)]

    issuer = Broker(Placement.DPOP, prover=Key())
    assert calling(issuer, api.url, body) == [200, 200]
    assert [headers["dpop"].split(" ")[-1] for _, headers in api.seen] == ["nonce=", "nonce=n1", "nonce=n2"]
    assert issuer.issued == ["lease-1"]


@pytest.mark.control("4 a nonce loop ends")
def test_target_that_asks_for_nonces_for_ever_is_given_up_on(api: Api) -> None:
    api.answers = [(401, NONCE)] * 10

    def body() -> None:
        with client() as http:
            http.get(api.url)

    with pytest.raises(CredentialUnavailable, match="refused"):
        calling(Broker(Placement.DPOP, prover=Key()), api.url, body)
    assert len(api.seen) == 3


def test_nonce_of_one_target_is_sent_to_no_other(api: Api) -> None:
    auth = GuardAuth()

    def body(url: str) -> Callable[[], None]:
        def call() -> None:
            with httpx.Client(auth=auth, trust_env=False) as http:
                http.get(url)

        return call

    api.answers = [(200, {"dpop-nonce": "n1"})]
    calling(Broker(Placement.DPOP, prover=Key()), api.url, body(api.url))
    with Api() as other:
        calling(Broker(Placement.DPOP, prover=Key()), other.url, body(other.url))
    assert other.seen[0][1]["dpop"].endswith("nonce=")


# 401 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_target_that_refuses_a_credential_gets_one_other(api: Api, mode: str) -> None:
    import asyncio

    api.answers = [(401, {"www-authenticate": "Bearer"})]

    def body() -> int:
        with client() as http:
            return http.post(api.url, json={"a": 1}).status_code

    async def abody() -> int:
        async with httpx.AsyncClient(auth=GuardAuth(), trust_env=False) as http:
            return (await http.post(api.url, json={"a": 1})).status_code

    async def acalling() -> int:
        guard = fake_guard(issuer=issuer)
        async with guard, guard.task("bot", on_behalf_of="ann", intent=Intent("x", step("call"))):
            return int(await guard_tool(abody, "call", audience=api.url)())

    issuer = FakeIssuer()
    assert (calling(issuer, api.url, body) if mode == "sync" else asyncio.run(acalling())) == 200
    tokens = [headers["authorization"] for _, headers in api.seen]
    assert ["lease-1" in tokens[0], "lease-2" in tokens[1]] == [True, True]
    assert issuer.live == {}


@pytest.mark.control("9 a refused credential is renewed once")
def test_target_that_refuses_the_other_one_too_gets_no_third(api: Api) -> None:
    api.answers = [(401, {})] * 10

    def body() -> None:
        with client() as http:
            http.get(api.url)

    issuer = FakeIssuer()
    with pytest.raises(CredentialUnavailable, match="just issued"):
        calling(issuer, api.url, body)
    assert (issuer.issued, len(api.seen), issuer.live) == (["lease-1", "lease-2"], 2, {})


def test_call_that_was_renewed_once_is_renewed_for_no_second_request(api: Api) -> None:
    api.answers = [(401, {}), (200, {}), (401, {})]

    def body() -> None:
        with client() as http:
            http.get(api.url)
            http.get(api.url)

    issuer = FakeIssuer()
    with pytest.raises(CredentialUnavailable, match="just issued"):
        calling(issuer, api.url, body)
    assert issuer.issued == ["lease-1", "lease-2"]


def test_request_that_was_on_its_way_when_another_had_the_credential_renewed_is_sent_with_the_new_one(api: Api) -> None:
    class Meanwhile(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            if request.url.path == "/slow" and len(api.seen) == 1:
                answers.append(http.get(f"{api.url}/quick").status_code)
            return answer

    def body() -> None:
        answers.append(http.get(f"{api.url}/slow").status_code)

    issuer, answers, api.answers = FakeIssuer(), list[int](), [(401, {}), (401, {})]
    with httpx.Client(auth=GuardAuth(), trust_env=False, transport=Meanwhile()) as http:
        calling(issuer, api.url, body)
    assert (answers, issuer.issued) == ([200, 200], ["lease-1", "lease-2"])
    sent = [(path, headers["authorization"].split("-")[2]) for path, headers in api.seen]
    assert sent == [("/slow", "1"), ("/quick", "1"), ("/quick", "2"), ("/slow", "2")]

    issuer, api.answers = FakeIssuer(), [(401, {}), (401, {}), (200, {}), (401, {})]
    api.seen.clear()
    with httpx.Client(auth=GuardAuth(), trust_env=False, transport=Meanwhile()) as http:
        with pytest.raises(CredentialUnavailable, match="just issued"):
            calling(issuer, api.url, body)
    assert (4, ["lease-1", "lease-2"]) == (len(api.seen), issuer.issued)


@pytest.mark.control("9 a refused credential is renewed once")
def test_request_that_was_redirected_to_a_login_is_not_sent_again(api: Api) -> None:
    with Api() as elsewhere:
        api.answers = [(303, {"location": f"{elsewhere.url}/login"})]
        elsewhere.answers = [(401, {"dpop-nonce": "theirs", "www-authenticate": 'DPoP error="use_dpop_nonce"'})]

        def body() -> list[int]:
            with httpx.Client(auth=GuardAuth(), trust_env=False, follow_redirects=True) as http:
                return [http.post(f"{api.url}/pay").status_code, http.post(f"{api.url}/other").status_code]

        issuer = Broker(Placement.DPOP, prover=Key())
        assert calling(issuer, api.url, body) == [401, 200]
        assert [path for path, _ in elsewhere.seen] == ["/login"]
        assert "authorization" not in elsewhere.seen[0][1]
    assert ([path for path, _ in api.seen], issuer.issued) == (["/pay", "/other"], ["lease-1"])
    assert [headers["dpop"].rpartition(" ")[2] for _, headers in api.seen] == ["nonce=", "nonce="]


def test_stream_is_not_sent_twice(api: Api) -> None:
    api.answers = [(401, {})]

    def body() -> None:
        with client() as http:
            http.post(api.url, content=iter([b"part"]))

    with pytest.raises(CredentialUnavailable, match="bytes"):
        calling(FakeIssuer(), api.url, body)
    assert len(api.seen) == 1


@pytest.mark.control("9 a stopped task renews nothing")
def test_task_that_was_suspended_meanwhile_gets_no_other_credential(api: Api) -> None:
    api.answers = [(401, {})]
    issuer = FakeIssuer()
    guard = fake_guard(issuer=issuer)

    def body() -> None:
        with client() as http:
            http.event_hooks = {"response": [lambda response: guard.suspend(agent="bot", why="test")]}
            http.get(api.url)

    with guard, guard.task("bot", on_behalf_of="ann", intent=Intent("x", step("call"))):
        with pytest.raises(CredentialUnavailable, match="suspended"):
            guard_tool(body, "call", audience=api.url)()
    assert issuer.issued == ["lease-1"]


@pytest.mark.control("9 a stopped call sends nothing")
@pytest.mark.parametrize("stop", ["suspend", "end"])
def test_call_that_is_stopped_while_it_runs_sends_its_credential_no_more(api: Api, stop: str) -> None:
    guard = fake_guard(issuer=FakeIssuer())

    def body() -> None:
        kept, task = current_credential(), current_task()
        with client() as http:
            http.get(api.url)
            if stop == "suspend":
                guard.suspend(task=task.id, why="test")
            else:
                drive(guard.close_task(task, TaskState.ENDED, "test"))
            assert not kept.live
            with pytest.raises(CredentialUnavailable, match="revoked"):
                kept.proof("GET", api.url)
            with pytest.raises(CredentialUnavailable, match="runs on without its credential"):
                http.get(api.url)
        raise LookupError(kept.token)

    with guard, guard.task("bot", on_behalf_of="ann", intent=Intent("x", step("call"))):
        with pytest.raises(CredentialUnavailable, match="was revoked while its call runs"):
            guard_tool(body, "call", audience=api.url)()
    assert len(api.seen) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_child_that_was_forked_while_a_thread_noted_a_nonce_waits_for_nobody() -> None:
    auth = GuardAuth()
    with auth._nonces._lock:  # as another thread of the parent may hold it
        pid = os.fork()
        if pid == 0:
            signal.alarm(5)
            auth._nonces.put("https://api.test", "a-nonce")
            os._exit(0 if auth._nonces.get("https://api.test") == "a-nonce" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
