"""The chaos proxy: what each mode does to the client and to the server behind it."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.services.chaos import FAULTS, ChaosProxy, Mode
from tests.services.endpoints import ROOT, Services


@pytest.fixture
def proxy(services: Services) -> Iterator[ChaosProxy]:
    url = httpx.URL(services.bao.url)
    assert url.port is not None
    with ChaosProxy(url.host, url.port, delay=0.3) as proxy:
        yield proxy


def put(services: Services, address: str, path: str) -> httpx.Response:
    headers = {"X-Vault-Token": services.bao.token}
    return httpx.post(
        f"{address}/v1/secret/data/{path}", json={"data": {"a": "1"}}, headers=headers, trust_env=False, timeout=2
    )


def written(services: Services, path: str) -> bool:
    headers = {"X-Vault-Token": services.bao.token}
    return httpx.get(f"{services.bao.url}/v1/secret/data/{path}", headers=headers, trust_env=False).status_code == 200


@pytest.mark.parametrize("mode", ["drop_reply", "truncate", "reset"])
def test_the_server_acts_although_the_client_never_hears(services: Services, proxy: ChaosProxy, mode: Mode):
    path = secrets.token_hex(4)
    proxy.set(mode)

    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        put(services, f"http://{proxy.host}:{proxy.port}", path)

    assert written(services, path)
    assert {mode: 1} == proxy.counts


@pytest.mark.parametrize(("mode", "error"), [("refuse", httpx.TransportError), ("blackhole", httpx.ReadTimeout)])
def test_the_server_never_hears(services: Services, proxy: ChaosProxy, mode: Mode, error: type[Exception]):
    path = secrets.token_hex(4)
    proxy.set(mode)

    with pytest.raises(error):
        put(services, f"http://{proxy.host}:{proxy.port}", path)

    assert not written(services, path)


@pytest.mark.parametrize("mode", ["ok", "delay"])
def test_the_client_is_answered(services: Services, proxy: ChaosProxy, mode: Mode):
    proxy.set(mode)

    answer = put(services, f"http://{proxy.host}:{proxy.port}", secrets.token_hex(4))

    assert 200 == answer.status_code
    assert (answer.elapsed.total_seconds() >= 0.3) == (mode == "delay")


def test_the_same_seed_draws_the_same_plan():
    rates: dict[Mode, float] = dict.fromkeys(FAULTS, 0.1)
    plans = [
        [proxy._draw() for _ in range(200)] for proxy in (ChaosProxy("x", 1, rates=rates, seed=7) for _ in range(2))
    ]

    assert plans[0] == plans[1]
    assert {"ok", *FAULTS} == set(plans[0])


def test_it_runs_as_a_process_of_its_own(services: Services):
    command = [
        sys.executable,
        "-m",
        "tests.services.chaos",
        "--to",
        services.bao.url.removeprefix("http://"),
        "--rate",
        "0",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())

        assert 200 == put(services, f"http://127.0.0.1:{port}", secrets.token_hex(4)).status_code

        process.kill()
