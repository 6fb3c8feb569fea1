"""Every error that Kaizen raises for a caller to catch, as one tree.

    KaizenError
    ├── InitializationError            KAIZEN_001
    ├── ConfigurationError             KAIZEN_002
    │   └── UnknownNameError           KAIZEN_002
    ├── PluginError                    KAIZEN_003
    ├── AgentError
    │   ├── AgentCreationError         AGENT_001
    │   ├── SignatureError             AGENT_002
    │   │   └── OutputError            AGENT_002
    │   ├── AgentTimeoutError          AGENT_003
    │   ├── ModelError                 AGENT_004
    │   │   ├── ModelAuthError         AGENT_004
    │   │   ├── ModelRateLimitError    AGENT_004
    │   │   ├── ModelQuotaError        AGENT_004
    │   │   ├── ModelOverloadedError   AGENT_004
    │   │   ├── ModelContextError      AGENT_004
    │   │   ├── ModelFilterError       AGENT_004
    │   │   ├── ModelTimeoutError      AGENT_004
    │   │   ├── ModelConnectionError   AGENT_004
    │   │   ├── ModelRequestError      AGENT_004
    │   │   └── ModelUnavailableError  AGENT_004
    │   └── ConvergenceError           AGENT_005
    ├── HookError
    │   ├── HookRegistrationError      HOOK_001
    │   ├── HookTimeoutError           HOOK_002
    │   └── HookExecutionError         HOOK_003
    ├── CheckpointError
    │   ├── CheckpointSaveError        CHECKPOINT_001
    │   │   └── ClaimLostError         CHECKPOINT_001
    │   ├── CheckpointLoadError        CHECKPOINT_002
    │   │   └── UnknownRunError        CHECKPOINT_002
    │   └── StorageUnavailableError    CHECKPOINT_003
    ├── InterruptError
    │   ├── InterruptHandlerError      INTERRUPT_001
    │   └── AgentInterrupted           INTERRUPT_003
    │       └── GracefulTimeoutError   INTERRUPT_002
    ├── MemoryBackendError             MEMORY_001
    │   └── MemoryPromotionError       MEMORY_002
    ├── ExecutionError
    │   ├── InputError                 EXEC_001
    │   ├── WorkflowBuildError         EXEC_002
    │   └── RunError                   EXEC_003
    ├── ToolError                      TOOL_001
    │   ├── ToolArgumentsError         TOOL_002
    │   ├── ToolTimeoutError           TOOL_003
    │   └── OutcomeUnknownError        TOOL_004
    ├── ToolRefusedError               PERMISSION_001
    └── ControlError
        ├── NobodyToAskError           CONTROL_001
        ├── NotAnsweredError           CONTROL_002
        └── AnswerRefusedError         CONTROL_003

Codes are stable: a program may compare them. Wrong arguments of our own functions
raise `TypeError` or `ValueError`; a stranger's exception keeps its type and gains a note.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from kaizen.interrupts import InterruptReason
    from kaizen.messages import ModelReply

__all__ = [
    "AgentCreationError",
    "AgentError",
    "AgentInterrupted",
    "AgentTimeoutError",
    "AnswerRefusedError",
    "CheckpointError",
    "CheckpointLoadError",
    "CheckpointSaveError",
    "ClaimLostError",
    "ConfigurationError",
    "ControlError",
    "ConvergenceError",
    "ExecutionError",
    "GracefulTimeoutError",
    "HookError",
    "HookExecutionError",
    "HookRegistrationError",
    "HookTimeoutError",
    "InitializationError",
    "InputError",
    "InterruptError",
    "InterruptHandlerError",
    "KaizenError",
    "MemoryBackendError",
    "MemoryPromotionError",
    "ModelAuthError",
    "ModelConnectionError",
    "ModelContextError",
    "ModelError",
    "ModelFilterError",
    "ModelOverloadedError",
    "ModelQuotaError",
    "ModelRateLimitError",
    "ModelRequestError",
    "ModelTimeoutError",
    "ModelUnavailableError",
    "NobodyToAskError",
    "NotAnsweredError",
    "OutcomeUnknownError",
    "OutputError",
    "PluginError",
    "RunError",
    "SignatureError",
    "StorageUnavailableError",
    "ToolArgumentsError",
    "ToolError",
    "ToolRefusedError",
    "ToolTimeoutError",
    "UnknownNameError",
    "UnknownRunError",
    "WorkflowBuildError",
]


class KaizenError(Exception):
    """Something a caller of Kaizen may want to catch.

    Attributes:
        code: The stable code, such as `AGENT_002`.
        subject: Who or what it is about, such as `plugin 'memory'`.
        problem: What is wrong, as the rest of a sentence that starts with the subject.
        remedy: What the reader can do about it, as one sentence.
    """

    code: ClassVar[str] = "KAIZEN_000"

    def __init__(self, subject: str, problem: str, remedy: str = "") -> None:
        super().__init__(subject, problem, remedy)
        self.subject = subject
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        sentence = f"[{self.code}] {self.subject} {self.problem}."
        return f"{sentence} {self.remedy}" if self.remedy else sentence


class InitializationError(KaizenError):
    """The kernel could not start, or is used before it started or after it stopped."""

    code = "KAIZEN_001"


class ConfigurationError(KaizenError):
    """A configuration value is unknown, of the wrong type, or has no meaning here."""

    code = "KAIZEN_002"


class UnknownNameError(ConfigurationError):
    """A name was asked for that nobody offers.

    Attributes:
        kind: What was looked for, such as `provider`.
        name: The name that was asked for.
        known: The names that would have been found, sorted.
    """

    def __init__(
        self, kind: str, name: str, known: Iterable[str], remedy: str = ""
    ) -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(sorted(known))
        near = get_close_matches(name, self.known, n=1)
        hints = [f"Did you mean {near[0]!r}?"] if near else []
        hints.append(f"Known: {', '.join(self.known) or 'none'}.")
        super().__init__(
            f"{kind} {name!r}", "is unknown", " ".join([*hints, remedy]).strip()
        )
        self.args = (kind, name, self.known, remedy)


class PluginError(KaizenError):
    """A plugin could not be loaded, configured or started.

    Attributes:
        plugin: The plugin's name, as it stands under `[plugins]` in `kaizen.toml`.
        distribution: The distribution that brings it, or `""` if it was given in code.
    """

    code = "KAIZEN_003"

    def __init__(
        self, plugin: str, problem: str, remedy: str = "", distribution: str = ""
    ) -> None:
        origin = f" (from {distribution!r})" if distribution else ""
        super().__init__(f"plugin {plugin!r}{origin}", problem, remedy)
        self.args = (plugin, problem, remedy, distribution)
        self.plugin = plugin
        self.distribution = distribution


class AgentError(KaizenError):
    """An agent could not be made, or could not do its work."""


class AgentCreationError(AgentError):
    """An agent was given something that it cannot be made of."""

    code = "AGENT_001"


class SignatureError(AgentError):
    """A signature is not well formed."""

    code = "AGENT_002"


class OutputError(SignatureError):
    """A model's reply does not fit the signature, also after it was asked again.

    Attributes:
        feedback: One line a field: what is wrong, in words a model can act on.
        reply: The start of the reply, at most 500 characters.
    """

    def __init__(self, subject: str, feedback: tuple[str, ...], reply: str) -> None:
        super().__init__(
            subject,
            f"was answered with what does not fit its outputs: {'; '.join(feedback)}",
            f"The reply began: {reply[:200]!r}.",
        )
        self.args = (subject, feedback, reply[:500])
        self.feedback = feedback
        self.reply = reply[:500]


class AgentTimeoutError(AgentError):
    """A run took longer than its configuration allows."""

    code = "AGENT_003"


class ModelError(AgentError):
    """A provider could not answer.

    Attributes:
        provider: The provider's name.
        retryable: Whether the same request may succeed later.
        status: The HTTP status, where there was one.
        retry_after_s: How long the provider says to wait, in seconds, if it says so.
        partial: What had come of the reply before it broke off, with what that consumed;
            it is on the run's account.
    """

    code = "AGENT_004"
    may_be_repeated: ClassVar[bool] = False
    """Whether errors of this kind are `retryable` where nobody says."""

    def __init__(
        self,
        provider: str,
        problem: str,
        remedy: str = "",
        retryable: bool | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"provider {provider!r}", problem, remedy)
        self.provider = provider
        self.retryable = self.may_be_repeated if retryable is None else retryable
        self.status = status
        self.retry_after_s = retry_after_s
        self.partial: ModelReply | None = None
        self.args = (provider, problem, remedy, self.retryable, status, retry_after_s)


class ModelAuthError(ModelError):
    """The key is missing, wrong, or allows too little."""


class ModelRateLimitError(ModelError):
    """Too many requests, or tokens, for now."""

    may_be_repeated = True


class ModelQuotaError(ModelError):
    """What was paid for is used up; waiting does not help."""


class ModelOverloadedError(ModelError):
    """The provider has too much to do, or is out of order."""

    may_be_repeated = True


class ModelContextError(ModelError):
    """The request is longer than the model reads."""


class ModelFilterError(ModelError):
    """The provider will not answer this: its content filter says no."""


class ModelTimeoutError(ModelError):
    """The provider took too long."""

    may_be_repeated = True


class ModelConnectionError(ModelError):
    """The provider cannot be reached, or broke off in the middle."""

    may_be_repeated = True


class ModelRequestError(ModelError):
    """The provider does not understand the request, or we not the reply."""


class ModelUnavailableError(ModelError):
    """There is no such model, or not for this account."""


class ConvergenceError(AgentError):
    """A run used up its cycles without reaching an answer."""

    code = "AGENT_005"


class HookError(KaizenError):
    """A hook could not be registered, or did not do its part."""


class HookRegistrationError(HookError):
    """A hook is misspelt, or has parameters that it cannot be given."""

    code = "HOOK_001"


class HookTimeoutError(HookError):
    """An observer took longer than it may."""

    code = "HOOK_002"


class HookExecutionError(HookError):
    """An observer raised, or reported failure."""

    code = "HOOK_003"


class CheckpointError(KaizenError):
    """A run's log could not be kept or read."""


