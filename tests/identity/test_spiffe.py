from __future__ import annotations

import math
import pickle
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import grpc
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agentguard._drive import drive
from agentguard.errors import ConfigurationError, IdentityUnavailable
from agentguard.identity.spiffe import MAX_AUDIENCES, RECHECK, SpiffeIdentity
from agentguard.model.principal import Proof
from agentguard.ports import Authenticator, IdentityTokens, waits
from tests.identity.agent import NAME, Agent
from tests.identity.shown import shown_by
from tests.services.trust_domain import TrustDomain

pytestmark = pytest.mark.slow  # processes, servers that hang, deadlines that pass
AS = "https://as.bank.test"
VAULT = "https://vault.bank.test"
OTHER = "spiffe://bank.test/reporter"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Agent(tmp_path) as serving:
        yield serving


def identity_of(agent: Agent, **options: Any) -> SpiffeIdentity:
    return SpiffeIdentity(agent.socket, **{"timeout": 3.0, **options})


def refused(identity: SpiffeIdentity, now: float | None = None) -> str:
    with pytest.raises(IdentityUnavailable) as caught:
        drive(identity.identify(time.time() if now is None else now))
    return str(caught.value)


def token_refused(identity: SpiffeIdentity, audience: str = AS) -> str:
    with pytest.raises(IdentityUnavailable) as caught:
        drive(identity.token(audience, time.time()))
    return str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("svid", ["x509", "jwt"])
async def test_the_identity_is_the_spiffe_id_until_its_svid_ends(agent: Agent, svid: Any) -> None:
    identity = identity_of(agent, svid=svid)

    proved = await identity.identify(time.time())

    assert isinstance(identity, Authenticator)
    assert isinstance(identity, IdentityTokens)
    assert waits(identity)
    assert (proved.name, proved.proof, proved.issuer) == (NAME, Proof.ATTESTED, "bank.test")
    assert proved.expires_at == pytest.approx(time.time() + agent.ttl, abs=5)


def test_a_synchronous_caller_gets_it_without_an_event_loop(agent: Agent) -> None:
    assert drive(identity_of(agent).identify(time.time())).name == NAME


@pytest.mark.anyio
async def test_a_token_is_for_exactly_one_audience_and_verifies_with_the_bundle(agent: Agent) -> None:
    token = await identity_of(agent).token(AS, time.time())

    assert agent.domain.verify_jwt_svid(token.reveal(), AS)["aud"] == [AS]
    with pytest.raises(jwt.PyJWTError):
        agent.domain.verify_jwt_svid(token.reveal(), VAULT)


