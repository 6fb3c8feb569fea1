"""The hook that this plugin adds to those of the kernel.

Write `@hookimpl(optionalhook=True)`, so that your plugin also works where permissions are
not installed:

    @hookimpl(optionalhook=True)
    def permissions_decide(self, call: ToolCall) -> PermissionType | None:
        return PermissionType.ASK if call.name == "send_mail" else None
"""

from __future__ import annotations

from kaizen.hookspecs import hookspec
from kaizen.tools import ToolCall

from kaizen_permissions._types import PermissionType

__all__ = ["permissions_decide"]


@hookspec
def permissions_decide(call: ToolCall) -> PermissionType | None:
    """Have a say in whether a tool call may be made.

    The strictest of what rules and plugins say counts: a plugin can demand a question or
    refuse, and can allow nothing that the rules do not. May be a coroutine function. One
    that raises stops the call.

    Args:
        call: What is about to be called. Frozen.

    Returns:
        What should be done with it, or `None` to have no say.
    """
    raise NotImplementedError
