"""The command line, the offline model and the file tools together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "plugins" / "offline" / "corpus"
SAYS_WHAT_IT_IS = "not a language model"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [*os.environ]:
        if name.startswith("KAIZEN_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def kaizen(*arguments: str | Path, says: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command with every plugin of this repository enabled."""
    return subprocess.run(
        [sys.executable, "-m", "kaizen_cli", *map(str, arguments)],
        input=says,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=50,
        check=False,
    )


def asked(question: str, *paths: Path) -> dict[str, Any]:
    done = kaizen("ask", question, *paths, "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(
    ("question", "name", "piece"),
    [
        ("Who designed the lighthouse?", "island.txt", "Ebba Lindqvist"),
        ("How much is a rye loaf?", "bakery-prices.md", "4.20 euros"),
        ("Which port do the signal boxes report to?", "tram.toml", "listen_port = 7411"),
    ],
)
def test_an_answer_names_the_line_on_which_it_stands(
    question: str, name: str, piece: str
) -> None:
    answer = asked(question, CORPUS)

    source = answer["sources"][0]
    lines = Path(source["path"]).read_text(encoding="utf-8").splitlines()
    assert Path(source["path"]).name == name
    assert piece in answer["answer"]
    assert piece in lines[source["line"] - 1]


def test_paths_are_shown_as_the_user_can_open_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(CORPUS)

    done = kaizen("ask", "Who designed the lighthouse?", "notes")

    assert done.returncode == 0, done.stderr
    assert "\n  notes/island.txt:" in done.stdout
    assert done.stdout.count(SAYS_WHAT_IT_IS) == 1


def test_only_what_was_named_is_read(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.txt").write_text("Nothing is here.\n", encoding="utf-8")
    secret = tmp_path / "secret.txt"
    secret.write_text("The password is swordfish.\n", encoding="utf-8")
    (tmp_path / "open" / "link.txt").symlink_to(secret)

    done = kaizen("ask", "What is the password?", "open")

    assert "swordfish" not in done.stdout + done.stderr


def test_a_single_file_may_be_asked() -> None:
    answer = asked("How much is a rye loaf?", CORPUS / "bakery-prices.md")

    assert "4.20 euros" in answer["answer"]


def test_hostile_files_are_harmless(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(
        "The harbour opens at 6 \x1b[31m (red) \x1b]0;owned\x07 or \u202e7\u202c.\n",
        encoding="utf-8",
    )

    done = kaizen("ask", "When does the harbour open?", "notes.txt", "--verbose")

    assert done.returncode == 0, done.stderr
    assert "The harbour opens at 6 \\x1b[31m (red)" in done.stdout
    for hostile in ("\x1b", "\x07", "\u202e"):
        assert hostile not in done.stdout + done.stderr


def test_every_installed_plugin_is_well() -> None:
    done = kaizen("plugins", "doctor", "--json")

    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["ok"] is True


def test_a_conversation_about_files() -> None:
    done = kaizen("chat", CORPUS, says="Who designed the lighthouse?\n")

    assert done.returncode == 0, done.stderr
    assert "Ebba Lindqvist" in done.stdout


def test_a_new_agent_runs_with_the_offline_model() -> None:
    kaizen("new", "agent", "summer")

    done = kaizen("run", "summer.py", "text=The ferry sails at noon. It is red.")

    assert done.returncode == 0, done.stderr
    assert "ferry" in done.stdout
