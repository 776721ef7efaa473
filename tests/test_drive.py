"""One async core driven by hand: nothing blocks, nothing hangs, and every `finally` runs."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from agentguard._drive import RELEASE_SECONDS, drive, driven, loop_running, run_shielded, wait_for
from agentguard.errors import SuspendedError


async def plain(value: Any) -> Any:
    return value


def test_coroutine_that_never_suspends_runs_to_its_end_without_a_loop() -> None:
    async def outer() -> list[Any]:
        return [await plain(1), drive(plain(2)), driven()]

    assert drive(outer()) == [1, 2, True]
    assert not driven()


def test_nested_drives_do_not_disturb_each_other() -> None:
    async def outer() -> tuple[bool, bool]:
        with pytest.raises(SuspendedError):
            drive(asyncio.sleep(0))
        return driven(), drive(inner())

    async def inner() -> bool:
        return driven()

    assert drive(outer()) == (True, True)
    assert not driven()


@pytest.mark.control("5 what a refused call holds is released")
def test_where_it_suspends_every_finally_runs_also_one_that_suspends_again() -> None:
    done: list[str] = []

    async def holds() -> None:
        try:
            try:
                await asyncio.sleep(0)
            finally:
                done.append("inner")
                await asyncio.sleep(0)
        finally:
            done.append("release")

    with pytest.raises(SuspendedError, match="async with"):
        drive(holds())
    assert done == ["inner", "release"]


def test_coroutine_that_waits_for_ever_is_given_up() -> None:
    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(0)
            except SuspendedError:
                continue

    with pytest.raises(SuspendedError):
        drive(stubborn())
    assert not driven()


def test_error_of_the_coroutine_is_the_callers() -> None:
    async def fails() -> None:
        raise KeyError("own")

    with pytest.raises(KeyError, match="own"):
        drive(fails())
    assert not driven()


@pytest.mark.anyio
async def test_running_loop_is_seen_in_its_thread_only() -> None:
    assert loop_running()
    assert not await anyio.to_thread.run_sync(loop_running)


def test_without_a_loop_none_is_seen() -> None:
    assert not loop_running()


# shielded work --------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.control("5 a cancelled call is released")
async def test_shielded_work_is_done_although_the_caller_is_cancelled() -> None:
    done: list[str] = []

    async def release() -> None:
        await anyio.sleep(0.02)
        done.append("released")

    with anyio.move_on_after(0.01) as scope:
        try:
            await anyio.sleep(10)
        finally:
            await run_shielded(release, suspends=True)
    assert done == ["released"]
    assert scope.cancelled_caught


@pytest.mark.control("5 a cancelled call is released")
@pytest.mark.parametrize("cancels", [1, 2, 5])
def test_shielded_work_survives_every_cancellation_of_asyncio(cancels: int) -> None:
    done: list[str] = []

    async def release() -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        done.append("released")

    async def work() -> None:
        task = asyncio.ensure_future(run_shielded(release, suspends=True))
        for _ in range(cancels):
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert done == ["released"]


@pytest.mark.anyio
async def test_error_of_shielded_work_is_raised() -> None:
    async def fails() -> None:
        await anyio.lowlevel.checkpoint()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="space"):
        await run_shielded(fails, suspends=True)


@pytest.mark.anyio
@pytest.mark.control("1 no record, no action")
async def test_work_that_is_not_done_in_time_is_an_error_on_every_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentguard._drive.RELEASE_SECONDS", 0.02)
    assert RELEASE_SECONDS == 5
    with pytest.raises(TimeoutError):
        await run_shielded(lambda: anyio.sleep(60), suspends=True)


def test_work_that_never_suspends_runs_at_once_without_a_loop() -> None:
    done: list[str] = []

    async def release() -> None:
        done.append("released")

    drive(run_shielded(release, suspends=False))
    drive(run_shielded(release, suspends=True))  # driven: it cannot wait, so it has to be done at once
    assert done == ["released", "released"]


# waiting for another thread -------------------------------------------------------------------------------


def later(future: Future[str], value: str = "done", seconds: float = 0.02) -> threading.Thread:
    def complete() -> None:
        time.sleep(seconds)
        future.set_result(value)

    thread = threading.Thread(target=complete)
    thread.start()
    return thread


@pytest.mark.anyio
async def test_future_of_another_thread_is_waited_for() -> None:
    future: Future[str] = Future()
    thread = later(future)
    assert await wait_for(future) == "done"
    assert await wait_for(future) == "done"
    thread.join()


def test_driven_caller_waits_for_another_thread_by_blocking() -> None:
    future: Future[str] = Future()
    thread = later(future)
    assert drive(wait_for(future)) == "done"
    thread.join()


@pytest.mark.anyio
async def test_waiting_ends_in_time_and_leaves_the_future_alone() -> None:
    future: Future[str] = Future()
    with pytest.raises(TimeoutError):
        await wait_for(future, 0.01)
    with anyio.move_on_after(0.01):
        await wait_for(future)
    assert not future.cancelled()
    future.set_result("late")
    assert await wait_for(future) == "late"


@pytest.mark.anyio
async def test_many_may_wait_and_take_no_thread() -> None:
    future, got = Future[str](), list[str]()
    before = threading.active_count()

    async def wait() -> None:
        got.append(await wait_for(future))

    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(wait)
        await anyio.sleep(0.01)
        assert threading.active_count() <= before  # one of an earlier test may end meanwhile
        await anyio.to_thread.run_sync(future.set_result, "done")
    assert got == ["done"] * 200


@pytest.mark.anyio
async def test_error_of_a_future_is_raised() -> None:
    future: Future[str] = Future()
    future.set_exception(KeyError("own"))
    with pytest.raises(KeyError):
        await wait_for(future)


def test_future_that_is_completed_after_its_loop_ended_harms_nobody() -> None:
    future: Future[str] = Future()

    async def give_up() -> None:
        with anyio.move_on_after(0.01):
            await wait_for(future)

    for backend in ("asyncio", "trio"):
        anyio.run(give_up, backend=backend)
    future.set_result("late")
    assert future.result() == "late"
