"""The intent language: what one task may do, written by the application before untrusted data is read.

    Intent("Refund ticket 4711", step("refund.create", account="acme", amount=at_most("50")))

An intent is compiled once; `check` then tells for each call which steps admit it, or why none does. Deny is the
default, a forbid wins over every step, and what cannot be told is denied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from agentguard.intent.step import step

if TYPE_CHECKING:
    from agentguard.intent.check import CompiledIntent as CompiledIntent
    from agentguard.intent.check import compile_intent as compile_intent
    from agentguard.intent.check import explain as explain
    from agentguard.intent.constraint import Constraint as Constraint
    from agentguard.intent.forbid import Forbid as Forbid
    from agentguard.intent.intent import Intent as Intent
    from agentguard.intent.limits import Example as Example
    from agentguard.intent.limits import Examples as Examples
    from agentguard.intent.limits import Limit as Limit
    from agentguard.intent.limits import Limits as Limits
    from agentguard.intent.limits import Otherwise as Otherwise
    from agentguard.intent.links import find_link as find_link
    from agentguard.intent.python_form import absent as absent
    from agentguard.intent.python_form import any_ as any_
    from agentguard.intent.python_form import at_least as at_least
    from agentguard.intent.python_form import at_most as at_most
    from agentguard.intent.python_form import between as between
    from agentguard.intent.python_form import date as date
    from agentguard.intent.python_form import each as each
    from agentguard.intent.python_form import email as email
    from agentguard.intent.python_form import eq as eq
    from agentguard.intent.python_form import glob as glob
    from agentguard.intent.python_form import in_ as in_
    from agentguard.intent.python_form import in_set as in_set
    from agentguard.intent.python_form import is_ as is_
    from agentguard.intent.python_form import items as items
    from agentguard.intent.python_form import keys as keys
    from agentguard.intent.python_form import not_ as not_
    from agentguard.intent.python_form import optional as optional
    from agentguard.intent.python_form import path as path
    from agentguard.intent.python_form import prefix as prefix
    from agentguard.intent.python_form import regex as regex
    from agentguard.intent.python_form import same_as as same_as
    from agentguard.intent.python_form import template as template
    from agentguard.intent.python_form import text as text
    from agentguard.intent.python_form import url as url
    from agentguard.intent.python_sources import bind as bind
    from agentguard.intent.python_sources import from_ as from_
    from agentguard.intent.python_sources import said as said
    from agentguard.intent.sets import EnvSet as EnvSet
    from agentguard.intent.sets import FileSet as FileSet
    from agentguard.intent.sets import ResolvedSet as ResolvedSet
    from agentguard.intent.sets import ValueSet as ValueSet
    from agentguard.intent.step import Step as Step
    from agentguard.intent.step import Times as Times
    from agentguard.intent.step import Total as Total
    from agentguard.intent.truth import Facts as Facts
    from agentguard.intent.truth import Truth as Truth
    from agentguard.intent.verdict import Admitted as Admitted
    from agentguard.intent.verdict import Option as Option
    from agentguard.intent.verdict import Refused as Refused
    from agentguard.intent.verdict import StepExplanation as StepExplanation
    from agentguard.intent.verdict import Verdict as Verdict

# Loaded when they are first used (PEP 562), but for `step`: its module has the same name, and would be found instead.
# INVARIANT: no other module here is called like one of these names.
_ROOMS: Final = {
    "check": "CompiledIntent compile_intent explain",
    "constraint": "Constraint",
    "forbid": "Forbid",
    "intent": "Intent",
    "limits": "Example Examples Limit Limits Otherwise",
    "links": "find_link",
    "python_form": "absent any_ at_least at_most between date each email eq glob in_ in_set is_ items keys not_ "
    "optional path prefix regex same_as template text url",
    "python_sources": "bind from_ said",
    "sets": "EnvSet FileSet ResolvedSet ValueSet",
    "step": "Step Times Total",
    "truth": "Facts Truth",
    "verdict": "Admitted Option Refused StepExplanation Verdict",
}
_HOME: Final = {name: room for room, names in _ROOMS.items() for name in names.split()}

__all__ = [
    # what a task may do
    "Intent", "Step", "step", "Times", "Total", "Forbid", "Limit", "Limits", "Otherwise", "Example", "Examples",
    "ValueSet", "FileSet", "EnvSet", "ResolvedSet",
    # what an argument may be
    "Constraint", "absent", "any_", "at_least", "at_most", "between", "date", "each", "email", "eq",
    "glob", "in_", "in_set", "is_", "items", "keys", "not_", "optional", "path", "prefix", "regex", "same_as",
    "template", "text", "url", "bind", "from_", "said",
    # checking
    "compile_intent", "CompiledIntent", "Facts", "Verdict", "Admitted", "Option", "Refused",
    "explain", "StepExplanation", "Truth", "find_link",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'agentguard.intent' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"agentguard.intent.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
