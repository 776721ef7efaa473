"""The ledger in a file: durable before anything is issued, shared by processes, and closed to everybody else."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from agentguard import ConfigurationError
from agentguard._drive import drive
from agentguard.errors import Unavailable
from agentguard.model.lease import Ending, Lease, LeaseKey, LeaseState, Placement, Secret
from agentguard.ports import Ledger, waits
from agentguard.state import place
from agentguard.state.place import file_system
from agentguard.state.rows import read, written
from agentguard.state.sqlite import SqliteLedger
from agentguard.testing import FakeClock

KEY = b"a key of the tests, 32 bytes long"
NOW = 1_800_000_000.0
sealed = pytest.mark.control("8 revocation handles are sealed at rest")
fails_closed = pytest.mark.control("8 no row, no credential")
private = pytest.mark.control("8 the ledger's file is its owner's alone")

_numbers = itertools.count()


def lease(identifier: str = "", **fields: Any) -> Lease:
    key = LeaseKey("acme", "user:alice", "root", ("user:alice", "bot"), "pay", "https://api.test", ("a", "b"), "x/1")
    given: dict[str, Any] = {
        "id": identifier or f"lease-{next(_numbers)}", "issuer": "broker", "key": key, "task": "task-1",
        "issued_at": NOW, "expires_at": NOW + 60,
    }  # fmt: skip
    return Lease(**{**given, **fields})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def ledger(file: Path, clock: FakeClock) -> Iterator[SqliteLedger]:
    made = SqliteLedger(file, KEY, clock=clock)
    yield made
    made.close()


def outstanding(ledger: SqliteLedger, now: float = NOW) -> list[str]:
    return [found.id for found in drive(ledger.outstanding(now))]


def bytes_of(file: Path) -> bytes:
    return b"".join(path.read_bytes() for path in file.parent.iterdir())


# a lease's life -------------------------------------------------------------------------------------------------


def test_it_is_a_ledger_that_can_be_driven_and_that_waits_under_an_event_loop(ledger: SqliteLedger) -> None:
    assert isinstance(ledger, Ledger)
    assert not ledger.suspends
    assert waits(ledger)


def test_a_lease_is_outstanding_from_pending_until_it_is_revoked(ledger: SqliteLedger) -> None:
    one = lease()

    drive(ledger.pending(one))
    drive(ledger.active(one, Secret("handle")))
    assert [one.id] == outstanding(ledger)
    drive(ledger.ended(one, Ending.REVOKED))

    assert [] == outstanding(ledger)


def test_what_its_server_cannot_revoke_is_outstanding_until_it_expired_for_every_verifier(ledger: SqliteLedger) -> None:
    one = lease()

    drive(ledger.pending(one))
    drive(ledger.ended(one, Ending.EXPIRES))

    assert [one.id] == outstanding(ledger, one.expires_by - 1)
    assert [] == outstanding(ledger, one.expires_by)


def test_what_ends_with_its_parent_is_outstanding_until_its_parent_ended(ledger: SqliteLedger) -> None:
    parent, child = lease(), lease(parent="")
    child = structs.replace(child, parent=parent.id, lasts=True)
    for one in (parent, child):
        drive(ledger.pending(one))

    drive(ledger.ended(child, Ending.WITH_PARENT))
    assert {parent.id, child.id} == set(outstanding(ledger))
    drive(ledger.ended(parent, Ending.REVOKED))

    assert [] == outstanding(ledger)


def test_what_ends_with_its_parent_is_not_outstanding_after_its_parent_expired(ledger: SqliteLedger) -> None:
    parent = lease()
    child = lease(parent=parent.id, lasts=True)
    for one in (parent, child):
        drive(ledger.pending(one))
    drive(ledger.ended(child, Ending.WITH_PARENT))

    assert [] == outstanding(ledger, parent.expires_by)


def test_an_ending_with_a_parent_that_nobody_named_waits_for_the_leases_own_end(ledger: SqliteLedger) -> None:
    one = lease()
    drive(ledger.pending(one))
    drive(ledger.ended(one, Ending.WITH_PARENT))

    assert [one.id] == outstanding(ledger)


def test_a_lease_that_lasts_is_never_dropped_by_time(ledger: SqliteLedger) -> None:
    one = lease(lasts=True)
    drive(ledger.pending(one))

    drive(ledger.beat(NOW + 10 * 365 * 86_400))

    assert [one.id] == outstanding(ledger, NOW + 20 * 365 * 86_400)


def test_a_lease_that_was_prolonged_has_its_new_end(ledger: SqliteLedger) -> None:
    one = lease()
    drive(ledger.pending(one))
    drive(ledger.active(one, Secret("handle")))

    drive(ledger.active(structs.replace(one, expires_at=NOW + 600), None))

    assert [one.id] == outstanding(ledger, NOW + 500)


def test_rows_say_how_far_a_lease_came_and_how_often_its_end_was_tried(ledger: SqliteLedger) -> None:
    one = lease()
    drive(ledger.pending(one))
    assert [LeaseState.PENDING] == [row.state for row in drive(ledger.rows(NOW))]
    drive(ledger.active(one))
    assert [LeaseState.ACTIVE] == [row.state for row in drive(ledger.rows(NOW))]
    drive(ledger.failed(one, "ConnectError"))
    drive(ledger.failed(one, "ConnectError", irrevocable=True))

    (row,) = drive(ledger.rows(NOW))

    assert (LeaseState.IRREVOCABLE, 2) == (row.state, row.attempts)


def test_rows_expired_long_ago_and_owners_without_rows_are_dropped(file: Path, clock: FakeClock) -> None:
    first = SqliteLedger(file, KEY, clock=clock)
    for _ in range(20):
        drive(first.pending(lease()))
    first.close()
    later = FakeClock(NOW + 3 * 86_400)
    second = SqliteLedger(file, KEY, clock=later)
    assert 20 == len(drive(second.adopt(later())))  # so that somebody records that they expired
    second.close()

    with sqlite3.connect(file) as raw:
        left = [raw.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("leases", "owners")]
    raw.close()

    assert [0, 0] == left


def test_a_process_whose_clock_is_ahead_drops_no_rows_of_others(ledger: SqliteLedger, file: Path) -> None:
    one, other = lease(), SqliteLedger(file, KEY)
    drive(ledger.pending(one))

    drive(other.adopt(NOW + 10 * 86_400))
    drive(other.beat(NOW + 10 * 86_400))
    other.close()

    assert [one.id] == outstanding(ledger)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names, times = st.tuples(texts, texts), st.floats(0, 1e10)


@given(
    key=st.builds(
        LeaseKey, tenant=texts, subject=texts, root=texts, chain=names, tool=texts, audience=texts, scopes=names,
        resource=texts,
    ),
    fields=st.fixed_dictionaries(
        {
            "id": texts, "issuer": texts, "task": texts, "issued_at": times, "expires_at": times,
            "fingerprint": texts, "type": texts, "placement": st.sampled_from(Placement), "name": texts, "jti": texts,
            "parent": texts, "lasts": st.booleans(), "verifier_leeway": st.integers(0, 60),
        }
    ),
)  # fmt: skip
def test_every_field_of_a_lease_survives_its_row(key: LeaseKey, fields: dict[str, Any]) -> None:
    assert set(Lease.__struct_fields__) == {*fields, "key"}
    one = Lease(key=key, **fields)

    assert one == read((one.id, "owner", "active", written(one), None, 0, NOW)).lease


def test_a_row_of_a_later_version_with_more_members_is_read() -> None:
    one = lease()
    text = written(one).replace(b'{"id"', b'{"since_version":9,"id"', 1)

    assert one == read((one.id, "owner", "active", text, None, 0, NOW)).lease


@pytest.mark.parametrize("when", [math.inf, math.nan])
def test_a_lease_with_a_time_that_is_no_number_is_not_issued(ledger: SqliteLedger, when: float) -> None:
    with pytest.raises(Unavailable, match="no number"):
        drive(ledger.pending(lease(expires_at=when)))


# handles ---------------------------------------------------------------------------------------------------------


@sealed
def test_neither_a_handle_nor_the_key_stands_in_the_file(ledger: SqliteLedger, file: Path) -> None:
    one = lease()
    drive(ledger.pending(one))
    drive(ledger.active(one, Secret("canary-of-a-handle")))

    assert one.id.encode() in bytes_of(file)
    assert b"canary-of-a-handle" not in bytes_of(file)
    assert KEY not in bytes_of(file)


def test_a_handle_is_given_back_to_whoever_adopts_the_row(file: Path, clock: FakeClock) -> None:
    first, one = SqliteLedger(file, KEY, clock=clock), lease()
    drive(first.pending(one))
    drive(first.active(one, Secret("canary-of-a-handle")))
    first.close()

    second = SqliteLedger(file, Secret(KEY.decode()), clock=clock)
    (owed,) = drive(second.adopt(NOW))
    second.close()

    assert owed.handle is not None
    assert (one, LeaseState.ACTIVE, "canary-of-a-handle") == (owed.lease, owed.state, owed.handle.reveal())


@sealed
def test_a_handle_under_another_key_is_not_known_its_row_stays_and_it_is_said(
    file: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    first, one = SqliteLedger(file, KEY, clock=clock), lease()
    drive(first.pending(one))
    drive(first.active(one, Secret("handle")))
    first.close()

    second = SqliteLedger(file, b"another key" * 3, clock=clock)
    (owed,) = drive(second.adopt(NOW))
    second.close()
    third = SqliteLedger(file, KEY, clock=clock)
    (again,) = drive(third.adopt(NOW))
    third.close()

    assert owed.handle is None
    assert "sealed under another key" in caplog.text
    assert again.handle is not None


@sealed
def test_a_handle_moved_to_another_row_is_not_opened(file: Path, clock: FakeClock) -> None:
    first, one, other = SqliteLedger(file, KEY, clock=clock), lease(), lease()
    for each in (one, other):
        drive(first.pending(each))
        drive(first.active(each, Secret(f"handle of {each.id}")))
    first.close()
    with sqlite3.connect(file) as raw:
        raw.execute("UPDATE leases SET handle = (SELECT handle FROM leases WHERE id = ?)", (one.id,))
    raw.close()

    second = SqliteLedger(file, KEY, clock=clock)
    handles = {owed.lease.id: owed.handle for owed in drive(second.adopt(NOW))}
    second.close()

    assert handles[one.id] is not None
    assert handles[other.id] is None


def test_a_key_that_is_too_short_is_refused(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="fewer than 32 bytes"):
        SqliteLedger(file, b"short")


# many at once ----------------------------------------------------------------------------------------------------


def test_threads_share_one_ledger(ledger: SqliteLedger) -> None:
    def life(_: int) -> None:
        one = lease()
        drive(ledger.pending(one))
        drive(ledger.active(one, Secret("handle")))
        drive(ledger.ended(one, Ending.REVOKED))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(life, range(200)))

    assert [] == outstanding(ledger)


@pytest.mark.anyio
async def test_tasks_of_an_event_loop_share_one_ledger(ledger: SqliteLedger) -> None:
    async def life() -> None:
        one = lease()
        await ledger.pending(one)
        await ledger.active(one, Secret("handle"))
        await ledger.ended(one, Ending.REVOKED)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(life)

    assert [] == await ledger.outstanding(NOW)


@pytest.mark.control("8 a cancelled caller leaves no row behind")
def test_a_row_of_a_cancelled_caller_does_not_appear_later(ledger: SqliteLedger) -> None:
    """asyncio's own cancel leaves the thread alone, which may still wait for its turn when the lease has ended."""
    one, taken, free = lease(), threading.Event(), threading.Event()

    def others() -> None:
        with ledger._database.turn():
            taken.set()
            free.wait(5)

    async def cancelled() -> None:
        waiting = asyncio.create_task(ledger.pending(one))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        free.set()

    thread = threading.Thread(target=others)
    thread.start()
    taken.wait(5)
    asyncio.run(cancelled())  # waits for its threads
    thread.join()

    assert [] == outstanding(ledger)


