"""Questions of a run to a person or a program outside, and their answers.

A question is in the log before it is put, and its answer before anybody acts on it. A run
that is resumed asks the same again by the same id, unless the answer is on record.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from hashlib import sha256
from os import urandom
from time import time
from typing import TYPE_CHECKING, Any, Literal

import anyio
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from kaizen._plain import clean, plain
from kaizen.errors import AgentInterrupted, KaizenError, NobodyToAskError, NotAnsweredError
from kaizen.interrupts import (
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    InterruptSource,
)
from kaizen.ports import Answer, AnswerLater, Channel, PendingRequest
from kaizen.runlog import Answered, Asked, RunState

if TYPE_CHECKING:
    from kaizen.agent import BaseAgent
    from kaizen.kernel import Kernel
    from kaizen.run import Run

__all__ = [
    "MAX_ANSWER_CHARS",
    "Question",
    "ask",
    "ask_outside",
    "asked_of",
    "channel_for",
    "checked",
    "is_good",
    "request_of",
    "tell",
]

MAX_QUESTION_CHARS = 100_000
MAX_ANSWER_CHARS = 1_000_000
MAX_TRIES = 3
MAX_WAIT_S = 366 * 86_400.0
MAX_PROBLEM_CHARS = 1_000
MAX_CLOCK_S = 60.0
_LOG = logging.getLogger("kaizen")


class Question:
    """What is asked, and what the answer has to be.

    Raises:
        ValueError: The text is empty or too long, the time is none that one can wait, or
            an option does not fit the type of the answer.
    """

    def __init__(
        self,
        text: str,
        *,
        kind: Literal["question", "approval"],
        options: Sequence[str],
        details: Mapping[str, Any] | None,
        answer_type: Any,
        action_digest: str,
        expires_s: float,
    ) -> None:
        if not 0 < len(text) <= MAX_QUESTION_CHARS:
            raise ValueError(f"a question has 1 to {MAX_QUESTION_CHARS} characters")
        if isinstance(options, str):
            raise TypeError(f"options={options!r} is one text; write [{options!r}]")
        if not 0 < expires_s <= MAX_WAIT_S:
            raise ValueError(f"expires_s={expires_s!r} is not from 0 to {MAX_WAIT_S:g}")
        self.text = clean(text)
        self.kind: Literal["question", "approval"] = kind
        self.options = tuple(clean(each) for each in options)
        self.details = plain("the details of a question", details or {})
        self.action_digest = action_digest
        self.expires_s = expires_s
        self._adapter = None
        if kind == "question" and answer_type not in (None, str):
            self._adapter = TypeAdapter(answer_type)
            for each in self.options:
                self._check_option(each, self._adapter)
        self.schema: Mapping[str, Any] = {}
        if self.options:
            self.schema = {"enum": list(self.options)}
        elif self._adapter is not None:
            self.schema = self._adapter.json_schema()
        self.identity = _identity(
            kind, self.text, self.options, self.details, self.schema, action_digest
        )

    def _check_option(self, option: str, adapter: TypeAdapter[Any]) -> None:
        try:
            adapter.validate_python(option)
        except ValidationError as error:
            problem = f"the option {option!r} is no answer: {_why(error)}"
        else:
            return
        raise ValueError(problem)

    def request(
        self, request_id: str, *, principal: str = "", path: Sequence[Run] = ()
    ) -> PendingRequest:
        """Return the question as a channel gets it."""
        return PendingRequest(
            id=request_id,
            kind=self.kind,
            text=self.text,
            options=self.options,
            details=self.details,
            schema=self.schema,
            action_digest=self.action_digest,
            principal=principal,
            run_path=tuple(run.id for run in path),
            agent_path=tuple(run.agent_id for run in path),
            expires_at=time() + self.expires_s,
        )

    def read(self, answer: Answer) -> Answer:
        """Return an answer with the value that its type makes of it.

        Raises:
            ValueError: It does not fit.
        """
        if self.kind == "approval":
            return answer
        value = answer.value
        if value is None and (answer.text or self._adapter is None):
            value = answer.text
        if self.options:
            value = value if isinstance(value, str) else to_json(value).decode()
            if value not in self.options:
                raise ValueError(f"it is none of {', '.join(map(repr, self.options))}")
        if self._adapter is not None:
            value = self._adapter.validate_python(value)
        elif not isinstance(value, str):
            raise ValueError("it is no text")
        return replace(answer, value=value)


async def ask(run: Run, question: Question) -> Answer:
    """Ask whoever is outside on behalf of a run, and return the answer.

    Raises:
        NobodyToAskError: There is nobody.
        NotAnsweredError: No answer came that can be used.
        AgentInterrupted: The run has to stop, be it to wait for the answer.
    """
    problem = ""
    for _ in range(MAX_TRIES):
        request_id, known = _place(run, question)
        if known is None:
            known = await _put(run, question, request_id, problem)
        if known.problem:
            raise NotAnsweredError(f"request {request_id!r}", known.problem)
        try:
            return question.read(_answer(known))
        except (ValidationError, ValueError) as error:
            problem = f"the answer does not fit: {_why(error)}"
    raise NotAnsweredError(
        f"request {request_id!r}", f"was answered {MAX_TRIES} times, and {problem}"
    )


async def ask_outside(
    question: Question, channel: Channel | None, *, principal: str = ""
) -> Answer:
    """Ask on behalf of no run; nothing is recorded."""
    if channel is None:
        raise _nobody(question)
    request = question.request(f"ask_{urandom(8).hex()}", principal=principal)
    try:
        answer = await _answered(channel, request)
        return question.read(replace(answer, request_id=request.id))
    except AnswerLater as error:
        raise NotAnsweredError(
            f"request {request.id!r}", "is answered later, and no run waits for it"
        ) from error
    except ValueError as error:  # pydantic's among them
        raise NotAnsweredError(f"request {request.id!r}", _why(error)) from error


def checked_progress(message: str, percentage: float | None) -> str:
    """Return what is told of how far the work is, as every channel can show it.

    Raises:
        ValueError: The percentage is none, or the message is too long.
    """
    if percentage is not None and not 0 <= percentage <= 100:
        raise ValueError(f"percentage={percentage!r} is not from 0 to 100")
    if len(message) > MAX_ANSWER_CHARS:
        raise ValueError(f"progress takes at most {MAX_ANSWER_CHARS} characters")
    return clean(message)


async def tell(
    agents: Sequence[BaseAgent],
    kernel: Kernel,
    message: str,
    percentage: float | None,
    path: Sequence[Run] = (),
) -> None:
    """Report progress; a channel that fails does not fail the work."""
    try:
        channel = await channel_for(agents, kernel)
        if channel is not None:
            await channel.progress(
                message, percentage=percentage, run_path=tuple(run.id for run in path)
            )
    except Exception as error:  # noqa: BLE001 - nobody waits for it
        _LOG.warning("progress was not reported: %s: %s", type(error).__name__, error)


async def channel_for(agents: Sequence[BaseAgent], kernel: Kernel) -> Channel | None:
    """Return the way outside: that of the outermost agent that has one, or the kernel's."""
    for agent in agents:
        own = agent.control_protocol
        if own is not None:
            return await _opened(own, kernel)
    name = kernel.config.channel
    return await _opened(name, kernel) if name else None


