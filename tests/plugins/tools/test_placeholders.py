"""Protected names that do not exist are kept by something in their place."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from kaizen_tools._order import Confinement, RootPath
from kaizen_tools._placeholders import Placeholders


@pytest.mark.parametrize(
    ("number", "owner", "points"),
    [
        (errno.EACCES, 0, {".git": "itself"}),
        (errno.EACCES, 1, {".git": "place"}),
        (errno.EPERM, 0, {".git/hooks": "all"}),
        (errno.EROFS, 1, {".git": "place"}),
    ],
    ids=["own", "of another", "no sockets", "read-only"],
)
def test_where_nothing_can_be_made_the_directory_is_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    owner: int,
    points: dict[str, str],
) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, "nothing can be made there")

    (tmp_path / ".git").mkdir()
    kept = (str(tmp_path / ".git/hooks"),)
    holding = Placeholders(confinement(tmp_path, kept=kept))
    monkeypatch.setattr("os.mknod", refused)
    user = os.geteuid() + owner
    monkeypatch.setattr("os.geteuid", lambda: user)

    made = holding.make(lambda _: False)
    holding.remove()

    assert made == {str(tmp_path / name): keep for name, keep in points.items()}
    assert list((tmp_path / ".git").iterdir()) == []


def confinement(*roots: Path, kept: tuple[str, ...]) -> Confinement:
    paths = tuple(RootPath(path=str(root)) for root in roots)
    return Confinement(backend="bubblewrap", roots=paths, kept=kept)


def test_what_was_made_before_one_failed_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    kept = tuple(str(tmp_path / name) for name in ("before", "link", "zero"))
    holding = Placeholders(confinement(tmp_path, kept=kept))

    with pytest.raises(OSError, match="is a link"):
        holding.make(lambda _: False)
    made = (tmp_path / "before").exists()
    holding.remove()

    assert made
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_one_root_that_is_in_use_does_not_keep_what_is_in_another(tmp_path: Path) -> None:
    roots = [tmp_path / name for name in "ab"]
    for root in roots:
        root.mkdir()
    kept = tuple(f"{root}/.env" for root in roots)
    both, one = (
        Placeholders(confinement(*which, kept=kept)) for which in (roots, roots[1:])
    )

    for holding in (both, one):
        holding.make(lambda _: False)
    both.remove()
    left = [list(root.iterdir()) for root in roots]
    one.remove()

    assert left == [[], [roots[1] / ".env"]]
    assert list(roots[1].iterdir()) == []
