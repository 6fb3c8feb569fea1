"""The page: what it shows of an action, and when one click is not enough."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.resources import files
from typing import Any

import pytest

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="there is nothing that runs the page")


def run(expression: str) -> Any:
    """Return what an expression is, in which the page's functions can be called."""
    page = files("kaizen_control").joinpath("page.html").read_text(encoding="utf-8")
    start, end = page.index("function flat("), page.index("function show(")
    program = f"{page[start:end]}\nprocess.stdout.write(JSON.stringify({expression}))"
    command = [str(NODE), "-e", program]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_two_actions_never_have_the_same_names_on_the_page() -> None:
    found = run('[{"a.b": 1}, {a: {b: 1}}, {"\\"a\\"": 1}, {"": 1}].map((x) => flat(x))')

    assert found == [[['"a.b"', 1]], [["a.b", 1]], [['"\\"a\\""', 1]], [['""', 1]]]


def test_what_lies_deep_is_shown_on_the_page_as_it_is() -> None:
    assert run("flat({a: {b: {c: {d: 1}}, e: {}, f: [1]}})") == [
        ["a.b.c", {"d": 1}],
        ["a.e", {}],
        ["a.f", [1]],
    ]


@pytest.mark.parametrize(
    ("text", "lines"), [("x", 1), ("x" * 61, 2), ("\n" * 1_400, 1_401), ("x\ny", 2)]
)
def test_the_page_counts_lines_and_not_characters_alone(text: str, lines: int) -> None:
    assert run(f"height([{json.dumps(text)}])") == lines
