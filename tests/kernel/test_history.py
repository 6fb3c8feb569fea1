"""The past of a run: going back, going on, migrations, and logs that mean harm."""

from __future__ import annotations

import base64
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import pytest
from kaizen import Message, RunRecord, StoredEntry, ToolUse, Usage, runlog
from kaizen._records import record
from kaizen.errors import CheckpointLoadError
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
    RunLog,
    RunStarted,
    RunState,
    Settled,
    Steered,
    ToolFinished,
    ToolIntended,
    decode,
    described,
    encode,
    entry_types,
    fold,
    history,
)

AnyEntry = TypeVar("AnyEntry", bound=Entry)
NOT_UNDONE = {"usage", "cost_usd", "call_ids", "used", "redone"}


class Story:
    """A log that is written down entry by entry."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def add(self, kind: Callable[..., AnyEntry], /, **values: Any) -> AnyEntry:
        entry = kind(seq=len(self.entries), at=float(len(self.entries)), **values)
        self.entries.append(entry)
        return entry

    def start(self, **values: Any) -> RunStarted:
        known: dict[str, Any] = {
            "run_id": "run",
            "agent_id": "alice",
            "parent_id": "",
            "trace_id": "run",
            "session_id": "",
            "inputs": {},
            "messages": (Message(role="user", content="Go."),),
        }
        return self.add(RunStarted, **(known | values))

    def say(self, content: str) -> MessageAdded:
        return self.add(MessageAdded, message=Message(role="user", content=content))

    def reply(self, content: str, *call_ids: str, cost: str = "0.01") -> ModelReplied:
        uses = tuple(ToolUse(id=each, name="pay", arguments={}) for each in call_ids)
        return self.add(
            ModelReplied,
            cycle=1,
            message=Message(role="assistant", content=content, tool_uses=uses),
            usage=Usage(requests=1, input_tokens=10),
            cost_usd=Decimal(cost),
            finish_reason="stop",
            model="m",
        )

    def begin(self, call_id: str, **values: Any) -> ToolIntended:
        known: dict[str, Any] = {
            "call_id": call_id,
            "name": "pay",
            "arguments": {"to": "bob"},
            "idempotency_key": f"run:{call_id}",
            "idempotent": False,
            "cycle": 1,
        }
        return self.add(ToolIntended, **(known | values))

    def finish(self, call_id: str, content: str = "done", **values: Any) -> ToolFinished:
        known: dict[str, Any] = {
            "call_id": call_id,
            "name": "pay",
            "success": True,
            "approved": True,
            "content": content,
            "error_code": "",
            "duration_ms": 1.0,
        }
        return self.add(ToolFinished, **(known | values))

    def go_back(self, to: Entry) -> Rewound:
        return self.add(Rewound, to_seq=to.seq)

    def child(self, run_id: str, requests: int, cost: str | None = None) -> ChildEnded:
        return self.add(
            ChildEnded,
            run_id=run_id,
            agent_id="bob",
            status="completed",
            usage=Usage(requests=requests),
            cost_usd=None if cost is None else Decimal(cost),
        )

    @property
    def state(self) -> RunState:
        return fold(self.entries)

    def after(self, entry: Entry) -> RunState:
        """What the log came to when an entry was its last."""
        return fold(self.entries[: entry.seq + 1])


@pytest.fixture
def story() -> Story:
    """A run that has begun."""
    story = Story()
    story.start()
    return story


def facts(state: RunState, *, but: set[str] | None = None) -> dict[str, Any]:
    names = {name for name in RunState.__slots__ if not name.startswith("_")}
    return {
        name: getattr(state, name)
        for name in (names | {"usage", "cost_usd"}) - (but or set())
    }


def said(state: RunState) -> list[str]:
    return [message.text for message in state.messages]


# Going back.


def test_after_a_rewind_the_state_is_that_at_the_mark(story: Story) -> None:
    story.reply("I pay.", "c1")
    story.begin("c1")
    story.add(Reserved, reservation_id="b1", amount_usd=Decimal(1))
    story.add(Asked, request_id="q1", kind="question", text="Which?")
    mark = story.add(Marked, mark_id="m")
    story.finish("c1")
    story.add(Settled, reservation_id="b1", amount_usd=Decimal(1))
    story.add(Answered, request_id="q1", approved=True)
    story.add(ModelRequested, cycle=2, provider="p", model="m")
    story.reply("undone", "c2")
    story.add(RunEnded, status="failed", error="E")

    story.go_back(mark)

    now, then = story.state, story.after(mark)
    assert facts(now, but=NOT_UNDONE) == facts(then, but=NOT_UNDONE)
    assert facts(now) != facts(then)


def test_what_was_consumed_before_a_rewind_stays_on_the_account(story: Story) -> None:
    mark = story.add(Marked, mark_id="m")
    story.reply("one", "c1", cost="0.25")
    story.add(ModelCharged, usage=Usage(requests=1), cost_usd=Decimal("0.5"))
    story.child("child", 7, "2.00")
    story.begin("c2", in_history=False)

    story.go_back(mark)

    state = story.state
    assert state.usage == Usage(requests=9, input_tokens=10)
    assert state.cost_usd == Decimal("2.75")
    assert state.call_ids == {"c1", "c2"}
    assert said(state) == ["Go."]


def test_what_is_done_again_after_a_rewind_is_paid_again(story: Story) -> None:
    mark = story.add(Marked, mark_id="m")
    for _ in range(3):
        story.reply("one", cost="0.25")
        story.go_back(mark)
    story.reply("last", cost="0.25")

    assert story.state.usage.requests == 4
    assert story.state.cost_usd == Decimal("1.00")
    assert said(story.state) == ["Go.", "last"]


def test_a_rewind_can_be_rewound(story: Story) -> None:
    first = story.say("first")
    second = story.say("second")
    rewound = story.go_back(first)
    third = story.say("third")

    story.go_back(rewound)
    assert said(story.state) == ["Go.", "first"]
    story.go_back(third)
    assert said(story.state) == ["Go.", "first", "third"]
    story.go_back(second)
    assert said(story.state) == ["Go.", "first", "second"]


def test_one_can_go_back_to_a_branch_that_was_undone(story: Story) -> None:
    root = story.say("root")
    left = story.say("left")
    leaf = story.say("leaf")
    story.go_back(root)
    right = story.say("right")
    story.go_back(left)
    story.say("left again")
    assert said(story.state) == ["Go.", "root", "left", "left again"]
    story.go_back(right)
    assert said(story.state) == ["Go.", "root", "right"]
    story.go_back(leaf)
    assert said(story.state) == ["Go.", "root", "left", "leaf"]


@pytest.mark.parametrize("to", [-(10**20), -1, 3, 4, 5, 10**20])
def test_a_rewind_to_an_entry_that_there_is_not_is_refused(story: Story, to: int) -> None:
    story.say("first")
    story.say("second")
    story.add(Rewound, to_seq=to)
    story.say("third")

    with pytest.raises(CheckpointLoadError, match=r"entry 3 .*goes back to entry"):
        fold(story.entries)
    with pytest.raises(CheckpointLoadError, match=r"entry 3 .*goes back to entry"):
        history(story.entries)


def test_a_rewind_to_the_entry_before_it_undoes_nothing(story: Story) -> None:
    last = story.say("first")
    before = facts(story.state)
    story.go_back(last)
    assert facts(story.state) == before


@pytest.mark.parametrize("status", ["completed", "failed", "interrupted", "cancelled"])
def test_a_run_that_was_rewound_has_not_ended(story: Story, status: str) -> None:
    ended = story.add(RunEnded, status=status, outputs={"a": 1}, error="E")
    story.go_back(ended)
    state = story.state
    assert (state.status, state.outputs, state.error) == ("running", None, "")


def test_a_run_that_was_rewound_is_not_paused(story: Story) -> None:
    mark = story.add(Paused, by="bob")
    story.go_back(mark)
    assert not story.state.paused


def test_the_history_is_what_was_not_undone_in_order(story: Story) -> None:
    first = story.say("first")
    story.say("second")
    rewound = story.go_back(first)
    third = story.say("third")
    assert list(history(story.entries)) == [story.entries[0], first, rewound, third]


def test_a_log_that_was_never_rewound_is_its_own_history(story: Story) -> None:
    story.say("first")
    assert list(history(story.entries)) == story.entries
    assert list(history([])) == []


def test_a_long_log_with_many_rewinds_is_read_in_one_go(story: Story) -> None:
    for _ in range(2_000):
        mark = story.say("kept")
        story.say("undone")
        story.go_back(mark)
    assert said(story.state) == ["Go.", *["kept"] * 2_000]


# Children.


def test_a_child_that_ended_twice_counts_once_with_what_it_came_to(story: Story) -> None:
    story.reply("one", cost="0.01")
    story.child("child", 3, "1.00")
    story.child("other", 10, None)
    story.child("child", 5, "1.50")

    assert story.state.usage.requests == 1 + 5 + 10
    assert story.state.cost_usd == Decimal("1.51")


def test_the_cost_of_children_is_known_if_any_of_it_is(story: Story) -> None:
    story.child("child", 1, None)
    assert story.state.cost_usd is None
    story.child("other", 1, "0.5")
    assert story.state.cost_usd == Decimal("0.5")


def test_what_a_child_consumed_after_the_mark_is_not_forgotten(story: Story) -> None:
    mark = story.child("child", 3, "1.00")
    story.child("child", 5, "1.50")

    story.go_back(mark)

    assert story.state.usage.requests == 5
    assert story.state.cost_usd == Decimal("1.50")


# Forks.


def test_a_fork_is_a_run_of_its_own_with_the_past_of_another() -> None:
    story = Story()
    story.start(parent_id="outer", inputs={"a": 1})
    story.say("shared")
    story.add(RunEnded, status="completed", outputs={"a": 1})
    story.add(Forked, run_id="branch", agent_id="bob", parent_run_id="run")

    state = story.state
    assert state.started is not None
    assert (state.started.run_id, state.started.agent_id) == ("branch", "bob")
    assert (state.started.parent_id, state.started.inputs) == ("", {"a": 1})
    assert (state.status, state.outputs) == ("running", None)
    assert said(state) == ["Go.", "shared"]


def test_a_fork_that_names_no_agent_is_the_same_agents(story: Story) -> None:
    story.add(Forked, run_id="branch", agent_id="", parent_run_id="run")
    started = story.state.started
    assert started is not None
    assert (started.run_id, started.agent_id) == ("branch", "alice")


def test_a_fork_goes_on_with_the_calls_that_were_only_closed(story: Story) -> None:
    story.reply("I pay.", "c1")
    begun = story.begin("c1")
    story.finish("c1", "stopped", closing=True, outcome="unknown")
    story.add(Forked, run_id="branch", agent_id="", parent_run_id="run")
    assert story.state.pending == {"c1": begun}


def test_a_fork_stays_itself_when_it_goes_back_to_the_shared_past(story: Story) -> None:
    mark = story.add(Marked, mark_id="m")
    story.add(Forked, run_id="branch", agent_id="bob", parent_run_id="run")
    story.say("undone")

    story.go_back(mark)

    started = story.state.started
    assert started is not None
    assert (started.run_id, started.agent_id) == ("branch", "bob")
    assert said(story.state) == ["Go."]


# Going on.


def test_a_closing_result_is_gone_once_the_run_goes_on(story: Story) -> None:
    story.reply("I pay.", "c1", "c2")
    begun = story.begin("c1")
    before = story.state
    story.finish("c1", "It was stopped.", closing=True, outcome="unknown")
    story.finish("c2", "It was not made.", closing=True, outcome="not_made")
    story.add(RunEnded, status="interrupted")
    stopped = story.state
    story.add(Resumed, owner="me")

    assert [message.tool_use_id for message in stopped.messages[2:]] == ["c1", "c2"]
    assert stopped.unknown == (begun,)
    assert stopped.pending == {}
    state = story.state
    assert said(state) == ["Go.", "I pay."]
    assert state.pending == {"c1": begun}  # and c2, which was not begun, is open
    assert facts(state) == facts(before)


def test_a_result_that_is_known_stays_when_the_run_goes_on(story: Story) -> None:
    story.reply("I pay.", "c1", "c2")
    story.begin("c1")
    story.finish("c1", "paid")
    story.finish("c2", "stopped", closing=True)
    story.add(RunEnded, status="interrupted")
    story.add(Resumed, owner="me")

    assert said(story.state) == ["Go.", "I pay.", "paid"]
    assert story.state.tool_calls == 1


def test_an_outcome_that_nobody_knows_stays_so_when_the_run_goes_on(story: Story) -> None:
    story.reply("I pay.", "c1")
    begun = story.begin("c1")
    story.finish("c1", "The connection broke.", outcome="unknown", success=False)
    story.add(RunEnded, status="failed")
    story.add(Resumed, owner="me")

    assert story.state.unknown == (begun,)
    assert story.state.pending == {}
    assert said(story.state) == ["Go.", "I pay.", "The connection broke."]


def test_a_repeatable_call_that_was_cut_off_is_not_unknown(story: Story) -> None:
    begun = story.begin("c1", idempotent=True)
    story.finish("c1", closing=True, outcome="unknown")
    assert story.state.unknown == ()
    story.add(Resumed, owner="me")
    assert story.state.pending == {"c1": begun}


def test_a_closing_result_of_a_call_outside_the_history_removes_no_message(
    story: Story,
) -> None:
    begun = story.begin("c1", in_history=False)
    story.finish("c1", closing=True, in_history=False)
    story.add(Resumed, owner="me")
    assert said(story.state) == ["Go."]
    assert story.state.pending == {"c1": begun}


def test_a_run_can_be_stopped_and_go_on_many_times(story: Story) -> None:
    story.reply("I pay.", "c1", "c2")
    begun = story.begin("c1")
    before = facts(story.state)
    for _ in range(5):
        story.finish("c1", closing=True, outcome="unknown")
        story.finish("c2", closing=True)
        story.add(RunEnded, status="interrupted")
        story.add(Resumed, owner="me")
        assert facts(story.state) == before
    story.finish("c1", "paid")
    assert story.state.pending == {}
    assert story.state.unknown == ()
    assert begun not in story.state.pending.values()
    assert said(story.state)[2:] == ["paid"]


def test_a_run_that_goes_on_has_neither_ended_nor_stopped(story: Story) -> None:
    story.add(Paused)
    story.add(RunEnded, status="failed", outputs={"a": 1}, error="E")
    story.add(Resumed, owner="me")
    state = story.state
    assert (state.status, state.outputs, state.error, state.paused) == (
        "running",
        None,
        "",
        False,
    )


@pytest.mark.parametrize(
    ("decision", "idempotent"), [("repeat", True), ("done", False), ("skip", False)]
)
def test_only_a_call_that_is_to_be_repeated_may_be_repeated(
    story: Story, decision: str, idempotent: bool
) -> None:
    begun = story.begin("c1")
    story.begin("c2")
    story.add(OutcomeDecided, call_id="c1", decision=decision, by="bob")

    pending = story.state.pending

    assert pending["c1"] == replace(begun, idempotent=idempotent)
    assert not pending["c2"].idempotent


@pytest.mark.parametrize("decision", ["repeat", "done", "skip"])
def test_a_decision_about_a_call_that_is_not_open_changes_nothing(
    story: Story, decision: str
) -> None:
    story.begin("c1")
    story.finish("c1")
    before = facts(story.state)
    story.add(OutcomeDecided, call_id="c1", decision=decision)
    story.add(OutcomeDecided, call_id="nobody", decision=decision)
    assert facts(story.state) == before


# Pausing and steering.


def test_a_run_is_paused_until_it_is_continued(story: Story) -> None:
    assert not story.state.paused
    story.add(Paused, by="bob")
    assert story.state.paused
    story.add(Paused, by="carol")
    story.add(Continued, by="bob")
    assert not story.state.paused
    assert story.state.status == "running"


def test_a_message_that_steers_waits_until_it_joins(story: Story) -> None:
    first = story.add(Steered, steer_id="s1", message=Message(role="user", content="Left."))
    second = story.add(
        Steered, steer_id="s2", message=Message(role="user", content="Right.")
    )
    assert list(story.state.steered) == [first, second]
    assert said(story.state) == ["Go."]

    story.add(MessageAdded, message=first.message, cycle=1, steer_id="s1")

    assert list(story.state.steered) == [second]
    assert said(story.state) == ["Go.", "Left."]


def test_a_message_of_the_strategy_lets_what_steers_wait(story: Story) -> None:
    steered = story.add(Steered, steer_id="", message=Message(role="user", content="Left."))
    story.say("feedback")
    assert story.state.steered == (steered,)


def test_a_message_that_joined_waits_again_after_a_rewind(story: Story) -> None:
    steered = story.add(
        Steered, steer_id="s1", message=Message(role="user", content="Left.")
    )
    story.add(MessageAdded, message=steered.message, steer_id="s1")
    story.go_back(steered)
    assert story.state.steered == (steered,)
    assert said(story.state) == ["Go."]


# Random logs, against a second implementation.


class Model:
    """What a log comes to, by copies of each state instead of a walk through the log."""

    def __init__(self) -> None:
        self.now: dict[str, Any] = {
            "status": "running",
            "outputs": None,
            "error": "",
            "paused": False,
            "messages": [],
            "pending": {},
            "unknown": [],
            "questions": set(),
            "reserved": {},
            "marks": [],
            "steered": [],
            "cycles": 0,
            "turns": 0,
            "tool_calls": 0,
            "closed": {},
            "answers": {},
            "used": set(),
            "approval_of": {},
            "counted": set(),
        }
        self.forks: list[int] = []
        self.taken: dict[int, str] = {}
        self.ended_calls: dict[int, str] = {}
        self.past: list[dict[str, Any]] = []
        self.call_ids: set[str] = set()
        self.charged = Usage()
        self.cost: Decimal | None = None
        self.children: dict[str, ChildEnded] = {}
        self.identity = ("", "")

    def read(self, entry: Entry) -> None:
        getattr(self, entry.type)(entry, self.now)
        self.past.append(deepcopy(self.now))

    @property
    def redone(self) -> set[str]:
        gone = set(self.ended_calls) - self.now["counted"]
        return {self.ended_calls[seq] for seq in gone}

    def _nothing(self, entry: Any, now: dict[str, Any]) -> None: ...

    noted = interrupted = child_started = cycle_gave = cycle_failed = _nothing
    model_switched = _nothing

    def run_started(self, entry: RunStarted, now: dict[str, Any]) -> None:
        self.identity = (entry.run_id, entry.agent_id)
        now["messages"] = [(each.role, each.text, "", False) for each in entry.messages]

    def forked(self, entry: Forked, now: dict[str, Any]) -> None:
        self.identity = (entry.run_id, entry.agent_id)
        now["questions"] = set()
        self.forks.append(entry.seq)
        self.resumed(entry, now)

    def rewound(self, entry: Rewound, now: dict[str, Any]) -> None:
        self.now = deepcopy(self.past[entry.to_seq])
        if any(entry.to_seq < seq < entry.seq for seq in self.forks):
            self.now["questions"] = set()
        self.resumed(entry, self.now)

    def resumed(self, entry: Entry, now: dict[str, Any]) -> None:
        now |= {"status": "running", "outputs": None, "error": "", "paused": False}
        now["messages"] = [each for each in now["messages"] if not each[3]]
        for call_id, begun in now["closed"].items():
            now["tool_calls"] -= 1
            now["unknown"] = [each for each in now["unknown"] if each != call_id]
            if begun is not None:
                now["pending"][call_id] = begun
        now["closed"] = {}
        approvals = {call_id: now["approval_of"][call_id] for call_id in now["pending"]}
        again = {each for call_id, each in approvals.items() if call_id in self.redone}
        now["used"] = (now["used"] - set(approvals.values())) | (again - {""})

    def paused(self, entry: Paused, now: dict[str, Any]) -> None:
        now["paused"] = True

    def continued(self, entry: Continued, now: dict[str, Any]) -> None:
        now["paused"] = False

    def steered(self, entry: Steered, now: dict[str, Any]) -> None:
        now["steered"].append(entry.steer_id)

    def message_added(self, entry: MessageAdded, now: dict[str, Any]) -> None:
        now["messages"].append((entry.message.role, entry.message.text, "", False))
        if entry.steer_id in now["steered"]:
            now["steered"].remove(entry.steer_id)

    def model_requested(self, entry: ModelRequested, now: dict[str, Any]) -> None:
        now["cycles"] += 1
        now["turns"] = entry.cycle
        now["closed"] = {}
        now["messages"] = [(*each[:3], False) for each in now["messages"]]

    def model_replied(self, entry: ModelReplied, now: dict[str, Any]) -> None:
        now["turns"] = entry.cycle
        now["closed"] = {}
        now["messages"] = [(*each[:3], False) for each in now["messages"]]
        now["messages"].append((entry.message.role, entry.message.text, "", False))
        self.call_ids |= {use.id for use in entry.message.tool_uses}
        self.model_charged(entry, now)

    def model_charged(
        self, entry: ModelReplied | ModelCharged, now: dict[str, Any]
    ) -> None:
        self.charged += entry.usage
        if entry.cost_usd is not None:
            self.cost = (self.cost or Decimal(0)) + entry.cost_usd

    def child_ended(self, entry: ChildEnded, now: dict[str, Any]) -> None:
        self.children[entry.run_id] = entry

    def tool_intended(self, entry: ToolIntended, now: dict[str, Any]) -> None:
        now["pending"][entry.call_id] = entry.idempotent
        now["approval_of"][entry.call_id] = entry.approval
        if entry.approval:
            now["used"].add(entry.approval)
            now["counted"].add(entry.seq)
            self.taken[entry.seq] = entry.approval
        if not entry.in_history:
            self.call_ids.add(entry.call_id)

    def tool_finished(self, entry: ToolFinished, now: dict[str, Any]) -> None:
        now["tool_calls"] += 1
        if entry.outcome != "not_made":
            now["counted"].add(entry.seq)
            self.ended_calls[entry.seq] = entry.call_id
        begun = now["pending"].pop(entry.call_id, None)
        if begun is False and entry.outcome == "unknown":
            now["unknown"].append(entry.call_id)
        if entry.closing:
            now["closed"][entry.call_id] = begun
        if entry.in_history:
            now["messages"].append(("tool", entry.content, entry.call_id, entry.closing))

    def outcome_decided(self, entry: OutcomeDecided, now: dict[str, Any]) -> None:
        if entry.decision == "repeat" and entry.call_id in now["pending"]:
            now["pending"][entry.call_id] = True

    def asked(self, entry: Asked, now: dict[str, Any]) -> None:
        now["questions"].add(entry.request_id)
        now["counted"].add(entry.seq)
        self.taken[entry.seq] = entry.request_id

    def answered(self, entry: Answered, now: dict[str, Any]) -> None:
        now["questions"].discard(entry.request_id)
        now["answers"][entry.request_id] = entry.approved

    def reserved(self, entry: Reserved, now: dict[str, Any]) -> None:
        now["reserved"][entry.reservation_id] = entry.amount_usd

    def settled(self, entry: Settled, now: dict[str, Any]) -> None:
        now["reserved"].pop(entry.reservation_id, None)

    def marked(self, entry: Marked, now: dict[str, Any]) -> None:
        now["marks"].append(entry.mark_id)

    def run_ended(self, entry: RunEnded, now: dict[str, Any]) -> None:
        now |= {"status": entry.status, "outputs": entry.outputs, "error": entry.error}

    def facts(self) -> dict[str, Any]:
        """What `in_words` says of a state."""
        undone = set(self.taken) - self.now["counted"]
        now = self.now | {
            "used": self.now["used"] | {self.taken[seq] for seq in undone},
            "redone": self.redone,
            "messages": [each[:3] for each in self.now["messages"]],
            "closed": set(self.now["closed"]),
        }
        del now["approval_of"], now["counted"]
        costs = [self.cost, *(each.cost_usd for each in self.children.values())]
        known = [each for each in costs if each is not None]
        return now | {
            "usage": sum((each.usage for each in self.children.values()), self.charged),
            "cost_usd": sum(known, Decimal(0)) if known else None,
            "call_ids": self.call_ids,
            "identity": self.identity,
        }


def in_words(state: RunState) -> dict[str, Any]:
    """What a state says, in the words of the model above."""
    assert state.started is not None
    return facts(state, but={"started"}) | {
        "messages": [(each.role, each.text, each.tool_use_id) for each in state.messages],
        "pending": {call_id: each.idempotent for call_id, each in state.pending.items()},
        "unknown": [each.call_id for each in state.unknown],
        "questions": set(state.questions),
        "answers": {each: given.approved for each, given in state.answers.items()},
        "marks": [each.mark_id for each in state.marks],
        "steered": [each.steer_id for each in state.steered],
        "closed": {call_id for call_id, _ in state.closed},
        "identity": (state.started.run_id, state.started.agent_id),
    }


class Chance:
    """Writes a log by chance, in which each entry may follow the one before."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.model = Model()
        self.story = Story()
        self.count = 0
        self.note(self.story.start(agent_id="agent0"))

    def note(self, entry: Entry) -> None:
        self.model.read(entry)

    def new(self, what: str) -> str:
        self.count += 1
        return f"{what}{self.count}"

    def text(self) -> str:
        letters = ("a", "ä", "\U0001f600", "\u2028", '"', "\\", "\0", "\n", "<b>", "é")
        return "".join(self.random.choices(letters, k=self.random.randrange(6)))

    def write(self, length: int) -> None:
        ways = [getattr(self, name) for name in dir(self) if name.startswith("_do_")]
        while len(self.story.entries) < length:
            entry = self.random.choice(ways)()
            if entry is not None:
                self.note(entry)

    def some(self, ids: Any) -> str:
        return str(self.random.choice(sorted(ids) or ["nobody"]))

    def _open(self) -> list[str]:
        """The calls that a model asked for and that have no result."""
        done = {each[2] for each in self.model.now["messages"]}
        return [
            use.id
            for entry in history(self.story.entries)
            if isinstance(entry, ModelReplied)
            for use in entry.message.tool_uses
            if use.id not in done
        ]

    def _do_reply(self) -> Entry:
        ids = [self.new("call") for _ in range(self.random.randrange(3))]
        return self.story.reply(self.text(), *ids, cost=f"0.0{self.random.randrange(9)}")

    def _do_ask_the_model(self) -> Entry:
        return self.story.add(ModelRequested, cycle=1, provider="p", model=self.text())

    def _do_charge(self) -> Entry:
        cost = self.random.choice([None, Decimal("0.125"), Decimal("1E-9")])
        usage = Usage(requests=1, output_tokens=self.random.randrange(100))
        return self.story.add(ModelCharged, usage=usage, cost_usd=cost)

    def _do_switch(self) -> Entry:
        return self.story.add(
            ModelSwitched,
            cycle=1,
            from_provider="p",
            from_model="m",
            provider="q",
            model=self.text(),
            reason=self.text(),
            restarts=self.random.random() < 0.5,
        )

    def _do_say(self) -> Entry:
        return self.story.say(self.text())

    def _do_begin(self) -> Entry | None:
        begun = self.model.now["pending"]
        able = [each for each in self._open() if each not in begun]
        idempotent = self.random.random() < 0.5
        approval = self.new("approval") if self.random.random() < 0.5 else ""
        if not able or self.random.random() < 0.2:
            return self.story.begin(
                self.new("call"),
                idempotent=idempotent,
                in_history=False,
                approval=approval,
            )
        return self.story.begin(
            self.random.choice(able), idempotent=idempotent, approval=approval
        )

    def _do_finish(self) -> Entry | None:
        asked = self._open()
        able = sorted({*asked, *self.model.now["pending"]})
        if not able:
            return None
        call_id = self.random.choice(able)
        return self.story.finish(
            call_id,
            self.text(),
            success=self.random.random() < 0.5,
            outcome=self.random.choice(["known", "unknown", "not_made"]),
            in_history=call_id in asked,
            closing=self.random.random() < 0.4,
        )

    def _do_child(self) -> Entry:
        cost = self.random.choice([None, "0.5", "1.75"])
        return self.story.child(f"child{self.random.randrange(3)}", self.count, cost)

    def _do_start_a_child(self) -> Entry:
        return self.story.add(
            ChildStarted, run_id=self.new("child"), agent_id="a", place=self.text()
        )

    def _do_give(self) -> Entry:
        use = ToolUse(id="u", name="t", arguments={"a": 1})
        return self.story.add(
            CycleGave, cycle=1, text=self.text(), tool_uses=(use,), finish_reason="stop"
        )

    def _do_fail(self) -> Entry:
        arguments = ("openai", self.text(), 1.5, None, True)
        return self.story.add(
            CycleFailed, cycle=1, error="ModelError", arguments=arguments, message="no"
        )

    def _do_decide(self) -> Entry:
        decision = self.random.choice(["repeat", "done", "skip"])
        call_id = self.some(self.model.now["pending"])
        return self.story.add(OutcomeDecided, call_id=call_id, decision=decision)

    def _do_ask(self) -> Entry:
        request_id = self.new("question")
        return self.story.add(Asked, request_id=request_id, kind="question", text="?")

    def _do_answer(self) -> Entry:
        request_id = self.some(self.model.now["questions"])
        return self.story.add(Answered, request_id=request_id, approved=True)

    def _do_reserve(self) -> Entry:
        name = self.new("reservation")
        return self.story.add(Reserved, reservation_id=name, amount_usd=Decimal("0.10"))

    def _do_settle(self) -> Entry:
        name = self.some(self.model.now["reserved"])
        return self.story.add(Settled, reservation_id=name, amount_usd=Decimal(0))

    def _do_steer(self) -> Entry:
        message = Message(role="user", content=self.text())
        return self.story.add(Steered, steer_id=self.new("steer"), message=message)

    def _do_join(self) -> Entry:
        message = Message(role="user", content=self.text())
        steer_id = self.some(self.model.now["steered"])
        return self.story.add(MessageAdded, message=message, steer_id=steer_id)

    def _do_note(self) -> Entry:
        data = {self.text(): [self.text(), None, 0.5, {"n": self.count}]}
        return self.story.add(Noted, source="s", kind="k", data=data)

    def _do_interrupt(self) -> Entry:
        return self.story.add(
            Interrupted, source="user", mode="graceful", signal="custom", message="stop"
        )

    def _do_mark(self) -> Entry:
        return self.story.add(Marked, mark_id=self.new("mark"))

    def _do_pause(self) -> Entry:
        return self.story.add(Paused)

    def _do_continue(self) -> Entry:
        return self.story.add(Continued)

    def _do_end(self) -> Entry:
        status = self.random.choice(["completed", "failed", "interrupted", "cancelled"])
        return self.story.add(RunEnded, status=status, outputs={"a": 1}, error=self.text())

    def _do_resume(self) -> Entry:
        return self.story.add(Resumed, owner="me")

    def _do_fork(self) -> Entry | None:
        if self.random.random() < 0.7:
            return None
        return self.story.add(
            Forked,
            run_id=self.new("run"),
            agent_id=self.new("agent"),
            parent_run_id=self.model.identity[0],
        )

    def _do_rewind(self) -> Entry:
        to = self.random.randrange(len(self.story.entries))
        return self.story.add(Rewound, to_seq=to)


