"""Runs are kept by default, where there is a store for that, and can be kept from it."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from kaizen.checkpoints import read_log
from kaizen.runlog import RunStarted

if TYPE_CHECKING:
    from tests.plugins.cli.conftest import Cli, Kept

QUESTION = "When does the harbour open?"


def test_an_answered_question_is_kept_with_what_a_person_recognises_it_by(
    runs: Kept, notes: Path
) -> None:
    done = runs("ask", "-p", "sample", QUESTION, notes, "--json")

    run_id = done.json["run_id"]
    started = anyio.run(read_log, runs.store, run_id)[0]
    assert isinstance(started, RunStarted)
    assert started.metadata["cli"] == {
        "command": "ask",
        "given": ["notes"],
        "options": [
            *("--provider", "sample"),
            *("--plugin", "sample_plugins:SampleTools"),
            *("--plugin", "sample_plugins:SampleModel"),
            *("--plugin", "sample_stores:Store"),
        ],
        "directory": str(Path.cwd()),
    }


def test_run_and_chat_are_kept_too(runs: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.mailed()
    monkeypatch.setattr(sys, "stdin", io.StringIO("Good morning\n"))
    runs("chat", "-p", "sample", "-m", "echo")

    found = runs.listed()
    assert [(each["command"], each["about"]) for each in found] == [
        ("chat", "Good morning"),
        ("run", "Hello"),
    ]


def test_without_such_a_plugin_nothing_is_kept_and_nothing_is_said(
    kaizen: Cli, sample: tuple[str, ...], runs: Kept, tmp_path: Path
) -> None:
    done = kaizen("run", *sample, "mailer.py", "text=x", "--json")

    assert done.code == 0
    assert done.err == ""
    assert runs.listed() == []
    assert not (tmp_path / "data").exists()


def test_no_keep_keeps_nothing(runs: Kept, notes: Path) -> None:
    asked = runs("ask", "-p", "sample", QUESTION, notes, "--no-keep")
    ran = runs("run", "mailer.py", "text=x", "--no-keep")

    assert (asked.code, ran.code) == (0, 0)
    assert runs.listed() == []


def test_a_setting_keeps_nothing_and_leaves_what_was_kept_in_sight(
    runs: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = runs.mailed()
    monkeypatch.setenv("KAIZEN_CLI__KEEP_RUNS", "false")

    runs.mailed()

    assert [each["run_id"] for each in runs.listed()] == [run_id]


def test_a_store_that_is_named_as_none_is_none(
    runs: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAIZEN_CHECKPOINT_STORE", "")

    runs.mailed()

    assert anyio.run(runs.store.runs) == []


@pytest.mark.parametrize("how", ["file", "variable"])
def test_a_store_that_was_named_is_stronger(
    runs: Kept, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    options = ["--plugin", "sample_stores:OtherStore"]
    if how == "variable":
        monkeypatch.setenv("KAIZEN_CHECKPOINT_STORE", "other")
    else:
        Path("mine.toml").write_text(
            '[kaizen]\ncheckpoint_store = "other"\n', encoding="utf-8"
        )
        options += ["--config", "mine.toml"]

    done = runs("run", "mailer.py", "text=x", "--json", *options)
    left_out = runs("run", "mailer.py", "text=x", "--no-keep", *options)

    other = importlib.import_module("sample_stores").OTHER
    assert (done.code, left_out.code) == (0, 0), done.err
    assert [each.run_id for each in anyio.run(other.runs)] == [done.json["run_id"]]
    assert anyio.run(runs.store.runs) == []


@pytest.mark.parametrize(
    ("plugin", "problem"),
    [("ClosedStore", "is damaged"), ("ReadOnlyStore", "cannot be written")],
)
def test_a_store_that_does_not_work_is_done_without_and_named_in_one_line(
    kaizen: Cli,
    sample: tuple[str, ...],
    runs: Kept,
    plugin: str,
    problem: str,
) -> None:
    done = kaizen(
        "run", *sample, "--plugin", f"sample_stores:{plugin}", "mailer.py", "text=x"
    )

    (line, *took) = done.err.splitlines()
    assert done.code == 0
    assert "You said: text: x" in done.out or "sent" in done.out
    assert line.startswith("Runs are not kept: [CHECKPOINT_00")
    assert problem in line
    assert "\x1b" not in done.err
    assert [each for each in took if "kept" in each] == []
    assert kaizen("runs", "list", "--plugin", f"sample_stores:{plugin}").code == (
        1 if plugin == "ClosedStore" else 0
    )


def test_an_error_says_how_the_run_goes_on(runs: Kept) -> None:
    done = runs("run", "mailer.py", "text=x", "-m", "broken")

    (run,) = runs.listed()
    assert done.code == 1
    assert run["status"] == "failed"
    assert f"Go on with: kaizen runs resume {run['run_id']} mailer.py" in done.err
    assert len(done.err.splitlines()) == 1
