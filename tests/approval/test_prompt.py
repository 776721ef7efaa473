"""The prompt on a real pseudo-terminal: only `yes`, typed after the question was shown, approves."""

from __future__ import annotations

import io
import os
import pty
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import anyio
import pytest

from agentguard._drive import drive
from agentguard.approval import prompt as prompting
from agentguard.approval.prompt import Prompt, system_user, wrapped
from agentguard.errors import ConfigurationError
from agentguard.ports import Answer, Approval, Approver
from tests.approval.asked import question

TYPE_YES = "Type yes to approve"


class Person:
    """Somebody at the other end of a terminal."""

    def __init__(self) -> None:
        self.far, near = pty.openpty()
        self.near = os.fdopen(near, "w", encoding="utf-8")
        self.seen = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with suppress(OSError):
            while part := os.read(self.far, 4096):
                self.seen += part.decode(errors="replace")

    def sees(self, text: str, times: int = 1) -> None:
        end = time.monotonic() + 10
        while self.seen.count(text) < times:
            assert time.monotonic() < end, self.seen
            time.sleep(0.01)

    def types(self, text: str) -> None:
        os.write(self.far, text.encode())

    def prompt(self, **options: Any) -> Prompt:
        return Prompt(self.near, self.near, **options)

    def leave(self) -> None:
        self.near.close()
        self._thread.join(5)
        os.close(self.far)


@pytest.fixture
def person() -> Iterator[Person]:
    one = Person()
    yield one
    one.leave()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def asked(person: Person, threads: ThreadPoolExecutor, typed: str, **fields: Any) -> Approval:
    answer = threads.submit(lambda: drive(person.prompt().ask(question(**fields))))
    person.sees(TYPE_YES)
    person.types(typed)
    return answer.result(10)


def test_the_typed_word_approves_in_the_name_of_the_systems_user(person: Person, threads: ThreadPoolExecutor) -> None:
    approval = asked(person, threads, "yes\n")

    assert Approval(Answer.APPROVED, system_user(), "call-1") == approval
    assert approval.by.startswith("os:")
    person.sees("approved")


@pytest.mark.control("only yes approves")
@pytest.mark.parametrize("typed", ["no\n", "\n", "y\n", "YES\n", "yes!\n", "yesyes\n", "ye\ns\n", "\x04", "yes" * 400])
def test_anything_else_rejects(person: Person, threads: ThreadPoolExecutor, typed: str) -> None:
    approval = asked(person, threads, typed, expires_at=time.time() + 1.5)

    assert Answer.REJECTED is approval.answer


def test_the_person_sees_the_whole_question(person: Person, threads: ThreadPoolExecutor) -> None:
    asked(person, threads, "no\n")

    for text in ("user:alice > support-bot > researcher", "Refund ticket 4711", '    account: "acme"', "1a2b3c4d"):
        assert text in person.seen


@pytest.mark.control("only yes approves")
def test_what_was_typed_before_the_question_does_not_count(person: Person) -> None:
    person.types("yes\n")
    time.sleep(0.1)

    approval = drive(person.prompt().ask(question(expires_at=time.time() + 0.6)))

    assert Answer.REJECTED is approval.answer


def test_no_answer_in_time_is_a_rejection(person: Person) -> None:
    began = time.monotonic()

    approval = drive(person.prompt().ask(question(expires_at=time.time() + 0.3)))

    assert (Answer.REJECTED, "nobody: no answer in time") == (approval.answer, approval.by)
    assert time.monotonic() - began < 5
    person.sees("rejected")


@pytest.mark.parametrize("expires_at", [0.0, 1.0, float("nan")])
def test_a_question_that_has_expired_is_not_shown(person: Person, expires_at: float) -> None:
    approval = drive(person.prompt().ask(question(expires_at=expires_at)))

    assert ("nobody: the question has expired", "") == (approval.by, person.seen)


@pytest.mark.control("only yes approves")
def test_without_a_terminal_nobody_is_asked(person: Person, tmp_path: Any) -> None:
    with (tmp_path / "in").open("w+") as file:
        for streams in ((io.StringIO("yes\n"), person.near), (file, person.near), (person.near, file)):
            approval = drive(Prompt(*streams).ask(question()))
            assert (Answer.REJECTED, "nobody: no terminal") == (approval.answer, approval.by)
    assert "" == person.seen


