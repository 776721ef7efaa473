"""An intent as the tree that its file form writes and its hash covers."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any

from agentguard.errors import ConfigurationError, NotCanonical
from agentguard.intent.forbid import Forbid
from agentguard.intent.literal import duration_text
from agentguard.intent.step import ASKED, Step, Times, Total
from agentguard.model.canonical import canonical, canonical_bytes
from agentguard.model.decision import Outcome

if TYPE_CHECKING:
    from agentguard.intent.intent import Intent


def intent_tree(intent: Intent) -> dict[str, Any]:
    """Return an intent as its file form: one tree for one meaning, without what is default."""
    return {"version": 1, **_tree(intent, None, "")}


def hash_of(tree: object) -> str:
    """Return base64url (RFC 4648 section 5, no padding) of SHA-256 over a tree's RFC 8785 form.

    Raises:
        ConfigurationError: it is larger than 1 MiB, or nested too deep.
    """
    try:
        digest = hashlib.sha256(canonical_bytes(canonical(tree))).digest()
    except NotCanonical as error:
        raise ConfigurationError(f"the intent cannot be hashed: {error}") from None
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _tree(intent: Intent, parent: Intent | None, agent: str) -> dict[str, Any]:
    from agentguard.intent.parts import sub_intent_name

    inherited = (sub_intent_name(parent.name, agent), parent.purpose) if parent else ("", "")
    return _without_defaults(
        intent="" if intent.name == inherited[0] else intent.name,
        purpose="" if intent.purpose == inherited[1] else intent.purpose,
        ttl=None if intent.ttl is None else duration_text(intent.ttl),
        everywhere={name: said.form() for name, said in intent.everywhere.items()},
        reads=list(intent.reads),
        steps=[step_tree(step) for step in intent.steps],
        forbid=[_forbid(entry) for entry in intent.forbid],
        agents={name: _tree(sub, intent, name) for name, sub in intent.agents.items()},
        sets={name: said.form() for name, said in intent.sets.items() if not parent or parent.sets.get(name) != said},
        define={
            name: said.form() for name, said in intent.define.items() if not parent or parent.define.get(name) != said
        },
        otherwise=None if intent.otherwise is None else intent.otherwise.form(),
        limits=None if intent.limits is None else intent.limits.form(),
        examples=None if intent.examples is None else intent.examples.form(),
    )


def _without_defaults(**entries: Any) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if value not in (None, "", [], {})}


def step_tree(step: Step) -> dict[str, Any]:
    """Return a step as its file form."""
    return _without_defaults(
        id=step.id,
        tool=step.tool,
        args={name: said.form() for name, said in step.args.items()},
        times=None if step.uses is None else _times(step.uses),
        total={name: _total(total) for name, total in step.totals.items()},
        attempts=None if step.tries == 1 else step.tries,
        budget=step.shared,
        distinct=list(step.unrepeated),
        after=list(step.earlier),
        then=_then(step),
        accept_untrusted=step.accepted,
    )


def _then(step: Step) -> Any:
    if step.outcome is Outcome.ASK:
        return "ask" if step.by == ASKED[0] else {"ask": True, "by": step.by}
    return "end_task" if step.ends_task else ""


def _times(times: Times) -> Any:
    if times.window:
        return {"n": times.n, "per": duration_text(times.window)}
    return {"n": times.n, "per": list(times.per)} if times.per else times.n


def _total(total: Total) -> Any:
    return {"max": total.limit, "per": duration_text(total.window)} if total.window else total.limit


def _forbid(entry: Forbid) -> dict[str, Any]:
    return _without_defaults(
        tool=entry.tool,
        tags=list(entry.tags),
        seen=list(entry.seen),
        args={name: said.form() for name, said in entry.args.items()},
    )
