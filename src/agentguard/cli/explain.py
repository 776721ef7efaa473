"""`agentguard explain`: what an intent says about one call, and what its sub-agents can ever do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from agentguard.cli.answer import Answer, answer_of
from agentguard.cli.output import FAILED, OK, complain, say, say_json
from agentguard.cli.past import Past, call_of, read_calls
from agentguard.cli.sources import add_sources, load, pairs, params_of, with_members
from agentguard.cli.tools_file import TOOLS_FILE, tools_beside
from agentguard.errors import ConfigurationError
from agentguard.intent.check import compile_intent
from agentguard.intent.document import Document, path_text
from agentguard.intent.effective import Child, effective
from agentguard.intent.intent import Intent
from agentguard.intent.strict_file import read_strict_file
from agentguard.model.call import TOOL_NAME, ToolCall
from agentguard.model.decision import Miss, Outcome


def add(commands: Any) -> None:
    """Add `explain`."""
    text = "Say whether an intent permits a call, and what each step lacks. Exit 0: permit; 1: ask or deny; 2: misuse."
    parser = commands.add_parser("explain", help="say what an intent says about a call", description=text)
    parser.add_argument("file", type=Path, metavar="FILE", help="an intent file")
    parser.add_argument("--call", nargs=2, metavar=("TOOL", "JSON"), help="a tool, and its arguments as a JSON object")
    add_sources(parser)
    parser.add_argument("--results", type=Path, metavar="FILE", help="earlier calls: a list of {tool, args, result}")
    parser.add_argument("--seen", action="append", default=[], metavar="CLASS", help="a class of data that was read")
    parser.add_argument("--heard", action="append", default=[], metavar="TEXT", help="words of the subject, for said")
    parser.add_argument("--effective", action="store_true", help="print what each sub-agent can ever do")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Answer for the call, for the sub-agents, or for both."""
    if arguments.call is None and not arguments.effective:
        raise ConfigurationError("""say which call: --call refund.create '{"account": "acme"}'; or --effective""")
    document = read_strict_file(arguments.file)
    given = params_of(document, pairs(arguments.param, "--param"))
    intent = load(document, given)
    intent, _ = with_members(intent, pairs(arguments.set, "--set"), stand_in=False)
    tools = tools_beside(arguments.file, arguments.tools)
    specs = tools.specs if tools else None
    members: dict[str, Any] = {}
    status = OK
    if arguments.effective:
        children = effective(intent, specs)
        members["effective"] = [_child_members(child) for child in children]
        if not arguments.json:
            _say_children(intent, children, known=specs is not None)
    if arguments.call is not None:
        call = call_of(_tool(arguments.call[0]), _arguments(arguments.call[1]), specs)
        past = Past(compile_intent(intent), tuple(arguments.heard), set(arguments.seen))
        notes = past.add(read_calls(arguments.results), specs) if arguments.results else []
        notes += [] if tools else [f"no {TOOLS_FILE} beside it: {call.spec.name} counts as a write without defaults"]
        answer = answer_of(past, call, seen_known=bool(arguments.results or arguments.seen))
        members |= _members(answer, call, notes)
        if not arguments.json:
            _say_answer(answer, call, notes, document, intent)
        status = OK if answer.outcome is Outcome.PERMIT else FAILED
    if arguments.json:
        say_json(members)
    return status


def _tool(name: str) -> str:
    if not TOOL_NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no tool name; write words of a-z 0-9 _ joined by dots: refund.create")
    return name


def _arguments(text: str) -> Mapping[str, Any]:
    form = """write the arguments as a JSON object: '{"account": "acme", "amount": 5}'"""
    try:
        found = json.loads(text, parse_int=Decimal, parse_float=Decimal, parse_constant=_refused,
                           object_pairs_hook=_once)  # fmt: skip
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise ConfigurationError(f"--call: this is no JSON ({error}); {form}") from None
    if not isinstance(found, dict):
        raise ConfigurationError(f"--call: {form}")
    return found


