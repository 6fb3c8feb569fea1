"""Reading, writing and searching files, through the tools."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from kaizen.errors import PluginError, ToolArgumentsError, ToolError
from pydantic_core import to_json

pytestmark = pytest.mark.asyncio

Toolbox: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small project."""
    for name, text in {
        "README.md": "# Title\n\nSome words.\n",
        "docs/guide.md": "one\ntwo needle\nthree\n",
        "docs/deep/more.txt": "Needle here\r\nand there\r\n",
        "src/main.py": "def main():\n    return 'needle'\n",
        ".git/config": "needle\n",
        "node_modules/x/index.js": "needle\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    (tmp_path / "picture.bin").write_bytes(b"\x89PNG\0needle\n")
    return tmp_path


async def test_a_directory_is_listed_sorted_with_type_and_size(
    toolbox: Toolbox, tree: Path
) -> None:
    (tree / "a-link").symlink_to("README.md")
    os.mkfifo(tree / "a-pipe")

    async with toolbox() as call:
        listed = await call("list_directory")

    assert listed["path"] == "."
    assert listed["truncated"] is False
    assert [entry["name"] for entry in listed["entries"]] == names_in(tree)
    kinds = {entry["name"]: (entry["type"], entry["size"]) for entry in listed["entries"]}
    assert kinds["README.md"] == ("file", 21)
    assert kinds["docs"] == ("directory", 0)
    assert kinds["a-link"] == ("link", 0)
    assert kinds["a-pipe"] == ("other", 0)


async def test_a_recursive_list_shows_relative_paths_and_enters_no_skipped_directory(
    toolbox: Toolbox, tree: Path
) -> None:
    async with toolbox() as call:
        listed = await call("list_directory", recursive=True)
        below = await call("list_directory", path="docs", recursive=True)

    names = [entry["name"] for entry in listed["entries"]]
    assert "docs/deep/more.txt" in names
    assert ".git" in names
    assert ".git/config" not in names
    assert [entry["name"] for entry in below["entries"]] == [
        "deep",
        "deep/more.txt",
        "guide.md",
    ]


async def test_a_list_is_cut_at_its_limit_and_says_so(toolbox: Toolbox, tree: Path) -> None:
    async with toolbox() as call:
        listed = await call("list_directory", limit=2)

    assert len(listed["entries"]) == 2
    assert listed["truncated"] is True


async def test_several_roots_are_listed_by_what_a_model_calls_them(
    toolbox: Toolbox, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "far.txt").write_text("far\n", encoding="utf-8")

    async with toolbox(roots=["README.md", "docs", str(other)]) as call:
        listed = await call("list_directory")
        found = await call("search_files")
        text = await call("read_file", path="docs/guide.md")
        far = await call("read_file", path=f"{other}/far.txt")
        own = await call("read_file", path=f"{tree}/README.md")
        with pytest.raises(ToolError, match=r"outside the roots: 'README\.md', 'docs'"):
            await call("read_file", path="src/main.py")
        with pytest.raises(ToolError, match="outside the roots"):
            await call("list_directory", path="src")

    assert {entry["name"]: entry["type"] for entry in listed["entries"]} == {
        "README.md": "file",
        "docs": "directory",
        str(other): "directory",
    }
    assert found["matches"] == [
        f"{other}/far.txt",
        "README.md",
        "docs/deep/more.txt",
        "docs/guide.md",
    ]
    assert (text, far) == ("one\ntwo needle\nthree\n", "far\n")
    assert own.startswith("# Title")


async def test_a_root_inside_another_is_searched_once(toolbox: Toolbox, tree: Path) -> None:
    async with toolbox(roots=["docs", ".", "README.md"]) as call:
        found = await call("search_files", pattern="*.md")
        listed = await call("list_directory")

    assert found["matches"] == ["README.md", "docs/guide.md"]
    assert [each["name"] for each in listed["entries"]].count("docs") == 1


async def test_the_working_directory_inside_a_larger_root_is_only_itself(
    toolbox: Toolbox, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree / "docs")

    async with toolbox(roots=[".."]) as call:
        listed = await call("list_directory")
        found = await call("search_files")
        above = await call("read_file", path="../README.md")

    assert [each["name"] for each in listed["entries"]] == ["deep", "guide.md"]
    assert len(found["matches"]) == 2
    assert above.startswith("# Title")


async def test_an_empty_path_is_the_working_directory(toolbox: Toolbox, tree: Path) -> None:
    """As rules about paths take it."""
    async with toolbox(roots=["docs", "src"]) as call:
        for name in ("list_directory", "search_files"):
            empty, here = [await call(name, path=path) for path in ("", ".")]
            assert {**empty, "path": "."} == {**here, "path": "."}
        for name in ("read_file", "delete_file"):
            with pytest.raises(ToolError, match="outside the roots"):
                await call(name, path="")


async def test_listing_a_file_says_that_it_is_one(toolbox: Toolbox, tree: Path) -> None:
    async with toolbox() as call:
        with pytest.raises(ToolError, match=r"is a file, not a directory. Use read_file"):
            await call("list_directory", path="README.md")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*", ["README.md", "docs/deep/more.txt", "docs/guide.md", "picture.bin"]),
        ("*.md", ["README.md", "docs/guide.md"]),
        ("docs/*", ["docs/guide.md"]),
        ("docs/", ["docs/deep/more.txt", "docs/guide.md"]),
        ("docs/**", ["docs/deep/more.txt", "docs/guide.md"]),
        ("**/deep/*.txt", ["docs/deep/more.txt"]),
        ("*.{bin,txt}", ["docs/deep/more.txt", "picture.bin"]),
        ("[!a-o]*.bin", ["picture.bin"]),
        ("?EADME.md", ["README.md"]),
        ("README.m(d", []),
        (".git/**", [".git/config"]),
        ("nothing", []),
    ],
)
async def test_files_are_found_by_a_glob(
    toolbox: Toolbox, tree: Path, pattern: str, expected: list[str]
) -> None:
    async with toolbox(skip=[".git", "node_modules", "src"]) as call:
        found = await call("search_files", pattern=pattern)

    assert found == {"matches": expected, "truncated": False}


