"""Strategies: how an agent gets from inputs to outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from kaizen.errors import ConvergenceError, OutputError
from kaizen.messages import Message
from kaizen.run import Run, current_run

if TYPE_CHECKING:
    from kaizen.config import AgentConfig
    from kaizen.signatures import Signature

__all__ = ["MultiCycle", "SingleShot"]


class MultiCycle:
    """Asks the model and makes its tool calls until it asks for no more.

    A reply that does not fit the signature is sent back with what is wrong, at most
    `max_output_retries` times. With `min_confidence_threshold`, an answer whose
    `confidence` is lower is sent back as well, as long as there are cycles.
    """

    validates: ClassVar[bool] = True
    """Outputs come from `Run.read` and need not be validated again."""

    async def execute(
        self, signature: type[Signature], inputs: Mapping[str, Any], config: AgentConfig
    ) -> Mapping[str, Any]:
        """Return the outputs of the model's answer.

        Raises:
            OutputError: The answer did not fit, also after it was sent back.
            ConvergenceError: The model went on asking for tools, or stayed unsure.
        """
        run = current_run()
        retries = config.max_output_retries
        threshold = config.min_confidence_threshold
        added: tuple[Message, ...] = ()
        left, heard = self._cycles(config), config.max_cycles
        while left:
            left -= 1
            result = await run.cycle(added)
            added = ()
            if not result.done:
                continue
            if heard and run.steered:  # the answer does not know of it
                heard -= 1
                left += 1
                continue
            try:
                outputs = run.read(result.reply)
            except OutputError as error:
                if retries == 0:
                    raise
                retries -= 1
                added = (_feedback(error),)
                continue
            if threshold is None or _confidence(outputs) >= threshold:
                return outputs
            added = (_doubt(threshold),)
        raise _not_converged(run, config)

    def _cycles(self, config: AgentConfig) -> int:
        return config.max_cycles


class SingleShot(MultiCycle):
    """Asks the model once, without tools; only a reply that does not fit is sent back."""

    def _cycles(self, config: AgentConfig) -> int:
        return 1 + config.max_output_retries


def _feedback(error: OutputError) -> Message:
    problems = "\n".join(f"- {line}" for line in error.feedback)
    return Message(
        role="user",
        content=f"Your reply does not fit:\n{problems}\nReply again, corrected.",
        origin="kernel",
    )


def _doubt(threshold: float) -> Message:
    return Message(
        role="user",
        content=f"Your confidence is below {threshold:g}. Look further, then answer again.",
        origin="kernel",
    )


def _confidence(outputs: Mapping[str, Any]) -> float:
    value = outputs.get("confidence")
    return float(value) if isinstance(value, int | float) else 1.0


def _not_converged(run: Run, config: AgentConfig) -> ConvergenceError:
    return ConvergenceError(
        f"run {run.id!r} of agent {run.agent_id!r}",
        f"reached no answer in {run._cycle} cycles",
        f"Raise `max_cycles` (now {config.max_cycles}), or make the task smaller.",
    )
