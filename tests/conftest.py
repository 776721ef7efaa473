"""What every test may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

# What takes long as a whole, beside the tests that say so themselves: left to `make test`.
SLOW: Final = (
    "adversarial", "approval", "audit", "cli", "clients", "credentials/test_folded.py", "credentials/test_leaks.py",
    "credentials/test_many_leases.py", "intent/test_text_and_links.py", "test_http_lanes.py", "test_parking.py",
    "test_waiting.py",
    "credentials/test_openbao.py", "credentials/test_openbao_targets.py", "identity", "policy", "resource_server",
    "signals", "state", "test_handover.py", "test_keys_ring.py", "test_keys_transit.py", "test_state_sqlite.py",
    "test_stop_shared.py", "transports",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by its place."""
    here = Path(__file__).parent
    slow = [here / name for name in SLOW]
    for item in items:
        if any(item.path == place or place in item.path.parents for place in slow):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=[pytest.param("asyncio", id="asyncio"), pytest.param("trio", id="trio")], scope="session")
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The event loop that a test marked `anyio` runs on: both, one after the other."""
    return request.param
