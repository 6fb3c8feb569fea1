"""What a command had for itself is removed, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kaizen_tools._private import Private


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def test_it_is_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    private = Private(str(tmp_path / "all"))
    deep = Path(private.home, *"abc")
    deep.mkdir(parents=True)
    (deep / "file").touch()
    for path in (deep, deep.parent):
        path.chmod(0)
    Path(private.temporary, "link").symlink_to(tmp_path)

    private.remove()

    assert names(tmp_path) == []


def test_what_is_very_deep_in_it_is_removed_too(tmp_path: Path) -> None:
    private = Private(str(tmp_path / "all"))
    opened = os.open(private.home, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=opened)
        inner = os.open("deep", os.O_RDONLY, dir_fd=opened)
        os.close(opened)
        opened = inner
    os.close(opened)

    private.remove()

    assert names(tmp_path) == []


def test_a_directory_of_others_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)

    for name in ("link", "open"):
        with pytest.raises(OSError, match="not a directory of one's own"):
            Private(str(tmp_path / name))

    assert names(tmp_path / "elsewhere") == []


def test_a_link_in_its_place_leads_nowhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o755)
    (victim / "file").touch()
    mode = victim.stat().st_mode
    private = Private(str(tmp_path / "all"))
    Path(private.home, "file").touch()
    away = Path(private.path).rename(tmp_path / "away")
    Path(private.path).symlink_to(victim)
    (away / "home/linked").symlink_to(victim)

    private.remove()

    assert names(victim) == ["file"]
    assert victim.stat().st_mode == mode
    assert names(away) == []


def test_the_directory_for_all_stays_as_long_as_there_is_one_in_it(tmp_path: Path) -> None:
    parent = tmp_path / "all"
    one, other = Private(str(parent)), Private(str(parent))

    one.remove()
    left = names(parent)
    other.remove()

    assert left == [Path(other.path).name]
    assert not parent.exists()
    assert Private(str(parent)).is_there()


def test_what_is_elsewhere_or_gone_is_known(tmp_path: Path) -> None:
    private = Private(str(tmp_path / "all"))
    before = private.is_there()
    Path(private.path).rename(tmp_path / "away")
    moved = private.is_there()
    Path(private.path).mkdir()

    assert (before, moved, private.is_there()) == (True, False, False)
