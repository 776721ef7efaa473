"""What a call costs, held in counts: functions, syncs, round trips, modules and bytes are the same on every machine.

Times are measured by `make bench`. A number here that goes up means that a call got more work to do; one that went down
for good is written into the table.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agentguard._http import Http
from bench.audit import AT_ONCE, CALLS, by_threads, one_by_one, syncs
from bench.imports import DECLARING, forbidden, modules
from bench.remote import POOL, Client, counted, counting_server

pytestmark = pytest.mark.slow  # processes, and sixty-four threads

#  what is counted             most today, goal
MOST: Mapping[str, tuple[float, float | None]] = {
    "python_calls_full": (159, 130),  # functions of Python; the bar is 160
    "python_calls_reused": (130, None),
    "python_calls_denied": (143, None),
    "depth_16_over_1": (1.12, 1.3),  # in functions of Python
    "steps_10000_over_100": (1.0, None),
    "fsyncs_alone": (1.0, None),  # of each write
    "fsyncs_64_threads": (0.2, 0.1),
    "round_trips_of_a_miss": (1.0, None),
    "modules_of_ours": (18, None),  # to declare tools and an intent
    "bytes_per_live_lease": (400, 200),  # beside its token
    "bytes_after_expiry": (16, 0),
}
MISSES = 50


@functools.cache
def found() -> dict[str, Any]:
    """The counts of a quiet process: what a busy machine's housekeeping adds to one it does not add to three."""
    for _ in range(2):
        if holds(seen := measured()):
            return seen
    return measured()


def holds(seen: dict[str, Any]) -> bool:
    counts = {**seen["figures"], **seen["memory"]}
    return bool(seen["agree"]) and all(counts[name] <= most(name) for name in counts.keys() & MOST.keys())


def measured() -> dict[str, Any]:
    """The counts of a process of its own: no test before this one has set a provider or filled a cache."""
    command = [sys.executable, "-W", "error", "-m", "bench.counts"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def most(name: str) -> float:
    return MOST[name][0]


@pytest.mark.parametrize("kind", ["full", "reused", "denied"])
def test_call_runs_no_more_functions_than_it_did(kind: str) -> None:
    name = f"python_calls_{kind}"

    assert found()["figures"][name] <= most(name)


def test_every_repetition_of_a_call_runs_as_many_functions() -> None:
    assert found()["agree"]


def test_sixteen_agents_in_a_chain_make_a_call_little_longer() -> None:
    growth = found()["growth"]

    assert growth["depth_16"] / growth["depth_1"] <= most("depth_16_over_1")


def test_steps_for_other_tools_add_no_function_to_a_call() -> None:
    growth = found()["growth"]

    assert growth["steps_10000"] / growth["steps_100"] <= most("steps_10000_over_100")


def test_write_alone_waits_for_one_sync(tmp_path: Path) -> None:
    each = syncs(tmp_path / "log", one_by_one, CALLS)

    assert 0 < each <= most("fsyncs_alone")


def test_writes_of_many_threads_share_their_syncs(tmp_path: Path) -> None:
    # How many wait together is up to whoever deals out the processors; on a busy machine one of a few looks counts.
    each = 1.0
    for look in range(5):
        each = min(each, syncs(tmp_path / f"log{look}", by_threads, CALLS * AT_ONCE))
        if each <= most("fsyncs_64_threads"):
            break

    assert 0 < each <= most("fsyncs_64_threads")


def test_credential_of_a_server_takes_one_round_trip() -> None:
    with counting_server() as issuer, closing(Http(connections=POOL)) as http:
        seen = counted(issuer, Client(issuer, http), MISSES)

    assert seen["round_trips_per_miss"]["value"] == most("round_trips_of_a_miss")
    assert seen["exchanges_for_100_concurrent_misses"]["value"] == 1
    assert seen["connections"]["value"] <= POOL


def test_declaring_loads_few_modules_and_no_heavy_one() -> None:
    loaded = modules(DECLARING)
    ours = [name for name in loaded if name.partition(".")[0] == "agentguard"]

    assert forbidden(loaded) == []
    assert 0 < len(ours) <= most("modules_of_ours")


def test_live_lease_takes_little_memory_and_a_dead_one_none() -> None:
    memory = found()["memory"]

    assert 0 < memory["bytes_per_live_lease"] <= most("bytes_per_live_lease")
    assert memory["bytes_after_expiry"] <= most("bytes_after_expiry")
