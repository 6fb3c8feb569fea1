"""What is known at one place of a command, before it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from kaizen_permissions._words import Node, NotUnderstoodError, Word

__all__ = ["MAX_VALUES", "Outcome", "Redirects", "State"]

MAX_VALUES = 8
"""Most values of one variable, and most directories, that are followed."""


@dataclass(frozen=True, slots=True)
class State:
    """What is known before a statement.

    Attributes:
        values: What variables may be that the command has set for certain; `None` if that
            is not known.
        places: Where a program may start.
    """

    values: Mapping[str, frozenset[str] | None]
    places: tuple[str, ...]

    def assigned(self, name: str, value: str | None) -> State:
        """Return this with a variable that has a value for certain."""
        known = None if value is None else frozenset({value})
        return replace(self, values={**self.values, name: known})

    def forgetting(self, names: Iterable[str] | None = None) -> State:
        """Return this without what is known of variables, or of some of them.

        That they were set in the command, and are not the user's, remains known.
        """
        forgotten = self.values.keys() if names is None else set(names)
        return replace(
            self,
            values={
                name: None if name in forgotten else value
                for name, value in self.values.items()
            },
        )

    def or_else(self, other: State) -> State:
        """Return what is known if either this holds or another does."""
        if self == other:
            return self
        values: dict[str, frozenset[str] | None] = {}
        for name in self.values.keys() & other.values.keys():
            mine, theirs = self.values[name], other.values[name]
            both = None if mine is None or theirs is None else mine | theirs
            values[name] = both if both is None or len(both) <= MAX_VALUES else None
        places = tuple(dict.fromkeys((*self.places, *other.places)))
        if len(places) > MAX_VALUES:
            raise NotUnderstoodError("the directory changes too often")
        return State(values, places)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known after a statement: if it succeeded, and in any case."""

    success: State
    always: State

    @classmethod
    def of(cls, state: State) -> Outcome:
        """Return the outcome of what changes nothing more."""
        return cls(state, state)


@dataclass(slots=True)
class Redirects:
    """What the shell itself reads and writes for a command."""

    writes: list[Word] = field(default_factory=list)
    reads: list[Word] = field(default_factory=list)
    further: list[Word] = field(default_factory=list)
    text: str | None = None
    fed: bool = False
    rest: list[Node] = field(default_factory=list)