def _once(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(entries)
    if len(found) != len(entries):
        raise ValueError("a key is there twice")
    return found


def _refused(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


# --- what is shown ----------------------------------------------------------------------------------------------------


def _members(answer: Answer, call: ToolCall, notes: list[str]) -> dict[str, Any]:
    steps = [
        {"step": step.step, "outcome": step.outcome, "truth": step.truth.value, **_miss_members(step.miss)}
        for step in answer.steps
    ]
    found = {"outcome": answer.outcome, "reason": answer.reason, "tool": call.spec.name, "step": answer.step}
    miss = {"step": answer.miss.step, **_miss_members(answer.miss)} if answer.miss.text else None
    return {**found, "by": answer.by, "miss": miss, "steps": steps, "notes": notes}


def _miss_members(miss: Miss) -> dict[str, str]:
    return {"argument": miss.argument, "kind": miss.kind, "text": miss.text}


def _say_answer(answer: Answer, call: ToolCall, notes: list[str], document: Document, intent: Intent) -> None:
    why = {
        Outcome.PERMIT: f"step {answer.step}",
        Outcome.ASK: f"step {answer.step}, the {answer.by} has to approve",
        Outcome.DENY: answer.reason,
    }
    say(f"{answer.outcome}: {call.spec.name} ({why[answer.outcome]})")
    told = {step.miss for step in answer.steps}
    if answer.miss.text and answer.miss not in told:
        _say_miss(answer.miss, document, intent, "  ")
    for step in answer.steps:
        say(f"  step {step.step} ({step.outcome}): {'holds' if step.holds else step.truth.value}")
        if not step.holds:
            _say_miss(step.miss, document, intent, "    ")
    for note in notes:
        complain(f"note: {note}")


def _say_miss(miss: Miss, document: Document, intent: Intent, indent: str) -> None:
    about = ", ".join(word for word in (f"argument {miss.argument}" if miss.argument else "", miss.kind) if word)
    say(f"{indent}{about}: {miss.text}" if about else f"{indent}{miss.text}")
    path = _path_of(miss, intent)
    if path and (len(path) < 2 or path[:2] in document.lines):
        say(f"{indent}at {document.file}:{document.position(path)[0]}: {path_text(path)}")


def _path_of(miss: Miss, intent: Intent) -> tuple[str | int, ...]:
    for index, step in enumerate(intent.steps):
        if step.id == miss.step:
            own = ("args", miss.argument) if miss.argument in step.args else ()
            return ("steps", index, *own)
    if miss.step == "everywhere":
        return ("everywhere", miss.argument)
    if miss.step.startswith("forbid["):
        return ("forbid", int(miss.step[7:-1]))
    return ()


def _child_members(child: Child) -> dict[str, Any]:
    tools = [
        {
            "tool": reach.tool,
            "levels": [
                {
                    "intent": level.intent,
                    "ways": [{"step": way.step, "outcome": way.outcome, "text": way.text} for way in level.ways],
                    "always": list(level.always),
                }
                for level in reach.levels
            ],
        }
        for reach in child.reaches
    ]
    refused = [{"tool": tool, "level": level} for tool, level in child.refused]
    return {"agent": list(child.agents), "tools": tools, "refused": refused}


def _say_children(intent: Intent, children: tuple[Child, ...], *, known: bool) -> None:
    if not children:
        say(f"{intent.name} has no agents: a sub-agent gets nothing unless the application narrows the intent itself")
    for child in children:
        say(f"{' > '.join(child.agents)}: what every level admits")
        if not child.reaches:
            say("  nothing")
        for reach in child.reaches:
            say(f"  {reach.tool}")
            for level in reach.levels:
                _say_level(
                    level.intent, [f"{way.step} ({way.outcome}): {way.text}" for way in level.ways], level.always
                )
        for tool, level_name in child.refused:
            say(f"  never {tool}: {level_name} does not admit it")
    if children and not known:
        complain(f"note: no {TOOLS_FILE} beside it, so what a wildcard of reads means is not known: --tools FILE")


def _say_level(intent: str, ways: list[str], always: tuple[str, ...]) -> None:
    for index, way in enumerate(ways):
        say(f"    {intent if index == 0 else ' ' * (len(intent) - 2) + 'or'}: {way}")
    for text in always:
        say(f"    {' ' * (len(intent) - 3)}and: {text}")