def test_the_socket_may_come_from_the_environment(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", agent.socket)

    assert drive(SpiffeIdentity().identify(time.time())).name == NAME


# What is held, and for how long.


def test_a_token_is_held_for_its_audience_until_about_half_its_life(agent: Agent) -> None:
    identity, now = identity_of(agent), float(int(time.time()))

    first = drive(identity.token(AS, now)).reveal()
    assert drive(identity.token(AS, now + 0.44 * agent.ttl)).reveal() == first
    assert agent.calls["jwt"] == 1
    assert drive(identity.token(VAULT, now)).reveal() != first
    assert drive(identity.token(AS, now + 0.56 * agent.ttl)).reveal() != first
    assert agent.calls["jwt"] == 3


def test_the_agent_is_asked_again_whether_the_identity_still_stands(agent: Agent) -> None:
    clock = Clock()
    identity = identity_of(agent, monotonic=clock)

    drive(identity.identify(time.time()))
    drive(identity.identify(time.time()))
    assert agent.calls["x509"] == 1
    assert RECHECK == 10
    clock.now = RECHECK
    drive(identity.identify(time.time()))
    assert agent.calls["x509"] == 2


@pytest.mark.slow  # three lives of an SVID
@pytest.mark.anyio
async def test_svids_that_live_two_seconds_are_rotated_as_time_passes(agent: Agent) -> None:
    agent.ttl = 2.0
    identity = identity_of(agent)
    seen, tokens = set(), set()

    end = time.monotonic() + 3.5
    while time.monotonic() < end:
        now = time.time()
        proved, token = await identity.identify(now), await identity.token(AS, now)
        assert proved.expires_at > now
        assert agent.domain.verify_jwt_svid(token.reveal(), AS)
        seen.add(proved.expires_at)
        tokens.add(token.reveal())
        await anyio.sleep(0.05)

    assert 2 <= len(seen) <= 5
    assert 2 <= len(tokens) <= 12


def test_a_rotated_jwt_key_is_fetched_with_the_token_that_needs_it(agent: Agent) -> None:
    identity = identity_of(agent)
    drive(identity.token(AS, time.time()))

    agent.domain.rotate_jwt_key()

    assert drive(identity.token(VAULT, time.time())).reveal()


def test_tokens_for_more_audiences_than_are_held_push_out_the_oldest(agent: Agent) -> None:
    identity, now = identity_of(agent), time.time()

    for number in range(MAX_AUDIENCES + 5):
        drive(identity.token(f"https://{number}.test", now))

    assert len(identity._slots) <= MAX_AUDIENCES + 1


def test_many_threads_ask_the_agent_once(agent: Agent) -> None:
    identity = identity_of(agent)

    with ThreadPoolExecutor(16) as pool:
        names = {one.name for one in pool.map(lambda _: drive(identity.identify(time.time())), range(64))}

    assert names == {NAME}
    assert agent.calls["x509"] == 1


# What the agent does when it does not answer.


@pytest.mark.control("identity every wait for the SPIFFE agent ends")
@pytest.mark.anyio
async def test_a_silent_agent_is_given_up_within_the_timeout(agent: Agent) -> None:
    agent.silent = True
    started = time.monotonic()

    with pytest.raises(IdentityUnavailable, match="did not answer in time"):
        await identity_of(agent, timeout=0.5).identify(time.time())

    assert 0.4 < time.monotonic() - started < 2


def test_a_synchronous_caller_gives_up_within_the_timeout_too_and_so_does_who_waits_for_it(agent: Agent) -> None:
    agent.silent = True
    identity, started = identity_of(agent, timeout=0.5), time.monotonic()

    with ThreadPoolExecutor(8) as pool:
        texts = set(pool.map(lambda _: refused(identity), range(8)))

    assert len(texts) == 1
    assert time.monotonic() - started < 2


@pytest.mark.anyio
async def test_a_cancelled_caller_does_not_wait_for_the_agent(agent: Agent) -> None:
    agent.silent = True
    started = time.monotonic()

    with anyio.move_on_after(0.2):
        await identity_of(agent, timeout=1.0).identify(time.time())

    assert time.monotonic() - started < 0.9
    await anyio.sleep(1.2)


def test_an_svid_that_has_not_expired_stays_in_force_while_the_agent_is_silent(agent: Agent) -> None:
    identity, now = identity_of(agent, timeout=0.3), time.time()
    expires_at = drive(identity.identify(now)).expires_at
    token = drive(identity.token(AS, now)).reveal()

    agent.silent = True

    assert drive(identity.identify(now + 0.6 * agent.ttl)).expires_at == expires_at
    assert drive(identity.token(AS, now + 0.6 * agent.ttl)).reveal() == token
    asked = agent.calls["x509"]
    assert drive(identity.identify(now + 0.6 * agent.ttl)).expires_at == expires_at
    assert agent.calls["x509"] == asked
    assert "did not answer" in refused(identity, expires_at)


def test_an_absent_socket_is_named_at_once(tmp_path: Path) -> None:
    started = time.monotonic()

    text = refused(SpiffeIdentity(f"unix://{tmp_path}/none.sock"))

    assert f"there is no socket {tmp_path}/none.sock" in text
    assert time.monotonic() - started < 1


def test_a_socket_that_nobody_serves_is_tried_until_the_timeout(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "agent.sock"))
    started = time.monotonic()

    text = refused(SpiffeIdentity(f"unix://{tmp_path}/agent.sock", timeout=1.0))

    assert "cannot be reached" in text
    assert 0.5 < time.monotonic() - started < 1.5


def test_an_agent_that_comes_back_within_the_timeout_is_found(agent: Agent) -> None:
    agent.codes = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE]

    assert drive(identity_of(agent).identify(time.time())).name == NAME
    assert agent.calls["x509"] == 3


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "PERMISSION_DENIED", "INTERNAL", "UNIMPLEMENTED"])
def test_an_error_that_another_attempt_would_not_cure_is_not_tried_again(agent: Agent, code: str) -> None:
    agent.codes = [grpc.StatusCode[code]] * 5

    refused(identity_of(agent))

    assert agent.calls["x509"] == 1