def test_a_closed_stream_is_no_terminal(person: Person) -> None:
    closed = io.StringIO()
    closed.close()

    assert "nobody: no terminal" == drive(Prompt(closed, person.near).ask(question())).by


def test_a_terminal_that_goes_away_is_a_rejection(threads: ThreadPoolExecutor) -> None:
    far, near = pty.openpty()
    with os.fdopen(near, "w", encoding="utf-8") as stream:
        answer = threads.submit(lambda: drive(Prompt(stream, stream).ask(question())))
        seen = b""
        while TYPE_YES.encode() not in seen:
            seen += os.read(far, 4096)

        os.close(far)

        assert (Answer.REJECTED, "nobody: the terminal is gone") == (answer.result(10).answer, answer.result().by)


@pytest.mark.control("only yes approves")
def test_threads_are_asked_one_after_the_other(person: Person, threads: ThreadPoolExecutor) -> None:
    prompt = person.prompt()
    answers = [
        threads.submit(lambda request: drive(prompt.ask(request)), question(purpose=f"Purpose {number}"))
        for number in range(3)
    ]

    said = {}
    for number, word in enumerate(("yes", "no", "yes"), 1):
        person.sees(TYPE_YES, number)
        time.sleep(0.1)
        assert number == person.seen.count(TYPE_YES)
        said[person.seen.rpartition("Purpose ")[2][0]] = word
        person.types(word + "\n")

    for number, answer in enumerate(answers):
        expected = Answer.APPROVED if said[str(number)] == "yes" else Answer.REJECTED
        assert expected is answer.result(10).answer


@pytest.mark.anyio
async def test_the_event_loop_goes_on_while_a_person_thinks(person: Person) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while ticks < 5:
            await anyio.sleep(0.02)
            ticks += 1
        person.types("yes\n")

    async with anyio.create_task_group() as group:
        prompt = person.prompt(by="ann")
        group.start_soon(tick)
        approval = await prompt.ask(question())

    assert (Answer.APPROVED, "ann", 5) == (approval.answer, approval.by, ticks)


@pytest.mark.anyio
@pytest.mark.control("only yes approves")
async def test_a_question_that_was_cancelled_takes_no_answer_of_the_next_one(person: Person) -> None:
    prompt = person.prompt()
    with anyio.move_on_after(0.3):
        await prompt.ask(question(purpose="First"))
    person.types("yes\n")  # for a question that nobody asks any more
    await anyio.sleep(0.3)

    answer: list[Approval] = []

    async def second() -> None:
        answer.append(await prompt.ask(question(purpose="Second", expires_at=time.time() + 5)))

    async with anyio.create_task_group() as group:
        group.start_soon(second)
        await anyio.to_thread.run_sync(lambda: person.sees(TYPE_YES, 2))
        person.types("no\n")

    assert Answer.REJECTED is answer[0].answer


@pytest.mark.anyio
@pytest.mark.control("only yes approves")
async def test_a_question_that_was_cancelled_does_not_hold_the_terminal(person: Person) -> None:
    prompt = person.prompt()
    with anyio.move_on_after(0.3):
        await prompt.ask(question(purpose="First"))

    approval = await prompt.ask(question(purpose="Second", expires_at=time.time() + 2))

    assert Answer.REJECTED is approval.answer
    assert "Second" in person.seen


def test_a_child_process_does_not_wait_for_a_prompt_of_its_parent() -> None:
    lock = prompting._Terminal.lock
    with lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if prompting._Terminal.lock.acquire(timeout=1) else 1)
        _, status = os.waitpid(child, 0)

    assert 0 == os.waitstatus_to_exitcode(status)


def test_a_value_that_goes_over_the_edge_of_the_screen_begins_no_line_of_ours() -> None:
    rows = list(wrapped("purpose:   " + "x" * 69 + "owner:     boss\nowner:     ann\n", 80))

    assert ["purpose:   " + "x" * 68, "      | xowner:     boss", "owner:     ann"] == rows
    assert all(len(row) <= 79 for row in wrapped("y" * 1000, 80))
    assert ["\uff21" * 39, "      | \uff21"] == list(wrapped("\uff21" * 40, 80))


def test_a_prompt_is_an_approver_that_a_synchronous_task_may_have() -> None:
    assert isinstance(Prompt(), Approver)
    assert (Prompt.suspends, Prompt.waits) == (False, True)
    with pytest.raises(ConfigurationError, match="names who answers"):
        Prompt(by=" ")
