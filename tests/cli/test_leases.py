"""The `agentguard leases` command, as a person and as a program see it."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentguard import ConfigurationError
from agentguard._drive import drive
from agentguard.cli import leases as command
from agentguard.cli import main as program
from agentguard.cli import stop
from agentguard.cli.main import main
from agentguard.credentials.leases import Leases
from agentguard.model.lease import Ending, Lease, LeaseKey, Secret
from agentguard.model.record import Event
from agentguard.state.sqlite import SqliteLedger
from agentguard.testing import FakeIssuer

KEY = b"a key of the tests, 32 bytes long"
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def wired(monkeypatch: pytest.MonkeyPatch) -> None:
    if command not in program.COMMANDS:
        monkeypatch.setattr(program, "COMMANDS", (*program.COMMANDS, command))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def owner(file: Path) -> Iterator[SqliteLedger]:
    """A ledger that is alive all through the test."""
    made = SqliteLedger(file, KEY)
    yield made
    made.close()


def lease(identifier: str, **fields: Any) -> Lease:
    key = LeaseKey("", "user:alice", "root", ("user:alice", "bot"), "pay", "https://api.test", (), "")
    now = time.time()
    given = {"issuer": "broker", "task": "task-1", "issued_at": now, "expires_at": now + 600, **fields}
    return Lease(id=identifier, key=key, **given)


def listed(file: Path, capsys: Captured) -> dict[str, Any]:
    main(["leases", "list", "--json", str(file)])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# list -----------------------------------------------------------------------------------------------------------


def test_an_empty_ledger_is_said(owner: SqliteLedger, file: Path, capsys: Captured) -> None:
    assert 0 == main(["leases", "list", str(file)])
    assert "no credential is outstanding\n" == capsys.readouterr().out


def test_the_table_names_what_is_alive_and_never_a_handle(owner: SqliteLedger, file: Path, capsys: Captured) -> None:
    drive(owner.pending(lease("one")))
    drive(owner.active(lease("one"), Secret("canary-of-a-handle")))
    drive(owner.pending(lease("two", lasts=True)))

    status = main(["leases", "list", str(file)])
    out = capsys.readouterr().out

    assert 0 == status
    assert ["id", "one", "two", "2"] == [line.split()[0] for line in out.splitlines()]
    assert "active" in out
    assert "never" in out
    assert "canary" not in out


def test_json_is_one_object(owner: SqliteLedger, file: Path, capsys: Captured) -> None:
    drive(owner.pending(lease("one", lasts=True)))

    found = listed(file, capsys)

    assert (True, 1) == (found["ok"], found["outstanding"])
    (row,) = found["leases"]
    assert ("one", "pending", "alive", None) == (row["id"], row["state"], row["owner"], row["expires_by"])


def test_a_row_without_a_living_owner_is_a_failure(file: Path, capsys: Captured) -> None:
    dead = SqliteLedger(file, KEY)
    drive(dead.pending(lease("left")))
    dead.close()

    assert 1 == main(["leases", "list", str(file)])
    assert "dead" in capsys.readouterr().out


def test_a_row_that_could_not_be_revoked_is_a_failure(owner: SqliteLedger, file: Path, capsys: Captured) -> None:
    drive(owner.pending(lease("one")))
    drive(owner.failed(lease("one"), "ConnectError", irrevocable=True))

    assert 1 == main(["leases", "list", str(file)])
    assert "irrevocable" in capsys.readouterr().out


def test_listing_takes_over_nothing(file: Path, capsys: Captured) -> None:
    dead = SqliteLedger(file, KEY)
    drive(dead.pending(lease("left")))
    dead.close()
    listed(file, capsys)

    later = SqliteLedger(file, KEY)
    assert ["left"] == [row.lease.id for row in drive(later.adopt(time.time()))]
    later.close()


def test_the_ledger_that_a_configuration_names_is_listed_without_its_keys(
    tmp_path: Path, owner: SqliteLedger, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(owner.pending(lease("one")))
    file = configured(tmp_path, "state: {sqlite: state.db, key: {env: AG_NO_SUCH}}\n")
    monkeypatch.chdir(tmp_path)

    assert 0 == main(["leases", "list", "--json"])
    assert ["one"] == [row["id"] for row in json.loads(capsys.readouterr().out)["leases"]]
    assert 2 == main(["leases", "list", "state.db", "--config", "agentguard.yaml"])
    file.write_text(file.read_text().partition("state:")[0])
    assert 2 == main(["leases", "list"])
    assert "has no `state" in capsys.readouterr().err


def test_a_file_that_is_no_ledger_is_not_called_a_damaged_one(tmp_path: Path, capsys: Captured) -> None:
    config = tmp_path / "agentguard.yaml"
    config.write_text("version: 1\n")

    assert main(["leases", "list", str(config)]) == 2
    said = capsys.readouterr().err
    assert "agentguard.yaml: this is no file of SQLite, so no ledger; name the one of `state: {sqlite: FILE}`" in said
    assert "damaged" not in said
    assert config.read_text() == "version: 1\n"


def test_a_missing_file_is_not_created(file: Path, capsys: Captured) -> None:
    assert 2 == main(["leases", "list", str(file)])
    assert "there is no such file" in capsys.readouterr().err
    assert not file.exists()


def test_names_from_a_broker_cannot_steer_the_terminal(owner: SqliteLedger, file: Path, capsys: Captured) -> None:
    drive(owner.pending(lease("one", issuer="evil\x1b[2J")))

    main(["leases", "list", str(file)])

    assert "\x1b" not in capsys.readouterr().out


# revoke and recover ---------------------------------------------------------------------------------------------


class Room:
    """What a configuration makes: a guard with a broker and the durable ledger."""

    def __init__(self, file: Path) -> None:
        self.issuer = FakeIssuer()
        self.records: list[Event] = []
        self.file = file

    def opened(self, config: Path) -> command.Room:
        ledger = SqliteLedger(self.file, KEY)
        leases = Leases(self.issuer, ledger, self._record, time.time)
        drive(leases.recover())
        guard: Any = SimpleNamespace(
            issuer=self.issuer, leases=leases, records=SimpleNamespace(record=self._record), close=ledger.close
        )
        return command.Room(guard, ledger)

    def _record(self, event: Event, fields: Any) -> None:
        self.records.append(event)

    def issued(self, ledger: SqliteLedger, *leases: Lease) -> None:
        for one in leases:
            drive(ledger.pending(one))
            self.issuer.live[one.id] = one


@pytest.fixture
def room(file: Path, monkeypatch: pytest.MonkeyPatch) -> Room:
    made = Room(file)
    monkeypatch.setattr(command, "room_of", made.opened)
    return made


def test_one_credential_of_a_living_process_is_revoked_by_its_id(
    owner: SqliteLedger, room: Room, capsys: Captured
) -> None:
    room.issued(owner, lease("one"), lease("other"))
    drive(owner.pending(lease("under", parent="one")))

    assert 0 == main(["leases", "revoke", "one"])

    assert "2 of 2 credentials revoked\n" == capsys.readouterr().out
    assert {"other"} == set(room.issuer.live)
    assert [Event.CREDENTIAL_REVOKED] * 2 == room.records


def test_all_of_a_task_are_revoked(owner: SqliteLedger, room: Room, capsys: Captured) -> None:
    room.issued(owner, lease("one"), lease("two"), lease("other", task="task-2"))

    assert 0 == main(["leases", "revoke", "--task", "task-1"])
    assert {"other"} == set(room.issuer.live)


def test_everything_is_revoked(owner: SqliteLedger, room: Room, file: Path, capsys: Captured) -> None:
    room.issued(owner, lease("one"), lease("other", task="task-2"))

    assert 0 == main(["leases", "revoke", "--all"])
    assert not room.issuer.live
    capsys.readouterr()
    assert 0 == listed(file, capsys)["outstanding"]


def test_an_unknown_id_is_said(owner: SqliteLedger, room: Room, capsys: Captured) -> None:
    assert 2 == main(["leases", "revoke", "nothing"])
    assert "no credential 'nothing' is outstanding" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["one", "--all"], ["--task", "t", "--all"]])
def test_exactly_one_way_to_name_credentials_is_taken(words: list[str], capsys: Captured) -> None:
    assert 2 == main(["leases", "revoke", *words])


@pytest.mark.parametrize("words", [[""], ["--task", ""]])
def test_an_empty_name_revokes_nothing(
    words: list[str], owner: SqliteLedger, room: Room, file: Path, capsys: Captured
) -> None:
    room.issued(owner, lease("one"), lease("nobodys", task=""))

    assert 2 == main(["leases", "revoke", *words])
    assert "the name is empty" in capsys.readouterr().err
    assert {"one", "nobodys"} == set(room.issuer.live)


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "soon"])
def test_a_time_that_never_ends_is_none(seconds: str, capsys: Captured) -> None:
    assert 2 == main(["leases", "recover", "--timeout", seconds])
    assert "--timeout" in capsys.readouterr().err


def test_a_credential_that_could_not_be_revoked_is_a_failure_and_stays(
    owner: SqliteLedger, room: Room, file: Path, capsys: Captured
) -> None:
    room.issued(owner, lease("one"))
    room.issuer.revoke_error = ConnectionError("down")

    assert 1 == main(["leases", "revoke", "one", "--timeout", "0"])

    assert "one of broker is not revoked yet" in capsys.readouterr().err
    assert 1 == listed(file, capsys)["outstanding"]


class Expiring(FakeIssuer):
    async def revoke(self, lease: Lease, handle: Secret | None = None) -> Ending:
        return Ending.EXPIRES


def test_a_local_token_of_a_living_process_is_left_to_it_and_never_called_revoked(
    owner: SqliteLedger, room: Room, capsys: Captured
) -> None:
    drive(owner.pending(lease("mine", issuer="local")))
    drive(owner.active(lease("mine", issuer="local"), Secret("a-handle")))

    status = main(["leases", "revoke", "mine", "--timeout", "1"])
    printed = capsys.readouterr()

    assert 1 == status
    assert "only the process that issued it can revoke it" in printed.out
    assert f"agentguard suspend --task {lease('mine').task} --why" in printed.out
    assert "0 of 1 credential revoked" in printed.out
    assert ["mine"] == [each.id for each in drive(owner.outstanding(time.time(), instance=owner.instance))]


def test_what_its_server_cannot_revoke_is_said_with_its_end(
    owner: SqliteLedger, room: Room, file: Path, capsys: Captured
) -> None:
    room.issuer = Expiring()
    room.issued(owner, lease("one"))

    assert 1 == main(["leases", "revoke", "one"])

    assert "one of broker cannot be revoked; it ends by 20" in capsys.readouterr().out


def test_recover_ends_what_dead_processes_left(room: Room, file: Path, capsys: Captured) -> None:
    dead = SqliteLedger(file, KEY)
    room.issued(dead, lease("one"), lease("two"))
    dead.close()

    assert 0 == main(["leases", "recover"])

    assert "2 credentials of dead processes found" in capsys.readouterr().out
    assert not room.issuer.live


def test_recover_leaves_the_living_alone(owner: SqliteLedger, room: Room, capsys: Captured) -> None:
    room.issued(owner, lease("one"))

    assert 0 == main(["leases", "recover"])

    assert {"one"} == set(room.issuer.live)


def test_recover_says_what_could_not_be_ended(room: Room, file: Path, capsys: Captured) -> None:
    dead = SqliteLedger(file, KEY)
    room.issued(dead, lease("one"))
    dead.close()
    room.issuer.revoke_error = ConnectionError("down")

    assert 1 == main(["leases", "recover", "--timeout", "0"])
    assert "recover again" in capsys.readouterr().err


# with a configuration -------------------------------------------------------------------------------------------


def configured(folder: Path, state: str = "") -> Path:
    """A configuration with local tokens."""
    from agentguard.keys import SigningKey

    folder.chmod(0o700)
    SigningKey.generate().write_pem_file(folder / "token.pem")
    (folder / "pseudonym").write_text(KEY.hex())
    (folder / "pseudonym").chmod(0o600)
    file = folder / "agentguard.yaml"
    file.write_text(
        textwrap.dedent("""
            version: 1
            agents: {bot: {owners: {business: ann@bank.test}, purpose: Refunds}}
            tokens: {local: {issuer: "https://guard.bank.test", key: token.pem}}
            audit: {dir: audit, pseudonym_key: {file: pseudonym}}
        """)
        + state
    )
    return file


def test_a_configuration_without_a_durable_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no `state"):
        command.room_of(configured(tmp_path))


def test_what_a_broker_of_another_configuration_issued_is_not_called_revoked(
    tmp_path: Path, file: Path, capsys: Captured
) -> None:
    config = configured(tmp_path, "state: {sqlite: state.db, key: {file: pseudonym}}\n")
    dead = SqliteLedger(file, KEY)
    drive(dead.pending(lease("a-role", issuer="postgresql://db.bank.test/app", lasts=True)))
    dead.close()

    assert 1 == main(["leases", "recover", "--config", str(config), "--timeout", "0"])

    assert "0 of 1 credential revoked" in capsys.readouterr().out
    assert ["a-role"] == [row["id"] for row in listed(file, capsys)["leases"]]
    written = "".join(log.read_text() for log in (tmp_path / "audit").glob("*.jsonl"))
    assert "credential.revoke_failed" in written
    assert "credential.revoked" not in written


def test_the_commands_are_found_without_loading_a_database(tmp_path: Path) -> None:
    code = "import sys; from agentguard.cli import leases; sys.exit('sqlite3' in sys.modules or 'httpx' in sys.modules)"

    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode


def test_listing_makes_no_empty_file_a_ledger(file: Path, capsys: Captured) -> None:
    file.touch(0o600)
    assert 2 == main(["leases", "list", str(file)])
    assert "no ledger yet" in capsys.readouterr().err
    assert (0, [file.name]) == (file.stat().st_size, [path.name for path in file.parent.iterdir()])


def test_listing_takes_no_ledger_from_a_program_of_an_earlier_version(file: Path, capsys: Captured) -> None:
    SqliteLedger(file, KEY).close()
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA user_version=1")
    assert 2 == main(["leases", "list", str(file)])
    assert "earlier version" in capsys.readouterr().err
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)


@pytest.mark.parametrize("ends", [1e12, 1e300, math.nan])
def test_end_that_no_calendar_has_is_said(ends: float) -> None:
    assert "it ends after the year 9999" == stop._until(lease("one", expires_at=ends))
