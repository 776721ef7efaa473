"""The public names are few, documented and stable."""

from __future__ import annotations

import re
from pathlib import Path

import agentguard

ROOT = Path(__file__).parent.parent
DOCUMENTED = {
    # opening
    "load", "local", "Guard", "Task", "User", "ITSELF", "current_task",
    # tools
    "guarded", "guard_tool", "spec_of", "load_tools", "ToolSpec", "Caller",
    # intents
    "Intent", "step", "absent", "any_", "at_least", "at_most", "between", "eq", "in_", "not_", "optional", "prefix",
    "text", "in_set", "date", "glob", "regex", "path", "url", "email", "template", "each", "items", "keys", "same_as",
    "is_", "from_", "said", "bind", "ValueSet", "FileSet", "EnvSet", "ResolvedSet",
    # inside a call
    "current_call", "current_credential", "CurrentCall", "Credential", "GuardAuth",
    # what comes back
    "Decision", "Reason", "Denied", "ApprovalRequired", "AgentguardError", "AuditUnavailable", "ConfigurationError",
    "CredentialUnavailable",
    "__version__",
}  # fmt: skip


def test_all_is_exactly_what_is_documented() -> None:
    assert set(agentguard.__all__) == DOCUMENTED


def test_every_public_name_loads_and_has_a_docstring() -> None:
    for name in agentguard.__all__:
        value = getattr(agentguard, name)
        if callable(value):
            assert (value.__doc__ or "").strip(), name


def test_every_public_name_is_in_the_reference_page() -> None:
    page = (ROOT / "docs" / "reference.md").read_text()
    documented = set(re.findall(r"^\| `([A-Za-z_]+)", page, flags=re.M))
    assert documented == DOCUMENTED


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(agentguard, "disable_guard")
