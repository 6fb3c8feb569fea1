"""Who imports what, and nothing in a file that is true of one machine only."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNEL = ROOT / "kernel"
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
FOLDERS = ["kernel", "plugins", "tests", "examples", "docs", ".ci"]

# What the kernel needs, and what comes with it for every plugin; `pydantic_core` is the
# half of pydantic that its documentation tells to import by that name.
ALLOWED = {"anyio", "pluggy", "pydantic", "pydantic_core"}
# Every Python's, where a module guards an import by version.
STANDARD_LIBRARY = sys.stdlib_module_names | {"annotationlib"}

each_plugin = pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
each_distribution = pytest.mark.parametrize(
    "folder", [KERNEL, *PLUGINS], ids=lambda folder: folder.name
)


def imports_of(file: Path) -> Iterator[str]:
    """Yield the first part of the name of each module that a file imports, anywhere."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), file)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def with_shared_parts(files: Iterable[Path]) -> set[Path]:
    """Return files of tests together with the files of `tests/` that they import."""
    found: set[Path] = set()
    left = list(files)
    while left:
        file = left.pop()
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), file)):
            if isinstance(node, ast.ImportFrom):
                left.extend(set(sources_of(node, file)) - found)
    return found


def sources_of(node: ast.ImportFrom, file: Path) -> Iterator[Path]:
    """Yield the files of ours that `from ... import ...` reads."""
    base = file.parents[node.level - 1] if node.level else ROOT
    module = base.joinpath(*(node.module or "").split("."))
    for path in [module, *(module / alias.name for alias in node.names)]:
        if path.with_suffix(".py").is_file():
            yield path.with_suffix(".py")


def third_parties(files: Iterable[Path]) -> set[str]:
    """Return what files import that is neither ours nor the standard library's."""
    found = {name for file in files for name in imports_of(file)}
    return {name for name in found if not name.startswith("kaizen")} - STANDARD_LIBRARY


def declared(folder: Path) -> set[str]:
    """Return the modules that come with what a distribution says it depends on."""
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    extras = project.get("optional-dependencies", {}).values()
    requirements = [*project["dependencies"], *(each for extra in extras for each in extra)]
    names = {normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}
    return {
        module
        for module, distributions in packages_distributions().items()
        if names & {normal(name) for name in distributions}
    }


def package(folder: Path) -> str:
    return "kaizen_" + folder.name.replace("-", "_")


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_the_kernel_imports_anyio_pluggy_and_pydantic_alone() -> None:
    files = [file for file in KERNEL.glob("src/**/*.py") if "testing" not in file.parts]

    assert third_parties(files) <= ALLOWED


def test_the_kernel_never_imports_asyncio() -> None:
    files = list(KERNEL.glob("src/**/*.py"))

    assert [file.name for file in files if "asyncio" in imports_of(file)] == []


def test_the_kernels_tools_for_tests_import_only_pytest_and_its_plugins() -> None:
    files = KERNEL.glob("src/kaizen/testing/**/*.py")

    assert third_parties(files) <= ALLOWED | {"pytest", "_pytest", "pytest_asyncio"}


@each_plugin
def test_a_plugin_imports_nothing_that_it_does_not_depend_on(folder: Path) -> None:
    assert third_parties(folder.glob("src/**/*.py")) <= ALLOWED | declared(folder)


@each_distribution
def test_the_tests_of_a_distribution_import_no_other_one(folder: Path) -> None:
    """They run where nothing else is installed, with what they share with other tests."""
    own = ROOT / "tests" / folder.relative_to(ROOT)
    files = with_shared_parts(own.rglob("*.py"))

    ours = {name for file in files for name in imports_of(file)} & {*map(package, PLUGINS)}

    assert ours <= {package(folder)}


@each_distribution
def test_importing_a_package_starts_nothing_and_changes_nothing(folder: Path) -> None:
    """No call stands alone at the top level of a module, unless it completes a class."""
    loose = [
        f"{file.relative_to(ROOT)}:{statement.lineno}"
        for file in folder.glob("src/**/*.py")
        if file.name != "__main__.py"
        for statement in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and ast.unparse(statement.value.func) != "setattr"
    ]

    assert loose == []


def our_files() -> list[Path]:
    """Return every text file of the repository, without what tools leave behind."""
    top = [path for path in ROOT.iterdir() if path.is_file() and path.name != "uv.lock"]
    below = [path for name in FOLDERS for path in (ROOT / name).rglob("*")]
    return [
        path
        for path in [*top, *below]
        if path.is_file()
        and not any(
            part == "__pycache__" or part.endswith(".egg-info") for part in path.parts
        )
        and b"\0" not in path.read_bytes()
    ]


def test_no_file_names_this_machine_or_a_package_index() -> None:
    here = [re.escape(str(ROOT)) + r"\b", re.escape(str(Path.home())) + r"/\w"]
    elsewhere = [r"(extra-index|index|find-links)-?url\s*[=:]"]
    pattern = re.compile("|".join([*here, *elsewhere, r"https?://\S*/simple\b"]))

    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in our_files()
        if path != Path(__file__)
        for match in pattern.finditer(path.read_text(encoding="utf-8"))
    ]

    assert found == []


PAGES = [
    path for path in our_files() if path.suffix == ".md" and "corpus" not in path.parts
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_between_our_pages_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(
        r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    )

    local = [target for target in targets if "://" not in target and "@" not in target]

    assert [target for target in local if not (page.parent / target).exists()] == []
