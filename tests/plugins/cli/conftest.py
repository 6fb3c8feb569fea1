"""The command line as tests use it: in this process, in one of its own, on a terminal."""

from __future__ import annotations

import importlib
import json
import logging
import os
import select
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
import kaizen_cli
import pytest
from kaizen.claims import new_owner

if TYPE_CHECKING:
    from kaizen import StoredEntry
    from kaizen.testing import MemoryCheckpointStore

SAMPLES = Path(__file__).parent / "samples"
DEADLINE_S = 30.0
SAMPLE = (
    *("--plugin", "sample_plugins:SampleTools"),
    *("--plugin", "sample_plugins:SampleModel"),
)
KEPT = ("--plugin", "sample_stores:Store")
MAILER = '''
from pathlib import Path

from kaizen import BaseAgent, current_run, tool


@tool(danger="medium")
async def send_mail(to: str) -> str:
    """Send a mail."""
    with Path("sent.txt").open("a", encoding="utf-8") as file:
        file.write(f"{to}\\n")
    run = current_run()
    await run.checkpoint("mail is out")
    if Path("stop").exists():
        run.interrupt()
    return "sent"


agent = BaseAgent(
    {"llm_provider": "sample"},
    "text -> answer",
    tools=[send_mail],
    grants=["send_mail"],
    name="mailer",
)
'''
_ON_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'kaizen_cli', *sys.argv[1:]])\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cli:
    """Runs commands in this process, with none of the installed plugins but this one."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Outcome:
        self._monkeypatch.setattr(sys, "argv", ["kaizen", *map(str, arguments)])
        code = kaizen_cli.main()
        captured = self._capsys.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    def ask(self, *arguments: str | Path) -> Outcome:
        """Ask with the sample model and the sample tools."""
        return self("ask", *SAMPLE, "--provider", "sample", *arguments)


class Terminal:
    """A command that runs on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.seen = ""
        self._position = 0
        self._master, slave = os.openpty()
        termios.tcsetwinsize(slave, (40, 100))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str, *, again: str = "") -> None:
        """Read until a text comes, behind what was waited for before.

        Args:
            text: What is to come.
            again: What is typed once more after a second in which nothing came: a line
                that is being edited may miss a signal between two keys.
        """
        end = monotonic() + DEADLINE_S
        while (found := self.seen.find(text, self._position)) < 0:
            if again and not self._is_readable(1.0):
                self.type(again)
            assert self._read(end), f"{text!r} did not come; there was {self.seen!r}"
        self._position = found + len(text)

    def finish(self, *, again: str = "") -> int:
        """Read to the end and return the exit code.

        Args:
            again: What is typed once more after a second in which nothing came: a signal
                just before a read begins is heard when the read ends.
        """
        end = monotonic() + DEADLINE_S
        if again and not self._is_readable(1.0):
            self.type(again)
        while self._read(end):
            if again and not self._is_readable(1.0):
                self.type(again)
        return self._process.wait(DEADLINE_S)

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(DEADLINE_S)
        os.close(self._master)

    def _is_readable(self, seconds: float) -> bool:
        return bool(select.select([self._master], [], [], seconds)[0])

    def _read(self, end: float) -> bool:
        ready = self._is_readable(max(0.0, end - monotonic()))
        assert ready, f"nothing more came after {self.seen!r}"
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # the other side of a terminal is gone
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Give each test a working directory, a home and an environment of its own."""
    for name in [*os.environ]:
        if name.startswith("KAIZEN_") or name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
            monkeypatch.delenv(name)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("KAIZEN_PLUGINS", "cli")
    monkeypatch.setenv("PYTHONPATH", str(SAMPLES))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "path", [*sys.path, str(SAMPLES)])
    modules, log = set(sys.modules), logging.getLogger("kaizen")
    handlers, propagates = log.handlers, log.propagate
    yield
    log.handlers, log.propagate = handlers, propagates
    for name in set(sys.modules) - modules:
        file = Path(getattr(sys.modules[name], "__file__", None) or "/")
        if file.is_relative_to(SAMPLES) or file.is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.fixture
def kaizen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(monkeypatch, capsys)


@pytest.fixture
def sample() -> tuple[str, ...]:
    """The options that enable the sample plugins: two for the tools, two for the model."""
    return SAMPLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Runs in the store of a sample plugin, which the command line keeps by default."""

    kaizen: Cli
    store: MemoryCheckpointStore

    def __call__(self, *arguments: str | Path) -> Outcome:
        return self.kaizen(*SAMPLE, *KEPT, *arguments)

    def typed(self, command: str) -> Outcome:
        """Carry out a command as it was shown; it names the plugins itself."""
        program, *arguments = shlex.split(command)
        assert program == "kaizen"
        return self.kaizen(*arguments)

    def mailed(self, text: str = "Hello") -> str:
        """Run the agent that sends a mail, and return the id of its run."""
        done = self("run", "mailer.py", f"text={text}", "--json")
        assert done.code == 0, done.err
        run_id: str = done.json["run_id"]
        return run_id

    def cut(self, run_id: str, after: str, *, new_run_id: str = "cafe0001") -> str:
        """Leave what a process would that died right after an entry of some type."""
        entries = anyio.run(self.store.read, run_id)
        length = next(each.seq for each in entries if each.type == after) + 1
        fork = partial(self.store.fork, length=length, new_run_id=new_run_id)
        anyio.run(fork, run_id)
        return new_run_id

    def cut_short(self, run_id: str, before: str) -> None:
        """Let a run itself be what a process left that died right before some entry."""
        log = self.store._logs[run_id]
        length = next(each.seq for each in log if each.type == before)
        record = self.store._records[run_id]
        self.store._logs[run_id] = log[:length]
        self.store._records[run_id] = replace(record, status="running", length=length)

    def hold(self, run_id: str) -> str:
        """Carry out a run, as far as others can see."""
        owner = new_owner()
        anyio.run(partial(self.store.claim, owner=owner, lease_s=60.0), run_id)
        return owner.partition(":")[0]

    def let_go(self, run_id: str) -> None:
        """End every claim on a run."""
        self.store._claims.pop(run_id)

    def write(self, run_id: str, *entries: StoredEntry) -> None:
        """Add entries to a log."""
        anyio.run(self.store.append, run_id, entries)

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        shown = self("runs", "list", "--json", *arguments)
        assert shown.code == 0, shown.err
        found: list[dict[str, Any]] = shown.json
        return found


@pytest.fixture
def runs(kaizen: Cli) -> Kept:
    """Runs that are kept, and an agent in `mailer.py` that has an effect."""
    Path("mailer.py").write_text(MAILER, encoding="utf-8")
    store = importlib.import_module("sample_stores").STORE
    return Kept(kaizen=kaizen, store=store)


@pytest.fixture
def notes() -> Path:
    """A folder with two files, below the working directory."""
    folder = Path("notes")
    folder.mkdir()
    island = "The island.\nThe harbour opens at 6 in the morning.\nGoodbye.\n"
    (folder / "island.txt").write_text(island, encoding="utf-8")
    (folder / "prices.txt").write_text("Bread costs 3 crowns.\n", encoding="utf-8")
    return folder


@pytest.fixture
def on_terminal() -> Iterator[Callable[..., Terminal]]:
    """Runs commands on terminals that are closed after the test."""
    opened: list[Terminal] = []

    def run(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield run
    for each in opened:
        each.close()


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The file that keeps what is trusted."""
    return tmp_path / "config" / "kaizen" / "trusted.json"
