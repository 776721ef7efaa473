"""Parked tasks between real processes, in a file and in PostgreSQL; and people asked by a guard through a provider."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

import agentguard
from agentguard import ApprovalRequired, Denied, Guard
from agentguard._drive import drive
from agentguard.model.decision import Reason
from agentguard.model.record import Event
from tests.services.endpoints import Services
from tests.services.test_ciba import Phone, approver, phone, raw, threads
from tests.services.test_state_postgres import dsn
from tests.test_approvals import ASKS, Processes, refund
from tests.test_approvals import ran as refunds

__all__ = ["dsn", "phone", "raw", "threads"]  # fixtures of the neighbours

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
version: 1
agents:
  desk: {{owners: {{business: ann@bank.test}}, purpose: refunds, limits: {{calls: {{max: 50, per: 1h}}}}}}
tokens: {{local: {{key: tokens.pem, issuer: "https://agents.bank.test"}}}}
audit: {{dir: audit, pseudonym_key: {{file: key}}}}
approval: later
state: {{{state}, key: {{file: key}}}}
"""


class Place:
    """A configuration that several processes share."""

    def __init__(self, folder: Path, state: str) -> None:
        from agentguard.keys import SigningKey

        folder.chmod(0o700)
        (folder / "key").write_text("0123456789abcdef" * 4)
        (folder / "key").chmod(0o600)
        SigningKey.generate().write_pem_file(folder / "tokens.pem")
        self.config, self.ran = folder / "agentguard.yaml", folder / "ran"
        self.config.write_text(CONFIG.format(state=state))
        self.ran.touch()
        self._started: list[subprocess.Popen[str]] = []

    def start(self, what: str, last: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.services.parking_program", what, self.config, self.ran, last]
        process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._started.append(process)
        return process

    def parked(self, ttl: str = "10m") -> dict[str, Any]:
        """Park a task in a process that is killed then."""
        process = self.start("park", ttl)
        found = said(process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        return found

    def command(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "agentguard", "approvals", *arguments, "--config", str(self.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def approve(self, question: str) -> None:
        """Approve it as a person does: read the question, and give its code back."""
        shown = self.command("show", question)
        code = next(line.split()[1] for line in shown.splitlines() if line.startswith("code:"))
        self.command("approve", question, "--code", code)

    def used(self) -> tuple[str, ...]:
        """How many calls the agent has used up, and what is counted for the task."""
        with agentguard.load(self.config) as guard:
            return tuple(drive(guard.budgets.standing(["agent:desk/calls"])))

    def lines(self) -> list[str]:
        return self.ran.read_text().splitlines()

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait(10)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    state = "sqlite: state.db"
    if request.param == "postgres":
        at = request.getfixturevalue("dsn")
        with psycopg.connect(at, autocommit=True) as admin:
            for table in ("entries", "counters", "scopes"):
                admin.execute(sql.SQL("DELETE FROM agentguard.{}").format(sql.Identifier(table)))
        (tmp_path / "dsn").write_text(at)
        (tmp_path / "dsn").chmod(0o600)
        state = "postgres: {dsn: {file: dsn}}"
    made = Place(tmp_path, state)
    yield made
    made.close()


@pytest.mark.control("7 and 8 over a killed process")
def test_call_of_a_killed_process_is_approved_in_another_and_runs_in_a_third(place: Place) -> None:
    parked = place.parked()
    assert parked["outstanding"] == 0
    assert parked["question"] in place.command("list")
    place.approve(parked["question"])

    third = place.start("resume", parked["task"])
    said(third)
    go(third)

    assert said(third) == {
        "went_on": True, "paid": 3, "why": "budget_exhausted", "chain": "user:alice > desk",
    }  # fmt: skip
    assert sorted(place.lines()) == sorted(
        ["pay one", "pay two", "refund acme", "pay after 0", "pay after 1", "pay after 2"]
    )
    assert place.used() == ("6",)


@pytest.mark.control("8 of many processes one goes on")
def test_of_six_processes_that_resume_a_task_one_gets_it(place: Place) -> None:
    parked = place.parked()
    place.approve(parked["question"])
    processes = [place.start("resume", parked["task"]) for _ in range(6)]
    for process in processes:
        said(process)
    for process in processes:
        go(process)

    answers = [said(process) for process in processes]

    assert sorted(answer["went_on"] for answer in answers) == [False] * 5 + [True]
    assert {answer["why"] for answer in answers if not answer["went_on"]} == {"task_ended"}
    assert (len(place.lines()), place.lines().count("refund acme")) == (6, 1)
    assert place.used() == ("6",)


@pytest.mark.control("8 what nobody goes on with is given back")
def test_parked_task_that_nobody_resumes_gives_its_ceilings_counters_back(place: Place) -> None:
    parked = place.parked("4s")
    assert place.used() == ("3",)  # two ran, one waits
    time.sleep(4.5)

    with agentguard.load(place.config) as guard:
        end = time.monotonic() + 20
        while (found := drive(guard.budgets.standing(["agent:desk/calls"]))[0]) != "2":
            assert time.monotonic() < end, found
            guard.keeper.tick()
        with pytest.raises(Denied) as denied:
            guard.resume(parked["task"], on_behalf_of="alice")

    assert denied.value.reason == Reason.TASK_ENDED
    assert len(place.lines()) == 2


def test_process_that_is_killed_while_it_goes_on_takes_the_task_with_it(place: Place) -> None:
    parked = place.parked()
    place.approve(parked["question"])
    first = place.start("resume", parked["task"])
    said(first)
    go(first)
    assert said(first)["went_on"]
    first.send_signal(signal.SIGKILL)
    first.wait(10)

    second = place.start("resume", parked["task"])
    said(second)
    go(second)

    assert said(second) == {"went_on": False, "why": "task_ended"}
    assert place.lines().count("refund acme") == 1


# --- a guard that asks through a real provider ------------------------------------------------------------------------


@pytest.fixture
def shared() -> Processes:
    refunds.clear()
    made = Processes()
    made.clock = time.time  # type: ignore[assignment]  # the provider's clock is the real one
    return made


@pytest.fixture
def asking(services: Services, phone: Phone) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def of(**options: Any) -> Any:
        made.append(approver(services, login_hints={"operator": phone.person}, **options))
        return made[-1]

    yield of
    for one in made:
        one.close()


def pressed(phone: Phone, action: str) -> None:
    phone.press(action)
    time.sleep(1.1)  # no poll sooner than the provider allows


def gone_on_with(guard: Guard, task: str) -> None:
    """Make the call again, until the provider lets itself be asked."""
    end = time.monotonic() + 20
    while not refunds:
        assert time.monotonic() < end, "it was not approved"
        with suppress(ApprovalRequired), guard.resume(task, on_behalf_of="alice") as resumed:
            refund("acme", Decimal(40))
            resumed.park()
        time.sleep(0.5)


@pytest.mark.control("7 CIBA, waiting")
@pytest.mark.parametrize(("action", "runs"), [("approve", 1), ("deny", 0)])
def test_guard_waits_for_a_person_on_their_own_device(
    shared: Processes, threads: ThreadPoolExecutor, asking: Callable[..., Any], phone: Phone, action: str, runs: int
) -> None:
    def work() -> str:
        with guard.task("bot", on_behalf_of="alice", intent=ASKS):
            try:
                return refund("acme", Decimal(40))
            except Denied as denied:
                return denied.reason

    with shared.guard(approver=asking(), monotonic=time.monotonic) as guard:
        answer = threads.submit(work)
        phone.press(action)
        assert answer.result(30) == ("paid" if runs else "approval_rejected")

    (answered,) = shared.events(Event.APPROVAL_ANSWERED)
    assert (len(refunds), answered["question"]) == (runs, phone.shows()["auth_req_id"])
    assert answered["by"] == guard.pseudonym(f"{phone.raw.issuer}#{phone.person}")
    assert (phone.live(), shared.issuer.live) == (0, {})


@pytest.mark.control("7 CIBA, parked")
def test_call_waits_for_a_device_without_its_process_and_runs_in_another(
    shared: Processes, asking: Callable[..., Any], phone: Phone
) -> None:
    with shared.guard(approver=asking(block=False), monotonic=time.monotonic) as first:
        task = first.task("bot", on_behalf_of="alice", intent=ASKS)
        with pytest.raises(ApprovalRequired) as waits, task:
            refund("acme", Decimal(40))
        assert (waits.value.question, shared.issuer.live) == (phone.shows()["auth_req_id"], {})

    with shared.guard(approver=asking(block=False), monotonic=time.monotonic) as second:
        time.sleep(1.1)
        with pytest.raises(ApprovalRequired) as still, second.resume(task.id, on_behalf_of="alice"):
            refund("acme", Decimal(40))
        assert still.value.question == waits.value.question
        pressed(phone, "approve")
        gone_on_with(second, task.id)
        with pytest.raises(ApprovalRequired) as other, second.resume(task.id, on_behalf_of="alice"):
            refund("acme", Decimal(40))
        assert other.value.question != waits.value.question  # an approval is good once
    assert (len(refunds), phone.live()) == (1, 0)


@pytest.mark.control("7 CIBA, denied while parked")
def test_call_that_is_denied_on_the_device_meanwhile_does_not_run(
    shared: Processes, asking: Callable[..., Any], phone: Phone
) -> None:
    with shared.guard(approver=asking(block=False), monotonic=time.monotonic) as guard:
        task = guard.task("bot", on_behalf_of="alice", intent=ASKS)
        with pytest.raises(ApprovalRequired), task:
            refund("acme", Decimal(40))
        pressed(phone, "deny")
        with guard.resume(task.id, on_behalf_of="alice") as resumed, pytest.raises(Denied) as denied:
            refund("acme", Decimal(40))
    assert (refunds, denied.value.reason, resumed.counts.denied) == ([], Reason.APPROVAL_REJECTED, 1)


@pytest.mark.control("7 CIBA, suspended meanwhile")
def test_approval_of_a_task_that_was_suspended_meanwhile_is_not_used(
    shared: Processes, asking: Callable[..., Any], phone: Phone
) -> None:
    with shared.guard(approver=asking(block=False), monotonic=time.monotonic) as guard:
        task = guard.task("bot", on_behalf_of="alice", intent=ASKS)
        with pytest.raises(ApprovalRequired), task:
            refund("acme", Decimal(40))
        guard.suspend(task=task.id, why="lost")
        pressed(phone, "approve")
        with guard.resume(task.id, on_behalf_of="alice"), pytest.raises(Denied) as denied:
            refund("acme", Decimal(40))
    assert (refunds, denied.value.reason, shared.issuer.issued) == ([], Reason.SUSPENDED, [])
