"""What the documents show is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentguard.intent import Intent

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("integrations/*/README.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.M | re.S)


def test_readme_example_prints_what_the_readme_says() -> None:
    readme = ROOT / "README.md"
    done = subprocess.run(
        [sys.executable, "-c", blocks(readme, "python")[0]], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == blocks(readme, "text")[0], done.stderr


def test_quick_start_files_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import agentguard
    from agentguard.keys import SigningKey

    intent, registry = blocks(ROOT / "docs" / "quickstart.md", "yaml")
    assert Intent.from_yaml(intent, account="acme").name == "refund-ticket"
    (tmp_path / "keys").mkdir()
    SigningKey.generate().write_pem_file(tmp_path / "keys" / "tokens.pem")
    (tmp_path / "agentguard.yaml").write_text(registry)
    monkeypatch.setenv("AG_PSEUDONYM", "0123456789abcdef0123456789abcdef")
    with agentguard.load(tmp_path / "agentguard.yaml") as guard:
        assert guard.registry.names() == ("support-bot", "researcher")


@pytest.mark.parametrize("number", [0, 1])
def test_configurations_of_the_delegation_page_load(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    import agentguard
    from agentguard.keys import KeySet, SigningKey

    tmp_path.chmod(0o700)
    (tmp_path / "keys").mkdir()
    key = SigningKey.generate()
    key.write_pem_file(tmp_path / "keys" / "desk.pem")
    (tmp_path / "keys" / "desk.jwks.json").write_text(json.dumps(KeySet.of(key).jwks()))
    (tmp_path / "agentguard.yaml").write_text(blocks(ROOT / "docs" / "delegation.md", "yaml")[number])
    for name in ("AG_PSEUDONYM", "AG_STATE_KEY"):
        monkeypatch.setenv(name, "0123456789abcdef" * 4)
    with agentguard.load(tmp_path / "agentguard.yaml") as guard:
        assert guard.handovers is not None


def test_configuration_of_the_credentials_page_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import agentguard
    from agentguard.keys import SigningKey

    (registry,) = blocks(ROOT / "docs" / "credentials.md", "yaml")
    tmp_path.chmod(0o700)
    (tmp_path / "keys").mkdir()
    for name in ("tokens.pem", "client.pem"):
        SigningKey.generate().write_pem_file(tmp_path / "keys" / name)
    (tmp_path / "keys" / "admin-dsn").write_text("postgresql://admin@reports.bank.test/reports")
    (tmp_path / "keys" / "admin-dsn").chmod(0o600)
    (tmp_path / "agentguard.yaml").write_text(registry)
    for name in ("AG_PSEUDONYM", "AG_STATE_KEY"):
        monkeypatch.setenv(name, "0123456789abcdef" * 4)
    with agentguard.load(tmp_path / "agentguard.yaml") as guard:
        assert repr(guard.issuer) == "<Routes exchange, openbao, postgres, local>"


def test_configuration_page_shows_every_key_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentguard.config_file import read_settings
    from agentguard.intent.node import Node
    from agentguard.intent.strict_file import Problems, read_strict_file

    known: set[str] = set()
    read = Node.fields

    def noted(node: Node, *needed: str, **more: Any) -> dict[str, Node]:
        if node.path[:1] not in {("tokens",), ("policy",)}:  # brokers and decision points have pages of their own
            known.update(needed, more.get("optional", ()))
        return read(node, *needed, **more)

    page = ROOT / "docs" / "configuration.md"
    (text,) = blocks(page, "yaml")
    (tmp_path / "agentguard.yaml").write_text(text)
    document = read_strict_file(tmp_path / "agentguard.yaml")
    problems = Problems(document)
    monkeypatch.setattr(Node, "fields", noted)
    read_settings(document, problems)
    problems.raise_if_any("the page shows what is wrong:")
    written = set(re.findall(r"\w+", page.read_text() + (ROOT / "docs" / "approvals.md").read_text()))
    assert known >= {"agents", "purposes", "checkpoints", "not_by", "networks"}
    assert known <= written


@pytest.mark.parametrize("page", PAGES, ids=lambda page: os.path.relpath(page, ROOT))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not link.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / link).exists(), link