WRITER = textwrap.dedent("""
    import sys, time
    from agentguard._drive import drive
    from agentguard.model.lease import Ending, Lease, LeaseKey, Secret
    from agentguard.state.sqlite import SqliteLedger
    ledger = SqliteLedger(sys.argv[1], b"a key of the tests, 32 bytes long")
    key = LeaseKey("", "s", "r", ("s", "a"), "t", "https://api.test", (), "")
    for number in range(40):
        now = time.time()
        lease = Lease(id=f"{sys.argv[2]}-{number}", issuer="i", key=key, task="t", issued_at=now, expires_at=now + 60)
        drive(ledger.pending(lease))
        drive(ledger.active(lease, Secret("handle")))
        if number % 2:
            drive(ledger.ended(lease, Ending.REVOKED))
    ledger.close()
""")


def test_eight_processes_write_at_once_and_none_finds_the_file_busy(file: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", WRITER, str(file)]
    writers = [subprocess.Popen([*command, str(name)], stderr=subprocess.PIPE) for name in range(8)]
    said = [writer.communicate(timeout=60)[1] for writer in writers]
    ledger = SqliteLedger(file, KEY)
    adopted = drive(ledger.adopt(NOW))
    ledger.close()

    assert [b""] * 8 == said
    assert 8 * 20 == len({owed.lease.id for owed in adopted})


def test_two_ledgers_of_one_process_share_the_file(file: Path, ledger: SqliteLedger, clock: FakeClock) -> None:
    other, mine, its = SqliteLedger(file, KEY, clock=clock), lease(), lease()
    drive(ledger.pending(mine))
    drive(other.pending(its))

    assert {mine.id, its.id} == set(outstanding(ledger))
    assert [mine] == drive(ledger.outstanding(NOW, instance=ledger.instance))
    assert [] == drive(other.adopt(NOW))
    other.close()


@pytest.mark.control("8 a row is on the disk before anything is asked for")
def test_what_must_survive_the_machine_is_synchronised_and_the_rest_is_not(ledger: SqliteLedger) -> None:
    """1 is NORMAL: the process may be killed; 2 is FULL: the machine may stop (PRAGMA synchronous)."""

    def how() -> int:
        with ledger._database.read() as raw:
            return int(raw.execute("PRAGMA synchronous").fetchone()[0])

    one, found = lease(), list[int]()
    for work in (
        ledger.pending(one), ledger.active(one), ledger.active(one, Secret("handle")), ledger.failed(one, "down"),
        ledger.ended(one, Ending.REVOKED), ledger.adopt(NOW),
    ):  # fmt: skip
        drive(work)
        found.append(how())

    assert [2, 1, 2, 1, 1, 2] == found


# failures --------------------------------------------------------------------------------------------------------


@fails_closed
def test_a_file_at_its_largest_size_refuses_what_does_not_fit_and_keeps_what_it_has(file: Path) -> None:
    ledger = SqliteLedger(file, KEY, most=100 * 4096)
    kept = []
    with pytest.raises(Unavailable, match="full"):
        while True:
            one = lease()
            drive(ledger.pending(one))
            kept.append(one.id)

    assert kept == outstanding(ledger)
    drive(ledger.ended(lease(kept[0]), Ending.REVOKED))
    ledger.close()


@fails_closed
def test_a_file_that_became_read_only_refuses(ledger: SqliteLedger) -> None:
    with ledger._database.read() as raw:
        raw.execute("PRAGMA query_only = 1")

    with pytest.raises(Unavailable, match="read-only"):
        drive(ledger.pending(lease()))


@fails_closed
def test_a_file_that_another_process_keeps_locked_refuses_in_time(file: Path, clock: FakeClock) -> None:
    ledger = SqliteLedger(file, KEY, clock=clock, timeout=0.2)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(Unavailable, match="another process held it for too long"):
        drive(ledger.pending(lease()))
    other.execute("ROLLBACK")
    other.close()
    drive(ledger.pending(lease()))
    ledger.close()


@fails_closed
@pytest.mark.parametrize("part", ["", "-wal"])
def test_a_file_that_was_removed_or_replaced_refuses(ledger: SqliteLedger, file: Path, part: str) -> None:
    drive(ledger.pending(lease()))
    Path(f"{file}{part}").rename(f"{file}.moved")

    with pytest.raises(Unavailable, match="removed or replaced"):
        drive(ledger.pending(lease()))


def test_a_transaction_that_an_interrupt_left_open_does_not_lock_others_out(ledger: SqliteLedger) -> None:
    with ledger._database.read() as raw:
        raw.execute("BEGIN IMMEDIATE")

    one = lease()
    drive(ledger.pending(one))

    assert [one.id] == outstanding(ledger)


@fails_closed
def test_a_damaged_file_is_refused_and_says_what_to_do(file: Path) -> None:
    ledger = SqliteLedger(file, KEY)
    for _ in range(200):
        drive(ledger.pending(lease()))
    ledger.close()
    content = bytearray(file.read_bytes())
    content[4096 * 3 : 4096 * 12] = os.urandom(4096 * 9)
    file.write_bytes(content)

    with pytest.raises(Unavailable, match=r"is damaged.*move it and its -wal and -shm files away"):
        SqliteLedger(file, KEY)


@fails_closed
def test_a_row_that_cannot_be_read_is_never_passed_over(
    file: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    first, good, bad = SqliteLedger(file, KEY, clock=clock), lease(), lease()
    for each in (good, bad):
        drive(first.pending(each))
    first.close()
    with sqlite3.connect(file) as raw:
        raw.execute("UPDATE leases SET lease = CAST('{' AS BLOB) WHERE id = ?", (bad.id,))
    raw.close()

    second = SqliteLedger(file, KEY, clock=clock)
    assert [good.id] == [owed.lease.id for owed in drive(second.adopt(NOW))]
    assert f"row '{bad.id}' of the ledger cannot be read" in caplog.text
    with pytest.raises(Unavailable, match="cannot be read"):
        drive(second.outstanding(NOW))
    second.close()


def test_a_row_that_names_another_lease_is_not_read() -> None:
    with pytest.raises(Unavailable, match="cannot be read"):
        read(("another", "owner", "active", written(lease("one")), None, 0, NOW))


def test_a_text_file_is_no_ledger(file: Path) -> None:
    file.write_text("dear diary\n" * 1000)
    file.chmod(0o600)

    with pytest.raises(Unavailable, match="is damaged"):
        SqliteLedger(file, KEY)


def test_a_database_of_something_else_is_refused(file: Path) -> None:
    with sqlite3.connect(file) as raw:
        raw.execute("CREATE TABLE recipes (name TEXT)")
    raw.close()
    file.chmod(0o600)

    with pytest.raises(ConfigurationError, match="something else"):
        SqliteLedger(file, KEY)


def test_a_file_of_a_later_version_is_refused(file: Path) -> None:
    SqliteLedger(file, KEY).close()
    with sqlite3.connect(file) as raw:
        raw.execute("PRAGMA user_version = 99")
    raw.close()

    with pytest.raises(ConfigurationError, match="schema 99"):
        SqliteLedger(file, KEY)


def test_a_closed_ledger_says_so(file: Path) -> None:
    ledger = SqliteLedger(file, KEY)
    ledger.close()
    ledger.close()

    with pytest.raises(Unavailable, match="is closed"):
        drive(ledger.pending(lease()))


# who may touch it -------------------------------------------------------------------------------------------------


@private
def test_the_file_and_what_sqlite_puts_beside_it_are_their_owners_alone(ledger: SqliteLedger, file: Path) -> None:
    drive(ledger.pending(lease()))

    assert {0o600} == {path.stat().st_mode & 0o777 for path in file.parent.iterdir()}
    assert 3 == len(list(file.parent.iterdir()))


@private
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_can_use_is_refused(file: Path, mode: int) -> None:
    SqliteLedger(file, KEY).close()
    file.chmod(mode)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        SqliteLedger(file, KEY)


@private
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(mode)

    with pytest.raises(ConfigurationError, match="chmod go-w"):
        SqliteLedger(folder / "state.db", KEY)


@private
def test_a_symbolic_link_is_refused(tmp_path: Path, file: Path) -> None:
    SqliteLedger(file, KEY).close()
    (tmp_path / "link.db").symlink_to(file)

    with pytest.raises(ConfigurationError, match="no regular file"):
        SqliteLedger(tmp_path / "link.db", KEY)


@pytest.mark.parametrize("name", [b"what?is#this%41.db", b"caf\xe9.db", "na\u00efve \u4e2d.db".encode()])
def test_the_name_of_a_file_may_have_any_bytes(tmp_path: Path, name: bytes) -> None:
    file = tmp_path / os.fsdecode(name)
    with closing(SqliteLedger(file, KEY)) as ledger:
        drive(ledger.pending(lease("one")))

    assert name in os.listdir(os.fsencode(tmp_path))
    with closing(SqliteLedger(file, KEY)) as ledger:
        assert ["one"] == [found.id for found in drive(ledger.outstanding(NOW))]


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be opened"):
        SqliteLedger(tmp_path / "missing" / "state.db", KEY)


def test_a_network_file_system_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "file_system", lambda folder: "nfs4")

    with pytest.raises(ConfigurationError, match="network file system"):
        SqliteLedger(file, KEY)


def test_the_file_system_of_a_folder_is_that_of_its_closest_mount(tmp_path: Path) -> None:
    mounts, share = tmp_path / "mountinfo", tmp_path / "a share"
    share.mkdir()
    quoted = str(share).replace(" ", "\\040")
    mounts.write_text(
        f"22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n30 22 0:42 / {quoted} rw shared:3 - nfs4 nas:/x rw\nnonsense\n"
    )

    assert "nfs4" == file_system(share, mounts)
    assert "ext4" == file_system(tmp_path, mounts)
    assert "" == file_system(tmp_path, tmp_path / "missing")
