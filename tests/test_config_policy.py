"""`policy`, `attributes` and `notify` of `agentguard.yaml`: made into a guard that decides by them, or refused."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

import agentguard
from agentguard import ConfigurationError, Denied, Intent, any_, guarded, step
from agentguard.policy.attributes import About
from agentguard.policy.cache import CachedPoint
from agentguard.policy.notices import Notice
from agentguard.ports import Answer, Approval, ApprovalRequest

told: list[Notice] = []
BASE = """\
    version: 1
    environment: test
    agents:
      bot: {owners: {business: ann@bank.test}, purpose: Customer refunds}
    audit: {dir: audit, pseudonym_key: {env: AG_POLICY_TEST}}
"""


@guarded("configured.refund", effect="write", record=["account"])
def refund(account: str) -> str:
    return "paid"


def risk(about: About) -> int:
    return 3 if about.agents == ("bot",) else 9


def page(notice: Notice) -> None:
    told.append(notice)


async def later(notice: Notice) -> None:
    told.append(notice)


NO_FUNCTION = 5


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AG_POLICY_TEST", "a key for tests only, 32 bytes..")
    told.clear()


def written(folder: Path, more: str) -> Path:
    path = folder / "agentguard.yaml"
    path.write_text(textwrap.dedent(BASE) + textwrap.dedent(more))
    return path


def test_guard_of_a_file_decides_by_its_policies_with_attributes_and_notices(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "p.cedar").write_text(
        '@notify("duty") permit(principal, action, resource) when { context.attributes.risk < 5 };\n'
        'forbid(principal, action, resource) when { context.arguments.account == "evil" };\n'
    )
    path = written(
        tmp_path,
        """\
        policy: [cedar: policy/]
        attributes: {risk: {call: "tests.test_config_policy:risk", deadline: 1s, ttl: 10s}}
        notify: {duty: "tests.test_config_policy:page"}
        """,
    )
    intent = Intent("Refunds", step("configured.refund", account=any_).times(9))
    with agentguard.load(path) as guard, guard.task("bot", on_behalf_of="alice", intent=intent):
        refund("acme")
        with pytest.raises(Denied) as denied:
            refund("evil")
    assert (denied.value.reason, [notice.tool for notice in told]) == ("policy_denied", ["configured.refund"])


def test_remote_points_are_made_with_names_of_their_own_and_a_cache_where_the_file_says_so(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """\
        policy:
          - authzen: https://pdp.bank.test
          - authzen: {url: "https://second.bank.test", name: second, token: {env: AG_POLICY_TEST}, cache: {ttl: 5s}}
          - opa: {url: "https://opa.bank.test", path: agents/allow, deadline: 1s}
        """,
    )
    with agentguard.load(path) as guard:
        names = [getattr(point, "name", "") for point in guard.decision_points]
        assert (names, type(guard.decision_points[1])) == (["authzen", "second", "opa"], CachedPoint)
        assert guard.remote


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("policy: {cedar: policy/}\n", "policy: write a list of decision points"),
        ("policy: [{cedar: policy/, opa: x}]\n", "policy[0]: write one decision point"),
        ("policy: [cedar: nowhere/]\n", "policy[0].cedar: "),
        ("policy: [{opa: {url: 'https://opa.bank.test'}}]\n", "policy[0].opa.path: this key is missing"),
        ("policy: [authzen: 'http://pdp.bank.test']\n", "policy[0].authzen: "),
        ("policy: [authzen: {url: 'https://a.test', cache: {size: 5}}]\n", "write for how long"),
        ("policy: [{authzen: 'https://a.test'}, {authzen: 'https://b.test'}]\n", "two decision points are called"),
        ("policy: [authzen: {url: 'https://a.test', token: abc}]\n", "write where the secret is"),
        ("attributes: {risk: {call: nowhere.at_all:risk}}\n", "attributes.risk: 'nowhere.at_all:risk' cannot be imp"),
        ("attributes: {risk: {call: risk}}\n", "write module:function"),
        ("attributes: {risk: {call: 'tests.test_config_policy:NO_FUNCTION'}}\n", "cannot be called"),
        ("attributes: {'r isk': {call: 'tests.test_config_policy:risk'}}\n", 'attributes."r isk": '),
        ("notify: {duty: 'tests.test_config_policy:nobody'}\n", "notify.duty: "),
        ("notify: {duty: 'tests.test_config_policy:later'}\n", "notify.duty: 'duty' names a coroutine function"),
        ("attributes: {risk: {call: 'tests.test_config_policy:later'}}\n", "attributes.risk: 'risk' names a corou"),
        ("attributes: {risk: {deadline: 1s}}\n", "attributes.risk.call: this key is missing"),
        ("attributes: {risk: bank.risk}\n", "attributes.risk: write a mapping"),
        ("notify: [duty]\n", "notify: write a mapping"),
    ],
)
def test_mistake_is_said_at_its_place_and_no_guard_is_made(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        agentguard.load(written(tmp_path, more))
    assert said in str(refused.value)
    assert "agentguard.yaml:6" in str(refused.value)


def approve_everything(request: ApprovalRequest) -> Approval:
    return Approval(Answer.APPROVED, by="ann")


@pytest.mark.parametrize(
    ("more", "kind", "ask_for", "not_by"),
    [
        ("approval: prompt\n", "Prompt", 600.0, ("subject", "agent")),
        ("approval: later\n", "AnswerLater", 600.0, ("subject", "agent")),
        ("approval: {later: true, expires: 1h, not_by: [owner]}\n", "AnswerLater", 3600.0, ("owner",)),
        ("approval: {callback: 'tests.test_config_policy:approve_everything', not_by: []}\n", "Callback", 600.0, ()),
        ("", "RefuseAll", 600.0, ("subject", "agent")),
    ],
)
def test_approver_is_made_as_the_file_says(
    tmp_path: Path, more: str, kind: str, ask_for: float, not_by: tuple[str, ...]
) -> None:
    with agentguard.load(written(tmp_path, more)) as guard:
        found = type(guard.approver).__name__, guard.ask_for, guard.not_by
    assert found == (kind, ask_for, not_by)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("approval: ask\n", "approval: "),
        ("approval: {prompt: true, later: true}\n", "approval: write one way to ask"),
        ("approval: {expires: 1h}\n", "approval: write one way to ask"),
        ("approval: {prompt: false}\n", "approval.prompt: write prompt: true"),
        ("approval: {later: true, not_by: [everybody]}\n", "approval.not_by[0]: write subject or agent or owner"),
        ("approval: {later: true, expires: 2d}\n", "approval.expires: "),
        ("approval: {callback: 'tests.test_config_policy:nobody'}\n", "cannot be imported"),
        ("approval: {ciba: {issuer: 'https://op.bank.test'}}\n", "approval.ciba.client_id: this key is missing"),
        ("approval: {ciba: {issuer: 'https://op.bank.test', client_id: desk}}\n", "key: FILE or with assertion"),
        (
            "approval: {ciba: {issuer: 'https://op.bank.test', client_id: desk, key: absent.pem}}\n",
            "approval.ciba.key: ",
        ),
    ],
)
def test_mistake_in_approval_is_said_at_its_place(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        agentguard.load(written(tmp_path, more))
    assert said in str(refused.value)
    assert "agentguard.yaml:6" in str(refused.value)


def test_telemetry_is_what_the_file_says(tmp_path: Path) -> None:
    with agentguard.load(written(tmp_path, "telemetry: {spans: full, events: true}\n")) as guard:
        found = guard.telemetry._full, guard.telemetry._events is not None
    assert found == (True, True)
    with pytest.raises(ConfigurationError, match="write compact or full"):
        agentguard.load(written(tmp_path, "telemetry: {spans: all}\n"))
