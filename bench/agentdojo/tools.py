"""AgentDojo's functions as LangChain tools, plain or guarded, and what `tools.yaml` declares about them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any, Final

from langchain_core.tools import BaseTool, StructuredTool

from agentguard.intent.strict_file import read_strict_file
from bench.agentdojo.dojo import Suite

_FOLDER: Final = Path(__file__).parent


@dataclass(slots=True)
class Live:
    """Where the tools of a suite act, and what their bodies did; the environment changes from run to run.

    Args:
        environment: the one of the pair that is replayed now.
        ran: how many bodies were entered.
        seconds: time spent in them.
    """

    environment: Any = None
    ran: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of one suite, made once: the environment is changed under them.

    Args:
        tools: LangChain tools by name.
        live: where they act.
        specs: what `tools.yaml` declares, by name.
    """

    tools: Mapping[str, BaseTool]
    live: Live
    specs: Mapping[str, Mapping[str, Any]]

    def changes(self, tool: str) -> bool:
        """Tell whether a tool does more than read: an intent has to name it in a step."""
        spec = self.specs[tool]
        return spec["effect"] != "read" or "egress" in spec.get("tags", ())


def toolbox(suite: Suite, specs: Mapping[str, Mapping[str, Any]], *, guarded: bool) -> Toolbox:
    """Make the tools of a suite.

    Args:
        suite: whose functions they are.
        specs: what the tools declare, by name.
        guarded: guarded as code that others wrote is, through `agentguard_langchain.guard_tools`; else plain.
    """
    live = Live()
    tools: list[BaseTool] = [langchain_tool(function, live) for function in suite.functions]
    if guarded:
        from agentguard_langchain import guard_tools

        tools = list(guard_tools(tools, specs))
    found = {tool.name: tool for tool in tools}
    return Toolbox(MappingProxyType({function.name: found[function.name] for function in suite.functions}), live, specs)


def specs_of(suite: Suite, folder: Path = _FOLDER) -> Mapping[str, Mapping[str, Any]]:
    """Read the suite's `tools.yaml`, which stands in a folder of the suite's name.

    Raises:
        ValueError: it leaves out a tool, or declares one that the suite does not have.
    """
    file = folder / suite.name / "tools.yaml"
    declared: Mapping[str, Mapping[str, Any]] = read_strict_file(file).tree["tools"]
    wrong = sorted(declared.keys() ^ {function.name for function in suite.functions})
    if wrong:
        raise ValueError(f"{file} and the {suite.name} suite do not agree about {', '.join(wrong)}")
    return MappingProxyType(dict(declared))


def langchain_tool(function: Any, live: Live) -> StructuredTool:
    """Make a LangChain tool of one of AgentDojo's functions, run against the live environment."""

    def body(**arguments: Any) -> Any:
        live.ran += 1
        started = perf_counter()
        try:
            parts = {name: part.extract_dep_from_env(live.environment) for name, part in function.dependencies.items()}
            return function.run(**arguments, **parts)
        finally:
            live.seconds += perf_counter() - started

    signature = _signature(function.parameters)
    body.__name__ = function.name
    body.__signature__ = signature  # type: ignore[attr-defined]  # what inspect looks for first
    body.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return StructuredTool(
        name=function.name, description=function.description, func=body, args_schema=function.parameters
    )


def _signature(model: Any) -> inspect.Signature:
    """The signature that a pydantic model stands for."""
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if info.is_required() else info.default,
                annotation=info.annotation,
            )
            for name, info in model.model_fields.items()
        ]
    )
