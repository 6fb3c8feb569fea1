"""`kaizen ask` answers from files, and says where the answer stands."""

from __future__ import annotations

import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugins.cli.conftest import Cli

QUESTION = "When does the harbour open?"
KEYED = ("--plugin", "sample_providers:Keyed")


def test_the_answer_is_printed_with_its_sources_and_what_it_took(
    kaizen: Cli, notes: Path
) -> None:
    shown = kaizen.ask(QUESTION, notes)

    answer, _, head, place, quote, _, took, run = shown.out.splitlines()
    assert shown.code == 0
    assert answer == "I read: The harbour opens at 6 in the morning."
    assert (head, place, quote) == (
        "Sources",
        "  island.txt:2",
        "    The harbour opens at 6.",
    )
    assert took.startswith(
        "confidence 0.75 · 2 turns · 1 tool call · 170 tokens · $0.0012 · "
    )
    assert len(run.removeprefix("run ")) == 32
    assert shown.err == ""


def test_json_holds_the_same(kaizen: Cli, notes: Path) -> None:
    shown = kaizen.ask(QUESTION, notes, "--json")

    assert shown.json["question"] == QUESTION
    assert shown.json["answer"] == "I read: The harbour opens at 6 in the morning."
    assert shown.json["sources"] == [
        {"path": "island.txt", "line": 2, "quote": "The harbour opens at 6."}
    ]
    assert shown.json["confidence"] == 0.75
    assert shown.json["cycles"] == 2
    assert shown.json["tool_calls"] == 1
    assert shown.json["usage"] == {"requests": 2, "input_tokens": 150, "output_tokens": 20}
    assert shown.json["cost_usd"] == 0.0012


def test_only_the_paths_that_were_named_are_read(kaizen: Cli, notes: Path) -> None:
    other = Path("other")
    other.mkdir()

    shown = kaizen.ask(QUESTION, other)

    assert shown.out.startswith("I read: nothing\n")


def test_without_paths_the_working_directory_is_read(kaizen: Cli, notes: Path) -> None:
    shown = kaizen.ask(QUESTION)

    assert shown.out.startswith("I read: The harbour opens")


def test_verbose_prints_each_step_to_standard_error(kaizen: Cli, notes: Path) -> None:
    shown = kaizen.ask(QUESTION, notes, "--verbose")

    steps = [line.split("s  ", 1)[1] for line in shown.err.splitlines()]
    assert steps == [
        "turn 1: asking sample",
        "grep pattern=harbour path=.",
        "turn 2: asking sample",
    ]


def test_a_path_that_does_not_exist_is_a_usage_error(kaizen: Cli) -> None:
    shown = kaizen.ask(QUESTION, "nowhere.txt")

    assert shown.code == 2
    assert shown.err == (
        "Error: Path 'nowhere.txt' does not exist. See `kaizen ask --help`.\n"
    )


def test_an_empty_question_is_a_usage_error(kaizen: Cli) -> None:
    shown = kaizen.ask("  ")

    assert shown.code == 2
    assert "question is empty" in shown.err


def test_an_error_is_one_line_with_code_and_remedy(kaizen: Cli) -> None:
    shown = kaizen.ask(QUESTION, "--model", "broken")

    assert shown.code == 1
    assert shown.out == ""
    assert shown.err == (
        "Error: [AGENT_004] provider 'sample' is out of order. Choose another model.\n"
    )


def test_debug_shows_the_traceback_as_well(kaizen: Cli, sample: tuple[str, ...]) -> None:
    shown = kaizen("--debug", "ask", *sample, "-p", "sample", "-m", "crash", QUESTION)

    assert shown.code == 1
    assert "Traceback (most recent call last)" in shown.err
    assert shown.err.endswith("`--debug` shows where it was raised.\n")
    assert "\x1b" not in shown.err


def test_without_a_provider_offline_is_taken(kaizen: Cli, sample: tuple[str, ...]) -> None:
    shown = kaizen("ask", *sample, QUESTION)

    assert shown.code == 1
    assert "'offline'" in shown.err
    assert "pip install kaizen-offline" in shown.err


@pytest.mark.parametrize("default", ["", "sample"])
def test_a_model_with_its_provider_is_asked_and_no_other(
    kaizen: Cli,
    monkeypatch: pytest.MonkeyPatch,
    sample: tuple[str, ...],
    default: str,
) -> None:
    if default:
        monkeypatch.setenv("KAIZEN_DEFAULT_PROVIDER", default)

    shown = kaizen("ask", *sample, *KEYED, "-m", "keyed/big", QUESTION)

    assert shown.code == 0
    assert shown.out.startswith("I am big of keyed.\n")


def test_of_a_model_alone_the_provider_is_found_as_for_any_agent(
    kaizen: Cli, sample: tuple[str, ...]
) -> None:
    shown = kaizen("ask", *sample, *KEYED, "-m", "big", QUESTION)

    assert shown.code == 0
    assert shown.out.startswith("I am big of keyed.\n")


def test_a_model_that_nobody_could_have_is_not_left_to_offline(
    kaizen: Cli, sample: tuple[str, ...]
) -> None:
    for model in ("gpt-4o", "nosuch/gpt-4o"):
        shown = kaizen("ask", *sample, "-m", model, QUESTION)

        assert shown.code == 1
        assert f"finds no provider for the model {model!r}" in shown.err
        assert "`offline` has no models to choose from" in shown.err


