"""`kaizen runs fork`, `rewind` and `prune` change what is kept, and say so first."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

import anyio
import pytest
from kaizen import StoredEntry
from kaizen.runlog import RunEnded, encode

if TYPE_CHECKING:
    from tests.plugins.cli.conftest import Kept

DAY_S = 86_400.0


def mails() -> list[str]:
    return Path("sent.txt").read_text(encoding="utf-8").splitlines()


def test_a_fork_shares_the_past_and_goes_on_alone(runs: Kept) -> None:
    run_id = runs.mailed()

    forked = runs("runs", "fork", f"{run_id[:8]}:4")
    new_run_id = forked.out.strip()
    (listed, _) = runs.listed()
    ready = runs.listed("--status", "ready")
    resumed = runs.typed(forked.err.strip().removeprefix("Go on with: "))

    assert forked.code == 0
    assert listed["run_id"] == new_run_id
    assert listed["status"] == "ready"
    assert listed["forked_from"] == {"run_id": run_id, "length": 5}
    assert ready == [listed]
    assert resumed.code == 1  # the mail was under way at the checkpoint
    assert "--decision call_1=WORD" in resumed.err
    assert runs("runs", "resume", new_run_id, "mailer.py", "-d", "done").code == 0
    assert mails() == ["ann"]
    shown = {each["run_id"]: each["status"] for each in runs.listed()}
    assert shown == {run_id: "completed", new_run_id: "completed"}
    assert f"fork of {run_id[:8]}" in runs("runs", "list").out


def test_a_fork_as_json(runs: Kept) -> None:
    run_id = runs.mailed()

    forked = runs("runs", "fork", run_id, "--json").json

    assert forked["forked_from"] == run_id
    assert {each["run_id"] for each in runs.listed()} == {run_id, forked["run_id"]}


def test_a_run_goes_back_to_a_checkpoint(runs: Kept) -> None:
    run_id = runs.mailed()

    done = runs("runs", "rewind", f"{run_id}:4", "--yes")
    (listed,) = runs.listed()
    log = runs("runs", "show", run_id, "--log").out

    assert done.code == 0
    assert "4 entries will not count any more." in done.err
    assert "These tools were called since: send_mail." in done.err
    assert f"Go on with: kaizen runs resume {run_id} mailer.py" in done.err
    assert (listed["status"], listed["waits_for"]) == ("ready", "decision")
    assert log.count("(undone)") == 4


def test_going_back_is_asked_for_and_nobody_there_is_no_yes(runs: Kept) -> None:
    run_id = runs.mailed()

    refused = runs("runs", "rewind", f"{run_id}:4")
    done = runs("runs", "rewind", f"{run_id}:4", "--yes", "--json")

    assert refused.code == 2
    assert "Say --yes to go on." in refused.err
    assert done.json == {"run_id": run_id, "checkpoint": f"{run_id}:4"}


class Somebody(io.StringIO):
    """Answers at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "stays"), [("n\n", True), ("y\n", False)])
def test_the_answer_to_a_question_counts(
    runs: Kept, monkeypatch: pytest.MonkeyPatch, answer: str, stays: bool
) -> None:
    run_id = runs.mailed()
    monkeypatch.setattr(sys, "stdin", Somebody(answer * 2))

    rewound = runs("runs", "rewind", f"{run_id}:4")
    status = runs.listed()[0]["status"]
    pruned = runs("runs", "prune", "--keep", "0", "--unfinished")

    assert status == ("completed" if stays else "ready")
    assert runs.listed() == [] or stays
    assert (rewound.code, pruned.code) == ((1, 1) if stays else (0, 0))
    assert ("Nothing was changed." in pruned.err) is stays


def test_a_damaged_run_does_not_go_back(runs: Kept) -> None:
    runs.write("damaged1", StoredEntry(seq=0, type="run_started", version=1, body=b"{"))

    refused = runs("runs", "rewind", "damaged1:0", "--yes")

    assert refused.code == 1
    assert "Run damaged1 is damaged: [CHECKPOINT_002]" in refused.err


@pytest.mark.parametrize("command", ["fork", "rewind"])
@pytest.mark.parametrize("place", [":3", ":99", ":x", ":"])
def test_a_place_that_is_no_checkpoint_is_refused(
    runs: Kept, command: str, place: str
) -> None:
    run_id = runs.mailed()
    yes = ["--yes"] if command == "rewind" else []

    refused = runs("runs", command, f"{run_id}{place}", *yes)

    assert refused.code == 1
    assert "[CHECKPOINT_002]" in refused.err
    assert "Traceback" not in refused.err
    assert len(runs.listed()) == 1


def test_a_run_that_is_carried_out_does_not_go_back(runs: Kept) -> None:
    run_id = runs.mailed()
    owner = runs.hold(run_id)

    refused = runs("runs", "rewind", f"{run_id}:4", "--yes")

    assert refused.code == 1
    assert f"is carried out by {owner}" in refused.err


