"""How a run asks whoever sits at the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from kaizen import Channel, Kernel, PendingRequest, Registry, hookimpl
from kaizen.errors import UnknownNameError
from kaizen.testing import Said, ScriptedChannel
from kaizen_cli import CliPlugin

pytestmark = pytest.mark.anyio


class Prompts:
    """Offers the channel that asks."""

    name = "prompts"

    def __init__(self, said: Said = "tea") -> None:
        self.channel = ScriptedChannel(said)

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(Channel, "cli", self.channel)


def question(text: str) -> PendingRequest:
    return PendingRequest(id="run:ask_1", kind="question", text=text)


async def test_nothing_else_is_drawn_while_a_question_is_open() -> None:
    drawn, seen = [True], []

    @contextmanager
    def hidden() -> Iterator[None]:
        drawn[0] = False
        yield
        drawn[0] = True

    def look(_: PendingRequest) -> Said:
        seen.append(drawn[0])
        return "tea"

    prompts = Prompts(look)
    async with Kernel(plugins=[CliPlugin, prompts], config_file=False) as kernel:
        channel = await kernel.get(Channel, "terminal")  # type: ignore[type-abstract]
        channel.hidden = hidden  # type: ignore[attr-defined]

        answer = await channel.ask(question("Which?"))
        await channel.progress("half", percentage=50)

        shown: list[str] = []
        channel.tell = shown.append  # type: ignore[attr-defined]
        await channel.progress("nearly", percentage=99.6)
        await channel.progress("done")

    assert (answer.text, seen, drawn) == ("tea", [False], [True])
    assert prompts.channel.told == [("half", 50)]
    assert shown == ["100 % nearly", "done"]


async def test_without_a_plugin_that_asks_the_error_names_it() -> None:
    async with Kernel(plugins=[CliPlugin], config_file=False) as kernel:
        channel = await kernel.get(Channel, "terminal")  # type: ignore[type-abstract]
        with pytest.raises(UnknownNameError, match="kaizen-control"):
            await channel.ask(question("Which?"))
