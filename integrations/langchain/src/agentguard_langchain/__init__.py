"""agentguard for LangChain and LangGraph: every tool call is checked, recorded and gets its own credential.

tools = guard_tools(SQLDatabaseToolkit(db=db, llm=model), "tools.yaml")
agent = create_agent(model, tools)
"""

from __future__ import annotations

from agentguard_langchain.agents import AgentTool, agent_tool
from agentguard_langchain.checks import assert_guarded
from agentguard_langchain.middleware import GuardMiddleware, create_agent
from agentguard_langchain.reviewed import tool_s256
from agentguard_langchain.tools import guard_tools

__all__ = ["AgentTool", "GuardMiddleware", "agent_tool", "assert_guarded", "create_agent", "guard_tools", "tool_s256"]
