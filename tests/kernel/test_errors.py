"""The tree of errors: codes, sentences, copies."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator

import pytest
from kaizen import InterruptReason, InterruptSource, errors
from kaizen.errors import (
    AgentInterrupted,
    GracefulTimeoutError,
    KaizenError,
    ModelError,
    OutcomeUnknownError,
    OutputError,
    PluginError,
    UnknownNameError,
)

PROMISED = {
    "KAIZEN_001": "InitializationError",
    "KAIZEN_002": "ConfigurationError",
    "KAIZEN_003": "PluginError",
    "AGENT_001": "AgentCreationError",
    "AGENT_002": "SignatureError",
    "AGENT_003": "AgentTimeoutError",
    "AGENT_004": "ModelError",
    "AGENT_005": "ConvergenceError",
    "HOOK_001": "HookRegistrationError",
    "HOOK_002": "HookTimeoutError",
    "HOOK_003": "HookExecutionError",
    "CHECKPOINT_001": "CheckpointSaveError",
    "CHECKPOINT_002": "CheckpointLoadError",
    "CHECKPOINT_003": "StorageUnavailableError",
    "INTERRUPT_001": "InterruptHandlerError",
    "INTERRUPT_002": "GracefulTimeoutError",
    "MEMORY_001": "MemoryBackendError",
    "MEMORY_002": "MemoryPromotionError",
    "EXEC_001": "InputError",
    "EXEC_002": "WorkflowBuildError",
    "EXEC_003": "RunError",
}

EVERY = [getattr(errors, name) for name in errors.__all__]
REASON = InterruptReason(source=InterruptSource.USER, message="enough", metadata={"a": 1})
OWN_ARGUMENTS: dict[type[KaizenError], tuple[object, ...]] = {
    UnknownNameError: ("provider", "opena", ("openai", "mock"), "Install one."),
    PluginError: ("memory", "is broken", "Mend it.", "kaizen-memory"),
    OutputError: ("Review", ("score: too high",), "x" * 2_000),
    ModelError: ("openai", "is busy", "Wait.", True, 429),
    AgentInterrupted: (REASON, "run_1"),
    GracefulTimeoutError: (REASON, "run_1"),
    OutcomeUnknownError: ("call 'c1'", "is unknown", "Find out.", ("run_1:c1",)),
}


def make(kind: type[KaizenError]) -> KaizenError:
    arguments = OWN_ARGUMENTS.get(kind, ("tool 'a'", "is broken", "Mend it."))
    return kind(*arguments)  # type: ignore[arg-type]


def drawn() -> Iterator[tuple[str, str, str]]:
    """The lines of the tree in the module's docstring: class, parent and code."""
    parents = ["KaizenError"]
    for line in (errors.__doc__ or "").splitlines():
        found = re.fullmatch(r" {4}([│ ]*)[├└]── (\w+) *(\w*)", line)
        if found:
            depth = len(found[1]) // 4 + 1
            del parents[depth:]
            yield found[2], parents[-1], found[3]
            parents.append(found[2])


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    assert {name for name, _, _ in drawn()} == set(errors.__all__) - {"KaizenError"}
    for name, parent, code in drawn():
        kind = getattr(errors, name)
        assert kind.__base__ is getattr(errors, parent), name
        assert kind.code == (code or "KAIZEN_000"), name


def test_every_promised_code_belongs_to_one_class() -> None:
    owners: dict[str, list[str]] = {}
    for kind in EVERY:
        if "code" in vars(kind):
            owners.setdefault(kind.code, []).append(kind.__name__)

    assert all(len(names) == 1 for names in owners.values()), owners
    assert {code: owners[code][0] for code in PROMISED} == PROMISED


def test_every_code_has_the_same_form() -> None:
    for kind in EVERY:
        assert re.fullmatch(r"[A-Z]+_\d{3}", kind.code), kind


@pytest.mark.parametrize("kind", EVERY)
def test_an_error_is_documented_and_says_who_what_and_what_to_do(
    kind: type[KaizenError],
) -> None:
    error = make(kind)
    assert kind.__doc__
    assert issubclass(kind, KaizenError)
    assert str(error).startswith(f"[{kind.code}] {error.subject} {error.problem}.")
    assert str(error).endswith(error.remedy or ".")
    assert ".." not in str(error)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("way", ["pickle", "copy", "deepcopy"])
def test_a_copy_of_an_error_is_the_same_error(kind: type[KaizenError], way: str) -> None:
    error = make(kind)
    error.add_note("raised in a test")

    match way:
        case "pickle":
            again = pickle.loads(pickle.dumps(error))
        case "copy":
            again = copy.copy(error)
        case _:
            again = copy.deepcopy(error)

    assert type(again) is kind
    assert again.args == error.args
    assert vars(again) == vars(error)
    assert str(again) == str(error)
    assert repr(again) == repr(error)


@pytest.mark.parametrize("kind", EVERY)
def test_the_arguments_of_an_error_make_it_again(kind: type[KaizenError]) -> None:
    error = make(kind)
    assert str(kind(*error.args)) == str(error)


def test_an_error_without_a_remedy_ends_after_the_problem() -> None:
    assert str(KaizenError("run 'a'", "is over")) == "[KAIZEN_000] run 'a' is over."


def test_an_unknown_name_is_answered_with_the_one_that_was_meant() -> None:
    error = UnknownNameError("provider", "opena", ["mock", "openai"])
    assert str(error) == (
        "[KAIZEN_002] provider 'opena' is unknown. "
        "Did you mean 'openai'? Known: mock, openai."
    )
    assert error.known == ("mock", "openai")


def test_an_unknown_name_that_is_like_no_other_lists_what_there_is() -> None:
    error = UnknownNameError("tool", "zzz", iter(["b", "a"]), "Install it.")
    assert str(error) == "[KAIZEN_002] tool 'zzz' is unknown. Known: a, b. Install it."
    assert str(UnknownNameError("tool", "zzz", [])).endswith("is unknown. Known: none.")


def test_a_plugin_error_names_the_distribution() -> None:
    error = PluginError("memory", "cannot start", "Free the disk.", "kaizen-memory")
    assert "plugin 'memory' (from 'kaizen-memory') cannot start" in str(error)
    assert "from" not in str(PluginError("memory", "cannot start"))


def test_an_output_error_keeps_only_the_start_of_a_reply() -> None:
    error = OutputError("Review", ("score: too high", "tone: missing"), "x" * 1_000_000)
    assert len(error.reply) == 500
    assert len(str(error)) < 500
    assert len(pickle.dumps(error)) < 5_000
    assert "score: too high; tone: missing" in str(error)


def test_a_model_error_says_whether_to_try_again() -> None:
    assert not ModelError("openai", "is closed").retryable
    error = ModelError("openai", "is busy", retryable=True, status=429)
    assert (error.provider, error.retryable, error.status) == ("openai", True, 429)


def test_an_interrupted_run_says_by_whom() -> None:
    error = AgentInterrupted(REASON, "run_1")
    assert str(error) == "[INTERRUPT_003] run 'run_1' was interrupted by user: enough."
    assert (error.reason, error.run_id) == (REASON, "run_1")
