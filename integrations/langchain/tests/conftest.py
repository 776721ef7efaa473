"""What the tests of this integration share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentguard import Guard
from agentguard.testing import fake_guard


@pytest.fixture
def anyio_backend() -> str:
    """LangChain runs on asyncio only."""
    return "asyncio"


@pytest.fixture
def guard() -> Iterator[Guard]:
    """A guard made of fakes."""
    with fake_guard() as guard:
        yield guard
