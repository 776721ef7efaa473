"""The kinds of constraint, and the registry that reads them: a new kind is one class and one entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from agentguard.intent.address import Email, Url
from agentguard.intent.binds import Bind
from agentguard.intent.constraint import Constraint
from agentguard.intent.dates import Date
from agentguard.intent.globs import Glob, Regex
from agentguard.intent.paths import PathUnder
from agentguard.intent.presence import Absent, AnyValue, Not, OptionalValue
from agentguard.intent.provenance import From
from agentguard.intent.references import InSet, Is, SameAs
from agentguard.intent.said_words import Said
from agentguard.intent.structures import Each, Items, Keys
from agentguard.intent.templates import Template
from agentguard.intent.texts import Text
from agentguard.intent.values import Eq, In, Max, Min, Prefix

KINDS: Final[Mapping[str, type[Constraint]]] = MappingProxyType(
    {
        kind.word: kind
        for kind in (
            *(Eq, In, InSet, Min, Max, Date, Prefix, Glob, Regex, PathUnder, Url, Email, Text, Template),
            *(Each, Items, Keys, SameAs, Is),
            *(From, Said, Bind),
            *(AnyValue, Absent, OptionalValue, Not),
        )
    }
)
# Stand alone, as one word: `city: any`.
WORDS: Final[Mapping[str, Callable[[], Constraint]]] = MappingProxyType({"any": AnyValue, "absent": Absent})
