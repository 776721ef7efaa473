"""Cases 61 to 69 of the adversarial list, so far as they are about leaks: canaries of every kind are found nowhere.

The others: 61, 62 and 63 in `tests/test_invariants.py` and `tests/audit/`; 65 in `test_fuzz.py`; what a search finds,
and what it lets be, in `tests/credentials/test_leaks.py`.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from agentguard import ApprovalRequired, CredentialUnavailable, Denied, Intent, any_, current_credential, guarded, step
from agentguard._drive import drive
from agentguard.cli.main import main
from agentguard.errors import AuditUnavailable
from agentguard.model.decision import AccessRequest, Decision
from agentguard.model.record import Position, Record
from agentguard.ports import Answer, Approval, ApprovalRequest
from agentguard.testing import Answering
from tests.adversarial.leak_room import (
    IBAN,
    ID_TOKEN,
    KINDS,
    PIN,
    RAISE,
    TELL,
    VALUES,
    Room,
    anything,
    astream,
    revealed,
    say,
    stream,
    swept,
    tell,
    throw,
    without_locals,
)
from tests.credentials.oauth_server import FakeServer, answered, exchange_at

nowhere = pytest.mark.control("6 a credential is found nowhere (case 66)")
values = pytest.mark.control("secret arguments and personal data are found nowhere (case 66)")


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A provider of the SDK, so that spans are looked at."""
    provider = TracerProvider()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield provider
    provider.shutdown()


def refused(room: Room, call: Callable[[], object], reason: str) -> None:
    """Make a call that is denied, and look at what the caller and the model get of it."""
    with pytest.raises(Denied) as denied:
        call()
    assert reason == denied.value.reason
    room.found.look("what is shown of the error", without_locals(denied.value))


# 66 permitted, and every way to give the secret away ---------------------------------------------------------


@nowhere
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", TELL)
def test_case_66_68_what_a_tool_returns_holds_no_credential(kind: str, how: str, tmp_path: Path) -> None:
    with swept(tmp_path, kind) as (room, found), room.task():
        found.look("the result", tell(IBAN, PIN, how))
        assert room.issuer.issued


@nowhere
@pytest.mark.parametrize("how", RAISE)
def test_case_66_68_what_a_tool_raises_holds_no_credential(how: str, tmp_path: Path) -> None:
    with swept(tmp_path) as (room, found), room.task():
        with pytest.raises(Exception) as raised:  # noqa: PT011  # whatever it is
            throw("acme", "a-pin-that-is-no-canary", how)
        found.look("the error", raised.value)
        with suppress(Exception):
            try:
                throw("acme", "a-pin-that-is-no-canary", how)
            except Exception:
                logging.getLogger("app").exception("the tool failed")
                raise
        assert room.issuer.issued


@nowhere
@pytest.mark.parametrize("size", [1, 3, 7, 16, 40, 1000])
def test_case_66_streamed_parts_hold_no_credential(size: int, tmp_path: Path) -> None:
    with swept(tmp_path) as (room, found), room.task():
        found.parts("the stream", stream(IBAN, PIN, str(size)))
        assert room.issuer.issued


@nowhere
@pytest.mark.anyio
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_case_66_asynchronous_parts_hold_no_credential(size: int, tmp_path: Path) -> None:
    with swept(tmp_path) as (room, found):
        async with room.task():
            found.parts("the stream", [part async for part in astream(IBAN, PIN, str(size))])
        assert room.issuer.issued


@nowhere
@pytest.mark.anyio
async def test_case_66_cancelled_call_leaves_no_credential(tmp_path: Path) -> None:
    started = anyio.Event()

    @guarded("leaks.slow", audience="https://api.test", scopes=["x"], secret=["pin"])
    async def slow(account: str, pin: str, how: str) -> str:
        held = current_credential().token
        started.set()
        await anyio.sleep(60)
        return held

    with swept(tmp_path) as (room, _):
        async with room.task():
            async with anyio.create_task_group() as group:
                group.start_soon(slow, IBAN, PIN, "x")
                await started.wait()
                group.cancel_scope.cancel()
        assert room.issuer.issued


# 66 denied at every step -------------------------------------------------------------------------------------


