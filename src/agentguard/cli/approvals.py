"""`agentguard approvals list | show | approve | deny`: what waits for a person, and the answers."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agentguard._drive import drive
from agentguard.approval.message import message
from agentguard.approval.prompt import system_user
from agentguard.approval.separation import not_allowed
from agentguard.cli.output import FAILED, OK, complain, count, say, say_json
from agentguard.errors import ConfigurationError
from agentguard.ports import Answer, Approval, Verdict

if TYPE_CHECKING:
    from agentguard.guard import Guard
    from agentguard.ports import Question

_NO_STATE: Final = (
    "{} has no `state`, so questions are known to their own process only; write state: {{sqlite: FILE, key: ...}}"
)


def add(commands: Any) -> None:
    """Add `approvals`."""
    text = "What waits for a person: list it, look at one question, approve or deny it."
    approvals = commands.add_parser("approvals", help="answer what waits for a person", description=text)
    kinds = approvals.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listed = kinds.add_parser("list", help="list what waits", description="List the questions that are open.")
    listed.add_argument("--json", action="store_true", help="print one JSON object")
    listed.set_defaults(run=run_list)
    show = kinds.add_parser("show", help="show one question", description="Show a question, and what became of it.")
    show.add_argument("--json", action="store_true", help="print one JSON object")
    show.set_defaults(run=run_show)
    text = "Approve a call: it may run once, with exactly the arguments that are shown."
    approve = kinds.add_parser("approve", help="approve a call, once", description=text)
    approve.add_argument("--code", metavar="CODE", help="the code that `show` ends with, instead of typing yes")
    approve.set_defaults(run=run_approve)
    deny = kinds.add_parser("deny", help="deny a call", description="Deny a call.")
    deny.set_defaults(run=run_deny)
    for parser in (show, approve, deny):
        parser.add_argument("question", metavar="QUESTION", help="its id")
    for parser in (listed, show, approve, deny):
        parser.add_argument("--config", type=Path, default=Path("agentguard.yaml"), metavar="FILE")


def guard_of(config: Path) -> Guard:
    """Load the configuration.

    Raises:
        ConfigurationError: it is wrong, or shares no state, so there is no question of another process.
    """
    from agentguard.config import load
    from agentguard.state.approvals_memory import MemoryApprovals

    guard = load(config)
    if isinstance(guard.approvals, MemoryApprovals):
        guard.close()
        raise ConfigurationError(_NO_STATE.format(config))
    return guard


def run_list(arguments: argparse.Namespace) -> int:
    """List the open questions, the oldest first."""
    with guard_of(arguments.config) as guard:
        questions = drive(guard.approvals.open(time.time()))
    if arguments.json:
        say_json({"questions": [members(question) for question in questions]})
        return OK
    for question in questions:
        request = question.request
        say(f"{question.id}  {request.tool}  {request.chain}  until {_instant(question.expires_at)}")
    say(f"{count(len(questions), 'question')} open" if questions else "nothing waits for a person")
    return OK


def run_show(arguments: argparse.Namespace) -> int:
    """Show one question."""
    with guard_of(arguments.config) as guard:
        question = _found(guard, arguments.question)
    if arguments.json:
        say_json(members(question))
        return OK
    _show(question)
    say(f"verdict:   {question.verdict}" + (f" by {question.by}" if question.by else ""))
    return OK


def run_approve(arguments: argparse.Namespace) -> int:
    """Approve one call; the status is 1 where the answer does not count."""
    with guard_of(arguments.config) as guard:
        question = _found(guard, arguments.question)
        by = system_user()
        _show(question)
        if why := not_allowed(Approval(Answer.APPROVED, by), question.request, guard.not_by):
            complain(f"agentguard: {by} cannot approve it: {why}")
            return FAILED
        if not _meant(question, arguments.code):
            return FAILED
        return _answer(guard, question, Verdict.APPROVED, by)


def run_deny(arguments: argparse.Namespace) -> int:
    """Deny one call; the status is 1 where the answer does not count."""
    with guard_of(arguments.config) as guard:
        return _answer(guard, _found(guard, arguments.question), Verdict.REJECTED, system_user())


def _found(guard: Guard, identifier: str) -> Question:
    question = drive(guard.approvals.find(identifier, time.time()))
    if question is None:
        raise ConfigurationError(f"there is no question {identifier[:80]!r}; see: agentguard approvals list")
    return question


def _show(question: Question) -> None:
    for line in message(question.request).splitlines():
        say(line)


def _meant(question: Question, code: str | None) -> bool:
    """INVARIANT: nothing is approved that was not shown: yes is typed below it, or its code was read off it."""
    from agentguard.approval.message import code as code_of

    if code is not None:
        if code == code_of(question.request):
            return True
        complain("agentguard: the code is of other arguments; look again: agentguard approvals show")
        return False
    if not sys.stdin.isatty():
        complain("agentguard: no terminal to type yes at; look at the question, and give its code: --code CODE")
        return False
    with suppress(EOFError):
        if input("type yes to approve it: ").strip() == "yes":
            return True
    complain("agentguard: it was not approved, and waits on")
    return False


def _answer(guard: Guard, question: Question, verdict: Verdict, by: str) -> int:
    if guard.answer(question.id, approved=verdict is Verdict.APPROVED, by=by):
        say(f"{question.id} is {verdict} by {by}")
        return OK
    now = drive(guard.approvals.find(question.id, time.time()))
    complain(f"agentguard: {question.id} is {now.verdict if now else 'gone'} already; the answer does not count")
    return FAILED


def members(question: Question) -> dict[str, Any]:
    """A question as JSON: what the person sees, and where it stands."""
    whole: dict[str, Any] = json.loads(msgspec.json.encode(question))
    return {key: value for key, value in whole.items() if key != "binding"}


def _instant(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
