"""Nothing outside the roots is read, written or deleted, also while names are swapped."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from kaizen.errors import ToolError
from kaizen_tools import ToolsSettings
from kaizen_tools._file_tools import FileTools
from kaizen_tools._roots import Roots, find_open_beneath, walk_beneath

pytestmark = pytest.mark.asyncio

Toolbox: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]
RACE_S = 2.0


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that no root contains."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret.txt").write_text("SECRET", encoding="utf-8")
    return folder


@pytest.fixture(params=["openat2", "walk"])
def tools(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """The file tools over an empty directory, with each way to look paths up."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/a.txt").write_text("a", encoding="utf-8")
    way = walk_beneath if request.param == "walk" else None
    call: Any = request.getfixturevalue("call")
    with Roots.opened([Path()], open_beneath=way) as roots:
        if way is None and find_open_beneath(os.open(".", os.O_RDONLY)) is walk_beneath:
            pytest.fail("this system has no openat2, which the test is about")
        by_name = FileTools(roots, ToolsSettings()).tools()
        yield lambda name, **arguments: call(by_name[name], **arguments)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def link_by_way_of(step: Path, outside: Path, name: str) -> None:
    step.symlink_to(outside)
    Path("x").symlink_to(step.relative_to(Path.cwd()) / name)


LINKS: dict[str, Callable[[Path, Path], object]] = {
    "to a file": lambda root, outside: (root / "x").symlink_to(outside / "secret.txt"),
    "to a directory": lambda root, outside: (root / "x").symlink_to(outside),
    "relative": lambda root, outside: (root / "x").symlink_to(
        os.path.relpath(outside / "secret.txt", root)
    ),
    "in two steps": lambda root, outside: link_by_way_of(root / "y", outside, "secret.txt"),
    "below a directory": lambda root, outside: link_by_way_of(
        root / "inside/y", outside, "secret.txt"
    ),
    "out and in again": lambda root, outside: (root / "x").symlink_to(
        f"../{root.name}/inside/a.txt"
    ),
    "absolute into the root": lambda root, outside: (root / "x").symlink_to(
        root / "inside/a.txt"
    ),
    "through proc": lambda root, outside: (root / "x").symlink_to("/proc/1/root"),
    "through a descriptor": lambda root, outside: (root / "x").symlink_to(
        f"/proc/self/fd/{os.open(outside, os.O_RDONLY)}"
    ),
    "to itself": lambda root, outside: (root / "x").symlink_to("x"),
    "to the root of all": lambda root, outside: (root / "x").symlink_to("/"),
}


@pytest.mark.parametrize("kind", LINKS)
async def test_no_link_leads_out(
    tools: Callable[..., Any], tmp_path: Path, outside: Path, kind: str
) -> None:
    LINKS[kind](tmp_path, outside)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("read_file", {"path": "x"}),
        ("read_file", {"path": "x/secret.txt"}),
        ("read_file", {"path": "x/passwd"}),
        ("write_file", {"path": "x", "content": "OVERWRITTEN"}),
        ("write_file", {"path": "x/new.txt", "content": "OVERWRITTEN"}),
        ("write_file", {"path": "x/new/new.txt", "content": "OVERWRITTEN"}),
        ("edit_file", {"path": "x", "old": "SECRET", "new": "OVERWRITTEN"}),
        ("delete_file", {"path": "x/secret.txt"}),
        ("list_directory", {"path": "x"}),
        ("grep", {"pattern": "SECRET", "path": "x"}),
        ("search_files", {"path": "x"}),
    ]

    for name, arguments in calls:
        with pytest.raises(ToolError):
            await tools(name, **arguments)
    walked = [
        await tools("grep", pattern="SECRET|root:"),
        await tools("search_files", pattern="**"),
        await tools("list_directory", recursive=True),
    ]

    assert names_in(outside) == ["secret.txt"]
    assert (outside / "secret.txt").read_text(encoding="utf-8") == "SECRET"
    assert walked[0]["matches"] == []
    assert walked[1]["matches"] == ["inside/a.txt"]
    assert all("secret" not in entry["name"] for entry in walked[2]["entries"])


