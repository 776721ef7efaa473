"""What a sub-agent can ever do: for each tool what every level of its chain asks for. A call passes all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from agentguard.intent.check import compile_intent
from agentguard.intent.compile import Rules
from agentguard.intent.constraint import Constraint
from agentguard.intent.forbid import Forbid
from agentguard.intent.intent import Intent
from agentguard.intent.literal import duration_text
from agentguard.intent.step import Step
from agentguard.intent.verdict import Admitted
from agentguard.model.call import Effect, ToolSpec
from agentguard.model.decision import Outcome


class Way(Struct, frozen=True):
    """One way in which a level admits a tool.

    Args:
        step: its id; `reads` or `otherwise`.
        outcome: permit or ask.
        text: what its arguments must be, and how often.
    """

    step: str
    outcome: Outcome
    text: str


class LevelWays(Struct, frozen=True):
    """How one level admits a tool: one of `ways`, and all of `always`."""

    intent: str
    ways: tuple[Way, ...]
    always: tuple[str, ...]


class Reach(Struct, frozen=True):
    """A tool that a sub-agent can call, with what each level asks for, the root first."""

    tool: str
    levels: tuple[LevelWays, ...]


class Child(Struct, frozen=True):
    """What a sub-agent can ever do.

    Args:
        agents: the names that lead to it, from the root's own `agents`.
        reaches: the tools that every level admits.
        refused: tools that its own intent admits and a level above does not, with that level.
    """

    agents: tuple[str, ...]
    reaches: tuple[Reach, ...]
    refused: tuple[tuple[str, str], ...]


def effective(intent: Intent, specs: Mapping[str, ToolSpec] | None = None) -> tuple[Child, ...]:
    """Return what each sub-agent of an intent can ever do, level by level.

    Args:
        intent: its sets hold their members.
        specs: what the tools declare; None where nobody knows: then a tool counts as a write, or as a read if `reads`
            names it exactly.
    """
    return tuple(_children((intent,), (), specs))


def _children(
    levels: tuple[Intent, ...], agents: tuple[str, ...], specs: Mapping[str, ToolSpec] | None
) -> Iterator[Child]:
    for agent, sub in levels[-1].agents.items():
        chain, names = (*levels, sub), (*agents, agent)
        reaches, refused = [], []
        for spec in _tools(chain, specs):
            found = tuple(level_ways(level, spec) for level in chain)
            if all(level.ways for level in found):
                reaches.append(Reach(spec.name, found))
            elif found[-1].ways:
                refused.append((spec.name, next(level.intent for level in found if not level.ways)))
        yield Child(names, tuple(reaches), tuple(refused))
        yield from _children(chain, names, specs)


def _tools(levels: tuple[Intent, ...], specs: Mapping[str, ToolSpec] | None) -> tuple[ToolSpec, ...]:
    named = {step.tool: ToolSpec(name=step.tool) for level in levels for step in level.steps}
    for level in levels:
        for pattern in level.reads if specs is None else ():
            if "*" not in pattern:
                named.setdefault(pattern, ToolSpec(name=pattern, effect=Effect.READ))
    known = {**named, **(specs or {})}
    return tuple(known[name] for name in sorted(known))


def level_ways(intent: Intent, spec: ToolSpec) -> LevelWays:
    """Return how one level admits a tool; no way at all where a forbid names it whatever the arguments are."""
    rules = compile_intent(intent).rules
    always = [_must(name, said, spec) for name, said in intent.everywhere.items() if _takes(spec, name)]
    for index, entry in enumerate(intent.forbid):
        if concerns(entry, spec):
            if not entry.args and not entry.seen:
                return LevelWays(intent.name, (), ())
            always.append(f"never when forbid[{index}] matches: {_forbid_text(entry, spec)}")
    return LevelWays(intent.name, tuple(_ways(rules, spec)), tuple(always))


def _takes(spec: ToolSpec, name: str) -> bool:
    return spec.parameters is None or name in spec.parameters


def concerns(entry: Forbid, spec: ToolSpec) -> bool:
    """Tell whether a forbid looks at calls of a tool: by its pattern and tags, whatever their arguments are."""
    pattern = entry.tool or "*"
    named = pattern in ("*", spec.name) or (pattern.endswith(".*") and spec.name.startswith(pattern[:-1]))
    return named and (not entry.tags or not spec.tags.isdisjoint(entry.tags))


def _must(name: str, said: Constraint, spec: ToolSpec, word: str = "must") -> str:
    """INVARIANT: the constraint on a secret argument is not shown, wherever it stands."""
    return f"{name} {word} {'hold what is not shown here, as it is secret' if name in spec.secret else said.must()}"


def _forbid_text(entry: Forbid, spec: ToolSpec) -> str:
    parts = [f"seen {', '.join(entry.seen)}"] if entry.seen else []
    parts += [_must(name, said, spec, "must not") for name, said in entry.args.items()]
    return "; ".join(parts)


def _ways(rules: Rules, spec: ToolSpec) -> Iterator[Way]:
    steps = rules.steps.get(spec.name, ())
    for compiled in steps:
        yield Way(compiled.step.id, compiled.step.outcome, _step_text(compiled.step, spec))
    if not steps:
        found = rules.read if rules.reads(spec) else rules.otherwise(spec)
        if isinstance(found, Admitted):
            yield Way(found.options[0].step, found.options[0].outcome, "any arguments")


def _step_text(step: Step, spec: ToolSpec) -> str:
    parts = [_must(name, said, spec) for name, said in step.args.items()]
    parts = parts or ["no arguments"]
    if step.uses:
        window = f" in {duration_text(step.uses.window)}" if step.uses.window else ""
        each = f" for each {', '.join(step.uses.per)}" if step.uses.per else ""
        parts.append(f"at most {step.uses.n} times{each}{window}")
    parts += [f"{name} at most {total.limit} in all" for name, total in step.totals.items()]
    parts += [f"after {', '.join(step.earlier)}"] if step.earlier else []
    return "; ".join(parts)
