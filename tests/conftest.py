"""What every test may use."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(params=[pytest.param("asyncio", id="asyncio"), pytest.param("trio", id="trio")], scope="session")
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The event loop that a test marked `anyio` runs on: both, one after the other."""
    return request.param
