"""Cedar policies, parsed once: named, checked, and cut into what can matter for one action."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agentguard.errors import ConfigurationError
from agentguard.policy.decided import Answering, Decided
from agentguard.policy.files import PolicyFile
from agentguard.policy.obligations import KINDS, NOTHING, Obligations, UnknownObligation, from_annotation

SUFFIXES: Final = (".cedar", ".cedarschema", ".cedarschema.json", "entities.json")
NOTES: Final = frozenset({"id", "description", "owner", "reason", "see"})
_MOST: Final = 100_000
_MOST_PERMITS: Final = 1_000
_NAME: Final = re.compile(r"[\x21-\x7e]{1,200}")


@dataclass(frozen=True, slots=True)
class CedarPolicies:
    """Policies and entities that decide. `cedarpy`'s handles in it can be used by many threads.

    Args:
        rules: every policy in Cedar's JSON form, by its id.
        obligations: what a permit obliges to, by its id, where it does.
        entities: the handle of the entities.
        schema: the handle of the schema, or None.
        cedarpy: the package.
    """

    rules: Mapping[str, Any]
    obligations: Mapping[str, Obligations]
    entities: Any = field(repr=False)
    schema: Any = field(repr=False)
    cedarpy: Any = field(repr=False)
    _named: Mapping[str, Sequence[str]] = field(repr=False)
    _others: Sequence[str] = field(repr=False)
    _slices: dict[str, Any] = field(default_factory=dict, repr=False)
    _permits: dict[tuple[Answering, tuple[str, ...]], Decided] = field(default_factory=dict, repr=False)

    def of(self, action: str) -> Any:
        """The policies whose scope can hold for an action: those that name it, and those that name not just one.

        INVARIANT: what is left out names other actions with `==` or a list, so it cannot apply, and cannot err.
        """
        name = action if action in self._named else ""
        found = self._slices.get(name)
        if found is None:
            ids = (*self._named.get(name, ()), *self._others)
            text = _set_of({rule: self.rules[rule] for rule in ids})
            found = self._slices[name] = self.cedarpy.PolicySet.from_json_str(text)
        return found

    def permit(self, answer: Answering, rules: tuple[str, ...]) -> Decided:
        """The permit by these rules; the same one each time, because nothing else enters it."""
        found = self._permits.get((answer, rules))
        if found is None:
            found = answer.permit(rules, self.obliged(rules))
            if len(self._permits) < _MOST_PERMITS:
                self._permits[answer, rules] = found
        return found

    def obliged(self, ids: Iterable[str]) -> Obligations:
        """What several permits oblige to together."""
        found = NOTHING
        for rule in ids:
            found = found & self.obligations.get(rule, NOTHING)
        return found


def build(files: Sequence[PolicyFile]) -> CedarPolicies:
    """Parse and check policies, entities and schema.

    Raises:
        ConfigurationError: something does not parse, does not fit the schema, is a template, has no usable or a second
            `@id` of the same text, or carries an annotation that is neither an obligation nor a note.
    """
    cedarpy = _cedarpy()
    texts = [file for file in files if file.name.endswith(".cedar")]
    if not texts:
        raise ConfigurationError("there is no policy: no file that ends with .cedar")
    rules: dict[str, Any] = {}
    for file in texts:
        for key, rule in _parsed(cedarpy, file).items():
            if rules.setdefault(key, rule) is not rule:
                raise ConfigurationError(f'{file.name}: another policy has the @id "{key}" too')
    if not 0 < len(rules) <= _MOST:
        raise ConfigurationError(f"there are {len(rules)} policies; write at least one, and at most {_MOST}")
    schema = _schema(cedarpy, files, texts)
    entities = _entities(cedarpy, files, schema)
    obligations = {key: found for key, rule in rules.items() if (found := _obligations(key, rule)) != NOTHING}
    named: dict[str, list[str]] = {}
    others: list[str] = []
    for key, rule in rules.items():
        action = _action(rule["action"])
        if action is None:
            others.append(key)
        else:
            named.setdefault(action, []).append(key)
    return CedarPolicies(rules, obligations, entities, schema, cedarpy, named, others)


def _cedarpy() -> Any:
    try:
        import cedarpy
    except ImportError:
        raise ConfigurationError("Cedar policies need the package cedarpy: pip install 'agentguard[cedar]'") from None
    return cedarpy


def _parsed(cedarpy: Any, file: PolicyFile) -> dict[str, Any]:
    try:
        tree = json.loads(cedarpy.policies_to_json_str(file.text))
        problem = "templates are not used; write the policy out" if tree["templates"] or tree["templateLinks"] else ""
    except ValueError as error:
        problem = f"does not parse: {str(error)[:200]}"
    if problem:
        raise ConfigurationError(f"{file.name}: {problem}")
    # A policy without @id is known by its file and its place in it, counted from 1.
    named: dict[str, Any] = {}
    for number, rule in enumerate(_in_order(tree["staticPolicies"]), 1):
        key = (rule.get("annotations") or {}).get("id", f"{file.name}#{number}")
        if not isinstance(key, str) or not _NAME.fullmatch(key):
            raise ConfigurationError(f"{file.name}: the @id of policy {number} is no printable text without spaces")
        if key in named:
            raise ConfigurationError(f'{file.name}: two policies have the @id "{key}"')
        named[key] = rule
    return named


def _in_order(policies: Mapping[str, Any]) -> list[Any]:
    """Cedar calls them policy0, policy1, ... in the order of the text."""
    return [policies[key] for key in sorted(policies, key=lambda key: int(key.removeprefix("policy")))]


def _schema(cedarpy: Any, files: Sequence[PolicyFile], texts: Sequence[PolicyFile]) -> Any:
    found = [file for file in files if file.name.endswith((".cedarschema", ".cedarschema.json"))]
    if len(found) > 1:
        raise ConfigurationError(f"{found[1].name}: there is another schema; write one")
    if not found:
        return None
    try:
        parse = cedarpy.Schema.from_json_str if found[0].name.endswith(".json") else cedarpy.Schema.from_str
        schema = parse(found[0].text)
        problem = ""
    except ValueError as error:
        problem = str(error)[:300]
    if problem:
        raise ConfigurationError(f"{found[0].name}: does not parse: {problem}")
    problems = [
        f"{file.name}: {error.error[:300]}"
        for file in texts
        for error in cedarpy.validate_policies(file.text, schema).errors
    ]
    if problems:
        raise ConfigurationError("the policies do not fit the schema:", tuple(problems[:50]))
    return schema


def _entities(cedarpy: Any, files: Sequence[PolicyFile], schema: Any) -> Any:
    found = [file for file in files if file.name.rpartition("/")[2].endswith("entities.json")]
    try:
        parts = [json.loads(file.text, object_pairs_hook=_once) for file in found]
        if not all(isinstance(part, list) for part in parts):
            raise ValueError("a file of entities holds no list")
        whole = json.dumps([entity for part in parts for entity in part])
        entities = cedarpy.Entities.from_json_str(whole, schema)
        problem = ""
    except (ValueError, RecursionError) as error:
        problem = str(error)[:300]
    if problem:
        raise ConfigurationError(f"entities: {problem}")
    return entities


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("an object has a member twice")
    return found


def _obligations(key: str, rule: Mapping[str, Any]) -> Obligations:
    found = NOTHING
    for name, text in (rule.get("annotations") or {}).items():
        if name in NOTES:
            continue
        if name not in KINDS:
            known = ", ".join((*KINDS, *sorted(NOTES)))
            raise ConfigurationError(f"policy {key}: the annotation @{name} is not known; there are {known}")
        if rule["effect"] != "permit":
            raise ConfigurationError(f"policy {key}: @{name} is an obligation, and a forbid obliges to nothing")
        try:
            found = found & from_annotation(name, text or "")
            problem = ""
        except UnknownObligation as error:
            problem = str(error)
        if problem:
            raise ConfigurationError(f"policy {key}: {problem}")
    return found


def _action(scope: Mapping[str, Any]) -> str | None:
    """The name of the one action that a scope is limited to, or None where it may hold for others.

    `in` may name a group, which a schema or the entities make, so only `==` is a limit by itself.
    """
    if scope["op"] != "==" or scope["entity"]["type"] != "Action":
        return None
    return str(scope["entity"]["id"])


def _set_of(rules: Mapping[str, Any]) -> str:
    return json.dumps({"templates": {}, "staticPolicies": rules, "templateLinks": []})
