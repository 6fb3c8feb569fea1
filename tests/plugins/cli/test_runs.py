"""`kaizen runs list`, `show` and `export` say what was kept."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from kaizen import StoredEntry
from kaizen.errors import CheckpointLoadError
from kaizen.runlog import Asked, decode, encode, fold
from kaizen_cli._overview import moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.plugins.cli.conftest import Cli, Kept

HOSTILE = "\x1b[31mred\x1b]0;title\x07 \u202egnp.exe\u202c"
NOBODY = StoredEntry(seq=0, type="run_started", version=1, body=b"{")


def test_the_newest_run_comes_first_with_what_it_took(runs: Kept) -> None:
    first = runs.mailed("Hello")
    second = runs.mailed("Goodbye")

    shown = runs("runs", "list")

    head, newest, oldest = shown.out.splitlines()
    assert head.split() == ["Run", "Agent", "Status", "Turns", "Cost", "When", "About"]
    assert newest.startswith(second[:8])
    assert oldest.startswith(first[:8])
    assert newest.split()[1:5] == ["mailer", "completed", "2", "$0.0012"]
    assert newest.rstrip().endswith("Goodbye")
    assert shown.code == 0


def test_turns_are_counted_once_however_often_a_model_was_asked(runs: Kept) -> None:
    twice = ("--plugin", "sample_plugins:Twice")

    done = runs("run", *twice, "mailer.py", "text=Hello")

    (run,) = runs.listed()
    assert "2 turns" in done.err
    assert run["turns"] == 2
    assert " 2 " in runs("runs", "list").out.splitlines()[1]
    assert "turns 2 " in runs("runs", "show", run["run_id"]).out


def test_on_a_terminal_each_run_has_one_line(
    runs: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.mailed("Where is " * 30)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")

    shown = re.sub(r"\x1b\[[0-9;]*m", "", runs("runs", "list").out)

    head, line = shown.splitlines()
    assert head.split()[:3] == ["Run", "Agent", "Status"]
    assert line.rstrip().endswith("…")
    assert len(line) <= 80


def test_on_a_narrow_terminal_only_agent_and_subject_are_cut_off(
    runs: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = runs.mailed("Where is the harbour of the island?")
    runs.cut(run_id, "tool_intended", new_run_id="undecided")
    owner = runs.hold(runs.cut(run_id, "model_replied", new_run_id="underway"))
    Path("long.py").write_text(
        Path("mailer.py").read_text(encoding="utf-8").replace('"mailer"', '"m" * 40'),
        encoding="utf-8",
    )
    runs("run", "long.py", "text=x")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")

    shown = re.sub(r"\x1b\[[0-9;]*m", "", runs("runs", "list").out)

    head, *lines = shown.splitlines()
    assert head.split() == ["Run", "Agent", "Status", "When", "About"]
    assert len(lines) == 4
    for line in lines:
        assert re.fullmatch(
            r"\w{8}  (mailer|m+…) +(completed|crashed|running) +"
            r"\d{4}-\d\d-\d\d \d\d:\d\d  \S.*",
            line.rstrip(),
        )
        assert len(line) <= 80
    assert "needs a decision" in shown
    assert owner[:12] in shown


def test_the_list_as_json(runs: Kept) -> None:
    run_id = runs.mailed("Hello")

    (run,) = runs.listed()

    assert run.pop("updated_at").endswith("+00:00")
    assert run == {
        "run_id": run_id,
        "agent_id": "mailer",
        "status": "completed",
        "waits_for": "",
        "carried_out_by": "",
        "turns": 2,
        "tool_calls": 1,
        "cost_usd": 0.0012,
        "about": "Hello",
        "command": "run",
        "forked_from": None,
        "parent_id": "",
    }


def test_a_store_without_runs_says_so(runs: Kept) -> None:
    assert runs("runs", "list").err == "No run has been kept yet.\n"
    assert runs("runs", "list", "--status", "failed").err == "There is no such run.\n"
    assert runs.listed() == []


def test_a_run_that_nobody_carries_out_has_crashed_and_one_that_somebody_does_runs(
    runs: Kept,
) -> None:
    run_id = runs.mailed()
    crashed = runs.cut(run_id, "model_replied", new_run_id="crashed")
    running = runs.cut(run_id, "model_replied", new_run_id="running")
    owner = runs.hold(running)

    by_id = {each["run_id"]: each for each in runs.listed()}

    assert by_id[crashed]["status"] == "crashed"
    assert by_id[running]["status"] == "running"
    assert by_id[running]["carried_out_by"] == owner
    (line,) = [each for each in runs("runs", "list").out.splitlines() if owner in each]
    assert line.split()[:3] == ["running", "mailer", "running"]


def test_a_run_may_be_paused_or_wait_for_a_decision_or_an_answer(runs: Kept) -> None:
    run_id = runs.mailed()
    undecided = runs.cut(run_id, "tool_intended", new_run_id="undecided")
    asking = runs.cut(run_id, "model_replied", new_run_id="asking")
    question = Asked(seq=3, at=1.0, request_id="1", kind="question", text="Which Ann?")
    runs.write(asking, encode(question))
    paused = runs.cut(run_id, "model_replied", new_run_id="paused")
    runs.write(
        paused,
        StoredEntry(seq=3, type="paused", version=1, body=b'{"seq":3,"at":1.0,"by":"ann"}'),
    )
    runs.hold(paused)

    by_id = {each["run_id"]: each for each in runs.listed()}
    table = runs("runs", "list").out

    assert by_id[undecided]["waits_for"] == "decision"
    assert by_id[asking]["waits_for"] == "answer"
    assert by_id[paused]["status"] == "paused"
    assert re.search(
        "^undecide  mailer  crashed .*  needs a decision · ", table, re.MULTILINE
    )
    assert re.search("^asking +mailer  crashed .*  needs an answer · ", table, re.MULTILINE)
    waiting = {each["run_id"] for each in runs.listed("--status", "waiting")}
    assert waiting == {undecided, asking}
    assert [each["run_id"] for each in runs.listed("--status", "paused")] == [paused]
    assert {each["run_id"] for each in runs.listed("--status", "crashed")} == waiting


def test_runs_are_narrowed_by_agent_status_and_number(runs: Kept, notes: Path) -> None:
    ids = [runs.mailed() for _ in range(3)]
    asked = runs("ask", "-p", "sample", "Why?", notes, "--json").json["run_id"]
    failed = runs("run", "mailer.py", "text=x", "-m", "broken")

    def found(*arguments: str) -> list[str]:
        return [each["run_id"] for each in runs.listed(*arguments)]

    assert failed.code == 1
    assert found("--agent", "ask") == [asked]
    assert found("--status", "completed") == [asked, *reversed(ids)]
    assert len(found("--status", "failed")) == 1
    assert found("--status", "completed", "--limit", "2") == [asked, ids[2]]


def test_runs_inside_others_are_shown_when_they_are_asked_for(runs: Kept) -> None:
    Path("outer.py").write_text(OUTER, encoding="utf-8")
    outer = runs("run", "outer.py", "text=x", "--json").json["run_id"]

    assert [each["run_id"] for each in runs.listed()] == [outer]
    everything = {each["run_id"]: each for each in runs.listed("--all")}
    assert len(everything) == 2
    (inner,) = set(everything) - {outer}
    assert everything[inner]["parent_id"] == outer
    assert f"started {inner} (inner) inside" in runs("runs", "show", outer).out
    assert f"started inside {outer}" in runs("runs", "show", inner).out


OUTER = """
from kaizen import BaseAgent, current_run, tool

