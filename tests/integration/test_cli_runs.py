"""The command line with stores on disk: runs survive their process and obey others."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "plugins" / "cli" / "samples"
MODEL = ("--plugin", "sample_plugins:SampleModel")
DEADLINE_S = 40.0
STORES = ("sqlite", "filesystem")
# Its tool has an effect, says what its run has heard, and lasts until it may end.
AGENT = '''
from pathlib import Path

import anyio
from kaizen import BaseAgent, current_run, tool


@tool(danger="medium")
async def send_mail(to: str) -> str:
    """Send a mail."""
    with Path("sent.txt").open("a", encoding="utf-8") as file:
        file.write(f"{to}\\n")
    run = current_run()
    while not Path("go").exists():
        await anyio.sleep(0.01)
        heard = {
            "stopped": run.interrupted,
            "paused": run.state.paused,
            "steered": run.state.steered,
        }
        for word, true in heard.items():
            if true:
                Path(word).touch()
    return "sent"


agent = BaseAgent(
    {"llm_provider": "sample", "graceful_shutdown_timeout": 60},
    "text -> answer",
    tools=[send_mail],
    grants=["send_mail"],
    name="mailer",
)
'''


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [*os.environ]:
        if name.startswith("KAIZEN_"):
            monkeypatch.delenv(name)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PYTHONPATH", str(SAMPLES))
    Path("mailer.py").write_text(AGENT, encoding="utf-8")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The store of the runs: the one that is taken by default, or another one."""
    name: str = request.param
    if name != "sqlite":
        monkeypatch.setenv("KAIZEN_CHECKPOINT_STORE", name)
    return name


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "kaizen_cli", *map(str, arguments)]


def kaizen(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=DEADLINE_S,
        check=False,
    )