def random_logs(count: int) -> Iterator[Chance]:
    for seed in range(count):
        chance = Chance(seed)
        chance.write(chance.random.randrange(2, 80))
        yield chance


def test_500_random_logs_come_to_what_a_second_implementation_says() -> None:
    rewinds = 0
    for seed, chance in enumerate(random_logs(500)):
        entries = chance.story.entries
        assert in_words(fold(entries)) == chance.model.facts(), f"log {seed}"
        rewinds += sum(isinstance(each, Rewound) for each in entries)
    assert rewinds > 500


def test_each_part_of_a_random_log_comes_to_what_the_whole_would() -> None:
    for chance in random_logs(20):
        model = Model()
        for length, entry in enumerate(chance.story.entries, start=1):
            model.read(entry)
            assert in_words(fold(chance.story.entries[:length])) == model.facts()


def test_every_type_of_entry_comes_back_from_a_store_as_it_was() -> None:
    seen = set()
    for chance in random_logs(100):
        for entry in chance.story.entries:
            again = decode(encode(entry))
            assert type(again) is type(entry)
            assert again == entry
            seen.add(entry.type)
    assert seen == set(entry_types())


def test_a_random_log_without_rewinds_is_the_state_of_a_living_run() -> None:
    for chance in random_logs(100):
        log = RunLog("run")
        for entry in chance.story.entries:
            if not isinstance(entry, Rewound):
                log.append(replace(entry, seq=len(log.entries)))
        assert facts(log.state) == facts(fold(log.entries))


