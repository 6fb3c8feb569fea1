"""Keeping logs while runs go on: claims, stores that hang or fail, and the kernel's end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest
from kaizen import (
    BaseAgent,
    InterruptMode,
    InterruptReason,
    InterruptSignal,
    InterruptSource,
    Kernel,
    Run,
    current_run,
    tool,
)
from kaizen.checkpoints import read_log
from kaizen.errors import (
    AgentInterrupted,
    ClaimLostError,
    RunError,
    StorageUnavailableError,
)
from kaizen.ports import StoredEntry
from kaizen.runlog import Interrupted, Marked, Noted, fold
from kaizen.testing import Call, MemoryCheckpointStore, ModelPlugin, ScriptedModel

pytestmark = pytest.mark.anyio

IMMEDIATE = InterruptReason(mode=InterruptMode.IMMEDIATE, message="now")


def kernel_with(*turns: Any, model: ScriptedModel | None = None) -> Kernel:
    return Kernel(
        plugins=[ModelPlugin(model or ScriptedModel(*turns))],
        discover=False,
        config={"default_provider": "scripted"},
        config_file=False,
        environ={},
    )


def agent_on(
    kernel: Kernel, store: MemoryCheckpointStore, *tools: Any, **config: Any
) -> BaseAgent:
    return BaseAgent(
        config,
        "question -> answer",
        tools=tools,
        kernel=kernel,
        store=store,
        agent_id="keen",
    )


class Store(MemoryCheckpointStore):
    """Does something first: `writing` before each write, `claiming` before each claim.

    Attributes:
        renewed: How often each run's claim was renewed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.writing: Callable[[str], Any] = _nothing
        self.claiming: Callable[[str, float], Any] = _nothing
        self.renewed: dict[str, int] = {}
        self.changed = anyio.Event()
        self.let = anyio.Event()

    async def append(
        self, run_id: str, entries: Sequence[StoredEntry], *, token: int | None = None
    ) -> None:
        await self.writing(run_id)
        await super().append(run_id, entries, token=token)
        self._tell()

    async def claim(self, run_id: str, *, owner: str, lease_s: float) -> int:
        await self.claiming(run_id, lease_s)
        known = run_id in self._claims
        token = await super().claim(run_id, owner=owner, lease_s=lease_s)
        if known and lease_s:
            self.renewed[run_id] = self.renewed.get(run_id, 0) + 1
        self._tell()
        return token

    async def held(self, *_: Any) -> None:
        """Hang, as `writing` or `claiming`, until it is let."""
        await self.let.wait()

    async def until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            await self.changed.wait()

    def take_over(self, run_id: str) -> None:
        """Let the lease of a run have run out while its process was asleep."""
        claim = self._claims[run_id]
        self._claims[run_id] = replace(claim, until=0.0, until_monotonic=0.0)

    def _tell(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    async def only(self) -> tuple[str, str]:
        """Return the status and the owner of the only run that there is."""
        (record,) = await self.runs()
        return record.status, record.owner


async def _nothing(*_: Any) -> None:
    await anyio.lowlevel.checkpoint()


async def forever(*_: Any) -> None:
    await anyio.sleep_forever()


async def lost(*_: Any) -> None:
    raise StorageUnavailableError("the disk", "is gone")


class Gate:
    """A tool `work` that waits until it is let."""

    def __init__(self) -> None:
        self.entered = anyio.Event()
        self.let = anyio.Event()
        self.run: Run | None = None
        self.effects = 0

        @tool(danger="low", writes=True)
        async def work() -> str:
            """Work."""
            self.run = current_run()
            self.entered.set()
            await self.let.wait()
            self.effects += 1
            return "worked"

        self.tool = work

    @property
    def run_id(self) -> str:
        assert self.run is not None
        return self.run.id


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let claims be renewed all the time."""
    monkeypatch.setattr("kaizen._keeping.RENEW_S", 0.01)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a store have little time for its answers."""
    monkeypatch.setattr("kaizen._keeping.STORE_TIMEOUT_S", 0.05)


# Stores that hang delay nobody else.


async def test_a_store_that_hangs_lets_the_logs_of_others_be_written() -> None:
    hung, well = Store(), Store()
    stuck, free = Gate(), Gate()
    with anyio.fail_after(5):
        async with (
            kernel_with(*[Call("work")] * 2) as kernel,
            anyio.create_task_group() as tasks,
        ):
            hung.writing = hung.held
            first = agent_on(kernel, hung, stuck.tool, durability="async")
            second = agent_on(kernel, well, free.tool, durability="async")
            tasks.start_soon(lambda: first.run(question="?"))
            await stuck.entered.wait()
            tasks.start_soon(lambda: second.run(question="?"))
            await free.entered.wait()
            await well.until(lambda: len(well._logs.get(free.run_id, ())) >= 4)
            hung.let.set()
            tasks.cancel_scope.cancel()


@pytest.mark.usefixtures("often")
async def test_claims_are_renewed_while_logs_wait_for_their_store() -> None:
    store, gate = Store(), Gate()
    with anyio.fail_after(5):
        async with kernel_with(Call("work")) as kernel, anyio.create_task_group() as tasks:
            agent = agent_on(kernel, store, gate.tool, durability="async")
            tasks.start_soon(lambda: agent.run(question="?"))
            await gate.entered.wait()
            await store.until(lambda: gate.run_id in store._logs)
            store.writing = store.held
            assert gate.run is not None
            gate.run.pause()
            before = store.renewed.get(gate.run_id, 0)
            await store.until(lambda: store.renewed.get(gate.run_id, 0) > before + 2)
            store.let.set()
            tasks.cancel_scope.cancel()


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("shared", [True, False], ids=["one store", "two stores"])
async def test_a_claim_that_cannot_be_renewed_delays_no_other(shared: bool) -> None:
    store, gates = Store(), (Gate(), Gate())
    other = store if shared else Store()
    with anyio.fail_after(5):
        async with (
            kernel_with(*[Call("work")] * 2) as kernel,
            anyio.create_task_group() as tasks,
        ):
            for gate, kept in zip(gates, (store, other), strict=True):
                agent = agent_on(kernel, kept, gate.tool)
                tasks.start_soon(partial(agent.run, question="?"))
                await gate.entered.wait()
            stuck = gates[0].run_id

            async def hang(run_id: str, lease_s: float) -> None:
                if run_id == stuck and lease_s:
                    await anyio.sleep_forever()

            store.claiming = hang
            free = gates[1].run_id
            before = other.renewed.get(free, 0)
            await other.until(lambda: other.renewed.get(free, 0) > before + 2)
            tasks.cancel_scope.cancel()


async def test_a_kernel_forgets_a_store_that_keeps_no_run_any_more(
    often: None,
) -> None:
    store = Store()
    async with kernel_with("one", "two") as kernel:
        for question in ("one", "two"):
            await agent_on(kernel, store).run(question=question)
            with anyio.fail_after(5):
                while kernel.keeper._shelves:
                    await anyio.lowlevel.checkpoint()


# The end of one log, and the beginning of the next.


async def test_a_resumed_run_is_written_though_its_past_still_waits() -> None:
    store, busy, gate = Store(), Gate(), Gate()
    with anyio.fail_after(5):
        async with (
            kernel_with(Call("work"), Call("work"), "done") as kernel,
            anyio.create_task_group() as tasks,
        ):
            slow = agent_on(kernel, store, busy.tool, durability="async")
            tasks.start_soon(lambda: slow.run(question="slow"))
            await busy.entered.wait()

            async def hold(run_id: str) -> None:
                if run_id == busy.run_id:
                    await store.let.wait()

            store.writing = hold
            assert busy.run is not None
            busy.run.pause()  # the writer of this store waits from now on

            agent = BaseAgent(
                {"durability": "async"},
                "question -> answer",
                tools=[gate.tool],
                kernel=kernel,
                store=store,
                name="other",
            )

            async def begin() -> None:
                with pytest.raises(AgentInterrupted):
                    await agent.run(question="?")

            async with anyio.create_task_group() as runs:
                runs.start_soon(begin)
                await gate.entered.wait()
                assert gate.run is not None
                gate.run.interrupt(IMMEDIATE)
            run_id = gate.run_id
            gate.let.set()
            result = await agent.resume(run_id, decision="repeat")
            store.let.set()
            await store.until(lambda: not kernel.keeper.carries(run_id))
            tasks.cancel_scope.cancel()
    assert result.answer == "done"
    assert fold(await read_log(store, run_id)).status == "completed"


async def test_whoever_is_cut_off_resuming_does_not_block_the_run() -> None:
    store = Store()
    async with kernel_with("done") as kernel:
        agent = agent_on(kernel, store)
        run_id = (await agent.run(question="?")).run_id

        with anyio.CancelScope() as scope:

            async def cut_off(_: str, lease_s: float) -> None:
                if not lease_s:
                    scope.cancel()
                await anyio.lowlevel.checkpoint()

            store.claiming = cut_off
            await agent.resume(run_id)
        store.claiming = _nothing

        assert not kernel.keeper.carries(run_id)
        assert await store.only() == ("completed", "")
        assert (await agent.resume(run_id)).answer == "done"


async def test_a_claim_that_was_cut_off_is_given_up() -> None:
    class Late(Store):
        late = False

        async def claim(self, run_id: str, *, owner: str, lease_s: float) -> int:
            token = await super().claim(run_id, owner=owner, lease_s=lease_s)
            if self.late and lease_s:
                scope.cancel()
                await anyio.sleep_forever()
            return token

    store = Late()
    async with kernel_with(RuntimeError("no"), "done") as kernel:
        agent = agent_on(kernel, store)
        with pytest.raises(RuntimeError):
            await agent.run(question="?")
        (record,) = await store.runs()

        store.late = True
        with anyio.CancelScope() as scope:
            await agent.resume(record.run_id)
        store.late = False

        assert await store.only() == ("failed", "")
        assert (await agent.resume(record.run_id)).answer == "done"


async def test_a_store_that_takes_no_claim_back_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kaizen._keeping.GIVE_UP_S", 0.05)
    store = Store()

    async def hang(_: str, lease_s: float) -> None:
        if not lease_s:
            await anyio.sleep_forever()

    store.claiming = hang
    async with kernel_with("done") as kernel:
        with anyio.fail_after(5):
            result = await agent_on(kernel, store).run(question="?")
        assert not kernel.keeper.busy
    assert result.answer == "done"
    assert "did not take its claim back" in caplog.text


# Durability `async`.


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("failing", [lost, forever])
async def test_an_async_run_of_which_nothing_was_kept_fails_at_its_end(
    failing: Callable[..., Any],
) -> None:
    store = Store()
    store.writing = failing
    with anyio.fail_after(5):
        async with kernel_with("done") as kernel:
            with pytest.raises(StorageUnavailableError):
                await agent_on(kernel, store, durability="async").run(question="?")
            assert not kernel.keeper.busy


async def test_an_async_run_fails_at_its_next_step_once_its_store_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, gate = Store(), Gate()
    model = ScriptedModel(Call("work"), "done")
    with anyio.fail_after(5):
        async with kernel_with(model=model) as kernel:
            agent = agent_on(kernel, store, gate.tool, durability="async")

            async def run() -> None:
                with pytest.raises(StorageUnavailableError, match=r"not answer in 0\.05 s"):
                    await agent.run(question="?")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await gate.entered.wait()
                await store.until(lambda: len(store._logs.get(gate.run_id, ())) >= 4)
                store.writing = forever
                monkeypatch.setattr("kaizen._keeping.STORE_TIMEOUT_S", 0.05)
                assert gate.run is not None
                gate.run.pause()
                gate.run.resume()
                while "did not answer" not in caplog.text:
                    await anyio.lowlevel.checkpoint()
                gate.let.set()
    assert len(model.requests) == 1


async def test_an_async_run_does_not_wait_for_a_store_that_works() -> None:
    store, gate = Store(), Gate()
    with anyio.fail_after(5):
        async with kernel_with(Call("work"), "done") as kernel:
            agent = agent_on(kernel, store, gate.tool, durability="async")
            results: list[Any] = []

            async def run() -> None:
                results.append(await agent.run(question="?"))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await gate.entered.wait()
                await store.until(lambda: len(store._logs.get(gate.run_id, ())) >= 4)
                store.writing = store.held
                gate.let.set()
            assert len(store._logs[gate.run_id]) == 4
            store.let.set()
    assert results[0].answer == "done"
    assert await store.only() == ("completed", "")


async def test_the_end_of_a_run_is_kept_that_comes_while_it_is_written() -> None:
    store, gate = Store(), Gate()
    writing = anyio.Event()

    async def hold(_: str) -> None:
        writing.set()
        await store.let.wait()

    with anyio.fail_after(5):
        async with kernel_with(Call("work"), "done") as kernel:
            agent = agent_on(kernel, store, gate.tool, durability="async")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(agent.run, question="?"))
                await gate.entered.wait()
                await store.until(lambda: len(store._logs.get(gate.run_id, ())) >= 4)
                store.writing = hold
                assert gate.run is not None
                gate.run.pause()
                gate.run.resume()
                await writing.wait()
                gate.let.set()
            store.let.set()
            await store.until(lambda: not kernel.keeper.carries(gate.run_id))
            assert await store.only() == ("completed", "")


