"""The active task, and what a caller is told who has none, or who cannot wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentguard._drive import loop_running
from agentguard.access import _task
from agentguard.errors import ConfigurationError, Denied
from agentguard.model.decision import Decision, Miss, Outcome, Reason

if TYPE_CHECKING:
    from agentguard.task import Host, Task


def current_task() -> Task:
    """Return the active task.

    Raises:
        Denied: `no_task`.
    """
    return active_task("task")


def active_task(tool: str) -> Task:
    """Return the active task, or raise: absence never becomes authority.

    Raises:
        Denied: `no_task`.
    """
    task = _task.get()
    if task is None:
        raise denial(
            Reason.NO_TASK, tool,
            'no task is active here; open one: `with guard.task("agent", on_behalf_of="alice", intent=...):`. '
            "A thread started by hand has lost it: use task.bind(fn)",
        )  # fmt: skip
    return task


def denial(reason: Reason, tool: str, text: str) -> Denied:
    """A Denied outside any call."""
    return Denied(Decision(outcome=Outcome.DENY, reason=reason, tool=tool, miss=Miss(text=text)))


def refuse_blocking(host: Host) -> None:
    """Refuse a synchronous caller where a port could suspend, or would block a running event loop.

    Raises:
        ConfigurationError: it says what to use instead.
    """
    if host.suspends:
        raise ConfigurationError(
            f"{host.suspends} can suspend, which a synchronous caller cannot wait for; "
            "use `async with guard.task(...)` and async tools"
        )
    if host.remote and loop_running():
        raise ConfigurationError(
            "a remote port would block the running event loop; use `async with guard.task(...)` and async tools"
        )
