"""The lock files: what they may hold, and that they agree with one another and with the projects."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCKS = (
    "demo",
    "dev",
    "installer",
    "services",
    *(f"peers-{peer}" for peer in ("agt", "delcred", "hallmark", "keycard")),
)
PIN = re.compile(r"^([a-z0-9.-]+)==([^\s;]+)", re.MULTILINE)


def lock_text(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8")


def pins(name: str) -> set[tuple[str, str]]:
    return set(PIN.findall(lock_text(name)))


@pytest.mark.parametrize("name", LOCKS)
def test_lock_holds_no_address_no_file_and_no_foreign_path(name: str):
    assert re.findall(r"://|^-e .*|^--\w.*| @ .*|^\.?/.*", lock_text(name), re.MULTILINE) == []


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_has_a_hash(name: str):
    for requirement in re.split(r"\n(?=[a-z0-9])", lock_text(name)):
        if "==" in requirement:
            assert "--hash=sha256:" in requirement, requirement.partition("\n")[0]


def test_demo_is_a_share_of_the_development_environment():
    assert pins("demo") <= pins("dev")


@pytest.mark.parametrize("name", LOCKS)
def test_nothing_of_ours_is_looked_up_in_an_index(name: str):
    assert [pin for pin, _ in pins(name) if pin.startswith("agentguard")] == []


@pytest.mark.parametrize("project", ["pyproject.toml", "integrations/langchain/pyproject.toml"])
def test_every_dependency_of_a_project_is_locked(project: str):
    table = tomllib.loads((ROOT / project).read_text(encoding="utf-8"))["project"]
    extras = [name for names in table.get("optional-dependencies", {}).values() for name in names]
    wanted = {re.split(r"[\[<>=~! ]", name)[0].lower() for name in (*table["dependencies"], *extras)}

    assert wanted - {"agentguard"} <= {name for name, _ in pins("dev")}
