"""Finds plugins. Reads metadata only: a plugin's code is imported when it is enabled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from kaizen._records import record
from kaizen.errors import PluginError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Candidate", "candidates", "discover", "given"]

GROUP = "kaizen.plugins"


@record
class Candidate:
    """A plugin that could be enabled.

    Attributes:
        distribution: What brings it, or `""` if it was given in code.
        plugin: Its class, or the plugin itself, if it was given in code.
        point: Its entry point, if it is installed.
    """

    name: str
    distribution: str
    version: str
    plugin: object = None
    point: EntryPoint | None = None

    def load(self) -> Any:
        """Return the plugin's class, or the plugin if it was given as an object.

        Raises:
            PluginError: Its module cannot be imported, or has no such class.
        """
        if self.point is None:
            return self.plugin
        try:
            return self.point.load()
        except Exception as error:
            raise self.error(
                f"cannot be imported from {self.point.value!r}: "
                f"{type(error).__name__}: {error}",
                "Reinstall it, or leave it out of `plugins`.",
            ) from error

    def error(self, problem: str, remedy: str = "") -> PluginError:
        """Return the error that says what is wrong with this plugin."""
        return PluginError(self.name, problem, remedy, self.distribution)


def discover() -> list[Candidate]:
    """Return every installed plugin, by name.

    Raises:
        PluginError: Two distributions bring plugins of one name.
    """
    from importlib.metadata import entry_points  # slow to import, and not always needed

    found: dict[str, Candidate] = {}
    for point in entry_points(group=GROUP):
        distribution = point.dist.name if point.dist else ""
        version = point.dist.version if point.dist else ""
        other = found.get(point.name)
        if other is not None and other.distribution != distribution:
            raise PluginError(
                point.name,
                f"is brought by two distributions, {other.distribution!r} "
                f"and {distribution!r}",
                "Uninstall one of them.",
            )
        found[point.name] = Candidate(
            name=point.name, distribution=distribution, version=version, point=point
        )
    return [found[name] for name in sorted(found)]


def given(plugin: object) -> Candidate:
    """Return a plugin that was given in code, as a class or as an object.

    Its name is its attribute `name`, or its class's name without `Plugin` in lower case.
    """
    kind = plugin if isinstance(plugin, type) else type(plugin)
    name = getattr(plugin, "name", None)
    if not isinstance(name, str):
        name = kind.__name__.removesuffix("Plugin").lower() or kind.__name__.lower()
    return Candidate(name=name, distribution="", version="", plugin=plugin)


def candidates(
    found: Sequence[Candidate],
    wanted: Sequence[str | object] | None,
    tables: Iterable[str],
) -> list[Candidate]:
    """Return the plugins to enable, in their order.

    Args:
        found: What is installed.
        wanted: What was asked for, names and plugins; `None` for all that is installed.
        tables: The names of the settings tables, in the order of the file.

    Raises:
        PluginError: A name is unknown, or two plugins have one name.
    """
    by_name = {each.name: each for each in found}
    if wanted is None:
        places = {name: place for place, name in enumerate(tables)}
        return sorted(
            found, key=lambda each: (places.get(each.name, len(places)), each.name)
        )
    chosen: dict[str, Candidate] = {}
    for each in wanted:
        candidate = _named(each, by_name) if isinstance(each, str) else given(each)
        if candidate.name in chosen:
            raise candidate.error("is given twice", "Give one of them another `name`.")
        chosen[candidate.name] = candidate
    return list(chosen.values())


def _named(name: str, by_name: dict[str, Candidate]) -> Candidate:
    if name in by_name:
        return by_name[name]
    raise PluginError(
        name,
        f"is not installed; installed are {', '.join(sorted(by_name)) or 'none'}",
        f"Install it, for example with `pip install kaizen-{name}`.",
    )
