"""`kaizen chat` holds a conversation, also where its standard input is a pipe."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugins.cli.conftest import Cli, Outcome


class Talk:
    """Pipes lines into the command."""

    def __init__(
        self, kaizen: Cli, sample: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._kaizen = kaizen
        self._sample = sample
        self._monkeypatch = monkeypatch

    def __call__(self, lines: str, *arguments: str) -> Outcome:
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        return self._kaizen("chat", *self._sample, "-p", "sample", *arguments)


@pytest.fixture
def talk(kaizen: Cli, sample: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Talk:
    return Talk(kaizen, sample, monkeypatch)


def test_a_model_with_its_provider_is_asked_and_no_other(
    kaizen: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("keyed/big", "big"):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))

        shown = kaizen("chat", "--plugin", "sample_providers:Keyed", "-m", model)

        assert (shown.code, shown.out) == (0, "I am big of keyed.\n")


def test_a_model_that_nobody_could_have_ends_it_before_it_begins(
    kaizen: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("One\nTwo\n"))

    shown = kaizen("chat", "-m", "gpt-4o")

    assert shown.code == 1
    assert shown.err.count("finds no provider for the model 'gpt-4o'") == 1


def test_each_line_of_a_pipe_is_answered(talk: Talk) -> None:
    shown = talk("Hello\n\nGoodbye\n", "-m", "echo")

    assert shown.code == 0
    assert shown.out == "echo: Hello\necho: Goodbye\n"
    assert shown.err == ""


def test_what_was_said_before_is_passed_on(talk: Talk) -> None:
    shown = talk("My cat is called Tom\nWhat is she called?\n", "-m", "history")

    assert shown.out.endswith("User: My cat is called Tom\nYou: nothing was said\n")


def test_no_more_is_passed_on_than_is_set(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAIZEN_CLI__MAX_HISTORY", "12")

    shown = talk("My cat is called Tom\nWhat?\n", "-m", "history")

    assert shown.out.endswith("g was said\n")
    assert "Tom" not in shown.out


def test_exit_leaves_and_help_tools_and_unknown_commands_are_answered(talk: Talk) -> None:
    shown = talk("/help\n/tools\n/dance\n/exit\nHello\n")

    assert shown.out == ""
    assert "/help   show this" in shown.err
    assert "None: give PATHS" in shown.err
    assert "There is no /dance." in shown.err


def test_with_paths_the_model_may_read_them(talk: Talk, notes: Path) -> None:
    shown = talk("/tools\nWhen does the harbour open?\n", str(notes))

    assert "grep  Find lines." in shown.err
    assert "The harbour opens at 6 in the morning." in shown.out


def test_an_answer_that_fails_does_not_end_the_conversation(talk: Talk) -> None:
    shown = talk("One\nTwo\n", "-m", "broken")

    assert shown.code == 1
    assert shown.err.count("Error: [AGENT_004]") == 2


def test_hostile_replies_are_written_out(talk: Talk) -> None:
    shown = talk("Hello\n", "-m", "hostile")

    assert shown.out.startswith("\\x1b[31mred")
    assert "\x1b" not in shown.out
