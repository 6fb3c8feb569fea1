"""`kaizen runs pause`, `continue`, `steer` and `stop` reach a run in another process."""

from __future__ import annotations

import getpass
import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from kaizen.runlog import RunEnded, encode

if TYPE_CHECKING:
    from tests.plugins.cli.conftest import Kept


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (["pause", "cafe"], {"command": "pause"}),
        (["continue", "cafe"], {"command": "resume"}),
        (["steer", "cafe", "Hurry"], {"command": "steer", "text": "Hurry"}),
        (
            ["stop", "cafe"],
            {"command": "interrupt", "mode": "graceful"},
        ),
        (
            ["stop", "cafe", "--now", "--message", "too dear"],
            {"command": "interrupt", "mode": "immediate", "message": "too dear"},
        ),
        (["stop", "cafe", "--cancel"], {"command": "cancel"}),
        (
            ["stop", "cafe", "--cancel", "--message", "too dear"],
            {"command": "cancel", "message": "too dear"},
        ),
        (["steer", "cafe", "no \udcff text"], {"command": "steer", "text": "no ? text"}),
    ],
)
def test_a_command_is_left_for_whoever_carries_out_the_run(
    runs: Kept, arguments: list[str], sent: dict[str, Any]
) -> None:
    run_id = runs.cut(runs.mailed(), "model_replied")
    owner = runs.hold(run_id)

    told = runs("runs", *arguments)
    ((receiver, message),) = anyio.run(runs.store.receive, [run_id])
    as_json = runs("runs", *arguments, "--json").json

    expected = {**sent, "by": getpass.getuser()}
    assert told.code == 0
    assert told.err == f"Sent to {owner}, which carries out {run_id}.\n"
    assert receiver == run_id
    assert json.loads(message) == expected
    assert as_json == {"run_id": run_id, "carried_out_by": owner, "sent": expected}


@pytest.mark.parametrize("command", [["pause"], ["continue"], ["steer"], ["stop"]])
def test_a_run_that_nobody_carries_out_hears_nothing(
    runs: Kept, command: list[str]
) -> None:
    run_id = runs.mailed()
    text = ["Hurry"] if command == ["steer"] else []

    refused = runs("runs", *command, run_id, *text)

    assert refused.code == 1
    assert "is carried out by nobody" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert anyio.run(runs.store.receive, [run_id]) == []


def test_a_message_for_the_model_may_come_before_the_run_goes_on(runs: Kept) -> None:
    crashed = runs.cut(runs.mailed(), "model_replied")

    told = runs("runs", "steer", crashed, "Hurry")

    assert told.err == f"Left for {crashed}, which reads it once it goes on.\n"
    ((_, message),) = anyio.run(runs.store.receive, [crashed])
    assert json.loads(message)["text"] == "Hurry"


def test_a_run_that_never_goes_on_takes_no_message_for_its_model(runs: Kept) -> None:
    cancelled = runs.cut(runs.mailed(), "model_replied")
    ended = RunEnded(seq=3, at=1.0, status="cancelled")
    runs.write(cancelled, encode(ended))

    refused = runs("runs", "steer", cancelled, "Hurry")

    assert refused.code == 1
    assert "is carried out by nobody" in refused.err
    assert anyio.run(runs.store.receive, [cancelled]) == []


def test_a_reason_without_end_is_refused(runs: Kept) -> None:
    refused = runs("runs", "stop", "cafe", "--message", "x" * 1_001)

    assert refused.code == 2
    assert "TEXT must have at most 1,000 characters." in refused.err


@pytest.mark.parametrize("text", ["", "   ", "x" * 100_001])
def test_a_text_without_words_or_without_end_is_refused(runs: Kept, text: str) -> None:
    refused = runs("runs", "steer", "cafe", text)

    assert refused.code == 2
    assert "TEXT must have 1 to 100,000 characters." in refused.err