def listed(*arguments: str) -> list[dict[str, Any]]:
    done = kaizen("runs", "list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def mails() -> list[str]:
    path = Path("sent.txt")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does, no longer than the deadline."""
    end = monotonic() + DEADLINE_S
    while not condition():
        assert monotonic() < end, "it did not come"
        sleep(0.01)


class Running:
    """The agent at work in a process of its own, in the middle of its tool."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            command("run", *MODEL, "mailer.py", "text=Hello"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        until(lambda: bool(mails()) or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, out, err

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def running() -> Iterator[Callable[[], Running]]:
    started: list[Running] = []

    def start() -> Running:
        started.append(Running())
        return started[-1]

    yield start
    for each in started:
        with suppress(ProcessLookupError):
            each.process.kill()
        each.process.communicate()


def test_a_run_whose_process_was_killed_is_listed_and_goes_on_after_a_decision(
    store: str, running: Callable[[], Running]
) -> None:
    alive = running()
    (before,) = listed()
    refused = kaizen("runs", "resume", before["run_id"], "mailer.py", *MODEL)
    alive.kill()
    (after,) = listed()
    Path("go").touch()

    undecided = kaizen("runs", "resume", before["run_id"], "mailer.py", *MODEL)
    shown = kaizen("runs", "show", before["run_id"]).stdout
    proposed = shown.splitlines()[-1].replace("=WORD", "=repeat")
    done = kaizen(*shlex.split(proposed)[1:])

    assert before["status"] == "running"
    assert before["carried_out_by"].startswith(f"pid {alive.process.pid} on ")
    assert refused.returncode == 1
    assert f"is carried out by pid {alive.process.pid}" in refused.stderr
    assert (after["status"], after["waits_for"]) == ("crashed", "decision")
    assert undecided.returncode == 1
    assert mails() == ["ann", "ann"]  # as was decided
    assert done.returncode == 0, done.stderr
    assert done.stdout == "You said: sent\n"
    assert listed()[0]["status"] == "completed"


def test_a_run_is_paused_steered_and_continued_from_another_process(
    store: str, running: Callable[[], Running]
) -> None:
    alive = running()
    (run,) = listed()

    assert kaizen("runs", "pause", run["run_id"][:6]).returncode == 0
    until(Path("paused").exists)
    assert kaizen("runs", "steer", run["run_id"], "Say it in French").returncode == 0
    until(Path("steered").exists)
    Path("go").touch()
    until(lambda: listed()[0]["status"] == "paused")
    assert kaizen("runs", "continue", run["run_id"]).returncode == 0
    code, out, err = alive.finish()

    assert code == 0, err
    assert out == "You said: Say it in French\n"
    assert kaizen("runs", "continue", run["run_id"]).returncode == 1


def test_a_run_is_stopped_from_another_process_and_goes_on(
    store: str, running: Callable[[], Running]
) -> None:
    alive = running()
    (run,) = listed()

    told = kaizen("runs", "stop", run["run_id"], "--message", "too dear")
    until(Path("stopped").exists)
    Path("go").touch()
    code, out, err = alive.finish()
    (stopped,) = listed()
    resumed = kaizen(*shlex.split(err.partition("Go on with: ")[2])[1:])

    assert told.returncode == 0, told.stderr
    assert (code, out) == (130, "")
    assert "Interrupted (too dear). Go on with: kaizen runs resume" in err
    assert stopped["status"] == "interrupted"
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == "You said: sent\n"
    assert mails() == ["ann"]


def test_ctrl_c_stops_a_run_that_can_go_on(
    store: str, running: Callable[[], Running]
) -> None:
    alive = running()

    alive.process.send_signal(signal.SIGINT)
    until(Path("stopped").exists)
    Path("go").touch()
    code, _, err = alive.finish()
    resumed = kaizen("runs", "resume", only(), "mailer.py", *MODEL)

    assert code == 130
    assert f"Go on with: kaizen runs resume {only()} mailer.py" in err
    assert resumed.returncode == 0, resumed.stderr
    assert mails() == ["ann"]


def only() -> str:
    (run,) = listed()
    run_id: str = run["run_id"]
    return run_id


def test_runs_are_forked_rewound_exported_and_pruned(store: str) -> None:
    Path("go").touch()
    done = kaizen("run", *MODEL, "mailer.py", "text=Hello", "--json")
    run_id = json.loads(done.stdout)["run_id"]
    lines = kaizen("runs", "export", run_id).stdout.splitlines()
    end = f"{run_id}:{len(lines) - 1}"

    forked = kaizen("runs", "fork", end, "--json")
    rewound = kaizen("runs", "rewind", end, "--yes")
    again = kaizen("runs", "resume", run_id, "mailer.py", *MODEL)
    pruned = kaizen("runs", "prune", "--keep", "0", "--yes", "--json")

    assert json.loads(lines[-1])["type"] == "run_ended"
    assert forked.returncode == rewound.returncode == 0, forked.stderr + rewound.stderr
    assert again.stdout == "You said: sent\n", again.stderr
    assert json.loads(pruned.stdout)["deleted"] == [run_id]
    assert only() == json.loads(forked.stdout)["run_id"]
    assert mails() == ["ann"]


def test_a_question_is_kept_by_default_and_can_be_resumed(tmp_path: Path) -> None:
    notes = Path("notes.txt")
    notes.write_text("The harbour opens at 6 in the morning.\n", encoding="utf-8")

    asked = kaizen("ask", "When does the harbour open?", notes, "--json")
    resumed = kaizen("runs", "resume", only(), notes, "--json")

    file = tmp_path / "data" / "kaizen" / "kaizen.db"
    assert asked.returncode == 0, asked.stderr
    assert asked.stderr == ""
    assert file.stat().st_mode & 0o077 == 0
    assert json.loads(resumed.stdout)["answer"] == json.loads(asked.stdout)["answer"]


def test_no_keep_leaves_nothing_behind(tmp_path: Path) -> None:
    done = kaizen("ask", "When?", "--no-keep")

    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("damage", ["a file in the way", "no database", "of another kind"])
def test_a_home_in_which_nothing_can_be_kept_is_no_reason_to_fail(
    tmp_path: Path, damage: str
) -> None:
    data = tmp_path / "data"
    if damage == "a file in the way":
        data.write_text("", encoding="utf-8")
    else:
        file = data / "kaizen" / "kaizen.db"
        file.parent.mkdir(parents=True)
        head = "no database " if damage == "no database" else "SQLite format 3\0"
        file.write_bytes(head.encode() * 1_000)
    Path("notes.txt").write_text("The harbour opens at 6.\n", encoding="utf-8")

    done = kaizen("ask", "When does the harbour open?", "notes.txt")
    shown = kaizen("runs", "list")

    assert done.returncode == 0, done.stderr
    assert "The harbour opens at 6." in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Runs are not kept: [CHECKPOINT_00")
    assert shown.returncode == 1
    assert len(shown.stderr.splitlines()) == 1


def test_a_damaged_log_is_named_and_the_other_runs_stay_in_sight(
    store: str, tmp_path: Path
) -> None:
    Path("go").touch()
    for text in ("One", "Two"):
        kaizen("run", *MODEL, "mailer.py", f"text={text}")
    damage(store, tmp_path / "data", listed()[-1]["run_id"])

    found = {each["about"]: each["status"] for each in listed()}

    assert found == {"Two": "completed", "": "damaged"}


def damage(store: str, data: Path, run_id: str) -> None:
    """Change bytes in the middle of a log."""
    if store == "filesystem":
        (log,) = (data / "kaizen" / "runs" / run_id).glob("*.jsonl*")
        content = bytearray(log.read_bytes())
        content[len(content) // 4] ^= 0xFF
        log.write_bytes(content)
        return
    file = data / "kaizen" / "kaizen.db"
    content = bytearray(file.read_bytes())
    log_of_one = content.replace(b'"text":"One"', b'"text":"On\xff"')
    assert log_of_one != content
    file.write_bytes(log_of_one)
