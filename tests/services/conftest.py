"""The fixture `services`: the real servers, where they are up. Everything in this folder is marked `services`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.services import endpoints, stack
from tests.services.endpoints import Services

HOW = "the servers for these tests are not up: run `make services-up`"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests, so that `make check` leaves them out."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.services)


def _problem(found: Services | None) -> str | None:
    if found is None:
        return HOW
    if found.digest != stack.digest():
        return f"{HOW} (those that are were started from other code)"
    silent = [name for name, answers in stack.answers(found).items() if not answers]
    return f"{HOW} (no answer: {', '.join(silent)})" if silent else None


@pytest.fixture(scope="session")
def services() -> Services:
    """Where the servers answer; skips loudly where they do not, and fails in `make test` and continuous integration."""
    found = endpoints.load()
    problem = _problem(found)
    if found is not None and problem is None:
        return found
    if os.environ.get("CI") or os.environ.get("AGENTGUARD_SERVICES") == "required":
        pytest.fail(problem or HOW, pytrace=False)
    pytest.skip(problem or HOW)
