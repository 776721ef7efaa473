"""One run: the calls of a user task, with or without those of an attack, made through the tools of a suite."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from time import perf_counter
from typing import Any, Final

from agentguard import AgentguardError, Denied, Guard, Intent, Task
from agentguard.ports import Answer, Approval, ApprovalRequest
from bench.agentdojo.dojo import Attack, Finished, Suite, is_call
from bench.agentdojo.tools import Toolbox

AGENT: Final = "assistant"
USER: Final = "emma"
# How a guard that works refuses a call; anything else it says is a fault of the run.
_REFUSALS: Final = frozenset({"outside_intent", "argument_violation", "budget_exhausted"})


class Moment(StrEnum):
    """When the agent is hijacked."""

    AFTER = "after"
    MID = "mid"


class Person:
    """Answers what the guard asks: as the replay says for the call it makes now."""

    suspends = False

    def __init__(self) -> None:
        self.answer = Answer.REJECTED
        self.asked: list[ApprovalRequest] = []

    async def ask(self, request: ApprovalRequest) -> Approval:
        """Give the answer, and remember what was asked."""
        self.asked.append(request)
        return Approval(self.answer, "operator", request.call)


class NeverRan(Exception):
    """A call was not denied, and yet its tool's body never ran."""


@dataclass(slots=True)
class Load:
    """What the runs cost.

    Args:
        tasks: opened; none where the tools run bare.
        calls, denied: how many.
        tasks_s: seconds spent opening and ending tasks.
        calls_s: seconds spent in the tools' `invoke`, their bodies among them.
        bodies_s: seconds spent in the tools' bodies.
    """

    tasks: int = 0
    calls: int = 0
    denied: int = 0
    tasks_s: float = 0.0
    calls_s: float = 0.0
    bodies_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a run.

    Args:
        finished: for AgentDojo's checks.
        asked: what a person was asked, in order.
        refused: the guard's denials, as a developer reads them.
        faults: what must not happen in a valid run.
    """

    finished: Finished
    asked: tuple[ApprovalRequest, ...]
    refused: tuple[str, ...]
    faults: tuple[str, ...]


@dataclass(slots=True)
class _Trail:
    calls: list[Any] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Replay:
    """Replays the runs of one suite.

    Args:
        suite: where its tasks come from.
        box: its tools.
        guard: opens a task for each run that has an intent.
        person: whom the guard asks.
        load: what all runs cost, added up.
    """

    suite: Suite
    box: Toolbox
    guard: Guard
    person: Person
    load: Load

    def run(
        self, user: Any, intent: Intent | None, attack: Attack | None = None, moment: Moment = Moment.AFTER, *,
        approve_attack: bool = False,
    ) -> Run:  # fmt: skip
        """Replay a user task, alone or hijacked.

        Args:
            user: AgentDojo's user task.
            intent: what the guard enforces; None for tools that run bare.
            attack: what the hijacked agent does besides.
            moment: when it does so.
            approve_attack: a person who is asked agrees to the attack's calls too.
        """
        before, environment = self.suite.environment(user), self.suite.environment(user)
        self.box.live.environment = environment
        trail, asked = _Trail(), len(self.person.asked)
        calls = user.ground_truth(environment)
        at = self._attacked_at(calls, moment)
        with self._task(intent, trail):
            self._make(calls[:at], Answer.APPROVED, trail)
            if attack is not None:
                answer = Answer.APPROVED if approve_attack else Answer.REJECTED
                self._make(attack.calls(environment), answer, trail)
            self._make(calls[at:], Answer.APPROVED, trail)
        said = "\n".join(words for words in (user.GROUND_TRUTH_OUTPUT, attack.words if attack else "") if words)
        finished = Finished(before, environment, tuple(trail.calls), said)
        return Run(finished, tuple(self.person.asked[asked:]), tuple(trail.refused), tuple(trail.faults))

    def _attacked_at(self, calls: Sequence[Any], moment: Moment) -> int:
        """How many of the user's calls are made before the attack."""
        if moment is Moment.AFTER:
            return len(calls)
        first_change = (i for i, call in enumerate(calls) if self.box.changes(call.function))
        return next(first_change, max(len(calls) - 1, 0))

    @contextlib.contextmanager
    def _task(self, intent: Intent | None, trail: _Trail) -> Iterator[None]:
        live, denied = self.box.live, self.load.denied
        ran, seconds = live.ran, live.seconds
        if intent is None:
            yield
        else:
            self.load.tasks += 1
            started = perf_counter()
            task = self.guard.task(AGENT, on_behalf_of=USER, intent=intent)
            with task:
                self.load.tasks_s += perf_counter() - started
                yield
                started = perf_counter()
            self.load.tasks_s += perf_counter() - started
            trail.faults += _miscounts(task, live.ran - ran, self.load.denied - denied)
        self.load.bodies_s += live.seconds - seconds

    def _make(self, calls: Sequence[Any], answer: Answer, trail: _Trail) -> None:
        self.person.answer = answer
        for call in calls:
            try:
                self._invoke(call)
            except Denied as denied:
                self.load.denied += 1
                trail.refused.append(str(denied))
                if not (denied.reason in _REFUSALS or denied.reason.startswith("approval_")):
                    trail.faults.append(str(denied))
                continue
            except (AgentguardError, NeverRan) as error:
                trail.faults.append(f"{call.function}: {type(error).__name__}: {error}")
                continue
            except Exception:  # the tool's own error, which an agent would read; AgentDojo keeps the call
                pass
            trail.calls.append(call)

    def _invoke(self, call: Any) -> Any:
        """Make a call through its tool; arguments that are calls themselves are made first, and pass their result."""
        arguments = {name: self._invoke(value) if is_call(value) else value for name, value in call.args.items()}
        ran = self.box.live.ran
        try:
            value = self._timed(call.function, arguments)
        except AgentguardError:
            raise
        except Exception as error:
            self._must_have_run(ran, f"{type(error).__name__}: {error}")
            raise
        self._must_have_run(ran, "it returned something else")
        return value

    def _timed(self, tool: str, arguments: dict[str, Any]) -> Any:
        self.load.calls += 1
        started = perf_counter()
        try:
            return self.box.tools[tool].invoke(arguments)
        finally:
            self.load.calls_s += perf_counter() - started

    def _must_have_run(self, ran: int, instead: str) -> None:
        """A call that was not denied reached its tool's body; a fault of ours must not pass for a tool's error."""
        if self.box.live.ran == ran:
            raise NeverRan(instead)


def _miscounts(task: Task, ran: int, denied: int) -> Iterator[str]:
    """INVARIANT: no body ran that the guard did not permit, and every denial reached the agent."""
    if (task.counts.permitted, task.counts.denied) != (ran, denied):
        counted = f"the guard permitted {task.counts.permitted} and denied {task.counts.denied}"
        yield f"{counted}, but {ran} bodies ran and {denied} calls were refused"
