"""The command line as tests use it: in this process, in one of its own, on a terminal."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import kaizen_cli
import pytest

SAMPLES = Path(__file__).parent / "samples"
DEADLINE_S = 30.0
SAMPLE = (
    *("--plugin", "sample_plugins:SampleTools"),
    *("--plugin", "sample_plugins:SampleModel"),
)
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