# What the agent takes away.


def redact_empty(agent: Agent) -> None:
    agent.empty = True


def redact_denied(agent: Agent) -> None:
    agent.codes = [grpc.StatusCode.PERMISSION_DENIED] * 9


def redact_other(agent: Agent) -> None:
    agent.names = [OTHER]


def redact_unclear(agent: Agent) -> None:
    agent.names = [NAME, OTHER]


@pytest.mark.control("identity a redacted SVID is dropped at once")
@pytest.mark.parametrize("redact", [redact_empty, redact_denied, redact_other])
def test_what_the_agent_took_away_is_dropped_with_every_token(agent: Agent, redact: Any) -> None:
    clock = Clock()
    identity = identity_of(agent, monotonic=clock, spiffe_id=NAME)
    drive(identity.identify(time.time()))
    drive(identity.token(AS, time.time()))

    redact(agent)
    clock.now = RECHECK

    refused(identity)
    token_refused(identity)


def test_an_identity_that_is_no_longer_the_only_one_is_dropped(agent: Agent) -> None:
    clock = Clock()
    identity = identity_of(agent, monotonic=clock)
    drive(identity.identify(time.time()))

    redact_unclear(agent)
    clock.now = RECHECK

    assert "has 2 identities" in refused(identity)


@pytest.mark.control("identity a refused JWT-SVID drops the rest")
def test_a_redaction_seen_by_one_token_drops_the_identity(agent: Agent) -> None:
    identity = identity_of(agent)
    drive(identity.identify(time.time()))

    redact_empty(agent)

    assert "no identity" in token_refused(identity)
    assert "no identity" in refused(identity)


# Which identity it is.


def test_of_several_identities_one_has_to_be_named(agent: Agent) -> None:
    agent.names = [OTHER, NAME]

    assert f"one of {OTHER}, {NAME}" in refused(identity_of(agent))
    assert "has 2 identities" in token_refused(identity_of(agent))
    for name in agent.names:
        identity = identity_of(agent, spiffe_id=name)
        assert drive(identity.identify(time.time())).name == name
        token = drive(identity.token(AS, time.time())).reveal()
        assert agent.domain.verify_jwt_svid(token, AS)["sub"] == name


def test_an_identity_that_the_agent_does_not_give_is_not_replaced_by_the_one_it_gives(agent: Agent) -> None:
    identity = identity_of(agent, spiffe_id=OTHER)

    assert f"this workload is not {OTHER}" in refused(identity)
    assert "no such identity" in token_refused(identity)


@pytest.mark.control("identity an SVID verifies with its own trust domain")
def test_an_svid_that_another_authority_signed_proves_nobody(agent: Agent) -> None:
    agent.signer = TrustDomain("bank.test")

    for svid in ("x509", "jwt"):
        text = refused(identity_of(agent, svid=svid))
        assert "not valid now under the bundle" in text or "does not verify" in text


def test_a_token_of_another_trust_domain_is_not_verified_with_ours(agent: Agent) -> None:
    agent.names = ["spiffe://evil.test/support-bot"]

    assert "no JWT bundle of the trust domain evil.test" in token_refused(identity_of(agent))


def test_a_certificate_that_names_another_trust_domain_is_not_taken_for_the_configured_one(agent: Agent) -> None:
    agent.names = ["spiffe://evil.test/support-bot"]

    assert "this workload is not" in refused(identity_of(agent, spiffe_id=NAME))


@pytest.mark.control("identity a JWT-SVID has one audience")
@pytest.mark.parametrize("audience", [[VAULT], [AS, VAULT], [VAULT, AS]])
def test_a_token_for_another_or_a_second_audience_is_refused(agent: Agent, audience: list[str]) -> None:
    agent.audience = audience

    token_refused(identity_of(agent))


@pytest.mark.parametrize("name", ["spiffe://Bank.test/support-bot", "spiffe://bank.test", "https://bank.test/a"])
@pytest.mark.parametrize("svid", ["x509", "jwt"])
def test_a_name_that_is_no_strict_spiffe_id_proves_nobody(agent: Agent, name: str, svid: Any) -> None:
    agent.names = [name]

    refused(identity_of(agent, svid=svid))


