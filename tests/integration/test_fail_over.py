"""A stream is cut on the wire at every place, and the reader still reads it whole, once.

Through `direct` and `resilience`, against a server that speaks the providers' formats.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, NamedTuple

import anyio
import pytest
from kaizen import BaseAgent, Kernel, Result
from kaizen.runlog import ModelCharged, ModelReplied, ModelSwitched, TextDelta

from tests.wire.server import Answer, Fault, WireServer

pytestmark = pytest.mark.anyio

CHUNKS = [
    *(f" word{n}" for n in range(20)),
    *(f"\n{n}. größer – 日本語 🎉" for n in range(20)),
    *(f"w{n} " for n in range(20)),
]
WHOLE = "".join(CHUNKS)
RESTARTS, CONTINUES = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"


class Read(NamedTuple):
    """What came of one run, as its reader saw it."""

    text: str
    switches: Sequence[ModelSwitched]
    charges: Sequence[ModelCharged | ModelReplied]
    result: Result


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture
def wire() -> Iterator[WireServer]:
    with WireServer() as server:
        yield server


@asynccontextmanager
async def connected(
    wire: WireServer, *, plugin: str = "direct", **resilience: Any
) -> AsyncGenerator[Kernel]:
    """Start a kernel whose providers are all at the other end of the wire."""
    names = ("openai", "anthropic")
    addresses = {name: {"base_url": wire.base_url(name)} for name in names}
    table = "endpoints" if plugin == "direct" else "providers"
    async with Kernel(
        plugins=[plugin, "resilience"],
        settings={
            plugin: {table: addresses, "dotenv": False},
            "resilience": {"backoff_s": 0, "circuit_failures": 0, **resilience},
        },
        config_file=False,
        environ={f"{name.upper()}_API_KEY": wire.key for name in names},
    ) as kernel:
        yield kernel


async def read(agent: BaseAgent) -> Read:
    """Read a run to its end; what the reader is told to forget is forgotten."""
    text, switches, charges = "", [], []
    with anyio.fail_after(20):
        async with agent.stream(question="Tell me.") as run:
            async for event in run:
                if isinstance(event, TextDelta):
                    text += event.text
                elif isinstance(event, ModelSwitched):
                    switches.append(event)
                    text = "" if event.restarts else text
                    assert len(text) == event.kept_chars
                elif isinstance(event, ModelCharged | ModelReplied):
                    charges.append(event)
            return Read(text, switches, charges, await run.wait())


def cut(at: int, *, inside: bool = False) -> Answer:
    return Answer(chunks=CHUNKS, fault=Fault("cut", at=at, inside=inside))


@pytest.mark.parametrize("model", [RESTARTS, CONTINUES], ids=["restarts", "continues"])
async def test_a_model_that_is_asked_again_after_a_cut_at_any_chunk(
    wire: WireServer, model: str
) -> None:
    whole = 0
    async with connected(wire) as kernel:
        agent = BaseAgent({"model": model}, "question -> answer", kernel=kernel)
        for at in range(61):
            wire.say(cut(at, inside=bool(at % 2)), Answer(chunks=CHUNKS))
            seen = await read(agent)

            assert seen.text == WHOLE
            assert seen.result.answer == WHOLE
            assert len(seen.switches) == (at > 0)
            goes_on = model == CONTINUES and not "".join(CHUNKS[:at])[-1:].isspace()
            assert all(each.restarts is not goes_on for each in seen.switches)
            assert both_were_paid(seen)
            whole += 1
    assert whole == 61
    await wire.closed()


@pytest.mark.parametrize(
    ("first", "second"),
    [(CONTINUES, RESTARTS), (RESTARTS, CONTINUES)],
    ids=["restarts", "continues"],
)
async def test_another_provider_takes_over_after_a_cut_at_any_chunk(
    wire: WireServer, first: str, second: str
) -> None:
    whole = 0
    async with connected(wire, retries=0, fallbacks=[second]) as kernel:
        agent = BaseAgent({"model": first}, "question -> answer", kernel=kernel)
        for at in range(61):
            wire.say(cut(at, inside=bool(at % 2)), Answer(chunks=CHUNKS))
            seen = await read(agent)

            assert seen.text == WHOLE
            assert seen.result.answer == WHOLE
            (switch,) = seen.switches
            assert f"{switch.from_provider}/{switch.from_model}" == first
            assert f"{switch.provider}/{switch.model}" == second
            assert both_were_paid(seen)
            whole += 1
    assert whole == 61
    assert [each.provider for each in wire.requests[:2]] == [
        each.partition("/")[0] for each in (first, second)
    ]


async def test_the_model_that_goes_on_is_sent_what_was_read(wire: WireServer) -> None:
    wire.say(cut(9), Answer(chunks=CHUNKS))

    async with connected(wire) as kernel:
        agent = BaseAgent({"model": CONTINUES}, "question -> answer", kernel=kernel)
        await read(agent)

    assert [each.prefix for each in wire.requests] == ["", "".join(CHUNKS[:9])]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("reset", at=7),
        Fault("error_event", at=7),
        Fault("malformed", at=7),
        Fault("hang_between", at=7),
    ],
    ids=lambda fault: fault.kind,
)
@pytest.mark.parametrize("model", [RESTARTS, CONTINUES], ids=["restarts", "continues"])
async def test_a_stream_that_breaks_off_in_another_way(
    wire: WireServer, model: str, fault: Fault
) -> None:
    other = CONTINUES if model == RESTARTS else RESTARTS
    wire.say(Answer(chunks=CHUNKS, fault=fault), Answer(chunks=CHUNKS))

    settings: dict[str, Any] = {"between_tokens_s": 0.1, "retries": 0, "fallbacks": [other]}
    async with connected(wire, **settings) as kernel:
        agent = BaseAgent({"model": model}, "question -> answer", kernel=kernel)
        seen = await read(agent)

    assert seen.text == WHOLE
    assert seen.result.answer == WHOLE
    assert len(seen.switches) == 1
    await wire.closed()


@pytest.mark.parametrize("model", [RESTARTS, CONTINUES], ids=["openai", "anthropic"])
async def test_structured_output_that_was_cut_is_asked_for_again_as_a_whole(
    wire: WireServer, model: str
) -> None:
    data = {"name": "Ada", "born": 1815}

    async with connected(wire) as kernel:
        agent = BaseAgent(
            {"model": model}, "question -> name: str, born: int", kernel=kernel
        )
        for at in range(1, 4):
            wire.say(Answer(data=data, fault=Fault("cut", at=at)), Answer(data=data))
            seen = await read(agent)

            assert (seen.result.name, seen.result.born) == ("Ada", 1815)
            assert all(each.restarts for each in seen.switches)


def both_were_paid(seen: Read) -> bool:
    """Whether both attempts are on the account, with tokens and costs."""
    requests = sum(each.usage.requests for each in seen.charges)
    tokens = sum(each.usage.output_tokens for each in seen.charges)
    costs = [each.cost_usd for each in seen.charges]
    total = sum((each for each in costs if each is not None), Decimal(0))
    return (
        requests == seen.result.usage.requests == 2
        and tokens == seen.result.usage.output_tokens
        and len([each for each in costs if each]) == 2
        and total == seen.result.cost_usd
    )
