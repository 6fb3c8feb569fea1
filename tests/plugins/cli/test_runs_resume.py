"""`kaizen runs resume` lets a run go on, and does nothing twice."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kaizen.claims import new_owner
from kaizen.ports import StoredEntry
from kaizen.runlog import Noted, encode

if TYPE_CHECKING:
    from tests.plugins.cli.conftest import Kept, Terminal

QUESTION = "When does the harbour open?"


def mails() -> list[str]:
    path = Path("sent.txt")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_an_interrupted_run_says_how_it_goes_on_and_does_so(runs: Kept) -> None:
    Path("stop").touch()
    stopped = runs("run", "mailer.py", "text=Hello")
    Path("stop").unlink()

    said = stopped.err.splitlines()[-1]
    resumed = runs.typed(said.removeprefix("Interrupted. Go on with: "))

    assert stopped.code == 130
    assert stopped.out == ""
    assert said.startswith("Interrupted. Go on with: kaizen runs resume ")
    assert resumed.code == 0
    assert resumed.out == "You said: sent\n"
    assert "2 turns · 1 tool call" in resumed.err
    assert mails() == ["ann"]


def test_a_crashed_run_goes_on_and_prints_json(runs: Kept) -> None:
    crashed = runs.cut(runs.mailed(), "tool_finished")

    resumed = runs("runs", "resume", crashed[:5], "mailer.py", "--json")

    assert resumed.json["outputs"] == {"answer": "You said: sent"}
    assert resumed.json["run_id"] == crashed
    assert mails() == ["ann"]
    assert runs.listed()[0]["status"] == "completed"


def test_a_completed_run_gives_its_outputs_again(runs: Kept) -> None:
    run_id = runs.mailed()

    assert runs("runs", "resume", run_id, "mailer.py").out == "You said: sent\n"
    assert mails() == ["ann"]


def test_only_new_steps_are_shown(runs: Kept) -> None:
    crashed = runs.cut(runs.mailed(), "tool_finished")

    resumed = runs("runs", "resume", crashed, "mailer.py", "--verbose")

    steps = [line.split("s  ", 1)[1] for line in resumed.err.splitlines() if "s  " in line]
    assert steps == ["turn 2: asking sample"]


@pytest.mark.parametrize(
    ("word", "sent"),
    [("repeat", ["ann", "ann"]), ("done", ["ann"]), ("skip", ["ann"])],
)
@pytest.mark.parametrize("call", ["", "call_1="])
def test_a_call_that_was_cut_off_is_repeated_or_not_as_was_decided(
    runs: Kept, word: str, sent: list[str], call: str
) -> None:
    crashed = runs.cut(runs.mailed(), "tool_intended")

    resumed = runs("runs", "resume", crashed, "mailer.py", "--decision", f"{call}{word}")

    assert resumed.code == 0, resumed.err
    assert mails() == sent


def test_a_call_that_was_cut_off_stops_the_resume_until_somebody_decides(
    runs: Kept,
) -> None:
    crashed = runs.cut(runs.mailed(), "tool_intended")

    refused = runs("runs", "resume", crashed, "mailer.py")
    command = refused.err[refused.err.index("kaizen runs resume") :].strip()

    assert refused.code == 1
    assert len(refused.err.splitlines()) == 1
    assert "was cut off while it called send_mail" in refused.err
    assert command.endswith("--decision call_1=WORD")
    assert mails() == ["ann"]
    assert runs.typed(command).code == 2  # nobody has decided yet
    assert runs.typed(command.replace("=WORD", "=done")).code == 0
    assert mails() == ["ann"]


@pytest.mark.parametrize("call", ["", "call_1=", "cafe0001:call_1="])
def test_a_call_whose_tool_no_longer_says_that_a_repeat_is_harmless_is_decided_about(
    runs: Kept, call: str
) -> None:
    mailer = Path("mailer.py")
    now = mailer.read_text(encoding="utf-8")
    then = now.replace('danger="medium"', 'danger="medium", idempotent=True')
    mailer.write_text(then, encoding="utf-8")
    crashed = runs.cut(runs.mailed(), "tool_intended")
    mailer.write_text(now, encoding="utf-8")

    refused = runs("runs", "resume", crashed, "mailer.py")
    resumed = runs("runs", "resume", crashed, "mailer.py", "-d", f"{call}done")

    assert "call 'call_1' of 'send_mail' (which has changed since)" in refused.err
    assert resumed.code == 0, resumed.err
    assert mails() == ["ann"]


def test_a_call_that_may_be_repeated_is_asked_about_by_nobody(runs: Kept) -> None:
    mailer = Path("mailer.py")
    declared = mailer.read_text(encoding="utf-8").replace(
        'danger="medium"', 'danger="medium", idempotent=True'
    )
    mailer.write_text(declared, encoding="utf-8")
    crashed = runs.cut(runs.mailed(), "tool_intended")

    shown = runs("runs", "show", crashed, "--json").json
    resumed = runs("runs", "resume", crashed, "mailer.py")

    assert shown["undecided"] == []
    assert resumed.code == 0, resumed.err
    assert mails() == ["ann", "ann"]


OUTER = """
from kaizen import current_run, tool
import mailer