@pytest.mark.parametrize("svid", ["x509", "jwt"])
def test_an_expired_svid_proves_nobody(agent: Agent, svid: Any) -> None:
    agent.ttl = -1.0

    refused(identity_of(agent, svid=svid))


@pytest.mark.control("identity the SVID is valid at the guard's clock")
@pytest.mark.parametrize("svid", ["x509", "jwt"])
@pytest.mark.parametrize("drift", [-3600.0, 3600.0, math.nan])
def test_an_svid_that_is_not_valid_at_the_callers_time_proves_nobody(agent: Agent, svid: Any, drift: float) -> None:
    refused(identity_of(agent, svid=svid), time.time() + drift)


def test_the_key_of_another_svid_is_refused(agent: Agent) -> None:
    def mixed(name: str) -> Any:
        one, other = Agent.svid(agent, name), Agent.svid(agent, name)
        one.x509_svid_key = other.x509_svid_key
        return one

    agent.svid = mixed  # type: ignore[method-assign]  # one agent that mixes them up

    assert "key of another" in refused(identity_of(agent))


@pytest.mark.parametrize("audience", ["", "a\nb", "a" * 2049])
def test_an_audience_that_is_no_plain_text_is_not_asked_for(agent: Agent, audience: str) -> None:
    assert "audience" in token_refused(identity_of(agent), audience)
    assert agent.calls["jwt"] == 0


# Mutual TLS.


@pytest.mark.anyio
async def test_the_certificate_is_presented_to_a_server_that_asks_for_one(agent: Agent) -> None:
    svid = await identity_of(agent).x509(time.time())
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=b"".join(svid.roots))
    client.check_hostname = False
    svid.client_cert(client)

    peer = await anyio.to_thread.run_sync(handshake, agent, client)

    uris = peer.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert uris.get_values_for_type(x509.UniformResourceIdentifier) == [NAME]


def handshake(agent: Agent, client: ssl.SSLContext) -> x509.Certificate:
    """Connect to a server that verifies with the trust domain's bundle, and return what it saw."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_verify_locations(cadata=agent.domain.ca_der)
    server.verify_mode = ssl.CERT_REQUIRED
    drive(SpiffeIdentity(agent.socket).x509(time.time())).client_cert(server)
    near, far = socket.socketpair()

    def accept() -> bytes:
        with server.wrap_socket(far, server_side=True) as accepted:
            accepted.sendall(b"x")
            return accepted.getpeercert(binary_form=True) or b""

    with near, far, ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(accept)
        with client.wrap_socket(near) as connected:
            assert connected.recv(1) == b"x"
        return x509.load_der_x509_certificate(accepted.result(5))


def test_the_key_never_lies_on_the_disk_unencrypted(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written: list[bytes] = []

    class Seen(ssl.SSLContext):
        def load_cert_chain(self, certfile: Any, keyfile: Any = None, password: Any = None) -> None:
            written.append(Path(certfile).read_bytes())
            assert Path(certfile).stat().st_mode & 0o077 == 0
            super().load_cert_chain(certfile, keyfile, password)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()

    drive(identity_of(agent).x509(time.time())).client_cert(Seen(ssl.PROTOCOL_TLS_CLIENT))

    assert b"ENCRYPTED PRIVATE KEY" in written[0]
    assert b"BEGIN PRIVATE KEY" not in written[0]
    assert list((tmp_path / "t").iterdir()) == []


def test_a_certificate_whose_file_cannot_be_made_is_told_without_the_key(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    svid = drive(identity_of(agent).x509(time.time()))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))

    with pytest.raises(IdentityUnavailable, match="cannot be used") as caught:
        svid.client_cert(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    assert "PRIVATE" not in shown_by(caught.value)


# Secrets, ends and forks.


@pytest.mark.control("identity no SVID in an error, a repr or a pickle")
def test_nothing_that_is_shown_holds_a_token_or_a_key(agent: Agent) -> None:
    identity = identity_of(agent)
    svid = drive(identity.x509(time.time()))
    token = drive(identity.token(AS, time.time())).reveal()

    agent.signer = TrustDomain("bank.test")
    with pytest.raises(IdentityUnavailable) as caught:
        drive(identity.token(VAULT, time.time()))

    shown = shown_by(caught.value) + repr(svid) + repr(identity) + repr(identity._slots)
    assert "eyJ" not in shown
    assert token not in shown
    assert "PRIVATE KEY" not in shown
    for value in (identity, svid):
        with pytest.raises(TypeError):
            pickle.dumps(value)


def test_a_closed_identity_holds_and_gives_nothing_and_leaves_no_thread(agent: Agent) -> None:
    identity = identity_of(agent)
    drive(identity.token(AS, time.time()))
    drive(identity.identify(time.time()))

    identity.close()
    identity.close()

    assert "closed" in refused(identity)
    assert "closed" in token_refused(identity)
    assert identity._slots == {}
    assert [one.name for one in threading.enumerate() if "channel_spin" in one.name] == []


FORKED = """
import os, sys, time
from agentguard._drive import drive
from agentguard.identity.spiffe import SpiffeIdentity