# A run that another process has.


async def test_a_run_that_was_taken_over_stops_even_if_it_may_go_on_unkept() -> None:
    store = Store()
    effects: list[int] = []

    @tool(danger="low", writes=True)
    async def act(number: int) -> str:
        """Act."""
        effects.append(number)
        run_id = current_run().id
        store.take_over(run_id)
        await MemoryCheckpointStore.claim(store, run_id, owner="other", lease_s=60)
        return "done"

    turns = [Call("act", {"number": number}) for number in (1, 2)]
    async with kernel_with(*turns, "done") as kernel:
        agent = agent_on(kernel, store, act, on_save_error="continue")
        with pytest.raises(ClaimLostError, match="taken over") as caught:
            await agent.run(question="?")
        assert not hasattr(caught.value, "__notes__")  # it is said once
    assert effects == [1]
    assert await store.only() == ("running", "other")


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_run_that_somebody_had_meanwhile_stops_at_its_next_step(
    durability: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, gate = Store(), Gate()
    turns = (RuntimeError("begin"), Call("work"), "done")
    with anyio.fail_after(5):
        async with kernel_with(*turns) as kernel:
            agent = agent_on(kernel, store, gate.tool, durability=durability)
            with pytest.raises(RuntimeError):
                await agent.run(question="?")
            (record,) = await store.runs()

            async def resume() -> None:
                with pytest.raises(ClaimLostError, match="taken over"):
                    await agent.resume(record.run_id)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(resume)
                await gate.entered.wait()
                length = len(await store.read(record.run_id))
                store.take_over(record.run_id)
                for lease_s in (60.0, 0.0):
                    await MemoryCheckpointStore.claim(
                        store, record.run_id, owner="other", lease_s=lease_s
                    )
                while "taken over" not in caplog.text:
                    await anyio.lowlevel.checkpoint()
                gate.let.set()
    (record,) = await store.runs()
    assert record.owner == ""
    assert durability == "async" or record.length == length


# The kernel stops.


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_a_kernel_that_stops_interrupts_the_runs_that_it_keeps(
    durability: str,
) -> None:
    store, gate = Store(), Gate()
    stopped: list[AgentInterrupted] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async with kernel_with(Call("work"), "done") as kernel:
                agent = agent_on(kernel, store, gate.tool, durability=durability)

                async def run() -> None:
                    with pytest.raises(AgentInterrupted) as caught:
                        await agent.run(question="?")
                    stopped.append(caught.value)

                tasks.start_soon(run)
                await gate.entered.wait()
            assert await store.only() == ("interrupted", "")
    (error,) = stopped
    assert error.reason.source is InterruptSource.SYSTEM
    assert error.reason.signal is InterruptSignal.SHUTDOWN
    assert gate.effects == 0

    gate.let.set()
    async with kernel:
        again = agent_on(kernel, store, gate.tool)
        assert (await again.resume(error.run_id, decision="repeat")).answer == "done"
    assert gate.effects == 1


async def test_a_run_that_does_not_stop_with_its_kernel_writes_nothing_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kaizen._keeping.STOP_S", 0.05)
    store = Store()
    entered, let = anyio.Event(), anyio.Event()

    @tool(danger="low", writes=True)
    async def work() -> str:
        """Work."""
        entered.set()
        with anyio.CancelScope(shield=True):
            await let.wait()
        return "worked"

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async with kernel_with(Call("work"), "done") as kernel:
                agent = agent_on(kernel, store, work)

                async def run() -> None:
                    with pytest.raises(AgentInterrupted) as caught:
                        await agent.run(question="?")
                    assert "given up when its kernel stopped" in str(caught.value.__notes__)

                tasks.start_soon(run)
                await entered.wait()
            (before,) = await store.runs()
            assert before.owner == ""
            let.set()
    (after,) = await store.runs()
    assert after == before


async def test_many_runs_on_a_store_that_hangs_delay_the_end_of_the_kernel_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store()
    gates = [Gate() for _ in range(30)]
    started = 0.0
    async with anyio.create_task_group() as tasks:
        async with kernel_with(*[Call("work")] * 30) as kernel:

            async def run(gate: Gate) -> None:
                agent = agent_on(kernel, store, gate.tool, durability="async")
                with pytest.raises(AgentInterrupted):
                    await agent.run(question="?")

            for gate in gates:
                tasks.start_soon(run, gate)
            for gate in gates:
                await gate.entered.wait()
            await store.until(lambda: len(store._logs) == 30)
            store.writing = forever
            monkeypatch.setattr("kaizen._keeping.STORE_TIMEOUT_S", 0.05)
            started = anyio.current_time()
        assert anyio.current_time() - started < 30 * 0.05


# What would make a log unwritable.


class Awkward:
    def __repr__(self) -> str:
        return "x" * 10_000


ODD: list[Any] = [object(), {"deep": {1: print}}, "\ud800", b"\xff", [len]]


@pytest.mark.parametrize("odd", ODD)
async def test_a_note_that_json_cannot_hold_is_refused_by_its_key(odd: Any) -> None:
    store = Store()

    @tool(danger="safe")
    async def look() -> str:
        """Look."""
        with pytest.raises(TypeError, match="a note of 'x' has under 'odd'"):
            current_run().note("x", "y", {"good": 1, "odd": odd})
        with pytest.raises(TypeError, match="metadata of a checkpoint has under 'odd'"):
            await current_run().checkpoint("here", {"odd": odd})
        await current_run().checkpoint("\ud800")
        return "looked"

    async with kernel_with(Call("look"), "done") as kernel:
        result = await agent_on(kernel, store, look).run(question="?")
    entries = await read_log(store, result.run_id)
    assert not [each for each in entries if isinstance(each, Noted)]
    assert [each.description for each in entries if isinstance(each, Marked)] == ["?"]
    assert await store.only() == ("completed", "")


async def test_a_note_stays_what_it_was_when_its_data_change() -> None:
    data = {"numbers": [1]}
    async with kernel_with("done") as kernel:
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        async with agent.stream(question="?") as run:
            run.note("x", "y", data)
            data["numbers"].append(2)
            await run.wait()
    (note,) = [each for each in run.log.entries if isinstance(each, Noted)]
    assert note.data == {"numbers": [1]}


async def test_what_json_cannot_hold_of_a_stop_is_told_in_words() -> None:
    store = Store()
    circle: list[Any] = []
    circle.append(circle)
    metadata: dict[Any, Any] = {
        "good": {"a": [1, 2.5, None]},
        "odd": object(),
        "long": Awkward(),
        "circle": circle,
        "half": "\ud800",
        "\ud800": 1,
        2: 3,
    }
    reason = replace(IMMEDIATE, message="half \ud800", metadata=metadata)

    @tool(danger="safe")
    async def stop() -> str:
        """Stop."""
        run = current_run()
        run.pause("\ud800")
        run.resume("\ud800")
        run.steer("hello", "\ud800")
        run.interrupt(reason)
        await anyio.sleep_forever()
        return ""

    async with kernel_with(Call("stop")) as kernel:
        with pytest.raises(AgentInterrupted) as caught:
            await agent_on(kernel, store, stop).run(question="?")
    assert await store.only() == ("interrupted", "")
    assert caught.value.reason.metadata["odd"] is metadata["odd"]
    entries = await read_log(store, caught.value.run_id)
    (entry,) = [each for each in entries if isinstance(each, Interrupted)]
    assert entry.message == "half ?"
    assert entry.metadata["good"] == {"a": [1, 2.5, None]}
    assert entry.metadata["odd"].startswith("<object object")
    assert len(entry.metadata["long"]) <= 501
    assert entry.metadata["circle"] == "[[...]]"
    assert entry.metadata["?"] == 1
    assert entry.metadata["2"] == 3


# From a thread, after all.


@pytest.mark.parametrize("where", ["worker", "thread"])
async def test_a_run_that_is_over_hears_nothing_from_any_thread(where: str) -> None:
    async with kernel_with("done") as kernel:
        agent = BaseAgent(signature="question -> answer", kernel=kernel)
        async with agent.stream(question="?") as run:
            await run.wait()

    def call() -> list[bool]:
        with pytest.raises(RunError, match="has ended"):
            run.note("x", "y", {})
        return [run.interrupt(), run.cancel(), run.pause(), run.resume(), run.steer("x")]

    if where == "worker":
        heard = await anyio.to_thread.run_sync(call)
    else:
        heard = await anyio.to_thread.run_sync(in_a_plain_thread, call)
    assert heard == [False] * 5


def in_a_plain_thread(call: Callable[[], list[bool]]) -> list[bool]:
    from threading import Thread

    heard: list[list[bool]] = []
    thread = Thread(target=lambda: heard.append(call()))
    thread.start()
    thread.join()
    return heard[0]


async def test_a_run_without_an_end_hears_nothing_once_its_kernel_has_stopped() -> None:
    gate = Gate()
    async with anyio.create_task_group() as tasks:
        async with kernel_with(Call("work"), "done") as kernel:
            agent = BaseAgent({}, "question -> answer", tools=[gate.tool], kernel=kernel)
            tasks.start_soon(lambda: agent.run(question="?"))
            await gate.entered.wait()
        assert gate.run is not None
        run = gate.run

        def call() -> list[bool]:
            return [run.pause(), run.steer("x"), run.interrupt(IMMEDIATE)]

        heard = await anyio.to_thread.run_sync(in_a_plain_thread, call)
        gate.let.set()
    assert heard == [False] * 3
