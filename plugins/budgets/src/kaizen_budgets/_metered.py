"""Costs beside the model and tool calls of a run, counted in the same accounts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from kaizen.media import Audio
from kaizen.messages import (
    Message,
    ModelDelta,
    ModelProfile,
    ModelReply,
    ModelRequest,
    ModelSettings,
)
from kaizen.ports import BaseProvider, Provider, Transcript
from kaizen.run import current_run

from kaizen_budgets._amounts import Amounts, Money
from kaizen_budgets._limits import GATES, Payment
from kaizen_budgets._prices import Price, cost_of

__all__ = ["charge", "metered"]


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
        spent: It is spent already, and counts whatever is left: should that be more than
            there was, the run stops before its next call.

    Raises:
        RunError: There is no run.
        AgentInterrupted: There is not enough left, and the run has to stop.
    """
    run = current_run()
    amounts = Amounts(usd=usd, tokens=tokens, requests=requests, tool_calls=tool_calls)
    async with AsyncExitStack() as stack:
        payments = [
            await stack.enter_async_context(
                each.paying(run, amounts, what or "charge", spent=spent, durable=True)
            )
            for each in GATES.get()
        ]
        for payment in payments:
            payment.cost = amounts


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
        async with self._paying_for(request) as paying:
            async for piece in self._provider.stream(paying.request):
                if isinstance(piece, ModelReply):
                    paying.settle(piece)
                yield piece

    async def embed(self, texts: Sequence[str], *, model: str = "") -> list[list[float]]:
        messages = tuple(Message(role="user", content=each) for each in texts)
        request = ModelRequest(
            messages=messages, model=model, settings=ModelSettings(max_tokens=0)
        )
        async with self._paying_for(request, "embedding with") as paying:
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
        self, request: ModelRequest, what: str = "model"
    ) -> AsyncGenerator[_Paying]:
        run = current_run()
        profile = self._provider.describe(request.model)
        what = f"{what} {request.model or profile.name}"
        async with AsyncExitStack() as stack:
            paying = _Paying(request)
            for gate in GATES.get():
                paying.request, most, price = gate.bound(run, paying.request, profile)
                payment = await stack.enter_async_context(
                    gate.paying(run, most, what, durable=True)
                )
                payment.made = Amounts(requests=1)
                paying.payments.append((payment, price))
            yield paying


class _Paying:
    """One request, and who pays for it."""

    def __init__(self, request: ModelRequest) -> None:
        self.request = request
        self.payments: list[tuple[Payment, Price]] = []

    def settle(self, reply: ModelReply | None) -> None:
        """Say what it cost."""
        for payment, price in self.payments:
            known = None if reply is None else cost_of(reply, price, payment.most)
            payment.cost = known or payment.most
