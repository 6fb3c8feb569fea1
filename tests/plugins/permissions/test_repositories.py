"""What a repository's own configuration would run is never taken for reading."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from kaizen_permissions._commands import analyse

ORDINARY = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true ; as usual
# a comment that ends in a backslash \\
[remote "origin"]
\turl = https://example.com/ann/project.git
\tfetch = +refs/heads/*:refs/remotes/origin/*
[branch "main"]
\tremote = origin
\tmerge = refs/heads/main
[user]
\temail = ann@example.com
[submodule "lib"]
\tactive = true
\turl = https://example.com/ann/lib.git
[color] ui = auto
[pull]
\trebase
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    git = tmp_path / "project" / ".git"
    git.mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n", encoding="utf-8")
    (git / "config").write_text(ORDINARY, encoding="utf-8")
    return git.parent


def only_reads(command: str, root: Path) -> bool:
    return analyse(command, cwd=root, roots=[root]).only_reads


def add(root: Path, text: str, name: str = "config") -> None:
    with (root / ".git" / name).open("a", encoding="utf-8") as file:
        file.write(text)


@pytest.mark.parametrize("text", ["", "\n", "[core]\r\n\tbare = false\r\n"])
def test_an_ordinary_repository_is_read_unasked(text: str, root: Path) -> None:
    add(root, text)

    assert only_reads("git status && git diff | head", root)


@pytest.mark.parametrize(
    "text",
    [
        "[core]\n\tfsmonitor = ./evil\n",
        "[core] fsmonitor = ./evil\n",
        "[CORE]\nFSMONITOR=./evil\n",
        "[core]\nfsmonitor = tr\\\nue\n",
        "[core]\n; \\\nfsmonitor = ./evil\n",
        "[core]\n\thooksPath = .evil\n",
        "[core]\n\tsshCommand = ./evil\n",
        "[core]\n\tpager = ./evil\n",
        "[core]\n\tattributesFile = evil\n",
        "[pager]\n\tlog = ./evil\n",
        '[diff "x"]\n\tcommand = ./evil\n',
        '[diff "x"]\n\ttextconv = ./evil\n',
        '[diff "algorithm"]\n\talgorithm = ./evil\n',
        "[diff.x]\n\ttextconv = ./evil\n",
        "[diff]\n\texternal = ./evil\n",
        '[filter "x"]\n\tclean = ./evil\n',
        '[filter "x"]\n\tprocess = ./evil\n',
        "[gpg]\n\tprogram = ./evil\n",
        "[log]\n\tshowSignature = true\n",
        "[include]\n\tpath = evil\n",
        '[includeIf "gitdir:/"]\n\tpath = evil\n',
        "[alias]\n\tst = !./evil\n",
        "[credential]\n\thelper = ./evil\n",
        '[remote "origin"]\n\tuploadpack = ./evil\n',
        '[remote "origin"]\n\tpromisor = true\n',
        "[extensions]\n\tpartialClone = origin\n",
        "[core]\n\tworktree = /etc\n",
        "[lfs]\n\tcustomtransfer.x.path = ./evil\n",
        '[lfs "extension.x"]\n\tclean = ./evil\n',
        "[a][core]fsmonitor=./evil\n",
        "[core\n",
        "[core]\n\tfsmonitor = yes\n",
        "[core]\r\rfsmonitor = ./evil\n",
        "[unheard]\n\tof = 1\n",
        "[core]\n" + "#" * 300_000 + "\n",
    ],
)
@pytest.mark.parametrize("name", ["config", "config.worktree"])
def test_a_repository_that_may_run_something_is_asked_about(
    text: str, name: str, root: Path
) -> None:
    (root / "sub").mkdir()
    add(root, text, name)

    for command in ("git status", "git -C sub status", "cd sub && git log", "git diff"):
        assert not only_reads(command, root), command
    assert only_reads("ls", root)


def test_a_hook_that_runs_when_git_has_looked_is_asked_about(root: Path) -> None:
    (root / ".git" / "hooks").mkdir()
    (root / ".git" / "hooks" / "pre-commit").touch()
    assert only_reads("git status", root)

    (root / ".git" / "hooks" / "post-index-change").touch()

    assert not only_reads("git status", root)


def test_a_configuration_that_is_no_file_is_asked_about(root: Path) -> None:
    (root / ".git" / "config").unlink()
    assert only_reads("git status", root)

    os.mkfifo(root / ".git" / "config")

    assert not only_reads("git status", root)


def test_a_repository_that_git_passes_over_hides_none_around_it(root: Path) -> None:
    inner = root / "sub" / ".git"
    inner.mkdir(parents=True)
    (inner / "HEAD").write_text("no reference", encoding="utf-8")
    assert only_reads("git -C sub status", root)

    add(root, "[core]\n\tfsmonitor = ./evil\n")

    assert not only_reads("git -C sub status", root)


def git(folder: Path, *arguments: str) -> None:
    identity = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    names = {
        f"GIT_{who}_{what}": "ann@example.com"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        env={**os.environ, **identity, **names},
    )


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Make a repository with a worktree and a submodule, by git itself."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    for name in ("lib", "project"):
        (tmp_path / name).mkdir()
        git(tmp_path / name, "init", "-q", "-b", "main")
        (tmp_path / name / "a.txt").write_text("a\n", encoding="utf-8")
        git(tmp_path / name, "add", ".")
        git(tmp_path / name, "commit", "-q", "-m", "a")
    project = tmp_path / "project"
    git(project, "submodule", "--quiet", "add", str(tmp_path / "lib"), "lib")
    git(project, "worktree", "add", "-q", "tree")
    return project


@pytest.mark.parametrize("folder", [".", "lib", "tree"])
def test_what_git_itself_makes_is_read_unasked(folder: str, real: Path) -> None:
    assert only_reads(f"git -C {folder} status", real)


@pytest.mark.parametrize(
    ("config", "asked"),
    [
        (".git/config", {".", "tree"}),
        (".git/modules/lib/config", {".", "lib"}),
        (".git/worktrees/tree/config.worktree", {"tree"}),
    ],
)
def test_what_git_would_read_elsewhere_counts(
    config: str, asked: set[str], real: Path
) -> None:
    with (real / config).open("a", encoding="utf-8") as file:
        file.write("[core]\n\tfsmonitor = ./evil\n")

    found = {
        folder
        for folder in (".", "lib", "tree")
        if not only_reads(f"git -C {folder} status", real)
    }

    assert asked <= found


def test_a_repository_inside_that_is_in_the_index_counts(real: Path) -> None:
    (real / "inner").mkdir()
    git(real / "inner", "init", "-q")
    git(real / "inner", "commit", "-q", "--allow-empty", "-m", "a")
    git(real, "add", "inner")
    assert only_reads("git status", real)

    git(real / "inner", "config", "core.fsmonitor", "./evil")

    assert not only_reads("git status", real)


@pytest.mark.parametrize("option", ["--submodule=diff", "--submod=log", "--show-sig"])
def test_an_option_that_looks_into_other_repositories_or_runs_a_program_is_asked_about(
    option: str, root: Path
) -> None:
    assert not only_reads(f"git log -p {option}", root)