class CheckpointSaveError(CheckpointError):
    """An entry could not be written."""

    code = "CHECKPOINT_001"


class ClaimLostError(CheckpointSaveError):
    """A run is, or was meanwhile, carried out by another process: this one must stop.

    No setting lets a run go on after that.
    """


class CheckpointLoadError(CheckpointError):
    """A stored entry is damaged, unknown or newer than this release."""

    code = "CHECKPOINT_002"


class UnknownRunError(CheckpointLoadError):
    """A store has no run of that id."""


class StorageUnavailableError(CheckpointError):
    """A store cannot be reached."""

    code = "CHECKPOINT_003"


class InterruptError(KaizenError):
    """A run was stopped, or could not be."""


class InterruptHandlerError(InterruptError):
    """An interrupt handler raised."""

    code = "INTERRUPT_001"


class AgentInterrupted(InterruptError):
    """A run was stopped on request.

    Attributes:
        reason: Who stopped it, how, and why.
        run_id: The run that was stopped.
    """

    code = "INTERRUPT_003"

    def __init__(self, reason: InterruptReason, run_id: str) -> None:
        super().__init__(
            f"run {run_id!r}", f"was interrupted by {reason.source.value}: {reason.message}"
        )
        self.args = (reason, run_id)
        self.reason = reason
        self.run_id = run_id


