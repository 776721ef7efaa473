"""Values of calls are kept as the guard was told: redacted, recorded apart, hashed under a rotated key."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import agentguard
from agentguard import ConfigurationError, Denied, Guard, Intent, any_, current_credential, guarded, step
from agentguard.audit.memory import MemoryLog
from agentguard.audit.pseudonyms import Pseudonyms, read_file, rotate
from agentguard.audit.recording_file import Recording
from agentguard.audit.redaction import Redactor
from agentguard.facts import call_facts
from agentguard.model.decision import Decision, Miss, Outcome, Reason
from agentguard.model.principal import Identity, Proof
from agentguard.model.record import Event, Record
from agentguard.recording import call_record, denial_fields
from agentguard.running import Running, undecided
from agentguard.task import Task
from agentguard.testing import fake_guard

redacts = pytest.mark.control("the redactor")
hidden = pytest.mark.control("the recording holds no secret")
MAIL, IBAN, PIN = "ann@bank.test", "DE02120300000000202051", "pin-canary-4711"


@guarded("values.send", record=["to", "text"], secret=["pin"], audience="https://api.test", scopes=["x"])
def send(to: str, text: Any, pin: str, how: str = "") -> Any:
    """Return, raise or give away what it holds."""
    if how == "raise":
        raise ValueError(MAIL)
    return {"sent": to, "token": current_credential().token} if how == "leak" else {"sent": to}


@guarded("values.stream", effect="read")
def parts(count: int) -> Iterator[str]:
    """Stream some parts."""
    yield from map(str, range(count))


def intent() -> Intent:
    return Intent("Send", step("values.send", to=any_, text=any_, pin=any_, how=any_).times(9), reads=["values.stream"])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()][1:]


@redacts
def test_values_in_records_and_explanations_go_through_the_redactor() -> None:
    with fake_guard(redactor=Redactor()) as guard, guard.task("bot", on_behalf_of="alice", intent=intent()):
        send(MAIL, {"deep": [f"to {IBAN}"], "password": "pw"}, PIN)
        assert isinstance(guard.audit, MemoryLog)
        [record] = [each for each in guard.audit.records if each["event"] == "call.permitted"]
        said = str(guard.explain())
    assert {
        "to": "[redacted: email]", "text": {"deep": ["to [redacted: iban]"], "password": "[redacted: secret]"}
    } == record["arguments"]  # fmt: skip
    assert "[redacted: email]" in said
    assert not [word for word in (MAIL, IBAN, "pw", PIN) if word in said]


@redacts
def test_value_is_redacted_before_it_is_cut_for_an_explanation() -> None:
    with fake_guard(redactor=Redactor()) as guard, guard.task("bot", on_behalf_of="alice", intent=intent()):
        send("x" * 70 + " " + IBAN, "", PIN)
        assert "DE02" not in str(guard.explain())


shared = pytest.mark.control("a shared decision is told from every other")
SAME = Decision(
    outcome=Outcome.DENY, reason=Reason.ARGUMENT_VIOLATION, tool="values.stream", steps=("a",), level="bot",
    miss=Miss(step="s", argument="a", kind="eq"),
)  # fmt: skip
OTHERS = (
    replace(SAME, outcome=Outcome.ASK), replace(SAME, reason=Reason.BUDGET_EXHAUSTED), replace(SAME, steps=("b",)),
    replace(SAME, level="subject:user:ann"), replace(SAME, miss=replace(SAME.miss, step="t")),
    replace(SAME, miss=replace(SAME.miss, argument="b")), replace(SAME, miss=replace(SAME.miss, kind="in")),
)  # fmt: skip


def said(record: Record) -> dict[str, Any]:
    return record.whole()


def not_decided(guard: Guard, task: Task, tool: Any = parts) -> Running:
    running = Running(guard, task, tool.__agentguard__, guard.next_id(), undecided("parts"))
    running.span = guard.telemetry.start_call("", {}, {})
    return running


@shared
@pytest.mark.parametrize("event", [Event.CALL_PERMITTED, Event.CALL_DENIED])
@pytest.mark.parametrize("other", OTHERS)
def test_record_of_a_decision_says_that_decision_after_another_one(other: Decision, event: Event) -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=intent()) as task:
        for decision in (SAME, other, SAME):
            running = not_decided(guard, task)
            running.decision, found = decision, {**call_facts(guard, task, running.tool.spec), "question": "q"}
            found |= {"call": running.call.id, "arguments_hash": ""}
            if event is Event.CALL_DENIED:
                found |= denial_fields(decision, guard.stopping.public)
            else:
                found |= {"outcome": "permit", "reason": str(decision.reason), "steps": list(decision.steps)}

            assert found == said(call_record(running, event, {"question": "q"}))


@shared
def test_records_of_a_decision_about_two_tools_name_their_tools() -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=intent()) as task:
        for tool, event in itertools.product((parts, send), (Event.CALL_PERMITTED, Event.CALL_DENIED)):
            found = said(call_record(not_decided(guard, task, tool), event, {}))

            assert tool.__agentguard__.spec.name == found["tool"]
            assert (event is Event.CALL_DENIED) == ("miss" in found)


def test_decisions_that_a_task_knows_are_bounded() -> None:
    with fake_guard() as guard, guard.task("bot", on_behalf_of="alice", intent=intent()) as task:
        running = not_decided(guard, task)
        for number in range(200):
            running.decision = replace(SAME, miss=Miss(argument=f"made_up_{number}"))
            call_record(running, Event.CALL_DENIED, {})

            assert len(task.cache["decided"]) <= 32


def test_subject_of_a_stop_is_recorded_by_its_pseudonym_only() -> None:
    for level in ("subject:user:ann", "chain:user:ann>bot", "chain:user:ann"):
        with fake_guard() as guard:
            fields = denial_fields(replace(SAME, level=level), guard.stopping.public)

            assert guard.stopping.public(level) == fields["level"]
            assert "ann" not in str(fields)


@hidden
def test_calls_are_recorded_apart_with_results_and_without_secrets(tmp_path: Path) -> None:
    with fake_guard(recording=Recording(tmp_path / "calls", results=True)) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=intent()) as task:
            send(MAIL, IBAN, PIN)
            send("bob", "hi", PIN, "leak")
            with pytest.raises(ValueError, match=MAIL):
                send("bob", "hi", PIN, "raise")
            list(parts(2))
            with pytest.raises(Denied):
                send(MAIL, {IBAN}, PIN)
    done, leaked, raised, streamed, denied = lines(tmp_path / "calls")
    assert {"to": "[redacted: email]", "text": "[redacted: iban]", "how": ""} == done["args"]
    assert (["pin"], {"sent": "[redacted: email]"}, "completed") == (done["secret"], done["result"], done["ended"])
    assert (task.id, "bot", "send", "permit") == (done["task"], done["agent"], done["intent"], done["outcome"])
    assert ("failed", "ValueError") == (raised["ended"], raised["error"])
    assert "values.stream" == streamed["tool"]
    assert ("deny", "invalid_arguments", {}) == (denied["outcome"], denied["reason"], denied["args"])
    text = (tmp_path / "calls").read_text()
    assert not [word for word in (MAIL, IBAN, PIN, "canary-lease", "alice") if word in text]
    assert "[redacted: secret]" == leaked["result"]["token"]


def test_recording_that_fails_is_in_no_call_s_way(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "calls")
    recording.close()
    with fake_guard(recording=recording) as guard, guard.task("bot", on_behalf_of="alice", intent=intent()):
        assert {"sent": "bob"} == send("bob", "", PIN)


def test_hashes_of_a_guard_carry_the_generation_of_its_key(tmp_path: Path) -> None:
    rotate(tmp_path / "keys")
    keys = rotate(tmp_path / "keys")
    with fake_guard(pseudonym_key=keys) as guard, guard.task("bot", on_behalf_of="alice", intent=intent()):
        send("bob", "", PIN)
        assert isinstance(guard.audit, MemoryLog)
        [record] = [each for each in guard.audit.records if each["event"] == "call.permitted"]
    assert (keys.of("user:alice"), ".2") == (record["subject"], record["arguments_hash"][-2:])
    assert keys.of("user:alice") == record["delegation"][0]


AGENTS = """
version: 1
agents: {bot: {owners: {business: a, identity: b, control: c}, purpose: p, tools: [values.send, values.stream]}}
"""


def loaded(folder: Path, audit: str) -> Guard:
    (folder / "agentguard.yaml").write_text(f"{AGENTS}audit: {{dir: log, pseudonym_key: {{file: keys}}{audit}}}\n")
    return agentguard.load(folder / "agentguard.yaml")


def test_file_names_redactor_recording_and_rotated_keys(tmp_path: Path) -> None:
    rotate(tmp_path / "keys")
    said = """, redact: {patterns: [email], members: [salary], expressions: {ticket: 'TCK-\\d+'},
      texts: {project: [Heron]}}, recording: {file: calls, results: true, keep: 2}"""
    with loaded(tmp_path, said) as guard:
        assert guard.redactor is not None
        assert ("email", "ticket", "project") == guard.redactor.names
        assert "[redacted: secret]" == guard.redactor.member("salary", 7)
        assert guard.pseudonym("alice") == Pseudonyms.parse(read_file(tmp_path / "keys")).of("alice")
    assert (tmp_path / "calls").exists()
    with loaded(tmp_path, "") as guard:
        assert (None, None) == (guard.redactor, guard.recording)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (", redact: {patterns: [iabn]}", "no pattern is called 'iabn'"),
        (", redact: {expressions: {ticket: '(a)\\1'}}", "RE2 refuses"),
        (", recording: {keep: 2}", "file"),
        (", recording: {file: calls, keep: 200}", "keep"),
    ],
)
def test_mistakes_of_the_file_are_said_where_they_stand(said: str, why: str, tmp_path: Path) -> None:
    rotate(tmp_path / "keys")
    with pytest.raises(ConfigurationError, match=r"agentguard\.yaml") as refused:
        loaded(tmp_path, said)
    assert why in str(refused.value)
    assert not (tmp_path / "calls").exists()


class Proves:
    """Proves whoever it is told to."""

    suspends = False
    name = "spiffe://bank.test/one"

    async def identify(self, now: float) -> Identity:
        return Identity(self.name, Proof.ATTESTED, math.inf)


@pytest.mark.parametrize("recorded", [False, True])
def test_task_that_is_opened_again_is_recorded_with_who_was_proved_then(
    recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    proves = Proves()
    with fake_guard(authenticator=proves) as guard:
        task = guard.task("bot", on_behalf_of="alice", intent=intent())
        if recorded:
            with task:
                list(parts(1))
                task.park()
        else:
            with monkeypatch.context() as patch, pytest.raises(Denied):
                patch.setattr(guard.records, "append", lambda record: 1 / 0)
                task.__enter__()
        proves.name = "spiffe://bank.test/two"
        before = len(guard.audit.records)  # type: ignore[attr-defined]  # a MemoryLog
        with task:
            list(parts(1))
        found = [each["agent_identity"] for each in guard.audit.records[before:] if "agent_identity" in each]  # type: ignore[attr-defined]

    assert ["spiffe://bank.test/two"] * 3 == found
