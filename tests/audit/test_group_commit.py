"""Flush on event loops: shared syncs, cancellation, failure."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from agentguard._drive import drive
from agentguard.audit import commit, segment
from agentguard.audit.log import FileLog
from agentguard.errors import AuditUnavailable
from tests.audit.samples import record

pytestmark = pytest.mark.anyio


@pytest.fixture
def log(tmp_path: Path) -> Iterator[FileLog]:
    log = FileLog(tmp_path)
    yield log
    log.close()


class Syncs:
    """Counts syncs, and can hold them up."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, fd: int) -> None:
        self.threads.append(threading.current_thread())
        assert self.gate.wait(10)
        os.fdatasync(fd)


@pytest.fixture
def syncs(log: FileLog, monkeypatch: pytest.MonkeyPatch) -> Syncs:
    syncs = Syncs()
    monkeypatch.setattr(segment, "_sync_file", syncs)
    return syncs


async def test_tasks_of_one_tick_share_one_sync_on_one_thread(log: FileLog, syncs: Syncs):
    async with anyio.create_task_group() as tasks:
        for n in range(64):
            tasks.start_soon(log.flush, log.append(record(n)))

    assert 1 == len(syncs.threads)
    assert syncs.threads[0] is not threading.main_thread()


async def test_64_tasks_pay_at_most_a_quarter_of_a_sync_a_call(log: FileLog, syncs: Syncs):
    async def work() -> None:
        for n in range(10):
            await log.flush(log.append(record(n)))

    async with anyio.create_task_group() as tasks:
        for _ in range(64):
            tasks.start_soon(work)

    assert len(syncs.threads) <= 640 * 0.25
    assert 1 == len(set(syncs.threads))


async def test_durable_position_needs_no_sync(log: FileLog, syncs: Syncs):
    position = log.append(record(1))
    await log.flush(position)

    await log.flush(position)

    assert 1 == len(syncs.threads)


async def test_synchronous_caller_syncs_by_itself(log: FileLog, syncs: Syncs):
    drive(log.flush(log.append(record(1))))

    assert [threading.current_thread()] == syncs.threads


async def test_cancelled_waiter_leaves_the_others_waiting_and_the_log_working(log: FileLog, syncs: Syncs):
    syncs.gate.clear()
    done: list[int] = []

    async def wait(n: int) -> None:
        await log.flush(log.append(record(n)))
        done.append(n)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, 1)
        with anyio.move_on_after(0.05) as scope:
            await wait(2)
        assert scope.cancelled_caught
        syncs.gate.set()

    await wait(3)
    assert [1, 3] == done


async def test_record_appended_during_a_sync_waits_for_the_next_one(log: FileLog, syncs: Syncs):
    syncs.gate.clear()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.flush, log.append(record(1)))
        while not syncs.threads:  # noqa: ASYNC110  # what is waited for happens in a thread
            await anyio.sleep(0.001)
        tasks.start_soon(log.flush, log.append(record(2)))
        await anyio.sleep(0.01)
        syncs.gate.set()

    assert 2 == len(syncs.threads)


async def test_failed_sync_reaches_everybody_who_waits(log: FileLog, monkeypatch: pytest.MonkeyPatch):
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "broken disk")

    failed: list[str] = []

    async def wait(n: int) -> None:
        try:
            await log.flush(log.append(record(n)))
        except AuditUnavailable as error:
            failed.append(str(error))

    with monkeypatch.context() as patch:
        patch.setattr(segment, "_sync_file", fail)
        async with anyio.create_task_group() as tasks:
            for n in range(5):
                tasks.start_soon(wait, n)

    assert 5 == len(failed)
    assert all("broken disk" in text for text in failed)
    await log.flush(log.append(record(9)))


async def test_thread_ends_when_idle_and_another_one_takes_over(
    log: FileLog, syncs: Syncs, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(commit, "IDLE_SECONDS", 0.01)
    await log.flush(log.append(record(1)))
    first = syncs.threads[0]
    with anyio.fail_after(5):
        while first.is_alive():  # noqa: ASYNC110  # a thread has no event to wait for
            await anyio.sleep(0.01)

    await log.flush(log.append(record(2)))

    assert first is not syncs.threads[1]


async def test_thread_that_cannot_be_started_is_a_denial_and_no_hang(log: FileLog, monkeypatch: pytest.MonkeyPatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with anyio.fail_after(5), pytest.raises(AuditUnavailable, match="start new thread"):
            await log.flush(log.append(record(1)))

    await log.flush(log.append(record(2)))


async def test_log_closed_while_somebody_waits_is_durable(tmp_path: Path):
    log = FileLog(tmp_path / "other")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.flush, log.append(record(1)))
        await anyio.lowlevel.checkpoint()
        log.close()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_loops_in_several_threads_share_one_log(log: FileLog, backend: str):
    failures: list[BaseException] = []

    async def work() -> None:
        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(log.flush, log.append(record(n)))

    def run() -> None:
        try:
            anyio.run(work, backend=backend)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert [] == failures
    assert not any(thread.is_alive() for thread in threads)


async def test_wait_that_is_interrupted_keeps_no_later_one_waiting(monkeypatch: pytest.MonkeyPatch):
    real, committer = commit._this_loop, commit.Committer(lambda: None)

    def interrupted(call: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(commit, "_this_loop", lambda: (real()[0], interrupted))
        with pytest.raises(KeyboardInterrupt):
            await committer.wait()
    with anyio.fail_after(5):
        await committer.wait()
