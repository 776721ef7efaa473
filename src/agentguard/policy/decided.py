"""What a decision point says beyond permit and deny: what has to be done too, and what the decision rests on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentguard.model.decision import AccessRequest, Decision, Miss, Outcome, Reason
from agentguard.policy.obligations import NOTHING, Obligations

_MOST_RULES: Final = 20
_LONGEST: Final = 200
_NO_MISS: Final = Miss()
_SHOWN: Final = re.compile(r"[^\x21-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one decision point's answer rests on; stands in the audit record of the call.

    Args:
        point: the decision point, by the name it was configured with.
        outcome: permit, ask or deny.
        reason: the reason code.
        version: digest (`sha256:...`) or revision of the policies that decided; empty where it does not say.
        rules: ids of the policies that decided.
        id: the answer's id at the decision point, or the `X-Request-ID` of the question.
        cached: the answer was given earlier, to the same question.
        outdated: the policies on disk are newer and cannot be loaded.
    """

    point: str
    outcome: Outcome
    reason: Reason
    version: str = ""
    rules: tuple[str, ...] = ()
    id: str = ""
    cached: bool = False
    outdated: bool = False

    def fields(self) -> dict[str, Any]:
        """The fields of an audit record; what a server said is bounded, printable ASCII."""
        found: dict[str, Any] = {"point": shown(self.point), "outcome": self.outcome.value, "reason": self.reason.value}
        said = {"version": shown(self.version), "id": shown(self.id), "rules": [shown(rule) for rule in self.rules]}
        found |= {name: value for name, value in said.items() if value}
        return found | {name: True for name in ("cached", "outdated") if getattr(self, name)}


class Decided(Decision, frozen=True, kw_only=True):
    """A decision with its obligations and the evidence of every decision point that was asked.

    Args:
        obligations: what has to be done for the permit to stand.
        evidence: one entry for each decision point that was asked, in order.
    """

    obligations: Obligations = NOTHING
    evidence: tuple[Evidence, ...] = ()


def shown(text: str) -> str:
    """A text of a server as it may stand in a log: printable ASCII without spaces, at most 200 characters."""
    return _SHOWN.sub("?", text[: _LONGEST * 2])[:_LONGEST]


def tool_of(request: AccessRequest) -> str:
    """The tool that a request is about."""
    return str(request.action.get("name", ""))


@dataclass(frozen=True, slots=True)
class Answering:
    """Makes the answers of one decision point to one request.

    Args:
        point: the decision point's name.
        tool: the tool the request is about.
        version, id, outdated: as in `Evidence`.
    """

    point: str
    tool: str
    version: str = ""
    id: str = ""
    outdated: bool = False

    def permit(self, rules: Iterable[str] = (), obligations: Obligations = NOTHING) -> Decided:
        """A permit, or a question to a person where an obligation says so."""
        outcome = Outcome.ASK if obligations.approve else Outcome.PERMIT
        return self._made(outcome, Reason.DECLARED, tuple(rules), "", obligations)

    def deny(self, why: str, rules: Iterable[str] = ()) -> Decided:
        """A denial by a policy."""
        return self._made(Outcome.DENY, Reason.POLICY_DENIED, tuple(rules), why)

    def error(self, why: str, rules: Iterable[str] = ()) -> Decided:
        """A denial because nobody can tell."""
        return self._made(Outcome.DENY, Reason.POLICY_ERROR, tuple(rules), f"{self.point}: {why}")

    def _made(
        self, outcome: Outcome, reason: Reason, rules: Sequence[str], why: str, obligations: Obligations = NOTHING
    ) -> Decided:
        rules = tuple(rules[:_MOST_RULES])
        evidence = Evidence(
            point=self.point, outcome=outcome, reason=reason, version=self.version, rules=rules, id=self.id,
            outdated=self.outdated,
        )  # fmt: skip
        level = _level(self.point, rules) if outcome is Outcome.DENY else ""
        return Decided(
            outcome=outcome, reason=reason, tool=self.tool, level=level, miss=Miss(text=why) if why else _NO_MISS,
            obligations=obligations, evidence=(evidence,),
        )  # fmt: skip


def _level(point: str, rules: Sequence[str]) -> str:
    return f"{point}:{shown(rules[0])}" if rules else point
