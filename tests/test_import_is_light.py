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