async def test_lines_are_found_with_path_number_and_text(
    toolbox: Toolbox, tree: Path
) -> None:
    async with toolbox() as call:
        found = await call("grep", pattern="needle")
        any_case = await call("grep", pattern="^NEEDLE", ignore_case=True)
        in_python = await call("grep", pattern=r"re\w+ 'n", glob="*.py")
        in_file = await call("grep", pattern="e{2}dle$", path="docs/guide.md")

    assert found == {
        "matches": [
            {"path": "docs/guide.md", "line": 2, "text": "two needle"},
            {"path": "src/main.py", "line": 2, "text": "    return 'needle'"},
        ],
        "truncated": False,
    }
    assert [(each["path"], each["text"]) for each in any_case["matches"]] == [
        ("docs/deep/more.txt", "Needle here")
    ]
    assert [each["path"] for each in in_python["matches"]] == ["src/main.py"]
    assert [each["line"] for each in in_file["matches"]] == [2]


async def test_lines_come_with_their_neighbours_if_wanted(
    toolbox: Toolbox, tree: Path
) -> None:
    async with toolbox() as call:
        found = await call("grep", pattern="two", context=5)

    assert found["matches"] == [
        {
            "path": "docs/guide.md",
            "line": 2,
            "text": "two needle",
            "before": ["one"],
            "after": ["three"],
        }
    ]


