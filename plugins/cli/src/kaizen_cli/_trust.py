"""Which configuration files the user trusts, by path and content."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import click

from kaizen_cli._options import Options
from kaizen_cli._terminal import Terminal

__all__ = ["CONFIG_FILE", "config_file", "state_of", "trust"]

CONFIG_FILE = "kaizen.toml"
MAX_BYTES = 1024 * 1024
_VERSION = 1

State = Literal["trusted", "changed", "unknown"]


def trust(options: Options, file: Path, *, forget: bool) -> int:
    """Trust the present content of a configuration file, or forget it."""
    terminal = Terminal(options)
    path = _place(file)
    known = _read_trusted()
    if forget:
        if known.pop(str(path), None) is None:
            terminal.note(f"{path} was not trusted.")
        else:
            _write_trusted(known)
            terminal.print(f"{path} is no longer trusted.")
        return 0
    if not os.path.lexists(path):
        raise click.UsageError(f"{path} does not exist.", click.get_current_context())
    content = _content(path)
    tables = _tables(path, content)
    digest = hashlib.sha256(content).hexdigest()
    _write_trusted({**known, str(path): digest})
    terminal.print(f"Trusted {path}", style="bold")
    terminal.print(f"sha256 {digest}", indent=2)
    for line in _described(tables):
        terminal.print(line, indent=2)
    return 0


def config_file(
    options: Options, terminal: Terminal, *, quiet: bool = False
) -> Path | Literal[False]:
    """Return the configuration file that takes effect, or `False` for none.

    One that was named, by `--config` or `KAIZEN_CONFIG`, is trusted by that. One that
    merely lies in the working directory takes effect if the user has trusted it as it is.
    """
    named = options.config or os.environ.get("KAIZEN_CONFIG")
    if named:
        return Path(named)
    path = Path(CONFIG_FILE)
    if not path.is_file():
        return False
    state = state_of(path)
    if state == "trusted":
        return path
    if quiet:
        return False
    why = "it has changed since you trusted it" if state == "changed" else "not trusted"
    terminal.warn(f"{CONFIG_FILE} is ignored: {why}. Read it, then run `kaizen trust`.")
    return False


def state_of(file: Path) -> State:
    """Say whether a file is trusted as it is now."""
    path = _place(file)
    known = _read_trusted().get(str(path))
    if known is None:
        return "unknown"
    digest = hashlib.sha256(_content(path)).hexdigest()
    return "trusted" if digest == known else "changed"


def trusted_path() -> Path:
    """Return the file that keeps what is trusted."""
    folder = os.environ.get("XDG_CONFIG_HOME", "")
    base = Path(folder) if Path(folder).is_absolute() else Path.home() / ".config"
    return base / "kaizen" / "trusted.json"


def _place(file: Path) -> Path:
    """Return where a file lies; a link to a trusted file elsewhere is not that file."""
    return file.parent.resolve() / file.name


def _content(path: Path) -> bytes:
    """Read a regular file; opening anything else, such as a FIFO, does not wait for it."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise click.ClickException(f"{path} is not a regular file.")
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > MAX_BYTES:
        raise click.ClickException(f"{path} is larger than {MAX_BYTES} bytes.")
    return content


def _tables(path: Path, content: bytes) -> Mapping[str, Any]:
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise click.ClickException(
            f"{path} is not valid TOML: {error}. It was not trusted."
        ) from error


def _described(tables: Mapping[str, Any]) -> Iterator[str]:
    """Say what a configuration sets, without its values: secrets may be among them."""
    for name, value in tables.items():
        if name == "plugins" and isinstance(value, Mapping):
            yield from (f"sets [plugins.{each}]{_keys(value[each])}" for each in value)
        else:
            yield f"sets [{name}]{_keys(value)}"


def _keys(table: Any) -> str:
    return f": {', '.join(table)}" if isinstance(table, Mapping) and table else ""


def _read_trusted() -> dict[str, str]:
    path = trusted_path()
    try:
        data = json.loads(path.read_bytes()[: 16 * MAX_BYTES])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise click.ClickException(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or data.get("version") != _VERSION:
        raise click.ClickException(
            f"{path} is damaged or of another version. Delete it, and trust again."
        )
    known = data.get("trusted")
    return {str(k): str(v) for k, v in known.items()} if isinstance(known, dict) else {}


def _write_trusted(known: Mapping[str, str]) -> None:
    """Replace the file as a whole, readable and writable by the user alone."""
    path = trusted_path()
    body = json.dumps({"version": _VERSION, "trusted": known}, indent=2, sort_keys=True)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".trusted-")
    except OSError as error:
        raise click.ClickException(
            f"{path} cannot be written: {error.strerror}."
        ) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{body}\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
