"""`approval` of `agentguard.yaml`: which people are asked, how, and for how long a question stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, Final

from agentguard.config_fields import Fields, file_of, flag, part, strings, text, whole, word
from agentguard.config_policy import REFERENCE, referred
from agentguard.config_secrets import kept
from agentguard.intent.document import Problems
from agentguard.intent.node import Node

if TYPE_CHECKING:
    from agentguard.config_brokers import Brokers
    from agentguard.ports import Approver

ASK_FOR: Final = 600.0
NOT_BY: Final = ("subject", "agent")
ROLES: Final = ("subject", "agent", "owner")
_CIBA: Final[tuple[Fields, Fields]] = (
    {"issuer": text("the provider's issuer URL"), "client_id": text("the client id")},
    {
        "key": file_of, "kid": text("the id under which the provider knows the key"), "assertion": word("identity"),
        "login_hints": strings, "block": flag, "binding_length": whole(12, 64),
    },
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Approving:
    """What `approval` says.

    Args:
        kind: `prompt`, `callback`, `later`, `ciba`, or empty where nobody is asked.
        said: what the file says about it.
        ask_for: seconds for which a question stands.
        not_by: who must not approve.
    """

    kind: str = ""
    said: Mapping[str, Any] = field(default_factory=dict)
    ask_for: float = ASK_FOR
    not_by: tuple[str, ...] = NOT_BY


def read_approval(node: Node, base: FilePath) -> Approving:
    """Read `approval`."""
    if node.value in ("prompt", "later"):
        return Approving(str(node.value))
    found = node.fields(optional=("prompt", "callback", "later", "ciba", "expires", "not_by"))
    kinds = [kind for kind in ("prompt", "callback", "later", "ciba") if kind in found]
    if len(kinds) != 1:
        node.refuse("write one way to ask: prompt, later, {callback: bank.approvals:ask} or {ciba: {...}}")
        return Approving()
    (kind,), before = kinds, len(node.problems)
    said = _said(kind, found[kind], base)
    if len(node.problems) > before:  # nothing is made of one that is wrong
        return Approving()
    return Approving(
        kind,
        said,
        found["expires"].seconds(86_400.0, ASK_FOR) if "expires" in found else ASK_FOR,
        tuple(item.word(*ROLES) for item in found["not_by"].items("who must not approve"))
        if "not_by" in found
        else NOT_BY,
    )


def _said(kind: str, node: Node, base: FilePath) -> dict[str, Any]:
    if kind == "callback":
        return {"call": node.text(REFERENCE)}
    if kind == "ciba":
        return dict(part(*_CIBA)(node, base))
    if node.value is not True:
        node.refuse(f"write {kind}: true")
    return {}


def make_approver(approving: Approving, brokers: Brokers, problems: Problems) -> Approver | None:
    """Make whoever asks people; mistakes are noted.

    Args:
        approving: what was read.
        brokers: make the client that asks at an OpenID provider.
        problems: receives the mistakes.
    """
    make = {"": _nobody, "prompt": _prompt, "callback": _callback, "later": _later, "ciba": _ciba}[approving.kind]
    return kept(problems, ("approval",), partial(make, dict(approving.said), brokers))


def _nobody(said: dict[str, Any], brokers: Brokers) -> Approver | None:
    return None


def _prompt(said: dict[str, Any], brokers: Brokers) -> Approver:
    from agentguard.approval.prompt import Prompt

    return Prompt()


def _callback(said: dict[str, Any], brokers: Brokers) -> Approver:
    from agentguard.approval.callback import Callback

    return Callback(referred(said["call"]))


def _later(said: dict[str, Any], brokers: Brokers) -> Approver:
    from agentguard.approval.later import AnswerLater

    return AnswerLater()


def _ciba(said: dict[str, Any], brokers: Brokers) -> Approver:
    from agentguard.approval.ciba import CibaApprover

    options = {name: said[name] for name in ("login_hints", "block", "binding_length") if name in said}
    return CibaApprover(said["issuer"], brokers.client(said, ("approval", "ciba")), brokers.http(), **options)
