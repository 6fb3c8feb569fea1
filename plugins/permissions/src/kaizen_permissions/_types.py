"""The words that rules and contexts are made of."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import NamedTuple, TypeVar

__all__ = ["NOBODY", "Match", "PermissionMode", "PermissionType", "Who"]

Word = TypeVar("Word", bound=Enum)


class PermissionType(Enum):
    """What a rule says, and what is decided about a call."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"

    @classmethod
    def _missing_(cls, value: object) -> PermissionType | None:
        """Accept the words in any case; anything else is an error."""
        return _named(cls, value, {})

    @property
    def strictness(self) -> int:
        """How much of a stop it is: deny before ask before allow."""
        return _STRICTNESS[self.value]


class PermissionMode(Enum):
    """What a context does where its rules say nothing.

    The words of other products, such as `acceptEdits` and `bypassPermissions`, are
    accepted in any case.
    """

    DEFAULT = "default"
    ACCEPT_EDITS = "accept_edits"
    PLAN = "plan"
    BYPASS = "bypass"

    @classmethod
    def _missing_(cls, value: object) -> PermissionMode | None:
        """Accept the words in any case, with or without underscores."""
        return _named(cls, value, {"acceptedits": "accept_edits", **_BYPASSES})


class Match(IntEnum):
    """Whether a rule is about a call. `UNKNOWN` is never taken for the better."""

    NO = 0
    UNKNOWN = 1
    YES = 2


class Who(NamedTuple):
    """On whose behalf a call is made, as the program says that starts the runs.

    Attributes:
        principal: A person or service; `""` for nobody in particular.
        tenant: To whom what it works on belongs; `""` for nobody in particular.
    """

    principal: str = ""
    tenant: str = ""


NOBODY = Who()
_STRICTNESS = {"allow": 0, "ask": 1, "deny": 2}
_BYPASSES = {"bypasspermissions": "bypass"}


def _named(words: type[Word], value: object, others: dict[str, str]) -> Word | None:
    if not isinstance(value, str) or not value.isascii():
        return None
    plain = value.strip().lower().replace("_", "").replace("-", "")
    for each in words:
        if plain == str(each.value).replace("_", ""):
            return each
    return words(others[plain]) if plain in others else None