@tool(danger="safe", name="send_mail")
async def delegate(to: str) -> str:
    "Let somebody else do it."
    here = mailer.agent.bind(kernel=current_run().kernel)
    return (await here.run(text=to)).answer


agent = mailer.BaseAgent(
    {"llm_provider": "sample"}, "text -> answer", tools=[delegate], name="outer"
)
"""


def test_a_call_of_a_run_inside_is_decided_about_with_the_run_outside(runs: Kept) -> None:
    Path("outer.py").write_text(OUTER, encoding="utf-8")
    done = runs("run", "outer.py", "text=x", "--json")
    outer = done.json["run_id"]
    (inner,) = {each["run_id"] for each in runs.listed("--all")} - {outer}
    for run_id in (outer, inner):
        runs.cut_short(run_id, "tool_finished")

    shown = runs("runs", "show", outer).out
    refused = runs("runs", "resume", outer, "outer.py")
    resumed = runs("runs", "resume", outer, "outer.py", "-d", f"{inner}:call_1=done")

    assert mails() == ["ann"]
    assert f"{inner}:call_1 send_mail {{'to': 'ann'}}" in shown
    assert refused.code == 1
    assert f"--decision {inner}:call_1=WORD" in refused.err
    assert resumed.code == 0, resumed.err
    assert resumed.out == "You said: You said: Done.\n"


@pytest.mark.parametrize(
    ("decision", "problem"),
    [
        ("maybe", "'maybe' is no decision"),
        ("call_1=maybe", "'call_1=maybe' is no decision"),
        ("=done", "'=done' is no decision"),
        ("call_9=done", "has no call 'call_9' to decide about. There are call_1."),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused(
    runs: Kept, decision: str, problem: str
) -> None:
    crashed = runs.cut(runs.mailed(), "tool_intended")

    refused = runs("runs", "resume", crashed, "mailer.py", "-d", decision)

    assert refused.code == 2
    assert problem in refused.err
    assert len(refused.err.splitlines()) == 1
    assert runs.listed()[0]["status"] == "crashed"


def test_nothing_is_imported_because_a_record_says_so(runs: Kept) -> None:
    crashed = runs.cut(runs.mailed(), "model_replied")
    Path("mailer.py").write_text("raise SystemExit('imported')", encoding="utf-8")

    refused = runs("runs", "resume", crashed)

    assert refused.code == 2
    assert "belongs to agent 'mailer'; name where that is." in refused.err
    assert f"Type: `kaizen runs resume {crashed} mailer.py" in refused.err
    assert "imported" not in refused.err


def test_a_target_with_another_agent_and_one_too_many_are_refused(runs: Kept) -> None:
    crashed = runs.cut(runs.mailed(), "model_replied")
    Path("other.toml").write_text(
        'signature = "text -> answer"\nprovider = "sample"', encoding="utf-8"
    )

    other = runs("runs", "resume", crashed, "other.toml")
    several = runs("runs", "resume", crashed, "mailer.py", "other.toml")
    nowhere = runs("runs", "resume", crashed, "nowhere.py")

    assert (other.code, several.code, nowhere.code) == (1, 2, 2)
    assert "belongs to agent 'mailer'" in other.err
    assert "One TARGET is enough; there is also 'other.toml'." in several.err
    assert "There is no file 'nowhere.py'." in nowhere.err


def test_a_run_that_another_process_carries_out_is_refused(runs: Kept) -> None:
    running = runs.cut(runs.mailed(), "model_replied")
    owner = runs.hold(running)

    refused = runs("runs", "resume", running, "mailer.py")

    assert refused.code == 1
    assert f"[CHECKPOINT_001] run '{running}' is carried out by {owner}" in refused.err
    assert len(refused.err.splitlines()) == 1


@pytest.mark.parametrize("already", [True, False], ids=["before", "meanwhile"])
def test_who_comes_too_late_to_decide_is_told_that_another_process_does(
    runs: Kept, monkeypatch: pytest.MonkeyPatch, already: bool
) -> None:
    crashed = runs.cut(runs.mailed(), "tool_intended")
    read, owner = runs.store.read, runs.hold(crashed)
    if not already:
        runs.let_go(crashed)

    async def overtaken(run_id: str, **part: int | None) -> Sequence[StoredEntry]:
        entries = await read(run_id, **part)  # type: ignore[arg-type]
        await runs.store.claim(run_id, owner=new_owner(), lease_s=60.0)
        return entries

    monkeypatch.setattr(runs.store, "read", read if already else overtaken)

    refused = runs("runs", "resume", crashed, "mailer.py", "-d", "call_9=done")

    assert refused.code == 1
    assert f"[CHECKPOINT_001] run '{crashed}' is carried out by {owner}" in refused.err
    assert "call_9" not in refused.err


def test_who_comes_when_another_process_is_done_is_told_so(
    runs: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed = runs.cut(runs.mailed(), "tool_intended")
    read = runs.store.read

    async def overtaken(run_id: str, **part: int | None) -> Sequence[StoredEntry]:
        entries = await read(run_id, **part)  # type: ignore[arg-type]
        more = Noted(seq=len(entries), at=0.0, source="x", kind="y")
        await runs.store.append(run_id, [encode(more)])
        return [*entries, encode(more)]

    monkeypatch.setattr(runs.store, "read", overtaken)

    refused = runs("runs", "resume", crashed, "mailer.py", "-d", "call_9=done")

    assert refused.code == 1
    assert f"Another process has just gone on with run {crashed}" in refused.err
    assert f"`kaizen runs show {crashed}`" in refused.err
    assert len(refused.err.splitlines()) == 1


def test_a_damaged_run_is_refused(runs: Kept) -> None:
    crashed = runs.cut(runs.mailed(), "model_replied")
    log = runs.store._logs[crashed]
    runs.store._logs[crashed] = [log[0], replace(log[1], body=b"{}"), *log[2:]]

    refused = runs("runs", "resume", crashed, "mailer.py")

    assert refused.code == 1
    assert f"Run {crashed} is damaged: [CHECKPOINT_002] entry 1" in refused.err
    assert len(refused.err.splitlines()) == 1


def test_a_question_to_files_goes_on_with_the_paths_that_are_typed(
    runs: Kept, notes: Path
) -> None:
    done = runs("ask", "-p", "sample", QUESTION, notes, "--json")
    crashed = runs.cut(done.json["run_id"], "model_replied")

    without = runs("runs", "resume", crashed)
    missing = runs("runs", "resume", crashed, "nowhere")
    resumed = runs("runs", "resume", crashed, notes, "-p", "sample")

    assert without.code == missing.code == 2
    assert f"Run {crashed} read notes." in without.err
    assert f"Type: `kaizen runs resume {crashed} notes --provider sample" in without.err
    assert "Path 'nowhere' does not exist." in missing.err
    assert resumed.code == 0, resumed.err
    assert resumed.out.startswith("I read: The harbour opens at 6 in the morning.\n")


def test_a_question_without_paths_goes_on_without_any(runs: Kept, notes: Path) -> None:
    done = runs("ask", "-p", "sample", QUESTION, "--json")
    crashed = runs.cut(done.json["run_id"], "tool_finished")

    resumed = runs("runs", "resume", crashed, "-p", "sample", "--json")

    assert resumed.json["question"] == QUESTION
    assert resumed.json["answer"] == done.json["answer"]


def test_an_answer_of_a_conversation_goes_on(
    runs: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("Good morning\n"))
    runs("chat", "-p", "sample", "-m", "echo")
    crashed = runs.cut(runs.listed()[0]["run_id"], "model_requested")

    resumed = runs("runs", "resume", crashed, "-p", "sample", "-m", "echo")

    assert resumed.out == "echo: Good morning\n"


def test_what_a_run_began_with_and_goes_on_without_is_named(
    runs: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = runs("run", "mailer.py", "text=x", "-p", "sample", "-m", "one", "--json")
    crashed = runs.cut(done.json["run_id"], "model_replied")
    here, target = Path.cwd(), Path("mailer.py").absolute()

    same = runs("runs", "resume", crashed, "mailer.py", "-p", "sample", "-m", "one")
    monkeypatch.chdir(tmp_path)
    other = runs("runs", "resume", crashed, target, "-p", "sample", "-m", "two")

    assert "The run began" not in same.err
    lines = other.err.splitlines()
    assert "The run began with --model one, which is not given now." in lines
    assert f"The run began in {here}." in "".join(lines)


def test_a_run_that_is_stopped_again_says_again_how_it_goes_on(runs: Kept) -> None:
    crashed = runs.cut(runs.mailed(), "model_replied")
    Path("stop").touch()

    stopped = runs("runs", "resume", crashed, "mailer.py")

    assert stopped.code == 130
    assert f"Interrupted. Go on with: kaizen runs resume {crashed} mailer.py" in stopped.err


def test_ctrl_c_stops_a_kept_run_after_the_turn_and_says_how_it_goes_on(
    on_terminal: Callable[..., Terminal], sample: tuple[str, ...], notes: Path
) -> None:
    terminal = on_terminal(
        *("ask", *sample, "--plugin", "sample_stores:Store", "-p", "sample"),
        *("-m", "patient", QUESTION, "notes"),
    )
    terminal.wait_for("turn 1")

    terminal.type("\x03")

    assert terminal.finish() == 130
    last = terminal.seen.splitlines()[-1]
    assert "Interrupted. Go on with: kaizen runs resume " in last
    assert last.endswith("--plugin sample_stores:Store")  # in one line, to be copied
    assert "Traceback" not in terminal.seen
