"""Hits stream like the original, and who waits for a call reads of it while it comes."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

import anyio
import pytest
from anyio.lowlevel import checkpoint
from kaizen import BaseAgent, Run, current_run
from kaizen.errors import ModelError
from kaizen.messages import ModelDelta, ModelReply, ModelRequest
from kaizen.runlog import Gap, ModelSwitched, TextDelta
from kaizen_cache import _flight

from .conftest import USED, Reading, Said, Staged, Staging, Teller, following, tell
from .test_hits import Inside

pytestmark = pytest.mark.anyio


async def test_a_hit_streams_in_the_same_pieces(staging: Staging) -> None:
    said: Said = [
        ModelDelta(reasoning="Let me"),
        ModelDelta(reasoning=" see."),
        "He",
        "llo",
        "!",
    ]
    async with staging(Teller(said)) as staged:
        agent = staged.agent()
        first, _ = await staged.stream(agent)
        again, run = await staged.stream(agent)

    assert first.pieces == again.pieces == ["(Let me)", "( see.)", "He", "llo", "!"]
    assert [each.kind for each in again.notes] == ["hit"]
    assert run.result is not None
    assert run.result.answer == "Hello!"


async def test_pieces_in_another_order_than_thoughts_first_are_kept_too(
    staging: Staging,
) -> None:
    said: Said = ["A", ModelDelta(reasoning="hm"), "B", ModelDelta(reasoning="so"), "C"]
    async with staging(Teller(said)) as staged:
        agent = staged.agent()
        await staged.stream(agent)
        again, _ = await staged.stream(agent)

    assert again.pieces == ["A", "(hm)", "B", "(so)", "C"]


async def test_what_was_not_streamed_streams_word_by_word(staging: Staging) -> None:
    reply = ModelReply(text=" Hello, dear\n\n world. ", reasoning="Well, well", usage=USED)
    async with staging(Teller(reply)) as staged:
        agent = staged.agent()
        await tell(agent)
        again, _ = await staged.stream(agent)

    assert again.pieces == ["(Well,)", "( well)", " Hello,", " dear", "\n\n world.", " "]


async def test_a_hit_of_very_many_pieces_leaves_none_out(staging: Staging) -> None:
    said = [f"{n} " for n in range(5_000)]
    async with staging(Teller(said)) as staged:
        agent = staged.agent()
        await tell(agent)
        again, _ = await staged.stream(agent)

    assert again.text == "".join(said)


async def test_a_hit_that_nobody_follows_is_not_streamed(staging: Staging) -> None:
    async with staging(Teller("hello")) as staged:
        agent = staged.agent({"stream": True})
        first, second = await tell(agent), await tell(agent)

    assert first.answer == second.answer == "hello"


async def test_a_reply_that_was_changed_on_its_way_streams_as_it_became(
    staging: Staging,
) -> None:
    async def shout(request, call_next):  # type: ignore[no-untyped-def]
        reply = await call_next(request)
        return ModelReply(text=reply.text.upper(), usage=reply.usage)

    async with staging(Teller(["hel", "lo"]), plugins=[Inside(shout)]) as staged:
        agent = staged.agent()
        await staged.stream(agent)
        again, _ = await staged.stream(agent)

    assert again.pieces == ["HELLO"]


async def test_what_was_struck_out_is_not_streamed_again(staging: Staging) -> None:
    async def begin_anew(request, call_next):  # type: ignore[no-untyped-def]
        run = current_run()
        run.log.publish("a false ")
        run.add(
            ModelSwitched,
            cycle=1,
            from_provider="teller",
            from_model="",
            provider="teller",
            model="",
            restarts=True,
        )
        return await call_next(request)

    async with staging(Teller(["hel", "lo"]), plugins=[Inside(begin_anew)]) as staged:
        agent = staged.agent()
        first, _ = await staged.stream(agent)
        again, _ = await staged.stream(agent)

    assert first.pieces == again.pieces == ["hel", "lo"]
    assert (len(first.switches), len(again.switches)) == (1, 0)


async def follow(staged: Staged, agent: BaseAgent, reading: Reading) -> None:
    await staged.stream(agent, reading)


async def test_who_waits_reads_while_the_first_one_does(staging: Staging) -> None:
    model = Teller(["Hel", "lo", "...", ", world"])
    model.gate = anyio.Event()
    first, second, late = Reading(), Reading(), Reading()
    async with staging(model) as staged, anyio.create_task_group() as tasks:
        agent = staged.agent()
        tasks.start_soon(follow, staged, agent, first)
        tasks.start_soon(follow, staged, agent, second)
        await first.until("Hello")
        await second.until("Hello")
        tasks.start_soon(follow, staged, agent, late)
        await late.until("Hello")
        model.gate.set()

    assert first.pieces == second.pieces == late.pieces == ["Hel", "lo", ", world"]
    assert [*first.switches, *second.switches, *late.switches] == []
    assert len(model.requests) == 1


async def test_who_reads_along_is_told_when_the_answer_begins_again(
    staging: Staging,
) -> None:
    broken = anyio.Event()

    async def begin_anew(request, call_next):  # type: ignore[no-untyped-def]
        run = current_run()
        run.log.publish("Good ni")
        await broken.wait()
        switched = {"provider": "teller", "model": "", "restarts": True, "cycle": 1}
        of = {"from_provider": "teller", "from_model": "", "reason": "it broke off"}
        run.add(ModelSwitched, **switched, **of)
        return await call_next(request)

    model = Teller(["Good ", "day"])
    first, second = Reading(), Reading()
    plugins = [Inside(begin_anew)]
    async with (
        staging(model, plugins=plugins) as staged,
        anyio.create_task_group() as tasks,
    ):
        agent = staged.agent()
        for reading in (first, second):
            tasks.start_soon(follow, staged, agent, reading)
            await reading.until("Good ni")
        broken.set()

    assert first.pieces == second.pieces == ["Good ", "day"]
    assert [each.reason for each in first.switches] == ["it broke off"]
    assert [each.reason for each in second.switches] == ["it broke off"]
    assert len(model.requests) == 1


async def test_who_follows_a_call_that_is_not_streamed_reads_its_reply_at_the_end(
    staging: Staging,
) -> None:
    model = Teller(["Hel", "lo, ", "world"])
    model.gate = anyio.Event()
    reading = Reading()
    async with staging(model) as staged, anyio.create_task_group() as tasks:
        agent = staged.agent()
        tasks.start_soon(tell, agent)
        await model.asked.wait()
        tasks.start_soon(follow, staged, agent, reading)
        await following(staged, 1)
        model.gate.set()

    assert reading.pieces == ["Hello,", " world"]
    assert len(model.requests) == 1


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_who_read_of_a_call_that_breaks_off_is_told_that_it_begins_again(
    staging: Staging, how: str
) -> None:
    broken = ModelError("teller", "broke off")
    model = Teller(["Hel", "...", broken], ["Hello", ", world"])
    model.gate = anyio.Event()
    readings = [Reading() for _ in range(3)]
    scope = anyio.CancelScope()

    async def first(staged: Staged, agent: BaseAgent) -> None:
        with scope:
            try:
                await staged.stream(agent, readings[0])
            except ModelError:
                return

    async with staging(model) as staged, anyio.create_task_group() as tasks:
        agent = staged.agent()
        tasks.start_soon(first, staged, agent)
        await readings[0].until("Hel")
        for reading in readings[1:]:
            tasks.start_soon(follow, staged, agent, reading)
            await reading.until("Hel")
        gate, model.gate = model.gate, None
        if how == "fails":
            gate.set()
        else:
            scope.cancel()

    assert [each.text for each in readings] == ["Hel", "Hello, world", "Hello, world"]
    assert [len(each.switches) for each in readings] == [0, 1, 1]
    assert all(each.restarts for each in (*readings[1].switches, *readings[2].switches))
    assert len(model.requests) == 2


async def test_a_reader_who_comes_late_reads_all_of_it(staging: Staging) -> None:
    model = Teller(["Hel", "lo", "...", "!"])
    model.gate = anyio.Event()
    texts: list[str] = []

    async with staging(model) as staged, anyio.create_task_group() as tasks:
        agent = staged.agent({"stream": True})
        tasks.start_soon(tell, agent)
        await model.asked.wait()
        async with agent.stream(question="?") as run:
            await following(staged, 1)
            model.gate.set()
            async for event in run:
                if isinstance(event, TextDelta):
                    texts.append(event.text)
                await checkpoint()

    assert texts == ["Hel", "lo", "!"]


class Slowly(Reading):
    """Reads with a number of pauses after each event, and counts what it missed."""

    def __init__(self, pauses: int) -> None:
        super().__init__()
        self.pauses = pauses
        self.missed = 0

    async def read(self, run: Run) -> None:
        async for event in run:
            if isinstance(event, Gap):
                self.missed += event.missed
            elif isinstance(event, TextDelta):
                self.text += event.text
                self.pieces.append(event.text)
            for _ in range(self.pauses):
                await checkpoint()


@pytest.mark.parametrize("pauses", [0, 1, 3])
@pytest.mark.parametrize("pieces", [5_000, 30_000])
async def test_a_slow_reader_of_a_hit_misses_nothing_however_many_pieces_it_had(
    staging: Staging, pauses: int, pieces: int
) -> None:
    said = [f"{n} " for n in range(pieces)]
    async with staging(Teller(said)) as staged:
        agent = staged.agent()
        await tell(agent.bind(stream=True))
        reading = Slowly(pauses)
        await staged.stream(agent, reading)

    assert reading.missed == 0
    assert reading.text == "".join(said)
    assert len(reading.pieces) <= 256


async def test_who_comes_late_to_a_long_answer_misses_nothing_of_it(
    staging: Staging,
) -> None:
    said = [*(f"{n} " for n in range(3_000)), "...", "and ", "so on"]
    model = Teller(said)
    model.gate = anyio.Event()
    reading = Slowly(1)
    async with staging(model) as staged, anyio.create_task_group() as tasks:
        agent = staged.agent({"stream": True})
        tasks.start_soon(tell, agent)
        await model.asked.wait()
        tasks.start_soon(follow, staged, agent, reading)
        await following(staged, 1)
        model.gate.set()

    assert reading.missed == 0
    assert reading.text == "".join(each for each in said if each != "...")
    assert reading.switches == []


async def test_who_reads_along_misses_nothing_of_an_answer_in_very_many_pieces(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_flight, "MOST_PIECES", 50)
    said = [*(f"{n} " for n in range(40)), "...", *(f"{n} " for n in range(40, 99))]
    model = Teller(said)
    model.gate = anyio.Event()
    first, second = Reading(), Reading()
    async with staging(model) as staged, anyio.create_task_group() as tasks:
        agent = staged.agent()
        tasks.start_soon(follow, staged, agent, first)
        tasks.start_soon(follow, staged, agent, second)
        await second.until("".join(said[:40]))
        (flight,) = staged.cache._flights.values()
        model.gate.set()

    assert first.text == second.text == "".join(each for each in said if each != "...")
    assert len(flight.pieces) == 50
    assert [*first.switches, *second.switches] == []


async def test_of_a_call_under_way_a_bounded_number_of_pieces_is_kept(
    staging: Staging,
) -> None:
    class Many(Teller):
        async def stream(
            self, request: ModelRequest
        ) -> AsyncGenerator[ModelDelta | ModelReply]:
            for _ in range(100_000):
                yield ModelDelta(text="x")
            (flight,) = staged.cache._flights.values()
            kept.append(len(flight.pieces))
            yield ModelReply(text="x" * 100_000, usage=USED)

    kept: list[int] = []
    async with staging(Many()) as staged:
        agent = staged.agent({"stream": True})
        await tell(agent)
        again, _ = await staged.stream(agent)

    assert kept == [_flight.MOST_PIECES]
    assert again.text == "x" * 100_000


async def test_a_hit_whose_thoughts_and_text_alternate_leaves_none_out(
    staging: Staging,
) -> None:
    said: Said = [ModelDelta(reasoning=f"{n} ") if n % 2 else f"{n} " for n in range(3_000)]
    async with staging(Teller(said)) as staged:
        agent = staged.agent()
        await tell(agent.bind(stream=True))
        again, _ = await staged.stream(agent)

    assert [each.kind for each in again.notes] == ["hit"]
    assert again.text == "".join(f"{n} " for n in range(0, 3_000, 2))
    assert again.thoughts == "".join(f"{n} " for n in range(1, 3_000, 2))
    assert len(again.pieces) <= 256


async def test_many_pieces_come_in_their_order_where_that_leaves_none_out(
    staging: Staging,
) -> None:
    said: Said = [
        ModelDelta(reasoning=f"{n} ") if n // 500 % 2 else f"{n} " for n in range(3_000)
    ]
    async with staging(Teller(said)) as staged:
        agent = staged.agent()
        await tell(agent.bind(stream=True))
        again, _ = await staged.stream(agent)

    told = re.sub(r"[()]", "", "".join(again.pieces))
    assert told.split() == [f"{n}" for n in range(3_000)]
    assert len(again.pieces) <= 256
