"""Brokers, identity and state in `agentguard.yaml`: read, built, and each mistake named where it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

import agentguard
from agentguard import ConfigurationError
from agentguard._drive import drive
from agentguard.cli.main import main
from agentguard.config_brokers import _read_anew
from agentguard.config_fields import SecretSource
from agentguard.credentials.local import LocalIssuer
from agentguard.credentials.routes import Routes
from agentguard.identity.spiffe import SpiffeIdentity
from agentguard.keys import KeySet, SigningKey
from tests.identity.test_jwt_file import ACCOUNT, AUDIENCE, workload_token
from tests.loopback import reply, serving
from tests.resource_server.forging import KEY, NOW

HEAD = """\
version: 1
agents: {support-bot: {owners: {business: ann@bank.test}, purpose: refunds}}
audit: {dir: audit, pseudonym_key: {file: pseudonym}}
"""
STATE = "state: {sqlite: state.db, key: {file: ledger}}\n"
SPIFFE = "identity: {spiffe: {socket: unix://FOLDER/absent.sock, timeout: 1s}}\n"
EXCHANGE = "issuer: https://as.bank.test, client_id: support-bot, key: client.pem"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("pseudonym", "ledger"):
        (tmp_path / name).write_text("0123456789abcdef" * 4)
        (tmp_path / name).chmod(0o600)
    SigningKey.generate().write_pem_file(tmp_path / "client.pem")
    tmp_path.chmod(0o700)
    return tmp_path


def load(folder: Path, text: str) -> Any:
    file = folder / "agentguard.yaml"
    file.write_text(HEAD + text.replace("FOLDER", str(folder)))
    return agentguard.load(file)


def mistake(folder: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        load(folder, text)
    return str(raised.value)


def test_mistake_in_handovers_opens_no_state(folder: Path) -> None:
    wrong = "handovers: {issuer: 'https://a.bank.test', trust_domain: bank.test, key: absent.pem}\n"
    assert "agentguard.yaml:5: handovers: " in mistake(folder, STATE + wrong)
    assert not (folder / "state.db").exists()


def test_secret_that_is_read_anew_is_found_from_another_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    read = _read_anew(SecretSource(file=Path("ledger")))
    monkeypatch.chdir("/")
    assert read() == "0123456789abcdef" * 4


@pytest.mark.parametrize("name", [".", "..", "../log"])
def test_log_may_be_in_the_working_directory_and_is_recovered_there(
    tmp_path: Path, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home := tmp_path / "desk" / "log").mkdir(parents=True)
    monkeypatch.chdir(home)
    Path("agentguard.yaml").write_text(
        HEAD.replace("dir: audit", f"dir: {name}, key: {folder}/ed.pem, name: desk").replace(
            "file: pseudonym", f"file: {folder}/pseudonym"
        )
    )
    SigningKey.generate("EdDSA").write_pem_file(folder / "ed.pem")
    for _ in range(2):
        agentguard.load().close()
    log = (home / name).resolve()
    assert 0 == main(["audit", "verify", str(log)])
    assert sorted(file.name for file in log.parent.glob(f"{log.name}.*")) == [f"{log.name}.checkpoints"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"tokens: {{exchange: {{{EXCHANGE}, dpop: true, actor: signed, max_lifetime: 90s}}}}", "<Routes exchange>"),
        (f"tokens: {{client_credentials: {{{EXCHANGE}, target: audience}}}}", "<Routes client_credentials>"),
        (
            f"tokens: {{id_jag: {{{EXCHANGE}, provider: {{issuer: 'https://idp.test', client_id: a, key: client.pem}}}}}}",  # noqa: E501  # a line of the file
            "<Routes id_jag>",
        ),
        (
            "tokens: {openbao: {address: 'https://vault.test', login: {role: bot, audience: 'https://vault.test'}, ttl: 60s, "  # noqa: E501  # a line of the file
            "databases: {'postgresql://db.test/app': {role: read}}, "
            "secrets: {'https://legacy.test': {path: legacy, field: key, header: X-Api-Key}}}}\n" + SPIFFE,
            "<Routes openbao>",
        ),
        (
            "tokens: {postgres: {dsn: {file: ledger}, audience: 'postgresql://db.test/app', "
            "grants: {table/invoices: {public.invoices: {'db:read': [SELECT]}}}}}",
            "<Routes postgres>",
        ),
    ],
)
def test_each_broker_is_made_from_the_file(folder: Path, text: str, shown: str) -> None:
    with load(folder, f"{text}\n{STATE}") as guard:
        assert repr(guard.issuer) == shown
        assert guard.remote
        assert not guard.suspends


@pytest.mark.parametrize("said", [True, False])
def test_steps_are_asked_for_in_tokens_where_the_file_says_so(folder: Path, said: bool) -> None:
    text = f"tokens: {{exchange: {{{EXCHANGE}, details: {str(said).lower()}}}}}\n"
    with load(folder, text + STATE) as guard:
        assert guard.details is said


def test_several_brokers_stand_side_by_side_with_audiences_of_their_own(folder: Path) -> None:
    text = f"tokens: {{local: {{key: client.pem}}, exchange: {{{EXCHANGE}, audiences: ['https://pay.test']}}, grace: 20s}}\n"  # noqa: E501  # a line of the file
    with load(folder, text + STATE) as guard:
        assert isinstance(guard.issuer, Routes)
        assert len(guard.keys) == 1


def test_lone_local_issuer_stands_for_itself_and_needs_no_file_for_its_ledger(folder: Path) -> None:
    with load(folder, "tokens: {local: {key: client.pem, issuer: https://guard.test}}\n") as guard:
        assert isinstance(guard.issuer, LocalIssuer)
    assert not (folder / "state.db").exists()


def test_keys_that_rotate_sign_from_their_folder(folder: Path) -> None:
    from agentguard.keys import rotate

    rotate(folder / "keys", 1_700_000_000)
    with load(folder, "tokens: {local: {keys: keys}}\n") as guard:
        assert isinstance(guard.issuer, LocalIssuer)
        assert len(guard.keys) >= 1


def test_spiffe_identity_is_made_and_its_tokens_authenticate_the_client(folder: Path) -> None:
    text = (
        "tokens: {exchange: {issuer: https://as.test, client_id: 'spiffe://bank.test/bot', assertion: identity}}\n"
        + SPIFFE
    )
    with load(folder, text + STATE) as guard:
        assert isinstance(guard.authenticator, SpiffeIdentity)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"tokens: {{exchange: {{{EXCHANGE}}}}}\n", "tokens: credentials of servers outlive this process"),
        ("tokens: {exchange: {issuer: a}}\n" + STATE, "tokens.exchange.client_id: this key is missing"),
        ("tokens: {exchange: {issuer: 'https://a.test', client_id: b}}\n" + STATE, "key: FILE or with assertion"),
        (f"tokens: {{exchange: {{{EXCHANGE}, dpop: please}}}}\n" + STATE, "tokens.exchange.dpop: write true or false"),
        (f"tokens: {{exchange: {{{EXCHANGE}, subject: sane}}}}\n" + STATE, "did you mean 'same'"),
        (f"tokens: {{exchange: {{{EXCHANGE}, max_lifetime: 2d}}}}\n" + STATE, "tokens.exchange.max_lifetime: write"),
        (
            "tokens: {exchange: {issuer: 'http://as.test', client_id: b, key: client.pem}}\n" + STATE,
            "tokens.exchange: ",
        ),
        ("tokens: {local: {issuer: a}}\n", "write key: FILE, or keys: FOLDER"),
        ("tokens: {local: {key: client.pem, keys: folder}}\n", "write key: FILE, or keys: FOLDER"),
        ("tokens: {vault: {}}\n" + STATE, "unknown key 'vault'"),
        ("tokens: {grace: 20s}\n", "tokens: name a broker"),
        (f"tokens: {{exchange: {{{EXCHANGE}}}, grace: 31s}}\n" + STATE, "tokens.grace: write a duration"),
        (
            f"tokens: {{exchange: {{{EXCHANGE}}}, client_credentials: {{{EXCHANGE}}}}}\n" + STATE,
            "one may be without audiences",
        ),
        (
            "tokens: {openbao: {address: 'https://v.test', login: {role: b, audience: c}, databases: {'postgresql://d/x': {role: r}}}}\n"  # noqa: E501  # a line of the file
            + STATE,
            "openbao login needs an identity with tokens",
        ),
        (
            "tokens: {postgres: {dsn: {env: AG_NO_SUCH}, audience: 'postgresql://d/x', grants: {t: {public.t: {r: [SELECT]}}}}}\n"  # noqa: E501  # a line of the file
            + STATE,
            "AG_NO_SUCH is not set",
        ),
        (
            "tokens: {postgres: {dsn: {file: ledger}, audience: 'postgresql://d/x', grants: {t: {public.t: {r: [DROP]}}}}}\n"  # noqa: E501  # a line of the file
            + STATE,
            "write a list out of SELECT",
        ),
        ("state: {sqlite: state.db}\n", "state.key: this key is missing"),
        ("state: {sqlite: state.db, key: {file: absent}}\n", "absent cannot be read"),
        ("identity: {jwt_file: {path: t, issuer: a, audience: b}}\n", "keys: FILE or jwks: URL"),
        ("identity: {spiffe: {socket: 'tcp://1.2.3.4:1'}}\n", "identity: "),
        ("identity: [static]\n", "identity: write static, {jwt_file"),
        (
            "http: {networks: ['10.0.0.0/33']}\nusers: {issuer: 'https://i.test', audience: a, jwks: 'https://i.test/k'}\n",
            "users",
        ),
        ("users: {issuer: 'https://i.test', audience: a}\n", "users: write where the issuer's keys are"),
    ],
)
def test_mistake_is_named_where_it_stands(folder: Path, text: str, expected: str) -> None:
    found = mistake(folder, text)
    assert expected in found
    assert re.search(r"agentguard\.yaml:\d+: ", found) or "SELECT" in expected
    assert not (folder / "state.db").exists()


def test_secrets_of_the_file_are_in_no_error(folder: Path) -> None:
    text = "tokens: {postgres: {dsn: 'postgresql://admin:hunter2@db/x', audience: 'postgresql://d/x', grants: {}}}\n"
    assert "hunter2" not in mistake(folder, text + STATE)


@pytest.mark.parametrize(
    "text",
    [
        "state: {postgres: {dsn: {file: ledger}}, key: {file: ledger}}\n",
        "tokens: {postgres: {dsn: {file: ledger}, audience: 'postgresql://d/x', grants: {t: {public.t: {r: [SELECT]}}}}}\n"  # noqa: E501  # a line of the file
        + STATE,
    ],
)
def test_postgresql_without_its_driver_is_told_the_extra_that_brings_it(
    folder: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if "postgres" in name and name.startswith("agentguard.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "pip install 'agentguard[postgres]'" in mistake(folder, text)


@pytest.mark.parametrize("state", [STATE, ""])
def test_handovers_are_made_with_the_peers_keys(folder: Path, state: str) -> None:
    import json

    (folder / "peer.jwks.json").write_text(json.dumps(KeySet.of(SigningKey.generate()).jwks()))
    text = (
        "handovers: {issuer: 'https://a.test', trust_domain: bank.test, key: client.pem, leeway: 5s, "
        "peers: {'https://b.test': {keys: peer.jwks.json}, 'https://c.test': {jwks: 'https://c.test/jwks'}}}\n"
    )
    with load(folder, text + state) as guard:
        assert guard.handovers is not None
        assert sorted(guard.handovers.peers) == ["https://b.test", "https://c.test"]
        assert guard.handovers.redemptions.shared is bool(state)


def test_state_of_a_file_is_shared_by_all_that_name_it(folder: Path) -> None:
    with load(folder, STATE) as guard, load(folder, STATE) as other:
        guard.suspend(agent="support-bot", why="test")
        assert drive(other.suspensions.suspended(["agent:support-bot"])) == "agent:support-bot"


def test_keys_of_the_identitys_issuer_are_fetched_from_their_url(folder: Path) -> None:
    with serving(lambda request: reply(KeySet.of(KEY).jwks(), Connection="close")) as server:
        (folder / "token").write_text(workload_token(iss=server.url))
        text = f"identity: {{jwt_file: {{path: token, issuer: '{server.url}', audience: '{AUDIENCE}', jwks: '{server.url}'}}}}\n"  # noqa: E501  # a line of the file
        with load(folder, text) as guard:
            assert drive(guard.authenticator.identify(NOW)).name == ACCOUNT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("handovers: {issuer: a}\n", "handovers.trust_domain: this key is missing"),
        ("handovers: {issuer: a, trust_domain: b, peers: {c: {}}}\n", "handovers.peers.c"),
        ("handovers: {issuer: a, trust_domain: b, peers: {c: {keys: absent}}}\n", "handovers: key file"),
        ("handovers: {issuer: 'a b', trust_domain: b}\n", "handovers: issuer 'a b' is no name"),
        ("state: {key: {file: ledger}}\n", "write sqlite: FILE"),
        ("state: {postgres: {dsn: {env: AG_NO_SUCH}}, key: {file: ledger}}\n", "AG_NO_SUCH is not set"),
    ],
)
def test_mistake_in_what_is_shared_is_named_where_it_stands(folder: Path, text: str, expected: str) -> None:
    assert expected in mistake(folder, text)