async def _opened(channel: Channel | str, kernel: Kernel) -> Channel:
    if isinstance(channel, str):
        return await kernel.get(Channel, channel)  # type: ignore[type-abstract]
    return channel


def _place(run: Run, question: Question) -> tuple[str, Answered | None]:
    """Return the id of a question, and its answer if that is on record and still good.

    A run that was resumed looks among what it asked in this step before, whatever the
    order; each is found once.
    """
    state, place = run.state, f"{run.id}:{run.place_of_questions()}"
    asked = run.asked_ids()
    on_record: list[Asked | Answered] = []
    if run.past is not None:
        on_record = [*state.questions.values(), *state.answers.values()]
    for each in on_record:
        request_id = each.request_id
        if each.question != question.identity or not request_id.startswith(place):
            continue
        if request_id in asked or request_id in state.used:
            continue
        known = each if isinstance(each, Answered) else None
        if known is None or is_good(known):
            asked.add(request_id)
            return request_id, known
    number = len(asked) + 1
    while (request_id := f"{place}{number}") in asked or _is_taken(state, request_id):
        number += 1
    asked.add(request_id)
    return request_id, None


def _is_taken(state: RunState, request_id: str) -> bool:
    known = (state.questions, state.answers, state.used)
    return any(request_id in each for each in known)


def is_good(answered: Answered) -> bool:
    """Whether an answer may be acted upon now: it is neither too old nor of the future."""
    now = time()
    if answered.at > now + MAX_CLOCK_S:  # the clock was set back
        return False
    return answered.expires_at is None or now < answered.expires_at


