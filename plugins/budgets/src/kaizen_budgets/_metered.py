"""Costs beside the model and tool calls of a run, counted in the same accounts."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import anyio
from kaizen.media import Audio
from kaizen.messages import (
    Message,
    ModelDelta,
    ModelProfile,
    ModelReply,
    ModelRequest,
)
from kaizen.ports import BaseProvider, Provider, Transcript
from kaizen.run import Run, current_run

from kaizen_budgets._amounts import Amounts, Money
from kaizen_budgets._limits import CLEANUP_S, GATES, Payment, SpendLimits, holding
from kaizen_budgets._prices import Price, cost_of

__all__ = ["charge", "metered"]

_LOG = logging.getLogger("kaizen")


async def charge(
    usd: Money = 0,
    *,
    tokens: int = 0,
    requests: int = 0,
    tool_calls: int = 0,
    what: str = "",
    spent: bool = False,
) -> None:
    """Pay for something out of the accounts of the run under way.

    Call it in a tool or a hook, before you spend. Without budgets it does nothing.

    Args:
        usd: US dollars; a `Decimal`, an int or a text, never a float.
        tokens: Tokens, sent and received.
        requests: Requests to models.
        tool_calls: Calls of tools, beside the one that is under way.
        what: What it is for, for the log.
        spent: It is spent already, and counts whatever is left, also if the run is cut off
            meanwhile: should that be more than there was, it stops before its next call.

    Raises:
        RunError: There is no run.
        AgentInterrupted: There is not enough left, and the run has to stop.
        ToolUnaffordableError: There is not, in a tool that is called without a model.
    """
    run = current_run()
    amounts = Amounts(usd=usd, tokens=tokens, requests=requests, tool_calls=tool_calls)
    if spent:
        await _count(run, amounts, what or "charge")
        return
    async with AsyncExitStack() as stack:
        payments = [
            await stack.enter_async_context(
                each.paying(run, amounts, what or "charge", durable=True)
            )
            for each in GATES.get()
        ]
        for payment in payments:
            payment.cost = amounts


async def _count(run: Run, amounts: Amounts, what: str) -> None:
    """Count what is spent already, in each ledger, be another of them out of order."""
    problem: Exception | None = None
    with anyio.move_on_after(CLEANUP_S, shield=True) as scope:
        for gate in GATES.get():
            try:
                async with gate.paying(run, amounts, what, spent=True, durable=True):
                    pass
            except Exception as error:  # noqa: BLE001 - raised below
                problem = problem or error
    if scope.cancelled_caught:
        _LOG.error("%s of run %s was not counted everywhere in time", what, run.id)
    if problem is not None:
        raise problem


def metered(provider: Provider, *, transcription_usd: Money = 0) -> Provider:
    """Return a provider whose calls are paid for by the run in which they are made.

    For what is asked beside the model calls of the loop, which are counted anyway: guards,
    judges, embeddings, transcriptions. Outside a run there is nobody who could pay, so that
    it answers nothing there.

    Args:
        provider: What answers.
        transcription_usd: What one transcription costs, in US dollars; profiles do not say.
    """
    return _Metered(provider, Amounts(usd=transcription_usd, requests=1))


class _Metered(BaseProvider):
    """A provider of which each call is paid for."""

    def __init__(self, provider: Provider, transcription: Amounts) -> None:
        self._provider = provider
        self._transcription = transcription

    async def complete(self, request: ModelRequest) -> ModelReply:
        async with self._paying_for(request) as paying:
            reply = await self._provider.complete(paying.request)
            paying.settle(reply)
        return reply

    async def stream(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelDelta | ModelReply]:
        # Who reads may stop anywhere and close it from elsewhere, or leave that to the
        # collector: nothing that belongs to one task may be open while a piece is out.
        paying = _Paying(request)
        try:
            await paying.begin(current_run(), self._provider.describe(request.model))
            async with aclosing(self._provider.stream(paying.request)) as pieces:
                while (piece := await paying.next_of(pieces)) is not None:
                    yield piece
            await paying.end()
        except BaseException as error:
            await paying.fail(error)
            raise

    async def embed(self, texts: Sequence[str], *, model: str = "") -> list[list[float]]:
        messages = tuple(Message(role="user", content=each) for each in texts)
        request = ModelRequest(messages=messages, model=model)
        async with self._paying_for(request, "embedding with", replies=0) as paying:
            vectors = await self._provider.embed(texts, model=model)
            paying.settle(None)  # providers do not say what it cost: the most
        return vectors

    async def transcribe(self, audio: Audio, *, model: str = "") -> Transcript:
        run = current_run()
        cost = self._transcription
        async with AsyncExitStack() as stack:
            payments = [
                await stack.enter_async_context(
                    each.paying(run, cost, "transcription", durable=True)
                )
                for each in GATES.get()
            ]
            transcript = await self._provider.transcribe(audio, model=model)
            for payment in payments:
                payment.cost = cost
        return transcript

    def describe(self, model: str) -> ModelProfile:
        return self._provider.describe(model)

    @asynccontextmanager
    async def _paying_for(
        self, request: ModelRequest, what: str = "model", *, replies: int = 1
    ) -> AsyncGenerator[_Paying]:
        run = current_run()
        profile = self._provider.describe(request.model)
        what = f"{what} {request.model or profile.name}"
        async with AsyncExitStack() as stack:
            paying = _Paying(request)
            for gate in GATES.get():
                paying.request, most, price = gate.bound(
                    run, paying.request, profile, replies=replies
                )
                payment = await stack.enter_async_context(
                    gate.paying(run, most, what, durable=True)
                )
                paying.payments.append((payment, price))
            paying.made()
            yield paying


class _Paying:
    """One request, and who pays for it."""

    def __init__(self, request: ModelRequest) -> None:
        self.request = request
        self.payments: list[tuple[Payment, Price]] = []
        self._open: list[tuple[SpendLimits, Payment]] = []

    async def begin(self, run: Run, profile: ModelProfile) -> None:
        """Reserve in every ledger; whoever calls it ends it, by `end` or `fail`."""
        what = f"model {self.request.model or profile.name}"
        for gate in GATES.get():
            with holding(*self._held()):
                self.request, most, price = gate.bound(run, self.request, profile)
                payment = await gate.begin(run, most, what)
            self._open.append((gate, payment))
            self.payments.append((payment, price))
        if self._open:
            await run.settle()
        self.made()

    async def next_of(
        self, pieces: AsyncGenerator[ModelDelta | ModelReply]
    ) -> ModelDelta | ModelReply | None:
        """Return the next piece of an answer, or `None` after the last."""
        with holding(*self._held()):
            piece = await anext(pieces, None)
        if isinstance(piece, ModelReply):
            self.settle(piece)
        return piece

    async def end(self) -> None:
        """Settle what a stream cost that came to its end."""
        if any(payment.cost is None for payment, _ in self.payments):
            self.settle(None)  # it ended without a reply
        while self._open:
            gate, payment = self._open.pop()
            await gate.end(payment)

    async def fail(self, error: BaseException) -> None:
        """Settle what is still open of one that failed, or is not read any further."""
        with anyio.move_on_after(CLEANUP_S, shield=True):
            while self._open:
                gate, payment = self._open.pop()
                await gate.fail(payment, error)

    def made(self) -> None:
        """Say that the request goes out from here on."""
        for payment, _ in self.payments:
            payment.made = Amounts(requests=1)

    def _held(self) -> Sequence[Payment]:
        return [payment for payment, _ in self.payments]

    def settle(self, reply: ModelReply | None) -> None:
        """Say what it cost."""
        for payment, price in self.payments:
            known = None if reply is None else cost_of(reply, price, payment.most)
            payment.cost = known or payment.most
