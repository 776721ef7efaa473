"""The same work written the obvious way, kept as it is: the reference that says what care about cost is worth.

A decorator as one would write it in an afternoon with the usual libraries: `inspect.signature` at each call, three
nested spans whose attributes are set one by one, a list of rules that is searched, a JWT by PyJWT, and a JSON line each
for the decision, the credential and the outcome, chained by hashes and flushed. It checks less than the guard does.
INVARIANT: this file is not tuned; a change of it makes figures of different commits differ for no reason.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from opentelemetry import trace


class NaiveDenied(Exception):
    """The call is not allowed."""


class NaiveLog:
    """JSON lines that are chained by their hashes."""

    def __init__(self, path: Path) -> None:
        self._file, self._lock = path.open("a"), threading.Lock()
        self._previous, self._number = "0" * 64, 0

    def write(self, **record: Any) -> None:
        with self._lock:
            self._number += 1
            record.update(seq=self._number, prev=self._previous, id=str(uuid.uuid4()), time=time.time())
            line = json.dumps(record, sort_keys=True)
            self._previous = hashlib.sha256(line.encode()).hexdigest()
            self._file.write(line + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def naive(fn: Callable[..., Any], tool: str, log: NaiveLog, rules: int, agents: list[str]) -> Callable[..., Any]:
    """Guard a function the obvious way."""
    key = ec.generate_private_key(ec.SECP256R1())
    tracer, revoked = trace.get_tracer("naive"), set()
    table: list[dict[str, Any]] = [
        {"agent": f"agent-{number}", "tool": f"other.tool_{number}", "max": 1} for number in range(rules - 1)
    ]
    table.append({"agent": agents[-1], "tool": tool, "max": 1000})
    actor: dict[str, Any] = {"sub": agents[0]}
    for agent in agents[1:]:
        actor = {"sub": agent, "act": actor}

    def allowed(arguments: dict[str, Any]) -> bool:
        for rule in table:
            if rule["agent"] == agents[-1] and rule["tool"] == tool:
                return bool(1 <= arguments["limit"] <= rule["max"] and arguments["region"] == "eu")
        return False

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with tracer.start_as_current_span(f"execute_tool {tool}") as span:
            bound = inspect.signature(fn).bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = dict(bound.arguments)
            for number in range(15):
                span.set_attribute(f"attribute.{number}", f"value {number}")
            call = str(uuid.uuid4())
            with tracer.start_as_current_span("decide") as deciding:
                permitted = allowed(arguments)
                deciding.set_attribute("permitted", permitted)
            digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()
            log.write(event="decision", call=call, tool=tool, chain=agents, arguments=digest, permitted=permitted)
            if not permitted:
                raise NaiveDenied(tool)
            with tracer.start_as_current_span("issue") as issuing:
                jti, now = str(uuid.uuid4()), int(time.time())
                claims = {
                    "iss": "naive", "sub": "alice", "aud": "https://crm.test", "client_id": agents[-1], "jti": jti,
                    "iat": now, "exp": now + 30, "scope": "crm:read", "act": actor,
                }  # fmt: skip
                jwt.encode(claims, key, algorithm="ES256", headers={"kid": "k1", "typ": "at+jwt"})
                issuing.set_attribute("jti", jti)
            log.write(event="issued", call=call, jti=jti, audience="https://crm.test")
            try:
                return fn(*args, **kwargs)
            finally:
                revoked.add(jti)
                log.write(event="completed", call=call, jti=jti, revoked=True)

    return wrapper
