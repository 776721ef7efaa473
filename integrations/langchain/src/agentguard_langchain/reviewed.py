"""Tools are what they were when somebody reviewed them: name, description and schema, all that a model reads."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from langchain_core.tools import BaseTool
from pydantic import BaseModel

from agentguard import ConfigurationError
from agentguard_langchain.specs import Fields

REVIEWED: Final = "reviewed_s256"


def tool_s256(tool: BaseTool) -> str:
    """Return the hash of what a model reads of a tool; write it into the tool's spec as `reviewed_s256`.

    Args:
        tool: guarded or not: both look the same to a model.

    Returns:
        64 base16 digits: the SHA-256 of the JSON text of name, description and schema, with sorted keys.

    Raises:
        ConfigurationError: the tool's schema is none that JSON can hold.
    """
    try:
        shown = {"name": tool.name, "description": tool.description, "schema": _schema(tool)}
        text = json.dumps(shown, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"tool {tool.name!r}: its schema cannot be read ({type(error).__name__})") from None
    return hashlib.sha256(text.encode()).hexdigest()


def refuse_unreviewed(tool: BaseTool, fields: Fields) -> None:
    """Refuse a tool that is not the one whose hash its spec holds; a spec without one asks for no review.

    INVARIANT: the new description is not repeated: whoever wrote it may have written it for who reads the error.

    Raises:
        ConfigurationError: its name, description or schema is another, or the hash is none.
    """
    if REVIEWED not in fields:
        return
    found = tool_s256(tool)
    if fields[REVIEWED] != found:
        raise ConfigurationError(
            f"tool {tool.name!r} is not the one that was reviewed: its name, description or schema is another; read "
            f"them again, and if they are right write {REVIEWED}: {found}"
        )


def _schema(tool: BaseTool) -> Any:
    schema = tool.tool_call_schema
    if isinstance(schema, dict):
        return schema
    return schema.model_json_schema() if issubclass(schema, BaseModel) else schema.schema()  # of pydantic 1
