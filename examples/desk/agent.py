"""The two processes of `examples/approval_langgraph.py`: one in which the agent begins, one in which it goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from langchain_core.tools import tool
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command

import agentguard
from agentguard import Intent, at_most, guarded, step
from agentguard_langchain import GuardMiddleware, create_agent
from agentguard_langchain.testing import ScriptedModel

INTENT = Intent("Refund ticket 4711", step("refund", account="acme", amount=at_most(50)).times(2).then_ask())
THREAD: Any = {"configurable": {"thread_id": "ticket-4711"}}


@tool
@guarded
def refund(account: str, amount: int) -> str:
    """Refund an amount to an account."""
    print(f"  refunded {amount} to {account}")
    return "refunded"


def begin(folder: Path, agent: Any) -> None:
    """The agent works until its call waits for a person; leaving the block parks the task."""
    with agentguard.load(folder / "agentguard.yaml") as guard:
        with guard.task("desk", on_behalf_of="alice", intent=INTENT) as task:
            found = agent.invoke({"messages": [("user", "refund acme")]}, THREAD)
        (folder / "task").write_text(task.id)
        print(f"  {found['__interrupt__'][0].value['tool']} waits for a person; the task is {task.state}")


def go_on(folder: Path, agent: Any) -> None:
    """The task goes on for the same subject, who proves itself anew, and the graph under it."""
    with agentguard.load(folder / "agentguard.yaml") as guard:
        with guard.resume((folder / "task").read_text(), on_behalf_of="alice"):
            found = agent.invoke(Command(resume="look again"), THREAD)
        for waits in found.get("__interrupt__", ()):
            print(f"  {waits.value['tool']} waits for a person")


def main(part: str, folder: Path) -> None:
    calls = [[("refund", {"account": "acme", "amount": amount})] for amount in (40, 41)]
    with SqliteSaver.from_conn_string(str(folder / "graph.db")) as checkpointer:
        middleware = [GuardMiddleware(on_approval="interrupt")]
        model = ScriptedModel(*calls, "done")
        agent = create_agent(model, [refund], middleware=middleware, checkpointer=checkpointer)
        {"begin": begin, "go_on": go_on}[part](folder, agent)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