def test_the_record_of_a_run_has_the_status_and_the_agent_of_its_state() -> None:
    for chance in random_logs(300):
        kept = record_of(chance.story.entries)
        state = fold(chance.story.entries)
        assert state.started is not None
        assert (kept.status, kept.agent_id) == (state.status, state.started.agent_id)
        assert kept.length == len(chance.story.entries)


# The record of a run.


BLANK = RunRecord(
    run_id="run",
    agent_id="",
    status="running",
    length=0,
    updated_at=7.0,
    forked_from=("other", 3),
    owner="me",
)


def record_of(entries: Sequence[Entry]) -> RunRecord:
    kept = BLANK
    for entry in entries:
        kept = described(kept, encode(entry))
    return kept


def test_the_record_says_whose_run_it_is_and_inside_which(story: Story) -> None:
    story = Story()
    story.start(agent_id="bob", parent_id="outer")
    assert record_of(story.entries) == replace(
        BLANK, agent_id="bob", parent_id="outer", length=1
    )


@pytest.mark.parametrize("again", ["resumed", "rewound", "forked"])
def test_the_record_of_a_run_that_goes_on_says_that_it_runs(
    story: Story, again: str
) -> None:
    story.add(RunEnded, status="failed")
    assert record_of(story.entries).status == "failed"
    fields: dict[str, dict[str, Any]] = {
        "resumed": {"owner": "me"},
        "rewound": {"to_seq": 1},
        "forked": {"run_id": "branch", "agent_id": "", "parent_run_id": "run"},
    }
    story.add(entry_types()[again], **fields[again])
    assert record_of(story.entries).status == "running"
    assert record_of(story.entries).agent_id == "alice"


