"""`kaizen new`: writes the first version of a plugin or an agent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

import click

from kaizen_cli._options import Options
from kaizen_cli._terminal import Terminal

__all__ = ["agent", "plugin"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MAX_NAME = 40
_SUFFIX = ".template"


def plugin(options: Options, name: str, directory: Path) -> int:
    """Write a plugin into a folder of its name; return the exit code."""
    name = _checked(name)
    taken = {"kernel", *(point.name for point in entry_points(group="kaizen.plugins"))}
    if name in taken:
        raise click.UsageError(f"There is a plugin {name!r} already. Choose another name.")
    folder = directory / name
    package = f"kaizen_{_word(name)}"
    made = _write(
        folder,
        "plugin",
        {
            "name": name,
            "package": package,
            "Class": _class(name),
            "tool": f"{_word(name)}_greet",
        },
        {"package": package, "test_plugin.py": f"test_{_word(name)}.py"},
    )
    terminal = Terminal(options)
    terminal.print(f"Wrote the plugin {name!r}:", style="bold")
    for path in made:
        terminal.print(str(path), indent=2)
    terminal.print()
    terminal.print(f"Test it:    cd {folder} && pytest")
    terminal.print(f"Install it: pip install --editable {folder}")
    terminal.print(f"Look at it: kaizen plugins show {name}")
    return 0


def agent(options: Options, name: str, directory: Path) -> int:
    """Write an agent into a file of its name; return the exit code."""
    module = _word(_checked(name))
    names = {"module": module, "Class": _class(name)}
    (made,) = _write(directory, "agent", names, {"agent.py": f"{module}.py"}, shared=True)
    terminal = Terminal(options)
    terminal.print(f"Wrote the agent {name!r}:", style="bold")
    terminal.print(str(made), indent=2)
    terminal.print()
    terminal.print(f'Run it: kaizen run {made} text="What it is to sum up."')
    return 0


def _checked(name: str) -> str:
    if _NAME.fullmatch(name) and len(name) <= _MAX_NAME:
        return name
    better = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_MAX_NAME]
    hint = f" Perhaps {better!r}?" if _NAME.fullmatch(better) else ""
    raise click.UsageError(
        f"{name!r} is no name. Use a-z, 0-9 and single hyphens, a letter first, "
        f"at most {_MAX_NAME} characters.{hint}"
    )


def _word(name: str) -> str:
    return name.replace("-", "_")


def _class(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def _write(
    folder: Path,
    kind: str,
    values: Mapping[str, str],
    renamed: Mapping[str, str],
    *,
    shared: bool = False,
) -> list[Path]:
    """Render every template of a kind and write the files.

    Args:
        folder: Where they are written.
        kind: The folder of the templates.
        values: What stands for the names in the templates.
        renamed: What files and folders are called instead.
        shared: Whether the folder may hold other files.

    Returns:
        The files.

    Raises:
        click.ClickException: Something is there already, or it cannot be written.
    """
    root = files("kaizen_cli") / "templates" / kind
    rendered = {
        folder.joinpath(*(renamed.get(part, part) for part in parts)): Template(
            template.read_text(encoding="utf-8")
        ).substitute(values)
        for parts, template in _templates(root)
    }
    taken = [path for path in [*([] if shared else [folder]), *rendered] if path.exists()]
    if taken:
        raise click.ClickException(f"{taken[0]} exists already; nothing was written.")
    try:
        for path, text in rendered.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
    except OSError as error:
        raise click.ClickException(
            f"{error.filename} cannot be written: {error.strerror}."
        ) from error
    return sorted(rendered)


def _templates(
    folder: Traversable, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Traversable]]:
    """Give each template with the parts of its path."""
    for each in folder.iterdir():
        if each.is_dir():
            yield from _templates(each, (*above, each.name))
        elif each.name.endswith(_SUFFIX):
            yield (*above, each.name.removesuffix(_SUFFIX)), each
