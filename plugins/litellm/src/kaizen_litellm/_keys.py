"""Where keys come from: the environment, then `.env` in the working directory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["Keys"]

MAX_DOTENV = 64 * 1024
_LOG = logging.getLogger("kaizen.litellm")


class Keys:
    """Looks keys up by the names of their variables.

    A `.env` gives keys and nothing else, and nothing of it is exported: it may have come
    with a folder that somebody else wrote, and an address in it would send your key there.
    litellm itself would export all of it; see `_loaded`.

    Args:
        environ: The environment.
        folder: Where `.env` lies, if it is to be read.
        addresses: Variables that tell where a key is sent.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        folder: Path | None = None,
        *,
        addresses: Iterable[str] = (),
    ) -> None:
        self._environ = environ
        self._folder = folder
        self._addresses = frozenset(addresses)
        self._file: Mapping[str, str] | None = None

    def __repr__(self) -> str:
        return "<Keys>"

    def address(self, *variables: str) -> tuple[str, str]:
        """Return the first variable that says where something is, and what it says.

        Only the environment is asked.
        """
        for name in variables:
            if found := self._environ.get(name, "").strip():
                return name, found
        return "", ""

    def find(self, variables: Iterable[str]) -> str:
        """Return the first key that one of the variables holds, or `""`."""
        names = [name for name in variables if name]
        for name in names:
            if found := self._environ.get(name, "").strip():
                return found
        if not names or self._folder is None:
            return ""
        if self._file is None:
            self._file = self._read(self._folder / ".env")
        return next((self._file[name] for name in names if self._file.get(name)), "")

    def _read(self, path: Path) -> dict[str, str]:
        try:
            if not path.is_file():
                return {}
            with path.open("rb") as file:
                data = file.read(MAX_DOTENV + 1)
            text = data.decode()
        except (OSError, UnicodeDecodeError) as error:
            _LOG.warning(".env cannot be read: %s", type(error).__name__)
            return {}
        if len(data) > MAX_DOTENV:
            _LOG.warning(".env is larger than %d bytes, and is not read", MAX_DOTENV)
            return {}
        from io import StringIO

        from dotenv import dotenv_values

        found = dotenv_values(stream=StringIO(text), interpolate=False)
        if ignored := sorted(self._addresses & found.keys()):
            _LOG.warning(
                ".env sets %s, which is ignored: an address is taken from the environment "
                "or from the settings, since a file in a folder may be somebody else's",
                ", ".join(ignored),
            )
        return {name: value.strip() for name, value in found.items() if value}
