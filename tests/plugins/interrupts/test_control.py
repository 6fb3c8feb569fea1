"""Commands of other processes: left in a store, taken from it, and carried out."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest
from kaizen import (
    AgentInterrupted,
    BaseAgent,
    InterruptMode,
    InterruptSignal,
    InterruptSource,
)
from kaizen.errors import CheckpointSaveError, StorageUnavailableError
from kaizen.runlog import Continued, Noted, Paused, Steered
from kaizen.testing import Call, MemoryCheckpointStore, ScriptedModel
from kaizen_interrupts import RunControl

from .conftest import Running, Worker, ended

pytestmark = pytest.mark.anyio

POLL_S = 0.01


class WatchedStore(MemoryCheckpointStore):
    """A store that says when it is asked for messages.

    Attributes:
        asked: For which runs it was, each time.
        problem: What it raises then.
        full: Whether it takes no more messages.
        sent: How many messages were left.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, ...]] = []
        self.again = anyio.Event()
        self.problem: Exception | None = None
        self.full = False
        self.sent = 0

    async def send(self, run_id: str, message: bytes) -> None:
        self.sent += 1
        if self.full:
            raise CheckpointSaveError(f"run {run_id!r}", "has too many messages")
        await super().send(run_id, message)

    async def receive(self, run_ids: Sequence[str]) -> Sequence[tuple[str, bytes]]:
        self.asked.append(tuple(run_ids))
        self.again.set()
        self.again = anyio.Event()
        if self.problem is not None:
            raise self.problem
        return await super().receive(run_ids)

    async def emptied(self, run_id: str) -> None:
        """Wait until no message is left for a run, and whoever took them is done."""
        with anyio.fail_after(10):
            while self._messages.get(run_id):
                await self.again.wait()
            await self.again.wait()


async def test_a_run_is_paused_steered_resumed_and_stopped_through_its_store(
    running: Running, model: ScriptedModel
) -> None:
    store = WatchedStore()
    control = RunControl(store, by="ops")
    async with running(poll_interval=POLL_S) as kernel:
        worker = Worker(model, kernel, store=store)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()

            await control.pause(run.id)
            await store.emptied(run.id)
            assert run.state.paused
            await control.steer(run.id, "be quick \ud800")
            await control.resume(run.id)
            await store.emptied(run.id)
            assert not run.state.paused
            await worker.next_turn()
            await control.interrupt(run.id, message="that will do")
            await control.interrupt(run.id, mode=InterruptMode.IMMEDIATE, message="now")
            error = await ended(run)

    assert isinstance(error, AgentInterrupted)
    assert error.reason.message == "now"
    assert error.reason.source is InterruptSource.USER
    assert error.reason.signal is InterruptSignal.USER_REQUESTED
    assert error.reason.metadata["by"] == "ops"
    entries = run.log.entries
    assert {each.by for each in entries if isinstance(each, Paused | Continued)} == {"ops"}
    (steered,) = (each for each in entries if isinstance(each, Steered))
    assert steered.message.text == "be quick ?"
    assert steered.message.origin == "steer:ops"


async def test_a_run_is_cancelled_through_its_store(
    running: Running, model: ScriptedModel
) -> None:
    store = WatchedStore()
    async with running(poll_interval=POLL_S) as kernel:
        worker = Worker(model, kernel, store=store)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            await RunControl(store).cancel(run.id, message="no use")
            await ended(run)

    assert run.state.status == "cancelled"


async def test_a_command_reaches_its_run_and_no_other(
    running: Running, model: ScriptedModel
) -> None:
    store = WatchedStore()
    async with running(poll_interval=POLL_S) as kernel:
        one, two = (Worker(model, kernel, store=store) for _ in range(2))
        async with (
            one.agent.stream(question="?") as first,
            two.agent.stream(question="?") as second,
        ):
            await one.turn.wait()
            await two.turn.wait()
            await RunControl(store).pause(second.id)
            await store.emptied(second.id)

            assert second.state.paused
            assert not first.state.paused


