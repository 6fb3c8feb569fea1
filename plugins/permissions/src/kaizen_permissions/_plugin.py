"""Joins permissions to the kernel."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from inspect import isawaitable
from pathlib import Path
from typing import TYPE_CHECKING

from kaizen.errors import ConfigurationError, HookExecutionError
from kaizen.hooks import Priority, hookimpl
from kaizen.hookspecs import CallNext
from kaizen.kernel import Kernel
from kaizen.ports import Tool, ToolSource
from kaizen.registry import Registry
from kaizen.tools import ToolCall, ToolResult

from kaizen_permissions import hookspecs
from kaizen_permissions._defaults import ALLOW
from kaizen_permissions._settings import PermissionsSettings
from kaizen_permissions._types import PermissionType

if TYPE_CHECKING:
    from kaizen_permissions._policy import Policy
    from kaizen_permissions._rules import PermissionRule

__all__ = ["PermissionsPlugin", "found_in"]

_LOG = logging.getLogger("kaizen.permissions")
HOOK = "permissions_decide"


class PermissionsPlugin:
    """Decides which tool calls of all agents of a kernel may happen, and asks people."""

    Settings = PermissionsSettings

    def __init__(self, settings: PermissionsSettings) -> None:
        self._settings = settings
        self._kernel: Kernel | None = None
        self._directory = Path.cwd()
        self._policy: Policy | None = None

    @property
    def settings(self) -> PermissionsSettings:
        """What the user has written."""
        return self._settings

    @property
    def policy(self) -> Policy:
        """What the settings allow and refuse, with what was added since."""
        if self._policy is None:
            self._policy = self.policy_of(self._settings)
        return self._policy

    @property
    def rules(self) -> tuple[PermissionRule, ...]:
        """All rules, also those that a person added by answering "always"."""
        return self.policy.rules

    @property
    def expires_s(self) -> float | None:
        """How long an answer is waited for, in seconds; `None` for the kernel's time."""
        return self._settings.expires_s

    @property
    def remembers(self) -> bool:
        """Whether rules that a person adds are kept in a file."""
        return self._settings.remember is not None

    @asynccontextmanager
    async def lifespan(self, kernel: Kernel) -> AsyncGenerator[None]:
        """Read the files with rules, and listen to other plugins that decide."""
        self._policy = None
        self._directory = Path.cwd()
        if self._settings.model_fields_set:  # else it is as it always is, and can wait
            import anyio.to_thread

            policy = await anyio.to_thread.run_sync(lambda: self.policy)
            _warn_of_unknown_tools(policy, kernel.registry)
        kernel.hooks.add_specs(hookspecs)
        self._kernel = kernel
        try:
            yield
        finally:
            self._kernel = None
            kernel.hooks.remove_specs(hookspecs)

    @hookimpl
    def contribute(self, registry: Registry) -> None:
        registry.add(
            PermissionsPlugin,
            "default",
            self,
            description="Decides which tool calls may happen.",
        )

    @hookimpl(priority=Priority.LOWEST)
    async def wrap_tool_call(self, call: ToolCall, call_next: CallNext) -> ToolResult:
        from kaizen_permissions._gate import pass_gate

        return await pass_gate(call, call_next, self)

    def policy_of(
        self, settings: PermissionsSettings, rules: Sequence[PermissionRule] | None = None
    ) -> Policy:
        """Return what settings come to.

        Args:
            settings: The settings.
            rules: What stands in place of the file `policy`.

        Raises:
            ConfigurationError: A rule, or a file with rules, cannot be used.
        """
        from kaizen_permissions._policy import Policy
        from kaizen_permissions._rules import PermissionRule

        found = [
            PermissionRule(each, kind, f"in {kind.value} of the settings")
            for kind in PermissionType
            for each in getattr(settings, kind.value)
        ]
        protected = [*settings.protected]
        for path in (settings.policy, settings.remember):
            if path is not None:
                found += self._rules_in(
                    path, must_exist=path is settings.policy, given=rules
                )
                protected.append(str(Path(self._directory, path)))
        if settings.policy is None and rules is not None:
            found += rules
        return Policy(
            found,
            mode=settings.mode,
            roots=settings.roots,
            directory=self._directory,
            unasked=settings.unasked,
            protected=protected,
        )

    def _rules_in(
        self, path: Path, *, must_exist: bool, given: Sequence[PermissionRule] | None
    ) -> Sequence[PermissionRule]:
        from kaizen_permissions._policy_file import read_policy

        if must_exist and given is not None:
            return given
        place = Path(self._directory, path)
        return read_policy(place) if must_exist or place.exists() else ()

    async def reviews(self, call: ToolCall) -> Sequence[tuple[str, PermissionType]]:
        """Return what other plugins say of a call, with their names."""
        if self._kernel is None:
            return ()
        said: list[tuple[str, PermissionType]] = []
        for plugin, answer in self._kernel.hooks.call(HOOK, call=call):
            kind = await answer if isawaitable(answer) else answer
            if kind is None:
                continue
            if not isinstance(kind, PermissionType):
                raise HookExecutionError(
                    f"plugin {plugin!r}",
                    f"answered {HOOK!r} with {type(kind).__name__!r}",
                    "Return a PermissionType or None.",
                )
            said.append((plugin, kind))
        return said

    async def remember(self, rule: PermissionRule) -> str:
        """Add a rule from now on, in the file that is set for it; return where it is."""
        path = self._settings.remember
        if path is not None:
            import anyio.to_thread

            from kaizen_permissions._policy_file import append_rule

            place = Path(self._directory, path)
            await anyio.to_thread.run_sync(append_rule, place, rule)
        self._policy = self.policy.with_rules(rule)
        return "this program, until it ends" if path is None else str(path)


def _warn_of_unknown_tools(policy: Policy, registry: Registry) -> None:
    """Say which rules are about tools that no plugin offers: names are easily misspelt."""
    if registry.names(ToolSource):
        return
    known = {*registry.names(Tool), *(each.partition("(")[0] for each in ALLOW)}
    for rule in policy.rules:
        if rule.tool and rule.tool not in known:
            _LOG.warning(
                "no plugin offers the tool of the rule %r; known: %s. It counts if an "
                "agent brings that tool itself.",
                str(rule),
                ", ".join(sorted(known)),
            )


def found_in(kernel: Kernel) -> PermissionsPlugin:
    """Return the plugin of a kernel.

    Raises:
        ConfigurationError: It is not enabled.
    """
    offer = kernel.registry.offered(PermissionsPlugin, "default")
    if offer is None or not isinstance(offer.factory, PermissionsPlugin):
        raise ConfigurationError(
            "the plugin 'permissions'",
            "is not enabled",
            "Name it in `plugins` under [kaizen].",
        )
    return offer.factory
