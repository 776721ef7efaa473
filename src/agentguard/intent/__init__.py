"""The intent language: what one task may do, written by the application before untrusted data is read.

    Intent("Refund ticket 4711", step("refund.create", account="acme", amount=at_most("50")))

An intent is compiled once; `check` then tells for each call which steps admit it, or why none does. Deny is the
default, a forbid wins over every step, and what cannot be told is denied.
"""

from __future__ import annotations

from agentguard.intent.check import CompiledIntent, compile_intent, explain
from agentguard.intent.constraint import Constraint
from agentguard.intent.intent import Intent
from agentguard.intent.limits import Example, Examples, Limit, Limits, Otherwise
from agentguard.intent.links import find_link
from agentguard.intent.python_form import (
    absent,
    any_,
    at_least,
    at_most,
    between,
    date,
    each,
    email,
    eq,
    glob,
    in_,
    in_set,
    is_,
    items,
    keys,
    not_,
    optional,
    path,
    prefix,
    regex,
    same_as,
    template,
    text,
    url,
)
from agentguard.intent.python_sources import bind, from_, said
from agentguard.intent.sets import EnvSet, FileSet, ResolvedSet, ValueSet
from agentguard.intent.step import Forbid, Step, Times, Total, step
from agentguard.intent.truth import Facts, Truth
from agentguard.intent.verdict import Admitted, Option, Refused, StepExplanation, Verdict

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
