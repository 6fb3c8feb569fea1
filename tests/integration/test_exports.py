"""What others may import is exactly what `__all__` says, and it is described.

That each `__all__` is sorted is checked by ruff, rule RUF022.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "kernel" / "src", *sorted(ROOT.glob("plugins/*/src"))]
PACKAGES = [path.parent.name for source in SOURCES for path in source.glob("*/__init__.py")]


def public_modules(source: Path) -> list[str]:
    """Return the modules and packages below a folder of sources that are not private."""
    files = [file.relative_to(source) for file in sorted(source.rglob("*.py"))]
    names = [
        file.parent if file.name == "__init__.py" else file.with_suffix("")
        for file in files
    ]
    modules = [".".join(name.parts) for name in names]
    return [module for module in modules if "._" not in module]


MODULES = [name for source in SOURCES for name in public_modules(source)]
each_package = pytest.mark.parametrize("name", PACKAGES)
each_module = pytest.mark.parametrize("name", MODULES)


def exported(module: ModuleType) -> list[str]:
    names: list[str] = list(getattr(module, "__all__", ()))
    return names


def is_ours(thing: object) -> bool:
    return getattr(thing, "__module__", "").split(".")[0] in PACKAGES


@each_module
def test_every_exported_name_exists_once(name: str) -> None:
    module = importlib.import_module(name)

    names = exported(module)

    assert [each for each in names if not hasattr(module, each)] == []
    assert len(names) == len(set(names))


@each_package
def test_a_package_exports_every_public_name_that_it_imports_from_itself(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name
        for statement in ast.walk(tree)
        if isinstance(statement, ast.ImportFrom)
        and (statement.level > 0 or (statement.module or "").split(".")[0] == name)
        for alias in statement.names
    }

    public = {each for each in imported if not each.startswith("_")}

    assert public - set(exported(module)) == set()


@each_package
def test_a_package_exports_nothing_private_and_nothing_of_others(name: str) -> None:
    module = importlib.import_module(name)
    things = {each: getattr(module, each) for each in exported(module)}

    private = [each for each in things if each.startswith("_") and each != "__version__"]
    foreign = [
        each
        for each, thing in things.items()
        if (inspect.isclass(thing) or inspect.isroutine(thing)) and not is_ours(thing)
    ]

    assert private == []
    assert foreign == []


@each_module
def test_every_exported_class_and_function_is_described(name: str) -> None:
    module = importlib.import_module(name)
    things = [getattr(module, each) for each in exported(module)]
    ours = [
        thing
        for thing in things
        if (inspect.isclass(thing) or inspect.isroutine(thing)) and is_ours(thing)
    ]

    assert [thing.__qualname__ for thing in ours if not is_described(thing)] == []


def is_described(thing: type | object) -> bool:
    """Tell whether there is a docstring, and not the one that a dataclass gives itself."""
    text = thing.__dict__.get("__doc__") if isinstance(thing, type) else thing.__doc__
    return bool(text) and not str(text).startswith(f"{getattr(thing, '__name__', '')}(")


@each_module
def test_every_module_says_what_it_is_for(name: str) -> None:
    assert (importlib.import_module(name).__doc__ or "").strip()