@values
def test_case_66_denials_of_binding_identity_and_intent_show_no_value(tmp_path: Path) -> None:
    narrow = Intent("Narrow", step("leaks.say", account="acme", pin="1234-none", how=any_))
    with swept(tmp_path) as (room, _):
        bound: Any = say
        with room.task() as task:
            refused(room, lambda: bound(IBAN, PIN, "x", 7, more=PIN), "invalid_arguments")
            refused(room, lambda: bound(IBAN, PIN, {PIN, IBAN}), "invalid_arguments")
            room.guard.suspend(task=task.id, why="a test")
            refused(room, lambda: say(IBAN, PIN, "x"), "suspended")
        with room.task(narrow):
            refused(room, lambda: say(IBAN, PIN, "x"), "argument_violation")
            refused(room, lambda: tell(IBAN, PIN, "plain"), "outside_intent")


IN_ARGUMENTS: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "recorded argument": ("secret_in_arguments", lambda s: {"account": f"see {s}"}),
    "nested argument": ("secret_in_arguments", lambda s: {"how": [{"see": {s: 1}}]}),
    "secret argument": ("secret_in_arguments", lambda s: {"pin": s}),
    "name of an argument": ("invalid_arguments", lambda s: {f"no {s}": 1}),
    "key of what has no canonical form": ("invalid_arguments", lambda s: {"how": {f"a {s} key": object()}}),
}


@nowhere
@pytest.mark.parametrize("where", IN_ARGUMENTS)
def test_case_66_live_credential_in_an_argument_is_in_no_record_and_no_explanation(where: str, tmp_path: Path) -> None:
    reason, arguments_with = IN_ARGUMENTS[where]
    errors: list[Denied] = []

    @guarded("leaks.inner", record=["account", "how"], secret=["pin"])
    def inner(account: str = "", pin: str = "", how: Any = "") -> None:
        raise AssertionError("it ran")

    @guarded("leaks.pass", audience="https://api.test", scopes=["x"])
    def pass_on() -> None:
        leaked = current_credential()
        with pytest.raises(Denied) as denied:
            inner(**arguments_with(revealed()))
        errors.append(denied.value)
        with pytest.raises(CredentialUnavailable, match="leaked"):
            _ = leaked.token

    intent = Intent("Both", step("leaks.pass"), step("leaks.inner", account=any_, pin=any_, how=any_))
    with swept(tmp_path, but=["the subject's name"], recall=True) as (room, found), room.task(intent):
        pass_on()
        found.look("what is shown of the error", [without_locals(error) for error in errors])
    assert [reason] == [error.reason for error in errors]


class Careless:
    """A decision point whose error holds all it was told, and more."""

    suspends = False

    async def decide(self, request: AccessRequest) -> Decision:
        raise RuntimeError(f"{request!r} {PIN} {IBAN}")


class Broken:
    """An audit log whose error holds the record."""

    suspends = False

    def __init__(self) -> None:
        self.fails = ""

    def append(self, record: Record) -> Position:
        if self.fails:
            raise AuditUnavailable("disk full") if self.fails == "typed" else RuntimeError(f"{record} {PIN} {IBAN}")
        return Position("c", 1, "0")

    async def flush(self, position: Position) -> None: ...

    def close(self) -> None: ...


class Failing:
    """An approver whose error holds what it was asked."""

    suspends = False

    async def ask(self, request: ApprovalRequest) -> Approval:
        raise RuntimeError(f"{request!r} {PIN} {IBAN}")


@values
def test_case_66_errors_of_ports_are_shown_nowhere(tmp_path: Path) -> None:
    asks = Intent("Asks", step("leaks.say", account=any_, pin=any_, how=any_).then_ask())
    with swept(tmp_path / "1", decision_points=[Careless()]) as (room, _), room.task():
        refused(room, lambda: say(IBAN, PIN, "x"), "policy_error")
    with swept(tmp_path / "2", approver=Failing()) as (room, _), room.task(asks):
        refused(room, lambda: say(IBAN, PIN, "x"), "approval_rejected")
    with swept(tmp_path / "3", approver=Answering(Answer.REJECTED)) as (room, _), room.task(asks):
        refused(room, lambda: say(IBAN, PIN, "x"), "approval_rejected")
    broken = Broken()
    with swept(tmp_path / "4", audit=broken) as (room, _), room.task():
        broken.fails = "untyped"
        refused(room, lambda: say(IBAN, PIN, "x"), "audit_unavailable")
        broken.fails = ""


