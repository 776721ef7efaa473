"""`agentguard.yaml`, from its tree to settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentguard.config_fields import SecretSource
from agentguard.config_file import Settings, Users, read_settings
from agentguard.config_tokens import Workload
from agentguard.errors import ConfigurationError
from agentguard.intent.strict_file import Document, Problems, read_strict
from agentguard.model.principal import Agent, Proof

PIN = "A" * 43
COMPLETE = f"""\
version: 1
environment: prod
agents:
  support-bot:
    owners: {{business: ann@bank.test, identity: iam@bank.test, control: payments@bank.test}}
    purpose: Customer refunds
    identity: spiffe://bank.test/support-bot
    environments: [prod, test]
    not_before: 2027-01-01
    expires: 2027-03-31
    status: active
    purposes: [refund-ticket, {{nightly-report: "s256:{PIN}"}}]
    ceiling: ceilings/support.yaml
    tools: [account.read, "refund.*"]
    hand_on: {{researcher: [crm.read]}}
    limits: {{task_ttl: 30m, max_depth: 5, calls: {{max: 1000, per: 1h}}}}
  researcher:
    owners: {{business: ann@bank.test}}
    purpose: Looks things up
identity: static
tokens: {{local: {{issuer: https://guard.bank.test, key: keys/token.pem}}}}
users: {{issuer: https://login.bank.test, audience: support, keys: keys/login.json}}
audit: {{dir: audit/, pseudonym_key: {{env: AG_PSEUDONYM}}}}
"""
MINIMAL = """\
version: 1
agents:
  bot:
    owners: {business: ann@bank.test}
    purpose: Refunds
audit: {dir: audit, pseudonym_key: {file: keys/pseudonym}}
"""


def settings(text: str, file: str = "conf/agentguard.yaml") -> Settings:
    document = read_strict(text, file)
    problems = Problems(document)
    read = read_settings(document, problems)
    problems.raise_if_any("wrong:")
    return read


def mistakes(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        settings(text, "f.yaml")
    return caught.value.problems


def with_agent(line: str) -> str:
    return MINIMAL.replace("    purpose: Refunds\n", f"    purpose: Refunds\n    {line}\n")


def test_a_complete_file_is_read() -> None:
    read = settings(COMPLETE)
    bot, researcher = read.agents

    assert bot.agent == Agent("support-bot", "spiffe://bank.test/support-bot", Proof.IN_PROCESS, registered=True)
    assert dict(bot.owners) == {
        "business": "ann@bank.test",
        "identity": "iam@bank.test",
        "control": "payments@bank.test",
    }
    assert (bot.environments, bot.status, bot.ceiling) == (frozenset({"prod", "test"}), "active", None)
    assert dict(bot.purposes) == {"refund-ticket": None, "nightly-report": PIN}
    assert bot.tools == frozenset({"account.read", "refund.*"})
    assert dict(bot.hand_on) == {"researcher": frozenset({"crm.read"})}
    assert (bot.task_ttl, bot.max_depth, bot.calls) == (1800.0, 5, (1000, 3600.0))
    assert (researcher.tools, researcher.task_ttl, researcher.max_depth) == (None, 600.0, 3)
    assert read.environment == "prod"
    assert read.tokens is not None
    (broker,) = read.tokens.brokers
    assert (broker.kind, broker.audiences) == ("local", ())
    assert broker.said == {"issuer": "https://guard.bank.test", "key": Path("conf/keys/token.pem")}
    assert read.identity == Workload("static")
    assert read.users == Users("https://login.bank.test", "support", Path("conf/keys/login.json"))
    assert read.audit.pseudonym == SecretSource(env="AG_PSEUDONYM")


def test_relative_paths_are_relative_to_the_file_and_absolute_ones_stay(tmp_path: Path) -> None:
    read = settings(MINIMAL.replace("dir: audit", f"dir: {tmp_path}"))

    assert read.audit.directory == tmp_path
    assert read.audit.pseudonym == SecretSource(file=Path("conf/keys/pseudonym"))
    assert settings(COMPLETE).ceilings == {"support-bot": Path("conf/ceilings/support.yaml")}


def test_what_is_left_out_gets_the_narrow_default() -> None:
    read = settings(MINIMAL)

    assert (read.environment, read.tokens, read.users, dict(read.ceilings)) == ("", None, None, {})


def test_a_date_means_its_start_for_not_before_and_its_end_for_expires() -> None:
    bot = settings(COMPLETE).agents[0]

    assert (bot.not_before, bot.expires) == (1_798_761_600.0, 1_806_537_600.0)  # 2027-01-01T00:00Z, 2027-04-01T00:00Z


def test_a_time_with_its_zone_is_that_instant() -> None:
    (bot,) = settings(with_agent("expires: 2027-03-31T12:00:00+02:00")).agents

    assert bot.expires == 1_806_487_200.0


def test_a_registration_that_has_expired_loads_and_is_refused_at_the_call() -> None:
    (bot,) = settings(with_agent("expires: 1999-12-31")).agents

    assert bot.refusal(1_800_000_000.0, "prod") is not None


def test_an_empty_tools_list_admits_no_tool() -> None:
    (bot,) = settings(with_agent("tools: []")).agents

    assert not bot.allows("account.read", None)


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10.0), ("30m", 1800.0), ("1h", 3600.0), ("1d", 86_400.0), ("24h", 86_400.0)]
)
def test_durations(text: str, seconds: float) -> None:
    (bot,) = settings(with_agent(f"limits: {{task_ttl: {text}}}")).agents

    assert bot.task_ttl == seconds


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("limits: {task_ttl: 600}", "limits.task_ttl: write a duration such as 10s"),
        ("limits: {task_ttl: 2d}", "limits.task_ttl: write a duration such as 10s, 30m, 1h or 2d, at most 24h"),
        ("limits: {task_ttl: 0s}", "limits.task_ttl: write a duration"),
        ("limits: {task_ttl: 1.5 h}", "limits.task_ttl: write a duration"),
        ("limits: {max_depth: 17}", "limits.max_depth: write a whole number from 0 to 16"),
        ("limits: {max_depth: true}", "limits.max_depth: write a whole number"),
        ("limits: {max_dept: 3}", "limits.max_dept: unknown key 'max_dept'; did you mean 'max_depth'?"),
        ("limits: {calls: {max: 5}}", "limits.calls.per: this key is missing"),
        ("limits: {calls: {max: 0, per: 1h}}", "limits.calls.max: write a whole number from 1"),
        ("limits: {calls: 5}", "limits.calls: write a mapping, such as {max: ..., per: ...}"),
        ("expires: soon", "expires: write a date (2027-03-31) or a time with its zone"),
        ("expires: 2027-02-30", "expires: write a date"),
        ("expires: 2027-03-31T12:00:00", "expires: write a date (2027-03-31) or a time with its zone"),
        ("expires: 2027", "expires: write a date"),
        ("expires: 9999-12-31", "expires: write a date"),
        ("status: suspendd", "status: write active, suspended, retired; did you mean 'suspended'?"),
        ("status: [active]", "status: write active"),
        ("environments: []", "environments: an empty list; leave the key out for any"),
        ("environments: prod", "environments: write a list of environments: [...]"),
        ("environments: [5]", "environments[0]: write an environment's name; put it in quotes"),
        ("purposes: []", "purposes: an empty list; leave the key out for any intent"),
        ("purposes: [Refund]", "purposes[0]: 'Refund' is no intent name"),
        ("purposes: [a, a]", "purposes[1]: 'a' is there twice"),
        ("purposes: [{a: xyz}]", "purposes[0].a: write the source_s256 of the intent file"),
        ("purposes: [{a: null}]", "purposes[0].a: write the source_s256"),
        ('purposes: ["s256:abc"]', "purposes[0]: 's256:abc' is no intent name"),
        ("tools: [Account.read]", "tools[0]: 'Account.read' is no pattern"),
        ("tools: null", "tools: write a list of tool names: [...]"),
        ("hand_on: {bott: [a.read]}", "hand_on.bott: 'bott' is not registered under agents; did you mean 'bot'?"),
        ("hand_on: {bot: [a.*.b]}", "hand_on.bot[0]: 'a.*.b' is no pattern"),
        ("hand_on: [bot]", "hand_on: write a mapping, such as {researcher: [account.read]}"),
        ("ceiling: {}", "ceiling: write the name of a file; put it in quotes"),
        ('identity: ""', "identity: write the workload's identity"),
        ("tool: [a.read]", "tool: unknown key 'tool'; did you mean 'tools'?"),
    ],
)
def test_a_mistake_in_an_agent_names_its_line_and_path(line: str, expected: str) -> None:
    (problem,) = mistakes(with_agent(line))

    assert problem.startswith(f"f.yaml:6: agents.bot.{expected}")


def test_dates_in_the_wrong_order_are_a_mistake() -> None:
    text = with_agent("expires: 2027-03-31\n    not_before: 2027-04-01")

    assert mistakes(text) == ("f.yaml:6: agents.bot.expires: not_before must be earlier than expires",)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("version: 1", "version: 2", "f.yaml:1: version: write 1"),
        ("version: 1", 'version: "1"', "f.yaml:1: version: write 1"),
        ("version: 1", "version: true", "f.yaml:1: version: write 1"),
        ("version: 1\n", "", "f.yaml:1: version: this key is missing"),
        (
            "version: 1",
            "version: 1\nenvironment: 5",
            "f.yaml:2: environment: write the environment's name; put it in quotes",
        ),
        ("version: 1", "version: 1\nzzz: 5", "f.yaml:2: zzz: unknown key 'zzz'; known are version, agents, audit"),
        (
            "version: 1",
            "version: 1\npolicies: []",
            "f.yaml:2: policies: unknown key 'policies'; did you mean 'policy'?",
        ),
        (
            "version: 1",
            "version: 1\nidentity: spiffe",
            "f.yaml:2: identity: write static, {jwt_file: {...}} or {spiffe: {...}}",
        ),
        ("version: 1", "version: 1\nidentity: {static: x}", "f.yaml:2: identity.static: unknown key 'static'"),
        (
            "owners: {business: ann@bank.test}",
            "owners: {control: a}",
            "f.yaml:4: agents.bot.owners.business: this key is missing",
        ),
        (
            "owners: {business: ann@bank.test}",
            "owners: ann",
            "f.yaml:4: agents.bot.owners: write a mapping, such as {business: ...}",
        ),
        ("owners: {business: ann@bank.test}", "status: active", "f.yaml:3: agents.bot.owners: this key is missing"),
        ("    purpose: Refunds\n", "", "f.yaml:3: agents.bot.purpose: this key is missing"),
        ("purpose: Refunds", 'purpose: "  "', "f.yaml:5: agents.bot.purpose: write what the agent is for"),
        ("  bot:", '  "my bot":', "agents.\"my bot\": agent 'my bot' is no name: use letters"),
        ("dir: audit, ", "", "f.yaml:6: audit.dir: this key is missing"),
        (
            "{file: keys/pseudonym}",
            "hunter2hunter2",
            "audit.pseudonym_key: write where the secret is, never the secret",
        ),
        ("{file: keys/pseudonym}", "{env: A, file: b}", "audit.pseudonym_key: write where the secret is"),
        (
            "{file: keys/pseudonym}",
            "{environ: A}",
            "audit.pseudonym_key.environ: unknown key 'environ'; did you mean 'env'?",
        ),
        ("{file: keys/pseudonym}", "{env: 5}", "audit.pseudonym_key.env: write the name of an environment variable"),
        (
            "version: 1",
            "version: 1\ntokens: {local: {}}",
            "f.yaml:2: tokens.local: write a mapping, such as {key: ...}",
        ),
        ("version: 1", "version: 1\nusers: {issuer: a, keys: b}", "f.yaml:2: users.audience: this key is missing"),
    ],
)
def test_a_mistake_elsewhere_names_its_line_and_path(old: str, new: str, expected: str) -> None:
    (problem,) = mistakes(MINIMAL.replace(old, new))

    assert expected in problem


def test_a_secret_written_into_the_file_is_not_repeated() -> None:
    (problem,) = mistakes(MINIMAL.replace("{file: keys/pseudonym}", "hunter2hunter2"))

    assert "hunter2" not in problem


def test_checkpoints_need_a_key() -> None:
    (problem,) = mistakes(MINIMAL.replace("dir: audit,", "dir: audit, every: 5,"))

    assert problem.startswith("f.yaml:6: audit: checkpoints are signed: write key: FILE")


def test_key_and_places_of_checkpoints_are_read() -> None:
    read = settings(MINIMAL.replace("dir: audit,", "dir: audit, key: keys/a.pem, name: bank, seconds: 30s,"))

    assert read.audit.signed == {"key": Path("conf/keys/a.pem"), "name": "bank", "seconds": 30.0}


@pytest.mark.parametrize("text", ["[]", "text", "5", "{}", "null"])
def test_a_file_that_is_no_mapping_is_a_mistake(text: str) -> None:
    assert mistakes(text) == ("f.yaml:1: write a mapping, such as {version: ..., agents: ..., audit: ...}",)


def test_agents_must_be_there() -> None:
    text = "version: 1\naudit: {dir: a, pseudonym_key: {env: A}}\n"

    assert mistakes(text) == ("f.yaml:1: agents: this key is missing",)
    assert mistakes(f"{text}agents: {{}}\n")[0].startswith("f.yaml:3: agents: write a mapping, such as {support-bot:")


words = st.sampled_from(
    [
        "version",
        "agents",
        "audit",
        "bot",
        "owners",
        "limits",
        "calls",
        "tokens",
        "local",
        "users",
        "env",
        "spiffe",
        "jwt_file",
        "sqlite",
        "key",
        "exchange",
        "issuer",
        "client_id",
        "openbao",
        "login",
        "databases",
        "postgres",
        "grants",
    ]
)
trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
AGENT_KEYS = (
    "owners",
    "purpose",
    "environments",
    "expires",
    "status",
    "purposes",
    "tools",
    "hand_on",
    "limits",
    "ceiling",
)
TOP_KEYS = (
    *("version", "agents", "audit", "environment", "identity", "tokens", "users", "policy", "state", "http"),
    *("attributes", "notify", "approval"),
)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(TOP_KEYS, trees)),
    st.dictionaries(st.sampled_from(AGENT_KEYS), trees),
)
def test_whatever_the_tree_it_is_read_or_refused(top: dict[str, Any], agent: dict[str, Any]) -> None:
    document = Document({**top, "agents": {"bot": agent}}, "f.yaml", {})
    problems = Problems(document)

    read_settings(document, problems)

    assert problems


def test_ten_mistakes_give_ten_lines() -> None:
    text = """\
version: 2
environment: prod
agents:
  bot:
    owners: {control: ann@bank.test}
    expires: tomorrow
    statuss: active
    tools: [account.read, "*.read"]
    hand_on: {researcher: [account.read]}
    limits: {task_ttl: 30}
policy: [{cedr: policy/}]
audit: {dir: audit}
"""

    problems = mistakes(text)

    assert [problem.split(": ")[:2] for problem in problems] == [
        ["f.yaml:1", "version"],
        ["f.yaml:4", "agents.bot.purpose"],
        ["f.yaml:5", "agents.bot.owners.business"],
        ["f.yaml:6", "agents.bot.expires"],
        ["f.yaml:7", "agents.bot.statuss"],
        ["f.yaml:8", "agents.bot.tools[1]"],
        ["f.yaml:9", "agents.bot.hand_on.researcher"],
        ["f.yaml:10", "agents.bot.limits.task_ttl"],
        ["f.yaml:11", "policy[0].cedr"],
        ["f.yaml:12", "audit.pseudonym_key"],
    ]
