"""`bench.peers`: its processes, rounds, figures and table, with peers made for the test; nothing is installed."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bench.peers import __main__ as peers
from bench.peers import environments, process, serving, token_server, work
from bench.peers.environments import ROOT, Unavailable, python_of
from bench.peers.process import Worker
from bench.peers.rounds import LEAST, OURS, OURS_WITHOUT, REFERENCE, Measured, interleave, report, spread
from bench.peers.table import table

LOCKS = ("agt", "delcred", "hallmark", "keycard")
ECHO = """
import json, sys
print(json.dumps({"hello": 1}), flush=True)
for line in sys.stdin:
    print(json.dumps({"heard": json.loads(line)}), flush=True)
"""
PEER = """
import sys
from bench.peers import work
from bench.peers.serving import serve
from langchain_core.tools import StructuredTool

work.count_disk_waits()


class Refused(Exception):
    pass


class Peer:
    distributions = ()

    def __init__(self, folder, server):
        print("a peer prints what it likes")
        self.folder = folder

    def fresh(self):
        pass

    def variants(self):
        def guarded(table: str) -> int:
            "Count."
            if table != "users":
                raise Refused
            return work.lookup(table)

        tool = StructuredTool.from_function(guarded)
        return {"only": work.Variant(lambda: tool.invoke(work.ALLOWED), lambda: tool.invoke(work.DENIED), Refused)}

    def facts(self, name):
        return work.Facts(denied_by="the test")

    def close(self):
        (self.folder / "closed").touch()


