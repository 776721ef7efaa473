"""What stands between the replayed agent and its tools: for each guard's name, the intent of a user task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from agentguard import Intent, any_, step
from bench.agentdojo.dojo import Suite, is_call
from bench.agentdojo.tools import Toolbox

# From a suite, one of its user tasks and its tools to the task's intent; None lets the tools run bare.
IntentOf: TypeAlias = Callable[[Suite, Any, Toolbox], Intent | None]
_OFTEN: Final = 1000
_INTENTS: Final = Path(__file__).parent / "intents"


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


def written(suite: Suite, user: Any, box: Toolbox) -> Intent | None:
    """Load the intent that was written by hand from the user task's prompt; None where there is no file."""
    file = _INTENTS / suite.name / f"{user.ID}.yaml"
    return Intent.load(file) if file.is_file() else None


def declared(guard: str, suite: str) -> Path | None:
    """Return the folder with the tools files that belong to a guard's intents; None for the usual ones."""
    return _INTENTS if guard == "intents" and (_INTENTS / suite / "tools.yaml").is_file() else None


GUARDS: Final[Mapping[str, IntentOf]] = MappingProxyType({"none": bare, "tools": tool_names, "intents": written})