@pytest.mark.parametrize("named", ["default", "agent", "option"])
def test_offline_is_asked_for_no_model(
    kaizen: Cli, monkeypatch: pytest.MonkeyPatch, sample: tuple[str, ...], named: str
) -> None:
    option = ("-p", "offline") if named == "option" else ()
    if named == "default":
        monkeypatch.setenv("KAIZEN_DEFAULT_PROVIDER", "offline")
    elif named == "agent":
        monkeypatch.setenv("KAIZEN_AGENT__LLM_PROVIDER", "offline")

    shown = kaizen("ask", *sample, *option, "-m", "gpt-4o", QUESTION)

    assert shown.code == 1
    assert "is to ask `offline`, which has no model 'gpt-4o'" in shown.err
    assert "-m PROVIDER/MODEL" in shown.err


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        (
            ("-m", "nosuch/big"),
            "'nosuch' is no provider here; name one of keyed, offline, ",
        ),
        (("-m", "keyed/big", "-p", "offline"), "Name another provider, or no model."),
        (("-m", "offline/big"), "Name another provider, or no model."),
    ],
)
def test_who_has_named_a_provider_with_the_model_is_not_told_to_do_so(
    kaizen: Cli,
    monkeypatch: pytest.MonkeyPatch,
    sample: tuple[str, ...],
    typed: tuple[str, ...],
    remedy: str,
) -> None:
    monkeypatch.setenv("KAIZEN_DEFAULT_PROVIDER", "offline")
    offline = ("--plugin", "sample_providers:Offline")

    shown = kaizen("ask", *sample, *KEYED, *offline, *typed, QUESTION)

    assert shown.code == 1
    assert "is to ask `offline`, which has no model" in shown.err
    assert remedy in shown.err
    assert "PROVIDER/MODEL" not in shown.err


@pytest.mark.parametrize("default", ["keyed", "keyed/small"])
def test_a_configured_model_is_asked_of_its_own_provider_only(
    kaizen: Cli, monkeypatch: pytest.MonkeyPatch, sample: tuple[str, ...], default: str
) -> None:
    monkeypatch.setenv("KAIZEN_DEFAULT_PROVIDER", default)
    monkeypatch.setenv("KAIZEN_AGENT__MODEL", "crash")

    same = kaizen("ask", *sample, *KEYED, "-p", "keyed", QUESTION)
    other = kaizen("ask", *sample, *KEYED, "-p", "sample", QUESTION)
    named = kaizen("ask", *sample, *KEYED, "-m", "big", QUESTION)

    assert same.out.startswith("I am crash of keyed.\n")
    assert other.code == 0, other.err
    assert named.out.startswith("I am big of keyed.\n")


def test_the_configured_provider_is_taken(
    kaizen: Cli, monkeypatch: pytest.MonkeyPatch, sample: tuple[str, ...]
) -> None:
    monkeypatch.setenv("KAIZEN_DEFAULT_PROVIDER", "sample")

    assert kaizen("ask", *sample, QUESTION).code == 0


def test_without_file_tools_it_says_who_brings_them(
    kaizen: Cli, sample: tuple[str, ...]
) -> None:
    shown = kaizen("ask", *sample[2:], "--provider", "sample", QUESTION)

    assert shown.code == 1
    assert "pip install kaizen-tools" in shown.err


def test_nothing_in_an_answer_reaches_the_terminal_as_a_command(kaizen: Cli) -> None:
    shown = kaizen.ask(QUESTION, "--model", "hostile")

    assert shown.code == 0
    assert "\\x1b[31mred\\x1b]0;title\\x07" in shown.out
    assert "[bold]not markup[/bold]" in shown.out
    assert dangerous(shown.out) == []


def test_every_character_that_a_terminal_obeys_is_written_out(kaizen: Cli) -> None:
    shown = kaizen.ask(QUESTION, "--model", "controls")

    assert shown.code == 0
    assert dangerous(shown.out) == []
    assert "\\u202e" in shown.out


def test_json_is_safe_to_print_and_keeps_what_was_said(kaizen: Cli) -> None:
    shown = kaizen.ask(QUESTION, "--model", "hostile", "--json")

    assert dangerous(shown.out) == []
    assert "\x1b[31mred" in shown.json["answer"]
    assert "\u202e" in shown.json["sources"][0]["quote"]


def dangerous(text: str) -> list[str]:
    """Return the characters of a text that do more than show themselves."""
    harmless = {"\n", "\t", "\N{SOFT HYPHEN}", "\N{ZERO WIDTH JOINER}"}
    harmless.add("\N{ZERO WIDTH NON-JOINER}")
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    found = {each for each in text if unicodedata.category(each) in kinds} - harmless
    return sorted(f"{ord(each):04x}" for each in found if ord(each) not in SHOWN)


# Signs that belong to a script and are drawn, though they count as formatting.
SHOWN = {
    *range(0x0600, 0x0606),
    0x06DD,
    0x070F,
    0x0890,
    0x0891,
    0x08E2,
    0x110BD,
    0x110CD,
    *range(0x13430, 0x13440),
}


def test_a_question_works_in_a_process_of_its_own_whatever_the_encoding(
    notes: Path, sample: tuple[str, ...]
) -> None:
    command = [sys.executable, "-m", "kaizen_cli", "ask", *sample, "-p", "sample"]

    done = subprocess.run(
        [*command, QUESTION, str(notes)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
        check=False,
    )

    assert done.returncode == 0
    assert done.stdout.startswith(b"I read: The harbour opens at 6 in the morning.\n")
    assert b"\\xb7" in done.stdout
    assert done.stderr == b""


def test_a_reader_that_leaves_early_causes_no_traceback(
    notes: Path, sample: tuple[str, ...]
) -> None:
    command = [sys.executable, "-m", "kaizen_cli", "ask", *sample, "-p", "sample"]
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [*command, QUESTION, str(notes)],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)

    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
