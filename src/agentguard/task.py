"""A task: who acts for whom, for what purpose, until when; and its delegation to sub-agents, which only narrows."""

from __future__ import annotations

import contextlib
import threading
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from agentguard._drive import drive
from agentguard.access import _task
from agentguard.active import denial, refuse_blocking
from agentguard.errors import ConfigurationError, Denied
from agentguard.intent import CompiledIntent, Intent
from agentguard.model.canonical import MAX_BYTES, is_nfc
from agentguard.model.decision import Reason
from agentguard.model.lease import Secret, SubjectToken
from agentguard.model.principal import Chain, Subject
from agentguard.task_state import Counts, TaskState, Tree, hands_off, pauses
from agentguard.user import OnBehalfOf, User

if TYPE_CHECKING:
    from agentguard.registry import RegisteredAgent

F = TypeVar("F", bound=Callable[..., Any])


class Host(Protocol):
    """What a task needs from its guard."""

    remote: bool
    suspends: str

    async def open_task(self, task: Task) -> None: ...
    async def close_task(self, task: Task, state: TaskState, why: str) -> None: ...
    def child(self, parent: Task, agent: str, intent: Intent | None, ttl: Any) -> Task: ...
    async def export(self, task: Task, to: str, intent: Intent | None, how: Mapping[str, Any]) -> str: ...
    async def reclaim(self, task: Task, token: Secret) -> None: ...
    def refuse(self, task: Task, tool: str, reason: Reason, text: str) -> Denied: ...
    def monotonic(self) -> float: ...
    def now(self) -> float: ...


class _NoChainYet:
    """Stands where a task has no chain yet. INVARIANT: it has no `__set__`, so the task's own comes before it."""

    def __get__(self, task: Task | None, kind: type[Task]) -> Any:
        if task is None:
            return self
        raise ConfigurationError("the task is not open yet; its user is verified when it opens")