serve(Peer)
"""


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Worker]]:
    started: list[Worker] = []

    def start(program: str, *arguments: str) -> Worker:
        started.append(Worker("a peer", [sys.executable, "-P", "-c", program, *arguments], tmp_path, {}))
        return started[-1]

    yield start
    monkeypatch.setattr(process, "ENDS", 0.05)
    for worker in started:
        worker.close()


def test_a_worker_answers_each_command_with_a_line(start):
    worker = start(ECHO)

    assert [{"hello": 1}, {"heard": {"do": "round", "turn": 3}}] == [
        worker.hear(20),
        worker.ask(20, do="round", turn=3),
    ]


def test_a_worker_that_does_not_answer_in_time_is_unavailable(start):
    worker = start("import time; time.sleep(60)")

    with pytest.raises(Unavailable, match="did not answer in time"):
        worker.hear(0.05)


def test_a_worker_that_ended_is_unavailable_and_its_last_words_say_why(start):
    worker = start("raise SystemExit('no such module')")

    with pytest.raises(Unavailable, match="a peer has ended: no such module"):
        worker.hear(20)


def test_a_command_to_a_worker_that_ended_is_unavailable(start):
    worker = start("")
    with pytest.raises(Unavailable):
        worker.hear(20)

    with pytest.raises(Unavailable, match="has ended"):
        worker.ask(20, do="facts")


@pytest.mark.parametrize(
    ("said", "why"),
    [("'no JSON'", "no JSON"), ("'[1]'", "failed"), ('\'{"failed": "ImportError: x"}\'', "ImportError: x")],
)
def test_an_answer_that_is_none_makes_the_worker_unavailable(start, said: str, why: str):
    with pytest.raises(Unavailable, match=why):
        start(f"print({said})").hear(20)


def test_an_answer_without_an_end_is_not_read_for_ever(start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "MOST", 1000)

    with pytest.raises(Unavailable, match="more than 1000 bytes"):
        start("import sys\nwhile True: sys.stdout.write('x' * 1000)").hear(20)


def test_a_worker_that_ignores_the_end_of_its_input_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "ENDS", 0.05)
    program = "import os, time; print('{\"pid\": %d}' % os.getpid(), flush=True); time.sleep(60)"
    worker = Worker("a peer", [sys.executable, "-c", program], tmp_path, {})
    pid = worker.hear(20)["pid"]

    worker.close()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be chosen here")
def test_a_worker_uses_the_one_processor_that_it_is_given(tmp_path: Path):
    program = (
        "import os, sys; sys.stdin.readline(); print('{\"cpus\": %s}' % list(os.sched_getaffinity(0)), flush=True)"
    )
    cpu = process.one_cpu()
    with closing(Worker("a peer", [sys.executable, "-c", program], tmp_path, {}, cpu)) as worker:
        assert [cpu] == worker.ask(20, do="anything")["cpus"]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be chosen here")
def test_a_processor_that_is_not_there_makes_the_worker_unavailable(tmp_path: Path):
    with pytest.raises(Unavailable, match="one processor"):
        Worker("a peer", [sys.executable, "-c", "import time; time.sleep(0)"], tmp_path, {}, 1023)


def test_a_program_that_is_not_there_is_unavailable(tmp_path: Path):
    with pytest.raises(Unavailable, match="does not start"):
        Worker("a peer", [str(tmp_path / "python")], tmp_path, {})


@pytest.mark.control("peers get nothing of the caller's environment")
def test_a_worker_finds_no_key_and_no_proxy_of_the_caller(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("API_KEY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "of the caller")

    found = start("import json, os; print(json.dumps(dict(os.environ)))").hear(20)

    assert "of the caller" not in found.values()
    assert (str(tmp_path), str(ROOT)) == (found["HOME"], found["PYTHONPATH"])


# --- inside a peer's process -----------------------------------------------------------------------------------------


def test_a_peer_is_measured_and_looked_at_in_its_own_process(start, tmp_path: Path):
    worker = start(PEER, str(tmp_path), "http://127.0.0.1:1", "0.0005")

    hello, facts, sample = worker.hear(60), worker.ask(60, do="facts"), worker.ask(60, do="round", turn=0)
    worker.close()

    assert (["only"], ["langchain-core"]) == (hello["variants"], list(hello["versions"]))
    assert "the test" == facts["only"]["denied_by"]
    assert {"plain", "control", "only/allowed", "only/denied"} == set(sample)
    assert all(len(times) == 3 and min(times) > 0 for times in sample.values())
    assert (tmp_path / "closed").exists()


def test_a_peer_that_cannot_be_imported_is_unavailable_with_the_reason(start, tmp_path: Path):
    program = "from bench.peers.serving import serve\ndef make(folder, server): import not_there\nserve(make)"

    with pytest.raises(Unavailable, match="No module named 'not_there'"):
        start(program, str(tmp_path), "http://127.0.0.1:1", "0.0005").hear(60)


@pytest.mark.control("peers are measured offline")
def test_a_peer_reaches_no_other_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket.socket, "connect", socket.socket.connect)
    serving.stay_on_this_machine()

    with socket.socket() as client, pytest.raises(OSError, match=r"no connection to '192\.0\.2\.1'"):
        client.connect(("192.0.2.1", 9))


def test_a_peer_reaches_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket.socket, "connect", socket.socket.connect)
    serving.stay_on_this_machine()

    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())


def refuse() -> None:
    raise PermissionError


@pytest.mark.control("a figure is for the work it names")
def test_a_call_that_should_be_refused_and_is_not_has_no_figure():
    work.expect(refuse, PermissionError)

    with pytest.raises(AssertionError, match="let through"):
        work.expect(lambda: None, PermissionError)


def test_a_call_that_is_refused_for_another_reason_has_no_figure():
    with pytest.raises(PermissionError):
        work.expect(refuse, KeyError)


def test_looking_at_calls_counts_bytes_and_runs_of_the_body(tmp_path: Path):
    def call() -> None:
        with (tmp_path / "log").open("a") as log:
            log.write("four")
        work.lookup("users")
        work.note("a token")

    seen = work.look(tmp_path, call)

    assert (4, work.CALLS, "shared") == (seen.bytes_written, seen.ran, work.each_call())


def test_looking_at_a_refused_call_sees_that_no_body_ran(tmp_path: Path):
    seen = work.look(tmp_path, refuse, PermissionError)

    assert (0, 0, "-") == (seen.bytes_written, seen.ran, work.each_call())


def test_disk_waits_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, getattr(os, name))
    work.count_disk_waits()

    def call() -> None:
        with (tmp_path / "log").open("ab") as log:
            os.fsync(log.fileno())
            os.fdatasync(log.fileno())

    assert 2 == work.look(tmp_path, call).disk_waits


@pytest.mark.parametrize(("token", "found"), [("opaque-token", "unsigned"), (token_server.jwt("x"), "HS256")])
def test_a_credential_is_signed_with_what_its_header_says(token: str, found: str):
    assert found == work.algorithm(token)


def test_lines_are_a_chain_when_each_holds_the_digest_of_the_one_before():
    import hashlib

    first = '{"event": "issued"}'
    second = json.dumps({"prev": hashlib.sha256(first.encode()).hexdigest()})

    assert [True, False, False] == [work.linked(lines) for lines in ([first, second], [first, first], [first])]


# --- the token server ------------------------------------------------------------------------------------------------


def post(address: str, form: Mapping[str, str]) -> Any:
    with urllib.request.urlopen(f"{address}/token", urllib.parse.urlencode(form).encode(), timeout=20) as answer:
        return json.load(answer)


def test_the_token_server_grants_refuses_and_counts(tmp_path: Path):
    command = [sys.executable, "-P", "-m", "bench.peers.token_server"]
    with closing(Worker("the token server", command, tmp_path, {})) as server:
        address = server.hear(60)["address"]
        granted = post(address, {"resource": "https://db.test/users"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(address, {"audience": "https://db.test/secret"})
        with refused.value as answer:
            error = json.load(answer)
        with urllib.request.urlopen(f"{address}/counts", timeout=20) as answer:
            counts = json.load(answer)

    assert "https://db.test/users" == work.claims(granted["access_token"])["aud"]
    assert "invalid_target" == error["error"]
    assert {"token": 2} == counts


# --- rounds and figures ----------------------------------------------------------------------------------------------


class Fake:
    """Answers rounds with the same times, until it fails."""

    def __init__(self, name: str, log: list[str], *, fails_at: int | None = None) -> None:
        self.name, self.log, self.fails_at = name, log, fails_at

    def ask(self, seconds: float = 60, **command: Any) -> Mapping[str, Any]:
        self.log.append(self.name)
        if command["turn"] == self.fails_at:
            raise Unavailable(f"{self.name} has ended")
        return {"plain": [1.0, 1.0, 1.0]}


def interleaved(rounds: int, seconds: float = 60, **fakes: int | None) -> tuple[int, list[str], dict[str, Measured]]:
    log: list[str] = []
    found = {name: Measured(name) for name in fakes}
    workers = {name: Fake(name, log, fails_at=turn) for name, turn in fakes.items()}
    return interleave(workers, found, rounds, seconds), log, found


def test_rounds_go_forwards_and_backwards_in_turn():
    done, log, _ = interleaved(2, a=None, b=None)

    assert (2, ["b", "a", "a", "b"]) == (done, log)


def test_a_worker_that_fails_is_left_out_and_the_others_go_on():
    done, log, found = interleaved(3, a=None, b=1)

    assert (3, 3, 2) == (done, log.count("a"), log.count("b"))
    assert ("b has ended", {}, 3) == (found["b"].why, found["b"].times, len(found["a"].times["plain"]))


def test_no_round_begins_after_the_time_is_up():
    assert (0, []) == interleaved(3, seconds=0, a=None)[:2]


def measured(name: str, plain: float, allowed: float, *, variant: str = REFERENCE, control: float = 1.0) -> Measured:
    cases = {"plain": plain, "control": plain * control, f"{variant}/allowed": allowed, f"{variant}/denied": allowed}
    return Measured(
        name, {"langchain-core": "1"}, [variant], {variant: work_facts()},
        {case: [[seconds] * 3] * LEAST for case, seconds in cases.items()},
    )  # fmt: skip


def work_facts() -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(work.Facts(audit="memory", denied_tool_runs="yes"))


def a_run(*others: Measured, ours: float = 3.0, control: float = 1.0, rounds: int = LEAST) -> Mapping[str, Any]:
    own = [measured(OURS, 1.0, ours, control=control), measured(OURS_WITHOUT, 1.0, 2.0)]
    return report([*own, *others], rounds)


def row(result: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(one for one in result["peers"] if one["peer"] == name)


def test_a_peer_is_held_against_its_own_plain_call_and_against_ours():
    allowed = row(a_run(measured("peer", 2.0, 6.0, variant="v")), "peer")["variants"][0]["allowed"]

    assert (3.0, 2.0, 3.0) == tuple(
        allowed[name]["value"] for name in ("over_plain", "over_ours", "over_ours_without_sdk")
    )
    assert (2.0, 4.0) == (allowed["added_over_ours"], allowed["added_over_ours_without_sdk"])


def test_a_ratio_is_the_median_within_rounds_with_its_spread():
    floor = [1.0] * 20
    times = [float(number) for number in range(1, 21)]

    assert {"value": 10.5, "p10": 3.0, "p90": 18.0} == spread(times, floor)


def test_a_peer_that_did_not_run_is_named_with_the_reason():
    result = a_run(Measured("peer", why="it was not found"), measured("other", 1, 2, variant="v"))

    assert (1, True) == (result["peers_that_ran"], result["valid"])
    assert (False, "it was not found") == (row(result, "peer")["ran"], row(result, "peer")["why"])
    assert "peer: did not run: it was not found" in table(result)


def test_a_run_whose_control_is_not_one_is_void():
    result = a_run(control=1.2)

    assert not result["valid"]
    assert "VOID" in table(result)


def test_a_run_of_too_few_rounds_is_void_and_has_no_figures():
    result = a_run(measured("peer", 1, 2, variant="v"), rounds=LEAST - 1)

    assert not result["valid"]
    assert {False} == {one["ran"] for one in result["peers"]}


def test_a_run_without_ours_is_void_and_compares_nothing():
    result = report([Measured(OURS, why="gone"), measured(OURS_WITHOUT, 1, 2), measured("peer", 1, 2)], LEAST)

    assert not result["valid"]
    assert "gone" == row(result, "peer")["why"]


def test_a_peer_whose_control_is_not_one_is_marked():
    assert "peer: v (noisy)" in table(a_run(measured("peer", 1, 2, variant="v", control=0.9)))


@pytest.mark.control("what a peer does stands beside its figure")
def test_each_row_says_what_a_call_does():
    heads, *rows = table(a_run(measured("peer", 2, 6, variant="v"))).splitlines()
    found = next(line for line in rows if line.startswith("peer: v"))

    def cell(head: str) -> str:
        end = heads.index(head) + len(head)
        return found[:end].split()[-1]

    assert ["3.00", "memory", "yes"] == [cell("allowed/plain"), cell("audit"), cell("denied runs")]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ran", "code"), [(3, 0), (2, 1)])
def test_fewer_than_three_peers_are_a_failure(ran: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys):
    others = [measured(f"peer-{number}", 1, 2, variant="v") for number in range(ran)]
    result = a_run(*others, Measured("absent", why="it cannot be installed"))
    monkeypatch.setattr(peers, "run", lambda entries, environments, rounds: result)

    assert code == peers.main(["--json"])
    shown = json.loads(capsys.readouterr().out)
    assert (False, "it cannot be installed") == (row(shown, "absent")["ran"], row(shown, "absent")["why"])


def test_a_void_run_is_a_failure(monkeypatch: pytest.MonkeyPatch, capsys):
    others = [measured(f"peer-{number}", 1, 2, variant="v") for number in range(3)]
    monkeypatch.setattr(peers, "run", lambda entries, environments, rounds: a_run(*others, control=2.0))

    assert 1 == peers.main([])
    assert "VOID" in capsys.readouterr().out


# --- environments ----------------------------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have made an environment."""
    commands: list[list[str]] = []
    monkeypatch.setattr(environments, "_run", commands.append)
    monkeypatch.setattr(environments, "_uv", lambda: "uv")
    return commands


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    (tmp_path / "peers-x.lock").write_text("x==1 --hash=sha256:00\n")
    return tmp_path / "peers-x.lock"


