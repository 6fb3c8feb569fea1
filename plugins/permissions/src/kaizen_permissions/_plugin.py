"""Joins permissions to the kernel."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
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
    from kaizen_permissions._paths import Place
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
            _warn_of_unknown_roles(policy, self._settings.roles)
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
        named, limits, files = self._rules_in_files(settings, rules)
        return Policy(
            [*found, *named],
            mode=settings.mode,
            roots=settings.roots,
            directory=self._directory,
            unasked=settings.unasked,
            protected=[*settings.protected, *map(str, files)],
            roles=settings.roles,
            stricter=limits,
        )

    def _rules_in_files(
        self, settings: PermissionsSettings, given: Sequence[PermissionRule] | None
    ) -> tuple[Sequence[PermissionRule], Sequence[PermissionRule], list[Path]]:
        """Return the rules of the user's files, those of others, and where all are."""
        from kaizen_permissions._paths import Place
        from kaizen_permissions._policy_file import read_policy

        place = Place(self._directory, settings.roots)
        files: list[Path] = []
        rules = list(given or ())
        limits: list[PermissionRule] = []
        if settings.policy is not None:
            files.append(self._place_of(settings.policy))
            rules = read_policy(files[0]) if given is None else rules
            if not _is_the_users(settings.policy, files[0], place):
                rules, limits = [], _only_strict(rules, files[0])
        if settings.remember is not None:
            files.append(self._place_of(settings.remember))
            if not _is_the_users(settings.remember, files[-1], place):
                raise _not_the_users(settings.remember)
            rules += read_policy(files[-1]) if files[-1].exists() else ()
        return rules, limits, files

    def _place_of(self, path: Path) -> Path:
        """Return where a file of the settings is, with what `..` and `~` stand for."""
        spelt = os.path.expanduser(path)  # noqa: PTH111 - also where there is no home
        return Path(os.path.abspath(Path(self._directory, spelt)))  # noqa: PTH100

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

            place = self._place_of(path)
            await anyio.to_thread.run_sync(append_rule, place, rule)
        self._policy = self.policy.with_rules(rule)
        return "this program, until it ends" if path is None else str(path)


def _is_the_users(written: Path, path: Path, place: Place) -> bool:
    """Whether nobody but the user has written a file, as far as its place tells.

    What lies in the roots is written by agents and by whoever made the project, and what a
    relative name leads to depends on where the program is started.
    """
    anchored = written.is_absolute() or written.parts[:1] == ("~",)
    return anchored and not place.meets(place.read(str(path)))


def _only_strict(rules: Sequence[PermissionRule], path: Path) -> list[PermissionRule]:
    """Return the rules that ask or refuse, and say that others are left out."""
    found = [each for each in rules if each.permission_type is not PermissionType.ALLOW]
    if len(found) < len(rules):
        _LOG.warning(
            "%d rules of %s allow something and are left out, since that file could come "
            "from others: name it by an absolute path outside the roots, or write what is "
            "to be allowed into the settings.",
            len(rules) - len(found),
            path,
        )
    return found


def _not_the_users(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"remember = {str(path)!r}",
        "could be written by others than you, and is to hold what you allow",
        "Name a file by an absolute path outside the roots, such as "
        "'~/.config/kaizen/always.toml'.",
    )


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


def _warn_of_unknown_roles(policy: Policy, roles: Mapping[str, Sequence[str]]) -> None:
    """Say which rules are about roles that nobody has: such a rule refuses nobody."""
    for rule in policy.rules:
        for each in rule.roles:
            if not roles.get(each):
                _LOG.warning("nobody has the role %r of the rule %r", each, str(rule))


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
