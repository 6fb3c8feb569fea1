"""Async fixtures that work whichever pytest plugin runs the test.

Two plugins run async tests: anyio's, on asyncio and trio, and pytest-asyncio, on asyncio.
Where both are installed, the order in which they were loaded decides which of them gets
hold of an async fixture; and pytest-asyncio sets a fixture up in one task and tears it
down in another, which no task group survives. `async_fixture` settles both.

pytest imports this module whenever it starts, so it imports no more than it must.
"""

from __future__ import annotations

import functools
import sys
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from _pytest.fixtures import FixtureFunctionDefinition, SubRequest

_ORIGINAL = "_kaizen_async_fixture"


def async_fixture(
    function: Callable[..., AsyncGenerator[Any]],
) -> FixtureFunctionDefinition:
    """Make a fixture, one value per test, of an async generator function.

    The plugin that defines it must also bear `pytest_fixture_setup` of this module.

    Everything before and after the `yield` runs in one task, so that the fixture may hold
    a task group open while the test runs. Context variables that it sets are seen by the
    test. Under pytest-asyncio the fixture lives in the loop that
    `asyncio_default_fixture_loop_scope` names, by default one loop per test.
    """

    # pytest is shown a function that is not async: no other plugin takes it for its own.
    @functools.wraps(function)
    def placeholder(**_: Any) -> NoReturn:
        pytest.fail(
            f"The fixture {function.__name__!r} is async, and nothing here runs it. Write "
            "`async def test_…` and mark it with `pytest.mark.anyio`, or install "
            "pytest-asyncio.",
            pytrace=False,
        )

    setattr(placeholder, _ORIGINAL, function)
    return pytest.fixture(placeholder)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: SubRequest
) -> Generator[None, object, object]:
    """Give our async fixtures to the plugin that runs the test.

    Each gets a function of the kind that it, and not the other, sets up, so that it does
    not matter which of the two is asked first.
    """
    original = getattr(fixturedef.func, _ORIGINAL, None)
    if original is None:
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        if "anyio_backend" in request.fixturenames:
            patch.setattr(fixturedef, "func", original)
        elif _runs_pytest_asyncio(request.config):
            patch.setattr(fixturedef, "func", _for_pytest_asyncio(original))
        return (yield)


def _runs_pytest_asyncio(config: pytest.Config) -> bool:
    plugin = sys.modules.get("pytest_asyncio.plugin")
    return plugin is not None and config.pluginmanager.is_registered(plugin)


def _for_pytest_asyncio(
    function: Callable[..., AsyncGenerator[Any]],
) -> Callable[..., AsyncGenerator[Any]]:
    import pytest_asyncio

    fixture = _in_one_task(function)
    pytest_asyncio.fixture(fixture)  # which marks the function
    return fixture


def _in_one_task(
    function: Callable[..., AsyncGenerator[Any]],
) -> Callable[..., AsyncGenerator[Any]]:
    """Return an async generator function whose body never changes its task."""

    @functools.wraps(function)
    async def fixture(**arguments: Any) -> AsyncGenerator[Any]:
        from anyio import Event
        from anyio.lowlevel import current_token

        entered, leaving = Event(), Event()
        values: list[Any] = []

        async def hold() -> None:
            try:
                async with asynccontextmanager(function)(**arguments) as value:
                    values.append(value)
                    entered.set()
                    await leaving.wait()
            finally:
                entered.set()

        # The loop itself is asked, since a task group would have to be left where it was
        # entered. The token is anyio's public name for that loop.
        loop: Any = current_token().native_token
        context = copy_context()
        task = loop.create_task(hold(), context=context)
        await entered.wait()
        try:
            for value in values:  # none, if it failed before its `yield`
                _adopt(context)
                yield value
        finally:
            leaving.set()
            await task

    return fixture


def _adopt(context: Context) -> None:
    """Set here what was set in another context."""
    here = copy_context()
    for variable, value in context.items():
        if variable not in here or here[variable] is not value:
            variable.set(value)
