"""Finds the agent that a command line names."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import click
from kaizen.agent import BaseAgent
from kaizen.config import explain
from kaizen.errors import ConfigurationError
from kaizen.kernel import Kernel
from kaizen.signatures import Signature, SignatureParser
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kaizen_cli._session import imported

__all__ = ["Declaration", "Target", "load", "make_agent"]

DEFAULT_NAMES = ("agent", "signature")
MAX_BYTES = 1024 * 1024


class Declaration(BaseModel):
    """An agent as an `agent.toml` declares it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    signature: str = Field(description='Such as "question -> answer: str".')
    instructions: str = Field(default="", description="What the model is told to do.")
    name: str = Field(default="", description="What the agent is called.")
    provider: str | None = Field(default=None, description="Who answers.")
    model: str = Field(default="", description="Which of the provider's models.")
    tools: tuple[str, ...] = Field(default=(), description="Names of tools it may use.")
    config: dict[str, Any] = Field(
        default_factory=dict, description="Further fields of `AgentConfig`."
    )


Target: TypeAlias = BaseAgent | type[Signature] | Declaration


def load(target: str) -> Target:
    """Return what a target leads to.

    Raises:
        click.UsageError: There is nothing of that name, or it is no agent.
        ConfigurationError: A declaration does not fit.
    """
    if target.endswith(".toml"):
        return _declared(_existing(target))
    file, colon, name = target.rpartition(":")
    if target.endswith(".py"):
        return _in_module(_module_of(_existing(target)), "", target)
    if colon and file.endswith(".py"):
        return _in_module(_module_of(_existing(file)), name, target)
    if colon:
        return _checked(imported(target), target)
    raise click.UsageError(
        f"{target!r} is neither a file (agent.py, agent.toml) nor a MODULE:NAME."
    )


def make_agent(found: Target, kernel: Kernel) -> BaseAgent:
    """Return the agent that runs on a kernel.

    Args:
        found: What the target led to.
        kernel: The kernel; an agent that was made with a kernel of its own keeps that.
    """
    if isinstance(found, BaseAgent):
        return found.bind(kernel=found.kernel or kernel)
    if isinstance(found, Declaration):
        return _of_declaration(found, kernel)
    return BaseAgent(None, found, kernel=kernel)


def _of_declaration(found: Declaration, kernel: Kernel) -> BaseAgent:
    signature = SignatureParser().parse(found.signature)
    if found.instructions:
        signature = type(
            signature.__name__, (signature,), {"instructions": found.instructions}
        )
    declared = {
        **found.config,
        **({"llm_provider": found.provider} if found.provider else {}),
        **({"model": found.model} if found.model else {}),
    }
    return BaseAgent(
        declared,
        signature,
        tools=found.tools,
        kernel=kernel,
        name=found.name,
    )


def _existing(path: str) -> Path:
    file = Path(path)
    if not file.is_file():
        raise click.UsageError(f"There is no file {path!r}.")
    return file


def _declared(file: Path) -> Declaration:
    subject = f"declaration {str(file)!r}"
    with file.open("rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigurationError(subject, f"is larger than {MAX_BYTES} bytes")
    try:
        return Declaration(**tomllib.loads(content.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(subject, f"is not valid TOML: {error}") from error
    except ValidationError as error:
        problem = explain(error, known=tuple(Declaration.model_fields))
        raise ConfigurationError(subject, problem) from None


def _module_of(file: Path) -> ModuleType:
    """Import a file as `python file.py` would, with its folder in front of the path."""
    path = file.resolve()
    name = f"kaizen_run_{path.stem}"  # takes no other module's name
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == str(path)
        ]
        error.add_note(f"Raised by {file}, line {lines[-1] if lines else '?'}.")
        raise
    return module


def _in_module(module: ModuleType, name: str, target: str) -> Target:
    if name:
        if not hasattr(module, name):
            raise click.UsageError(f"{target!r} leads nowhere. {_choices(module)}")
        return _checked(getattr(module, name), target)
    for each in DEFAULT_NAMES:
        if hasattr(module, each):
            return _checked(getattr(module, each), f"{target}:{each}")
    found = _candidates(module)
    if len(found) != 1:
        raise click.UsageError(
            f"{target!r} has neither `agent` nor `signature`. {_choices(module)}"
        )
    return _checked(getattr(module, found[0]), target)


def _candidates(module: ModuleType) -> list[str]:
    """Return the names of agents in a module, or else of signatures that it defines."""
    things = vars(module).items()
    agents = [name for name, each in things if isinstance(each, BaseAgent)]
    return agents or [
        name
        for name, each in things
        if isinstance(each, type)
        and issubclass(each, Signature)
        and each.__module__ == module.__name__
    ]


def _choices(module: ModuleType) -> str:
    names = _candidates(module)
    return f"It has {', '.join(names)}." if names else "It has no agent and no signature."


def _checked(found: object, target: str) -> Target:
    if isinstance(found, BaseAgent):
        return found
    if isinstance(found, str | Signature):
        return SignatureParser().parse(found)
    if isinstance(found, type) and issubclass(found, Signature):
        return found
    kind = found.__name__ if isinstance(found, type) else type(found).__name__
    article = "an" if kind[0].lower() in "aeio" else "a"
    raise click.UsageError(f"{target!r} is {article} {kind}, and no agent or signature.")
