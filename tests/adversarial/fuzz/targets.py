"""What is fuzzed: each target takes bytes and lets through only what is a defect.

A parser may refuse with our own typed errors, and it may say why; anything else that leaves it is a finding. The same
targets are run by hypothesis in the tests and by atheris (coverage-guided) in `atheris_target.py`.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tenacity import Future, RetryCallState

from agentguard._http import Response
from agentguard._http.retry import _asked_for
from agentguard._json import NotStrictJSON, strict_json
from agentguard._jwt import ACCESS_TOKEN, Profile, Rejection, examine, kid_of
from agentguard.audit.repair import repair
from agentguard.audit.verify import verify
from agentguard.clients.placing import wants_nonce
from agentguard.config_file import read_settings
from agentguard.errors import AuditBroken, AuditUnavailable, ConfigurationError
from agentguard.identity.spiffe_id import spiffe_id_problem
from agentguard.intent.document import Problems
from agentguard.intent.file_form import read_intent
from agentguard.intent.strict_file import read_strict
from agentguard.tools_file import load_tools
from tests.resource_server.forging import AUDIENCE, ISSUER, KEYS, NOW, claims, header, sign, token

PROFILE: Final = Profile(
    typ=ACCESS_TOKEN, issuer=ISSUER, audience=AUDIENCE, required=frozenset({"client_id", "jti", "sub"})
)


class Finding(AssertionError):
    """A parser said something that it must not say."""


@dataclass(frozen=True, slots=True)
class Target:
    """One parser, and inputs that come far into it.

    Args:
        run: takes any bytes; raises only where there is a defect.
        seeds: well-formed inputs.
    """

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise Finding(what)


def _token(data: bytes) -> None:
    text = data.decode("latin-1")
    _expect(isinstance(examine(text, PROFILE, KEYS, NOW), Rejection | Mapping), "neither claims nor a rejection")
    _expect(isinstance(kid_of(text), str | None), "a kid that is no text")


def _payload(data: bytes) -> None:
    """What is signed by the right key is judged by its claims."""
    judged = examine(sign(data), PROFILE, KEYS, NOW)
    _expect(isinstance(judged, Rejection) or judged.get("iss") == ISSUER, "claims of another issuer passed")


def _header(data: bytes) -> None:
    judged = examine(sign(claims(), data), PROFILE, KEYS, NOW)
    _expect(isinstance(judged, Rejection) or judged.get("jti") == "j-1", "claims that nobody signed")


def _json(data: bytes) -> None:
    try:
        _expect(type(strict_json(data)) is dict, "no object")
    except NotStrictJSON:
        pass


def _spiffe_id(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    problem = spiffe_id_problem(text)
    _expect(isinstance(problem, str), "a problem that is no text")
    _expect(bool(problem) or (text.isascii() and text.startswith("spiffe://") and len(text) <= 2048), f"took {text!r}")


def _intent(data: bytes) -> None:
    try:
        read_intent(read_strict(data.decode("utf-8", "replace"), "intent.yaml"), {})
    except ConfigurationError:
        pass


def _settings(data: bytes) -> None:
    try:
        document = read_strict(data.decode("utf-8", "replace"), "agentguard.yaml")
        problems = Problems(document)
        read_settings(document, problems)
        problems.raise_if_any("wrong:")
    except ConfigurationError:
        pass


def _tools(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tools.yaml")
        file.write_bytes(data)
        try:
            load_tools(file)
        except ConfigurationError:
            pass


def _journal(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "audit-1.jsonl")
        file.write_bytes(data)
        for read in (verify, lambda file: repair(file, time.time_ns), verify):
            try:
                read(file)
            except (AuditBroken, AuditUnavailable, OSError):
                pass


def _challenge(data: bytes) -> None:
    text = data.decode("latin-1")
    _expect(wants_nonce(401, text) in (False, True), "no truth value")
    _expect(not wants_nonce(403, text), "only 401 asks for a nonce")


def _retry_after(data: bytes) -> None:
    state: Any = RetryCallState(None, None, (), {})  # type: ignore[arg-type]  # no retrying object is needed to read one
    outcome: Any = Future(1)
    outcome.set_result(Response(status=503, headers={"retry-after": data.decode("latin-1")}, body=b""))
    state.outcome = outcome
    seconds = _asked_for(state)
    _expect(math.isfinite(seconds) and seconds >= 0, f"{seconds} seconds")


_CHALLENGE: Final = b'DPoP algs="ES256", error="use_dpop_nonce", error_description="x", Bearer realm="a"'
_INTENT: Final = b"""version: 1
intent: refund
purpose: Refund a ticket
steps:
  - tool: refund
    args: {account: acme, amount: {max: 50}}
    limits: {calls: 1}
"""
_SETTINGS: Final = b"""version: 1
environment: prod
agents:
  bot:
    owners: {business: a@bank.test, identity: b@bank.test, control: c@bank.test}
    purpose: Refunds
    expires: 2027-03-31
    tools: [account.read]
    limits: {task_ttl: 30m, max_depth: 3, calls: {max: 1000, per: 1h}}
audit: {dir: audit/, pseudonym_key: {env: AG_PSEUDONYM}}
tokens: {exchange: {issuer: https://as.bank.test, client_id: bot}}
state: {sqlite: state.db, key: {env: AG_STATE_KEY}}
"""
_TOOLS: Final = b"version: 1\ntools: {pay: {effect: write, audience: https://api.test, scopes: [a], record: [b]}}\n"
_ZEROS: Final = b"0" * 64
_RECORD: Final = b'{"event":"log.opened","hash":"%b","prev":"%b","seq":0,"time":1,"v":1}\n' % (_ZEROS, _ZEROS)

TARGETS: Final[Mapping[str, Target]] = {
    "token": Target(_token, (token().encode(), b"eyJ.eyJ.a", b"..")),
    "payload": Target(_payload, (b'{"iss":"a","exp":1e999}', sign(claims()).encode(), b'{"act":{"act":{}}}')),
    "header": Target(_header, (b'{"alg":"none","typ":"at+jwt","kid":"x"}', str(header()).replace("'", '"').encode())),
    "json": Target(_json, (b'{"a":[1,2.5,"\\ud800",{"b":null}]}', b'{"a":1,"a":2}')),
    "spiffe_id": Target(_spiffe_id, (b"spiffe://bank.test/support-bot", b"spiffe://a/../b", b"spiffe://A%2f/")),
    "intent": Target(_intent, (_INTENT, b"a: &x [*x]", b"!!python/object:os.system {}")),
    "agentguard_yaml": Target(_settings, (_SETTINGS, b"version: 1\nagents: {bot: {}}\n")),
    "tools_yaml": Target(_tools, (_TOOLS, b"version: 2\ntools: {}\n")),
    "journal": Target(_journal, (_RECORD, _RECORD + b'{"torn', b"\n\n", b"")),
    "challenge": Target(_challenge, (_CHALLENGE, b'DPoP error="invalid_token"')),
    "retry_after": Target(_retry_after, (b"120", b"Wed, 21 Oct 2099 07:28:00 GMT", b"-1", b"9" * 400)),
}