@pytest.fixture
def aged(runs: Kept) -> dict[str, str]:
    """Runs of four states, one day old each, and one of today."""
    ids = {"completed": runs.mailed()}
    ids["crashed"] = runs.cut(ids["completed"], "model_replied", new_run_id="crashed")
    ids["running"] = runs.cut(ids["completed"], "model_replied", new_run_id="running")
    runs.hold(ids["running"])
    Path("stop").touch()
    runs("run", "mailer.py", "text=x")
    Path("stop").unlink()
    ids["interrupted"] = runs.listed()[0]["run_id"]
    for run_id in ids.values():
        record = runs.store._records[run_id]
        runs.store._records[run_id] = replace(record, updated_at=time() - DAY_S)
    ids["new"] = runs.mailed("Today")
    return ids


def left(runs: Kept) -> set[str]:
    return {each["run_id"] for each in runs.listed("--all")}


def test_prune_deletes_what_has_ended_and_is_old(runs: Kept, aged: dict[str, str]) -> None:
    done = runs("runs", "prune", "--older-than", "12h", "--yes")

    assert done.code == 0
    assert left(runs) == set(aged.values()) - {aged["completed"]}
    assert f"{aged['completed']}  mailer  completed" in done.out
    assert "1 run would be deleted. 2 that could go on stay" in done.out
    assert "1 under way stay." in done.out


def test_prune_deletes_unfinished_runs_when_told_but_none_that_is_carried_out(
    runs: Kept, aged: dict[str, str]
) -> None:
    done = runs("runs", "prune", "--keep", "0", "--unfinished", "--yes", "--json")

    assert left(runs) == {aged["running"]}
    assert set(done.json["deleted"]) == set(aged.values()) - {aged["running"]}
    assert done.json["under_way"] == 1
    assert done.json["failed"] == {}


@pytest.mark.parametrize(
    ("code", "stays"), [("TOOL_004", True), ("EXEC_001", False), ("", False)]
)
def test_prune_spares_what_failed_since_somebody_has_to_decide(
    runs: Kept, code: str, *, stays: bool
) -> None:
    run_id = runs.cut(runs.mailed(), "tool_intended", new_run_id="undecided")
    length = len(anyio.run(runs.store.read, run_id))
    end = RunEnded(seq=length, at=1.0, status="failed", error_code=code)
    runs.write(run_id, encode(end))

    done = runs("runs", "prune", "--keep", "0", "--yes", "--json")

    assert left(runs) == ({run_id} if stays else set())
    assert done.json["unfinished_kept"] == int(stays)
    assert runs("runs", "prune", "--keep", "0", "--unfinished", "--yes").code == 0
    assert left(runs) == set()


def test_prune_keeps_the_newest(runs: Kept) -> None:
    ids = [runs.mailed() for _ in range(4)]

    runs("runs", "prune", "--keep", "3", "--yes")

    assert left(runs) == set(ids[1:])


@pytest.mark.parametrize("extra", [["--dry-run"], []])
def test_prune_says_what_would_go_and_deletes_nothing_unasked(
    runs: Kept, extra: list[str]
) -> None:
    run_id = runs.mailed()

    shown = runs("runs", "prune", "--keep", "0", *extra)

    assert shown.code == (0 if extra else 2)
    assert run_id in shown.out
    assert left(runs) == {run_id}


def test_prune_takes_what_lies_inside_a_run_with_it_and_spares_both_if_one_is_busy(
    runs: Kept,
) -> None:
    first, second = runs.mailed(), runs.mailed()
    for outer, inner in ((first, "inner1"), (second, "inner2")):
        runs.cut(outer, "model_replied", new_run_id=inner)
        record = runs.store._records[inner]
        runs.store._records[inner] = replace(record, parent_id=outer)
    runs.hold("inner2")

    done = runs("runs", "prune", "--keep", "0", "--yes")

    assert "1 run with 1 inside them would be deleted." in done.out
    assert left(runs) == {second, "inner2"}


def test_a_run_that_cannot_be_deleted_is_named(
    runs: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = runs.mailed(), runs.mailed()
    real = runs.store.delete

    async def delete(run_id: str) -> None:
        if run_id == first:
            await runs.store.claim(run_id, owner="somebody:else", lease_s=60)
        await real(run_id)

    monkeypatch.setattr(runs.store, "delete", delete)

    done = runs("runs", "prune", "--keep", "0", "--yes")

    assert done.code == 1
    assert f"{first} stays: " in done.err
    assert left(runs) == {first}
    assert second not in left(runs)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "Say which: --older-than 30d, --keep 100, or both."),
        (["--older-than", "soon"], "'soon' is no length of time."),
        (["--older-than", "-3d"], "'-3d' is no length of time."),
        (["--keep", "-1"], "-1 is not in the range"),
    ],
)
def test_a_prune_that_makes_no_sense_is_refused(
    runs: Kept, arguments: list[str], problem: str
) -> None:
    refused = runs("runs", "prune", *arguments)

    assert refused.code == 2
    assert problem in refused.err


def test_nothing_is_pruned_where_nothing_is(runs: Kept) -> None:
    done = runs("runs", "prune", "--keep", "1")

    assert done.code == 0
    assert done.out == "0 runs to delete.\n"
    assert anyio.run(runs.store.runs) == []