async def test_every_line_is_numbered_right_in_a_long_file(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    lines = [
        f"line {number} {'mark' if number % 977 == 0 else ''}" for number in range(40_000)
    ]
    (tmp_path / "long.txt").write_text("\n".join(lines), encoding="utf-8")

    async with toolbox() as call:
        found = await call("grep", pattern="mark$")
        empty = await call("grep", pattern="^$")
        every = await call("grep", pattern="", limit=10_000)

    assert [each["line"] for each in found["matches"]] == [
        number + 1 for number in range(40_000) if number % 977 == 0
    ]
    assert empty["matches"] == []
    assert every["truncated"] is True
    assert [each["line"] for each in every["matches"][:3]] == [1, 2, 3]


async def test_a_pattern_never_reaches_across_lines(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n", encoding="utf-8")

    async with toolbox() as call:
        across = await call("grep", pattern=r"one\s+two")
        negated = await call("grep", pattern="[^x]+")
        blank = await call("grep", pattern="^$")

    assert across["matches"] == []
    assert [each["line"] for each in negated["matches"]] == [1, 2, 4]
    assert [each["line"] for each in blank["matches"]] == [3]


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$",
        r"(a|aa)+$",
        r"(.*a){25}",
        r"(x+x+)+y",
        r"^(([a-z])+.)+[A-Z]([a-z])+$",
        r".*.*.*=.*",
    ],
)
async def test_a_pattern_that_explodes_elsewhere_is_quick_here(
    toolbox: Toolbox, tmp_path: Path, pattern: str
) -> None:
    (tmp_path / "a.txt").write_text("a" * 60_000 + "!\n" + "x" * 60_000, encoding="utf-8")

    async with toolbox(search_timeout_s=5) as call:
        found = await call("grep", pattern=pattern)

    assert found["truncated"] is False


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(a", "is not valid: missing"),
        (r"(?=a)b", "is not valid"),
        (r"(a)\1", "is not valid"),
        ("a" * 2_000, "is over 1000 characters"),
        ("((((a{100}){10}){10}){10})", "is not valid|is too large"),
        ("(.{1,700})z", "is too large"),
    ],
)
async def test_a_pattern_that_is_none_is_explained(
    toolbox: Toolbox, pattern: str, problem: str
) -> None:
    async with toolbox() as call:
        with pytest.raises(ToolError, match=problem):
            await call("grep", pattern=pattern)


