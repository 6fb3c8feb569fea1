"""A strategy of your own: ask three times, and answer what was said most often.

A strategy decides how an agent gets from inputs to outputs. The kernel gives it the run,
validates what it returns, and counts what it used.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import anyio
from kaizen import AgentConfig, BaseAgent, Kernel, Message, Signature, current_run

AGAIN = Message(role="user", content="Start again from the beginning.", origin="vote")


class Vote:
    """Asks the model several times in one conversation and takes the majority."""

    def __init__(self, *, times: int) -> None:
        self._times = times

    async def execute(
        self, signature: type[Signature], inputs: Mapping[str, Any], config: AgentConfig
    ) -> Mapping[str, Any]:
        """Return the answer that came most often; the first of equals."""
        run = current_run()
        votes: Counter[str] = Counter()
        for turn in range(self._times):
            result = await run.cycle([AGAIN] if turn else [])
            votes[run.read(result.reply)["answer"]] += 1
        run.note("vote", "counted", dict(votes))
        answer, count = votes.most_common(1)[0]
        return {"answer": answer, "agreement": count / self._times}


async def main() -> None:
    """Let three answers of a wavering model be counted."""
    replies = [{"answer": said, "agreement": 0} for said in ("42", "41", "42")]
    config = {"llm_provider": "mock", "provider_config": {"replies": replies}}
    async with Kernel() as kernel:
        agent = BaseAgent(
            config,
            "question -> answer, agreement: float",
            strategy=Vote(times=3),
            kernel=kernel,
        )
        result = await agent.run(question="6 times 7?")
        print(f"{result.answer}, with {result.agreement:.0%} agreement")
        print(f"{result.cycles} turns, {result.usage.total_tokens} tokens")


anyio.run(main)
