"""What the command line writes down with a run, so that a person recognises it.

What is read back is shown and never followed: it may have come with somebody else's file.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kaizen_cli._options import Options

__all__ = ["Recorded"]

KEY = "cli"
BUILT_IN = ("ask", "chat")


class Recorded(BaseModel):
    """How a run was started.

    Attributes:
        command: `run`, `ask` or `chat`.
        given: What the run goes on with: the target, or the paths that may be read.
        options: Further options that mattered, as they are typed.
        directory: The working directory.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    command: str = ""
    given: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    directory: str = ""

    @classmethod
    def of_now(
        cls,
        command: str,
        given: Sequence[str | Path],
        options: Options,
        *,
        provider: str | None,
        model: str,
    ) -> Recorded:
        """Return what there is to write down of the present command line."""
        typed = {"--provider": provider, "--model": model, "--config": options.config}
        pairs = [(name, str(value)) for name, value in typed.items() if value]
        pairs += [("--plugin", each) for each in options.plugins]
        return cls(
            command=command,
            given=tuple(map(str, given)),
            options=tuple(word for pair in pairs for word in pair),
            directory=str(Path.cwd()),
        )

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Recorded:
        """Return what was written down with a run, empty if that was nothing we know."""
        try:
            return cls.model_validate(metadata.get(KEY) or {})
        except ValidationError:
            return cls()

    @property
    def metadata(self) -> dict[str, Any]:
        """The same, as it is kept with a run."""
        return {KEY: self.model_dump(mode="json")}

    @property
    def built_in(self) -> bool:
        """Whether the command line brings the agent itself."""
        return self.command in BUILT_IN

    def missing_in(self, other: Recorded) -> str:
        """Return the options that another lacks, as they are typed."""
        there = {*other._pairs()}
        missing = [pair for pair in self._pairs() if pair not in there]
        return _typed(word for pair in missing for word in pair)

    def _pairs(self) -> Iterator[tuple[str, str]]:
        return zip(self.options[::2], self.options[1::2], strict=False)

    def decide(self, run_id: str, calls: Iterable[str]) -> str:
        """Return the command that says what became of calls that were cut off.

        Its `WORD` is for the person to fill in: no answer is put into their mouth.
        """
        words = (word for each in calls for word in ("--decision", f"{each}=WORD"))
        return self.resume(run_id, *words)

    def resume(self, run_id: str, *more: str) -> str:
        """Return the command that lets a run go on, to be read and typed by a person."""
        given = self.given or (() if self.built_in else ("TARGET",))
        words = ["kaizen", "runs", "resume", run_id, *given, *self.options, *more]
        return _typed(words)


def _typed(words: Iterable[str]) -> str:
    return shlex.join(words).replace("\n", "\\n")