def test_the_record_of_a_fork_names_no_run_that_started_it() -> None:
    story = Story()
    story.start(parent_id="outer")
    story.add(Forked, run_id="branch", agent_id="bob", parent_run_id="run")
    assert record_of(story.entries) == replace(
        BLANK, agent_id="bob", parent_id="", length=2
    )


@pytest.mark.parametrize("kind", ["run_started", "forked", "run_ended", "x", "", "noted"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b"{",
        b"\xff",
        b'{"agent_id":7,"parent_id":[],"status":{}}',
        b'{"agent_id":null,"parent_id":null,"status":null}',
        b'{"agent_id":"\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_an_entry_that_cannot_be_read_changes_the_length_alone(
    kind: str, body: bytes
) -> None:
    before = replace(BLANK, agent_id="alice", status="running", length=4)
    entry = StoredEntry(seq=4, type=kind, version=1, body=body)
    assert described(before, entry) == replace(before, length=5)


def test_a_note_does_not_say_how_a_run_ended(story: Story) -> None:
    story.add(Noted, source="s", kind="k", data={"status": "failed"})
    entry = encode(story.entries[-1])
    body = json.dumps({"status": "failed", "agent_id": "mallory"}).encode()
    kept = described(record_of(story.entries), replace(entry, seq=2, body=body))
    assert (kept.status, kept.agent_id, kept.length) == ("running", "alice", 3)


# Types and migrations.


def test_the_names_of_entries_never_change() -> None:
    assert set(entry_types()) == {
        "answered",
        "asked",
        "child_ended",
        "child_started",
        "continued",
        "cycle_failed",
        "cycle_gave",
        "forked",
        "interrupted",
        "marked",
        "message_added",
        "model_charged",
        "model_replied",
        "model_requested",
        "model_switched",
        "noted",
        "outcome_decided",
        "paused",
        "reserved",
        "resumed",
        "rewound",
        "run_ended",
        "run_started",
        "settled",
        "steered",
        "tool_finished",
        "tool_intended",
    }


def test_every_public_entry_has_its_type() -> None:
    public = [getattr(runlog, name) for name in runlog.__all__]
    classes = {each for each in public if isinstance(each, type)}
    entries = {each for each in classes if issubclass(each, Entry)} - {Entry}
    assert set(entry_types().values()) == entries
    assert all(kind.type == name for name, kind in entry_types().items())


def test_nobody_can_add_a_type_of_entry() -> None:
    types: Any = entry_types()
    with pytest.raises(TypeError):
        types["mine"] = Noted


def test_every_older_version_of_every_entry_can_be_brought_up() -> None:
    for kind in entry_types().values():
        assert set(kind.migrations) == set(range(1, kind.version))


def _name_in_two(values: dict[str, Any]) -> dict[str, Any]:
    first, last = values.pop("name").split(" ")
    return {**values, "first": first, "last": last}


def _amount_known(values: dict[str, Any]) -> dict[str, Any]:
    return {"amount": 1.5, **values}


@record
class Paid(Entry):
    """An entry that had one name in version 1, and no amount before version 3."""

    type: ClassVar[str] = "paid"
    version: ClassVar[int] = 3
    migrations: ClassVar[Mapping[int, runlog.Migration]] = MappingProxyType(
        {1: _name_in_two, 2: _amount_known}
    )

    first: str
    last: str
    amount: float


@pytest.fixture
def paid(monkeypatch: pytest.MonkeyPatch) -> type[Paid]:
    monkeypatch.setitem(runlog._TYPES, "paid", Paid)
    return Paid


def stored(version: int, **values: Any) -> StoredEntry:
    body = json.dumps({"seq": 0, "at": 0.0, **values}).encode()
    return StoredEntry(seq=0, type="paid", version=version, body=body)


def migrating(
    monkeypatch: pytest.MonkeyPatch, migrations: dict[int, runlog.Migration]
) -> None:
    monkeypatch.setattr(Paid, "migrations", migrations)


@pytest.mark.usefixtures("paid")
@pytest.mark.parametrize(
    ("version", "values"),
    [
        (1, {"name": "Ada Byron"}),
        (2, {"first": "Ada", "last": "Byron"}),
        (3, {"first": "Ada", "last": "Byron", "amount": 1.5}),
    ],
)
def test_an_older_entry_is_read_as_it_would_be_written_today(
    version: int, values: dict[str, Any]
) -> None:
    entry = decode(stored(version, **values))
    assert entry == Paid(seq=0, at=0.0, first="Ada", last="Byron", amount=1.5)
    assert encode(entry).version == 3


@pytest.mark.usefixtures("paid")
def test_only_the_steps_that_an_entry_needs_are_taken() -> None:
    values = {"first": "Ada", "last": "Byron", "amount": 7.0}
    for version in (2, 3):
        entry = decode(stored(version, **values))
        assert isinstance(entry, Paid)
        assert entry.amount == 7.0


@pytest.mark.usefixtures("paid")
@pytest.mark.parametrize("missing", [1, 2])
def test_a_step_that_is_missing_is_reported_and_not_skipped(
    monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    steps = {key: each for key, each in Paid.migrations.items() if key != missing}
    migrating(monkeypatch, steps)
    with pytest.raises(
        CheckpointLoadError, match=f"brought from version {missing} to {missing + 1}"
    ):
        decode(stored(1, name="Ada Byron"))


@pytest.mark.usefixtures("paid")
@pytest.mark.parametrize("version", [0, -1, -(10**30)])
def test_a_version_before_the_first_is_refused(version: int) -> None:
    with pytest.raises(CheckpointLoadError, match="cannot be brought from version"):
        decode(stored(version, name="Ada Byron"))


@pytest.mark.usefixtures("paid")
@pytest.mark.parametrize("version", [4, 5, 10**30])
def test_a_newer_version_is_refused_whatever_it_holds(version: int) -> None:
    with pytest.raises(CheckpointLoadError, match=r"newer than version 3\. Update Kaizen"):
        decode(stored(version, first="Ada", last="Byron", amount=1.5))


@pytest.mark.usefixtures("paid")
@pytest.mark.parametrize(
    "values",
    [{}, {"name": 7}, {"name": None}, {"name": "Ada"}, {"name": "A d a"}, {"name": ["x"]}],
)
def test_an_old_body_that_a_migration_cannot_read_is_refused(
    values: dict[str, Any],
) -> None:
    with pytest.raises(CheckpointLoadError, match="does not fit version 1"):
        decode(stored(1, **values))


@pytest.mark.usefixtures("paid")
@pytest.mark.parametrize(
    "error",
    [KeyError, IndexError, TypeError, ValueError, AttributeError, InvalidOperation],
)
def test_a_migration_that_fails_refuses_the_entry(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(values: dict[str, Any]) -> dict[str, Any]:
        raise error("hunter2")

    migrating(monkeypatch, {1: fail, 2: _amount_known})
    with pytest.raises(CheckpointLoadError, match="does not fit version 1") as caught:
        decode(stored(1, name="Ada Byron"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.usefixtures("paid")
@pytest.mark.parametrize("made", [None, [], "x", {"first": object()}, {"seq": 0}])
def test_what_a_migration_makes_is_checked(
    monkeypatch: pytest.MonkeyPatch, made: Any
) -> None:
    migrating(monkeypatch, {1: _name_in_two, 2: lambda values: made})
    with pytest.raises(CheckpointLoadError):
        decode(stored(2, first="Ada", last="Byron"))


@pytest.mark.usefixtures("paid")
@pytest.mark.parametrize("amount", [math.inf, -math.inf, math.nan, 1e308, 5e-324, -0.0])
def test_a_number_survives_a_migration(amount: float) -> None:
    entry = decode(stored(2, first="Ada", last="Byron", amount=amount))
    assert isinstance(entry, Paid)
    assert repr(entry.amount) == repr(amount)


@pytest.mark.usefixtures("paid")
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"[]", b"7", b'"x"', b"\xff", b"[" * 100_000, b'{"a":' * 100_000],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_damaged_body_is_refused_in_every_version(version: int, body: bytes) -> None:
    with pytest.raises(CheckpointLoadError):
        decode(replace(stored(version), body=body))


# Logs that mean harm.


def samples() -> list[StoredEntry]:
    """An entry of every type."""
    found: dict[str, Entry] = {}
    for chance in random_logs(30):
        for entry in chance.story.entries:
            found.setdefault(entry.type, entry)
    assert set(found) == set(entry_types())
    return [encode(replace(entry, seq=0)) for entry in found.values()]


GADGETS: list[Any] = [
    {"py/object": "os.system", "args": ["touch HACKED"]},
    {"py/reduce": [{"py/function": "os.system"}, ["touch HACKED"]]},
    {"__class__": "subprocess.Popen", "__init__": ["touch", "HACKED"]},
    {"__reduce__": ["os.system", ["touch HACKED"]]},
    {"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {"command": "x"}},
    {"__type__": "kaizen.runlog.RunStarted", "__module__": "antigravity"},
    {"__import__": "antigravity", "eval": "__import__('antigravity')"},
    {"$type": "System.Diagnostics.Process", "!!python/object/apply:os.system": ["x"]},
    {"__proto__": {"polluted": True}, "constructor": {"prototype": {"a": 1}}},
    {"$ref": "file:///etc/passwd", "$schema": "http://169.254.169.254/"},
    {"__slots__": ["seq"], "__dict__": {"seq": 9}, "__setstate__": {"seq": 9}},
    {"kind": "image", "media_type": "image/png", "path": "/etc/passwd"},
    {"kind": "image", "media_type": "image/png", "data": "AAAA" * 100},
    {"kind": "image", "media_type": "image/png", "url": "http://169.254.169.254/"},
    "gASVIQAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAZ0b3VjaCBIlIWUUpQu",
    "{0.__class__.__init__.__globals__}",
    "../../../etc/passwd",
    "!!python/object/apply:os.system ['touch HACKED']",
    "cos\nsystem\n(S'touch HACKED'\ntR.",
    "${jndi:ldap://127.0.0.1/a} {{7*7}} %(x)s $(touch HACKED)",
    10**300,
    -1,
    1e400,
    math.nan,
    None,
    True,
    [],
    {},
    [[[[[]]]]],
    "",
    "\0",
]
RAW = [
    b'"\\ud800"',
    b'"\\udfff\\ud800"',
    b'"\xed\xa0\x80"',
    b'"\xff"',
    b"9" * 5_000,
    b"-" + b"9" * 5_000,
    b"1e999999999",
    b"NaN",
    b"-Infinity",
    b"undefined",
    b"0x10",
    b"01",
    b"'x'",
    b"[" * 300 + b"]" * 300,
    b'{"a":' * 300 + b"1" + b"}" * 300,
    b"/* */1",
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*path, key))
    elif isinstance(value, list):
        for key, each in enumerate(value):
            yield from places(each, (*path, key))


def put(value: Any, path: tuple[Any, ...], gadget: Any) -> Any:
    if not path:
        return gadget
    changed: Any = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = put(value[path[0]], path[1:], gadget)
    return changed


def payloads() -> Iterator[StoredEntry]:
    """Entries of every type with something hostile at every place of their bodies."""
    for sample in samples():
        body = json.loads(sample.body)
        for path in places(body):
            for gadget in GADGETS:
                changed = json.dumps(put(body, path, gadget))
                yield replace(sample, body=changed.encode())
            text = json.dumps(put(body, path, "HERE")).encode()
            for raw in RAW:
                yield replace(sample, body=text.replace(b'"HERE"', raw))
        for gadget in GADGETS:
            if isinstance(gadget, dict):
                yield replace(sample, body=json.dumps({**body, **gadget}).encode())
        for key in body:  # twice, with another value
            twice = sample.body[:-1] + f",{json.dumps(key)}:[7]}}".encode()
            yield replace(sample, body=twice)


def large_payloads() -> Iterator[StoredEntry]:
    deep = 100_000
    large = 10 * 1024 * 1024
    for sample in samples():
        text = json.dumps({**json.loads(sample.body), "at": "HERE"}).encode()
        for raw in (
            b"[" * deep,
            b"[" * deep + b"]" * deep,
            b'{"a":' * deep + b"1" + b"}" * deep,
            b'"' + b"x" * 100_000 + b'"',
        ):
            yield replace(sample, body=raw)
            yield replace(sample, body=text.replace(b'"HERE"', raw))
        yield replace(sample, body=sample.body[:-1] + b',"' + b"k" * deep + b'":1}')
    for raw in (
        b'"' + b"x" * large + b'"',
        b'"' + b"\\u0000" * (large // 6) + b'"',
        b" " * large,
        b"1" * large,
        b"[" + b"1," * (large // 2) + b"1]",
        b"\0" * large,
    ):
        yield replace(sample, body=raw)
        yield replace(sample, body=text.replace(b'"HERE"', raw))


def refused(entry: StoredEntry) -> bool:
    """Whether an entry is refused, in a few plain words; anything else is an error."""
    try:
        decode(entry)
    except CheckpointLoadError as error:
        words = str(error)
        words.encode()
        assert len(words) < 1_000
        return True
    return False


def test_whatever_a_log_holds_it_is_read_or_refused() -> None:
    outcomes = [refused(entry) for entry in payloads()]
    assert len(outcomes) > 10_000
    assert 0 < sum(outcomes) < len(outcomes)


def test_what_is_deep_or_large_is_refused() -> None:
    assert all(refused(entry) for entry in large_payloads())


def test_ten_megabytes_of_text_are_a_message_like_any_other() -> None:
    message = Message(role="user", content="x" * (10 * 1024 * 1024))
    entry = MessageAdded(seq=0, at=0.0, message=message)
    assert decode(encode(entry)) == entry


def test_a_key_that_comes_twice_never_hides_the_place_of_an_entry() -> None:
    entry = encode(Noted(seq=0, at=0.0, source="s", kind="k"))
    for last in (b"1", b"-1", b"null", b'"0"'):
        body = entry.body[:-1] + b',"seq":' + last + b"}"
        assert refused(replace(entry, body=body))


@pytest.mark.parametrize("kind", ["\ud800", "x" * 10_000_000, "\0", "\x1b[2J", "noted\n"])
def test_a_hostile_type_is_refused_in_words_that_can_be_shown(kind: str) -> None:
    entry = replace(encode(Noted(seq=0, at=0.0, source="s", kind="k")), type=kind)
    assert refused(entry)


WATCHED = r"""
import base64, json, sys
from kaizen.errors import CheckpointLoadError
from kaizen.ports import StoredEntry
from kaizen.runlog import decode, encode

def read(kind, body):
    try:
        decode(StoredEntry(seq=0, type=kind, version=1, body=body))
    except CheckpointLoadError:
        return 0
    return 1

lines = [line.split() for line in sys.stdin]
entries = [(kind, base64.b64decode(body)) for kind, body in lines]
for kind in {kind for kind, _ in entries}:  # what the first entry needs is imported before
    for body in [b"{}", *[body for known, body in entries if known == kind][:3]]:
        read(kind, body)
seen, watching = [], True

def watch(event, args):
    # Our records get their class as their last step.
    if event == "object.__setattr__" and args[2].__module__.startswith("kaizen."):
        return
    if watching:
        seen.append((event, args))

sys.addaudithook(watch)
found = sum(read(kind, body) for kind, body in entries)
watching = False
print(json.dumps({"read": found, "events": [repr(each)[:200] for each in seen[:20]]}))
"""


def test_reading_a_hostile_log_imports_opens_and_runs_nothing(tmp_path: Path) -> None:
    entries = list(payloads())
    lines = [f"{each.type} {base64.b64encode(each.body).decode()}\n" for each in entries]
    said = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input="".join(lines),
        capture_output=True,
        encoding="utf-8",
        check=True,
        cwd=tmp_path,
    ).stdout

    found = json.loads(said)
    assert found["events"] == []
    assert len(entries) > 10_000
    assert 0 < found["read"] < len(entries)
    assert list(tmp_path.iterdir()) == []