class GracefulTimeoutError(AgentInterrupted):
    """A run that was to stop did not end its cycle in time, and was cancelled."""

    code = "INTERRUPT_002"


class MemoryBackendError(KaizenError):
    """A memory store failed."""

    code = "MEMORY_001"


class MemoryPromotionError(MemoryBackendError):
    """A memory could not be moved between tiers."""

    code = "MEMORY_002"


class ExecutionError(KaizenError):
    """A run could not be carried out."""


class InputError(ExecutionError):
    """An input is missing, unknown or of the wrong type."""

    code = "EXEC_001"


class WorkflowBuildError(ExecutionError):
    """A workflow could not be built from an agent."""

    code = "EXEC_002"


class RunError(ExecutionError):
    """A run failed for a reason that no other error names."""

    code = "EXEC_003"


class ToolError(KaizenError):
    """A tool failed in a way that it foresaw; the message is meant for the model too."""

    code = "TOOL_001"


class ToolArgumentsError(ToolError):
    """A tool was called with arguments that do not fit its parameters."""

    code = "TOOL_002"


class ToolTimeoutError(ToolError):
    """A tool took longer than it may."""

    code = "TOOL_003"


class OutcomeUnknownError(ToolError):
    """A tool was stopped while it ran, and nobody knows what it did.

    Attributes:
        calls: The calls that somebody has to decide about before their run can go on, each
            as `<run id>:<call id>`.
    """

    code = "TOOL_004"

    def __init__(
        self, subject: str, problem: str, remedy: str = "", calls: tuple[str, ...] = ()
    ) -> None:
        super().__init__(subject, problem, remedy)
        self.args = (subject, problem, remedy, calls)
        self.calls = calls


class ToolRefusedError(KaizenError):
    """A tool call was not allowed."""

    code = "PERMISSION_001"


class ControlError(KaizenError):
    """A question to somebody outside found no answer."""


class NobodyToAskError(ControlError):
    """There is no way to a person or a program outside."""

    code = "CONTROL_001"


class NotAnsweredError(ControlError):
    """A question was put, and no answer came that could be used. It counts as refused."""

    code = "CONTROL_002"


class AnswerRefusedError(ControlError):
    """An answer was not taken: it came twice, too late, for nothing, or does not fit."""

    code = "CONTROL_003"