async def _put(run: Run, question: Question, request_id: str, problem: str) -> Answered:
    """Put a question and record the answer, or that there is none."""
    path = run.path
    channel = await channel_for([each.agent for each in path], run.kernel)
    if channel is None:
        raise _nobody(question)
    request = question.request(request_id, principal=run.principal, path=path)
    if problem:
        request = replace(request, details={**request.details, "problem": problem})
    open_before = run.state.questions.get(request_id)
    if open_before is not None:
        request = replace(request, expires_at=open_before.expires_at)
    else:
        run.add(Asked, question=question.identity, **asked_of(request))
    await run.settle()
    answer, unusable = Answer(), ""
    try:
        answer = await _answered(channel, request)
    except AnswerLater:
        if run.plan.keeping is not None and not _is_direct(path[0]):
            raise _stopped(run, path[0], request_id) from None
        unusable = "is answered later, and the run is not kept until then"
    except AgentInterrupted:
        raise
    except KaizenError as error:
        unusable = getattr(error, "problem", "") or str(error)
    answered = run.add(
        Answered,
        request_id=request_id,
        question=question.identity,
        approved=answer.approved,
        text=answer.text,
        value=answer.value,
        always=answer.always,
        principal=answer.principal,
        action_digest=request.action_digest,
        expires_at=request.expires_at,
        problem=clean(unusable)[:MAX_PROBLEM_CHARS],
    )
    await run.settle()
    return answered


def asked_of(request: PendingRequest) -> dict[str, Any]:
    """Return the fields of the entry that a request becomes."""
    values = {each.name: getattr(request, each.name) for each in fields(request)}
    return {"request_id": values.pop("id"), **values}


def request_of(asked: Asked) -> PendingRequest:
    """Return the request that an entry is about."""
    names = (each.name for each in fields(PendingRequest) if each.name != "id")
    return PendingRequest(
        id=asked.request_id, **{name: getattr(asked, name) for name in names}
    )


def _is_direct(run: Run) -> bool:
    started = run.state.started
    return started is not None and started.direct


async def _answered(channel: Channel, request: PendingRequest) -> Answer:
    """Return what a channel gives, as far as it is an answer.

    Raises:
        NotAnsweredError: The time ran out, or it gave something else.
        AnswerLater: It does not wait for it.
    """
    subject = f"request {request.id!r}"
    left = (request.expires_at or 0) - time()
    if left <= 0:
        raise NotAnsweredError(subject, "has expired")
    try:
        with anyio.move_on_after(left) as waiting:
            answer = await channel.ask(request)
        if waiting.cancelled_caught:
            raise NotAnsweredError(subject, "was not answered in time")
    except (AnswerLater, KaizenError):
        raise
    except Exception as error:
        raise NotAnsweredError(
            subject, f"could not be put: {type(error).__name__}: {error}"
        ) from error
    try:
        return checked(answer)
    except (TypeError, ValueError) as error:
        raise NotAnsweredError(subject, f"has no usable answer: {error}") from error


def checked(answer: Any) -> Answer:
    """Return an answer as the log can hold it; what only looks like a yes is none.

    Raises:
        TypeError: It is no answer, or has a value that is no JSON.
        ValueError: It is too long.
    """
    if not isinstance(answer, Answer):
        raise TypeError(f"it is of type {type(answer).__name__!r}")
    texts: tuple[Any, ...] = (answer.text, answer.principal)
    if not all(isinstance(each, str) for each in texts):
        raise TypeError("its text and principal have to be texts")
    if max(map(len, texts)) > MAX_ANSWER_CHARS:
        raise ValueError(f"it has over {MAX_ANSWER_CHARS} characters")
    return replace(
        answer,
        approved=answer.approved is True,
        always=answer.always is True,
        text=clean(answer.text),
        principal=clean(answer.principal),
        value=plain("the answer", {"value": answer.value})["value"],
    )


def _answer(known: Answered) -> Answer:
    return Answer(
        approved=known.approved,
        text=known.text,
        value=known.value,
        always=known.always,
        principal=known.principal,
        request_id=known.request_id,
    )


def _stopped(run: Run, outermost: Run, request_id: str) -> AgentInterrupted:
    """Stop the whole tree of runs until there is an answer, and return what to raise."""
    stopping = run if outermost.ended else outermost  # a child may outlive its parent
    stopping.interrupt(
        InterruptReason(
            source=InterruptSource.SYSTEM,
            mode=InterruptMode.GRACEFUL,
            signal=InterruptSignal.CUSTOM,
            message=f"request {request_id!r} waits for its answer",
            metadata={"pending_requests": [request_id]},
        )
    )
    assert run.interrupted is not None
    return AgentInterrupted(run.interrupted, run.id)


def _identity(*parts: Any) -> str:
    """Return what tells a question from every other one."""
    return sha256(to_json(parts)).hexdigest()[:32]


def _nobody(question: Question) -> NobodyToAskError:
    return NobodyToAskError(
        f"the {question.kind} {question.text[:200]!r}",
        "finds nobody who could answer",
        "Give the agent a `control_protocol`, or set `channel` under [kaizen].",
    )


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_input=False, include_context=False)
        return "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}"
            for each in found[:5]
        )
    return str(error)