async def test_a_long_line_is_cut_around_its_match(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("x" * 5_000 + "NEEDLE" + "y" * 5_000, encoding="utf-8")

    async with toolbox() as call:
        found = await call("grep", pattern="NEEDLE")

    (match,) = found["matches"]
    assert "NEEDLE" in match["text"]
    assert "[cut: 400 of 10006 characters shown]" in match["text"]


async def test_results_fit_into_the_longest_output_and_stay_valid_json(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    for number in range(600):
        name = f"{number:04d}-" + "ü\n" * 40 + ".txt"
        (tmp_path / name).write_text('"\\\n' * 20, encoding="utf-8")

    async with toolbox(max_output_chars=10_000) as call:
        results = [
            await call("list_directory", limit=10_000),
            await call("search_files", limit=10_000),
            await call("grep", pattern=".", limit=10_000, context=3),
        ]

    for result in results:
        assert result["truncated"] is True
        assert 5_000 < len(to_json(result).decode()) <= 10_000


async def test_a_text_is_read_as_it_stands(toolbox: Toolbox, tmp_path: Path) -> None:
    text = "ä 日本\r\n\tnext\x0c\u2028 end"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "empty.txt").touch()

    async with toolbox() as call:
        assert await call("read_file", path="a.txt") == text
        assert await call("read_file", path="./a.txt") == text
        assert await call("read_file", path=str(tmp_path / "a.txt")) == text
        assert await call("read_file", path="empty.txt") == ""


async def test_a_file_is_read_to_its_end_by_following_the_marks(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    lines = [f"line {number}" for number in range(1, 5_322)]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    async with toolbox() as call:
        first = await call("read_file", path="a.txt")
        second = await call("read_file", path="a.txt", start_line=2001)
        last = await call("read_file", path="a.txt", start_line=4001)
        few = await call("read_file", path="a.txt", start_line=10, max_lines=2)

    mark = "[cut: lines 2001-5321 of 5321 not shown; continue with start_line=2001]"
    assert first == "\n".join([*lines[:2000], mark])
    assert second.splitlines()[:2000] == lines[2000:4000]
    assert last == "\n".join(lines[4000:]) + "\n"
    assert few.splitlines()[:2] == ["line 10", "line 11"]


async def test_lines_that_do_not_fit_are_left_for_the_next_read(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text(f"{'a' * 6_000}\n{'b' * 6_000}\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("c" * 50_000, encoding="utf-8")

    async with toolbox(max_output_chars=10_000) as call:
        first = await call("read_file", path="a.txt")
        second = await call("read_file", path="a.txt", start_line=2)
        long = await call("read_file", path="b.txt")

    assert first.endswith("[cut: lines 2-2 of 2 not shown; continue with start_line=2]")
    assert second == "b" * 6_000 + "\n"
    assert len(long) <= 10_000
    assert "of 50000 characters of line 1 shown; it is the last line]" in long


async def test_a_line_behind_the_end_is_explained(toolbox: Toolbox, tree: Path) -> None:
    async with toolbox() as call:
        with pytest.raises(ToolError, match="has 3 lines, and line 9 was asked for"):
            await call("read_file", path="README.md", start_line=9)


async def test_what_is_no_text_is_not_read(toolbox: Toolbox, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("grün".encode("latin-1"))
    (tmp_path / "zero.txt").write_bytes(b"a\0b")

    async with toolbox() as call:
        with pytest.raises(ToolError, match="not UTF-8 text: byte 0xfc at offset 2"):
            await call("read_file", path="latin.txt")
        with pytest.raises(ToolError, match="contains NUL"):
            await call("read_file", path="zero.txt")


async def test_a_file_that_is_too_large_is_neither_read_nor_written(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("x" * 1_001, encoding="utf-8")

    async with toolbox(max_file_bytes=1_000) as call:
        with pytest.raises(ToolError, match="at most 1000 are handled"):
            await call("read_file", path="a.txt")
        with pytest.raises(ToolError, match="at most 1000 are handled"):
            await call("write_file", path="b.txt", content="y" * 1_001)

    assert not (tmp_path / "b.txt").exists()


async def test_a_file_is_written_and_missing_directories_are_made(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    async with toolbox() as call:
        written = await call("write_file", path="new/deep/a.txt", content="grün\n")
        again = await call("write_file", path="new/deep/a.txt", content="rot\n")

    assert written == {"path": "new/deep/a.txt", "bytes": 6}
    assert again["bytes"] == 4
    assert (tmp_path / "new/deep/a.txt").read_bytes() == b"rot\n"
    assert names_in(tmp_path / "new/deep") == ["a.txt"]


async def test_a_read_only_file_is_not_replaced(toolbox: Toolbox, tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("old", encoding="utf-8")
    kept.chmod(0o444)

    async with toolbox() as call:
        with pytest.raises(ToolError, match=r"kept\.txt.*is read-only"):
            await call("write_file", path="kept.txt", content="new")
        with pytest.raises(ToolError, match=r"kept\.txt.*is read-only"):
            await call("edit_file", path="kept.txt", old="old", new="new")

    assert kept.read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == ["kept.txt"]


async def test_a_replaced_file_keeps_its_owner(toolbox: Toolbox, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old", encoding="utf-8")
    owner = (12_345, 12_346) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(file, *owner)

    async with toolbox() as call:
        await call("write_file", path="a.txt", content="new")

    assert (file.stat().st_uid, file.stat().st_gid) == owner
    assert file.read_text(encoding="utf-8") == "new"


async def test_a_replaced_file_keeps_its_mode_and_a_new_one_follows_the_umask(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    script = tmp_path / "run.sh"
    script.write_text("old", encoding="utf-8")
    script.chmod(0o750)

    before = os.umask(0o027)
    try:
        async with toolbox() as call:
            await call("write_file", path="run.sh", content="new")
            await call("write_file", path="fresh.txt", content="new")
    finally:
        os.umask(before)

    assert stat.S_IMODE(script.stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "fresh.txt").stat().st_mode) == 0o640


async def test_a_write_leaves_other_names_of_the_same_file_alone(
    toolbox: Toolbox, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "precious.txt"
    outside.write_text("precious", encoding="utf-8")
    (tmp_path / "a.txt").hardlink_to(outside)

    async with toolbox() as call:
        await call("write_file", path="a.txt", content="mine")

    assert outside.read_text(encoding="utf-8") == "precious"


async def test_a_write_that_fails_leaves_nothing_behind(
    toolbox: Toolbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("old", encoding="utf-8")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    async with toolbox() as call:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ToolError, match="the disk is full"):
            await call("write_file", path="a.txt", content="new")

    assert names_in(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"


async def test_an_edit_replaces_what_occurs_as_often_as_said(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    path = tmp_path / "a.py"
    path.write_text("x = 1\ny = 1\nx = 1\n", encoding="utf-8")

    async with toolbox() as call:
        one = await call("edit_file", path="a.py", old="y = 1", new="y = 2")
        with pytest.raises(ToolError, match="occurs 2 times, and exactly 1 was expected"):
            await call("edit_file", path="a.py", old="x = 1", new="x = 3")
        with pytest.raises(ToolError, match="occurs 0 times"):
            await call("edit_file", path="a.py", old="z", new="x", replace_all=True)
        two = await call("edit_file", path="a.py", old="x = 1", new="x = 4", count=2)
        every = await call("edit_file", path="a.py", old=" = ", new="=", replace_all=True)

    assert [one["replacements"], two["replacements"], every["replacements"]] == [1, 2, 3]
    assert path.read_text(encoding="utf-8") == "x=4\ny=2\nx=4\n"


async def test_an_edit_is_told_of_other_line_ends(toolbox: Toolbox, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\r\nb\r\n")

    async with toolbox() as call:
        with pytest.raises(ToolError, match=r"its lines end with \\r\\n"):
            await call("edit_file", path="a.txt", old="a\nb", new="c")


async def test_a_file_is_deleted_and_a_directory_is_not(
    toolbox: Toolbox, tree: Path
) -> None:
    async with toolbox() as call:
        deleted = await call("delete_file", path="README.md")
        with pytest.raises(ToolError, match="is a directory, not a file"):
            await call("delete_file", path="docs")
        with pytest.raises(ToolError, match="does not exist"):
            await call("delete_file", path="README.md")
        with pytest.raises(ToolError, match="is a root"):
            await call("delete_file", path=".")

    assert deleted == {"path": "README.md", "deleted": True}
    assert not (tree / "README.md").exists()
    assert (tree / "docs").is_dir()


async def test_what_exists_is_told_with_its_type(toolbox: Toolbox, tree: Path) -> None:
    (tree / "nowhere").symlink_to("missing")

    async with toolbox() as call:
        answers = {
            path: await call("file_exists", path=path)
            for path in (".", "docs", "README.md", "nowhere", "missing", "README.md/x")
        }

    assert {path: (each["exists"], each["type"]) for path, each in answers.items()} == {
        ".": (True, "directory"),
        "docs": (True, "directory"),
        "README.md": (True, "file"),
        "nowhere": (True, "link"),
        "missing": (False, ""),
        "README.md/x": (False, ""),
    }


@pytest.mark.parametrize("path", ["a\0b", "a" * 5_000, "\ud800", "x" * 300])
async def test_a_path_that_is_none_is_explained(toolbox: Toolbox, path: str) -> None:
    async with toolbox() as call:
        with pytest.raises(ToolError, match=r"path|JSON cannot hold") as caught:
            await call("read_file", path=path)

    assert len(str(caught.value)) < 1_000
    json.dumps(str(caught.value))


async def test_arguments_out_of_bounds_are_refused(toolbox: Toolbox) -> None:
    async with toolbox() as call:
        for arguments in ({"limit": 0}, {"limit": 10_001}, {"recursive": "perhaps"}):
            with pytest.raises(ToolArgumentsError):
                await call("list_directory", **arguments)


async def test_a_root_that_does_not_exist_stops_the_kernel(toolbox: Toolbox) -> None:
    with pytest.raises(PluginError, match="the root 'missing' does not exist"):
        async with toolbox(roots=["missing"]):
            pass


async def test_a_search_that_takes_too_long_gives_what_it_has(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    for number in range(50):
        folder = tmp_path / f"d{number}"
        folder.mkdir()
        (folder / "a.txt").write_text("needle\n" * 20_000, encoding="utf-8")

    async with toolbox(search_timeout_s=0.001) as call:
        found = await call("grep", pattern="nothing like it")

    assert found["truncated"] is True


async def test_a_directory_tree_without_end_is_left(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    place = tmp_path
    for _ in range(100):
        place = place / "d"
    place.mkdir(parents=True)
    (place / "deep.txt").touch()
    (tmp_path / "e.txt").touch()

    async with toolbox() as call:
        found = await call("search_files")

    assert found == {"matches": ["e.txt"], "truncated": True}
