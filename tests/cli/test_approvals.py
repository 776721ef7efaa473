"""The `agentguard approvals` command, beside a guard whose task waits for a person."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import agentguard
from agentguard import ApprovalRequired, Denied, Guard, Intent, any_, guarded, step
from agentguard.cli import approvals as command
from agentguard.cli.main import main

Captured = pytest.CaptureFixture[str]
Run = Callable[..., tuple[int, str]]
CONFIG = """\
version: 1
agents: {desk: {owners: {business: ann@bank.test}, purpose: answers}}
audit: {dir: audit, pseudonym_key: {file: key}}
approval: later
"""
STATE = "state: {sqlite: state.db, key: {file: key}}\n"
ASKS = Intent("Pay", step("cli.pay", account=any_).times(2).then_ask())
ran: list[str] = []


@guarded("cli.pay")
def pay(account: str) -> str:
    ran.append(account)
    return "paid"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    ran.clear()
    tmp_path.chmod(0o700)
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "agentguard.yaml").write_text(CONFIG + STATE)
    return tmp_path / "agentguard.yaml"


@pytest.fixture
def guard(config: Path) -> Iterator[Guard]:
    with agentguard.load(config) as made:
        yield made


@pytest.fixture
def waiting(guard: Guard) -> tuple[str, str]:
    """A task that waits, and its question."""
    task = guard.task("desk", on_behalf_of="alice", intent=ASKS)
    with pytest.raises(ApprovalRequired) as waits, task:
        pay("acme\u202e")
    return task.id, waits.value.question


@pytest.fixture
def run(config: Path, capsys: Captured) -> Run:
    """Run a command on the configuration; return its status and all that it printed."""

    def of(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        status = main(["approvals", *arguments, "--config", str(config)])
        said = capsys.readouterr()
        return status, said.out + said.err

    return of


def code_of(run: Run, question: str) -> str:
    _, said = run("show", question)
    return next(line.split()[1] for line in said.splitlines() if line.startswith("code:"))


def test_open_questions_are_listed_and_one_is_shown_without_tricks(run: Run, waiting: tuple[str, str]) -> None:
    _, question = waiting
    status, said = run("list")
    assert (status, question in said, "cli.pay" in said) == (0, True, True)
    status, said = run("show", question)
    assert (status, "user:alice > desk" in said, "\u202e" in said, "\\u{202e}" in said) == (0, True, False, True)
    (listed,) = json.loads(run("list", "--json")[1])["questions"]
    assert (listed["id"], listed["verdict"], "binding" in listed) == (question, "open", False)


@pytest.mark.control("7 approved at a terminal by what was shown")
def test_call_runs_after_it_was_approved_by_its_code(guard: Guard, run: Run, waiting: tuple[str, str]) -> None:
    task, question = waiting
    status, said = run("approve", question, "--code", "00000000")
    assert (status, "of other arguments" in said) == (1, True)
    with pytest.raises(ApprovalRequired), guard.resume(task, on_behalf_of="alice"):
        pay("acme\u202e")
    assert run("approve", question, "--code", code_of(run, question))[0] == 0
    with guard.resume(task, on_behalf_of="alice"):
        pay("acme\u202e")
    status, said = run("approve", question, "--code", code_of(run, question))
    assert (ran, status, "used" in said) == (["acme\u202e"], 1, True)
    assert "verdict:   used by os:" in run("show", question)[1]


@pytest.mark.control("7 nothing is approved without a look")
def test_nothing_is_approved_where_nobody_can_type_yes(run: Run, waiting: tuple[str, str]) -> None:
    status, said = run("approve", waiting[1])
    assert (status, "no terminal" in said) == (1, True)


def ended(text: str) -> str:
    raise EOFError


def test_yes_is_typed_at_a_terminal(run: Run, waiting: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: "y")
    assert run("approve", waiting[1])[0] == 1
    monkeypatch.setattr("builtins.input", ended)
    assert run("approve", waiting[1])[0] == 1
    monkeypatch.setattr("builtins.input", lambda text: "yes")
    assert run("approve", waiting[1])[0] == 0


def test_denied_call_does_not_run(guard: Guard, run: Run, waiting: tuple[str, str]) -> None:
    task, question = waiting
    assert run("deny", question)[0] == 0
    assert run("list") == (0, "nothing waits for a person\n")
    with guard.resume(task, on_behalf_of="alice"), pytest.raises(Denied) as denied:
        pay("acme\u202e")
    assert (ran, denied.value.reason) == ([], "approval_rejected")


@pytest.mark.control("7 the subject does not approve at a terminal")
def test_subject_of_the_task_cannot_approve_it(
    run: Run, waiting: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = code_of(run, waiting[1])
    monkeypatch.setattr(command, "system_user", lambda: "os:alice")
    status, said = run("approve", waiting[1], "--code", code)
    assert (status, "the subject must not approve" in said) == (1, True)


def test_what_is_no_question_is_an_error(run: Run, guard: Guard) -> None:
    status, said = run("show", "q-nothing")
    assert (status, "there is no question 'q-nothing'" in said) == (2, True)


def test_configuration_without_a_state_is_refused(config: Path, run: Run) -> None:
    config.write_text(CONFIG)
    status, said = run("list")
    assert (status, "has no `state`" in said) == (2, True)


def test_answers_stand_in_the_audit_log(config: Path, run: Run, waiting: tuple[str, str]) -> None:
    run("approve", waiting[1], "--code", code_of(run, waiting[1]))
    lines = [line for file in sorted((config.parent / "audit").glob("*")) for line in file.read_text().splitlines()]
    answered = [json.loads(line) for line in lines if "approval.answered" in line]
    assert [(one["question"], one["answer"]) for one in answered] == [(waiting[1], "approved")]
    assert answered[0]["by"].startswith("u:")
