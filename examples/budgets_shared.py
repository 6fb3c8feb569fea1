"""Ten runs share a dollar at once; what each may cost is reserved before it is spent."""

from decimal import Decimal

import anyio
from kaizen import (
    AgentInterrupted,
    BaseAgent,
    BaseProvider,
    Kernel,
    ModelProfile,
    ModelReply,
    ModelRequest,
    Provider,
    Registry,
    Usage,
    hookimpl,
)
from kaizen_budgets import Budget, SpendLimits

PRICE = Decimal(20)


class DearModel(BaseProvider):
    """Writes ten thousand tokens each time, at twenty dollars a million."""

    name = "dear"

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Take a moment, and charge twenty cents."""
        await anyio.sleep(0.01)
        usage = Usage(requests=1, input_tokens=0, output_tokens=10_000)
        return ModelReply(text="It is late.", usage=usage, cost_usd=Decimal("0.20"))

    def describe(self, model: str) -> ModelProfile:
        """Name the price."""
        return ModelProfile(
            name="dear",
            max_output_tokens=10_000,
            input_usd_per_million=Decimal(0),
            output_usd_per_million=PRICE,
        )


class DearPlugin:
    """Offers the model."""

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        """Offer it as `dear`."""
        registry.add(Provider, "dear", DearModel)


async def main() -> None:
    """Let ten runs try what five can pay."""
    limits = SpendLimits(Budget(usd="1.00", scope="agent", warn_at=()))
    answered: list[Decimal] = []
    stopped: list[str] = []

    async def ask(agent: BaseAgent) -> None:
        try:
            result = await agent.run(question="What time is it?")
            answered.append(result.cost_usd or Decimal(0))
        except AgentInterrupted as error:
            stopped.append(error.reason.message)

    async with Kernel(plugins=[DearPlugin]) as kernel:
        agent = BaseAgent(
            {"llm_provider": "dear"}, "question -> answer", kernel=kernel, hooks=[limits]
        )
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(ask, agent)
    print(f"{len(answered)} answered, for {sum(answered)} USD")
    print(f"{len(stopped)} stopped: {stopped[0]}")


anyio.run(main)
