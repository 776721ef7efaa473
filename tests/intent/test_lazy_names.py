"""The package's names are loaded when they are used, and are never hidden by a module that is called like one."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import agentguard
from agentguard import intent

MODULES = {module.name for module in pkgutil.iter_modules(intent.__path__)}


@pytest.mark.control("a public name is never a module")
def test_no_module_is_called_like_a_public_name_but_that_of_step() -> None:
    assert MODULES & (set(intent.__all__) | set(agentguard.__all__)) == {"step"}


@pytest.mark.parametrize("name", intent.__all__)
def test_name_is_found_and_listed(name: str) -> None:
    assert getattr(intent, name) is not None
    assert name in dir(intent)


def test_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'steps'"):
        intent.steps  # noqa: B018  # reading it is the test


def test_step_is_the_function_whatever_was_imported_first() -> None:
    code = "import agentguard.intent.step, agentguard\nprint(type(agentguard.intent.step), type(agentguard.step))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "<class 'function'> <class 'function'>\n"