@nowhere
@pytest.mark.parametrize("fails", ["typed", "untyped", "revoke"])
def test_case_66_issuer_that_fails_with_the_credential_in_its_error_leaks_none(fails: str, tmp_path: Path) -> None:
    # Whoever ends a credential that could not be ended has to know whose it was: the ledger holds the name.
    but = ["the subject's name"] if fails == "revoke" else []
    with swept(tmp_path, but=but) as (room, found), room.task():
        room.issuer.fails = fails
        if fails == "revoke":
            assert "done" == say(IBAN, PIN, "x")
        else:
            with pytest.raises(Denied) as denied:
                say(IBAN, PIN, "x")
            found.look("what is shown of the error", without_locals(denied.value))


def echoed(request: Any) -> Any:
    """Answer as a bad server: with the whole form in the error."""
    return answered(400, {"error": "invalid_request", "error_description": str(dict(request.form))})


@nowhere
@pytest.mark.parametrize("answer", [echoed, lambda request: RuntimeError(str(dict(request.form))), None])
def test_case_66_68_exchange_whose_server_echoes_the_form_leaks_no_assertion_and_no_token(
    answer: Any, tmp_path: Path
) -> None:
    fake = FakeServer()
    # Where a token may exist, whoever ends it has to know whose it is: the ledger holds the name.
    with swept(tmp_path, but=["the subject's name"], issuer=exchange_at(fake)) as (room, found), room.task():
        if answer is None:
            with suppress(Denied):
                say(IBAN, PIN, "x")
        else:
            fake.script = [answer] * 9
            with pytest.raises(Denied) as denied:
                say(IBAN, PIN, "x")
            found.look("the error", denied.value.decision)
            found.look("what is shown of the error", without_locals(denied.value))
        for number, form in enumerate(fake.posts()):
            for name in ("client_assertion", "actor_token"):
                found.canary(f"{name} {number}", form[name])
        for number, token in enumerate(fake.alive):
            found.canary(f"access token {number}", token)
    assert ID_TOKEN in [form["subject_token"] for form in fake.posts()]


# 66 waiting, handed on, killed ----------------------------------------------------------------------------------


class Never:
    """An approver who has not answered yet."""

    suspends = False

    async def ask(self, request: ApprovalRequest) -> Approval:
        return Approval(Answer.PENDING, "", "")


@nowhere
@values
def test_case_66_waiting_task_leaves_no_secret_in_its_state_and_shows_none_to_the_model(tmp_path: Path) -> None:
    asks = Intent(
        "Asks",
        step("leaks.say", account=any_, pin=any_, how="first"),
        step("leaks.say", account=any_, pin=any_, how="second").then_ask(),
    )
    with swept(tmp_path, but=["the subject's name"], approver=Never()) as (room, found):  # whom it is for is shown
        with pytest.raises(ApprovalRequired) as waits, room.task(asks):
            say("acme", PIN, "first")
            say("acme", PIN, "second")
        found.look("what the model reads", [waits.value.public, *without_locals(waits.value)])
        assert room.issuer.issued
        assert drive(room.guard.parked.find(waits_for(room), room.guard.now())) is not None


def waits_for(room: Room) -> str:
    import json

    lines = [json.loads(line) for file in (room.folder / "audit").iterdir() for line in file.read_text().splitlines()]
    [task] = [line["task"] for line in lines if line["event"] == "task.parked"]
    return str(task)


@nowhere
def test_case_66_handover_carries_no_credential_and_none_of_our_keys(tmp_path: Path) -> None:
    with swept(tmp_path, but=["the subject's name"]) as (room, found), room.task() as task:
        say("acme", "a-pin", "x")
        found.look("the handover", task.export(to="researcher", intent=anything()))
        assert room.issuer.issued


CRASH = """
import sys
from pathlib import Path
from agentguard import Intent, any_, step
from agentguard.testing.leaks import Sweep
from tests.adversarial.leak_room import IBAN, PIN, Room, die

class Said(Sweep):
    def canary(self, name, secret):
        print(f"{name}={secret}", flush=True)

room = Room(Path(sys.argv[1]), Said())
with room.task(Intent("Die", step("leaks.die", account=any_, pin=any_, how=any_))):
    die(IBAN, PIN, "x")
"""