def complete(python: Path) -> None:
    python.parent.mkdir(parents=True, exist_ok=True)


@pytest.fixture(autouse=True)
def homes(monkeypatch: pytest.MonkeyPatch) -> None:
    real = environments._make

    def make(home: Path, python: Path, lock: Path) -> None:
        real(home, python, lock)
        complete(python)

    monkeypatch.setattr(environments, "_make", make)


@pytest.mark.control("peers are installed by hash")
def test_an_environment_takes_only_what_the_lock_has_hashes_for(made: list[list[str]], lock: Path, tmp_path: Path):
    python = python_of("x", tmp_path / "peers", lock)

    assert ["uv", "pip", "install", "--python", str(python), "--quiet", "--require-hashes", "-r", str(lock)] == made[-1]


def test_an_environment_is_made_once(made: list[list[str]], lock: Path, tmp_path: Path):
    first = python_of("x", tmp_path / "peers", lock)
    commands = len(made)

    assert (first, commands) == (python_of("x", tmp_path / "peers", lock), len(made))


def test_a_changed_lock_makes_another_environment(made: list[list[str]], lock: Path, tmp_path: Path):
    first = python_of("x", tmp_path / "peers", lock)
    lock.write_text("x==2 --hash=sha256:00\n")

    assert first != python_of("x", tmp_path / "peers", lock)


