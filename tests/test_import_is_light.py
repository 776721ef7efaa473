"""`import agentguard` costs little and drags in nothing that a program may not have installed.

Each case runs in a process of its own: what this one has imported already would hide a mistake.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import agentguard

pytestmark = pytest.mark.slow  # each look is a process of its own

HEAVY = (
    "cryptography",
    "httpx",
    "jwt",
    "langchain_core",
    "opentelemetry.sdk",
    "requests",
    "rich",
    "sqlalchemy",
    "starlette",
    "yaml",
)

# The names that a module of tools touches while it is imported. A name that is missing from the package fails its test.
LIGHT_NAMES = (
    "AgentguardError",
    "ConfigurationError",
    "Denied",
    "Guard",
    "Intent",
    "at_most",
    "guarded",
    "step",
)

LISTER = "import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"


def modules_after(code: str) -> set[str]:
    """The modules a fresh interpreter holds after `code` ran."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", LISTER.format(code=code)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout))


def heavy_among(modules: set[str]) -> list[str]:
    return [name for name in HEAVY if name in modules]


FIRST_CALL = """
import agentguard
from agentguard import guarded, Intent, step

@guarded("crm.read", effect="read", audience="https://crm.test", scopes=["crm:read"])
def read(customer): return customer

with agentguard.local() as guard, guard.task("bot", on_behalf_of="alice", intent=Intent("x", reads=["crm.read"])):
    read("c-1")
"""
# What a guard without a file, a server and an event loop has no use for.
UNUSED = (
    "agentguard._jwt", "agentguard.config_load", "agentguard.deciding", "agentguard.keys.ring", "asyncio",
    "cryptography.hazmat.primitives.serialization.ssh", "cryptography.x509", "httpx", "importlib.metadata", "jwt",
    "yaml",
)  # fmt: skip


def test_the_first_call_of_a_local_guard_loads_what_it_uses():
    modules = modules_after(FIRST_CALL)
    assert [name for name in UNUSED if name in modules] == []
    assert "agentguard.credentials.local" in modules


def test_the_package_loads_no_heavy_module():
    modules = modules_after("import agentguard")

    assert heavy_among(modules) == []


@pytest.mark.parametrize("name", LIGHT_NAMES)
def test_touching_a_declaring_name_loads_no_heavy_module(name: str):
    modules = modules_after(f"import agentguard\nagentguard.{name}")

    assert heavy_among(modules) == []


def test_every_light_name_is_public():
    assert [name for name in LIGHT_NAMES if name not in agentguard.__all__] == []


def test_the_probe_sees_a_heavy_module():
    modules = modules_after("import agentguard\nimport yaml")

    assert heavy_among(modules) == ["yaml"]


def test_declaring_a_tool_and_an_intent_loads_no_heavy_module():
    code = """
from agentguard import Intent, guarded, step

@guarded
def refund(account: str) -> str:
    return account

Intent("Refund ticket 4711", step("refund", account="acme"))
"""
    modules = modules_after(code)

    assert heavy_among(modules) == []


PIPELINE = (
    "agentguard.access",
    "agentguard.calls",
    "agentguard.guard",
    "agentguard.ports",
    "agentguard.running",
    "agentguard.task",
    "agentguard.telemetry",
    "asyncio",
    "concurrent.futures",
    "dataclasses",
    "hashlib",
    "opentelemetry",
)

# Every kind of callable, and what a declaration may say.
TOOLS = """
from agentguard import guarded

@guarded("pay.create", audience="https://pay.test", scopes=["pay"], resource="account/{account}", record=["account"])
def pay(account: str, limit: int = 5) -> str:
    return account

@guarded
async def later() -> None: ...

@guarded
def parts():
    yield 1

@guarded
async def parts_later():
    yield 1
"""


def test_declaring_tools_loads_nothing_that_runs_them():
    modules = modules_after(TOOLS)

    assert [name for name in PIPELINE if name in modules] == []


@pytest.mark.parametrize(
    "call",
    [
        "pay('acme')",
        "asyncio.run(later())",
        "list(parts())",
        "asyncio.run(anext(parts_later()))",
    ],
)
@pytest.mark.control("the first call goes through the pipeline")
def test_first_call_loads_what_runs_it_and_is_refused_outside_a_task(call: str):
    code = f"""{TOOLS}
import asyncio
from agentguard import Denied
try:
    {call}
except Denied as denied:
    assert denied.reason == "no_task", denied.reason
else:
    raise AssertionError("it ran")
"""
    modules = modules_after(code)

    assert {"agentguard.running", "agentguard.active"} <= modules


def test_threads_that_call_first_together_are_all_refused():
    code = f"""{TOOLS}
import threading
from agentguard import Denied
ready, reasons = threading.Barrier(8), []

def call():
    ready.wait()
    try:
        pay("acme")
    except Denied as denied:
        reasons.append(denied.reason)

threads = [threading.Thread(target=call) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert reasons == ["no_task"] * 8, reasons
"""
    assert "agentguard.running" in modules_after(code)


def test_credential_parameter_is_known_however_late_its_name_is_resolved():
    code = """
import agentguard

@agentguard.guarded("pay.create", audience="https://pay.test")
def pay(account: str, credential: "agentguard.Credential | None" = None) -> str:
    return account

spec = agentguard.spec_of(pay)
assert spec.credential == "credential", spec
assert spec.parameters == frozenset({"account"}), spec
"""
    assert "agentguard.model.lease" in modules_after(code)
