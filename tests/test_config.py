"""The composition root: a guard from a file, and one without."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import Any

import pytest

from agentguard import Guard
from agentguard.audit.log import FileLog
from agentguard.audit.memory import MemoryLog
from agentguard.audit.pseudonyms import Pseudonyms
from agentguard.config import load, local
from agentguard.credentials.local import LocalIssuer
from agentguard.errors import ConfigurationError, Denied
from agentguard.identity.id_token import IdTokenVerifier
from agentguard.intent import Intent
from agentguard.keys import KeySet, SigningKey
from agentguard.registry import OpenRegistry, Registry
from agentguard.wrap import guarded

SECRET = "5ec2e7" * 8
CEILING = """\
version: 1
intent: support-ceiling
purpose: What support may ever do
reads: [account.read]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration with everything that is built now."""
    keys = tmp_path / "keys"
    keys.mkdir()
    SigningKey.generate().write_pem_file(keys / "token.pem")
    (keys / "login.json").write_text(json.dumps(KeySet.of(SigningKey.generate()).jwks()))
    (keys / "pseudonym").write_text(f"{SECRET}\n")
    (keys / "pseudonym").chmod(0o600)
    (tmp_path / "ceiling.yaml").write_text(CEILING)
    (tmp_path / "agentguard.yaml").write_text("""\
version: 1
environment: prod
agents:
  bot:
    owners: {business: ann@bank.test}
    purpose: Refunds
    ceiling: ceiling.yaml
  other:
    owners: {business: ann@bank.test}
    purpose: Reports
    ceiling: ceiling.yaml
identity: static
tokens:
  local:
    issuer: https://guard.bank.test
    key: keys/token.pem
users:
  issuer: https://login.bank.test
  audience: support
  keys: keys/login.json
audit:
  dir: audit
  pseudonym_key: {file: keys/pseudonym}
