"""On a terminal: colours, progress, and Ctrl+C."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from tests.plugins.cli.conftest import Terminal

    class Open(Protocol):
        def __call__(self, *arguments: str) -> Terminal: ...


QUESTION = "When does the harbour open?"
SPINNER = "⠋"
CTRL_C, CTRL_D = "\x03", "\x04"


def ask(on_terminal: Open, sample: tuple[str, ...], *arguments: str) -> Terminal:
    return on_terminal("ask", *sample, "-p", "sample", QUESTION, *arguments)


def test_progress_is_shown_while_it_works_and_gone_afterwards(
    on_terminal: Open, sample: tuple[str, ...], notes: Path
) -> None:
    terminal = ask(on_terminal, sample, str(notes))

    assert terminal.finish() == 0
    assert SPINNER in terminal.seen
    before, after = terminal.seen.rsplit("\x1b[2K", 1)
    assert "I read: The harbour opens" not in before
    assert "I read: The harbour opens" in after


def test_colours_are_used(on_terminal: Open, sample: tuple[str, ...], notes: Path) -> None:
    terminal = ask(on_terminal, sample, str(notes))

    assert terminal.finish() == 0
    assert "\x1b[1mSources\x1b[0m" in terminal.seen


@pytest.mark.parametrize("how", ["option", "variable"])
def test_colours_can_be_turned_off(
    on_terminal: Open,
    sample: tuple[str, ...],
    notes: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    if how == "variable":
        monkeypatch.setenv("NO_COLOR", "1")
    options = ["--no-color"] if how == "option" else []

    terminal = ask(on_terminal, sample, str(notes), *options)

    assert terminal.finish() == 0
    assert "Sources" in terminal.seen
    assert [each for each in terminal.seen.split("\x1b[")[1:] if is_style(each)] == []


def is_style(sequence: str) -> bool:
    return sequence.lstrip("0123456789;").startswith("m")


def test_an_error_is_red(on_terminal: Open, sample: tuple[str, ...]) -> None:
    terminal = ask(on_terminal, sample, "-m", "broken")

    assert terminal.finish() == 1
    assert "\x1b[31mError: [AGENT_004]" in terminal.seen


def test_hostile_text_is_harmless_on_a_terminal(
    on_terminal: Open, sample: tuple[str, ...]
) -> None:
    terminal = ask(on_terminal, sample, "-m", "hostile")

    assert terminal.finish() == 0
    assert "\x1b[31mred" not in terminal.seen
    assert "\x1b]0;" not in terminal.seen
    assert "\\x1b[31mred" in terminal.seen
    assert "[bold]not markup[/bold]" in terminal.seen


def test_ctrl_c_stops_after_the_turn_and_says_so(
    on_terminal: Open, sample: tuple[str, ...], notes: Path
) -> None:
    terminal = ask(on_terminal, sample, str(notes), "-m", "patient")
    terminal.wait_for("turn 1")

    terminal.type(CTRL_C)

    assert terminal.finish() == 130
    assert "Stopping after this turn. Ctrl+C again stops at once." in terminal.seen
    assert "Interrupted, no answer. Run " in terminal.seen
    assert "Traceback" not in terminal.seen


def test_a_second_ctrl_c_stops_at_once(
    on_terminal: Open, sample: tuple[str, ...], notes: Path
) -> None:
    terminal = ask(on_terminal, sample, str(notes), "-m", "forever")
    terminal.wait_for("turn 1")

    terminal.type(CTRL_C)
    terminal.wait_for("Stopping after this turn.")
    terminal.type(CTRL_C)

    assert terminal.finish() == 130
    assert "Stopping at once." in terminal.seen
    assert "Interrupted, no answer. Run " in terminal.seen
    assert "Traceback" not in terminal.seen


def test_ctrl_c_while_the_kernel_starts_stops_without_a_traceback(
    on_terminal: Open, sample: tuple[str, ...]
) -> None:
    terminal = ask(on_terminal, sample, "--plugin", "sample_plugins:Slow")
    terminal.wait_for("slow plugin starts")

    terminal.type(CTRL_C)

    assert terminal.finish() == 130
    assert "Interrupted." in terminal.seen
    assert "Traceback" not in terminal.seen


def chat(on_terminal: Open, sample: tuple[str, ...], model: str) -> Terminal:
    terminal = on_terminal("chat", *sample, "-p", "sample", "-m", model)
    terminal.wait_for("> ")
    return terminal


def test_a_conversation_is_held_and_ctrl_d_ends_it(
    on_terminal: Open, sample: tuple[str, ...]
) -> None:
    terminal = chat(on_terminal, sample, "echo")

    terminal.type("Hello\n")
    terminal.wait_for("echo: Hello")
    terminal.wait_for("> ")
    terminal.type(CTRL_D)

    assert terminal.finish() == 0


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(
    on_terminal: Open, sample: tuple[str, ...]
) -> None:
    terminal = chat(on_terminal, sample, "forever")

    terminal.type("Hello\n")
    terminal.wait_for("turn 1")
    terminal.type(CTRL_C)
    terminal.wait_for("(stopped)")
    terminal.wait_for("> ")
    terminal.type("/exit\n")

    assert terminal.finish() == 0
    assert "Traceback" not in terminal.seen


def test_ctrl_c_at_the_prompt_begins_a_new_line(
    on_terminal: Open, sample: tuple[str, ...]
) -> None:
    terminal = chat(on_terminal, sample, "echo")

    terminal.type("half a th")
    terminal.wait_for("half a th")
    terminal.type(CTRL_C)
    terminal.wait_for("> ", again=CTRL_C)
    terminal.type("whole\n")
    terminal.wait_for("echo: whole")
    terminal.wait_for("> ")
    terminal.type(CTRL_D)

    assert terminal.finish() == 0
    assert "echo: whole" in terminal.seen


def test_long_lines_of_a_reply_break_between_words(
    on_terminal: Open, sample: tuple[str, ...]
) -> None:
    terminal = chat(on_terminal, sample, "long")

    terminal.type("Hello\n")
    terminal.wait_for("> ")
    terminal.type(CTRL_D)

    assert terminal.finish() == 0
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.seen)
    lines = [line for line in seen.splitlines() if "wherever" in line]
    assert len(lines) > 1
    assert {word for line in lines for word in line.split()} == {"wherever"}
