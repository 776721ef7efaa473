"""agentguard: every tool call of an agent is checked, recorded and given a credential of its own.

    with agentguard.local() as guard:
        with guard.task("support-bot", on_behalf_of="alice", intent=intent):
            agent.invoke(...)

Public names only, loaded when they are first used (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentguard.access import Caller as Caller
    from agentguard.access import CurrentCall as CurrentCall
    from agentguard.access import current_call as current_call
    from agentguard.access import current_credential as current_credential
    from agentguard.active import current_task as current_task
    from agentguard.clients.httpx import GuardAuth as GuardAuth
    from agentguard.config import load as load
    from agentguard.config import local as local
    from agentguard.errors import AgentguardError as AgentguardError
    from agentguard.errors import ApprovalRequired as ApprovalRequired
    from agentguard.errors import AuditUnavailable as AuditUnavailable
    from agentguard.errors import ConfigurationError as ConfigurationError
    from agentguard.errors import CredentialUnavailable as CredentialUnavailable
    from agentguard.errors import Denied as Denied
    from agentguard.guard import Guard as Guard
    from agentguard.intent import EnvSet as EnvSet
    from agentguard.intent import FileSet as FileSet
    from agentguard.intent import Intent as Intent
    from agentguard.intent import ResolvedSet as ResolvedSet
    from agentguard.intent import ValueSet as ValueSet
    from agentguard.intent import absent as absent
    from agentguard.intent import any_ as any_
    from agentguard.intent import at_least as at_least
    from agentguard.intent import at_most as at_most
    from agentguard.intent import between as between
    from agentguard.intent import bind as bind
    from agentguard.intent import date as date
    from agentguard.intent import each as each
    from agentguard.intent import email as email
    from agentguard.intent import eq as eq
    from agentguard.intent import from_ as from_
    from agentguard.intent import glob as glob
    from agentguard.intent import in_ as in_
    from agentguard.intent import in_set as in_set
    from agentguard.intent import is_ as is_
    from agentguard.intent import items as items
    from agentguard.intent import keys as keys
    from agentguard.intent import not_ as not_
    from agentguard.intent import optional as optional
    from agentguard.intent import path as path
    from agentguard.intent import prefix as prefix
    from agentguard.intent import regex as regex
    from agentguard.intent import said as said
    from agentguard.intent import same_as as same_as
    from agentguard.intent import step as step
    from agentguard.intent import template as template
    from agentguard.intent import text as text
    from agentguard.intent import url as url
    from agentguard.model.call import ToolSpec as ToolSpec
    from agentguard.model.credential import Credential as Credential
    from agentguard.model.decision import Decision as Decision
    from agentguard.model.decision import Reason as Reason
    from agentguard.task import Task as Task
    from agentguard.tools_file import load_tools as load_tools
    from agentguard.user import ITSELF as ITSELF
    from agentguard.user import User as User
    from agentguard.wrap import guard_tool as guard_tool
    from agentguard.wrap import guarded as guarded
    from agentguard.wrap import spec_of as spec_of

_ROOMS = {
    "access": "Caller CurrentCall current_call current_credential",
    "active": "current_task",
    "clients.httpx": "GuardAuth",
    "config": "load local",
    "errors": "AgentguardError ApprovalRequired AuditUnavailable ConfigurationError CredentialUnavailable Denied",
    "guard": "Guard",
    "intent": "EnvSet FileSet Intent ResolvedSet ValueSet absent any_ at_least at_most between bind date each email "
    "eq from_ glob in_ in_set is_ items keys not_ optional path prefix regex said same_as step template text url",
    "model.call": "ToolSpec",
    "model.credential": "Credential",
    "model.decision": "Decision Reason",
    "task": "Task",
    "tools_file": "load_tools",
    "user": "ITSELF User",
    "wrap": "guard_tool guarded spec_of",
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names.split()}

__all__ = sorted([*_HOME, "__version__"])  # noqa: PLE0605  # one list of names, kept above


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from agentguard._version import VERSION

        return VERSION
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'agentguard' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"agentguard.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
