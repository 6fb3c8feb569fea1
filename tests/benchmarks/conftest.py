"""Prints what the benchmarks measured; they assert nothing about time by themselves.

`--write` also writes the table into `docs/benchmarks.md`. With `KAIZEN_BENCH_STRICT=1` the
run fails if anything is slower than it has to be.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from tests.benchmarks._processes import Processes
from tests.benchmarks._table import Table

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
TABLE = pytest.StashKey[Table]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write", action="store_true", help=f"write the table to {PAGE.name}")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = Table()
    # The collector is to walk what a program that imports Kaizen has, and not pytest too.
    gc.collect()
    gc.freeze()
    gc.collect()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    table = session.config.stash[TABLE]
    if exitstatus != pytest.ExitCode.OK:
        return
    if session.config.getoption("--write"):
        table.write(PAGE)
    if os.environ.get("KAIZEN_BENCH_STRICT") == "1" and any(
        row.missed for row in table.rows
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    table = config.stash[TABLE]
    if table.rows:
        terminalreporter.write_line(f"\n{table.title()}\n\n{table.as_text()}\n")


@pytest.fixture
def table(pytestconfig: pytest.Config) -> Table:
    """Where rows go."""
    return pytestconfig.stash[TABLE]


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Processes:
    """Fresh processes, which share what they compiled."""
    return Processes(tmp_path_factory.mktemp("processes"))