async def test_deleting_a_link_leaves_what_it_leads_to(
    tools: Callable[..., Any], tmp_path: Path, outside: Path
) -> None:
    (tmp_path / "x").symlink_to(outside / "secret.txt")

    await tools("delete_file", path="x")

    assert not (tmp_path / "x").is_symlink()
    assert (outside / "secret.txt").exists()


async def test_a_link_that_stays_inside_is_followed(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.txt").write_text("inside", encoding="utf-8")
    (tmp_path / "x").symlink_to("deep")
    (tmp_path / "deep/y").symlink_to("../deep/a.txt")

    async with toolbox() as call:
        texts = [await call("read_file", path=path) for path in ("x/a.txt", "x/y")]
        await call("write_file", path="x/b.txt", content="new")

    assert texts == ["inside", "inside"]
    assert (tmp_path / "deep/b.txt").exists()


def spellings(outside: Path) -> list[str]:
    up = "../" * 20
    target = str(outside / "secret.txt")
    return [
        target,
        f"/{target}",
        f"///{target}",
        f"{up}{target}",
        f"inside/{up}{target}",
        f"inside/./../.././{up}{target}",
        f"nowhere/{up}{target}",
        "..",
        "../",
        "../outside",
        f"../{outside.name}/secret.txt",
        f"inside/../../{outside.name}/secret.txt",
        "/etc/passwd",
        "/proc/self/environ",
        "/proc/self/cwd/../../etc/passwd",
        "/dev/zero",
        "/",
        "~/.ssh/id_rsa",
        "file:///etc/passwd",
        "..\\..\\etc\\passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "．．/．．/etc/passwd",
        "inside/a.txt/../../../etc/passwd",
    ]


async def test_no_spelling_of_a_path_leads_out(
    tools: Callable[..., Any], outside: Path
) -> None:
    for path in spellings(outside):
        for name in ("read_file", "list_directory", "delete_file"):
            with pytest.raises(ToolError):
                await tools(name, path=path)

    assert (outside / "secret.txt").exists()


async def test_a_root_that_is_a_file_gives_nothing_beside_it(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    (tmp_path / "open.txt").write_text("open", encoding="utf-8")
    (tmp_path / "closed.txt").write_text("closed", encoding="utf-8")

    async with toolbox(roots=["open.txt"]) as call:
        text = await call("read_file", path="open.txt")
        listed = await call("list_directory")
        found = await call("grep", pattern=".")
        for path in ("closed.txt", "open.txt/../closed.txt", "./closed.txt", "open.txt/x"):
            with pytest.raises(ToolError, match="outside the roots"):
                await call("read_file", path=path)
            with pytest.raises(ToolError, match="outside the roots"):
                await call("write_file", path=path, content="changed")

    assert text == "open"
    assert listed["entries"] == [{"name": "open.txt", "type": "file", "size": 4}]
    assert [each["path"] for each in found["matches"]] == ["open.txt"]


async def test_a_root_may_be_a_link_since_an_operator_named_it(
    toolbox: Toolbox, tmp_path: Path, outside: Path
) -> None:
    (tmp_path / "shared").symlink_to(outside)
    (tmp_path / "one.txt").symlink_to(outside / "secret.txt")

    async with toolbox(roots=["shared", "one.txt"]) as call:
        texts = [
            await call("read_file", path=path)
            for path in ("shared/secret.txt", "one.txt", str(outside / "secret.txt"))
        ]

    assert texts == ["SECRET"] * 3


async def test_what_is_no_regular_file_is_refused_without_waiting(
    toolbox: Toolbox, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        if os.geteuid() == 0:
            os.mknod(tmp_path / "device", 0o600 | 0o020000, os.makedev(1, 5))
        names = [
            name for name in names_in(tmp_path) if name in ("pipe", "socket", "device")
        ]

        with anyio.fail_after(10):
            async with toolbox() as call:
                for path in names:
                    with pytest.raises(ToolError, match="not a regular file"):
                        await call("read_file", path=path)
                    with pytest.raises(ToolError, match="not a regular file"):
                        await call("write_file", path=path, content="x")
                    with pytest.raises(ToolError, match="not a regular file"):
                        await call("delete_file", path=path)
                found = await call("grep", pattern=".")

    assert found["matches"] == []
    assert {"pipe", "socket"} <= set(names)


async def test_the_root_stays_the_directory_that_it_was(
    toolbox: Toolbox, tmp_path: Path, outside: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/secret.txt").write_text("mine", encoding="utf-8")

    async with toolbox(roots=["root"]) as call:
        before = await call("read_file", path="root/secret.txt")
        (tmp_path / "root").rename(tmp_path / "moved")
        (tmp_path / "root").symlink_to(outside)
        after = await call("read_file", path="root/secret.txt")

    assert (before, after) == ("mine", "mine")


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Exchange two names as fast as possible, from another thread."""
    libc = ctypes.CDLL(None)
    names = (os.fsencode(one), os.fsencode(other))
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            libc.renameat2(-100, names[0], -100, names[1], 2)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


async def test_a_race_reads_and_writes_nothing_outside(
    tools: Callable[..., Any], tmp_path: Path, outside: Path
) -> None:
    folder, link = tmp_path / "x", tmp_path / "y"
    folder.mkdir()
    (folder / "secret.txt").write_text("mine", encoding="utf-8")
    link.symlink_to(outside)
    seen: dict[str, int] = {}
    written = 0

    with swapping(folder, link), anyio.move_on_after(RACE_S):
        while True:
            try:
                text = await tools("read_file", path="x/secret.txt")
                seen[text] = seen.get(text, 0) + 1
                found = await tools("grep", pattern="SECRET")
                assert found["matches"] == []
                await tools("write_file", path="x/new/a.txt", content="OVERWRITTEN")
                written += 1
                await tools("delete_file", path="x/new/a.txt")
            except ToolError:
                seen["refused"] = seen.get("refused", 0) + 1

    assert names_in(outside) == ["secret.txt"]
    assert (outside / "secret.txt").read_text(encoding="utf-8") == "SECRET"
    assert set(seen) == {"mine", "refused"}
    assert written > 0


async def test_no_descriptor_stays_open(toolbox: Toolbox, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n" * 10, encoding="utf-8")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/b.txt").write_text("a\n" * 10, encoding="utf-8")
    (tmp_path / "x").symlink_to("/etc")

    async with toolbox() as call:
        await call("grep", pattern="a")
        before = len(names_in(Path("/proc/self/fd")))
        for _ in range(20):
            await call("grep", pattern="a", limit=1)
            await call("list_directory", recursive=True, limit=1)
            await call("write_file", path="new/c.txt", content="c")
            for path in ("x/passwd", "missing", "deep", "a.txt/b"):
                with pytest.raises(ToolError):
                    await call("read_file", path=path)
                with pytest.raises(ToolError):
                    await call("edit_file", path=path, old="a", new="b")
        after = len(names_in(Path("/proc/self/fd")))
    closed = len(names_in(Path("/proc/self/fd")))

    assert after == before
    assert closed == before - 1


async def test_a_search_ends_when_it_is_cancelled(toolbox: Toolbox, tmp_path: Path) -> None:
    for number in range(2_000):
        (tmp_path / f"{number}.txt").write_text("needle\n" * 2_000, encoding="utf-8")

    async with toolbox(search_timeout_s=60) as call:
        await call("grep", pattern="needle", path="0.txt")
        before = anyio.current_time()
        with anyio.move_on_after(0.01) as scope:
            await call("grep", pattern="(n.*e.*d.*l.*e){9}x")
        took = anyio.current_time() - before

    assert scope.cancelled_caught
    assert took < 2
