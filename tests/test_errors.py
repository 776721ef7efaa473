"""What is raised on purpose crosses from one process to another."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from agentguard import errors
from agentguard.model.decision import Decision, Miss, Outcome, Reason

DENIAL = Decision(outcome=Outcome.DENY, reason=Reason.NO_TASK, tool="pay", miss=Miss(text="no task is active here"))


@pytest.mark.parametrize("passed", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigurationError("wrong", ("first", "second")),
        errors.Denied(DENIAL),
        errors.Denied(DENIAL, public="not now"),
        errors.ApprovalRequired(DENIAL, "q1"),
        errors.NotCanonical("filters.after[0]", "a float"),
        errors.AuditUnavailable("disk full"),
        errors.TokenRejected("insufficient_scope", "too narrow"),
        errors.AuditBroken(17, "another hash"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_is_the_same_after_it_crossed(error: errors.AgentguardError, passed: Callable[[Any], Any]) -> None:
    again = passed(error)

    assert (type(error), str(error), error.args, vars(error)) == (type(again), str(again), again.args, vars(again))
