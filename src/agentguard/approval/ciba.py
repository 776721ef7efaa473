"""Asks a person on a device of their own, through an OpenID provider (CIBA Core 1.0, poll mode).

The provider authenticates the person and shows a short message with the code of the arguments; who approved stands in a
signed ID token. The tokens that come with it are verified, revoked and dropped: an approval is no credential.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio

from agentguard._drive import driven, run_shielded
from agentguard._http import Http
from agentguard.approval.asked import rejected, seconds_left
from agentguard.approval.ciba_answers import Again, Ended, Tokens, valid_id
from agentguard.approval.ciba_exchange import Backchannel, Pause
from agentguard.approval.ciba_open import Open, OpenQuestions
from agentguard.approval.ciba_people import Hints, Person, checked_hints, whom
from agentguard.approval.message import LONGEST_BINDING, checked_length
from agentguard.approval.provider import ClientProof, OpenIdProvider, ProviderMetadata
from agentguard.ports import Answer, Approval, ApprovalRequest

__all__ = ["CibaApprover", "Person", "ProviderMetadata"]

SLOWER_BY: Final = 5.0  # seconds, for this poll and all that follow (section 11)
_STEP: Final = 1.0  # seconds until a wait notices that the approver was closed


class CibaApprover:
    """Asks through an OpenID provider's backchannel; an `Approver`. Safe for threads and event loops.

    A question to the subject goes to the subject, by its name at the provider; one to an operator to `operator` of
    `login_hints`. Only an ID token of exactly that person counts, and only until the question's end: what the provider
    does not answer, answers with an error, or for somebody else, is a rejection.

    Args:
        issuer: the provider's identifier, exactly as in its tokens.
        client: proves this client: `PrivateKeyJwt` of `agentguard.credentials.oauth`.
        http: sends; shared, and closed by `close`.
        login_hints: whom to ask: `{"operator": "ann"}`, and for subjects whose name at the provider is another one
            `{"user:alice": Person(...)}`; or a function of the question. A text is login hint and `sub` in one.
        block: wait for the answer; without, `ask` returns `PENDING` with the `auth_req_id` as its id, for `check`.
        binding_length: characters of the binding message at most, from 12 to 64; providers have limits.
        metadata: the provider's endpoints, where they are not to be discovered.
        clock: seconds since the epoch.
        monotonic: seconds for deadlines.
        pause: waits for some seconds; for tests.

    Raises:
        ConfigurationError: a URL is refused, the client is for another issuer, or a hint or length is wrong.
    """

    suspends: bool = False
    waits: bool = True
    remote: bool = True

    def __init__(
        self,
        issuer: str,
        client: ClientProof,
        http: Http,
        *,
        login_hints: Hints | None = None,
        block: bool = True,
        binding_length: int = LONGEST_BINDING,
        metadata: ProviderMetadata | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Pause | None = None,
    ) -> None:
        self._provider = OpenIdProvider(issuer, client, http, metadata=metadata, clock=clock, monotonic=monotonic)
        self._hints, self._block = checked_hints(login_hints or {}), block
        self._clock, self._monotonic, self._pause = clock, monotonic, pause or _pause
        self._backchannel = Backchannel(self._provider, self._pause, checked_length(binding_length))
        self._questions = OpenQuestions(monotonic)
        self._closed = False

    async def ask(self, request: ApprovalRequest) -> Approval:
        """Have the provider ask, and return the answer; or `PENDING`, where `block` is off."""
        left = seconds_left(request, self._clock())
        if not left:
            return rejected("the question has expired", request)
        person = whom(self._hints, request)
        if person is None:
            return rejected("nobody is configured to be asked; name an operator in login_hints", request)
        question = await self._backchannel.start(request, person, self._monotonic() + left)
        if isinstance(question, str):
            return rejected(question, request)
        if not self._block:
            return await self._looked_at(self._questions.keep(question), request)
        question.next_at = self._monotonic() + question.interval
        return await self._answer(question, request)

    async def check(self, id: str, request: ApprovalRequest) -> Approval:
        """Return the answer to a question that was asked before, also by another process, or `PENDING`.

        Called more often than the provider allows, it says `PENDING` without asking.

        Args:
            id: the id of the Approval that was `PENDING`.
            request: the same question.
        """
        question = self._found(id, request)
        return rejected(question, request) if isinstance(question, str) else await self._looked_at(question, request)

    def _found(self, ident: str, request: ApprovalRequest) -> Open | str:
        """The question as it is known here; as much of it as can be told, where another process asked."""
        known = self._questions.find(ident)
        if known is not None:
            return known if known.digest == request.digest else "the id is of a question about another call"
        left, person = seconds_left(request, self._clock()), whom(self._hints, request)
        if not left or person is None or not valid_id(ident):
            return "no such question, or no answer in time"
        return self._questions.keep(Open(ident, person, request.digest, self._monotonic() + left))

    async def _looked_at(self, question: Open, request: ApprovalRequest) -> Approval:
        if not self._questions.due(question):
            return Approval(Answer.PENDING, id=question.id)
        approval = await self._polled(question, request)
        if approval.answer is not Answer.PENDING:
            self._questions.drop(question.id)
        return approval

    async def _answer(self, question: Open, request: ApprovalRequest) -> Approval:
        while await self._may_poll(question):
            approval = await self._polled(question, request)
            if approval.answer is not Answer.PENDING:
                return approval
        return rejected("no answer in time", request)

    async def _may_poll(self, question: Open) -> bool:
        """Wait for the next poll; False if the question ends before it."""
        if question.next_at >= question.until:
            return False
        while not self._closed and (left := question.next_at - self._monotonic()) > 0:
            await self._pause(min(_STEP, left))
        return not self._closed and self._monotonic() < question.until

    async def _polled(self, question: Open, request: ApprovalRequest) -> Approval:
        left = self._left(question, request)
        if left <= 0:
            return rejected("no answer in time", request)
        found = await self._backchannel.poll(question, left)
        if isinstance(found, Tokens):
            return await self._approved(found, question, request)
        if isinstance(found, Ended):
            by_person = Approval(Answer.REJECTED, self._name(question.person), question.id)
            return by_person if found.by_person else rejected(found.why, request)
        if found is Again.SLOWER:
            question.interval += SLOWER_BY
        question.next_at = self._monotonic() + question.interval
        return Approval(Answer.PENDING, id=question.id)

    async def _approved(self, tokens: Tokens, question: Open, request: ApprovalRequest) -> Approval:
        try:
            why = await self._backchannel.difference(tokens, question)
        finally:
            with suppress(TimeoutError):
                await run_shielded(lambda: self._backchannel.revoke(tokens), suspends=True)
        if why:
            return rejected(why, request)
        # INVARIANT: looked at last: an approval that came after the question's end is not used.
        if self._left(question, request) <= 0:
            return rejected("the answer came too late", request)
        name, of_subject = self._name(question.person), request.by == "subject"
        return Approval(Answer.APPROVED, name, question.id, is_subject=of_subject)

    def _left(self, question: Open, request: ApprovalRequest) -> float:
        if self._closed:
            return 0.0
        return min(question.until - self._monotonic(), seconds_left(request, self._clock()))

    def _name(self, person: Person) -> str:
        return f"{self._provider.issuer}#{person.sub}"

    def close(self) -> None:
        """Stop waiting for answers, which are then rejections, and close the connections."""
        self._closed = True
        self._provider.close()

    def after_fork(self) -> None:
        """In a child process: wait for nobody of the parent."""
        self._questions.after_fork()
        self._provider.after_fork()

    def __repr__(self) -> str:
        return f"<CibaApprover {self._provider.issuer} as {self._provider.client.client_id}>"


async def _pause(seconds: float) -> None:
    if driven():
        time.sleep(seconds)  # noqa: ASYNC251  # a driven caller has no event loop to give way to
    else:
        await anyio.sleep(seconds)