HOSTILE = [
    b"",
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b"{}",
    b'{"command": "explode"}',
    b'{"command": "pause", "run": "another"}',
    b'{"command": "steer"}',
    b'{"command": "steer", "text": ""}',
    b'{"command": "steer", "text": 7}',
    b'{"command": "interrupt", "mode": "brutal"}',
    b'{"command": "cancel", "message": "' + b"x" * 1_001 + b'"}',
    b'{"command": "pause", "by": "' + b"x" * 101 + b'"}',
    b'{"command": "steer", "text": "' + b"x" * 100_001 + b'"}',
    json.dumps({"command": "steer", "text": "\ud800"}).encode(),
    b'{"command": "pause", "' + b"k" * 500_000 + b'": "secret"}',
]


async def test_what_is_no_command_is_dropped_and_reported_without_being_quoted(
    running: Running, model: ScriptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    store = WatchedStore()
    async with running(poll_interval=POLL_S) as kernel:
        worker = Worker(model, kernel, store=store)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            for message in HOSTILE:
                await store.send(run.id, message)
            await RunControl(store).pause(run.id)
            await store.emptied(run.id)

            assert run.state.paused
            assert run.state.steered == ()
            notes = [each for each in run.log.entries if isinstance(each, Noted)]
            assert [each.kind for each in notes] == ["message_dropped"]

    dropped = [each for each in caplog.records if "was dropped" in each.getMessage()]
    assert len(dropped) == len(HOSTILE)
    assert max(len(each.getMessage()) for each in dropped) < 250
    assert "secret" not in caplog.text


async def test_a_sender_is_told_at_once_what_no_run_would_take() -> None:
    control = RunControl(MemoryCheckpointStore())
    with pytest.raises(CheckpointSaveError):
        await control.pause("../run")
    with pytest.raises(ValueError, match="by has at most 100 characters, not 101"):
        RunControl(MemoryCheckpointStore(), by="x" * 101)


TEXT: Any = 5


@pytest.mark.parametrize(
    ("use", "kind", "told"),
    [
        (lambda to: to.steer("run", ""), ValueError, "text has 1 to 100000 char.*, not 0"),
        (
            lambda to: to.steer("run", "x" * 100_001),
            ValueError,
            "text has 1 to 100000 characters, not 100001",
        ),
        (lambda to: to.steer("run", TEXT), TypeError, "text is a text, not 5"),
        (
            lambda to: to.interrupt("run", mode="zz"),
            ValueError,
            "mode is 'graceful' or 'immediate', not 'zz'",
        ),
        (
            lambda to: to.interrupt("run", message="x" * 1_001),
            ValueError,
            "message has at most 1000 characters, not 1001",
        ),
        (
            lambda to: to.cancel("run", message="x" * 1_001),
            ValueError,
            "message has at most 1000 characters, not 1001",
        ),
        (lambda to: to.cancel("run", message=TEXT), TypeError, "message is a text, not 5"),
    ],
)
async def test_a_sender_is_told_which_argument_is_wrong_and_nothing_is_sent(
    use: Callable[[RunControl], Awaitable[None]], kind: type[Exception], told: str
) -> None:
    store = MemoryCheckpointStore()

    with pytest.raises(kind, match=f"^{told}$") as caught:
        await use(RunControl(store))

    assert caught.type is kind
    assert list(await store.receive(["run"])) == []


async def test_what_is_no_character_is_sent_as_a_question_mark() -> None:
    store = MemoryCheckpointStore()
    control = RunControl(store, by="\ud800")
    await control.interrupt("run", message="\ud800")
    await control.cancel("run", message="\ud800")

    sent = [json.loads(each) for _, each in await store.receive(["run"])]
    assert [(each["by"], each["message"]) for each in sent] == [("?", "?")] * 2


async def test_commands_wait_for_a_run_until_it_is_carried_out(
    running: Running, model: ScriptedModel
) -> None:
    store = WatchedStore()
    async with running(poll_interval=POLL_S) as kernel:
        worker = Worker(model, kernel, store=store)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            run.interrupt()
            worker.go_on.set()
            await ended(run)
        await RunControl(store).steer(run.id, "go another way")
        model._script[1:] = [lambda _: Call("work"), "done", "done"]
        worker.go_on, worker.turn = anyio.Event(), anyio.Event()

        async with worker.agent.resume_stream(run.id) as resumed:
            await worker.turn.wait()
            await store.emptied(run.id)
            worker.go_on.set()
            assert await ended(resumed) is None

    assert "go another way" in [each.text for each in resumed.messages]


async def test_a_message_to_a_model_that_asks_no_more_waits_for_the_run_to_go_on(
    running: Running, model: ScriptedModel
) -> None:
    store = WatchedStore()
    async with running(poll_interval=POLL_S) as kernel:
        worker = Worker(model, kernel, store=store)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            run.interrupt()
            await RunControl(store).steer(run.id, "too late")
            with anyio.fail_after(10):
                for _ in range(3):
                    await store.again.wait()
            assert store.sent == 1
            worker.go_on.set()
            await ended(run)
        assert store.sent == 2  # before the kernel stops, and the store with it

    assert [each for _, each in await store.receive([run.id])] == [
        b'{"by":"","command":"steer","text":"too late"}'
    ]


async def test_messages_that_come_too_late_keep_their_order(
    running: Running, model: ScriptedModel
) -> None:
    store = WatchedStore()
    async with running(poll_interval=POLL_S) as kernel:
        worker = Worker(model, kernel, store=store)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            run.interrupt()
            for number in range(3):
                await RunControl(store).steer(run.id, str(number))
                await store.emptied(run.id)
            worker.go_on.set()
            await ended(run)

    texts = [json.loads(each)["text"] for _, each in await store.receive([run.id])]
    assert texts == ["0", "1", "2"]


async def test_a_message_that_cannot_be_put_back_is_reported_and_others_are_heard(
    running: Running, model: ScriptedModel, caplog: pytest.LogCaptureFixture
) -> None:
    store = WatchedStore()
    async with running(poll_interval=POLL_S) as kernel:
        worker = Worker(model, kernel, store=store)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            run.interrupt()
            await RunControl(store).steer(run.id, "too late")
            await RunControl(store).cancel(run.id)
            store.full = True
            await ended(run)

    assert run.state.status == "cancelled"
    assert "came too late" in caplog.text


async def test_a_store_is_asked_only_while_a_run_that_it_keeps_goes_on(
    running: Running, model: ScriptedModel
) -> None:
    store = WatchedStore()
    async with running(poll_interval=POLL_S) as kernel:
        without = Worker(model, kernel)
        async with without.agent.stream(question="?"):
            await without.turn.wait()
            worker = Worker(model, kernel, store=store)
            assert store.asked == []
            async with worker.agent.stream(question="?") as run:
                with anyio.fail_after(10):
                    await store.again.wait()
            asked = len(store.asked)
            await anyio.wait_all_tasks_blocked()
            with anyio.move_on_after(5 * POLL_S):
                await store.again.wait()

    assert len(store.asked) == asked
    assert set(store.asked) == {(run.id,)}


async def test_polling_can_be_turned_off(running: Running, model: ScriptedModel) -> None:
    store = WatchedStore()
    async with running(poll_interval=0) as kernel:
        worker = Worker(model, kernel, store=store)
        async with worker.agent.stream(question="?"):
            await worker.turn.wait()
            await worker.next_turn()
    assert store.asked == []


async def test_a_store_that_fails_is_reported_once_and_asked_again_later(
    running: Running,
    model: ScriptedModel,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kaizen_interrupts._listener.RETRY_S", POLL_S)
    store = WatchedStore()
    store.problem = StorageUnavailableError("the store", "is away")
    async with running(poll_interval=POLL_S) as kernel:
        worker = Worker(model, kernel, store=store)
        async with worker.agent.stream(question="?") as run:
            await worker.turn.wait()
            with anyio.fail_after(10):
                for _ in range(3):
                    await store.again.wait()
            store.problem = None
            await RunControl(store).pause(run.id)
            await store.emptied(run.id)
            assert run.state.paused

    told = [each for each in caplog.records if "is away" in each.getMessage()]
    assert len(told) == 1


async def test_a_kernel_that_stops_leaves_nobody_who_listens(
    running: Running, model: ScriptedModel
) -> None:
    before = len(anyio.get_running_tasks())
    async with running(poll_interval=POLL_S) as kernel:
        model.say("yes")
        agent = BaseAgent(
            signature="question -> answer", kernel=kernel, store=WatchedStore()
        )
        await agent.run(question="?")
    assert len(anyio.get_running_tasks()) == before
