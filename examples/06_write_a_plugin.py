"""A whole plugin: settings, a lifespan, something it offers, and something it changes.

Installed as a distribution it would be found by its entry point. Here the kernel is given
the class, which is all that a test or an application needs.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from kaizen import (
    BaseAgent,
    Kernel,
    ModelCall,
    ModelReply,
    ModelRequest,
    PluginSettings,
    Registry,
    Tool,
    hookimpl,
    tool,
)
from pydantic import Field


class GlossarySettings(PluginSettings):
    """What a user may write under `[plugins.glossary]`."""

    terms: dict[str, str] = Field(default_factory=dict, description="What words mean here.")


class GlossaryPlugin:
    """Tells models what the words of this house mean."""

    Settings = GlossarySettings

    def __init__(self, settings: GlossarySettings) -> None:
        self._terms = settings.terms
        self._explained = 0

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
        """Do what must be done before the first agent and after the last."""
        print(f"glossary opens with {len(self._terms)} terms")
        yield
        print(f"glossary closes; it explained {self._explained} terms")

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        """Offer the tool `define` to every agent."""
        registry.add(Tool, "define", tool(self.define, danger="safe", reads=True))

    @hookimpl
    async def wrap_model_call(
        self, request: ModelRequest, call_next: ModelCall
    ) -> ModelReply:
        """Explain the terms that occur in the conversation."""
        said = " ".join(message.text for message in request.messages).lower()
        found = [f"{term}: {text}" for term, text in self._terms.items() if term in said]
        self._explained += len(found)
        return await call_next(request.with_context("\n".join(found), origin="glossary"))

    async def define(self, term: str) -> str:
        """Say what a word means here."""
        return self._terms.get(term.lower(), "That word has no special meaning here.")


TERMS = {
    "berth": "A berth is a place where one ship lies. There are nine berths in this port.",
    "bell": "The bell rings at the end of a watch.",
}


async def main() -> None:
    """Ask about a word that only the plugin knows."""
    kernel = Kernel(
        plugins=["offline", GlossaryPlugin], settings={"glossary": {"terms": TERMS}}
    )
    async with kernel:
        agent = BaseAgent(
            {"llm_provider": "offline"},
            "question -> answer",
            tools=["define"],
            kernel=kernel,
        )
        result = await agent.run(question="What is a berth?")
        print(result.answer)
        print((await agent.execute_tool("define", {"term": "bell"})).content)


anyio.run(main)
