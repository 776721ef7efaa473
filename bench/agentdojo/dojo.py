"""AgentDojo's suites: environments, user tasks, attacks, and its own checks. The only module that knows its classes."""

from __future__ import annotations

import contextlib
import functools
import pickle
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from bench.agentdojo.synthetic import CALLS, Call

BENCHMARK: Final = "v1.2.2"


@dataclass(frozen=True, slots=True)
class Size:
    """How many user tasks a suite has, and how many pairs of a user task and a replayable injection task."""

    user_tasks: int
    pairs: int


# What a full run has to cover; a package that holds anything else makes the result invalid.
SIZES: Final[Mapping[str, Size]] = MappingProxyType(
    {"workspace": Size(40, 240), "travel": Size(20, 140), "banking": Size(16, 144), "slack": Size(21, 105)}
)


@dataclass(frozen=True, slots=True)
class Attack:
    """What a hijacked agent does for an injection task.

    Args:
        id: the injection task's.
        task: AgentDojo's injection task, whose check judges.
        calls: the calls, made from the environment in which the attack begins.
        words: what the agent says at the end; for some attacks that is all.
    """

    id: str
    task: Any
    calls: Callable[[Any], Sequence[Any]]
    words: str


@dataclass(frozen=True, slots=True)
class Finished:
    """What AgentDojo's checks look at: the environment before and after, the calls that ran, the final words."""

    before: Any
    after: Any
    trace: tuple[Any, ...]
    words: str


class Suite:
    """One of AgentDojo's suites.

    Attributes:
        name: as AgentDojo names it.
        functions: its tools.
        user_tasks: in the package's order.
        attacks: injection tasks that can be replayed, because the package holds calls or words for them.
        synthetic: injection tasks that the package ships without calls, with ours.
    """

    def __init__(self, suite: Any) -> None:
        self.name: str = suite.name
        self.functions: tuple[Any, ...] = tuple(suite.tools)
        self.user_tasks: tuple[Any, ...] = tuple(suite.user_tasks.values())
        self._suite = suite
        # Parsing the YAML takes a hundred times as long as reading a pickle.
        self._default = pickle.dumps(suite.load_and_inject_default_environment({}), pickle.HIGHEST_PROTOCOL)
        self._initial: dict[str, bytes] = {}
        self.attacks = self._replayable()
        self.synthetic = self._with_our_calls()

    def environment(self, user: Any) -> Any:
        """Return a new environment, as it stands when a user task begins."""
        if user.ID not in self._initial:
            initial = user.init_environment(pickle.loads(self._default))
            self._initial[user.ID] = pickle.dumps(initial, pickle.HIGHEST_PROTOCOL)
        return pickle.loads(self._initial[user.ID])

    def solved(self, user: Any, finished: Finished) -> bool:
        """Ask AgentDojo's utility check."""
        return self._checked(user, finished)

    def completed(self, attack: Attack, finished: Finished) -> bool:
        """Ask AgentDojo's security check whether the attacker's goal is reached."""
        return self._checked(attack.task, finished)

    def _checked(self, task: Any, finished: Finished) -> bool:
        from agentdojo.types import text_content_block_from_string

        words = [text_content_block_from_string(finished.words)]
        return bool(self._suite._check_task_result(task, words, finished.before, finished.after, finished.trace))

    def _replayable(self) -> tuple[Attack, ...]:
        found = (
            Attack(task.ID, task, task.ground_truth, task.GROUND_TRUTH_OUTPUT)
            for task in self._suite.injection_tasks.values()
        )
        default = pickle.loads(self._default)
        return tuple(attack for attack in found if attack.words or attack.calls(default))

    def _with_our_calls(self) -> tuple[Attack, ...]:
        shipped = {attack.id for attack in self.attacks}
        found = ((task, CALLS.get((self.name, task.ID))) for task in self._suite.injection_tasks.values())
        return tuple(
            Attack(task.ID, task, functools.partial(_function_calls, calls, task), task.GROUND_TRUTH_OUTPUT)
            for task, calls in found
            if calls is not None and task.ID not in shipped
        )


def _function_calls(calls: Callable[[Any, Any], Sequence[Call]], task: Any, environment: Any) -> Sequence[Any]:
    from agentdojo.functions_runtime import FunctionCall

    return [FunctionCall(function=tool, args=arguments) for tool, arguments in calls(task, environment)]


@functools.cache
def _suites() -> Mapping[str, Any]:
    # Its import brings the clients of every model vendor, some of which warn or print.
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        from agentdojo.task_suite.load_suites import get_suites

        found: Mapping[str, Any] = get_suites(BENCHMARK)
        return found


@functools.cache
def suite(name: str) -> Suite:
    """Load a suite of AgentDojo, once.

    Args:
        name: workspace, travel, banking or slack.
    """
    return Suite(_suites()[name])


def is_call(value: object) -> bool:
    """Tell whether an argument is itself a call, whose result is to be passed."""
    from agentdojo.functions_runtime import FunctionCall

    return isinstance(value, FunctionCall)