def test_an_environment_that_was_left_half_made_is_made_again(
    made: list[list[str]], lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(command: list[str]) -> None:
        raise Unavailable("no space")

    with monkeypatch.context() as patched:
        patched.setattr(environments, "_run", fail)
        with pytest.raises(Unavailable, match="no space"):
            python_of("x", tmp_path / "peers", lock)

    assert made == []
    python_of("x", tmp_path / "peers", lock)
    assert made != []


def test_pip_is_tried_where_uv_cannot(lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    commands: list[list[str]] = []

    def run(command: list[str]) -> None:
        commands.append(command)
        if command[:2] == ["uv", "pip"]:
            raise Unavailable("no index")

    monkeypatch.setattr(environments, "_run", run)
    monkeypatch.setattr(environments, "_uv", lambda: "uv")

    python_of("x", tmp_path / "peers", lock)

    assert [sys.executable, "-m", "pip"] == commands[-1][:3]
    assert "--require-hashes" in commands[-1]


def test_a_peer_without_a_lock_is_unavailable(tmp_path: Path):
    with pytest.raises(Unavailable, match=r"no peers-nobody\.lock"):
        python_of("nobody", tmp_path)


def test_a_command_that_fails_says_why(tmp_path: Path):
    with pytest.raises(Unavailable, match="it broke"):
        environments._run([sys.executable, "-c", "raise SystemExit('it broke')"])


# --- the locks -------------------------------------------------------------------------------------------------------

PIN = re.compile(r"^([a-z0-9.-]+)==([^\s;]+)", re.MULTILINE)


def lock_text(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LOCKS)
def test_a_peers_lock_holds_names_versions_and_hashes_only(name: str):
    text = lock_text(f"peers-{name}")

    assert re.findall(r"://|^-e .*|^--\w.*| @ .*|^\.?/.*", text, re.MULTILINE) == []
    assert all("--hash=sha256:" in part for part in re.split(r"\n(?=[a-z0-9])", text) if "==" in part)
    assert [pin for pin, _ in PIN.findall(text) if pin.startswith("agentguard")] == []


@pytest.mark.parametrize("name", LOCKS)
def test_every_peer_is_measured_on_our_versions_of_what_runs_a_tool(name: str):
    shared = {"langchain-core", "pydantic"}

    own = {pin: version for pin, version in PIN.findall(lock_text("dev")) if pin in shared}

    assert own == {pin: version for pin, version in PIN.findall(lock_text(f"peers-{name}")) if pin in shared}
