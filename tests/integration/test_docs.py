"""The tables in the pages say what the code says: no more, no less, nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kaizen import AgentConfig, BaseAgent, KaizenConfig, Kernel, ToolSpec, errors, ports
from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without the table's own."""
    text = (DOCS / page).read_text(encoding="utf-8")
    _, found, below = text.partition(f"\n{heading}\n")
    assert found, f"{page} has no heading {heading!r}"
    table = re.search(r"(?:^\|.*\|\n)+", below, re.MULTILINE)
    assert table, f"{page} has no table below {heading!r}"
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in table[0].splitlines()[2:]
    ]


@pytest.mark.parametrize(
    ("model", "heading"),
    [
        (KaizenConfig, "## The kernel: `[kaizen]`"),
        (AgentConfig, "## Agents: `AgentConfig`, and `[kaizen.agent]`"),
    ],
)
def test_every_setting_is_explained_with_its_default(
    model: type[BaseModel], heading: str
) -> None:
    defaults = {
        f"`{name}`": f"`{field.get_default(call_default_factory=True)!r}`"
        for name, field in model.model_fields.items()
    }

    explained = rows("configuration.md", heading)

    assert {name: default for name, default, _ in explained} == defaults
    assert all(words for _, _, words in explained)


@pytest.mark.parametrize(
    ("model", "heading"),
    [
        (KaizenConfig, "## The kernel: `[kaizen]`"),
        (AgentConfig, "## Agents: `AgentConfig`, and `[kaizen.agent]`"),
    ],
)
def test_a_switch_is_said_to_be_one_and_which_plugin_serves_it(
    model: type[KaizenConfig | AgentConfig], heading: str
) -> None:
    explained = rows("configuration.md", heading)

    found = {
        name.strip("`"): match[1]
        for name, _, words in explained
        if (match := re.match(r"a switch, for `([\w-]+)`", words))
    }

    assert found == dict(model.SWITCHES)


def test_every_error_has_its_code_and_a_remedy() -> None:
    classes = [getattr(errors, name) for name in errors.__all__]
    groups = {each for each in classes if each.code == errors.KaizenError.code}

    explained = rows("errors.md", "## Codes")

    expected = {(f"`{each.code}`", f"`{each.__name__}`") for each in set(classes) - groups}
    assert {(code, name) for code, name, _, _ in explained} == expected
    assert len(explained) == len(expected)
    assert all(problem and remedy for _, _, problem, remedy in explained)


def test_every_port_is_named() -> None:
    text = (DOCS / "plugins.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", ports.__doc__ or "", re.MULTILINE)

    explained = [
        name for name, _ in rows("plugins.md", "## Ports: what a plugin may offer")
    ]

    assert explained == [f"`{name}`" for name in listed]
    assert all(f"`{name}Conformance`" in text for name in listed)


@pytest.mark.asyncio
async def test_every_built_in_tool_is_listed_with_what_it_does_to_the_world() -> None:
    async with Kernel(
        plugins=["offline", "tools"], config_file=False, environ={}
    ) as kernel:
        agent = BaseAgent({"llm_provider": "mock"}, "a -> b", tools="all", kernel=kernel)
        specs = await agent.discover_tools()

    explained = rows("tools.md", "## Tools that plugins offer")

    assert {tuple(cells[:1] + cells[2:]) for cells in explained} == set(map(told, specs))


def test_the_places_that_the_readme_shows_are_those_where_it_stands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    shown = re.findall(r"^  (\S+):(\d+)\n    (.+)$", readme, re.MULTILINE)

    assert len(shown) > 1
    for path, line, quote in shown:
        lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        assert quote in lines[int(line) - 1], f"ask again, and paste what {path} gives"


def told(spec: ToolSpec) -> tuple[str, ...]:
    effect = spec.effect
    return (
        f"`{spec.name}`",
        effect.danger.name.lower(),
        "yes" if effect.external else "no",
        "yes" if effect.idempotent else "no",
    )