identity = SpiffeIdentity(sys.argv[1], timeout=3)
token = drive(identity.token("https://as.bank.test", time.time())).reveal()
assert drive(identity.token("https://as.bank.test", time.time())).reveal() == token
pid = os.fork()
if pid == 0:
    good = False
    try:
        good = identity._slots == {} and drive(identity.token("https://as.bank.test", time.time())).reveal() != token
    finally:
        os._exit(0 if good else 1)
assert os.waitpid(pid, 0)[1] == 0, "the child"
assert drive(identity.token("https://as.bank.test", time.time())).reveal() == token
"""


@pytest.mark.control("identity a forked child proves itself")
def test_a_forked_child_asks_the_agent_itself_and_its_parent_goes_on(agent: Agent) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED, agent.socket], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr


FORKED_IN_A_CALL = """
import os, sys, threading, time
from contextlib import suppress
from agentguard._drive import drive
from agentguard.errors import IdentityUnavailable
from agentguard.identity.spiffe import SpiffeIdentity

def ask():
    with suppress(IdentityUnavailable):
        drive(identity.identify(time.time()))

identity = SpiffeIdentity(sys.argv[1], timeout=0.6)
asking = threading.Thread(target=ask)
asking.start()
time.sleep(0.2)
started = time.monotonic()
pid = os.fork()
if pid == 0:
    os._exit(0 if identity.asking.acquire(timeout=0) else 1)
assert time.monotonic() - started > 0.2, "the call had not ended"
assert os.waitpid(pid, 0)[1] == 0, "the child"
asking.join()
assert identity.asking.acquire(timeout=1), "the parent"
"""


def test_a_fork_waits_for_the_call_that_is_being_made(agent: Agent) -> None:
    agent.silent = True

    done = subprocess.run(
        [sys.executable, "-c", FORKED_IN_A_CALL, agent.socket], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr


# What is configured.


@pytest.mark.parametrize(
    "address",
    [
        "/run/spire/agent.sock",
        "unix://run/spire/agent.sock",
        "unix:agent.sock",
        "tcp://127.0.0.1:8081",
        "unix://[/run/spire/agent.sock",
        "http://127.0.0.1/",
        "unix:///run/agent.sock?a=b",
        "unix:///run/%61gent.sock",
    ],
)
def test_an_address_that_is_no_socket_is_a_configuration_error(address: str) -> None:
    with pytest.raises(ConfigurationError, match="write unix://"):
        SpiffeIdentity(address)


def test_no_socket_at_all_says_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPIFFE_ENDPOINT_SOCKET", raising=False)

    with pytest.raises(ConfigurationError, match="SPIFFE_ENDPOINT_SOCKET"):
        SpiffeIdentity()


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": math.inf},
        {"timeout": math.nan},
        {"svid": "x.509"},
        {"spiffe_id": "spiffe://Bank.test/a"},
    ],
)
def test_a_bound_that_is_none_is_a_configuration_error(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SpiffeIdentity("unix:///run/agent.sock", **options)


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spiffe", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'agentguard\[spiffe\]'"):
        SpiffeIdentity("unix:///run/agent.sock")


def test_the_roots_of_an_x509_identity_are_its_trust_domains(agent: Agent) -> None:
    svid = drive(identity_of(agent).x509(time.time()))

    assert svid.roots == (agent.domain.ca_der,)
    assert x509.load_der_x509_certificate(svid.chain[0]).public_bytes(Encoding.DER) == svid.chain[0]
