"""Each hook is described where it is specified, explained in the pages, and tested."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOOKSPECS = ROOT / "kernel" / "src" / "kaizen" / "hookspecs.py"


def specifications() -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Return the functions of `hookspecs.py` that `@hookspec` or `@hookspec(...)` marks."""
    tree = ast.parse(HOOKSPECS.read_text(encoding="utf-8"))
    functions = [
        each
        for each in tree.body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [
        function
        for function in functions
        if any("hookspec" in ast.unparse(each) for each in function.decorator_list)
    ]


each_hook = pytest.mark.parametrize("hook", specifications(), ids=lambda hook: hook.name)


def test_there_are_hooks() -> None:
    assert len(specifications()) > 10


@each_hook
def test_a_hook_is_described(hook: ast.FunctionDef) -> None:
    assert ast.get_docstring(hook)


@each_hook
def test_a_hook_has_plain_parameters_since_pluggy_passes_no_others(
    hook: ast.FunctionDef,
) -> None:
    arguments = hook.args

    assert arguments.kwonlyargs == []
    assert arguments.vararg is None
    assert arguments.kwarg is None
    assert arguments.defaults == []


@each_hook
def test_a_hook_is_explained_in_the_page_about_hooks(hook: ast.FunctionDef) -> None:
    page = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")

    assert f"`{hook.name}`" in page or f"`{hook.name}(" in page


@each_hook
def test_a_hook_is_used_by_a_test_of_the_kernel(hook: ast.FunctionDef) -> None:
    texts = (path.read_text(encoding="utf-8") for path in ROOT.glob("tests/kernel/**/*.py"))

    assert any(re.search(rf"\b{hook.name}\b", text) for text in texts)