inner = BaseAgent({"llm_provider": "sample"}, "question -> answer", name="inner")


@tool(danger="safe")
async def send_mail(to: str) -> str:
    "Ask somebody else."
    here = inner.bind(kernel=current_run().kernel)
    return (await here.run(question=to)).answer


agent = BaseAgent({"llm_provider": "sample"}, "text -> answer", tools=[send_mail])
"""


def test_only_the_logs_of_runs_that_are_shown_are_read(
    runs: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = runs.mailed()
    for number in range(300):
        runs.cut(run_id, "run_started", new_run_id=f"more{number:03}")
    read, real = [], runs.store.read

    async def counted(run_id: str, **where: int) -> object:
        read.append(run_id)
        return await real(run_id, **where)

    monkeypatch.setattr(runs.store, "read", counted)

    shown = runs.listed("--limit", "5")

    assert [each["run_id"] for each in shown] == [f"more{n}" for n in range(299, 294, -1)]
    assert read == [each["run_id"] for each in shown]
    assert len(runs.listed("--limit", "400")) == 301


def test_a_damaged_log_stands_in_the_list_and_cannot_be_shown(runs: Kept) -> None:
    runs.write("damaged1", NOBODY)

    (run,) = runs.listed()
    shown, exported = runs("runs", "show", "damaged1"), runs("runs", "export", "damaged1")

    assert run["status"] == "damaged"
    assert "is damaged at its start" in runs("runs", "list").out
    assert [each["run_id"] for each in runs.listed("--status", "damaged")] == ["damaged1"]
    assert (shown.code, exported.code) == (1, 1)
    assert "run 'damaged1' cannot be shown" in shown.err
    assert "is damaged: its body is not JSON" in exported.err
    assert len(shown.err.splitlines()) == len(exported.err.splitlines()) == 1


def test_a_time_that_a_store_cannot_tell_is_not_that_of_the_epoch() -> None:
    assert moment(0.0) is None
    assert moment(1e300) is None
    assert moment(86_400.0) == datetime(1970, 1, 2, tzinfo=UTC)


def test_a_run_is_shown_with_inputs_conversation_account_and_checkpoints(
    runs: Kept,
) -> None:
    run_id = runs.mailed()

    shown = runs("runs", "show", run_id[:10]).out

    assert shown.startswith(f"{run_id}  completed\n")
    assert "agent mailer · turns 2 · tool calls 1 · tokens 170 · cost $0.0012\n" in shown
    assert "began as: kaizen run mailer.py --plugin" in shown
    assert f"  in {Path.cwd()}\n" in shown
    assert "Inputs\n  text: Hello\n" in shown
    assert "assistant calls send_mail {'to': 'ann'}\n" in shown
    assert "tool send_mail: sent\n" in shown
    assert f"  {run_id}:4  " in shown
    assert "  mail is out\n" in shown
    assert "(the run ended as completed)" in shown
    assert "Go on with" not in shown


def test_a_run_is_shown_as_json_with_its_log(runs: Kept) -> None:
    run_id = runs.mailed()

    shown = runs("runs", "show", run_id, "--json", "--log").json

    assert shown["inputs"] == {"text": "Hello"}
    assert shown["outputs"] == {"answer": "You said: sent"}
    assert shown["checkpoints"][0] == {"id": f"{run_id}:4", "description": "mail is out"}
    assert [each["type"] for each in shown["log"]][:2] == ["run_started", "model_requested"]
    assert [each["role"] for each in shown["messages"]][-2:] == ["tool", "assistant"]
    assert "log" not in runs("runs", "show", run_id, "--json").json


def test_the_log_of_a_run_is_shown_entry_by_entry(runs: Kept) -> None:
    run_id = runs.mailed()

    shown = runs("runs", "show", run_id, "--log").out

    log = shown.split("\nLog\n")[1].splitlines()
    assert [line.split()[0] for line in log] == [str(n) for n in range(len(log))]
    assert log[3].split()[2] == "tool_intended"
    assert "name=send_mail" in log[3]


def test_a_long_conversation_is_shown_with_its_beginning_and_end(runs: Kept) -> None:
    run_id = runs.mailed()
    message = '{"role":"user","content":"line %d"}'
    length = len(anyio.run(runs.store.read, run_id))
    runs.write(
        run_id,
        *(
            StoredEntry(
                seq=length + number,
                type="message_added",
                version=1,
                body=(
                    f'{{"seq":{length + number},"at":1.0,"message":{message % number}}}'
                ).encode(),
            )
            for number in range(100)
        ),
    )

    shown = runs("runs", "show", run_id).out

    assert "line 99" in shown
    assert "line 20" not in shown
    assert "… 65 more …" in shown


def test_a_call_that_was_cut_off_is_shown_with_the_command_that_settles_it(
    runs: Kept,
) -> None:
    crashed = runs.cut(runs.mailed(), "tool_intended")

    shown = runs("runs", "show", crashed).out

    assert "Waits for a decision" in shown
    assert "call_1 send_mail {'to': 'ann'}" in shown
    command = shown.splitlines()[-1].strip()
    assert command.startswith(f"kaizen runs resume {crashed} mailer.py")
    assert command.endswith("--decision call_1=WORD")
    assert runs.typed(command).code == 2  # nobody has decided yet
    assert runs.typed(command.replace("=WORD", "=done")).code == 0


def test_the_error_of_a_run_is_shown(runs: Kept) -> None:
    runs("run", "mailer.py", "text=x", "-m", "broken")

    shown = runs("runs", "show", runs.listed()[0]["run_id"]).out

    assert "Error\n  " in shown
    assert "is out of order" in shown
    assert "Go on with\n  kaizen runs resume" in shown


def test_nothing_that_is_stored_reaches_the_terminal_as_a_command(runs: Kept) -> None:
    run_id = "hostile1"
    started = {
        "seq": 0,
        "at": 1e300,
        "run_id": run_id,
        "agent_id": HOSTILE,
        "parent_id": "",
        "trace_id": "t",
        "session_id": "",
        "inputs": {HOSTILE: HOSTILE, "lines": "a\nfaked line"},
        "messages": [{"role": "user", "content": HOSTILE}],
        "metadata": {"cli": {"command": HOSTILE, "given": [HOSTILE], "directory": HOSTILE}},
    }
    call = {
        "seq": 1,
        "at": 1.0,
        "call_id": HOSTILE,
        "name": HOSTILE,
        "arguments": {"a": HOSTILE},
        "idempotency_key": "k",
        "idempotent": False,
        "cycle": 1,
    }
    for seq, (kind, body) in enumerate([("run_started", started), ("tool_intended", call)]):
        entry = StoredEntry(seq=seq, type=kind, version=1, body=json.dumps(body).encode())
        runs.write(run_id, entry)

    for arguments in (
        ["list"],
        ["list", "--json"],
        ["show", run_id],
        ["show", run_id, "--log"],
        ["show", run_id, "--log", "--json"],
        ["export", run_id],
        ["resume", run_id],
    ):
        shown = runs("runs", *arguments)
        for hostile in ("\x1b", "\x07", "\u202e"):
            assert hostile not in shown.out + shown.err, arguments
        assert "\nfaked" not in shown.out + shown.err, arguments


def test_an_export_is_the_log_in_lines_that_can_be_read_back(runs: Kept) -> None:
    run_id = runs.mailed()

    shown = runs("runs", "export", run_id[:12])

    lines = [json.loads(line) for line in shown.out.splitlines()]
    entries = [
        decode(StoredEntry(**{**each, "body": json.dumps(each["body"]).encode()}))
        for each in lines
    ]
    assert shown.err == ""
    assert set(lines[0]) == {"seq", "type", "version", "body"}
    assert fold(entries).outputs == {"answer": "You said: sent"}


def test_of_a_damaged_log_what_stands_before_the_damage_is_exported(
    runs: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = runs.mailed()
    whole = runs("runs", "export", run_id).out.splitlines()
    read = runs.store.read

    async def read_but_five(
        run_id: str, *, start: int = 0, limit: int | None = None
    ) -> Sequence[StoredEntry]:
        found = await read(run_id, start=start, limit=limit)
        if any(each.seq == 5 for each in found):
            raise CheckpointLoadError(f"entry 5 of run {run_id!r}", "is damaged")
        return found

    monkeypatch.setattr(runs.store, "read", read_but_five)

    exported = runs("runs", "export", run_id)

    assert len(whole) > 6
    assert exported.out.splitlines() == whole[:5]
    assert exported.code == 1
    assert "entry 5" in exported.err
    assert "The 5 entries before that were written." in exported.err
    assert len(exported.err.splitlines()) == 1


def test_an_export_goes_to_a_file_for_the_user_alone_and_replaces_none(runs: Kept) -> None:
    run_id = runs.mailed()
    path = Path("log.jsonl")

    first = runs("runs", "export", run_id, "-o", path)
    text = path.read_text(encoding="utf-8")
    path.write_text("mine", encoding="utf-8")
    second = runs("runs", "export", run_id, "-o", path)
    kept = path.read_text(encoding="utf-8")
    third = runs("runs", "export", run_id, "-o", path, "--force")

    assert (first.code, second.code, third.code) == (0, 2, 0)
    assert "'log.jsonl' exists. Say --force to replace it." in second.err
    assert kept == "mine"
    assert path.read_text(encoding="utf-8") == text == runs("runs", "export", run_id).out
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each for each in Path().iterdir() if "export" in each.name] == []


def test_an_export_to_a_folder_that_is_not_there_fails_in_one_line(runs: Kept) -> None:
    shown = runs("runs", "export", runs.mailed(), "-o", "nowhere/log.jsonl")

    assert shown.code == 1
    assert "'nowhere/log.jsonl' cannot be written" in shown.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "ab"],
        ["export", "ab"],
        ["resume", "ab", "mailer.py"],
        ["fork", "ab:1"],
        ["rewind", "ab:1", "--yes"],
        ["pause", "ab"],
    ],
)
def test_a_beginning_that_several_runs_share_and_an_unknown_id_are_refused(
    runs: Kept, arguments: list[str]
) -> None:
    for end in ("1", "2"):
        runs.write(f"ab{end}", NOBODY)
    unknown = [each.replace("ab", "none") for each in arguments]

    shared, missing = runs("runs", *arguments), runs("runs", *unknown)

    assert shared.code == 2
    assert "'ab' is the beginning of 2 runs: ab2, ab1. Add a digit." in shared.err
    assert missing.code == 1
    assert "[CHECKPOINT_002] run 'none' is unknown to the store" in missing.err
    assert len(shared.err.splitlines()) == len(missing.err.splitlines()) == 1


def test_an_id_that_is_whole_is_taken_though_others_begin_with_it(runs: Kept) -> None:
    for run_id in ("abc", "abcd"):
        runs.write(run_id, NOBODY)

    assert "run 'abc' cannot be shown" in runs("runs", "show", "abc").err


def test_what_can_be_no_id_is_refused(runs: Kept) -> None:
    shown = runs("runs", "show", "../x")

    assert shown.code == 1
    assert "is none that there can be" in shown.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["show", "a"],
        ["resume", "a"],
        ["prune", "--keep", "1"],
        ["export", "a"],
        ["stop", "a"],
    ],
)
def test_without_a_store_it_says_how_to_get_one(kaizen: Cli, arguments: list[str]) -> None:
    shown = kaizen("runs", *arguments)

    assert shown.code == 1
    assert "finds no store that keeps runs" in shown.err
    assert "pip install kaizen-sqlite" in shown.err
    assert len(shown.err.splitlines()) == 1


def test_a_named_store_that_nobody_brings_is_an_error(
    kaizen: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAIZEN_CHECKPOINT_STORE", "cellar")

    shown = kaizen("runs", "list")

    assert shown.code == 1
    assert "'cellar' is unknown" in shown.err
