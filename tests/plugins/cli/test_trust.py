"""A kaizen.toml that lies in the working directory is content until the user trusts it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugins.cli.conftest import Cli

CONFIG = '[kaizen]\ndefault_provider = "sample"\n'


@pytest.fixture
def config() -> Path:
    path = Path("kaizen.toml")
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_an_untrusted_file_is_ignored_and_one_line_says_so(
    kaizen: Cli, sample: tuple[str, ...], config: Path
) -> None:
    shown = kaizen("ask", *sample, "Why?")

    ignored, error = shown.err.splitlines()
    assert shown.code == 1
    assert ignored == (
        "kaizen.toml is ignored: not trusted. Read it, then run `kaizen trust`."
    )
    assert "provider 'offline' is unknown" in error


def test_an_untrusted_file_is_not_even_read(
    kaizen: Cli, sample: tuple[str, ...], config: Path
) -> None:
    config.write_text("this is = not [TOML", encoding="utf-8")

    shown = kaizen("ask", *sample, "-p", "sample", "Why?")

    assert shown.code == 0


def test_a_trusted_file_takes_effect(
    kaizen: Cli, sample: tuple[str, ...], config: Path
) -> None:
    trusted = kaizen("trust")
    shown = kaizen("ask", *sample, "Why?")

    assert trusted.code == 0
    assert f"Trusted {config.resolve()}" in trusted.out
    assert "sets [kaizen]: default_provider" in trusted.out
    assert shown.code == 0
    assert shown.err == ""


def test_a_changed_file_is_no_longer_trusted(
    kaizen: Cli, sample: tuple[str, ...], config: Path
) -> None:
    kaizen("trust")
    config.write_text(f"{CONFIG}# changed\n", encoding="utf-8")

    shown = kaizen("ask", *sample, "Why?")

    assert shown.code == 1
    assert "it has changed since you trusted it" in shown.err


def test_the_same_content_elsewhere_is_not_trusted(
    kaizen: Cli, sample: tuple[str, ...], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaizen("trust")
    other = Path("other")
    other.mkdir()
    monkeypatch.chdir(other)
    Path("kaizen.toml").write_text(CONFIG, encoding="utf-8")

    assert "is ignored: not trusted" in kaizen("ask", *sample, "Why?").err


def test_a_link_to_a_trusted_file_elsewhere_is_not_trusted(
    kaizen: Cli, sample: tuple[str, ...], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaizen("trust")
    other = Path("other")
    other.mkdir()
    (other / "kaizen.toml").symlink_to(config.resolve())
    monkeypatch.chdir(other)

    assert "is ignored: not trusted" in kaizen("ask", *sample, "Why?").err


def test_trust_can_be_taken_back(
    kaizen: Cli, sample: tuple[str, ...], config: Path
) -> None:
    kaizen("trust")
    forgotten = kaizen("trust", "--forget")

    assert "is no longer trusted" in forgotten.out
    assert kaizen("ask", *sample, "Why?").code == 1


def test_what_is_trusted_is_kept_for_the_user_alone(
    kaizen: Cli, config: Path, kept: Path
) -> None:
    kaizen("trust")
    second = Path("second.toml")
    second.write_text("", encoding="utf-8")
    kaizen("trust", second)

    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    data = json.loads(kept.read_text(encoding="utf-8"))
    assert set(data["trusted"]) == {str(config.resolve()), str(second.resolve())}
    assert [each.name for each in kept.parent.iterdir()] == ["trusted.json"]


def test_naming_a_file_is_trusting_it(
    kaizen: Cli,
    sample: tuple[str, ...],
    config: Path,
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = kaizen("--config", config, "ask", *sample, "Why?")
    behind = kaizen("ask", *sample, "Why?", "--config", config)
    monkeypatch.setenv("KAIZEN_CONFIG", str(config))
    by_environment = kaizen("ask", *sample, "Why?")

    assert [before.code, behind.code, by_environment.code] == [0, 0, 0]
    assert before.err + behind.err + by_environment.err == ""
    assert not kept.exists()


def test_a_file_that_is_not_toml_is_not_trusted(
    kaizen: Cli, config: Path, kept: Path
) -> None:
    config.write_text("this is = not [TOML", encoding="utf-8")

    shown = kaizen("trust")

    assert shown.code == 1
    assert "is not valid TOML" in shown.err
    assert not kept.exists()


def test_a_damaged_record_trusts_nothing_and_says_what_to_do(
    kaizen: Cli, sample: tuple[str, ...], config: Path, kept: Path
) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_text("{", encoding="utf-8")

    shown = kaizen("ask", *sample, "-p", "sample", "Why?")

    assert shown.code == 1
    assert "is damaged or of another version. Delete it" in shown.err


def test_there_has_to_be_a_file(kaizen: Cli) -> None:
    assert kaizen("trust").code == 2


def test_what_is_no_regular_file_is_refused_at_once(kaizen: Cli, kept: Path) -> None:
    os.mkfifo("kaizen.toml")

    shown = kaizen("trust")

    assert shown.code == 1
    assert "is not a regular file" in shown.err
    assert not kept.exists()


def test_a_file_that_is_gone_can_be_forgotten(
    kaizen: Cli, config: Path, kept: Path
) -> None:
    kaizen("trust")
    config.unlink()

    shown = kaizen("trust", "--forget")

    assert shown.code == 0
    assert "is no longer trusted" in shown.out
    assert json.loads(kept.read_text(encoding="utf-8"))["trusted"] == {}
