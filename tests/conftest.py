"""What every test may use."""

from __future__ import annotations

import gc
import signal
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings

# A machine that is busy makes no example wrong: how long things take is measured by tests of their own.
settings.register_profile("agentguard", deadline=None)
settings.load_profile("agentguard")

# What takes long as a whole, or to import, beside the tests that say so themselves: left to `make test`.
SLOW: Final = (
    "adversarial", "approval", "audit", "bench/test_agentdojo.py", "bench/test_intents.py", "cli", "clients",
    "credentials/test_folded.py", "credentials/test_leaks.py", "credentials/test_many_leases.py",
    "credentials/test_openbao.py", "credentials/test_openbao_targets.py", "identity", "intent/test_text_and_links.py",
    "policy", "resource_server", "signals", "state", "telemetry/test_langchain.py", "test_handover.py",
    "test_http_lanes.py", "test_keys_ring.py", "test_keys_transit.py", "test_parking.py", "test_state_sqlite.py",
    "test_stop_shared.py", "test_waiting.py", "transports",
)  # fmt: skip


HERE: Final = Path(__file__).parent


@cache
def slow(path: Path) -> bool:
    """Whether a file or folder is slow by its place."""
    return any(path.is_relative_to(HERE / name) for name in SLOW)


def pytest_configure() -> None:
    """Have the programs that tests start and interrupt see it: a shell's background jobs hand on that it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import nothing of what `make check` leaves out: that took longer than to run the rest."""
    terms = str(config.option.markexpr).split(" and ")
    if any("(" in term or " or " in term for term in terms):
        return None
    if "not services" in terms and collection_path == HERE / "services":
        return True
    return True if "not slow" in terms and slow(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by its place."""
    for item in items:
        if slow(item.path):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Keep the garbage collector off what was there before the first test: a walk through it takes 0.4 s and more."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=[pytest.param("asyncio", id="asyncio"), pytest.param("trio", id="trio")], scope="session")
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The event loop that a test marked `anyio` runs on: both, one after the other."""
    return request.param


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal the tests out to the workers of `pytest -n`."""
    from tests.workers import Places

    return Places(config, log)
