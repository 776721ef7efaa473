"""What came closest to permitting a call, and what did not hold. Shown to authors and auditors, never to a model.

INVARIANT: no text here holds the value that was passed, nor, for a secret argument, the constraint on it.
"""

from __future__ import annotations

from collections.abc import Iterable

from agentguard.intent.compile import CompiledForbid, CompiledStep, Part, Rules
from agentguard.intent.truth import CANNOT_TELL, FAIL, MISSING, Facts, Truth, unset, value_of
from agentguard.intent.verdict import Admitted
from agentguard.model.call import Effect, ToolCall, ToolSpec
from agentguard.model.decision import Miss

_UNTOLD = "; its value cannot be judged: another type, a refused form, or text that is not in NFC"


def nearest_miss(steps: Iterable[CompiledStep], call: ToolCall, facts: Facts) -> Miss:
    """Return the first constraint that did not hold in the step that got furthest."""
    found = [step_miss(step, call, facts, None) for step in steps]
    return max(found, key=lambda miss: miss[0])[1]


def step_miss(compiled: CompiledStep, call: ToolCall, facts: Facts, answer: Admitted | Miss | None) -> tuple[int, Miss]:
    """Return how many arguments of a step held, and the first constraint that did not."""
    step = compiled.step
    for held, (name, parts) in enumerate(compiled.parts):
        if blamed := _blamed(name, parts, call, facts):
            return held, _argument_miss(step.id, name, *blamed, call)
    for name, value in call.arguments.items():
        if name not in step.args and not unset(name, value, call):
            return len(step.args), Miss(
                step.id, name, "absent", f"{name} must be left out: the step does not mention it"
            )
    if waits := [earlier for earlier in step.earlier if earlier not in facts.happened]:
        return len(step.args), Miss(step.id, "", "after", f"it comes after {', '.join(waits)}, which has not happened")
    return len(step.args), answer if isinstance(answer, Miss) else Miss(step.id)


def not_everywhere(name: str, parts: tuple[Part, ...], call: ToolCall, facts: Facts) -> Miss:
    """Return what did not hold of a constraint that holds everywhere."""
    blamed = _blamed(name, parts, call, facts)
    return _argument_miss("everywhere", name, *blamed, call) if blamed else Miss("everywhere", name)


def forbidden(entry: CompiledForbid, truth: Truth) -> Miss:
    """Return what a forbid says; not the constraints on its arguments, as one may be secret."""
    said = entry.forbid
    parts = [f"tool {said.tool}"] if said.tool else []
    parts += [f"{word} {', '.join(words)}" for word, words in (("tags", said.tags), ("seen", said.seen)) if words]
    parts += [f"args {', '.join(said.args)}"] if said.args else []
    why = "; an argument cannot be judged, which denies" if truth is CANNOT_TELL else ""
    argument = next(iter(said.args), "")
    return Miss(entry.name, argument, "forbid", f"forbidden: {'; '.join(parts)}{why}")


def outside(rules: Rules, spec: ToolSpec) -> Miss:
    """Return why neither a step nor a pattern of reads admits a tool."""
    text = "no step names this tool"
    if rules.reads_by_name(spec.name):
        if spec.effect is not Effect.READ:
            text += f", and reads never admits a tool with effect {spec.effect}"
        elif "egress" in spec.tags:
            text += ", and reads never admits a tool that lets data out"
        else:
            text += f", and a tool with data classes ({', '.join(sorted(spec.data))}) is read by its exact name only"
    elif spec.effect is Effect.READ:
        text += ", and no pattern of reads matches it"
    return Miss(text=text)


def _blamed(name: str, parts: tuple[Part, ...], call: ToolCall, facts: Facts) -> tuple[Part, Truth] | None:
    """The first part that fails, else the first that cannot tell: as the parts combine."""
    value = value_of(name, call)
    judged = [(part, part.test(value, call, facts)) for part in parts]
    for wanted in (FAIL, CANNOT_TELL):
        for part, truth in judged:
            if truth is wanted:
                return part, truth
    return None


def _argument_miss(step: str, name: str, part: Part, truth: Truth, call: ToolCall) -> Miss:
    spec, said = call.spec, part.constraint
    if name in spec.secret:
        text = f"{name} does not hold; a constraint on a secret argument is not shown"
    elif value_of(name, call) is not MISSING:
        text = f"{name} must {said.must()}{_UNTOLD if truth is CANNOT_TELL else ''}"
    elif spec.parameters is not None and name not in spec.parameters:
        text = f"the tool has no argument {name}, which the step constrains"
    else:
        text = f"{name} is missing, and must {said.must()}"
    return Miss(step, name, said.word, text)
