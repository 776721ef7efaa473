"""The `agentguard suspend`, `resume`, `status` and `offboard` commands, beside a guard that is running."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import agentguard
from agentguard import Denied, Guard, Intent, Task, current_credential, guarded
from agentguard._drive import drive
from agentguard.cli import stop as command
from agentguard.cli.main import main
from agentguard.keys import SigningKey
from agentguard.model.lease import Lease, LeaseKey
from agentguard.state.sqlite import SqliteLedger
from agentguard.testing import FakeIssuer, fake_guard

Captured = pytest.CaptureFixture[str]
KEY = "0123456789abcdef" * 4
CONFIG = """\
version: 1
agents:
  desk: {owners: {business: ann@bank.test}, purpose: answers, hand_on: {researcher: [stop.*]}}
  researcher: {owners: {business: ann@bank.test}, purpose: looks things up}
audit: {dir: audit, pseudonym_key: {file: key}}
tokens: {local: {key: tokens.pem, audiences: ['https://api.test']}}
"""
STATE = "state: {sqlite: state.db, key: {file: key}}\n"
everybody = pytest.mark.control("9 a stop from a terminal reaches guards that run")
proof = pytest.mark.control("8 an agent is off board only when its credentials provably are")


@guarded("stop.read", effect="read", audience="https://api.test")
def read() -> str:
    """Read with a credential."""
    return current_credential().lease.id


@guarded("stop.write")
def write() -> str:
    """Write without one."""
    return "written"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o600)
    SigningKey.generate().write_pem_file(tmp_path / "tokens.pem")
    (tmp_path / "agentguard.yaml").write_text(CONFIG + STATE)
    return tmp_path / "agentguard.yaml"


@pytest.fixture
def guard(config: Path) -> Iterator[Guard]:
    with agentguard.load(config) as made:
        yield made


@pytest.fixture
def task(guard: Guard) -> Iterator[Task]:
    """A task that is open and holds a credential."""
    with guard.task("desk", on_behalf_of="alice", intent=Intent("Work", reads=["stop.read"])) as opened:
        read()
        assert guard.outstanding() == 1
        yield opened


@pytest.fixture
def run(config: Path, capsys: Captured) -> Callable[..., tuple[int, str]]:
    """Run a command on the configuration; return its status and all that it printed."""

    def of(*arguments: str) -> tuple[int, str]:
        status = main([*arguments, "--config", str(config)])
        said = capsys.readouterr()
        return status, said.out + said.err

    return of


def denied() -> Denied:
    with pytest.raises(Denied) as raised:
        read()
    return raised.value


def within_a_second(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + 1.0
    while not true() and time.monotonic() < until:
        time.sleep(0.02)
    return true()


def lease(identifier: str, issuer: str, *, agent: str = "desk", seconds: float = 600) -> Lease:
    key = LeaseKey("", "user:alice", "root", ("user:alice", agent), "pay", "https://api.test", (), "")
    now = time.time()
    return Lease(id=identifier, key=key, issuer=issuer, task="t", issued_at=now, expires_at=now + seconds)


# suspend and resume -------------------------------------------------------------------------------------------------


@everybody
@pytest.mark.parametrize(
    "who",
    [
        ("--agent", "desk"), ("--subject", "user:alice"), ("--chain", "user:alice > desk"), ("--all",),
        ("--task", "its own id"),
    ],
)  # fmt: skip
def test_guard_that_runs_denies_at_once_and_revokes_within_a_second(
    who: tuple[str, ...], guard: Guard, task: Task, run: Callable[..., tuple[int, str]]
) -> None:
    who = ("--task", task.id) if "--task" in who else who

    status, said = run("suspend", *who, "--why", "it misbehaves")

    assert status == 0
    assert "is suspended: it misbehaves" in said
    assert denied().reason == "suspended"
    assert within_a_second(lambda: guard.outstanding() == 0)


def test_what_is_resumed_goes_on_and_what_was_revoked_stays_so(
    guard: Guard, task: Task, run: Callable[..., tuple[int, str]]
) -> None:
    before = read()
    run("suspend", "--agent", "desk", "--why", "look into it")
    assert within_a_second(lambda: guard.outstanding() == 0)
    assert (0, "agent:desk may go on\n") == run("resume", "--agent", "desk")
    assert read() != before
    assert (0, "agent:desk was not suspended\n") == run("resume", "--agent", "desk")


def test_task_that_its_guard_stopped_is_resumed_from_a_terminal(
    guard: Guard, run: Callable[..., tuple[int, str]]
) -> None:
    intent = Intent("Work", reads=["stop.read"], limits={"denials": 1})
    with guard.task("desk", on_behalf_of="alice", intent=intent) as task:
        for _ in range(2):
            with pytest.raises(Denied):
                write()
        assert denied().reason == "suspended"
        guard.keeper.tick()
        assert run("resume", "--task", task.id)[0] == 0
        assert within_a_second(lambda: not task.why_stopped)
        assert read()


@everybody
def test_credential_that_a_refused_call_obtained_is_revoked_too(
    guard: Guard, task: Task, run: Callable[..., tuple[int, str]]
) -> None:
    run("suspend", "--agent", "desk", "--why", "stop")
    assert within_a_second(lambda: guard.outstanding() == 0)
    for _ in range(3):
        denied()
    assert within_a_second(lambda: guard.outstanding() == 0)


def test_sub_agent_is_stopped_with_those_above_it_and_not_the_other_way_round(
    guard: Guard, task: Task, run: Callable[..., tuple[int, str]]
) -> None:
    with task.delegate("researcher", reads=["stop.read"]):
        run("suspend", "--chain", "user:alice > desk > researcher", "--why", "stop")
        assert denied().reason == "suspended"
    assert read()


def test_records_of_a_stop_hold_no_name_of_a_person(config: Path, run: Callable[..., tuple[int, str]]) -> None:
    for who in (("--subject", "user:alice"), ("--chain", "user:alice > desk")):
        run("suspend", *who, "--why", "stop")
        run("resume", *who)
    written = "".join(file.read_text() for file in (config.parent / "audit").glob("*.jsonl"))
    assert (written.count('"suspension.set"'), written.count('"suspension.lifted"')) == (2, 2)
    assert "alice" not in written


# status -------------------------------------------------------------------------------------------------------------


def test_status_lists_what_is_stopped_and_why(run: Callable[..., tuple[int, str]]) -> None:
    assert (0, "nothing is suspended\n") == run("status")
    run("suspend", "--agent", "desk", "--why", "it misbehaves")
    run("suspend", "--subject", "user:bob", "--why", "left")

    status, said = run("status")
    found = json.loads(run("status", "--json")[1])["suspended"]

    assert status == 0
    assert [line.split("  ", 1)[1] for line in said.splitlines()[:-1]] == [
        "agent:desk  it misbehaves", "subject:user:bob  left",
    ]  # fmt: skip
    assert said.endswith("2 suspensions\n")
    assert [stop["key"] for stop in found] == ["agent:desk", "subject:user:bob"]
    assert abs(found[0]["since"] - time.time()) < 60
    assert found[0]["epoch"] < found[1]["epoch"]


def test_reason_cannot_steer_the_terminal(run: Callable[..., tuple[int, str]]) -> None:
    run("suspend", "--agent", "desk", "--why", "\x1b[2Jgone")
    assert "\x1b" not in run("status")[1]


# offboard -----------------------------------------------------------------------------------------------------------


@proof
def test_offboarded_agent_holds_nothing_and_says_so(
    guard: Guard, task: Task, run: Callable[..., tuple[int, str]]
) -> None:
    status, said = run("offboard", "desk")
    assert (status, guard.outstanding()) == (0, 0)
    assert "agent:desk is suspended for good: offboarded\nno credential of it is alive\n" in said
    assert "`status: retired` for desk" in said
    assert denied().reason == "suspended"


@proof
@pytest.mark.parametrize("issuer", ["local", "a broker that is not configured"])
def test_offboarding_fails_while_a_credential_may_be_alive(
    issuer: str, config: Path, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_PATIENCE", 0.3)
    with closing(
        SqliteLedger(config.parent / "state.db", KEY.encode())
    ) as busy:  # its process lives, and hears nothing
        drive(busy.pending(lease("left", issuer)))
        drive(busy.pending(lease("of-another", issuer, agent="researcher")))
        status, said = run("offboard", "desk", "--why", "retired")
    assert status == 1
    assert "\n  left of " in said
    assert "it ends by 20" in said
    assert "1 credential of it may be alive" in said
    assert "of-another" not in said


@proof
def test_credential_of_a_broker_is_ended_for_a_process_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_PATIENCE", 0.2)
    tmp_path.chmod(0o700)
    issuer, file = FakeIssuer(), tmp_path / "state.db"
    with (
        closing(SqliteLedger(file, KEY.encode())) as busy,
        fake_guard(issuer=issuer, ledger=SqliteLedger(file, KEY.encode())) as guard,
    ):
        drive(busy.active(lease("held", "fake")))
        assert not command._ended(guard, "desk")
        assert guard.outstanding() == 0


# wrong use ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("suspend", "--why", "x"), "one of the arguments --agent --task --subject --chain --all is required"),
        (("suspend", "--agent", "desk"), "the following arguments are required: --why"),
        (("suspend", "--agent", "a", "--all", "--why", "x"), "not allowed with argument"),
        (("suspend", "--agent", "a b", "--why", "x"), "agent 'a b' is no name"),
        (("suspend", "--subject", "alice", "--why", "x"), "write it as chains do, user:alice or agent:alice"),
        (("suspend", "--subject", "user:", "--why", "x"), "write it as chains do"),
        (("suspend", "--chain", "user:alice", "--why", "x"), "write it as records do, user:alice > support-bot"),
        (("suspend", "--chain", "desk > bot", "--why", "x"), "write it as records do"),
        (("suspend", "--subject", "user:alice ", "--why", "x"), "write it as chains do"),
        (("suspend", "--subject", "user:ali\u200bce", "--why", "x"), "write it as chains do"),
        (("suspend", "--subject", "user:alice > bot", "--why", "x"), "write it as chains do"),
        (("suspend", "--chain", "user:alice > > bot", "--why", "x"), "write it as records do"),
        (("suspend", "--chain", "user:alice -> bot", "--why", "x"), "write it as records do"),
        (("suspend", "--chain", "user:alice > bot desk", "--why", "x"), "write it as records do"),
        (("resume", "--subject", "alice"), "write it as chains do"),
        (("offboard", "a b"), "agent 'a b' is no name"),
    ],
)
def test_wrong_arguments_stop_nobody_and_say_what_to_write(
    arguments: tuple[str, ...], expected: str, run: Callable[..., tuple[int, str]]
) -> None:
    status, said = run(*arguments)
    assert status == 2
    assert expected in said
    assert (0, "nothing is suspended\n") == run("status")


@pytest.mark.parametrize("arguments", [("suspend", "--agent", "dask", "--why", "x"), ("offboard", "dask")])
def test_name_that_the_registry_does_not_know_is_stopped_and_doubted(
    arguments: tuple[str, ...], run: Callable[..., tuple[int, str]]
) -> None:
    status, said = run(*arguments)
    assert status == 0
    assert "note: this configuration names no agent 'dask', only desk, researcher" in said
    assert "agent:dask" in run("status")[1]


@pytest.mark.parametrize(
    "arguments", [("suspend", "--all", "--why", "x"), ("resume", "--all"), ("status",), ("offboard", "desk")]
)
def test_configuration_without_state_is_refused(
    arguments: tuple[str, ...], config: Path, run: Callable[..., tuple[int, str]]
) -> None:
    config.write_text(CONFIG.replace(", audiences: ['https://api.test']", ""))
    status, said = run(*arguments)
    assert status == 2
    assert "has no `state`, so a stop would be known to this command only; write state: {sqlite: FILE" in said


def test_missing_configuration_is_said(tmp_path: Path, capsys: Captured) -> None:
    assert main(["status", "--config", str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml" in capsys.readouterr().err
