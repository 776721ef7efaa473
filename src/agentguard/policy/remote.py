"""What decision points behind HTTP share: one question, one bounded answer, and ids that tie the two together."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentguard._http import Http, HttpFailure, Request, Response
from agentguard.model.lease import Secret

REQUEST_ID: Final = "x-request-id"
_NONE: Final[Mapping[str, str]] = {}


class NoAnswer(Exception):
    """There is no answer that can be used; the text holds nothing of the question or the answer.

    Args:
        why: what went wrong.
        id: the `X-Request-ID` of the last attempt.
    """

    def __init__(self, why: str, id: str = "") -> None:
        self.why, self.id = why, id
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON object that a server answered with, and the `X-Request-ID` of the question."""

    body: Mapping[str, Any]
    id: str


def new_id() -> str:
    """An `X-Request-ID` that nobody else uses."""
    return secrets.token_hex(16)


class Asking:
    """Sends questions to one server. Questions change nothing there, so they are safe to send again.

    Args:
        http: sends, within its bounds.
        token: goes along as a bearer token (RFC 6750 section 2.1).
        deadline: seconds for one question, with all its attempts.
        ids: makes an `X-Request-ID` for each attempt.
    """

    def __init__(
        self, http: Http, *, token: Secret | None = None, deadline: float = 2.0, ids: Callable[[], str] = new_id
    ) -> None:
        self._http, self._token, self.deadline, self._ids = http, token, deadline, ids

    async def get(self, url: str) -> Answer:
        """Read a JSON object.

        Raises:
            NoAnswer: there is none.
        """
        return await self._send("GET", url, None)

    async def post(self, url: str, body: object) -> Answer:
        """Ask a question, and return the JSON object that is the answer.

        Raises:
            NoAnswer: another status than 200, no strict JSON object, the `X-Request-ID` of another question, or none
                in time.
        """
        return await self._send("POST", url, body)

    async def _send(self, method: str, url: str, body: object) -> Answer:
        sent = [""]

        def make() -> Request:
            sent[0] = self._ids()
            headers = {REQUEST_ID: sent[0], **self._credentials()}
            if method == "GET":
                return Request(method=method, url=url, headers=headers)
            return Request(method=method, url=url, headers=headers, json=body)

        found = await self._answer(make)
        problem = found if isinstance(found, str) else _problem(found, sent[0])
        if isinstance(found, str) or problem:
            raise NoAnswer(problem, sent[0])
        try:
            return Answer(found.json(), sent[0])
        except HttpFailure as error:
            problem = str(error)
        raise NoAnswer(problem, sent[0])

    async def _answer(self, make: Callable[[], Request]) -> Response | str:
        try:
            return await self._http.send(make, deadline=self.deadline)
        except HttpFailure as error:
            return str(error)

    def _credentials(self) -> Mapping[str, str]:
        return _NONE if self._token is None else {"authorization": f"Bearer {self._token.reveal()}"}


def _problem(response: Response, sent: str) -> str:
    if response.status != 200:
        return f"{response.origin} answered {response.status}, which is no decision"
    echoed = response.headers.get(REQUEST_ID)
    if echoed is not None and echoed != sent:
        return f"{response.origin} answered with the X-Request-ID of another question"
    return ""
