"""What a run asks at the terminal, with every plugin that `pip install kaizen` brings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("needs a terminal of POSIX", allow_module_level=True)

from tests.plugins.cli.conftest import Terminal

MAILER = '''
from pathlib import Path

from kaizen import BaseAgent, ToolUse, tool


@tool(danger="medium", external=True)
async def send_mail(to: str) -> str:
    """Send a mail."""
    with Path("sent.txt").open("a", encoding="utf-8") as file:
        file.write(f"{to}\\n")
    return "sent"


use = ToolUse(id="1", name="send_mail", arguments={"to": "Ada"})
agent = BaseAgent(
    {"llm_provider": "mock", "provider_config": {"replies": [use, "It is done."]}},
    "text -> answer",
    tools=[send_mail],
    name="mailer",
)
'''


@pytest.fixture
def mailer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Terminal]]:
    """Runs `kaizen` on a terminal, in a folder with an agent that sends a mail."""
    for name in [each for each in os.environ if each.startswith("KAIZEN_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
        (tmp_path / name.lower()).mkdir()
    monkeypatch.setenv("TERM", "xterm-256color")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    Path("mailer.py").write_text(MAILER, encoding="utf-8")
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def sent() -> str:
    file = Path("sent.txt")
    return file.read_text(encoding="utf-8") if file.exists() else ""


def test_what_a_person_approves_at_the_terminal_is_done_once(
    mailer: Callable[..., Terminal],
) -> None:
    terminal = mailer("run", "mailer.py", "text=Hello")
    terminal.wait_for("send_mail")
    terminal.wait_for("Approve?")
    assert sent() == ""
    terminal.type("y\n")
    terminal.wait_for("It is done.")

    assert terminal.finish() == 0
    assert sent() == "Ada\n"


def test_what_a_person_refuses_is_not_done(mailer: Callable[..., Terminal]) -> None:
    terminal = mailer("run", "mailer.py", "text=Hello")
    terminal.wait_for("Approve?")
    terminal.type("n\n")
    terminal.wait_for("It is done.")

    assert terminal.finish() == 0
    assert sent() == ""


def test_ctrl_c_at_a_question_is_a_no(mailer: Callable[..., Terminal]) -> None:
    terminal = mailer("run", "mailer.py", "text=Hello")
    terminal.wait_for("Approve?")
    terminal.type("\x03")
    terminal.wait_for("It is done.")

    assert terminal.finish() == 0
    assert sent() == ""


@pytest.mark.usefixtures("mailer")
def test_in_a_pipe_nobody_is_asked_and_the_call_is_refused() -> None:
    command = [sys.executable, "-m", "kaizen_cli", "run", "mailer.py", "text=Hello"]
    done = subprocess.run(
        [*command, "--verbose"],
        input="y\n",
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "there is nobody to ask" in done.stderr
    assert sent() == ""
