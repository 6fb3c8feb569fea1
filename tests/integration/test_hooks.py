"""Each hook is described where it is specified, explained in a page, and tested."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOOKSPECS = [
    ROOT / "kernel" / "src" / "kaizen" / "hookspecs.py",
    *sorted(ROOT.glob("plugins/*/src/*/hookspecs.py")),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A hook specification, and the folder of the distribution that brings it."""

    owner: Path
    function: ast.FunctionDef | ast.AsyncFunctionDef

    @property
    def name(self) -> str:
        return self.function.name

    @property
    def page(self) -> Path:
        """The page that explains it: for a plugin's own hooks, its README."""
        is_kernel = self.owner.name == "kernel"
        return ROOT / "docs" / "hooks.md" if is_kernel else self.owner / "README.md"

    @property
    def tests(self) -> Path:
        return ROOT / "tests" / self.owner.relative_to(ROOT)


def hooks_in(file: Path) -> list[Hook]:
    """Return the functions in a file that `@hookspec` or `@hookspec(...)` marks."""
    return [
        Hook(owner=file.parents[2], function=statement)
        for statement in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef)
        and any("hookspec" in ast.unparse(each) for each in statement.decorator_list)
    ]


HOOKS = [hook for file in HOOKSPECS for hook in hooks_in(file)]
each_hook = pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.name)


def test_no_two_hooks_have_one_name() -> None:
    names = [hook.name for hook in HOOKS]

    assert len(names) == len(set(names)) > 10


@each_hook
def test_a_hook_is_described(hook: Hook) -> None:
    assert ast.get_docstring(hook.function)


@each_hook
def test_a_hook_has_plain_parameters_since_pluggy_passes_no_others(hook: Hook) -> None:
    arguments = hook.function.args

    assert arguments.kwonlyargs == []
    assert arguments.vararg is None
    assert arguments.kwarg is None


@each_hook
def test_a_hook_is_explained_in_the_page_about_hooks(hook: Hook) -> None:
    assert re.search(rf"`{hook.name}[`(]", hook.page.read_text(encoding="utf-8"))


@each_hook
def test_a_hook_is_used_by_a_test_of_its_distribution(hook: Hook) -> None:
    texts = [path.read_text(encoding="utf-8") for path in hook.tests.rglob("*.py")]

    assert any(re.search(rf"\b{hook.name}\b", text) for text in texts)
