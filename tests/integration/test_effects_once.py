"""No effect is repeated and none is lost, wherever a run is killed, also while it resumes.

Every case is a run with ten tools whose effects can be counted, in a real process that is
killed with SIGKILL at one point, and taken up again in another. Where the run cannot know
what a call did, it must stop and name the call; then the test looks, as a person would, and
decides. The points are counted in the first place and then taken one after the other, all
of them: see `_crashing`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("Windows has no fork and no SIGKILL", allow_module_level=True)

from tests.integration._crashing import TOOLS, Case, Kind, Outcome, Servers

pytestmark = pytest.mark.timeout(600)

MEMORY = Path("/dev/shm")
"""Where files are in memory: the end of a process, unlike that of the power, loses nothing
that the system was told, so that a disk would prove no more and take longer."""
MOST_POINTS = 2_000
STEP = 24
IN_A_CHILD, NEAR_THE_END = 63, 95
"""Appends before which a call has had an effect that is not on record yet."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where runs are kept for the time being."""
    base = MEMORY if MEMORY.is_dir() else None
    path = Path(tempfile.mkdtemp(prefix="kaizen-effects-", dir=base))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[Servers]:
    """The processes that carry out runs and kill them."""
    servers = Servers(folder)
    yield servers
    servers.close()


def killed_everywhere(
    servers: Servers,
    kind: Kind,
    store: str,
    backend: str = "asyncio",
    before: tuple[tuple[Kind, int], ...] = (),
) -> list[Outcome]:
    """Kill a run at every point of one kind; return what became of each.

    Args:
        before: Where processes were killed before this one took the run up.
    """
    case = Case(store, before, backend)
    (clean,) = servers.carry_out([case])
    assert clean.problem == ""
    first, last = 1, clean.points.get(kind, STEP)
    outcomes: list[Outcome] = []
    # Waits differ from run to run by some, so we go on until there are no more.
    while last < MOST_POINTS:
        cases = [
            Case(store, (*before, (kind, at)), backend) for at in range(first, last + 1)
        ]
        batch = servers.carry_out(cases)
        outcomes += batch
        if all(each.killed == len(before) for each in batch[-STEP // 2 :]):
            break
        first, last = last + 1, last + STEP
    return outcomes


def proved(outcomes: list[Outcome], what: str, *, at_least: int, kills: int = 1) -> None:
    """Check that every effect was had once, say so, and that there was enough to it."""
    problems = [(each.case, each.problem) for each in outcomes if each.problem]
    assert not problems, f"{len(problems)} went wrong, such as {problems[0]}"
    lost = [(each.case.kills, each.lost) for each in outcomes if each.lost]
    doubled = [(each.case.kills, each.doubled) for each in outcomes if each.doubled]
    hit = sum(each.killed == kills for each in outcomes)
    asked = sum(len(each.unknown) for each in outcomes)
    sys.stdout.write(
        f"\n{what}: killed at {hit} points, asked {asked} times what a call did; "
        f"{len(lost)} runs lost an effect, {len(doubled)} doubled one"
    )
    assert (lost, doubled) == ([], [])
    assert all({*each.effects} == {*TOOLS} for each in outcomes)
    assert hit >= at_least


@pytest.mark.parametrize(
    ("store", "backend", "kind", "at_least"),
    [
        ("filesystem", "asyncio", "append", 100),
        ("filesystem", "asyncio", "await", 200),
        ("filesystem", "asyncio", "syscall", 250),
        ("filesystem", "trio", "await", 200),
        ("sqlite", "asyncio", "append", 100),
        ("sqlite", "asyncio", "await", 100),
    ],
)
def test_a_run_that_is_killed_anywhere_has_each_effect_once(
    servers: Servers, store: str, backend: str, kind: Kind, at_least: int
) -> None:
    outcomes = killed_everywhere(servers, kind, store, backend)

    proved(outcomes, f"{store} on {backend}, at each {kind}", at_least=at_least)


@pytest.mark.parametrize(
    ("store", "kind", "first"),
    [
        ("filesystem", "append", IN_A_CHILD),
        ("filesystem", "append", NEAR_THE_END),
        ("filesystem", "await", NEAR_THE_END),
        ("filesystem", "syscall", NEAR_THE_END),
        ("sqlite", "append", IN_A_CHILD),
        ("sqlite", "await", NEAR_THE_END),
    ],
)
def test_a_resumed_run_that_is_killed_anywhere_has_each_effect_once(
    servers: Servers, store: str, kind: Kind, first: int
) -> None:
    (asked,) = servers.carry_out([Case(store, (("append", first),))])
    assert asked.unknown, "there is nothing to find out"

    outcomes = killed_everywhere(servers, kind, store, before=(("append", first),))

    what = f"{store}, killed after append {first} and at each {kind} of what followed"
    proved(outcomes, what, at_least=10, kills=2)


@pytest.mark.parametrize("store", ["filesystem", "sqlite"])
def test_it_holds_as_well_where_each_process_is_a_new_interpreter(
    folder: Path, store: str
) -> None:
    kills: list[tuple[tuple[Kind, int], ...]] = [
        (("append", 8),),
        (("append", 41), ("append", 10)),
        (("await", 40),),
    ]
    servers = Servers(folder, fresh=True)
    outcomes = servers.carry_out([Case(store, each) for each in kills])
    servers.close()

    proved(outcomes, f"{store}, interpreters of their own", at_least=0)
    assert sum(each.killed for each in outcomes) == 4


def test_a_log_that_comes_too_late_is_noticed_by_these_tests(servers: Servers) -> None:
    kills: list[tuple[Kind, int]] = [("await", at) for at in range(20, 40)]
    cases = [Case("sqlite", (kill,), durability="exit") for kill in kills]

    outcomes = servers.carry_out(cases)

    assert sum(bool(each.doubled) for each in outcomes) > 10
