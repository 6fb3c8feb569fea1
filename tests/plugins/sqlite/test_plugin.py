"""The store as users of a kernel have it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import kaizen_sqlite
import pytest
from kaizen import CheckpointStore, Kernel
from kaizen.errors import StorageUnavailableError
from kaizen_sqlite import SqlitePlugin, SqliteStorage


def content(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.mark.anyio
async def test_the_store_is_found_by_its_name_and_closed_with_the_kernel(
    path: Path,
) -> None:
    plugin = SqlitePlugin(SqlitePlugin.Settings(path=path))
    async with Kernel(
        plugins=[plugin], discover=False, config_file=False, environ={}
    ) as kernel:
        store = await kernel.get(CheckpointStore, "sqlite")  # type: ignore[type-abstract]
        assert isinstance(store, SqliteStorage)
        await store.send("run", b"hello")
        assert list(await store.receive(["run"])) == [("run", b"hello")]

    with pytest.raises(StorageUnavailableError, match="is closed"):
        await store.runs()


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("/data", "/data/kaizen/kaizen.db"),
        ("", "~/.local/share/kaizen/kaizen.db"),
        ("not/absolute", "~/.local/share/kaizen/kaizen.db"),
    ],
)
def test_by_default_the_file_is_among_the_data_of_its_user(
    variable: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", variable)
    assert SqlitePlugin.Settings().path == Path(expected)


@pytest.mark.anyio
async def test_a_file_may_have_any_name_and_is_only_ever_a_file(tmp_path: Path) -> None:
    names = ["a b?mode=ro#x%41.db", ":memory:", "ä'\"; DROP TABLE run"]
    for name in names:
        for _ in range(2):
            async with SqliteStorage(tmp_path / name) as store:
                await store.send("run", b"hello")

    assert sorted(each.name for each in content(tmp_path)) == sorted(names)


NO_FILES = [":memory:", "", "sqlite:///runs.db", "file:runs.db?mode=ro", "https://x/y"]


@pytest.mark.parametrize("path", NO_FILES)
def test_what_is_no_path_of_a_file_is_refused_with_the_way_out(path: str) -> None:
    help_ = "MemoryCheckpointStore|give the path alone"
    with pytest.raises(ValueError, match=help_):
        SqliteStorage(path)
    if path:  # in a setting, that is the working directory
        with pytest.raises(ValueError, match=help_):
            SqlitePlugin.Settings.model_validate({"path": path})


def test_a_path_on_a_drive_is_no_address() -> None:
    assert "runs.db" in repr(SqliteStorage("C:/data/runs.db"))


@pytest.mark.anyio
@pytest.mark.parametrize("below", ["runs.db", "more/runs.db"])
async def test_a_path_below_a_file_is_named_as_that(tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.touch()

    with pytest.raises(StorageUnavailableError, match="is a file, not a folder") as caught:
        await SqliteStorage(file / below).runs()

    assert repr(str(file)) in str(caught.value)


@pytest.mark.anyio
async def test_a_slip_in_a_program_is_no_failure_of_the_store(path: Path) -> None:
    async with SqliteStorage(path) as store:
        await store.send("run", b"hello")
        slips: list[Callable[[Any], Awaitable[object]]] = [
            lambda wrong: store.runs(limit=wrong),
            lambda wrong: store.read("run", start=wrong),
            lambda wrong: store.read("run", limit=wrong),
            lambda wrong: store.fork("run", length=wrong, new_run_id="other"),
            lambda wrong: store.claim("run", owner="me", lease_s=wrong),
        ]
        for slip in slips:
            with pytest.raises(TypeError):
                await slip([])
        with pytest.raises(TypeError):
            await store.runs(limit=None)  # type: ignore[arg-type]
        assert list(await store.receive(["run"])) == [("run", b"hello")]


@pytest.mark.anyio
async def test_a_path_below_the_home_of_a_user_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    async with SqliteStorage("~/data/runs.db") as store:
        await store.runs()
        assert repr(store) == f"SqliteStorage({str(tmp_path / 'data' / 'runs.db')!r})"
    assert [each.name for each in content(tmp_path / "data")] == ["runs.db"]


def test_a_kernel_that_does_not_use_the_store_does_not_load_sqlite() -> None:
    code = """
import sys
import kaizen_sqlite
kaizen_sqlite.SqlitePlugin(kaizen_sqlite.SqlitePlugin.Settings())
print([name for name in ("aiosqlite", "asyncio", "sqlite3") if name in sys.modules])
"""
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert loaded.stdout.strip() == "[]"


def test_a_name_that_the_package_has_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = kaizen_sqlite.nothing
