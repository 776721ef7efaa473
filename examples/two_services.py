"""Two services: the desk hands its task on to a researcher in another process, and one stop reaches both.

Run it: `python examples/two_services.py`. It starts the other process (`researcher/service.py`) itself.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

import agentguard
from agentguard import Intent, step
from agentguard.keys import KeySet, SigningKey
from agentguard.transports.httpx import HandoverAuth

CONFIG = """\
version: 1
agents:
  desk: {owners: {business: ann@bank.test}, purpose: answers tickets}
  researcher: {owners: {business: bob@bank.test}, purpose: looks things up}
state: {sqlite: state.db, key: {file: secret}}  # what both share: stops, budgets, used handovers
"""
DESK = "{issuer: 'https://desk.test', trust_domain: bank.test, key: desk.pem}"
RESEARCHER = "{issuer: 'https://r.test', trust_domain: bank.test, peers: {'https://desk.test': {keys: desk.json}}}"


def prepare(folder: Path) -> None:
    """Write both configurations; the desk's key stays with the desk, its public half goes to the researcher."""
    key = SigningKey.generate()
    key.write_pem_file(folder / "desk.pem")
    (folder / "desk.json").write_text(json.dumps(KeySet.of(key).jwks()))
    (folder / "secret").write_text("0123456789abcdef" * 4)  # in earnest: openssl rand -hex 32
    (folder / "secret").chmod(0o600)
    for name, handovers in (("desk", DESK), ("researcher", RESEARCHER)):
        audit = f"audit: {{dir: audit-{name}, pseudonym_key: {{file: secret}}}}\n"
        (folder / f"{name}.yaml").write_text(f"{CONFIG}{audit}handovers: {handovers}\n")


@contextmanager
def researcher(folder: Path) -> Iterator[str]:
    """The other process; its origin."""
    command = [sys.executable, str(Path(__file__).with_name("researcher") / "service.py"), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip() if process.stdout else ''}"
        # it ends with its standard input, also where this process was killed


async def main(folder: Path) -> None:
    intent = Intent("Answer ticket 4711", step("account.read", account="acme").times(100_000))
    with agentguard.load(folder / "desk.yaml") as guard, researcher(folder) as origin:
        auth = HandoverAuth("researcher", origins=[origin], narrowing={"share": "0.25"})
        client = httpx.AsyncClient(auth=auth, base_url=origin, trust_env=False)
        async with client, guard.task("desk", on_behalf_of="alice", intent=intent):
            for account in ("acme", "evil-corp"):
                answer = await client.get(f"/accounts/{account}")
                print(answer.status_code, answer.text)
            async with client.stream("GET", "/on") as stream:
                lines = stream.aiter_lines()
                await anext(lines)
                await guard.asuspend(agent="desk", why="it misbehaves")
                suspended = time.monotonic_ns()
                *_, (at, refusal) = [line.split(" ", 1) async for line in lines]
                print(f"{refusal}, {(int(at) - suspended) / 1e6:.1f} ms after it was suspended here")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        asyncio.run(main(Path(name)))
