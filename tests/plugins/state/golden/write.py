"""Writes the logs that this release leaves behind for all later ones to load.

    python tests/plugins/state/golden/write.py

Each file `<release>/<name>.jsonl` is one log, an entry a line; `<release>/states.json` says
what state each comes to. A release that is out is never written again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
from kaizen import (
    AgentInterrupted,
    BaseAgent,
    CheckpointStore,
    Image,
    InputField,
    InterruptMode,
    InterruptReason,
    Kernel,
    Message,
    OutputField,
    Signature,
    StoredEntry,
    ToolUse,
    Usage,
    current_run,
    tool,
)
from kaizen.checkpoints import fork, rewind
from kaizen.media import Media
from kaizen.runlog import (
    Answered,
    Asked,
    ChildEnded,
    ChildStarted,
    Continued,
    CycleFailed,
    CycleGave,
    Entry,
    Forked,
    Interrupted,
    Marked,
    MessageAdded,
    ModelCharged,
    ModelReplied,
    ModelRequested,
    ModelSwitched,
    Noted,
    OutcomeDecided,
    Paused,
    Reserved,
    Resumed,
    Rewound,
    RunEnded,
    RunStarted,
    RunState,
    Settled,
    Steered,
    ToolFinished,
    ToolIntended,
    decode,
    encode,
    fold,
)
from kaizen.testing import Call, Line, MemoryCheckpointStore, ModelPlugin, ScriptedModel
from kaizen_state import AgentState, StateManager
from pydantic_core import from_json, to_json

FOLDER = Path(__file__).parent
PICTURE = Image(b"\x89PNG\r\n\x1a\n a picture")


def line(entry: StoredEntry) -> str:
    """Return a stored entry as one line of JSON."""
    values = {
        "seq": entry.seq,
        "type": entry.type,
        "version": entry.version,
        "body": from_json(entry.body),
    }
    return json.dumps(values, ensure_ascii=False, sort_keys=True)


def entry_of(text: str) -> StoredEntry:
    """Return the stored entry of a line."""
    values = json.loads(text)
    return StoredEntry(**{**values, "body": to_json(values["body"])})


def read(path: Path) -> list[StoredEntry]:
    """Return the log in a file."""
    lines = path.read_text(encoding="utf-8").split("\n")  # a text may hold other line ends
    return [entry_of(text) for text in lines if text]


def told(state: RunState) -> dict[str, Any]:
    """Return what a state is, as JSON values."""
    values = {
        "agent_id": state.started.agent_id if state.started else None,
        "run_id": state.started.run_id if state.started else None,
        "inputs": state.started.inputs if state.started else None,
        "status": state.status,
        "cycles": state.cycles,
        "tool_calls": state.tool_calls,
        "outputs": state.outputs,
        "error": state.error,
        "cost_usd": state.cost_usd,
        "usage": state.usage,
        "paused": state.paused,
        "messages": state.messages,
        "call_ids": sorted(state.call_ids),
        "pending": sorted(state.pending),
        "unknown": [each.call_id for each in state.unknown],
        "questions": sorted(state.questions),
        "reserved": state.reserved,
        "marks": [each.mark_id for each in state.marks],
        "closed": [call_id for call_id, _ in state.closed],
        "steered": [each.steer_id for each in state.steered],
    }
    plain: dict[str, Any] = from_json(to_json(values, fallback=_plain))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Media):
        return value.to_json()
    if isinstance(value, Mapping):
        return dict(value)
    return {each.name: getattr(value, each.name) for each in fields(value)}


def every_entry() -> Iterator[Entry]:
    """Yield one log with an entry of every type, and something in each of their fields."""
    seen = Message(role="user", content=("Look:", PICTURE), origin="user")
    asked = ToolUse(id="call_1", name="pay", arguments={"amount": 5, "to": "Zoë"})
    usage = Usage(
        requests=1, input_tokens=9, output_tokens=8, cached_tokens=7, reasoning_tokens=6
    )
    reply = Message(role="assistant", content="I pay.", tool_uses=(asked,), origin="model")
    yield RunStarted(
        seq=0,
        at=1.5,
        run_id="every",
        agent_id="agent",
        parent_id="outer",
        trace_id="outer",
        session_id="session",
        inputs={"question": "?", "list": [1, 2.5, None, True]},
        messages=(Message(role="system", content="Be kind.", origin="signature"), seen),
        metadata={"tenant": "ü"},
        direct=False,
    )
    yield ModelRequested(seq=1, at=2.0, cycle=1, provider="scripted", model="m")
    yield ModelCharged(seq=2, at=2.5, usage=usage, cost_usd=Decimal("0.0001"))
    yield ModelReplied(
        seq=3,
        at=3.0,
        cycle=1,
        message=reply,
        usage=usage,
        cost_usd=Decimal("0.25"),
        finish_reason="tool_calls",
        model="m",
    )
    yield Asked(
        seq=4,
        at=4.0,
        request_id="q1",
        kind="approval",
        text="May I?",
        options=("yes", "no"),
        details={"amount": 5},
        expires_at=99.0,
    )
    yield Answered(
        seq=5, at=5.0, request_id="q1", approved=True, text="yes", principal="ann"
    )
    yield Asked(seq=6, at=5.5, request_id="q2", kind="question", text="To whom?")
    yield Reserved(seq=7, at=6.0, reservation_id="r1", amount_usd=Decimal("5.00"))
    yield ToolIntended(
        seq=8,
        at=7.0,
        call_id="call_1",
        name="pay",
        arguments={"amount": 5, "to": "Zoë"},
        idempotency_key="every:call_1",
        idempotent=False,
        cycle=1,
        grant="ann",
        in_history=True,
    )
    yield Settled(seq=9, at=8.0, reservation_id="r1", amount_usd=Decimal("4.99"))
    yield Reserved(seq=10, at=8.5, reservation_id="r2", amount_usd=Decimal(1))
    yield ToolFinished(
        seq=11,
        at=9.0,
        call_id="call_1",
        name="pay",
        success=False,
        approved=True,
        content="Error: it was cut off",
        error_code="TOOL_004",
        duration_ms=12.5,
        outcome="unknown",
        in_history=True,
        closing=True,
        as_json=True,
    )
    yield Interrupted(
        seq=12,
        at=10.0,
        source="user",
        mode="immediate",
        signal="user_requested",
        message="stop",
        metadata={"by": "ann"},
    )
    yield Marked(
        seq=13, at=11.0, mark_id="every:13", description="safe", metadata={"turn": 1}
    )
    yield RunEnded(
        seq=14, at=12.0, status="interrupted", error="stopped", error_code="INTERRUPT_003"
    )
    yield Resumed(seq=15, at=13.0, owner="pid 1 on host")
    yield OutcomeDecided(seq=16, at=14.0, call_id="call_1", decision="repeat", by="ann")
    yield ChildEnded(
        seq=17,
        at=15.0,
        run_id="inner",
        agent_id="helper",
        status="completed",
        usage=usage,
        cost_usd=Decimal("0.5"),
    )
    yield Paused(seq=18, at=16.0, by="ann")
    yield Continued(seq=19, at=17.0, by="bob")
    steering = Message(role="user", content="Hurry!", origin="steer:ann")
    yield Steered(seq=20, at=18.0, steer_id="steer_20", message=steering)
    yield MessageAdded(seq=21, at=19.0, message=steering, cycle=2, steer_id="steer_20")
    yield Noted(seq=22, at=20.0, source="gate", kind="decision", data={"allow": [True]})
    yield RunEnded(seq=23, at=21.0, status="completed", outputs={"answer": "paid"})
    yield Rewound(seq=24, at=22.0, to_seq=13)
    yield Forked(
        seq=25,
        at=23.0,
        run_id="every-fork",
        agent_id="other",
        parent_run_id="every",
        parent_id="outer",
    )
    yield Steered(seq=26, at=24.0, steer_id="steer_26", message=steering)
    yield ChildStarted(
        seq=27,
        at=25.0,
        run_id="new",
        agent_id="helper",
        place="call_1.helper:0",
        replaces="x",
    )
    yield CycleGave(
        seq=28, at=26.0, cycle=2, text="***", tool_uses=(asked,), finish_reason="tool_calls"
    )
    yield CycleFailed(
        seq=29, at=27.0, cycle=2, error="ModelError", arguments=("p", 1, None), message="no"
    )
    yield ModelSwitched(
        seq=30,
        at=28.0,
        cycle=2,
        from_provider="scripted",
        from_model="m",
        provider="other",
        model="n",
        reason="it broke off",
        kept_chars=3,
    )


class Look(Signature):
    """Say what is in a picture. Antworte auf Deutsch, 日本語でも。"""

    picture: Image = InputField(desc="What to look at")
    seen: str = OutputField(desc="What is there")
    sure: float = OutputField(desc="From 0 to 1", ge=0, le=1)


class Writer:
    """Lets agents live through what their logs shall tell."""

    def __init__(self) -> None:
        self.store = MemoryCheckpointStore()
        self.manager = StateManager(self.store, checkpoint_frequency=1)
        self.logs: dict[str, str] = {}

    async def write(self) -> dict[str, Sequence[StoredEntry]]:
        """Return every log by its name."""
        for each in (self.plain, self.tools, self.stopped, self.steered, self.media):
            await each()
        await self.children()
        await self.by_hand()
        logs = {name: await self.store.read(run_id) for name, run_id in self.logs.items()}
        return {"every_entry": [encode(each) for each in every_entry()], **logs}

    async def run(
        self, script: Sequence[Line], work: Any, *, cost: str | None = None
    ) -> None:
        """Do something with a kernel whose model follows a script."""
        model = ScriptedModel(*script, cost_usd=Decimal(cost) if cost else None)
        async with Kernel(
            plugins=[ModelPlugin(model)],
            discover=False,
            config_file=False,
            environ={},
            config={"default_provider": "scripted"},
        ) as kernel:
            await work(kernel)

    async def plain(self) -> None:
        async def work(kernel: Kernel) -> None:
            agent = BaseAgent(signature="question -> answer", kernel=kernel, store=store)
            self.logs["plain"] = (await agent.run(question="What is the time?")).run_id

        store: CheckpointStore = self.store
        await self.run(["Late."], work)

    async def tools(self) -> None:
        @tool(danger="safe")
        async def add(a: int, b: int) -> int:
            """Add two numbers."""
            return a + b

        async def work(kernel: Kernel) -> None:
            agent = BaseAgent(
                signature="sum -> total: int",
                tools=[add],
                kernel=kernel,
                state_manager=self.manager,
                name="adder",
            )
            self.logs["tools"] = (await agent.run(sum="1 + 2 + 3")).run_id

        script: list[Line] = [
            [Call("add", {"a": 1, "b": 2}), Call("add", {"a": "x", "b": 3})],
            Call("nosuch", {}),
            "no number",
            {"total": 6},
        ]
        await self.run(script, work, cost="0.00125")

    async def stopped(self) -> None:
        """Stop a run inside a tool, resume, rewind and fork it."""
        stop = True

        @tool(danger="medium")
        async def send(text: str) -> str:
            """Send a text."""
            if stop and text == "two":
                current_run().interrupt(InterruptReason(mode=InterruptMode.IMMEDIATE))
                await anyio.sleep_forever()
            return f"sent {text}"

        run_id = ""

        def agent(kernel: Kernel) -> BaseAgent:
            return BaseAgent(
                signature="task -> report",
                tools=[send],
                grants=["send"],
                kernel=kernel,
                state_manager=self.manager,
                agent_id="sender",
            )

        async def until_stopped(kernel: Kernel) -> None:
            nonlocal run_id
            try:
                await agent(kernel).run(task="Send both.")
            except AgentInterrupted as error:
                run_id = error.run_id

        async def on(kernel: Kernel) -> None:
            await agent(kernel).resume(run_id, decision="repeat")

        one, two = Call("send", {"text": "one"}), Call("send", {"text": "two"})
        await self.run([one, two], until_stopped, cost="0.5")
        await self.keep("stopped", run_id)
        stop = False
        await self.run(["Both are sent."], on, cost="0.5")
        await self.keep("resumed", run_id)
        marks = fold(map(decode, await self.store.read(run_id))).marks
        self.logs["forked"] = await fork(self.store, marks[0].mark_id, agent_id="other")
        await rewind(self.store, marks[0].mark_id)
        self.logs["rewound"] = run_id

    async def keep(self, name: str, run_id: str) -> None:
        """Keep a log as it is now."""
        length = len(await self.store.read(run_id))
        await self.store.fork(run_id, length=length, new_run_id=name)
        self.logs[name] = name

    async def steered(self) -> None:
        @tool(danger="safe")
        async def wait() -> str:
            """Wait until told."""
            run = current_run()
            run.pause("ann")
            run.steer("Answer in one word.", "ann")
            run.note("test", "waiting", {"since": [1, {"deep": None}]})
            run.resume("bob")
            return "enough"

        async def work(kernel: Kernel) -> None:
            agent = BaseAgent(
                signature="question -> answer",
                tools=[wait],
                kernel=kernel,
                store=self.store,
                name="patient",
            )
            self.logs["steered"] = (await agent.run(question="Well?")).run_id

        await self.run([Call("wait"), "Yes."], work)

    async def media(self) -> None:
        async def work(kernel: Kernel) -> None:
            agent = BaseAgent(
                signature=Look, kernel=kernel, store=self.store, agent_id="äuge/日本"
            )
            result = await agent.bind(session_id="sitzung ß").run(picture=PICTURE)
            self.logs["media"] = result.run_id

        await self.run([{"seen": "ein Hund 🐕\u2028und mehr", "sure": 0.5}], work)

    async def children(self) -> None:
        async def work(kernel: Kernel) -> None:
            inner = BaseAgent(
                signature="question -> answer",
                kernel=kernel,
                store=self.store,
                name="inner",
            )

            @tool(danger="safe")
            async def ask(question: str) -> str:
                """Ask somebody else."""
                return str((await inner.run(question=question)).answer)

            outer = BaseAgent(
                signature="task -> result",
                tools=[ask],
                kernel=kernel,
                store=self.store,
                name="outer",
            )
            self.logs["outer"] = (await outer.run(task="Find out.")).run_id
            records = await self.store.runs(agent_id="inner")
            self.logs["inner"] = records[0].run_id

        script: list[Line] = [Call("ask", {"question": "Why?"}), "Because.", "Found."]
        await self.run(script, work, cost="0.01")

    async def by_hand(self) -> None:
        state = AgentState(
            agent_id="../made by hand",
            conversation_history=[{"user": "Hi", "agent": "Grüezi"}],
            memory_contents={
                "price": Decimal("9.90"),
                "at": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
                "odd": {"$decimal": "is only a name"},
                "gone": 1,
            },
            budget_spent_usd=0.15,
            metadata={"session_id": "session_123"},
        )
        await self.manager.save_checkpoint(state, "first")
        state.conversation_history.append({"user": "Bye", "agent": ["Ade", 1.5, None]})
        del state.memory_contents["gone"]
        state.step_number, state.status = 1, "paused"
        state.budget_spent_usd = Decimal("0.25")
        second = await self.manager.save_checkpoint(state, "second", {"key": "value"})
        state.conversation_history[0] = {"user": "Hello"}
        third = await self.manager.save_checkpoint(state, "changed")
        forked = await self.manager.fork_from_checkpoint(second, "another")
        forked.conversation_history.append("on its own")
        await self.manager.save_checkpoint(forked)
        await self.manager.delete(third)
        self.logs["by_hand"] = second.partition(":")[0]
        self.logs["by_hand_forked"] = forked.run_id


async def write(folder: Path) -> None:
    """Write every log and its state into a folder."""
    logs = await Writer().write()
    states: dict[str, Any] = {}
    for name, entries in logs.items():
        text = "".join(f"{line(each)}\n" for each in entries)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8", newline="\n")
        states[name] = await loaded(entries)
    text = json.dumps(states, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / "states.json").write_text(f"{text}\n", encoding="utf-8", newline="\n")


async def loaded(entries: Sequence[StoredEntry]) -> dict[str, Any]:
    """Return what a log comes to: the state of the run, and that of the agent."""
    state = fold(map(decode, entries))
    store = MemoryCheckpointStore()
    await store.append("golden", entries)
    agent = await StateManager(store).load_checkpoint("golden")
    values = agent.model_dump(exclude={"created_at"})
    return {"run": told(state), "agent": json.loads(json.dumps(values, default=repr))}


def main() -> int:
    """Write the logs of this release, unless it has left some already."""
    folder = FOLDER / version("kaizen-kernel")
    if folder.exists() and "--force" not in sys.argv[1:]:
        sys.stderr.write(f"{folder.name} is there already; --force writes it anew.\n")
        return 1
    folder.mkdir(exist_ok=True)
    anyio.run(write, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