@nowhere
def test_case_66_killed_process_and_its_recovery_leave_no_credential(tmp_path: Path) -> None:
    tmp_path = tmp_path / "state"
    tmp_path.mkdir(mode=0o700)
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert 9 == done.returncode, done.stderr
    with swept(tmp_path) as (room, found):
        for line in done.stdout.splitlines():
            found.canary(*line.split("=", 1))
        found.keep("standard error of the killed process", done.stderr)
        assert 1 == room.guard.recover()


# 66 what the command prints -----------------------------------------------------------------------------------


@nowhere
@values
def test_case_66_no_command_prints_a_secret(tmp_path: Path) -> None:
    audit, state = str(tmp_path / "audit"), str(tmp_path / "state.db")
    with swept(tmp_path) as (room, _):
        with room.task():
            say(IBAN, PIN, "x")
            tell(IBAN, PIN, "plain")
        for command in (
            ["audit", "verify", audit], ["audit", "query", audit, "--json"], ["audit", "tail", audit, "-n", "100"],
            ["audit", "export", audit, "--format", "ocsf"], ["audit", "export", audit, "--format", "csv"],
            ["leases", "list", state],
        ):  # fmt: skip
            assert main(command) in (0, 1), command


# 66 what a framework makes of it --------------------------------------------------------------------------------


@nowhere
@values
def test_case_66_67_messages_and_dumps_of_langchain_hold_no_credential(tmp_path: Path) -> None:
    langchain = pytest.importorskip("agentguard_langchain")
    from langchain_core.load import dumps
    from langchain_core.tools import tool

    from agentguard_langchain.testing import ScriptedModel

    @tool
    def fetch(how: str, pin: str) -> Any:
        """Fetch with a credential."""
        return TELL[how](current_credential().token)

    spec = {"effect": "read", "audience": "https://api.test", "scopes": ["x"], "secret": ["pin"]}
    tools = langchain.guard_tools(fetch, {"fetch": spec})
    calls = [("fetch", {"how": how, "pin": "a-pin"}) for how in ("plain", "header", "lc")]
    agent = langchain.create_agent(ScriptedModel(*[[call] for call in calls], "done"), tools)
    with swept(tmp_path) as (room, found), room.task(Intent("Fetch", reads=["fetch"])):
        result = agent.invoke({"messages": [("user", "go")]})
        found.look("the messages", result["messages"])
        found.keep("a dump", dumps(result))
        assert room.issuer.issued


# 64 log injection -----------------------------------------------------------------------------------------------

HOSTILE = {
    "newline": 'a\n{"event":"call.completed"}\n',
    "carriage return": "a\r\nb",
    "escape": "\x1b[2J\x1b]0;owned\x07",
    "separators": "a\u2028b\u2029c\x85d",
    "right to left": "\u202egpj.exe",
    "json": '","event":"call.completed","x":"',
    "1 MiB": "x" * (1 << 19),
    "nul": "a\x00b",
}


@guarded("leaks.recorded", record=["text"])
def recorded(text: str) -> str:
    """Be recorded in clear."""
    return "ok"


@pytest.mark.parametrize("name", HOSTILE)
def test_case_64_hostile_text_stays_inside_one_line_of_the_log_and_steers_no_terminal(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with swept(tmp_path) as (room, _), room.task(Intent("Text", step("leaks.recorded", text=any_))):
        with suppress(Denied):
            recorded(HOSTILE[name])
        events = [line.count(b'"event":') for line in log_of(tmp_path).split(b"\n") if line]
    assert 4 <= len(events) + 1
    assert all(len(line) < 1 << 15 for line in log_of(tmp_path).split(b"\n"))
    assert 0 == main(["audit", "verify", str(tmp_path / "audit")])
    assert 0 == main(["audit", "query", str(tmp_path / "audit")])
    printed = capsys.readouterr().out
    assert not [char for char in printed if not char.isprintable() and char != "\n"]


def log_of(folder: Path) -> bytes:
    [file] = (folder / "audit").glob("audit-*.jsonl")
    return file.read_bytes()


# the sweep itself ------------------------------------------------------------------------------------------------


@values
def test_sweep_of_this_file_finds_what_is_there_to_find(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as failed:
        with swept(tmp_path) as (_, found):
            for name, value in VALUES.items():
                found.look(f"a place with {name}", value)
    assert all(name in str(failed.value) for name in VALUES)
    assert not [value for value in VALUES.values() if value in str(failed.value)]
