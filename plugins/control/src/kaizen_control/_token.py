"""The token by which the owner of a server is known, in a file that nobody else reads."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from secrets import token_hex, token_urlsafe

from kaizen.errors import ConfigurationError

__all__ = ["MIN_TOKEN_CHARS", "forget_token", "keep_token", "new_token"]

MIN_TOKEN_CHARS = 32
MAX_TOKEN_BYTES = 1_000


def new_token() -> tuple[str, Path]:
    """Make a token, and a file of this process that has it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    state = os.environ.get("XDG_STATE_HOME", "")
    if Path(runtime).is_absolute():
        folder = Path(runtime) / "kaizen"
    elif Path(state).is_absolute():
        folder = Path(state) / "kaizen"
    else:
        folder = Path("~/.local/state/kaizen").expanduser()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    token = token_urlsafe(32)
    path = folder / f"control-{token_hex(8)}.token"
    _write(path, token)
    return token, path


def keep_token(path: Path) -> str:
    """Return the token that a file has; make both if there is no file.

    Raises:
        ConfigurationError: Others could have read or made the file, or it has no token.
    """
    path = path.expanduser()
    if not path.is_symlink() and not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        token = token_urlsafe(32)
        with suppress(FileExistsError):  # another process was faster
            _write(path, token)
            return token
    return _read(path)


def forget_token(path: Path) -> None:
    """Remove the file of a token that is good no more."""
    path.unlink(missing_ok=True)


def _write(path: Path, token: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, 0o600), "w", encoding="ascii") as file:  # noqa: PTH123
        file.write(f"{token}\n")
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from error
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise _unusable(path, "is no file")
        if about.st_uid != os.getuid() or stat.S_IMODE(about.st_mode) & 0o077:
            raise _unusable(path, "is not yours alone", "Use `chmod 600`, or remove it.")
        token = os.read(fd, MAX_TOKEN_BYTES).strip()
    finally:
        os.close(fd)
    try:
        text = token.decode("ascii")
    except UnicodeDecodeError:
        raise _unusable(path, "has no token in it") from None
    if len(text) < MIN_TOKEN_CHARS or not text.isprintable() or " " in text:
        raise _unusable(path, f"has no token of {MIN_TOKEN_CHARS} characters in it")
    return text


def _unusable(path: Path, problem: str, remedy: str = "") -> ConfigurationError:
    return ConfigurationError(f"the token file {str(path)!r}", problem, remedy)
