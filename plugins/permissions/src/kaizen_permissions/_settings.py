"""What a user may write under `[plugins.permissions]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from kaizen.config import PluginSettings
from kaizen.errors import ConfigurationError
from pydantic import BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from kaizen_permissions._defaults import ALLOW, PROTECTED
from kaizen_permissions._types import PermissionMode, PermissionType

__all__ = ["PermissionsSettings"]

_OWN_ERROR = "kaizen_agent"  # tells the kernel that the message holds no value
RoleName = Annotated[str, Field(min_length=1, max_length=500)]
RuleText = Annotated[str, Field(min_length=1, max_length=5_000)]


def _mode(value: object) -> object:
    """Accept the words of modes, but not the one that only code may say."""
    try:
        mode = PermissionMode(value)
    except ValueError:
        known = ", ".join(
            each.value for each in PermissionMode if each is not PermissionMode.BYPASS
        )
        problem = f"there is no such mode; known: {known}"
    else:
        if mode is not PermissionMode.BYPASS:
            return mode
        problem = (
            "permissions are bypassed in code alone, by "
            "ExecutionContext(mode=PermissionMode.BYPASS), and by no setting"
        )
    raise PydanticCustomError(_OWN_ERROR, "{problem}", {"problem": problem})


class PermissionsSettings(PluginSettings):
    """What a user may write under `[plugins.permissions]`."""

    model_config = ConfigDict(defer_build=True)

    mode: Annotated[PermissionMode, BeforeValidator(_mode)] = Field(
        default=PermissionMode.DEFAULT,
        description="What happens where no rule speaks: `default`, `accept_edits` or "
        "`plan`.",
    )
    allow: tuple[RuleText, ...] = Field(
        default=ALLOW,
        max_length=10_000,
        description="Rules about calls that are made without a question.",
    )
    ask: tuple[RuleText, ...] = Field(
        default=(), max_length=10_000, description="Rules about calls that are asked about."
    )
    deny: tuple[RuleText, ...] = Field(
        default=(), max_length=10_000, description="Rules about calls that are refused."
    )
    policy: Path | None = Field(
        default=None,
        description="A file with more rules, with reasons and priorities. One in the "
        "roots, or under a relative name, can only ask and refuse.",
    )
    remember: Path | None = Field(
        default=None,
        description='File to which rules are added that a person accepts with "always", by '
        "an absolute path outside the roots; without it they hold until the program ends.",
    )
    roots: tuple[Path, ...] = Field(
        default=(Path(),),
        min_length=1,
        max_length=100,
        description="Folders and files that agents work in; the same as those of tools.",
    )
    roles: dict[RoleName, tuple[RoleName, ...]] = Field(
        default_factory=dict,
        max_length=1_000,
        description="Who has which roles, for rules about roles: principals by role.",
    )
    unasked: Literal["safe", "low"] = Field(
        default="safe",
        description="The highest danger level that runs where no rule speaks.",
    )
    protected: tuple[RuleText, ...] = Field(
        default=PROTECTED,
        max_length=1_000,
        description="Paths of which each change is asked about, whatever rules allow.",
    )
    expires_s: float | None = Field(
        default=None,
        gt=0,
        le=31_536_000,
        description="How long an approval is waited for, and then good, in seconds.",
    )

    @field_validator("allow", "ask", "deny")
    @classmethod
    def _can_be_used(cls, rules: tuple[str, ...], info: Any) -> tuple[str, ...]:
        from kaizen_permissions._rules import PermissionRule

        for each in rules:
            try:
                PermissionRule(each, PermissionType(info.field_name))
            except ConfigurationError as error:
                problem = str(error)
            else:
                continue
            raise PydanticCustomError(_OWN_ERROR, "{problem}", {"problem": problem})
        return rules
