"""A guard's life beside its calls: one thread that ends overdue tasks and retries revocations; exit and fork.

A guard that is still open when the interpreter exits is closed then; a forked child starts with no tasks and no leases.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import anyio

from agentguard._drive import drive, loop_running
from agentguard.task import Task
from agentguard.task_state import TaskState

if TYPE_CHECKING:
    from agentguard.guard import Guard

_log: Final = logging.getLogger("agentguard")
INTERVAL: Final = 0.5
guards: Final[weakref.WeakSet[Guard]] = weakref.WeakSet()


class Keeper:
    """Looks after the open tasks of one guard. Its thread starts with the first task and ends with the guard."""

    def __init__(self, guard: Guard) -> None:
        self._guard = weakref.ref(guard)
        self._tasks: dict[str, Task] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._heard_at = 0.0

    def watch(self, task: Task) -> None:
        """End this task when its time is over."""
        with self._lock:
            self._tasks[task.id] = task
        self.start()

    def start(self) -> None:
        """Start the thread, once."""
        with self._lock:
            if self._thread is None and not self._stopped.is_set():
                thread = self._thread = threading.Thread(
                    target=_keep, args=(self._guard, self._stopped), name="agentguard-keeper", daemon=True
                )
                try:
                    thread.start()
                finally:
                    if thread.ident is None:  # INVARIANT: one that could not begin is tried again
                        self._thread = None

    def unwatch(self, task: Task) -> None:
        """The task has ended, or its store ends it; one that was resumed under its id is another object."""
        with self._lock:
            if self._tasks.get(task.id) is task:
                del self._tasks[task.id]

    def open_tasks(self) -> list[Task]:
        """Every task that has not ended, children after their parents."""
        with self._lock:
            return list(self._tasks.values())

    def tick(self) -> None:
        """Follow the stops of others first, end what is overdue, and ask again for what could not be revoked."""
        guard = self._guard()
        if guard is None:
            return
        self._hear(guard)
        for task in self.open_tasks():
            if guard.monotonic() >= task.deadline:
                if time.monotonic() - self._heard_at >= INTERVAL:  # a server that does not answer takes seconds a task
                    self._hear(guard)
                self._run(guard, lambda task=task: guard.close_task(task, TaskState.ENDED, "expired"))  # type: ignore[misc]  # bound now
        if guard.leases is not None:
            self._run(guard, guard.leases.tend)
        self._run(guard, guard.parking.tend)

    def _hear(self, guard: Guard) -> None:
        """Follow the stops of others, and say that this process lives."""
        self._run(guard, guard.stopping.listen)
        if guard.leases is not None:
            self._run(guard, guard.leases.beat)
        self._heard_at = time.monotonic()

    def _run(self, guard: Guard, work: Callable[[], Awaitable[None]]) -> None:
        try:
            run_anywhere(work, suspends=guard.release_suspends)
        except Exception as error:
            _log.error("the keeper could not finish its work: %s", type(error).__name__)

    def stop(self) -> None:
        """End every task and the thread."""
        self._stopped.set()
        guard = self._guard()
        for task in self.open_tasks():
            if guard is not None:
                self._run(guard, lambda task=task: guard.close_task(task, TaskState.ENDED, "guard closed"))  # type: ignore[misc]  # bound now
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2 * INTERVAL + 5)

    def after_fork(self) -> None:
        """In the child: the parent's tasks have ended here, and the thread does not exist."""
        for task in list(self._tasks.values()):
            task.forked()
        self._tasks, self._lock, self._stopped, self._thread = {}, threading.Lock(), threading.Event(), None


def run_anywhere(work: Callable[[], Awaitable[None]], *, suspends: bool) -> None:
    """Run async work from any thread; one whose event loop runs waits for another one, which has a loop of its own."""

    async def whole() -> None:
        await work()

    if not suspends:
        drive(whole())
    elif loop_running():
        with ThreadPoolExecutor(1, "agentguard-closing") as apart:
            apart.submit(anyio.run, whole).result()
    else:
        anyio.run(whole)


def _keep(reference: weakref.ref[Guard], stopped: threading.Event) -> None:
    """INVARIANT: between two ticks the thread holds no guard, so that a forgotten guard can be collected."""
    while not stopped.wait(INTERVAL):
        guard = reference()
        if guard is None:
            return
        guard.keeper.tick()
        del guard


def _close_all() -> None:
    for guard in list(guards):
        try:
            guard.close()
        except Exception as error:
            _log.error("a guard could not be closed at exit: %s", type(error).__name__)


def _after_fork() -> None:
    for guard in list(guards):
        guard.after_fork()


def _register() -> Any:
    atexit.register(_close_all)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


_register()
