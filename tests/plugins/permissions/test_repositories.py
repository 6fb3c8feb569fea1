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


def evil(folder: Path, *init: str) -> None:
    """Make a repository that runs a program whenever git looks into it."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q", *init)
    (folder / "f").touch()
    git(folder, "add", "f")
    git(folder, "commit", "-q", "-m", "f")
    git(folder, "config", "core.fsmonitor", "touch RAN; true")


def runs(folder: Path) -> bool:
    """Tell whether `git status` runs the program of a repository below."""
    git(folder, "status")
    return any(folder.rglob("RAN"))


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_names_that_are_hashed_in_another_way_hide_no_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--object-format=sha256")
    evil(tmp_path / "sub", "--object-format=sha256")
    git(tmp_path, "add", "sub")

    assert not only_reads("git status", tmp_path)
    assert runs(tmp_path)


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_a_moved_work_tree_hides_no_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    evil(tmp_path / "tree" / "sub")
    git(tmp_path, "config", "core.worktree", "../tree")
    git(tmp_path / "tree", "--git-dir=../.git", "--work-tree=.", "add", "sub")

    assert not only_reads("git status", tmp_path)
    assert runs(tmp_path)


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_a_repository_is_looked_at_in_each_work_tree_that_it_has(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    inner = tmp_path / "b"
    evil(inner / "sub")
    git(inner, "init", "-q")
    git(inner, "add", "sub")
    git(inner, "commit", "-q", "-m", "sub")
    (tmp_path / "a").mkdir()
    (inner / "sub").rename(tmp_path / "a" / "sub")
    (tmp_path / "a" / ".git").symlink_to("../b/.git")
    git(tmp_path, "add", "a", "b")

    assert not only_reads("git status", tmp_path)
    assert runs(tmp_path)


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n\n", "\r\r\n\n"], ids=repr)
def test_a_file_that_names_a_repository_is_read_as_git_reads_it(
    end: str, root: Path
) -> None:
    moved = root / "moved"
    (moved / ".git").mkdir(parents=True)
    (root / ".git").rename(moved / ".git" / "g")
    (moved / ".git" / "g" / "config").write_text(
        "[core]\n\tfsmonitor = ./evil\n", encoding="utf-8"
    )
    shown = moved / ".git" / f"g{end}".removesuffix("\n")
    shown.mkdir()
    (shown / "HEAD").write_text("ref: refs/heads/main\n", encoding="utf-8")

    (root / ".git").write_text(f"gitdir: moved/.git/g{end}", encoding="utf-8", newline="")

    assert not only_reads("git status", root)


def test_a_folder_that_itself_looks_like_a_repository_is_asked_about(root: Path) -> None:
    """Git passes over the `.git` of one, if it lacks something, and takes the folder."""
    inner = root / "bare"
    (inner / "sub" / ".git").mkdir(parents=True)
    for name in ("", "sub/.git/"):
        (inner / f"{name}HEAD").write_text("ref: refs/heads/main\n", encoding="utf-8")
    assert only_reads("git status", root)

    for folder in ("bare/sub", "bare"):
        assert not only_reads(f"git -C {folder} status", root), folder


def index(entries: list[tuple[bytes, int]], rest: bytes = b"") -> bytes:
    """Return an index of repositories, each with its name and what its flags say."""
    made = b"DIRC\0\0\0\2" + len(entries).to_bytes(4, "big")
    for name, flags in entries:
        entry = b"\0" * 24 + b"\0\0\xe0\0" + b"\0" * 32 + flags.to_bytes(2, "big") + name
        made += entry + b"\0" * (8 - len(entry) % 8)
    return made + rest + b"\0" * 20


@pytest.mark.parametrize(
    "data",
    [
        index([(b"a/../../x", 9)]),
        index([(b"/x", 2)]),
        index([(b"../x", 4)]),
        index([(b"a//x", 4)]),
        index([(b"./x", 3)]),
        index([(b".", 1)]),
        index([(b"", 0)]),
        index([(b"x", 40)]),
        index([(b"x", 0)]),
        index([(b"x", 1)], b"more"),
        index([(b"x", 1)], b"IEOT\0\0\0\4" + b"\0" * 4),
        index([(b"x", 1)], b"TREE\0\0\0\4" + b"\0" * 3),
        index([(b"x", 1)])[:-8],
        b"NONE" + index([(b"x", 1)])[4:],
    ],
    ids=lambda data: data[-33:].hex(),
)
def test_an_index_of_which_git_may_make_something_else_is_asked_about(
    data: bytes, root: Path
) -> None:
    known = index([(b"x", 1), (b"lib/y", 5)], b"TREE\0\0\0\4" + b"\0" * 4)
    (root / ".git" / "index").write_bytes(known)
    assert only_reads("git status", root)

    (root / ".git" / "index").write_bytes(data)

    assert not only_reads("git status", root)