""")
    return tmp_path


def change(folder: Path, old: str, new: str) -> Path:
    file = folder / "agentguard.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return file


def mistakes(file: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    return tuple(problem.replace(f"{file.parent}{os.sep}", "") for problem in caught.value.problems)


def test_load_builds_the_rooms_that_the_file_names(folder: Path) -> None:
    guard = load(folder / "agentguard.yaml")

    assert isinstance(guard.audit, FileLog)
    assert isinstance(guard.registry, Registry)
    assert isinstance(guard.issuer, LocalIssuer)
    assert isinstance(guard.users, IdTokenVerifier)
    assert guard.environment == "prod"
    assert guard.pseudonym("a") == Pseudonyms.single(SECRET.encode()).of("a")
    assert guard.registry.names() == ("bot", "other")
    assert list((folder / "audit").glob("*.jsonl"))
    guard.close()


def test_load_finds_agentguard_yaml_in_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)

    guard = load()

    assert guard.environment == "prod"
    guard.close()


def test_every_agent_gets_its_ceiling(folder: Path) -> None:
    guard = load(folder / "agentguard.yaml")

    agents = [guard.registry.get(name) for name in ("bot", "other")]
    assert all(agent is not None and agent.ceiling is not None for agent in agents)
    guard.close()


def test_a_file_without_tokens_and_users_has_neither_issuer_nor_verifier(folder: Path) -> None:
    text = (folder / "agentguard.yaml").read_text()
    file = folder / "small.yaml"
    file.write_text(text[: text.index("tokens:")] + text[text.index("audit:") :])

    guard = load(file)

    assert (guard.issuer, guard.users) == (None, None)
    guard.close()


def test_the_pseudonym_key_comes_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AG_TEST_PSEUDONYM", SECRET.upper())

    guard = load(change(folder, "{file: keys/pseudonym}", "{env: AG_TEST_PSEUDONYM}"))

    assert guard.pseudonym("a") == Pseudonyms.single(SECRET.upper().encode()).of("a")
    guard.close()


@pytest.mark.parametrize("text", [None, "", "  "])
def test_a_variable_that_is_not_set_is_a_mistake(
    text: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AG_TEST_PSEUDONYM", raising=False)
    if text is not None:
        monkeypatch.setenv("AG_TEST_PSEUDONYM", text)

    (problem,) = mistakes(change(folder, "{file: keys/pseudonym}", "{env: AG_TEST_PSEUDONYM}"))

    assert problem.startswith("agentguard.yaml:23: audit.pseudonym_key: the environment variable AG_TEST_PSEUDONYM")
    assert problem.endswith("is not set; make one with: openssl rand -hex 32")


def test_a_short_pseudonym_key_is_a_mistake_and_shown_nowhere(folder: Path) -> None:
    (folder / "keys" / "pseudonym").write_text("hunter2")

    with pytest.raises(ConfigurationError) as caught:
        load(folder / "agentguard.yaml")

    assert "audit.pseudonym_key: the key has fewer than 32 characters" in str(caught.value)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "hunter2" not in shown


def test_a_key_that_others_can_read_is_refused(folder: Path) -> None:
    (folder / "keys" / "pseudonym").chmod(0o644)
    (folder / "keys" / "token.pem").chmod(0o640)

    token, pseudonym = mistakes(folder / "agentguard.yaml")

    assert token.startswith("agentguard.yaml:16: tokens.local.key: ")
    assert "chmod 600" in token
    assert pseudonym.startswith("agentguard.yaml:23: audit.pseudonym_key: group or others can use")


def test_files_that_are_missing_are_mistakes_with_their_lines(folder: Path) -> None:
    for name in ("keys/token.pem", "keys/login.json", "keys/pseudonym", "ceiling.yaml"):
        (folder / name).unlink()

    problems = mistakes(folder / "agentguard.yaml")

    assert [problem.split(": ")[:2] for problem in problems] == [
        ["agentguard.yaml:7", "agents.bot.ceiling"],
        ["agentguard.yaml:16", "tokens.local.key"],
        ["agentguard.yaml:20", "users.keys"],
        ["agentguard.yaml:23", "audit.pseudonym_key"],
    ]


@pytest.mark.parametrize("key", ["5", "[checkpoint.pem]", "''", "{file: checkpoint.pem}"])
def test_a_checkpoint_key_that_is_no_file_is_a_mistake_at_its_line(key: str, folder: Path) -> None:
    (problem,) = mistakes(change(folder, "  dir: audit\n", f"  dir: audit\n  key: {key}\n"))

    assert problem.startswith("agentguard.yaml:23: audit.key: write the name of a file")


def test_an_issuer_that_is_no_name_is_a_mistake(folder: Path) -> None:
    (problem,) = mistakes(change(folder, "https://guard.bank.test", "two words"))

    assert problem.startswith("agentguard.yaml:15: tokens.local.issuer: issuer 'two words' is no name")


def test_the_mistakes_of_the_file_and_of_its_ceilings_come_in_one_error(folder: Path) -> None:
    (folder / "ceiling.yaml").write_text("version: 1\nintent: c\npurpose: C\nreadz: [a.read]\nreads: [a..b]\n")

    problems = mistakes(change(folder, "purpose: Refunds", "purpos: Refunds"))

    places = [problem.split(": ")[0] for problem in problems]
    assert places[:2] == ["agentguard.yaml:4", "agentguard.yaml:6"]
    assert {"ceiling.yaml:4", "ceiling.yaml:5"} <= set(places)
    assert len(places) == len(set(problems))


def test_a_wrong_file_opens_no_log(folder: Path) -> None:
    mistakes(change(folder, "version: 1", "version: 2"))

    assert not (folder / "audit").exists()


@guarded("account.read", effect="read")
def read_account(account: str) -> str:
    return account


@guarded("account.close", effect="write")
def close_account(account: str) -> str:
    return account


INTENT = """\
version: 1
intent: support
purpose: Look
reads: [account.read]
steps: [{tool: account.close, args: {account: {eq: a}}}]
"""


def test_what_the_intent_permits_and_the_agents_ceiling_does_not_is_denied(folder: Path) -> None:
    (folder / "intent.yaml").write_text(INTENT)

    with (
        load(folder / "agentguard.yaml") as guard,
        guard.task("bot", on_behalf_of="alice", intent=Intent.load(folder / "intent.yaml")),
    ):
        assert read_account("a") == "a"
        with pytest.raises(Denied) as caught:
            close_account("a")

    assert (caught.value.reason, caught.value.decision.level) == ("outside_intent", "ceiling:bot")


def test_an_agent_opens_the_intent_file_it_is_pinned_to_and_no_other(folder: Path) -> None:
    file = folder / "intent.yaml"
    file.write_text(INTENT)
    pinned = Intent.load(file)
    file.write_text(INTENT.replace("purpose: Look", "purpose: Look closely"))
    line = f'purpose: Refunds\n    purposes: [{{support: "s256:{pinned.source_s256}"}}]'

    with load(change(folder, "purpose: Refunds", line)) as guard:
        with guard.task("bot", on_behalf_of="alice", intent=pinned):
            pass
        with pytest.raises(Denied) as caught, guard.task("bot", on_behalf_of="alice", intent=Intent.load(file)):
            pass

    assert caught.value.reason == "not_allowed"


def test_nobody_but_a_registered_agent_opens_a_task(folder: Path) -> None:
    (folder / "intent.yaml").write_text(INTENT)
    intent = Intent.load(folder / "intent.yaml")

    with (
        load(folder / "agentguard.yaml") as guard,
        pytest.raises(Denied) as caught,
        guard.task("stranger", on_behalf_of="alice", intent=intent),
    ):
        pass

    assert caught.value.reason == "unknown_agent"


def test_local_needs_nothing_and_admits_every_agent() -> None:
    with local() as guard:
        assert isinstance(guard.audit, MemoryLog)
        assert isinstance(guard.registry, OpenRegistry)
        assert isinstance(guard.issuer, LocalIssuer)
        assert (guard.environment, guard.users) == ("local", None)


@pytest.mark.parametrize("approver", ["prompt", print])
def test_local_refuses_what_asks_nobody_and_says_what_to_write(approver: Any) -> None:
    with pytest.raises(ConfigurationError, match="write Callback"):
        local(approver=approver)


def test_two_local_guards_share_no_key() -> None:
    with local() as one, local() as other:
        assert one.pseudonym("a") != other.pseudonym("a")
        assert one.keys.jwks() != other.keys.jwks()


def test_local_with_a_directory_writes_files(tmp_path: Path) -> None:
    guard = local(audit=tmp_path / "audit", environment="dev")

    assert isinstance(guard.audit, FileLog)
    assert guard.environment == "dev"
    guard.close()
    assert list((tmp_path / "audit").glob("*.jsonl"))


def test_checkpoints_are_signed_where_the_file_names_a_key(folder: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = folder / "audit.pem"
    key.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key.chmod(0o600)
    file = change(folder, "  dir: audit\n", "  dir: audit\n  key: audit.pem\n  name: bank\n")
    with load(file) as guard:
        directory = folder / "audit"
        assert guard.audit is not None
    notes = list(directory.with_name(f"{directory.name}.checkpoints").glob("*"))
    assert any("bank/" in note.read_text() for note in notes)


def records(folder: Path) -> list[dict[str, Any]]:
    """Load and close a guard, and return all records of the directory."""
    load(folder / "agentguard.yaml").close()
    return [json.loads(line) for file in (folder / "audit").glob("*.jsonl") for line in file.read_text().splitlines()]


def test_guard_whose_recovery_fails_is_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Guard] = []

    def fails(guard: Guard) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(Guard, "recover", fails)
    monkeypatch.setattr(Guard, "close", lambda guard: closed.append(guard))
    with pytest.raises(KeyboardInterrupt):
        load(folder / "agentguard.yaml")
    assert len(closed) == 1
    monkeypatch.undo()
    closed[0].close()


def test_calls_of_a_process_that_died_are_closed_as_unknown_at_loading(folder: Path) -> None:
    directory = folder / "audit"
    line = records(folder)[0]
    dead = {"call": "c1", "task": "t1", "tool": "bank.pay", "event": "call.permitted", "chain": "d" * 32, "seq": 2}
    opened = {**line, "chain": "d" * 32}
    lines = [opened, {**dead, "time": line["time"]}]
    torn = "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in lines)
    (directory / "audit-dead.jsonl").write_text(torn)
    records(folder)
    found = [one for one in records(folder) if one["event"] == "call.unknown"]
    assert [(one["call"], one["log"]) for one in found] == [("c1", "d" * 32)]


def test_users_of_a_provider_whose_id_tokens_live_longer_are_verified_where_the_file_says_so(folder: Path) -> None:
    file = change(folder, "  audience: support\n", "  audience: support\n  max_lifetime: 2h\n")
    with load(file) as guard:
        assert isinstance(guard.users, IdTokenVerifier)
        assert guard.users._profile.max_lifetime == 7200
    change(folder, "max_lifetime: 2h", "max_lifetime: 2d")
    with pytest.raises(ConfigurationError, match=r"users\.max_lifetime"):
        load(file)
