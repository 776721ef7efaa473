"""A remote decision point that speaks AuthZEN (OpenID Authorization API 1.0)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from agentguard._http import Http, checked_url
from agentguard.errors import ConfigurationError
from agentguard.model.decision import AccessRequest
from agentguard.model.lease import Secret
from agentguard.policy.authzen_metadata import Endpoints, default_endpoints, endpoints_in, metadata_url
from agentguard.policy.decided import Answering, Decided, tool_of
from agentguard.policy.obligations import NOTHING, Obligations, UnknownObligation, parse
from agentguard.policy.remote import Answer, Asking, NoAnswer, new_id
from agentguard.policy.values import NotCarried, json_form

_MOST: Final = 100
# What a permit's context may say without obliging anybody (Authorization API 1.0 section 5.5.2 shows such members).
_ADVICE: Final = frozenset({"id", "reason", "reason_admin", "reason_user"})


class AuthZenPoint:
    """Asks a decision point over AuthZEN; implements the port `DecisionPoint`. Safe for concurrent use.

    Only a `decision` that is JSON's `true` permits. A permit whose `context` has a member that nobody here knows is a
    deny, because it may be an obligation; ours stand in `context.obligations`: `{"max_ttl": 60}`. What is no decision
    (another status, no answer, another request's id) is a deny with the code `policy_error`.

    Args:
        http: sends.
        url: the decision point's identifier, exactly as its metadata says.
        name: of this decision point, in records.
        token: bearer token for the decision point.
        deadline: seconds for one decision; the first one may take as long again, for the metadata.
        discover: read the endpoints from the metadata, once, and check that it is this decision point's own; else
            the default paths are asked.
        advice: further members of a permit's `context` that oblige to nothing.
        ids: makes an `X-Request-ID` for each attempt.

    Raises:
        ConfigurationError: the URL is refused, or the deadline is no number of seconds.
    """

    suspends: bool = False
    waits: bool = True
    remote: bool = True

    def __init__(
        self,
        http: Http,
        url: str,
        *,
        name: str = "authzen",
        token: Secret | None = None,
        deadline: float = 2.0,
        discover: bool = True,
        advice: Sequence[str] = (),
        ids: Callable[[], str] = new_id,
    ) -> None:
        if not 0 < deadline <= 60:
            raise ConfigurationError(f"authzen deadline {deadline!r}: write seconds above 0, at most 60")
        checked_url(url, what="policy.authzen", networks=http.networks)
        if "?" in url:
            raise ConfigurationError("policy.authzen: the identifier of a decision point has no query")
        self.name, self._url, self._http = name, url, http
        self._asking = Asking(http, token=token, deadline=deadline, ids=ids)
        self._advice = _ADVICE | frozenset(advice)
        self._endpoints = None if discover else default_endpoints(url)

    async def decide(self, request: AccessRequest) -> Decided:
        """Ask for one decision (section 6)."""
        answer = Answering(self.name, tool_of(request))
        try:
            found = await self._asked(lambda ends: ends.evaluation, json_form(request))
        except (NotCarried, NoAnswer) as error:
            return _unanswered(answer, error)
        return self._read(Answering(self.name, answer.tool, id=found.id), found.body)

    async def decide_many(self, requests: Sequence[AccessRequest]) -> list[Decided]:
        """Ask for several decisions at once (section 7), in order; where a batch is in doubt, all of it is denied.

        Questions that say different things of the same subject or resource go into different batches: measured, a
        decision point answers all questions of a batch that share their ids by the properties of one of them.

        Args:
            requests: at most 100.
        """
        answers = [Answering(self.name, tool_of(request)) for request in requests]
        if len(requests) > _MOST:
            return [answer.error(f"a batch holds at most {_MOST} questions") for answer in answers]
        try:
            bodies = [json_form(request) for request in requests]
        except NotCarried as error:
            return [_unanswered(answer, error) for answer in answers]
        found: dict[int, Decided] = {}
        for batch in apart(bodies):
            part = await self._batch([answers[index] for index in batch], [bodies[index] for index in batch])
            found |= zip(batch, part, strict=True)
        return [found[index] for index in range(len(requests))]

    async def _batch(self, answers: Sequence[Answering], bodies: Sequence[Mapping[str, Any]]) -> list[Decided]:
        body = {"evaluations": bodies, "options": {"evaluations_semantic": "execute_all"}}
        try:
            found = await self._asked(lambda ends: ends.evaluations, body)
        except NoAnswer as error:
            return [_unanswered(answer, error) for answer in answers]
        answers = [Answering(self.name, answer.tool, id=found.id) for answer in answers]
        said = found.body.get("evaluations")
        if not isinstance(said, list) or len(said) != len(answers):
            return [answer.error("the batch's answer has not one decision for each question") for answer in answers]
        return [self._read(answer, each) for answer, each in zip(answers, said, strict=True)]

    async def _asked(self, which: Callable[[Endpoints], str], body: Mapping[str, Any]) -> Answer:
        endpoint = which(await self._found())
        if not endpoint:
            raise NoAnswer("its metadata names no endpoint for batches")
        return await self._asking.post(endpoint, body)

    async def _found(self) -> Endpoints:
        if self._endpoints is None:
            answer = await self._asking.get(metadata_url(self._url))
            found = endpoints_in(answer.body, self._url, self._http.networks)
            if isinstance(found, str):
                raise NoAnswer(found, answer.id)
            self._endpoints = found
        return self._endpoints

    def _read(self, answer: Answering, body: object) -> Decided:
        decision = body.get("decision") if isinstance(body, dict) else None
        if decision is False:
            return answer.deny("the decision point denies it")
        if decision is not True or not isinstance(body, dict):
            return answer.error("its answer has no decision that is true or false")
        try:
            return answer.permit(obligations=_obliged(body.get("context", {}), self._advice))
        except UnknownObligation as error:
            problem = str(error)
        return answer.error(problem)


def apart(bodies: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Share questions out to batches, by their positions, so that no batch tells two things of one id.

    INVARIANT: in a batch, questions with the same subject say the same of it, and so do those with the same resource;
    those with both have the same context too.
    """
    batches: list[list[int]] = []
    known: list[dict[tuple[str, ...], object]] = []
    for index, body in enumerate(bodies):
        facts = _facts(body)
        fits = (
            place for place, told in enumerate(known) if all(told.get(key, facts[key]) == facts[key] for key in facts)
        )
        place = next(fits, len(batches))
        if place == len(batches):
            batches.append([])
            known.append({})
        batches[place].append(index)
        known[place] |= facts
    return batches


def _facts(body: Mapping[str, Any]) -> dict[tuple[str, ...], object]:
    subject, resource = body["subject"], body["resource"]
    who = ("subject", str(subject.get("type")), str(subject.get("id")))
    what = ("resource", str(resource.get("type")), str(resource.get("id")))
    return {who: subject, what: resource, (*who, *what): body["context"]}


def _obliged(context: object, advice: frozenset[str]) -> Obligations:
    """What a permit's context obliges to (section 5.5.2: who enforces may refuse what it does not understand)."""
    if not isinstance(context, dict):
        raise UnknownObligation("the context of its answer is no object")
    if context.keys() - advice - {"obligations"}:
        raise UnknownObligation("the context of its answer has a member that is not known; list it in `advice`")
    return parse(context["obligations"]) if "obligations" in context else NOTHING


def _unanswered(answer: Answering, error: NotCarried | NoAnswer) -> Decided:
    if isinstance(error, NotCarried):
        return answer.error(f"the request cannot be put in JSON: {error}")
    return Answering(answer.point, answer.tool, id=error.id).error(error.why)
