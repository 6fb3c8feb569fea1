"""The store as users of a kernel have it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
