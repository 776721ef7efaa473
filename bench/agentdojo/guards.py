"""What stands between the replayed agent and its tools: for each guard's name, the intent of a user task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from agentguard import Intent, any_, step
from bench.agentdojo.dojo import Suite, is_call
from bench.agentdojo.tools import Toolbox

# From a suite, one of its user tasks and its tools to the task's intent; None lets the tools run bare.
IntentOf: TypeAlias = Callable[[Suite, Any, Toolbox], Intent | None]
_OFTEN: Final = 1000


def bare(suite: Suite, user: Any, box: Toolbox) -> Intent | None:
    """No guard at all: what the attacks do to an agent without one."""
    return None


def tool_names(suite: Suite, user: Any, box: Toolbox) -> Intent | None:
    """Admit the tools that the user task needs, with any arguments: the tool list that every framework offers."""
    names = sorted(set(_names(user.ground_truth(suite.environment(user)))))
    steps = [
        step(name, **dict.fromkeys(box.tools[name].args, any_)).times(_OFTEN) for name in names if box.changes(name)
    ]
    reads = [name for name in names if not box.changes(name)]
    return Intent(user.PROMPT, *steps, name=f"{suite.name}.{user.ID}", reads=reads)


def _names(calls: Sequence[Any]) -> Iterator[str]:
    """The tools of some calls, and of the calls that are their arguments."""
    for call in calls:
        yield call.function
        yield from _names([value for value in call.args.values() if is_call(value)])


GUARDS: Final[Mapping[str, IntentOf]] = MappingProxyType({"none": bare, "tools": tool_names})
