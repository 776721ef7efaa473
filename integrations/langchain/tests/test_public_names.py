"""The integration stands on the core's public names only, so the core may move everything else."""

from __future__ import annotations

import ast
from pathlib import Path

import agentguard

SOURCES = sorted((Path(__file__).parent.parent / "src").rglob("*.py"))


def test_integration_imports_public_names_of_the_core_only() -> None:
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "agentguard":
                assert node.module in ("agentguard", "agentguard.intent"), f"{source.name}: {node.module}"
                if node.module == "agentguard":
                    assert {name.name for name in node.names} <= set(agentguard.__all__), source.name