class Task:
    """One declared piece of work. Open it with `with` or `async with`; every guarded tool called inside belongs to it.

    Attributes:
        id: unique; in every record, span and token.
        chain: from the subject to the agent that acts now; None until a verified user's token was checked at opening.
        state: new, open, parked, ending or ended.
        deadline: monotonic seconds at which it ends.
    """

    chain: Chain = _NoChainYet()  # type: ignore[assignment]  # no `__getattr__`: each of its attributes would cost more

    def __init__(  # made by the guard only
        self, host: Host, *, id: str, agent: RegisteredAgent, intent: CompiledIntent, user: OnBehalfOf,
        chain: Chain | None, parent: Task | None, ttl: float,
    ) -> None:  # fmt: skip
        self.host, self.id, self.agent, self.intent, self.user, self.parent = host, id, agent, intent, user, parent
        self.ttl = ttl
        if chain is not None:
            self.chain = chain
        self.path: tuple[Task, ...] = (*(parent.path if parent else ()), self)
        self.upwards = self.path[::-1]  # from the one that acts to the root
        self.tree: Tree = parent.tree if parent else Tree(id)
        self.children: list[Task] = []
        self.state = TaskState.NEW
        self.deadline = 0.0
        self.counts = Counts()
        self.why_ended = ""
        self.why_stopped, self.handed_on = "", False
        self.cache: dict[Any, Any] = {}
        self.allowed: set[str] = set()  # tools that every link of the chain may call, or hand on
        self.arrival: Any = None  # the handover that it came with; of a floor above this one
        self.kept = ""  # it is parked in the store, which says who goes on with it; a digest of its state there
        self.subject: Subject | None = None  # whom it acts for, where another process parked it; proved at opening
        self.identity = ("", "")  # what its agent had proved to be there, and how
        self._parks = False
        self.is_ceiling, self.source_s256 = False, ""  # of a level that another process counts too
        self._lock = threading.Lock()
        self._token: Token[Task | None] | None = None
        self.span: Any = None
        self.done: Future[None] = Future()

    @property
    def root(self) -> Task:
        """The task the subject authorised."""
        return self.path[0]

    @property
    def intent_s256(self) -> str:
        """Hash of the resolved intent, as in every decision, token and record."""
        return self.intent.s256

    def settle_chain(self, chain: Chain) -> None:
        """Set once, when the subject is known."""
        self.chain = chain

    @property
    def subject_token(self) -> SubjectToken | None:
        """What proves the subject to an authorization server, if the user brought it."""
        return self.user.subject_token if isinstance(self.user, User) else None

    # --- entering and leaving --------------------------------------------------------------------------------

    def __enter__(self) -> Task:
        refuse_blocking(self.host)
        drive(self._enter())
        self._activate()
        return self

    async def __aenter__(self) -> Task:
        await self._enter()
        self._activate()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            drive(self._leave(error))
        finally:
            self._deactivate()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._leave(error)
        finally:
            self._deactivate()

    async def _enter(self) -> None:
        if self.state not in (TaskState.NEW, TaskState.PARKED):
            raise ConfigurationError(f"task {self.id} is {self.state}; make a new one with guard.task(...)")
        active = _task.get()
        if active is not None and (self.parent is None or active.tree is not self.tree) and active.is_open():
            raise denial(
                Reason.ALREADY_IN_TASK, "task",
                f"task {active.id} ({active.intent.purpose!r}) is active here; cross with task.delegate(...)",
            )  # fmt: skip
        await self.host.open_task(self)

    async def _leave(self, error: BaseException | None) -> None:
        if self.state is TaskState.OPEN and self._is_paused(error):
            await self.host.close_task(self, TaskState.PARKED, type(error).__name__ if error else "waits")
        else:
            await self.host.close_task(self, TaskState.ENDED, type(error).__name__ if error else "done")
        self._parks = False  # it was for this once

    def _is_paused(self, error: BaseException | None) -> bool:
        """Left with a pause, or without an error while it waits: for its turn, or for an answer to one of its calls."""
        if error is not None and not hands_off(error):
            return pauses(error)
        top = self.parent is None or self.arrival is not None
        return top and (self._parks or self.tree.waiting.open(self.host.now()))

    def park(self) -> None:
        """Let the task wait once it is left, instead of ending it: for its turn, in a queue.

        It holds no credential meanwhile, and its time runs on. `guard.resume(task.id, on_behalf_of=...)` goes on with
        it, in another process too where the guard has a state that outlives this one.

        Raises:
            ConfigurationError: it is a sub-agent's task; the root task is what is parked.
        """
        if self.parent is not None and self.arrival is None:
            raise ConfigurationError("a sub-agent's task ends with its block; park the root task")
        self._parks = True

    def _activate(self) -> None:
        self._token = _task.set(self)
        if self.span is not None:
            self.span.attach()

    def _deactivate(self) -> None:
        if self.span is not None:
            self.span.detach()
        token, self._token = self._token, None
        if token is not None:
            with contextlib.suppress(ValueError):  # left from another context, which never saw the task
                _task.reset(token)

    # --- state -----------------------------------------------------------------------------------------------

    def is_open(self) -> bool:
        """Whether calls may start: open, and not past its deadline."""
        return self.state is TaskState.OPEN and self.host.monotonic() < self.deadline

    def move(self, state: TaskState, *, only_from: tuple[TaskState, ...]) -> bool:
        """Change the state in one step; False when somebody else was first."""
        with self._lock:
            if self.state not in only_from:
                return False
            self.state = state
            return True

    def forked(self) -> None:
        """In a forked child the task belongs to the parent process: it is ended here, and nothing of it is touched."""
        self._lock = threading.Lock()
        self.tree.lock = threading.Lock()
        self.tree.waiting.renew()
        self.state, self.why_ended = TaskState.ENDED, "it belongs to the process that forked this one"

    def remaining(self) -> float:
        """Seconds until it ends by itself."""
        return max(0.0, self.deadline - self.host.monotonic())

    def heard(self, text: str) -> None:
        """Add the subject's own words, for `said`: what they wrote themselves, never what a tool or a model returned.

        Args:
            text: as it was written; it is put into NFC.

        Raises:
            TypeError: it is no text.
            ConfigurationError: it is empty, no valid Unicode, or all that was heard would be more than 1 MiB.
        """
        if not isinstance(text, str):
            raise TypeError(f"heard() takes text, not {type(text).__name__}")
        words = unicodedata.normalize("NFC", text)
        if not words.strip() or not is_nfc(words):
            raise ConfigurationError("heard() takes text that is not empty and holds no lone surrogate")
        with self.tree.lock:
            if sum(map(len, self.tree.heard)) + len(words) > MAX_BYTES:
                raise ConfigurationError("the subject's words are more than 1 MiB; pass what they said, no documents")
            self.tree.heard = (*self.tree.heard, words)

    # --- crossing --------------------------------------------------------------------------------------------

    def delegate(
        self, agent: str, *, reads: Any = (), steps: Any = (), intent: Intent | None = None, ttl: Any = None
    ) -> Task:
        """Return a task for a sub-agent, to be opened with `with` or `async with`; it can only narrow.

        A call under it must match its own steps and a step at every level above, and is counted in each.

        Args:
            agent: the sub-agent's name.
            reads: tool patterns it may read with.
            steps: steps made with `step(...)`.
            intent: a whole intent instead of reads and steps.
            ttl: seconds, or text such as "5m"; it never outlives this task.

        Raises:
            TypeError: neither reads, steps nor intent, and the intent's `agents` does not name this agent.
            Denied: `cycle`, `depth_exceeded`, `unknown_agent`, `task_ended`, ... (recorded).
        """
        if intent is not None and (reads or steps):
            raise TypeError("delegate() takes an intent, or reads and steps, not both")
        narrowed = intent or self._narrowed(agent, reads, steps)
        if narrowed is None:
            raise TypeError(
                f"delegate({agent!r}) needs what the sub-agent may do: reads=[...], steps=[...] or intent=..., "
                "or an entry for it under the intent's `agents`"
            )
        return self.host.child(self, agent, narrowed, ttl)

    def export(
        self, to: str, *, reads: Any = (), steps: Any = (), intent: Intent | None = None, ttl: Any = None,
        redeem_within: Any = None, share: Any = None,
    ) -> str:  # fmt: skip
        """Return a token with which another process opens a task for an agent, once: `guard.resume(token)`.

        It holds this task's whole chain and, at every level, a literal intent as it stands now. What it may use up of
        each budget is taken here, so that both sides together never exceed one; that share stays spent, also where the
        far side does not use it, unless `reclaim` proves that the handover was never redeemed; of a window it comes
        back by time. What the far side reads does not come back: hand on no more than it needs. Whoever holds the token
        can redeem it: send it over TLS, and never to a model, a log or a URL.

        Args:
            to: the agent it is for; it has to be registered at the far side.
            reads, steps, intent: what the agent may do, as for `delegate`; this task's own intent if nothing is said.
            ttl: seconds, or text such as "5m", that its task may last; never longer than this one.
            redeem_within: seconds in which it has to be redeemed, at most 300; default 60.
            share: what part of what is left of each budget is handed on, such as "0.25"; by default all that is left of
                a step, and half of what bounds more than one step or counts in a window.

        Raises:
            ConfigurationError: the guard has no `Handovers`, or a port would block or suspend; use `aexport`.
            Denied: `cycle`, `depth_exceeded`, `task_ended`, `suspended`, `not_allowed` where a level has no literal
                form now: an `after` that has not happened, a `bind` that is not set, a count for each value (recorded).
        """
        refuse_blocking(self.host)
        narrowed = self._handed_on(to, reads, steps, intent)
        return drive(self.host.export(self, to, narrowed, {"ttl": ttl, "redeem_within": redeem_within, "share": share}))

    async def aexport(
        self, to: str, *, reads: Any = (), steps: Any = (), intent: Intent | None = None, ttl: Any = None,
        redeem_within: Any = None, share: Any = None,
    ) -> str:  # fmt: skip
        """Do what `export` does, under an event loop."""
        narrowed = self._handed_on(to, reads, steps, intent)
        return await self.host.export(self, to, narrowed, {"ttl": ttl, "redeem_within": redeem_within, "share": share})

    def reclaim(self, token: str) -> None:
        """Take back the share of a handover that nobody redeemed; from then on nobody can.

        Raises:
            ConfigurationError: nobody can know whether it was redeemed, as the far side shares no `redemptions` with
                this guard; or this task made no such handover.
            Denied: it was redeemed.
        """
        secret = Secret(token)
        del token
        refuse_blocking(self.host)
        drive(self.host.reclaim(self, secret))

    async def areclaim(self, token: str) -> None:
        """Do what `reclaim` does, under an event loop."""
        secret = Secret(token)
        del token
        await self.host.reclaim(self, secret)

    def _handed_on(self, to: str, reads: Any, steps: Any, intent: Intent | None) -> Intent | None:
        if intent is not None and (reads or steps):
            raise TypeError("export() takes an intent, or reads and steps, not both")
        return intent or self._narrowed(to, reads, steps)

    def _narrowed(self, agent: str, reads: Any, steps: Any) -> Intent | None:
        if reads or steps:
            listed = [steps] if not isinstance(steps, list | tuple) else list(steps)
            own = self.intent.intent
            return Intent(own.purpose, *listed, reads=reads, name=own.name, sets=own.sets, define=own.define)
        return self.intent.agents.get(agent)

    def refuse(self, tool: str, reason: Reason, text: str) -> Denied:
        """Record that a framework's hook denied a call which no guard stands in front of, and return the denial.

        Args:
            tool: the tool's name; possibly of a model's invention, so it is cut at 64 characters.
            reason: the reason code, such as `unguarded`.
            text: what is wrong and what to write instead, for the developer.
        """
        return self.host.refuse(self, tool[:64], reason, text)

    @contextlib.contextmanager
    def activate(self) -> Iterator[Task]:
        """Make this open task the active one here: in a thread, or where a framework lost the context."""
        active = _task.get()
        if active is not None and active.tree is not self.tree and active.is_open():
            raise denial(
                Reason.ALREADY_IN_TASK, "task", f"task {active.id} is active here; a task never takes over another"
            )
        token = _task.set(self)
        try:
            with self.span.visited() if self.span is not None else contextlib.nullcontext():
                yield self
        finally:
            with contextlib.suppress(ValueError):
                _task.reset(token)

    def bind(self, fn: F) -> F:
        """Return the function with this task bound to it, for a thread pool or a framework that loses context.

        A generator or a coroutine that it returns runs in this task too.
        """
        from agentguard.bound import bound_to

        return bound_to(self, fn)  # type: ignore[return-value]  # same signature by functools.wraps

    def __repr__(self) -> str:
        chain: Chain | None = self.__dict__.get("chain")
        who = chain.text() if chain else "unverified"
        return f"<Task {self.id} {self.state} {who}: {self.intent.purpose}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a task cannot be copied or pickled; authority crosses by delegate() or export()")
