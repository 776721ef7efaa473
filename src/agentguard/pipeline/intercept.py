"""Step 1: bind the arguments once, to the form that is compared and to the copy that the tool gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec.structs import replace

from agentguard.access import Caller, _caller
from agentguard.credentials.leaks import Search
from agentguard.errors import NotCanonical
from agentguard.model.call import ToolCall
from agentguard.model.canonical import Canonical, canonical, digest, run_copy
from agentguard.model.decision import Reason
from agentguard.refusal import Refusal

if TYPE_CHECKING:
    from agentguard.running import Running

# The run copy, the canonical form with the defaults of what was left out, and its digest.
_Formed: TypeAlias = tuple[dict[str, Any], dict[str, Canonical], str]

PLAIN: Final = frozenset({type(None), bool, int, float, Decimal})  # none of them can hold a secret
_NOBODY: Final = Caller()


def intercept(call: Running, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Bind once; make the canonical form, which is compared, and the run copy, which the tool gets."""
    guard, tool = call.guard, call.tool
    form, shortest = tool.plain, guard.secrets.shortest
    hidden: dict[str, Any] = {}
    given: dict[str, Canonical] | None = None
    # Plain arguments cannot change and hold no secret, so what they are bound to is their run copy too.
    plain = form.of(args, kwargs, shortest) if form.binds else None
    if plain is None:
        plain, hidden, given = _bound(call, args, kwargs)
    copy, arguments, sha256 = plain
    caller = _caller.get() or _NOBODY
    call.call = ToolCall(
        id=call.id, spec=tool.spec, arguments=arguments, given=frozenset(copy if given is None else given),
        digest=sha256, call_id=caller.call_id, agent=caller.agent, run_id=caller.run_id,
    )  # fmt: skip
    call.hash = guard.pseudonyms.digest(sha256)
    if call.span.on:
        call.span.call, call.span.hash = call.call, call.hash
    call.copies = (copy, hidden)
    if given is None:
        return
    # What a tool's signature does not name, the caller has: the name of an argument can hold a secret too.
    named = tool.spec.parameters is not None or _too_short(given, shortest)
    if not (named and _too_short(given.values(), shortest)):
        _refuse_secrets(call, given)


def _bound(
    call: Running, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[_Formed, dict[str, Any], dict[str, Canonical] | None]:
    """Bind arguments of any kind; return them formed, those that are hidden, and what has to be searched."""
    tool = call.tool
    try:
        bound = tool.binder.bind(args, kwargs)
        if not tool.plain.binds:
            plain = tool.plain.of((), bound.visible, call.guard.secrets.shortest)
            if plain is not None:
                return plain, bound.hidden, None
        given = _canonical(call, bound.visible)
        copy, call.mutable = run_copy(bound.visible)
    except NotCanonical as error:
        raise Refusal(Reason.INVALID_ARGUMENTS, _cleaned(call, str(error))) from None
    except TypeError as error:
        why = _cleaned(call, f"the call does not fit the tool's signature: {error}")
        raise Refusal(Reason.INVALID_ARGUMENTS, why) from None
    defaults = tool.spec.defaults
    arguments = {**defaults, **given} if defaults else given
    return (copy, arguments, digest(arguments)), bound.hidden, given


def make_unbound(call: Running) -> None:
    """Make the value of a call that does not bind: it has no arguments, and no hash of them."""
    caller = _caller.get() or _NOBODY
    call.call = ToolCall(
        id=call.id, spec=call.tool.spec, arguments={}, given=frozenset(), digest="",
        call_id=caller.call_id, agent=caller.agent, run_id=caller.run_id,
    )  # fmt: skip
    if call.span.on:
        call.span.call, call.span.hash = call.call, ""


def refuse_changes(call: Running) -> None:
    try:
        arguments = {**call.tool.spec.defaults, **_canonical(call, call.copies[0])}
        unchanged = digest(arguments) == call.call.digest
    except NotCanonical:
        unchanged = False
    if not unchanged:
        raise Refusal(Reason.ARGUMENTS_CHANGED, "the arguments are not those that were checked")


def _canonical(call: Running, visible: Mapping[str, Any]) -> dict[str, Canonical]:
    takes_bytes = call.tool.spec.bytes
    whole = canonical(visible, bytes_allowed=takes_bytes)
    assert isinstance(whole, dict)  # noqa: S101  # a mapping's canonical form is a dict
    return whole


def _cleaned(call: Running, text: str) -> str:
    """A text without live credentials: the name of an argument or of a key can hold one too."""
    clean, hits = call.guard.secrets.cleaned(text)
    call.hits |= hits
    return clean


def _refuse_secrets(call: Running, given: dict[str, Canonical]) -> None:
    search = Search(call.guard.secrets)
    clean = search.value(given)
    if search.hits:
        call.hits = search.hits
        # What is recorded and explained of this call is what it holds beside the credential.
        call.call = replace(call.call, arguments=clean if isinstance(clean, dict) else {})
        raise Refusal(Reason.SECRET_IN_ARGUMENTS, "a live credential stands in the arguments; it was revoked")


def _too_short(values: Iterable[object], shortest: int) -> bool:
    """Tell, cheaply, that no value can hold a secret: each is plain, or shorter than any that is watched."""
    if not shortest:
        return True
    for value in values:
        kind = type(value)
        if kind is not str and kind not in PLAIN:
            return False
        if kind is str and len(value) >= shortest:  # type: ignore[arg-type]  # exact str
            return False
    return True
