"""Ordinary commands need no question, and destructive ones are never allowed unasked."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
from kaizen_permissions._commands import Analysis, analyse, covers, specifier

from tests.plugins.tools.destructive import Scene
from tests.plugins.tools.destructive import forms as executed

from .destructive_forms import forms
from .ordinary_commands import COMMANDS, POLICY


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a project as there are many."""
    root = tmp_path / "project"
    for name in ("src/app.py", "tests/test_app.py", "README.md", ".git/config"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x\n", encoding="utf-8")
    (root / ".git" / "config").write_text("[core]\n\tbare = false\n", encoding="utf-8")
    return root


def looked_at(command: str, root: Path) -> Analysis:
    return analyse(command, cwd=root, roots=[root])


def test_ordinary_commands_are_decided_without_a_question(root: Path) -> None:
    asked = [each for each in COMMANDS if not covers(looked_at(each, root), POLICY)]

    assert len(set(COMMANDS)) == len(COMMANDS) >= 200
    assert len(asked) <= 0.05 * len(COMMANDS), asked


def test_no_destructive_form_is_allowed(root: Path) -> None:
    tried = [(each, looked_at(each, root)) for each in forms()]
    allowed = [each for each, found in tried if found.only_reads or covers(found, POLICY)]

    assert len(tried) >= 5_000
    assert allowed == []


def test_no_form_that_was_seen_to_destroy_is_allowed(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "scene")
    tried = list(executed(root=str(scene.root), victim=str(scene.victim)))
    allowed = [
        each
        for each in tried
        if covers(looked_at(each, scene.root), POLICY, may_write=lambda _path: True)
    ]

    assert len(tried) >= 1_000
    assert allowed == []


def test_an_ordinary_command_is_judged_in_a_millisecond(root: Path) -> None:
    policy = [specifier(each) for each in POLICY]
    covers(looked_at("ls", root), policy)
    best: list[float] = []

    for command in COMMANDS:
        times: list[float] = []
        for _ in range(3):
            began = perf_counter()
            covers(looked_at(command, root), policy)
            times.append(perf_counter() - began)
        best.append(min(times))

    assert median(best) < 1e-3
