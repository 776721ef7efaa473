"""The examples that need servers print what they promise."""

from __future__ import annotations

import pytest

from tests.services.endpoints import Services
from tests.test_examples import SEEN, SERVERS, run


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_example_prints_what_it_promises(services: Services, name: str) -> None:
    done = run(f"examples.{name}")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in SEEN[name] if line not in done.stdout] == [], done.stdout
