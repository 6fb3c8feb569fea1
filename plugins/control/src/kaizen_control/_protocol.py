"""A channel over any transport: many questions at once, each with its own answer."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from time import time
from types import TracebackType
from typing import Literal, Self

import anyio
from anyio.abc import TaskGroup, TaskStatus
from kaizen.checkpoints import answer as put_answer
from kaizen.checkpoints import pending_requests
from kaizen.errors import (
    AnswerRefusedError,
    CheckpointError,
    ClaimLostError,
    NotAnsweredError,
    UnknownRunError,
)
from kaizen.ports import Answer, AnswerLater, CheckpointStore, PendingRequest

from kaizen_control._answers import MisfitError, fitting
from kaizen_control._company import company
from kaizen_control._messages import (
    MAX_MESSAGE_BYTES,
    MAX_PROGRESS_CHARS,
    MAX_REASON_CHARS,
    ClosedMessage,
    Outgoing,
    Problem,
    ProgressMessage,
    Received,
    RefusedMessage,
    RequestMessage,
    as_json,
)
from kaizen_control._transport import Transport, TransportClosedError

__all__ = ["ControlProtocol"]

MAX_OPEN = 10_000
MAX_REMEMBERED = 10_000
MAX_UNTOLD = 1_000
MAX_WAITING = 16
MAX_PAUSE_S = 0.1
EXPIRY_PAUSE_S = 1.0
CLAIM_PAUSE_S = 0.1
CLAIM_WAIT_S = 10.0
_LOG = logging.getLogger("kaizen")
_Why = Literal["answered", "expired", "withdrawn"]
_REASONS: dict[_Why, str] = {
    "answered": "it was answered already",
    "expired": "it has expired",
    "withdrawn": "nobody waits for the answer any more",
}


class _Open:
    """A question that is open.

    Attributes:
        deadline: When it expires, by a clock that nobody can set.
        done: Is set when there is an answer, or none will come.
        answer: What was answered.
        gone: Why none will come.
        waiting: Answers that came, and were not looked at yet.
        attended: Whether a task looks at them.
    """

    __slots__ = ("answer", "attended", "deadline", "done", "gone", "request", "waiting")

    def __init__(self, request: PendingRequest) -> None:
        left = float("inf")
        if request.expires_at is not None:
            left = request.expires_at - time()
        self.request = request
        self.deadline = anyio.current_time() + left
        self.done = anyio.Event()
        self.answer: Answer | None = None
        self.gone = ""
        self.waiting: deque[Received] = deque()
        self.attended = False

    def left(self) -> float:
        """Return the seconds until it expires: a clock that is set back adds none."""
        left = self.deadline - anyio.current_time()
        if self.request.expires_at is not None:
            left = min(left, self.request.expires_at - time())
        return left


class ControlProtocol:
    """A `Channel` that puts questions to the other side of a transport.

    It is an async context manager; or it is started in a task group of yours with `start`,
    and ends with that. Give it to an agent: `BaseAgent(…, control_protocol=protocol)`.

    Many questions may be open at once. An answer is taken if it names an open question,
    fits it, and, for an approval, says by the digest what is approved. Whatever else comes
    is refused, with the reason, and the question stays open.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        store: CheckpointStore | None = None,
        progress_interval_s: float = 0.1,
        send_timeout_s: float = 10.0,
    ) -> None:
        """Make a channel; it is open once it is started.

        Args:
            transport: The way to the other side.
            store: Where runs are kept whose answers come later; for a transport that is
                `detached`, and needed there.
            progress_interval_s: Least time between two reports of progress of one run, in
                seconds. Of what comes faster, the last is told.
            send_timeout_s: How long the other side may keep a message from going out.

        Raises:
            ValueError: The transport is detached, and there is no store.
        """
        if transport.detached and store is None:
            raise ValueError("answers that come later need a `store` to go to")
        self.transport = transport
        self._store = store
        self._interval_s = progress_interval_s
        self._send_timeout_s = send_timeout_s
        self._open: dict[str, _Open] = {}
        self._closed: OrderedDict[str, tuple[_Why, str]] = OrderedDict()
        self._whose: OrderedDict[str, str] = OrderedDict()
        self._untold: dict[tuple[str, ...], ProgressMessage] = {}
        self._told_at: OrderedDict[tuple[str, ...], float] = OrderedDict()
        self._news = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._gone = ""
        self._exit = AsyncExitStack()

    @property
    def open_requests(self) -> tuple[PendingRequest, ...]:
        """The questions that are open, oldest first."""
        return tuple(each.request for each in self._open.values())

    async def __aenter__(self) -> Self:
        await self._exit.enter_async_context(self._running())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exit.__aexit__(kind, error, traceback)

    async def start(self, tasks: TaskGroup) -> None:
        """Open the channel in a task group, and return when it is open.

        It ends when the task group is cancelled; what is open then is not answered.
        """
        await tasks.start(self._serve)

    async def ask(self, request: PendingRequest) -> Answer:
        """Put a question to the other side and wait for the answer.

        Raises:
            NotAnsweredError: The channel is not open, or the other side is gone, or the
                question expired or cannot be put.
            AnswerLater: The transport is detached: the answer goes to the store.
        """
        known = self._open.get(request.id)
        detached = self.transport.detached
        if detached and known is not None and known.request == request:
            raise AnswerLater(request.id)
        if detached and not request.run_path:
            problem = "is answered later, and no run waits for it"
            raise _unanswered(request, problem)
        entry = await self._put(request)
        if detached:
            raise AnswerLater(request.id)
        try:
            with anyio.move_on_after(max(0.0, entry.left())):
                await entry.done.wait()
        finally:
            if self._open.get(request.id) is entry:  # nobody has answered
                await self._withdraw(entry)
        if entry.answer is None:
            raise _unanswered(request, entry.gone or "has expired")
        return entry.answer

    async def progress(
        self,
        message: str,
        *,
        percentage: float | None = None,
        run_path: tuple[str, ...] = (),
    ) -> None:
        """Tell the other side how far the work is; waits for nobody.

        Raises:
            NotAnsweredError: The channel is not open.
        """
        if self._tasks is None:
            raise _not_open("progress")
        if len(self._untold) >= MAX_UNTOLD and run_path not in self._untold:
            self._untold.pop(next(iter(self._untold)))
        if len(message) > MAX_PROGRESS_CHARS:
            message = f"{message[:MAX_PROGRESS_CHARS]}…"
        self._untold[run_path] = ProgressMessage(
            message=message,
            percentage=None if percentage is None else float(percentage),
            run_path=tuple(run_path),
        )
        self._news.set()

    async def _put(self, request: PendingRequest) -> _Open:
        """Send a question, and remember that it is open."""
        if self._tasks is None:
            raise _not_open(f"request {request.id!r}")
        if self._gone:
            raise _unanswered(request, f"cannot be put: {self._gone}")
        known = self._open.get(request.id)
        if known is not None and not self.transport.detached:
            raise _unanswered(request, "is open already")
        if known is None and len(self._open) >= MAX_OPEN:
            raise _unanswered(request, f"is one too many: {MAX_OPEN} are open")
        entry = _Open(request)
        if entry.left() <= 0:
            raise _unanswered(request, "has expired")
        message = RequestMessage.of(request)
        if len(as_json(message)) > MAX_MESSAGE_BYTES:
            raise _unanswered(request, "is too large to be shown in full")
        self._open[request.id] = entry
        self._closed.pop(request.id, None)
        self._remember_whose(request)
        try:
            await self._tell_untold(request.run_path)
            await self._send(message)
        except BaseException as error:
            self._open.pop(request.id, None)
            if isinstance(error, TransportClosedError):
                raise _unanswered(request, f"cannot be put: {error}") from error
            raise
        return entry

    def _remember_whose(self, request: PendingRequest) -> None:
        """Know on whose behalf a run acts, to tell nobody else how far it is."""
        if not request.run_path:
            return
        self._whose[request.run_path[0]] = request.principal
        self._whose.move_to_end(request.run_path[0])
        if len(self._whose) > MAX_REMEMBERED:
            self._whose.popitem(last=False)

    async def _withdraw(self, entry: _Open) -> None:
        """Close a question that nobody has answered."""
        why: _Why = "expired" if entry.left() <= 0 else "withdrawn"
        with anyio.move_on_after(1.0, shield=True), suppress(TransportClosedError):
            await self._end(entry, why)

    async def _end(
        self,
        entry: _Open,
        why: _Why,
        *,
        answer: Answer | None = None,
        gone: str = "",
        ref: str = "",
    ) -> None:
        """Close a question on both sides, and let whoever waits know what came of it."""
        self._close(entry, why, answer=answer, gone=gone)
        await self._send(ClosedMessage(id=entry.request.id, why=why, ref=ref))

    def _close(
        self, entry: _Open, why: _Why, *, answer: Answer | None = None, gone: str = ""
    ) -> None:
        request = entry.request
        entry.answer, entry.gone = answer, gone
        entry.done.set()
        if self._open.get(request.id) is entry:
            del self._open[request.id]
        self._closed[request.id] = (why, request.principal)
        self._closed.move_to_end(request.id)
        if len(self._closed) > MAX_REMEMBERED:
            self._closed.popitem(last=False)

    async def _send(self, message: Outgoing) -> None:
        """Send a message within the time that it may take.

        Raises:
            TransportClosedError: The other side is gone, or takes nothing.
        """
        with anyio.move_on_after(self._send_timeout_s) as waiting:
            await self.transport.send(message)
        if waiting.cancelled_caught:
            raise TransportClosedError("the other side takes no messages")

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        async with company() as tasks:
            await tasks.start(self._serve)
            yield

    async def _serve(self, *, task_status: TaskStatus[None]) -> None:
        """Be open until cancelled."""
        if self._tasks is not None:
            raise RuntimeError("this channel is open already")
        try:
            async with self.transport.opened(), company() as tasks:
                self._tasks, self._gone = tasks, ""
                await self._recall()
                tasks.start_soon(self._tell)
                if self.transport.detached:
                    tasks.start_soon(self._expire)
                task_status.started()
                await self._read(tasks)
                await anyio.sleep_forever()
        finally:
            self._tasks = None
            for entry in self._open.values():
                entry.attended = False  # also where the task was cancelled unbegun
            self._give_up("the channel was closed")

    def _give_up(self, why: str) -> None:
        """Let whoever waits know that no answer will come, except one that has come."""
        self._gone = why
        for entry in tuple(self._open.values()):
            if not entry.attended:
                self._close(entry, "withdrawn", gone=f"was not answered: {why}")

    async def _recall(self) -> None:
        """Put again what waits in the store since an earlier process."""
        if self._store is None or not self.transport.detached:
            return
        try:
            waiting = await pending_requests(self._store)
        except CheckpointError as error:
            _LOG.warning("what waits in the store cannot be read: %s", error)
            return
        for request in waiting:
            with suppress(NotAnsweredError):  # it has expired, say
                await self._put(request)

    async def _read(self, tasks: TaskGroup) -> None:
        """Take answers until the other side is gone."""
        while True:
            try:
                received = await self.transport.receive()
            except TransportClosedError as error:
                self._give_up(str(error))
                return
            with suppress(TransportClosedError):
                await self._hand_on(received, tasks)

    async def _hand_on(self, received: Received, tasks: TaskGroup) -> None:
        """Let a task of its question look at an answer, so that it holds up no other."""
        entry = self._open.get(received.answer.id)
        if entry is None or not _visible(entry.request.principal, received.scope):
            error = self._not_open_any_more(received)
            await self._refuse(received, error.problem, error.reason)
        elif len(entry.waiting) >= MAX_WAITING:
            await self._refuse(received, "busy", "many have answered it; try again")
        else:
            entry.waiting.append(received)
            if not entry.attended:
                entry.attended = True
                tasks.start_soon(self._attend, entry)

    async def _attend(self, entry: _Open) -> None:
        """Look at the answers to a question, one after the other."""
        try:
            while entry.waiting:
                with suppress(TransportClosedError):
                    await self._consider(entry, entry.waiting.popleft())
        finally:
            entry.attended = False
            if self._gone:
                self._give_up(self._gone)

    async def _consider(self, entry: _Open, received: Received) -> None:
        """Take an answer or refuse it; one that breaks us does not break the others."""
        try:
            await self._take(entry, received)
        except MisfitError as error:
            await self._refuse(received, error.problem, error.reason)
        except TransportClosedError:
            raise
        except Exception:  # noqa: BLE001 - reported; its question stays open
            _LOG.exception("an answer could not be looked at")
            await self._refuse(received, "misfit", "it could not be looked at")

    async def _take(self, entry: _Open, received: Received) -> None:
        """Take an answer.

        Raises:
            MisfitError: It cannot be taken.
        """
        self._check_open(entry, received)
        given, detached = received.answer, self.transport.detached
        if entry.request.kind == "question" and given.declined:
            if detached:
                reason = "what waits in the store is answered, or expires"
                raise MisfitError("misfit", reason)
            await self._end(entry, "answered", gone="was declined", ref=given.ref)
            return
        answer = await fitting(entry.request, given, principal=received.principal)
        self._check_open(entry, received)
        if detached:
            await self._store_answer(entry, answer)
        await self._end(entry, "answered", answer=answer, ref=given.ref)

    def _check_open(self, entry: _Open, received: Received) -> None:
        if self._open.get(entry.request.id) is not entry:
            raise self._not_open_any_more(received)
        if entry.left() <= 0:
            raise MisfitError("expired", _REASONS["expired"])

    def _not_open_any_more(self, received: Received) -> MisfitError:
        why, principal = self._closed.get(received.answer.id, (None, ""))
        if why is None or not _visible(principal, received.scope):
            return MisfitError("unknown", "there is no such request")
        return MisfitError(why, _REASONS[why])

    async def _refuse(self, received: Received, problem: Problem, reason: str) -> None:
        given = received.answer
        await self._send(
            RefusedMessage(
                id=given.id,
                problem=problem,
                reason=reason[:MAX_REASON_CHARS],
                ref=given.ref,
            )
        )

    async def _store_answer(self, entry: _Open, answer: Answer) -> None:
        """Put an answer where its run will find it when it is resumed.

        Raises:
            MisfitError: The store does not take it.
        """
        assert self._store is not None
        try:
            await _put_when_free(self._store, entry.request.id, answer)
        except AnswerRefusedError as error:
            why: _Why = "expired" if entry.left() <= 0 else "answered"
            await self._end(entry, why)
            raise MisfitError(why, f"it {error.problem}") from error
        except UnknownRunError as error:
            await self._end(entry, "withdrawn")
            raise MisfitError("withdrawn", f"its run {error.problem}") from error
        except CheckpointError as error:
            raise MisfitError("busy", f"{error.problem}; try again") from error
        except Exception as error:
            _LOG.exception("an answer could not be stored")
            raise MisfitError("busy", "the store failed; try again") from error

    async def _expire(self) -> None:
        """Close what has expired and nobody waits for here."""
        while True:
            await anyio.sleep(EXPIRY_PAUSE_S)
            for entry in tuple(self._open.values()):
                if entry.left() <= 0 and not entry.attended:
                    await self._withdraw(entry)

    async def _tell(self) -> None:
        """Report progress, each run's no more often than it may."""
        while True:
            await self._news.wait()
            self._news = anyio.Event()
            while self._untold:
                now = anyio.current_time()
                for path in tuple(self._untold):
                    if self._told_at.get(path, -self._interval_s) + self._interval_s <= now:
                        await self._tell_untold(path)
                if self._untold:
                    await anyio.sleep(min(self._interval_s, MAX_PAUSE_S))

    async def _tell_untold(self, path: tuple[str, ...]) -> None:
        """Report the last progress of a run, if it has not been yet."""
        message = self._untold.pop(tuple(path), None)
        if message is None:
            return
        self._told_at[message.run_path] = anyio.current_time()
        whose = self._whose.get(message.run_path[0], "") if message.run_path else ""
        self._told_at.move_to_end(message.run_path)
        if len(self._told_at) > MAX_UNTOLD:
            self._told_at.popitem(last=False)
        with suppress(TransportClosedError):
            await self._send(message.model_copy(update={"principal": whose}))


async def _put_when_free(store: CheckpointStore, request_id: str, answer: Answer) -> None:
    """Put an answer into a log; wait a while for who still holds the run."""
    end = anyio.current_time() + CLAIM_WAIT_S
    while True:
        try:
            return await put_answer(store, request_id, answer)
        except ClaimLostError:
            if anyio.current_time() >= end:
                raise
            await anyio.sleep(CLAIM_PAUSE_S)


def _visible(principal: str, scope: str | None) -> bool:
    return scope is None or principal == scope


def _unanswered(request: PendingRequest, problem: str) -> NotAnsweredError:
    return NotAnsweredError(f"request {request.id!r}", problem)


def _not_open(what: str) -> NotAnsweredError:
    return NotAnsweredError(
        what,
        "came before the channel was open",
        "Use it inside `async with protocol:`, or after `await protocol.start(tasks)`.",
    )
